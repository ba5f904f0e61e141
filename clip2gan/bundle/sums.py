"""Sums of files, remembered in the user's cache: a model's files are hashed once, not at every start.

A file is hashed again as soon as its place, inode, size, or time of change differ. Of the times it is ctime
that counts: the system sets it at every change, and no program can set it back, as it can mtime. A file that
changed moments ago is not remembered at all, because a second change could fall into the same tick.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stylegan2.atomic import atomic_path, sweep_file
from stylegan2.checkpoints.download import cache_folder
from stylegan2.files import fingerprint

SETTLED = 3.0  # seconds since a file's last change, before which its sum is not remembered
MOST_ENTRIES = 1000  # of each kind; the oldest are forgotten
_SUM = re.compile("[0-9a-f]{64}")


class Sums:
    """What is known of files; nothing is read before the first question, nothing written before `save`.

    A cache that is missing, damaged or not writable costs time, and nothing else.
    """

    def __init__(self, path: Path | None = None):
        """`path` is the cache's file; None takes the user's."""
        self._path = path or cache_folder().with_name("clip2gan") / "sums.json"
        self._files, self._facts = _read(self._path)
        self._changed = False

    def sum_of(self, file: Path) -> str:
        """The sha256 (hex) of a file's bytes."""
        key, state = str(file.resolve()), _state(file)
        known = self._files.get(key)
        if state is not None and known is not None and known[0] == state:
            return known[1]
        total = fingerprint(file)
        if state is not None and state == _state(file) and time.time() - state[-1] / 1e9 > SETTLED:
            self._files.pop(key, None)
            self._files[key] = (state, total)
            self._changed = True
        return total

    def knows(self, fact: str) -> bool:
        """Whether something was found to be so before (see `learn`)."""
        return _key(fact) in self._facts

    def learn(self, fact: str) -> None:
        """Remember that something is so: a sentence that names all it depends on, such as sums of files."""
        self._facts[_key(fact)] = None
        self._changed = True

    def save(self) -> None:
        """Write what is new."""
        sweep_file(self._path)
        if not self._changed:
            return
        files = dict(list(self._files.items())[-MOST_ENTRIES:])
        content = {"files": files, "facts": list(self._facts)[-MOST_ENTRIES:]}
        with contextlib.suppress(OSError), atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        self._changed = False


State = list[int]  # device, inode, size, mtime and ctime [ns]


def _state(file: Path) -> State | None:
    """What changes when a file does; None where the system does not tell."""
    if os.name == "nt":  # where ctime is the time of creation
        return None
    found = file.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _key(fact: str) -> str:
    return hashlib.sha256(fact.encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, tuple[State, str]], dict[str, None]]:
    """The entries of a cache's file that make sense."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, {}
    files, facts = (content.get("files"), content.get("facts")) if isinstance(content, dict) else (None, None)
    known: Mapping[str, Any] = files if isinstance(files, dict) else {}
    sums = {name: (entry[0], entry[1]) for name, entry in known.items() if _is_entry(entry)}
    keys = facts if isinstance(facts, list) else []
    return sums, dict.fromkeys(key for key in keys if isinstance(key, str) and _SUM.fullmatch(key))


def _is_entry(entry: object) -> bool:
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list)):
        return False
    numbers, total = entry
    whole = len(numbers) == 5 and all(isinstance(number, int) for number in numbers)
    return whole and isinstance(total, str) and _SUM.fullmatch(total) is not None

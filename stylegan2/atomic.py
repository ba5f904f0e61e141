"""Files and folders that are written whole or not at all, and what a kill leaves of them."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from stylegan2.faults import check_name_length, name_write_errors
from stylegan2.locks import HeldFile, hold

PART = ".clip2gan-part"  # marks the temporary files and folders of `atomic_path` and `atomic_folder`
_PART = re.compile(rf"\..*-[a-z0-9_]{{8}}{re.escape(PART)}(\..*)?", re.DOTALL)
LONG_AGO = 24 * 3600  # seconds, after which what cannot be locked counts as abandoned


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, remove it on any error.

    Readers therefore see the old file or the whole new one, never a part. The temporary name keeps the
    suffix of `path`, because many writers choose their format by it. What a kill leaves behind, `sweep_file`
    and `sweep_folder` remove.

    Raises OSError that names `path`, the cause and a remedy where it cannot be written.
    """
    path = Path(path)
    with name_write_errors(path):
        check_name_length(path)
        with _temporary_path(path) as temporary:
            yield temporary


@contextlib.contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, in_use = _make_temporary(path, _make_file)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; the result should have the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if in_use is not None:
            in_use.close()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of the one at `path` on success; removed on any error.

    After a kill between the two renamings that this takes, `sweep_file` and `sweep_folder` do the second.
    Raises OSError as `atomic_path` does.
    """
    path = Path(path)
    with name_write_errors(path):
        check_name_length(path)
        with _temporary_folder(path) as folder:
            yield folder


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, in_use = _make_temporary(path, tempfile.mkdtemp)
    new, old = temporary / "new" / path.name, temporary / "old" / path.name
    try:
        new.mkdir(parents=True)
        old.parent.mkdir()
        yield new
        if path.exists():
            path.replace(old)
        new.replace(path)
    finally:
        if old.exists() and not path.exists():  # ended between the two
            old.replace(path)
        shutil.rmtree(temporary, ignore_errors=True)
        if in_use is not None:
            in_use.close()


def sweep_file(path: str | Path) -> None:
    """Remove what a kill has left of writing `path`, a file or a folder. What somebody still writes stays."""
    path = Path(path)
    prefix, suffix = _affixes(path)
    for name in _temporary_names(path.parent):
        if name.startswith(prefix) and len(name) == len(prefix) + 8 + len(suffix) and name.endswith(suffix):
            _remove_abandoned(path.parent / name)


def sweep_folder(path: str | Path, deep: bool = False) -> None:
    """Remove what a kill has left of writing the files in a folder, and in those inside it if `deep`.

    Only what has the names of `atomic_path` and `atomic_folder`, and that nobody writes any more.
    """
    for folder, folders, _ in os.walk(path):  # follows no links, and passes over what cannot be read
        for name in _temporary_names(Path(folder)):
            _remove_abandoned(Path(folder, name))
        folders[:] = [name for name in folders if deep and not _PART.fullmatch(name)]


def _affixes(path: Path) -> tuple[str, str]:
    return f".{path.stem[:40]}-", f"{PART}{path.suffix}"


def _make_temporary(path: Path, make: Callable[[str, str, Path], str]) -> tuple[Path, HeldFile | None]:
    """A new file or folder beside `path`, locked so that `sweep_file` sees that its writer is alive."""
    prefix, suffix = _affixes(path)
    while True:
        temporary = Path(make(suffix, prefix, path.parent))
        try:
            in_use = hold(temporary)
        except FileNotFoundError:
            continue  # swept in the moment before it was locked
        except OSError:  # there are no such locks here
            return temporary, None
        if in_use is not None:  # else it is just being swept
            if in_use.is_at(temporary):
                return temporary, in_use
            in_use.close()


def _make_file(suffix: str, prefix: str, folder: Path) -> str:
    handle, name = tempfile.mkstemp(suffix, prefix, folder)
    os.close(handle)
    return name


def _temporary_names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _PART.fullmatch(name)]
    except OSError:
        return []


def _remove_abandoned(temporary: Path) -> None:
    """Remove a temporary file or folder, unless somebody writes it."""
    if temporary.is_symlink():  # ours never are
        return
    with contextlib.suppress(OSError):
        try:
            if (held := hold(temporary)) is None:
                return
        except OSError:  # it cannot be locked here, so its age must tell
            if time.time() - temporary.stat().st_mtime < LONG_AGO:
                return
            held = None
        try:
            if temporary.is_dir():
                _finish_replacing(temporary)
                shutil.rmtree(temporary)
            else:
                temporary.unlink()
        finally:
            if held is not None:
                held.close()


def _finish_replacing(temporary: Path) -> None:
    """Do the second renaming of `atomic_folder`, if a kill came between the two."""
    for old in (temporary / "old").iterdir() if (temporary / "old").is_dir() else ():
        if not (target := temporary.parent / old.name).exists():
            (temporary / "new" / old.name).replace(target)

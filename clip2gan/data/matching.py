"""Which picture a caption file means: by its path, or by as much of the path's end as tells pictures apart.

Paths are compared in one form: composed letters (NFC; macOS writes them decomposed), "/" between folders, no
"./" and no drive. A path that is no picture's may still end like one: collections are moved, and captions
keep the paths of another machine. An ending says which picture is meant where one picture alone has it, and
where no two paths of the caption files have it either: a caption of `train/0.jpg` is none of `val/0.jpg`.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

WHOLE, ENDING, BASE = "by their path", "by the end of their path", "by their file name alone"
Parts = tuple[str, ...]
MOST_PARTS = 64


def parts_of(path: str) -> Parts:
    """The folders and the file of a path in the one form; ".." takes a folder away where there is one."""
    parts: list[str] = []
    for part in unicodedata.normalize("NFC", path).replace("\\", "/").split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", "..") and not (len(part) == 2 and part[1] == ":" and not parts):
            parts.append(part)
    return tuple(parts[-MOST_PARTS:])


class PictureNames:
    """The pictures' names, and all paths by which caption files name them: `add` each first, then `find`.

    Attributes:
        matched: how many captions were given to pictures, and how (`WHOLE`, `ENDING` or `BASE`).
    """

    def __init__(self, names: Iterable[str]):
        self._names: dict[Parts, list[str]] = defaultdict(list)
        for name in names:
            self._names[parts_of(name)].append(name)
        self._pictures, self._named = _Endings(self._names), _Endings()
        self._stems = {stem for parts in self._names if parts for stem in (parts[-1], _stem(parts[-1]))}
        self._found: dict[tuple[str, str], tuple[str | None, str]] = {}
        self.matched: Counter[str] = Counter()

    def may_describe(self, text_file: str) -> bool:
        """Whether a text file has the name of a picture, in whichever folder: dog.txt, or dog.jpg.txt."""
        parts = parts_of(text_file)
        return bool(parts) and _stem(parts[-1]) in self._stems

    def add(self, path: str, where: str) -> None:
        """A path that the file `where` names."""
        self._named.add(self._whole(path, where) or parts_of(path))

    def find(self, path: str, where: str) -> str | None:
        """The picture meant by a path in the file `where`; None if there is none, or no single one."""
        if (path, where) not in self._found:
            self._found[path, where] = self._find(path, where)
        name, how = self._found[path, where]
        if name is not None:
            self.matched[how] += 1
        return name

    def _find(self, path: str, where: str) -> tuple[str | None, str]:
        whole = self._whole(path, where)
        if whole is not None:
            return self._name(whole, path), WHOLE
        parts = parts_of(path)
        for length in range(len(parts), 0, -1):
            ending = parts[-length:]
            pictures = self._pictures.with_ending(ending)
            if pictures:
                single = len(pictures) == 1 and self._named.is_one(ending)
                return (self._name(pictures[0], path) if single else None), ENDING if length > 1 else BASE
        return None, ""

    def _whole(self, path: str, where: str) -> Parts | None:
        """The picture of the path from the folder of `where`, or from the top; the suffix may be missing."""
        folder = where.rpartition("/")[0]
        both = [parts_of(f"{folder}/{path}"), parts_of(path)]
        for parts in both:
            if parts in self._names:
                return parts
        for parts in both:
            same = [each for each in self._pictures.with_ending(parts) if len(each) == len(parts)]
            if len(same) == 1:
                return same[0]
        return None

    def _name(self, parts: Parts, path: str) -> str | None:
        """Of names that differ in their form alone, the one that is written as `path` is."""
        names = self._names[parts]
        return names[0] if len(names) == 1 else path if path in names else None


class _Endings:
    """Paths by their endings; the last part serves whole and without its suffix."""

    def __init__(self, paths: Iterable[Parts] = ()):
        self._by_file: dict[str, dict[Parts, None]] = defaultdict(dict)
        self._by_ending: dict[tuple[str, int], dict[Parts, list[Parts]]] = {}
        self._is_one: dict[Parts, bool] = {}
        for parts in paths:
            self.add(parts)

    def add(self, parts: Parts) -> None:
        if parts:
            for file in {parts[-1], _stem(parts[-1])}:
                self._by_file[file][parts] = None

    def with_ending(self, ending: Parts) -> list[Parts]:
        """Those that end so; where none has the file's whole name, those that have it but for the suffix."""
        if not ending:
            return []
        file, length = ending[-1], len(ending)
        if (file, length) not in self._by_ending:
            table: dict[Parts, list[Parts]] = defaultdict(list)
            for parts in self._by_file.get(file, ()):
                if len(parts) >= length:
                    table[parts[-length:-1]].append(parts)
            self._by_ending[file, length] = table
        found = self._by_ending[file, length].get(ending[:-1], [])
        return [parts for parts in found if parts[-1] == file] or found

    def _like(self, ending: Parts) -> list[Parts]:
        """Those that end so, or would with a suffix more or less."""
        stem, file = _stem(ending[-1]), ending[-1]
        self.with_ending((*ending[:-1], stem))
        found = self._by_ending[stem, len(ending)].get(ending[:-1], [])
        return [parts for parts in found if parts[-1] in (file, stem) or file == stem]

    def is_one(self, ending: Parts) -> bool:
        """Whether all that end so may be one path, written from different folders on."""
        if ending not in self._is_one:
            found = self._like(ending)
            longest = max(found, key=len, default=())
            self._is_one[ending] = all(longest[-len(parts) : -1] == parts[:-1] for parts in found)
        return self._is_one[ending]


def _stem(file: str) -> str:
    return PurePosixPath(file).stem

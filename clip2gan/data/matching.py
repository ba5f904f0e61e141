"""Which picture a caption is about, by what the file of captions calls it.

Files of captions come from other machines, with other folders and another spelling of the same letters, and
often only a part of their pictures is at hand. So names are compared in one normal form, whole paths first
and then by their ends, and a picture is found only where no other path can be meant by it: a caption that is
lost is counted and can be found again, one that is given to the wrong picture cannot.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from clip2gan.images.formats import HEIC_SUFFIXES, picture_suffixes

WHOLE, ENDING, BASE = "by their path", "by the end of their path", "by their file name alone"
Parts = tuple[str, ...]


@dataclass(slots=True, eq=False)
class Claim:
    """A picture as a file of captions calls it, with the captions that it is given there.

    Attributes:
        path: as it is written.
        where: the file that says so.
        is_pair: whether that file is named after the picture, rather than lists pictures.
        texts: the captions.
        picture: the picture's name, once `Claims.settle` has found one.
        how: by what it was found: `WHOLE`, `ENDING` or `BASE`.
    """

    path: str
    where: str
    is_pair: bool
    folders: Parts
    stem: str
    texts: list[str] = field(default_factory=list)
    picture: str | None = None
    how: str = ""
    index: int = -1
    shared: int = 0

    @property
    def is_exact(self) -> bool:
        return self.how == WHOLE

    @property
    def is_absolute(self) -> bool:
        """Whether the path begins at the root of some machine."""
        return self.path[:1] in ("/", "\\") or self.path[1:2] == ":"


class Claims:
    """All paths that captions name, matched with the pictures that there are.

    A path's picture is the one of that whole path (from the file's own folder, or from the top). Else it is
    the one picture that shares the longest end of the path; the suffix need not agree. That does not serve
    where several pictures share as much, where another path has as good a claim to the same picture, or where
    the picture's folder is known to the captions under another name.

    Example:
        >>> claims = Claims(["val/0.jpg", "val/1.jpg"])
        >>> found = [claims.add(path, "list.csv") for path in ("train/0.jpg", "C:\\\\set\\\\val\\\\0.jpg")]
        >>> claims.settle()
        >>> [claim.picture for claim in found]
        [None, 'val/0.jpg']
    """

    def __init__(self, names: Iterable[str]):
        self._names = list(names)
        self._places = [split_path(name) for name in self._names]
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        for index, (_, stem) in enumerate(self._places):
            self._by_stem[stem].append(index)
        self._endings: dict[str, dict[Parts, list[int]]] = {}
        self._claims: dict[tuple[str, str], Claim] = {}
        self._unknown: dict[str, set[int]] = defaultdict(set)  # file -> hashes of paths of no picture

    def __iter__(self):
        return iter(self._claims.values())

    def can_mean(self, path: str) -> bool:
        """Whether any picture's name is the last part of `path`, with whatever suffix."""
        return split_path(path)[1] in self._by_stem

    def add(self, path: str, where: str, is_pair: bool = False) -> Claim | None:
        """The claim of `path` in the file `where`; None where no picture can be meant."""
        claim = self._claims.get((path, where))
        if claim is None and hash(path) not in self._unknown[where]:
            folders, stem = split_path(path)
            if stem in self._by_stem:
                claim = self._claims[path, where] = Claim(path, where, is_pair, folders, stem)
            else:
                self._unknown[where].add(hash(path))
        return claim

    def settle(self) -> None:
        """Find the pictures of all claims."""
        for claim in self:
            self._propose(claim)
        _drop_doubtful([claim for claim in self if claim.index >= 0], self._places)
        for claim in self:
            claim.picture = self._names[claim.index] if claim.index >= 0 else None

    def count(self) -> dict[str, tuple[int, int]]:
        """How many paths each file names, and how many of them were found, once they are settled."""
        named: Counter[str] = Counter({where: len(paths) for where, paths in self._unknown.items()})
        found: Counter[str] = Counter()
        for claim in self:
            named[claim.where] += 1
            found[claim.where] += claim.picture is not None
        return {where: (number, found[where]) for where, number in named.items()}

    def _propose(self, claim: Claim) -> None:
        """The picture that shares most of the path, if it is one."""
        top = split_path(claim.where)[0]
        path = claim.path.replace("\\", "/")
        located = split_path("/".join((*top, path)))[0]
        name = path.rpartition("/")[2]
        for index in self._exact(claim, located, name):
            claim.index, claim.shared, claim.how = index, len(self._places[index][0]), WHOLE
            return
        candidates, shared = self._closest(claim.stem, claim.folders)
        index = self._one(candidates, name) or self._one(self._closest(claim.stem, located)[0], name)
        if not index:  # of several, the one in the folder of the captions' file
            index = self._one([i for i in candidates if top and self._places[i][0][: len(top)] == top], name)
        if index:
            claim.index, claim.shared, claim.how = index[0], shared, ENDING if shared else BASE

    def _exact(self, claim: Claim, located: Parts, name: str) -> list[int]:
        """The picture of all the path, if there is one: from the file's own folder before from the top."""
        whole = (claim.folders,) if claim.is_pair else (located, claim.folders)
        same = [
            [index for index in self._ending_in(claim.stem, folders) if self._places[index][0] == folders]
            for folders in whole
        ]
        of_name = [self._of_name(found, name) for found in same]
        return next((found for found in (*of_name, *same) if len(found) == 1), [])

    def _one(self, indices: list[int], name: str) -> list[int]:
        """The only one of these pictures, or the only one of this name and suffix; else empty."""
        found = indices if len(indices) == 1 else self._of_name(indices, name)
        return found if len(found) == 1 else []

    def _of_name(self, indices: list[int], name: str) -> list[int]:
        """Those of these pictures with this name and suffix."""
        name = _composed(name)
        return [index for index in indices if _composed(self._names[index]).rpartition("/")[2] == name]

    def _closest(self, stem: str, folders: Parts) -> tuple[list[int], int]:
        """The pictures of this stem that share most folders at the end, and how many."""
        shared = 0
        while shared < len(folders) and self._ending_in(stem, folders[-shared - 1 :]):
            shared += 1
        return self._ending_in(stem, folders[len(folders) - shared :]), shared

    def _ending_in(self, stem: str, folders: Parts) -> list[int]:
        """The pictures of this stem whose folders end so."""
        if stem not in self._endings:
            endings: dict[Parts, list[int]] = defaultdict(list)
            for index in self._by_stem.get(stem, ()):
                own = self._places[index][0]
                for start in range(len(own) + 1):
                    endings[own[start:]].append(index)
            self._endings[stem] = dict(endings)
        return self._endings[stem].get(folders, [])


def split_path(path: str) -> tuple[Parts, str]:
    """The folders and the stem of a path as they are compared: composed letters, "/", without "." and "..".

    >>> split_path("./a\\\\b/../dog.v2.jpg"), split_path("dog.v2")
    ((('a',), 'dog.v2'), ((), 'dog.v2'))
    """
    parts = resolve(_composed(path).replace("\\", "/").strip().split("/"))
    if not parts:
        return (), ""
    stem, dot, suffix = parts[-1].rpartition(".")
    suffix = f".{suffix.lower()}"
    known = stem and dot and (suffix in picture_suffixes() or suffix in HEIC_SUFFIXES)
    return parts[:-1], stem if known else parts[-1]


def resolve(parts: Iterable[str]) -> Parts:
    """Without empty parts and "."; ".." takes the part before it away."""
    found: list[str] = []
    for part in parts:
        if part == "..":
            del found[-1:]
        elif part not in ("", "."):
            found.append(part)
    return tuple(found)


def _drop_doubtful(claims: list[Claim], places: list[tuple[Parts, str]]) -> None:
    """Take their pictures from the claims that another claim speaks against."""
    most_shared: dict[Parts, int] = defaultdict(int)  # how much of a picture's folder captions know
    by_picture: dict[int, list[Claim]] = defaultdict(list)
    for claim in claims:
        folder = places[claim.index][0]
        most_shared[folder] = max(most_shared[folder], claim.shared)
        by_picture[claim.index].append(claim)
    for index, rivals in by_picture.items():
        folder = places[index][0]
        doubtful = _contested(rivals) if len(rivals) > 1 else set()
        # Files that name it by its own path, and so by no other.
        listed = {claim.where for claim in rivals if claim.is_exact}
        in_place = any(claim.is_exact and claim.folders != folder for claim in rivals)
        for claim in rivals:
            if claim.is_exact:
                continue
            another_folder = claim.shared < min(len(claim.folders), len(folder))
            if (
                id(claim) in doubtful
                or (another_folder and most_shared[folder] > claim.shared)
                or (claim.where in listed and not claim.is_absolute)
                or (in_place and not _lies_above(claim.where, folder))
            ):
                claim.index = -1


def _contested(rivals: list[Claim]) -> set[int]:
    """The ids of the claims to one picture that a different path contests which shares as much or more.

    Two paths are not different where one is the end of the other.
    """
    contested: set[int] = set()
    ends: Counter[Parts] = Counter()
    paths: Counter[Parts] = Counter()
    total = 0
    by_shared: dict[int, list[Claim]] = defaultdict(list)
    for claim in rivals:
        by_shared[claim.shared].append(claim)
    for shared in sorted(by_shared, reverse=True):
        for claim in by_shared[shared]:
            total += 1
            paths[claim.folders] += 1
            for start in range(len(claim.folders) + 1):
                ends[claim.folders[start:]] += 1
        for claim in by_shared[shared]:
            longer = ends[claim.folders]
            shorter = sum(paths[claim.folders[start:]] for start in range(1, len(claim.folders) + 1))
            if longer + shorter < total:
                contested.add(id(claim))
    return contested


def _lies_above(file: str, folder: Parts) -> bool:
    """Whether a file's own folder is `folder` or one above it."""
    top = split_path(file)[0]
    return folder[: len(top)] == top


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)

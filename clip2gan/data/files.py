"""Where data lie: a folder, a zip, or tar shards as webdataset writes them, all read the same way.

Nothing is unpacked, and any file can be read at any time: a training shuffles pictures and goes on in the
middle, for which a stream would not do.
"""

import glob
import math
import os
import re
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from clip2gan.images.formats import HEAD, TEXT_SUFFIXES, is_hidden, is_picture, suffix_of

FILE_LIMIT = 256 << 20  # bytes of one file; a zip's member may claim to be anything
SHARD_COMPANIONS = frozenset({".parquet", ".json", ".txt", ".csv", ".tsv", ".idx", ".index"})
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
# Of other ways to compress, Python's zipfile unpacks a part whole, however little of it is asked for.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Texts and pictures shrink by less; a zip of a few kilobytes could hold gigabytes.
MOST_SHRUNK, SMALL = 200, 8 << 20  # times, of members of more bytes than this
MOST_SHARDS = 100_000
_TOO_MUCH = (RecursionError, OverflowError, MemoryError)  # what damaged headers ask of tarfile
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass
class Files(ABC):
    """Named bytes. Several threads and processes may read at once; pickled, it is opened anew on use.

    Attributes:
        source: where they lie, as it was given.
        names: relative paths, sorted within a folder, without hidden ones.
        hidden: how many files and folders were left out as hidden.
    """

    source: str
    names: list[str]
    hidden: int = 0

    @abstractmethod
    def read(self, name: str, limit: int = FILE_LIMIT) -> bytes:
        """A file's bytes. Raises OSError or ValueError where it is damaged or larger than `limit`."""

    @abstractmethod
    def head(self, name: str, size: int = HEAD) -> bytes:
        """Its first bytes; raises what `read` raises."""

    @abstractmethod
    def signature(self, name: str) -> str:
        """Another one where the file's content is another: from its size and time or checksum, unread."""

    @cached_property
    def pictures(self) -> list[str]:
        """The names of the pictures, sorted: by suffix, by their first bytes where that tells nothing."""
        return sorted(
            name for name in self.names if is_picture(name, lambda name=name: self._safe_head(name))
        )

    @cached_property
    def left_out(self) -> list[str]:
        """The names of the files that are neither pictures nor such as captions and labels lie in."""
        pictures = set(self.pictures)
        known = {*TEXT_SUFFIXES, ".safetensors"}
        return [name for name in self.names if name not in pictures and suffix_of(name) not in known]

    def _safe_head(self, name: str) -> bytes:
        try:
            return self.head(name)
        except (OSError, ValueError):
            return b""


@dataclass
class FolderFiles(Files):
    """The files of a folder and its subfolders."""

    folder: Path = field(default_factory=Path)

    def read(self, name: str, limit: int = FILE_LIMIT) -> bytes:
        path = self.folder / name
        check_size(path.stat().st_size, limit)
        return path.read_bytes()

    def head(self, name: str, size: int = HEAD) -> bytes:
        with (self.folder / name).open("rb") as file:
            return file.read(size)

    def signature(self, name: str) -> str:
        found = (self.folder / name).stat()
        return f"{found.st_size} {found.st_mtime_ns}"


@dataclass
class ZipFiles(Files):
    """The members of a zip."""

    path: Path = field(default_factory=Path)

    def read(self, name: str, limit: int = FILE_LIMIT) -> bytes:
        found = self._member(name)
        size = found.file_size
        check_size(size, limit)
        if size > max(SMALL, MOST_SHRUNK * found.compress_size):
            raise ValueError(f"unpacks to more than {MOST_SHRUNK} times its size; zip it again, less densely")
        return self._read(name, size)

    def head(self, name: str, size: int = HEAD) -> bytes:
        return self._read(name, size)

    def signature(self, name: str) -> str:
        found = self._archive.getinfo(name)
        return f"{found.file_size} {found.CRC:08x}"

    def _read(self, name: str, size: int) -> bytes:
        """At most `size` bytes, and no more are unpacked: what a zip says of its members may be wrong."""
        member = self._member(name)
        try:
            with self._archive.open(member) as file:
                return file.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(" ".join(str(error).split()) or "damaged") from error

    def _member(self, name: str) -> zipfile.ZipInfo:
        found = self._archive.getinfo(name)
        if found.compress_type not in ZIP_METHODS:
            raise ValueError("compressed in a way that is rare in zips; zip it again")
        return found

    @property
    def _archive(self) -> zipfile.ZipFile:
        """Of this process: a file's position is shared with the process that it was forked from."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self.path)
        return self._opened[1]

    def __post_init__(self) -> None:
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}


@dataclass
class TarFiles(Files):
    """The members of uncompressed tars."""

    places: dict[str, tuple[Path, int, int]] = field(
        default_factory=dict
    )  # shard, where in it, how many bytes

    def read(self, name: str, limit: int = FILE_LIMIT) -> bytes:
        check_size(self.places[name][2], limit)
        return self._read(name, self.places[name][2])

    def head(self, name: str, size: int = HEAD) -> bytes:
        return self._read(name, min(size, self.places[name][2]))

    def signature(self, name: str) -> str:
        shard, offset, size = self.places[name]
        return f"{offset} {size} {self._times[shard]}"

    @cached_property
    def _times(self) -> dict[Path, int]:
        return {shard: shard.stat().st_mtime_ns for shard in {place[0] for place in self.places.values()}}

    def _read(self, name: str, size: int) -> bytes:
        shard, offset, _ = self.places[name]
        with shard.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ValueError("cut off")
        return data


def open_files(source: str | Path) -> Files:
    """The files of a folder (with its subfolders), a zip, a tar, or shards as pics-{0000..0009}.tar or *.tar.

    A folder of tars without pictures beside them is read as shards, as img2dataset leaves it. Files of
    several shards are named SHARD/NAME. Linked folders are followed, each one once; hidden files left out.

    Raises:
        FileNotFoundError: nothing is at `source`.
        ValueError: `source` is nothing of these, or damaged.
    """
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if path.name.lower().endswith(COMPRESSED_TARS) and path.exists():
        raise ValueError(
            f"{source}: pictures are read from uncompressed tars only; unpack it to a .tar or folder"
        )
    if path.is_file():
        return _open_shards(str(source), [path]) if suffix_of(path.name) == ".tar" else _open_zip(path)
    if _RANGE.search(str(source)):
        return _open_shards(str(source), [Path(name) for name in expand(str(source))])
    if found := sorted(glob.glob(str(source))):
        return _open_shards(str(source), [Path(name) for name in found])
    if path.exists():
        raise ValueError(f"{source}: neither a folder nor a zip nor a tar of pictures")
    raise FileNotFoundError(f"{source}: no such folder or zip or tar")


def expand(pattern: str) -> list[str]:
    """The names that a range in braces stands for.

    >>> expand("pics-{08..10}.tar")
    ['pics-08.tar', 'pics-09.tar', 'pics-10.tar']
    """
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    counts = [int(last) - int(first) + 1 for first, last in _RANGE.findall(pattern)]
    if math.prod(counts) > MOST_SHARDS:
        raise ValueError(f"{pattern}: more than {MOST_SHARDS:,} shards")
    first, last = match.groups()
    width = len(first)
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in expand(f"{pattern[: match.start()]}{number:0{width}d}{pattern[match.end() :]}")
    ]


def check_size(size: int, limit: int = FILE_LIMIT) -> None:
    """Raise ValueError for a file that is too large to be what it should be."""
    if size > limit:
        raise ValueError(f"larger than {limit >> 20} MB")


def _open_folder(folder: Path) -> Files:
    found = sorted(_walk(folder))
    names = [name for name in found if not is_hidden(name)]
    files = FolderFiles(str(folder), names, len(found) - len(names), folder)
    tars = [name for name in names if suffix_of(name) == ".tar"]
    others = {suffix_of(name) for name in names} - {".tar"}
    if tars and (others <= SHARD_COMPANIONS or not files.pictures):
        return _open_shards(str(folder), [folder / name for name in tars])
    return files


def _walk(folder: Path) -> Iterator[str]:
    """The relative paths of all files, and of hidden folders, into which it does not go.

    Links to folders are followed; each folder is walked once, by its own path where it has one here.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        for top in waiting:
            for place, folders, files in os.walk(top):
                here = os.stat(place)
                if (here.st_dev, here.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((here.st_dev, here.st_ino))
                relative = Path(place).relative_to(folder)
                yield from ((relative / name).as_posix() for name in folders if is_hidden(name))
                folders[:] = [name for name in folders if not is_hidden(name)]
                links += [Path(place, name) for name in folders if Path(place, name).is_symlink()]
                yield from ((relative / name).as_posix() for name in files if Path(place, name).is_file())
        waiting = sorted(links)


def _open_zip(path: Path) -> Files:
    try:
        with zipfile.ZipFile(path) as archive:
            found = list(dict.fromkeys(info.filename for info in archive.infolist() if not info.is_dir()))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: neither a folder nor a readable zip of pictures ({error}); make it again"
        ) from error
    names = [name for name in found if not is_hidden(name)]
    return ZipFiles(str(path), names, len(found) - len(names), path)


def _open_shards(source: str, shards: list[Path]) -> Files:
    places: dict[str, tuple[Path, int, int]] = {}
    hidden = 0
    for shard, prefix in zip(shards, _prefixes(shards), strict=True):
        if not shard.is_file():
            raise FileNotFoundError(f"{shard}: no such shard (of {source})")
        try:
            for member in _members(shard):
                if is_hidden(member.name):
                    hidden += 1
                else:
                    places[prefix + member.name] = shard, member.offset_data, member.size
        except (tarfile.TarError, OSError, ValueError, *_TOO_MUCH) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{shard}: not a readable, uncompressed tar ({reason}); make it again"
            ) from error
    return TarFiles(source, list(places), hidden, places)


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The files of a tar that lie in it as they are, in their order."""
    with tarfile.open(shard, "r:") as archive:
        end = 0
        for member in archive:
            if member.offset_data <= end or member.size < 0:  # some versions of tarfile would go in circles
                raise ValueError("a member of a negative size")
            end = member.offset_data
            if member.isfile() and not member.issparse():
                yield member


def _prefixes(shards: list[Path]) -> list[str]:
    """What stands before the names of each shard's files: its own, with folders where that is not unique."""
    if len(shards) == 1:
        return [""]
    stems = [shard.stem for shard in shards]
    if len(set(stems)) == len(stems):
        return [f"{stem}/" for stem in stems]
    common = os.path.commonpath([shard.parent for shard in shards])
    return [f"{PurePosixPath(os.path.relpath(shard, common)).with_suffix('')}/" for shard in shards]

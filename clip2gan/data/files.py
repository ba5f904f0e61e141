"""Where data lie: a folder, a zip, or tar shards as webdataset writes them, all read the same way.

Nothing is unpacked, and any file can be read at any time: a training shuffles pictures and goes on in the
middle, for which a stream would not do.
"""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FILE_LIMIT = 256 << 20  # bytes of one file; a zip's member may claim to be anything
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Files:
    """Named bytes. Several threads may `read`, which raises OSError or ValueError for a damaged file."""

    source: str
    names: list[str]
    read: Callable[[str], bytes]


def open_files(source: str | Path) -> Files:
    """The files of a folder (with its subfolders), a zip, a tar, or of shards as pics-{0000..0009}.tar.

    A folder of nothing but tars is read as these shards. Files of several shards are named SHARD/NAME.

    Raises:
        FileNotFoundError: nothing is at `source`.
        ValueError: `source` is nothing of these, or damaged.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        if files and all(file.suffix == ".tar" for file in files):
            return _open_shards(str(source), files)
        return _open_folder(path, files)
    if path.is_file():
        return _open_shards(str(source), [path]) if path.suffix == ".tar" else _open_zip(path)
    if _RANGE.search(str(source)):
        return _open_shards(str(source), [Path(name) for name in expand(str(source))])
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
    first, last = match.groups()
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in expand(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")
    ]


def check_size(size: int) -> None:
    """Raise ValueError for a file that is too large to be what it should be."""
    if size > FILE_LIMIT:
        raise ValueError(f"larger than {FILE_LIMIT >> 20} MB")


def _open_folder(folder: Path, files: list[Path]) -> Files:
    def read(name: str) -> bytes:
        check_size((folder / name).stat().st_size)
        return (folder / name).read_bytes()

    return Files(str(folder), [file.relative_to(folder).as_posix() for file in files], read)


def _open_zip(path: Path) -> Files:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: neither a folder nor a readable zip of pictures ({error})") from error

    def read(name: str) -> bytes:
        check_size(archive.getinfo(name).file_size)
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise ValueError(" ".join(str(error).split()) or "damaged") from error

    return Files(str(path), [info.filename for info in archive.infolist() if not info.is_dir()], read)


def _open_shards(source: str, shards: list[Path]) -> Files:
    places: dict[str, tuple[Path, int, int]] = {}  # name -> shard, where in it, how many bytes
    for shard in shards:
        if not shard.is_file():
            raise FileNotFoundError(f"{shard}: no such shard (of {source})")
        prefix = f"{shard.stem}/" if len(shards) > 1 else ""
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if member.isfile():
                        places[prefix + member.name] = shard, member.offset_data, member.size
        except (tarfile.TarError, OSError) as error:
            raise ValueError(f"{shard}: not a readable, uncompressed tar ({error}); make it again") from error

    def read(name: str) -> bytes:
        shard, offset, size = places[name]
        check_size(size)
        with shard.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ValueError("cut off")
        return data

    return Files(source, list(places), read)

"""What pickles come wrapped in: nothing, or PyTorch's two layouts of `torch.save`.

Zip (since 1.6): `NAME/data.pkl`, and each storage, uncompressed, as `NAME/data/KEY`.
Older: four pickles (a magic number, a version, facts about the machine, the object), a fifth with the
storages' keys in order, then each storage as its number of elements (int64) and its bytes.
"""

import mmap
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from stylegan2.checkpoints import pickles
from stylegan2.checkpoints.pickles import CheckpointError, Record, Value
from stylegan2.checkpoints.storages import itemsize, storage_key

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
MAX_ENTRIES = 100_000
HEAD = 512  # bytes that show what a file is
ZIP_START = b"PK\x03\x04"


def check_head(head: bytes) -> Literal["safetensors", "pickle"]:
    """What a file is that begins so; a pickle may be in a zip.

    Raises CheckpointError for anything else, by name for what often arrives in the place of a checkpoint.
    """
    # safetensors: the length of a JSON object, which may begin with any byte, and the object.
    if len(head) > 8 and int.from_bytes(head[:8], "little") < 2**27 and head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"\x80", ZIP_START)):
        return "pickle"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<script")):
        raise CheckpointError(
            "a web page in the place of the file (often a login or quota page); fetch the file itself"
        )
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError("a Git LFS pointer, not the file it stands for; run git lfs pull")
    if head.startswith((b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"Rar!")):
        raise CheckpointError("a compressed archive; unpack it and give the checkpoint in it")
    raise CheckpointError("none of the formats known here (safetensors, NVIDIA .pkl, rosinality .pt)")


def map_file(path: Path) -> memoryview:
    """The bytes of a file, read from disk only where they are looked at. Raises OSError, and
    CheckpointError for an empty file."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise CheckpointError("the file is empty; get it again")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_root(data: memoryview, allowed: Collection[str]) -> tuple[Value, dict[str, memoryview]]:
    """(object, storages beside it) of a plain pickle or of either layout of `torch.save`.

    Raises CheckpointError.
    """
    if data[:4] == ZIP_START:
        return _read_zip(data, allowed)
    root, _ = pickles.load(data, allowed)
    if root == LEGACY_MAGIC:
        return read_legacy(data, allowed)
    return root, {}


def read_legacy(
    data: memoryview, allowed: Collection[str], operations: int = pickles.MAX_OPERATIONS
) -> tuple[Value, dict[str, memoryview]]:
    """(object, storages) of the older layout, with a limit on each pickle in it. Raises CheckpointError."""
    position, parts = 0, []
    references: list[Record] = []
    for _ in range(5):
        part, position = pickles.load(data, allowed, position, references, operations)
        parts.append(part)
    magic, version, machine, root, keys = parts
    if (magic, version) != (LEGACY_MAGIC, LEGACY_VERSION) or not isinstance(machine, dict):
        raise CheckpointError("not a file of torch.save; get it again")
    if machine.get("little_endian") is not True:
        raise CheckpointError("written on a big-endian machine; not read here")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("no list of storages; get the file again")
    sizes = {key: itemsize(dtype) for key, dtype in map(storage_key, references)}
    storages: dict[str, memoryview] = {}
    for key in keys:
        if key not in sizes:
            raise CheckpointError(f"a storage {key!a:.40} that no tensor uses")
        if position + 8 > len(data):
            raise CheckpointError("ends early; get it again")
        (count,) = struct.unpack_from("<q", data, position)
        start, position = position + 8, position + 8 + count * sizes[key]
        if count < 0 or position > len(data):
            raise CheckpointError(f"ends early: a storage of {count:,} numbers at byte {start}; get it again")
        storages[key] = data[start:position]
    return root, storages


def _read_zip(data: memoryview, allowed: Collection[str]) -> tuple[Value, dict[str, memoryview]]:
    entries = _zip_entries(data)
    pickled = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickled) != 1:
        raise CheckpointError("a zip archive without the one data.pkl of torch.save; not a checkpoint")
    folder = pickled[0].removesuffix("data.pkl")
    if bytes(entries.get(f"{folder}byteorder", b"little")) != b"little":
        raise CheckpointError("written on a big-endian machine; not read here")
    root, _ = pickles.load(entries[pickled[0]], allowed)
    prefix = f"{folder}data/"
    return root, {
        name.removeprefix(prefix): part for name, part in entries.items() if name.startswith(prefix)
    }


def is_script(data: memoryview) -> bool:
    """Whether a file is a TorchScript archive: torch.jit.save's zip, with its classes' sources in it.

    Raises CheckpointError for a damaged zip.
    """
    if data[:4] != ZIP_START:
        return False
    return any(name.endswith("/constants.pkl") and name.count("/") == 1 for name in _zip_entries(data))


def _zip_entries(data: memoryview) -> dict[str, memoryview]:
    """name -> bytes of a zip's entries, all of which must be stored as they are (as torch.save does).

    Names are keys of a dict here and nothing else. Raises CheckpointError.
    """
    try:
        return dict(_walk_zip(data))
    except (struct.error, IndexError, OverflowError) as error:
        raise CheckpointError("damaged zip archive; get it again") from error


def _walk_zip(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    # The records of the format (APPNOTE.TXT, 4.3): end, its 64-bit variant and that one's locator; then the
    # directory's entries, and before each entry's bytes a header that repeats its name.
    tail = bytes(data[-65_557:])
    found = tail.rfind(b"PK\x05\x06")
    if found < 0:
        raise CheckpointError("a zip archive without its end; the file is not whole, get it again")
    end = len(data) - len(tail) + found
    count, _, position = struct.unpack_from("<HII", data, end + 10)
    if end >= 20 and data[end - 20 : end - 16] == b"PK\x06\x07":
        (end64,) = struct.unpack_from("<Q", data, end - 12)
        count, _, position = struct.unpack_from("<QQQ", data, end64 + 32)
    if count > MAX_ENTRIES:
        raise CheckpointError(f"a zip archive of {count:,} entries; no checkpoint has so many")
    bytes_left = len(data)
    for _ in range(count):
        fields = struct.unpack_from("<4s4xHH4x4xIIHHH8xI", data, position)
        signature, flags, method, packed, size, name_length, extra_length, comment_length, header = fields
        name_start = position + 46
        extra_start = name_start + name_length
        name = bytes(data[name_start:extra_start]).decode("utf-8", "replace")
        if signature != b"PK\x01\x02":
            raise CheckpointError("damaged zip archive; get it again")
        position = extra_start + extra_length + comment_length
        if name.count("/") > 1 and name.split("/")[1] == "code":
            continue  # the sources of a TorchScript archive, compressed, which nothing here reads
        wide = [value == 0xFFFFFFFF for value in (size, packed, header)]
        if any(wide):
            values = iter(_zip64_values(data[extra_start : extra_start + extra_length], sum(wide)))
            size, packed, header = (
                next(values) if is_wide else value
                for is_wide, value in zip(wide, (size, packed, header), strict=True)
            )
        if method != 0 or flags & 1 or packed != size:
            raise CheckpointError("a compressed or encrypted zip archive; torch.save writes neither")
        own_signature, own_name, own_extra = struct.unpack_from("<4s22xHH", data, header)
        start = header + 30 + own_name + own_extra
        bytes_left -= size
        if own_signature != ZIP_START or start + size > len(data) or bytes_left < 0:  # entries that overlap
            raise CheckpointError("damaged zip archive; get it again")
        yield name, data[start : start + size]


def _zip64_values(extra: memoryview, count: int) -> tuple[int, ...]:
    position = 0
    while position < len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            return struct.unpack_from(f"<{count}Q", extra, position + 4)
        position += 4 + length
    raise IndexError

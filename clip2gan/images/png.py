"""PNG's chunks: a picture without what it carries besides, and the text and profile that it carries.

Pillow refuses a PNG with more than a megabyte of text or profile, and reads the rest of what it carries into
memory whole. Here a picture is handed to it without either; what is wanted of them is read within limits.
"""

import io
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE = 8 << 20  # bytes of a colour profile; those of presses have up to four million
MAX_EXIF = 1 << 20
MAX_TEXT = 16 << 20  # bytes of one text that is asked for
MAX_CHUNKS = 200_000  # libpng's own writer makes 37,500 of 300 MB

_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
# Text in which programs keep the EXIF data, and so how the camera was held.
_EXIF_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_MAX_EXIF_TEXT = 1 << 20  # Pillow's own limit


@dataclass(frozen=True)
class Chunk:
    """Where a chunk's data lie in the file, and how many bytes they have."""

    kind: bytes
    start: int
    size: int


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of a PNG in their order, up to IEND or the end of the file. The last one may be cut off.

    Raises ValueError where there are more than a PNG needs.
    """
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        chunk = Chunk(head[4:], position + 8, int.from_bytes(head[:4], "big"))
        yield chunk
        if chunk.kind == b"IEND":
            return
        position = chunk.start + chunk.size + 4  # after the checksum
    raise ValueError(f"a PNG of more than {MAX_CHUNKS:,} pieces; save it again")


def open_bare(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """The same PNG with nothing but what decides its pixels, for Pillow; and its colour profile, if any.

    A profile that is too large or damaged is returned as b"": there is one, but it cannot be used.
    """
    kept: list[tuple[int, int]] = [(0, len(SIGNATURE))]
    profile: bytes | None = None
    for chunk in chunks(file):
        if chunk.kind == b"iCCP" and profile is None:
            profile = _profile(file, chunk)
        keep = chunk.kind in _PIXELS or (chunk.kind == b"eXIf" and chunk.size <= MAX_EXIF)
        if keep or (chunk.kind in (b"tEXt", b"zTXt", b"iTXt") and _is_exif(file, chunk)):
            start, stop = chunk.start - 8, chunk.start + chunk.size + 4
            if kept[-1][1] == start:
                kept[-1] = (kept[-1][0], stop)
            else:
                kept.append((start, stop))
    return io.BufferedReader(_Pieces(file, kept)), profile


def read_text(file: BinaryIO, keyword: str) -> str | None:
    """The text under a keyword, wherever it stands in the PNG, or None.

    Raises ValueError where it is damaged or larger than 16 MB.
    """
    for chunk in chunks(file):
        if chunk.kind not in (b"tEXt", b"zTXt", b"iTXt") or _keyword(file, chunk) != keyword.encode():
            continue
        if chunk.size > MAX_TEXT:
            raise ValueError(f"its text {keyword!r} is larger than {MAX_TEXT >> 20} MB")
        text = _text(chunk.kind, _read(file, chunk), MAX_TEXT)
        if text is None:
            raise ValueError(f"its text {keyword!r} is damaged or larger than {MAX_TEXT >> 20} MB")
        return text
    return None


def _profile(file: BinaryIO, chunk: Chunk) -> bytes:
    if chunk.size > MAX_PROFILE:
        return b""
    _, separator, rest = _read(file, chunk).partition(b"\0")
    return (_inflate(rest[1:], MAX_PROFILE) or b"") if separator and rest[:1] == b"\0" else b""


def _is_exif(file: BinaryIO, chunk: Chunk) -> bool:
    """Whether a text holds EXIF data, and within Pillow's limit."""
    if chunk.size > _MAX_EXIF_TEXT or _keyword(file, chunk) not in _EXIF_TEXTS:
        return False
    return _text(chunk.kind, _read(file, chunk), _MAX_EXIF_TEXT) is not None


def _keyword(file: BinaryIO, chunk: Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(min(80, chunk.size)).partition(b"\0")[0]


def _read(file: BinaryIO, chunk: Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(chunk.size)


def _text(kind: bytes, data: bytes, limit: int) -> str | None:
    """A text chunk's text of at most `limit` bytes, None for what is damaged or longer."""
    _, separator, rest = data.partition(b"\0")
    if not separator:
        return None
    if kind == b"tEXt":
        return rest.decode("latin-1")
    compressed, encoding = rest[:1] == b"\0", "latin-1"
    content = rest[1:]
    if kind == b"iTXt":
        match = re.match(rb"([\0\1])\0[^\0]*\0[^\0]*\0", rest, re.DOTALL)
        if match is None:
            return None
        compressed, encoding, content = match[1] == b"\1", "utf-8", rest[match.end() :]
    if compressed:
        found = _inflate(content, limit)
        if found is None:
            return None
        content = found
    return content.decode(encoding, "replace")


def _inflate(data: bytes, limit: int) -> bytes | None:
    """What `data` (zlib) holds, if that is whole and at most `limit` bytes; None otherwise."""
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(data, limit + 1)
    except zlib.error:
        return None
    return found if decompressor.eof and len(found) <= limit else None


class _Pieces(io.RawIOBase):
    """A file made of pieces (start, stop) of another, without a copy of them."""

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]]):
        super().__init__()
        self._file = file
        self._pieces: list[tuple[int, int, int]] = []  # where each begins here, and its start and stop there
        self._size = self._position = 0
        for start, stop in pieces:
            self._pieces.append((self._size, start, stop))
            self._size += stop - start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer) -> int:
        at = self._find()
        if at is None:
            return 0
        begin, start, stop = self._pieces[at]
        offset = self._position - begin
        self._file.seek(start + offset)
        data = self._file.read(min(len(buffer), stop - start - offset))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _find(self) -> int | None:
        """The piece that holds the position."""
        if self._position >= self._size:
            return None
        return bisect_right(self._pieces, self._position, key=lambda piece: piece[0]) - 1

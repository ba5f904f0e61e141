"""Lines of text files, as editors and other tools count them."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

LARGEST_LIST = 8 << 20  # bytes of a file with a text in each line
_PIECE = 1 << 20  # bytes that are decoded at once


def split_lines(text: str) -> list[str]:
    """The lines of `text`, without their ends, which are "\\n", "\\r\\n" and "\\r" alone.

    `str.splitlines` would also end a line at a form feed or U+2028, which may stand within a caption.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def iter_lines(data: bytes) -> Iterator[str]:
    """The lines of a UTF-8 file's bytes, as `split_lines` has them; the text is never held as a whole.

    Raises UnicodeDecodeError, before the first line, where it is no UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _PIECE):
        decoder.decode(data[start : start + _PIECE])
    decoder.decode(b"", final=True)
    return (line.removesuffix("\n") for line in io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=None))


def check_text(text: str) -> None:
    """Raise ValueError for what UTF-8 cannot express: bytes of another encoding, or half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!a:.80} is not a text in UTF-8") from None


def read_texts(file: "Path | Traversable") -> list[str]:
    """The texts of a file that has one in each line; empty lines do not count.

    Raises FileNotFoundError; ValueError where it is no UTF-8, has no text, or is larger than any such list.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of texts")
    with file.open("rb") as stream:
        data = stream.read(LARGEST_LIST + 1)
    if len(data) > LARGEST_LIST:
        raise ValueError(f"{file} is larger than {LARGEST_LIST >> 20} MB; give a shorter list of texts")
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file in UTF-8; give one text a line") from None
    texts = [line.strip() for line in split_lines(content) if line.strip()]
    if not texts:
        raise ValueError(f"{file} has no text in it; give one text a line")
    return texts

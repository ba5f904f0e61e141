"""Lines of text files, as editors and other tools count them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def split_lines(text: str) -> list[str]:
    """The lines of `text`, without their ends, which are "\\n", "\\r\\n" and "\\r" alone.

    `str.splitlines` would also end a line at a form feed or U+2028, which may stand within a caption.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def read_texts(file: "Path | Traversable") -> list[str]:
    """The texts of a file that has one in each line; empty lines do not count.

    Raises FileNotFoundError; ValueError where it is no UTF-8, or has no text.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of texts")
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file in UTF-8; give one text a line") from None
    texts = [line.strip() for line in split_lines(content) if line.strip()]
    if not texts:
        raise ValueError(f"{file} has no text in it; give one text a line")
    return texts

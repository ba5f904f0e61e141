"""Tables of pictures and captions: which cells are which, and their rows."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

from clip2gan.data.records import CAPTION_KEYS, PICTURE_KEYS, plain_key

# "dog.jpg" or "dog.jpg#0", also with a stray number ("dog.jpg.1#0") as Flickr8k has one
_SUFFIXES = "png|jpe?g?|jfif|webp|bmp|gif|tiff?|avif|ppm|tga|jp2|heic"
_CELL = rf"""\s*"?(?P<picture>[^\t,|"\r\n]+\.(?:{_SUFFIXES}))(?:\.\d+)?(?:\#\w+)?"?\s*"""
_PICTURE = re.compile(_CELL, re.IGNORECASE)
_ROW = re.compile(_CELL + r"[\t,|]", re.IGNORECASE)
_ROWS_LOOKED_AT = 10  # to tell whether a file is a table


@dataclass(frozen=True)
class Columns:
    """How a table's rows are read: what parts their cells, and which of them are picture and caption.

    Without a header `names` is 0, and the caption's number may stand before it.
    """

    delimiter: str
    picture: int = 0
    caption: int = 1
    names: int = 0

    @property
    def has_quotes(self) -> bool:
        """Quotes count only with what may stand in captions too."""
        return self.delimiter in ",;"

    def row(self, cells: list[str]) -> tuple[str, str] | None:
        """Picture and caption of a row; None where it names no picture."""
        if self.names:
            # Delimiters in a caption without quotes give more cells than names.
            more = max(0, len(cells) - self.names)
            picture = self.picture + more * (self.picture > self.caption)
            if max(picture, self.caption) >= len(cells):
                return None
            rest = cells[self.caption : self.caption + more + 1]
            found = cells[picture].strip()
            match = _PICTURE.fullmatch(found)
        else:
            rest = cells[1:]
            if len(rest) > 1 and rest[0].strip().isdigit():  # the caption's number
                rest = rest[1:]
            found, match = "", _PICTURE.fullmatch(cells[0]) if cells else None
        picture_name = match["picture"].strip() if match else found
        return (picture_name, self.delimiter.join(rest)) if picture_name else None


def find_columns(lines: list[str]) -> Columns | None:
    """By the header's names, or by the first rows; None for what is no table of captions."""
    filled = [line for line in lines if line.strip()][:_ROWS_LOOKED_AT]
    for delimiter in "\t|,;":
        names = [plain_key(cell) for cell in _cells(filled[0], delimiter)] if filled else []
        places = [
            next((names.index(plain_key(key)) for key in keys if plain_key(key) in names), -1)
            for keys in (PICTURE_KEYS, CAPTION_KEYS)
        ]
        if min(places) >= 0:
            return Columns(delimiter, places[0], places[1], len(names))
    for line in filter(_ROW.match, filled):
        columns = Columns("\t" if "\t" in line else "|" if "|" in line else ",")
        row = columns.row(_cells(line, columns.delimiter))
        # Flickr8k's judgements name a caption after the picture ("dog.jpg<TAB>cat.jpg#2<TAB>1"); CelebA's
        # attributes are numbers.
        if row and any(map(str.isalpha, row[1])) and not _ROW.match(f"{row[1]}\t"):
            return columns
    return None


def quotes_are_sound(lines: list[str], columns: Columns) -> bool:
    """Whether the table can be read as one stream: no quote is left open, and none swallows other rows."""
    if not columns.has_quotes or not any('"' in line for line in lines):
        return True
    try:
        return not any(
            _ROW.match(line)
            for cells in _stream(lines, columns)
            for cell in cells
            if "\n" in cell
            for line in cell.split("\n")[1:]
        )
    except csv.Error:
        return False


def read_rows(
    lines: list[str], columns: Columns, sound: bool
) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """(its first line's number, picture and caption) of each row but the header; None: it names no picture.

    sound: quoted cells may be of several lines; else each line is read by itself, so that a damaged one costs
    no other.
    """
    stream = columns.has_quotes and sound
    rows = _stream(lines, columns) if stream else (_cells(line, columns.delimiter) for line in lines)
    header = bool(columns.names)
    number = 1
    for cells in rows:
        lines_of_row = 1 + sum(cell.count("\n") for cell in cells) if stream else 1
        if any(cell.strip() for cell in cells):
            if not header:
                yield number, columns.row(cells)
            header = False
        number += lines_of_row


def _stream(lines: list[str], columns: Columns) -> Iterator[list[str]]:
    return csv.reader((f"{line}\n" for line in lines), delimiter=columns.delimiter, strict=True)


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter in ",;":
        try:
            return next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            return [cell.strip('"') for cell in line.split(delimiter)]
    return line.split(delimiter)

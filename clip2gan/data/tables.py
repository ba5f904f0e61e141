"""Tables of pictures and captions: which cells are which, and their rows."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

from clip2gan.data.records import CAPTION_KEYS, PICTURE_KEYS, plain_key
from clip2gan.images.formats import HEIC_SUFFIXES, picture_suffixes

_ROWS_LOOKED_AT = 10  # to tell whether a file is a table


@cache
def _cell() -> re.Pattern[str]:
    """A cell such as dog.jpg or dog.jpg#0, also with a stray number (dog.jpg.1#0) as Flickr8k has one."""
    suffixes = "|".join(sorted(re.escape(suffix) for suffix in picture_suffixes() | HEIC_SUFFIXES))
    name = rf"""\s*"?(?P<picture>[^\t,|"\r\n]+(?:{suffixes}))(?:\.\d+)?(?:\#\w+)?"?\s*"""
    return re.compile(rf"{name}(?P<rest>\Z|[\t,|])", re.IGNORECASE)


def _picture_in(cell: str) -> str | None:
    """The picture's file that a cell names, if it names nothing else."""
    match = _cell().match(cell)
    return match["picture"].strip() if match and not match["rest"] else None


def _begins_row(line: str) -> bool:
    match = _cell().match(line)
    return match is not None and bool(match["rest"])


@dataclass(frozen=True)
class Columns:
    """How a table's rows are read: what parts their cells, and which of them are picture and caption.

    Without a header `names` is 0, and the caption's number may stand before it.
    """

    delimiter: str
    picture: int = 0
    caption: int = 1
    names: int = 0

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
            picture_name = _picture_in(found) or found
        else:
            rest = cells[1:]
            if len(rest) > 1 and rest[0].strip().isdigit():  # the caption's number
                rest = rest[1:]
            picture_name = _picture_in(cells[0]) if cells else None
        return (picture_name, self.delimiter.join(rest)) if picture_name else None


def find_columns(lines: Iterable[str]) -> Columns | None:
    """By the header's names, or by the first rows; None for what is no table of captions."""
    filled = list(islice((line for line in lines if line.strip()), _ROWS_LOOKED_AT))
    for delimiter in "\t|,;":
        names = [plain_key(cell) for cell in _cells(filled[0], delimiter)] if filled else []
        places = [
            next((names.index(plain_key(key)) for key in keys if plain_key(key) in names), -1)
            for keys in (PICTURE_KEYS, CAPTION_KEYS)
        ]
        if min(places) >= 0:
            return Columns(delimiter, places[0], places[1], len(names))
    for line in filter(_begins_row, filled):
        columns = Columns("\t" if "\t" in line else "|" if "|" in line else ",")
        row = columns.row(_cells(line, columns.delimiter))
        # Flickr8k's judgements name a caption after the picture ("dog.jpg<TAB>cat.jpg#2<TAB>1"); CelebA's
        # attributes are numbers.
        if row and any(map(str.isalpha, row[1])) and not _begins_row(f"{row[1]}\t"):
            return columns
    return None


def quotes_are_sound(lines: Iterable[str], columns: Columns) -> bool:
    """Whether the table can be read as one stream: no quote is left open, and none swallows other rows."""
    reader = _stream(lines, columns)
    number = 0
    try:
        for cells in reader:
            if reader.line_num > number + 1:
                later = [line for cell in cells if "\n" in cell for line in cell.split("\n")[1:]]
                if any(_begins_row(line) or _names_picture(line, columns) for line in later):
                    return False
            number = reader.line_num
    except csv.Error:
        return False
    return True


def read_rows(
    lines: Iterable[str], columns: Columns, sound: bool
) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """(its first line's number, picture and caption) of each row but the header; None: it names no picture.

    sound: quoted cells may be of several lines; else each line is read by itself, so that a damaged one costs
    no other.
    """
    header = bool(columns.names)
    for number, cells in _numbered(lines, columns, sound):
        if any(cell and not cell.isspace() for cell in cells):
            if not header:
                yield number, columns.row(cells)
            header = False


def _numbered(lines: Iterable[str], columns: Columns, sound: bool) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row, and the number of its first line."""
    if not sound:
        yield from enumerate((_cells(line, columns.delimiter) for line in lines), 1)
        return
    reader = _stream(lines, columns)
    number = 1
    for cells in reader:
        yield number, cells
        number = reader.line_num + 1


def _names_picture(line: str, columns: Columns) -> bool:
    row = columns.row(_cells(line, columns.delimiter))
    return row is not None and _picture_in(row[0]) is not None


def _stream(lines: Iterable[str], columns: Columns):
    return csv.reader((f"{line}\n" for line in lines), delimiter=columns.delimiter, strict=True)


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter in ",;":
        try:
            return next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            return [cell.strip('"') for cell in line.split(delimiter)]
    return line.split(delimiter)

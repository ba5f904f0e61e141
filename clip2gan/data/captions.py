"""Captions beside pictures, in the layouts that captioned datasets come in.

    dataset.json            our own zips: {"pictures": [{"file": ..., "captions": [{"text": ...}]}]}
    *.jsonl                 one object a line: a picture's file and its caption or captions
    captions.txt, *.csv     a table of pictures and captions, as Flickr8k and Flickr30k ship them: with tabs
                            (image.jpg#0<TAB>caption), commas (image,caption) or bars (image| 0| caption).
                            Where a header names the columns, they may come in any order
    NAME.jpg + NAME.txt     a caption a line; or NAME.json with a "caption", as webdataset's shards have them.
                            The text may lie in another folder (MM-CelebA-HQ: image/0.jpg, text/.../0.txt)

All layouts that are found are read; what cannot be used, whole files too, is named and counted, and the rest
goes on.
"""

import csv
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from clip2gan.data.files import FILE_LIMIT, Files
from clip2gan.images.formats import suffix_of

DATASET = "dataset.json"
ONE_LIMIT = 1 << 20  # bytes of the captions of one picture
TABLES = {".txt", ".csv", ".tsv", ".token"}
PICTURE_KEYS = (
    "file",
    "file_name",
    "image",
    "path",
    "filename",
    "img",
    "image_name",
    "image_path",
    "picture",
)
CAPTION_KEYS = ("captions", "caption", "text", "texts", "sentences", "description", "comment", "sentence")
NOT_UNDERSTOOD = "text files in which no caption is understood"
# "dog.jpg" or "dog.jpg#0", also with a stray number ("dog.jpg.1#0") as Flickr8k has one
_CELL = r"""\s*"?(?P<picture>[^\t,|"]+\.(?:png|jpe?g|webp|bmp|gif|tiff?))(?:\.\d+)?(?:\#\w+)?"?\s*"""
_PICTURE = re.compile(_CELL, re.IGNORECASE)
_ROW = re.compile(_CELL + r"[\t,|]", re.IGNORECASE)
_ROWS_LOOKED_AT = 10  # to tell whether a file is a table


@dataclass
class Captions:
    """Captions of each picture, by its name among the files; and what was left out, reason -> examples."""

    of: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, what: str) -> None:
        self.skipped.setdefault(reason, []).append(what)

    def count(self) -> int:
        """How many things were left out."""
        return sum(map(len, self.skipped.values()))

    def summary(self, examples: int = 3) -> list[str]:
        """A line for each reason: how many were left out, and the first of them."""
        lines = []
        for reason, what in self.skipped.items():
            more = ", ..." if len(what) > examples else ""
            lines.append(f"{len(what)} {reason}: {', '.join(item[:80] for item in what[:examples])}{more}")
        return lines


def read_captions(files: Files, any_script: bool = False) -> Captions:
    """The captions that lie beside the pictures of `files`.

    Empty captions, captions of pictures that are not there, unreadable lines and files, and, unless
    `any_script`, those whose letters are mostly not Latin (most CLIPs were taught English) are left out and
    named. In a zip of `prepare` that has been done.
    """
    captions = Captions()
    any_script = any_script or prepared_resolution(files) is not None
    pictures = _Pictures(files.pictures)
    kept: set[tuple[str, str]] = set()
    for where, picture, text in _found(files, pictures, captions):
        name = pictures.find(picture, where)
        clean = " ".join(text.split())
        if name is None:
            captions.skip("captions of missing pictures", f"{picture} ({where})")
        elif not any(char.isalnum() for char in clean):
            captions.skip("empty captions", f"{picture} ({where})")
        elif not any_script and not is_latin(clean):
            captions.skip("captions in another script than Latin", f"{picture} ({clean})")
        elif (name, clean) not in kept:
            kept.add((name, clean))
            captions.of.setdefault(name, []).append(clean)
    return captions


def is_latin(text: str) -> bool:
    """Whether at least half of the letters of `text` are Latin."""
    if text.isascii():
        return True
    letters = [char for char in text if char.isalpha()]
    return 2 * sum(unicodedata.name(char, "").startswith("LATIN") for char in letters) >= len(letters)


def prepared_resolution(files: Files) -> int | None:
    """Pixels a side of the pictures in a zip of `clip2gan prepare`; None for anything else."""
    if DATASET not in files.names:
        return None
    try:
        resolution = json.loads(files.read(DATASET))["resolution"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return resolution if isinstance(resolution, int) else None


class _Pictures:
    """The pictures' names, to be found by what captions call them."""

    def __init__(self, names: list[str]):
        self.names = set(names)
        self._known: dict[tuple[str, str], str | None] = {}  # what `find` has found
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            path = PurePosixPath(name)
            self._by_name[path.name].append(name)
            self._by_stem[path.stem].append(name)

    def find(self, picture: str, where: str) -> str | None:
        """By the whole name, also from the folder of `where`, or the only file of that name or stem."""
        if (picture, where) not in self._known:
            self._known[picture, where] = self._find(picture, where)
        return self._known[picture, where]

    def _find(self, picture: str, where: str) -> str | None:
        picture = picture.replace("\\", "/")
        for name in (picture, (PurePosixPath(where).parent / picture).as_posix()):
            if name in self.names:
                return name
        name = PurePosixPath(picture).name
        return _only(self._by_name[name]) or _only(self._by_stem[name])

    def described_by(self, text_file: str) -> str | None:
        """The picture with the stem of `text_file`: beside it, or the only one elsewhere."""
        path = PurePosixPath(text_file)
        same = self._by_stem[path.stem]
        return _only([name for name in same if PurePosixPath(name).parent == path.parent]) or _only(same)


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _found(files: Files, pictures: _Pictures, captions: Captions) -> Iterator[tuple[str, str, str]]:
    """(file that says so, picture, caption) of all layouts."""
    for name in sorted(files.names):
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix not in {*TABLES, ".json", ".jsonl", ".caption"}:
            continue
        if name.replace(".lemma.", ".") != name and name.replace(".lemma.", ".") in files.names:
            captions.skip("files of captions in stems of words, beside plain ones", name)
            continue
        try:
            if _is_no_table(files, name, pictures):
                captions.skip(NOT_UNDERSTOOD, name)
                continue
            one = suffix != ".jsonl" and pictures.described_by(name) is not None
            text = files.read(name, ONE_LIMIT if one else FILE_LIMIT).decode("utf-8-sig")
        except UnicodeDecodeError:
            captions.skip("files of captions that cannot be read", f"{name} (not UTF-8; save it as UTF-8)")
            continue
        except (OSError, ValueError) as error:
            captions.skip("files of captions that cannot be read", f"{name} ({_line(error)})")
            continue
        skipped = captions.count()
        found = list(_captions_in(name, text, pictures, captions))
        if not found and captions.count() == skipped and name != DATASET:
            captions.skip(NOT_UNDERSTOOD, name)
        yield from ((name, picture, caption) for picture, caption in found)


def _is_no_table(files: Files, name: str, pictures: _Pictures) -> bool:
    """Whether the beginning of a text shows that it is no table, and it is long: the rest is not read."""
    if suffix_of(name) not in TABLES or pictures.described_by(name) is not None:
        return False
    head = files.head(name, ONE_LIMIT)
    return len(head) == ONE_LIMIT and _columns(head.decode("utf-8-sig", "replace").splitlines()) is None


def _captions_in(name: str, text: str, pictures: _Pictures, captions: Captions) -> Iterable[tuple[str, str]]:
    """(picture, caption) of one file, in whichever layout it is."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    described = pictures.described_by(name)
    if name == DATASET:
        return _dataset(text, name, captions)
    if suffix == ".jsonl":
        return _json_lines(text, name, captions)
    if suffix == ".json":
        texts = [] if described is None else _texts(_parse(text, name, captions))
        return [(described, caption) for caption in texts if described is not None]
    if described is not None and suffix in (".txt", ".caption"):
        return [(described, line) for line in text.splitlines() or [""]]
    lines = text.splitlines()
    if suffix in TABLES and (columns := _columns(lines)) is not None:
        return _table(lines, columns, name, captions)
    if suffix in (".txt", ".caption") and path.stem.isdigit() and len(text) < 10_000:
        return [(f"{path.stem}.*", line) for line in lines]  # a pair without its picture
    return []


def _dataset(text: str, name: str, captions: Captions) -> Iterator[tuple[str, str]]:
    content = _parse(text, name, captions)
    records = content.get("pictures") if isinstance(content, Mapping) else None
    if content is not None and not isinstance(records, list):
        captions.skip(NOT_UNDERSTOOD, name)
    for record in records if isinstance(records, list) else []:
        if isinstance(record, Mapping) and isinstance(record.get("file"), str):
            yield from ((record["file"], caption) for caption in _texts(record))


def _json_lines(text: str, name: str, captions: Captions) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        record = _parse(line, f"{name}:{number}", captions)
        picture = _value(record, PICTURE_KEYS)
        if isinstance(picture, str):
            yield from ((picture, caption) for caption in _texts(record))
        elif record is not None:
            captions.skip("lines that name no picture", f"{name}:{number}")


@dataclass(frozen=True)
class _Columns:
    """How a table's rows are read: what parts their cells, and which of them are picture and caption.

    Without a header `names` is 0, and the caption's number may stand before it.
    """

    delimiter: str
    picture: int = 0
    caption: int = 1
    names: int = 0

    def read(self, line: str) -> tuple[str, str] | None:
        """Picture and caption of a row; None where it names no picture."""
        cells = _cells(line, self.delimiter)
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
            found, match = "", _PICTURE.fullmatch(cells[0])
        picture_name = match["picture"].strip() if match else found
        return (picture_name, self.delimiter.join(rest)) if picture_name else None


def _columns(lines: list[str]) -> _Columns | None:
    """By the header's names, or by the first rows; None for what is no table of captions."""
    filled = [line for line in lines if line.strip()][:_ROWS_LOOKED_AT]
    for delimiter in "\t|,;":
        names = [cell.strip().lower() for cell in _cells(filled[0], delimiter)] if filled else []
        places = [
            next((names.index(key) for key in keys if key in names), -1)
            for keys in (PICTURE_KEYS, CAPTION_KEYS)
        ]
        if min(places) >= 0:
            return _Columns(delimiter, places[0], places[1], len(names))
    for line in filter(_ROW.match, filled):
        columns = _Columns("\t" if "\t" in line else "|" if "|" in line else ",")
        row = columns.read(line)
        # Flickr8k's judgements name a caption after the picture ("dog.jpg<TAB>cat.jpg#2<TAB>1"); CelebA's
        # attributes are numbers.
        if row and any(map(str.isalpha, row[1])) and not _ROW.match(f"{row[1]}\t"):
            return columns
    return None


def _table(lines: list[str], columns: _Columns, name: str, captions: Captions) -> Iterator[tuple[str, str]]:
    """The rows of a table, each read by itself, so that a damaged one costs no other."""
    header = True
    for number, line in enumerate(lines, 1):
        if not line.replace(columns.delimiter, "").strip():
            continue
        row = None if header and columns.names else columns.read(line)
        if row is not None:
            yield row
        elif not header:
            captions.skip("lines that name no picture", f"{name}:{number}")
        header = False


def _cells(line: str, delimiter: str) -> list[str]:
    """Quotes count only with what may stand in captions too, and only where they are closed."""
    if delimiter in ",;":
        try:
            return next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            return [cell.strip('"') for cell in line.split(delimiter)]
    return line.split(delimiter)


def _parse(text: str, name: str, captions: Captions) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        captions.skip("pieces of JSON that cannot be read", f"{name} ({_line(error)})")
        return None


def _texts(record: Any) -> list[str]:
    """The captions of a JSON object: a string, or a list of strings or of objects with a "text"."""
    found = _value(record, CAPTION_KEYS)
    entries = found if isinstance(found, list) else [found]
    texts = [
        _value(entry, ("text", "raw", "caption")) if isinstance(entry, Mapping) else entry
        for entry in entries
    ]
    return [text for text in texts if isinstance(text, str)]


def _value(record: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(record, Mapping):
        return None
    return next((record[key] for key in keys if key in record), None)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]

"""Captions beside pictures, in the layouts that captioned datasets come in.

    dataset.json            our own zips: {"pictures": [{"file": ..., "captions": [{"text": ...}]}]}
    *.jsonl                 one object a line: a picture's file and its caption or captions
    captions.txt, *.csv     a table of pictures and captions, as Flickr8k and Flickr30k ship them: with tabs
                            (image.jpg#0<TAB>caption), commas (image,caption) or bars (image| 0| caption)
    NAME.jpg + NAME.txt     a caption a line; or NAME.json with a "caption", as webdataset's shards have them.
                            The text may lie in another folder (MM-CelebA-HQ: image/0.jpg, text/.../0.txt)

All layouts that are found are read; what cannot be used is named and counted, and the rest goes on.
"""

import csv
import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from clip2gan.data.files import Files
from clip2gan.data.pictures import is_picture

DATASET = "dataset.json"
TABLES = {".txt", ".csv", ".tsv", ".token"}
PICTURE_KEYS = ("file", "file_name", "image", "path", "filename", "img")
CAPTION_KEYS = ("captions", "caption", "text", "texts", "sentences", "description")
# "dog.jpg#0<TAB>", "dog.jpg,", "dog.jpg| 0|", also with a stray number ("dog.jpg.1#0") as Flickr8k has one
_ROW = re.compile(
    r"""^\s*"?(?P<picture>[^\t,|"]+\.(?:png|jpe?g|webp|bmp|gif|tiff?))(?:\.\d+)?(?:\#\w+)?"?\s*[\t,|]""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass
class Captions:
    """Captions of each picture, by its name among the files; and what was left out, reason -> examples."""

    of: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, what: str) -> None:
        self.skipped.setdefault(reason, []).append(what)

    def summary(self, examples: int = 3) -> list[str]:
        """A line for each reason: how many were left out, and the first of them."""
        lines = []
        for reason, what in self.skipped.items():
            more = ", ..." if len(what) > examples else ""
            lines.append(f"{len(what)} {reason}: {', '.join(item[:80] for item in what[:examples])}{more}")
        return lines


def read_captions(files: Files, any_script: bool = False) -> Captions:
    """The captions that lie beside the pictures of `files`.

    Empty captions, captions of pictures that are not there, unreadable lines, and, unless `any_script`, those
    whose letters are mostly not Latin (most CLIPs were taught English) are left out and named.
    """
    captions = Captions()
    pictures = _Pictures([name for name in files.names if is_picture(name)])
    for where, picture, text in _found(files, pictures, captions):
        name = pictures.find(picture, where)
        clean = " ".join(text.split())
        if name is None:
            captions.skip("captions of missing pictures", f"{picture} ({where})")
        elif not any(char.isalnum() for char in clean):
            captions.skip("empty captions", f"{picture} ({where})")
        elif not any_script and not is_latin(clean):
            captions.skip("captions in another script than Latin", f"{picture} ({clean})")
        elif clean not in captions.of.setdefault(name, []):
            captions.of[name].append(clean)
    captions.of = {name: texts for name, texts in captions.of.items() if texts}
    return captions


def is_latin(text: str) -> bool:
    """Whether at least half of the letters of `text` are Latin."""
    letters = [char for char in text if char.isalpha()]
    return 2 * sum(unicodedata.name(char, "").startswith("LATIN") for char in letters) >= len(letters)


class _Pictures:
    """The pictures' names, to be found by what captions call them."""

    def __init__(self, names: list[str]):
        self.names = set(names)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            path = PurePosixPath(name)
            self._by_name[path.name].append(name)
            self._by_stem[path.stem].append(name)

    def find(self, picture: str, where: str) -> str | None:
        """By the whole name, or from the folder of `where` it is said, or the only file of that name."""
        picture = picture.replace("\\", "/")
        for name in (picture, (PurePosixPath(where).parent / picture).as_posix()):
            if name in self.names:
                return name
        return _only(self._by_name[PurePosixPath(picture).name])

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
        described = pictures.described_by(name)
        try:
            text = files.read(name).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            captions.skip("files of captions that cannot be read", f"{name} ({_line(error)})")
            continue
        if name == DATASET:
            found: Iterable[tuple[str, str]] = _dataset(text, name, captions)
        elif suffix == ".jsonl":
            found = _json_lines(text, name, captions)
        elif described is not None and suffix == ".json":
            found = [(described, caption) for caption in _texts(_parse(text, name, captions))]
        elif described is not None and suffix in (".txt", ".caption"):
            found = [(described, line) for line in text.splitlines() or [""]]
        elif any(_ROW.match(line) for line in text.splitlines()[:3]):
            found = _table(text, name, captions)
        elif suffix in (".txt", ".caption") and path.stem.isdigit() and len(text) < 10_000:
            found = [(f"{path.stem}.*", line) for line in text.splitlines()]  # a pair without its picture
        else:
            continue
        yield from ((name, picture, caption) for picture, caption in found)


def _dataset(text: str, name: str, captions: Captions) -> Iterator[tuple[str, str]]:
    content = _parse(text, name, captions)
    records = content.get("pictures") if isinstance(content, Mapping) else None
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


def _table(text: str, name: str, captions: Captions) -> Iterator[tuple[str, str]]:
    """Rows of a picture (with its caption's number), perhaps the number in a column, and the caption."""
    lines = text.splitlines()
    first = next(line for line in lines if _ROW.match(line))
    delimiter = "\t" if "\t" in first else "|" if "|" in first else ","
    # Commas may stand in captions too, so quotes count only there.
    rows = csv.reader(
        io.StringIO(text),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
    )
    for number, row in enumerate(rows, 1):
        if not row or not any(cell.strip() for cell in row):
            continue
        match = _ROW.match(f"{row[0]}\t")
        if match is None:
            if number > 1:  # the first one is the header
                captions.skip("lines that name no picture", f"{name}:{number}")
            continue
        cells = row[1:]
        if len(cells) > 1 and cells[0].strip().isdigit():  # the caption's number
            cells = cells[1:]
        yield match["picture"].strip(), delimiter.join(cells)


def _parse(text: str, name: str, captions: Captions) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
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

"""Captions beside pictures, in the layouts that captioned datasets come in.

    dataset.json            our own zips: {"pictures": [{"file": ..., "captions": [{"text": ...}]}]}
    *.json                  COCO's captions_*.json, Karpathy's dataset_*.json, or a list of objects as below
    *.jsonl                 one object a line: a picture's file and its caption or captions
    captions.txt, *.csv     a table of pictures and captions, as Flickr8k and Flickr30k ship them: with tabs
                            (image.jpg#0<TAB>caption), commas (image,caption) or bars (image| 0| caption).
                            Where a header names the columns, they may come in any order
    NAME.jpg + NAME.txt     (or NAME.jpg.txt) a caption a line; or NAME.json with a "caption", as webdataset's
                            shards have them.
                            The text may lie in another folder (MM-CelebA-HQ: image/0.jpg, text/.../0.txt)

All layouts that are found are read; what cannot be used, whole files too, is named and counted, and the rest
goes on.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from clip2gan.data.files import FILE_LIMIT, Files
from clip2gan.data.lines import iter_lines, split_lines
from clip2gan.data.matching import BASE, ENDING, WHOLE, Claims
from clip2gan.data.records import CAPTION_KEYS, PICTURE_KEYS, collection_rows, picture_of, texts_of
from clip2gan.data.tables import Columns, find_columns, quotes_are_sound, read_rows
from clip2gan.images.formats import suffix_of
from clip2gan.messages import one_line

DATASET = "dataset.json"
ONE_LIMIT = 1 << 20  # bytes of the captions of one picture
TABLES = {".txt", ".csv", ".tsv", ".token"}
EXAMPLES = 1000  # that are kept of what was left out for one reason
MISSING = "captions of missing pictures"
NOT_UNDERSTOOD = "text files in which no caption is understood"
_KNOWN = f"of pictures ({', '.join(PICTURE_KEYS)}) and captions ({', '.join(CAPTION_KEYS)})"
UNKNOWN_COLUMNS = f"tables without columns {_KNOWN}"
UNKNOWN_KEYS = f"files of JSON without objects {_KNOWN}"
UNKNOWN = {".csv": UNKNOWN_COLUMNS, ".tsv": UNKNOWN_COLUMNS, ".json": UNKNOWN_KEYS, ".jsonl": UNKNOWN_KEYS}


@dataclass
class Captions:
    """Captions of each picture, by its name among the files; and what was left out, reason -> examples.

    Attributes:
        of: picture -> its captions.
        skipped: reason -> what was left out for it, `EXAMPLES` at most.
        counts: reason -> how many were left out.
        notes: what was read otherwise than it seems to be meant, a line each.
        matched: how pictures were found by what captions call them -> how many captions.
    """

    of: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    matched: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str, what: str) -> None:
        self.counts[reason] += 1
        examples = self.skipped.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(what)

    def how_matched(self) -> list[str]:
        """A line that says how pictures were found, where some were not by their whole path."""
        if set(self.matched) <= {WHOLE}:
            return []
        known = [how for how in (WHOLE, ENDING, BASE) if how in self.matched]
        counts = ", ".join(f"{self.matched[how]} {how}" for how in known)
        return [f"captions matched with pictures: {counts}"]

    def count(self) -> int:
        """How many things were left out."""
        return self.counts.total()

    def summary(self, examples: int = 3) -> list[str]:
        """A line for each reason: how many were left out, and the first of them."""
        lines = []
        for reason, what in self.skipped.items():
            more = ", ..." if self.counts[reason] > examples else ""
            shown = ", ".join(item[:200] for item in what[:examples])
            lines.append(f"{self.counts[reason]} {reason}: {shown}{more}")
        return lines


class _Found(NamedTuple):
    """A caption, the picture it names, and the file that says so.

    complete: all pictures that this file names should be there. is_pair: it is named after its picture.
    """

    where: str
    picture: str
    text: str
    complete: bool = False
    is_pair: bool = False


def read_captions(files: Files, any_script: bool = False, allow_missing: bool = False) -> Captions:
    """The captions that lie beside the pictures of `files`.

    Empty captions, captions of pictures that are not there, unreadable lines and files, and, unless
    `any_script`, those whose letters are mostly not Latin (most CLIPs were taught English) are left out and
    named. In a zip of `prepare` that has been done.

    Raises ValueError, unless `allow_missing`, when under half of the pictures that a table names are there:
    then their names are probably written in another way. COCO's and Karpathy's files name all parts of a
    collection, so they do not count.
    """
    captions = Captions()
    any_script = any_script or prepared_resolution(files) is not None
    claims = Claims(files.pictures)
    complete: set[str] = set()
    for where, picture, text, is_complete, is_pair in _found(files, claims, captions):
        if is_complete:
            complete.add(where)
        clean = " ".join(text.split())
        if (claim := claims.add(picture, where, is_pair)) is None:
            captions.skip(MISSING, f"{picture} ({where})")
        elif not _is_text(clean):
            captions.skip("captions with half a character (such as a cut emoji)", f"{picture} ({where})")
        elif not any(map(str.isalnum, clean)):
            captions.skip("empty captions", f"{picture} ({where})")
        elif not any_script and not is_latin(clean):
            captions.skip("captions in another script than Latin", f"{picture} ({clean})")
        else:
            claim.texts.append(clean)
    claims.settle()
    _hand_out(claims, captions)
    if not allow_missing:
        _check_found(claims, complete, captions)
    return captions


def _hand_out(claims: Claims, captions: Captions) -> None:
    """Give the captions of settled claims to their pictures, each caption once."""
    found: dict[str, dict[str, None]] = {}
    for claim in claims:
        if claim.picture is None:
            for _ in claim.texts:
                captions.skip(MISSING, f"{claim.path} ({claim.where})")
        elif claim.texts:
            found.setdefault(claim.picture, {}).update(dict.fromkeys(claim.texts))
            captions.matched[claim.how] += len(claim.texts)
            claim.texts.clear()
    captions.of = {name: list(texts) for name, texts in found.items()}


def _check_found(claims: Claims, complete: set[str], captions: Captions) -> None:
    """Raise ValueError where under half of the pictures that one of the `complete` files names are found."""
    for where, (named, found) in claims.count().items():
        if where in complete and 2 * found < named:
            examples = (each for each in captions.skipped.get(MISSING, ()) if each.endswith(f" ({where})"))
            missing = next(examples, "").removesuffix(f" ({where})")
            example = f" ({missing:.80} is not)" if missing else ""
            raise ValueError(
                f"{where}: only {found} of the {named} pictures that it names are found{example}; correct "
                "the names, or go on without them by --allow-missing"
            )


def _is_text(text: str) -> bool:
    """Whether all of it can be written; JSON may hold halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _found(files: Files, claims: Claims, captions: Captions) -> Iterator[_Found]:
    """What all layouts say."""
    for name in sorted(files.names):
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix not in {*TABLES, ".json", ".jsonl", ".caption"}:
            continue
        if name.replace(".lemma.", ".") != name and name.replace(".lemma.", ".") in files.names:
            captions.skip("files of captions in stems of words, beside plain ones", name)
            continue
        try:
            if _is_no_table(files, name, claims):
                captions.skip(NOT_UNDERSTOOD, name)
                continue
            one = suffix != ".jsonl" and name != DATASET and _may_describe(name, claims)
            data = files.read(name, ONE_LIMIT if one else FILE_LIMIT)
            lines = partial(iter_lines, data)
            lines()  # raises where it is no UTF-8
        except UnicodeDecodeError:
            captions.skip("files of captions that cannot be read", f"{name} (not UTF-8; save it as UTF-8)")
            continue
        except (OSError, ValueError) as error:
            captions.skip("files of captions that cannot be read", f"{name} ({one_line(error)})")
            continue
        skipped, found = captions.count(), False
        for each in _captions_in(name, lines, one, captions):
            found = True
            yield each
        is_silent = captions.count() == skipped or suffix == ".jsonl"
        if not found and is_silent and name != DATASET:
            captions.skip(NOT_UNDERSTOOD if one else UNKNOWN.get(suffix, NOT_UNDERSTOOD), name)


def _is_no_table(files: Files, name: str, claims: Claims) -> bool:
    """Whether the beginning of a text shows that it is no table, and it is long: the rest is not read."""
    if suffix_of(name) not in TABLES or _may_describe(name, claims):
        return False
    head = files.head(name, ONE_LIMIT)
    return len(head) == ONE_LIMIT and find_columns(split_lines(head.decode("utf-8-sig", "replace"))) is None


def _may_describe(name: str, claims: Claims) -> bool:
    """Whether a text file has the name of a picture, in whichever folder: dog.txt, or dog.jpg.txt."""
    return claims.can_mean(name[: -len(suffix_of(name))])


def _captions_in(
    name: str, lines: Callable[[], Iterator[str]], one: bool, captions: Captions
) -> Iterable[_Found]:
    """The captions of one file, in whichever layout it is; `one`: it has a picture's name."""
    suffix = suffix_of(name)
    if suffix == ".jsonl":
        return (_Found(name, *row, complete=True) for row in _json_lines(lines(), name, captions))
    pair = name[: -len(suffix)]
    if suffix == ".json":
        content = _parse("\n".join(lines()), name, captions)
        if name == DATASET:
            return (_Found(name, *row) for row in _dataset(content, name, captions))
        if one:
            return [_Found(name, pair, caption, is_pair=True) for caption in texts_of(content)]
        is_list = isinstance(content, list)  # others are COCO's and Karpathy's, of whole collections
        return (_Found(name, *row, complete=is_list) for row in collection_rows(content))
    if suffix in (".txt", ".caption") and one:
        return [_Found(name, pair, line, is_pair=True) for line in [*lines()] or [""]]
    if suffix in TABLES and (columns := find_columns(lines())) is not None:
        return (_Found(name, *row, complete=True) for row in _table(lines, columns, name, captions))
    if suffix in (".txt", ".caption") and PurePosixPath(pair).name.isdigit():
        text = [*islice(lines(), 1000)]
        if sum(map(len, text)) < 10_000:  # a pair without its picture
            return [_Found(name, pair, line, is_pair=True) for line in text]
    return []


def _dataset(content: Any, name: str, captions: Captions) -> Iterator[tuple[str, str]]:
    records = content.get("pictures") if isinstance(content, Mapping) else None
    if content is not None and not isinstance(records, list):
        captions.skip(NOT_UNDERSTOOD, name)
    for record in records if isinstance(records, list) else []:
        if isinstance(record, Mapping) and isinstance(record.get("file"), str):
            yield from ((record["file"], caption) for caption in texts_of(record))


def _json_lines(lines: Iterable[str], name: str, captions: Captions) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _parse(line, f"{name}:{number}", captions)
        picture = picture_of(record)
        if picture is not None:
            yield from ((picture, caption) for caption in texts_of(record))
        elif record is not None:
            captions.skip("lines that name no picture", f"{name}:{number}")


def _table(
    lines: Callable[[], Iterator[str]], columns: Columns, name: str, captions: Captions
) -> Iterator[tuple[str, str]]:
    sound = quotes_are_sound(lines(), columns)
    if not sound and columns.delimiter in ",;":  # others rarely mean quotes as such
        captions.notes.append(f"{name}: a quote is damaged, so each line was read by itself")
    for number, row in read_rows(lines(), columns, sound):
        if row is not None:
            yield row
        else:
            captions.skip("lines that name no picture", f"{name}:{number}")


def _parse(text: str, name: str, captions: Captions) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        captions.skip("pieces of JSON that cannot be read", f"{name} ({one_line(error)})")
        return None

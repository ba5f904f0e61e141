"""Damage what people bring as data, and see that it is read or refused, and that no caption goes astray.

python tests/fuzz_data.py FIRST LAST KIND...   runs the inputs with these seeds; it prints what went wrong.
Kinds: captions (files of captions beside pictures), tables, png (chunks of a PNG), tars (folders of them).
"""

import csv
import io
import json
import logging
import random
import struct
import sys
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from clip2gan.data.captions import read_captions
from clip2gan.data.files import Files, check_size, open_files
from clip2gan.data.lines import split_lines
from clip2gan.data.matching import split_path
from clip2gan.data.tables import find_columns, quotes_are_sound, read_rows
from clip2gan.images import read_picture

NAMES = ["0", "1", "é", "e\u0301", "a b", "x.y", "IMG_0", "captions"]
FOLDERS = ["train", "val", "images", "a", "Zürich", "."]
SUFFIXES = [".jpg", ".png", ".JPEG", ".webp"]
ODD = ["\u2028", "\x85", "\x0c", "\0", '"', '""', "\r", "\t", ",", "|", "\ufeff", "\\", "\ud800"]
WORDS = ["a", "red", "dog", "in", "the", "snow", "Ünder", '5"', "two, three", "café"]


@dataclass
class MemoryFiles(Files):
    """Files that are nowhere but here."""

    content: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str, limit: int = 1 << 28) -> bytes:
        check_size(len(self.content[name]), limit)
        return self.content[name]

    def head(self, name: str, size: int = 256) -> bytes:
        return self.content[name][:size]

    def signature(self, name: str) -> str:
        return str(len(self.content[name]))


def memory(content: dict[str, bytes]) -> MemoryFiles:
    return MemoryFiles("memory", list(content), 0, content)


def draw_path(rng: random.Random) -> str:
    folders = rng.choices(FOLDERS, k=rng.randrange(3))
    return "/".join([*folders, rng.choice(NAMES) + rng.choice(SUFFIXES)])


def rewrite(path: str, rng: random.Random) -> str:
    """The same path as another machine writes it."""
    change = rng.randrange(6)
    if change == 0:
        return unicodedata.normalize(rng.choice(["NFC", "NFD"]), path)  # type: ignore[arg-type]
    if change == 1:
        return f"./{path}"
    if change == 2:
        return f"/home/x/{path}"
    if change == 3:
        return "C:\\data\\" + path.replace("/", "\\")
    if change == 4:
        return path.rpartition("/")[2]
    return path


def write_captions(layout: str, rows: list[tuple[str, str]]) -> dict[str, str]:
    """Files of captions, by name, of one layout."""
    if layout == "csv":
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([("file_name", "caption"), *rows])
        return {"list.csv": file.getvalue()}
    if layout == "tabs":
        return {"list.txt": "".join(f"{path}#0\t{text}\n" for path, text in rows)}
    if layout == "jsonl":
        return {"metadata.jsonl": "".join(json.dumps({"file_name": p, "text": t}) + "\n" for p, t in rows)}
    if layout == "coco":
        images = [{"id": number, "file_name": path} for number, (path, _) in enumerate(rows)]
        notes = [{"image_id": number, "caption": text} for number, (_, text) in enumerate(rows)]
        return {"captions_x.json": json.dumps({"images": images, "annotations": notes})}
    if layout == "karpathy":
        images = [{"filename": path, "sentences": [{"raw": text}]} for path, text in rows]
        return {"dataset_x.json": json.dumps({"images": images})}
    plain = {path.replace("\\", "/").rpartition(".")[0].lstrip("/"): text for path, text in rows}
    return {f"{path}.txt": text for path, text in plain.items()}


LAYOUTS = ["csv", "tabs", "jsonl", "coco", "karpathy", "pairs"]


def damage(data: bytes, rng: random.Random) -> bytes:
    """`data` with a few bytes changed, cut, repeated or put in."""
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        odd = rng.choice(ODD).encode(errors="surrogatepass")
        data = rng.choice(
            [
                data[:at],
                data[:at] + odd + data[at:],
                data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
                data[:at] + data[at + rng.randrange(20) :],
                data[:at] + data[max(0, at - 30) : at] + data[at:],
            ]
        )
    return data


def fuzz_captions(rng: random.Random) -> None:
    pictures = {unicodedata.normalize("NFC", path): path for path in (draw_path(rng) for _ in range(5))}
    named = [rng.choice(list(pictures.values())) if rng.random() < 0.6 else draw_path(rng) for _ in range(5)]
    rows = [
        (rewrite(path, rng), f"number {number} {' '.join(rng.choices(WORDS, k=3))}")
        for number, path in enumerate(named)
    ]
    texts: dict[str, str] = {}
    layouts = rng.sample(LAYOUTS, rng.randrange(1, 3))
    for part, layout in enumerate(layouts):
        texts |= write_captions(layout, rows[part :: len(layouts)])
    content = {path: b"" for path in pictures.values()}
    is_damaged = rng.random() < 0.5
    for name, text in texts.items():
        data = text.encode()
        content[name] = damage(data, rng) if is_damaged else data
    captions = read_captions(memory(content), allow_missing=True)
    captions.summary()
    for texts_of in captions.of.values():
        json.dumps(texts_of, ensure_ascii=False).encode()  # as `prepare` writes them
    if not is_damaged:
        check_matches(captions.of, [path for path, _ in rows], set(pictures.values()))


def check_matches(found: dict[str, list[str]], named: list[str], pictures: set[str]) -> None:
    """Raise AssertionError for a caption that is not of the picture that has it."""
    places = {split_path(picture): picture for picture in pictures}
    for picture, texts in found.items():
        folders, stem = split_path(picture)
        for text in texts:
            path = named[int(text.split()[1])]
            asked = split_path(path)
            assert asked[1] == stem, f"{path} is of another name than {picture}"
            best = max(shared(asked[0], other[0]) for other in places if other[1] == stem)
            assert shared(asked[0], folders) == best, f"{path} shares less with {picture} than with another"
            for rival in map(split_path, named):
                if rival == (folders, stem) and not is_end(asked[0], folders):
                    raise AssertionError(f"{path} was given to {picture}, which is named by its own path")


def shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    pairs = zip(first[::-1], second[::-1], strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def is_end(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    short, long = sorted((first, second), key=len)
    return long[len(long) - len(short) :] == short


def fuzz_tables(rng: random.Random) -> None:
    delimiter = rng.choice(",;\t|")
    quotes_all = rng.random() < 0.5
    left_out = {"\0", "\ud800"}
    if not quotes_all:
        left_out.add("\r")  # Python 3.11 writes it without quotes
    words = [*WORDS, *(odd for odd in ODD if odd not in left_out)]
    rows = [
        (f"{rng.randrange(9)}.jpg", " ".join(rng.choices(words, k=rng.randrange(1, 6))))
        for _ in range(rng.randrange(1, 6))
    ]
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if quotes_all else csv.QUOTE_MINIMAL
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=quoting)
    writer.writerows([("image", "caption"), *rows])
    text = file.getvalue()
    whole = text
    if rng.random() < 0.6:
        text = damage(text.encode(), rng).decode(errors="replace")
    lines = split_lines(text)
    columns = find_columns(lines)
    if columns is None:
        return
    sound = quotes_are_sound(lines, columns)
    found = [row for _, row in read_rows(lines, columns, sound) if row is not None]
    if text == whole and sound:  # what Python's own writer wrote comes back, but for the ends of lines
        plain = [(name, unify(caption)) for name, caption in rows]
        assert [(name, unify(caption)) for name, caption in found] == plain, (found, plain)
    assert len(found) <= len(lines)


def unify(text: str) -> str:
    return " ".join(text.split())


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def whole_png() -> list[bytes]:
    """The signature and the chunks of a PNG."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    data, position = file.getvalue(), 8
    parts = [data[:8]]
    while position < len(data):
        size = struct.unpack_from(">I", data, position)[0] + 12
        parts.append(data[position : position + size])
        position += size
    return parts


EXTRA = [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"pHYs", b"acTL", b"abCd", b"\0\0\0\0"]


def fuzz_png(rng: random.Random) -> None:
    parts = whole_png()
    for _ in range(rng.randrange(1, 5)):
        data = rng.randbytes(rng.randrange(40))
        if rng.random() < 0.5:
            data = b"key\0\0" + zlib.compress(bytes(rng.randrange(1 << 16)))
        parts.insert(rng.randrange(2, len(parts)), png_chunk(rng.choice(EXTRA), data))
    content = b"".join(parts)
    is_damaged = rng.random() < 0.7
    if is_damaged:
        content = damage(content, rng)
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Path(file.name).write_bytes(content)
        try:
            read_picture(file.name).load()
        except (ValueError, OSError) as error:
            check_message(error, file.name)


def fuzz_tars(rng: random.Random) -> None:
    names = ["0.jpg", "./0.txt", "../1.jpg", "/2.png", "a/3.jpg", ".hidden/4.jpg", "e\u0301.png", "5.json"]
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(rng.randrange(1, 3)):
            file = io.BytesIO()
            form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
            with tarfile.open(fileobj=file, mode="w", format=form) as tar:
                for name in rng.sample(names, 4):
                    info = tarfile.TarInfo(name)
                    others = [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE]
                    info.type = rng.choice([*[tarfile.REGTYPE] * 4, *others])
                    info.linkname = "/etc/passwd"
                    data = rng.randbytes(rng.randrange(600)) if info.isreg() else b""
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            content = damage(file.getvalue(), rng) if rng.random() < 0.7 else file.getvalue()
            Path(folder, f"{shard:05d}.tar").write_bytes(content)
        try:
            files = open_files(rng.choice([folder, f"{folder}/00000.tar", f"{folder}/*.tar"]))
            read_captions(files, allow_missing=True)
        except (ValueError, OSError) as error:
            check_message(error, folder)
            return
        for name in files.names:
            try:
                content = files.read(name)
            except (ValueError, OSError) as error:
                check_message(error)
            else:
                assert b"root:" not in content, f"{name} is a link out of the folder"


def check_message(error: Exception, file: str = "") -> None:
    """Raise AssertionError for a message of several lines, or one that does not name `file`."""
    message = str(error)
    assert message, f"{type(error).__name__} says nothing"
    assert "\n" not in message, message
    assert file in message, message


KINDS: dict[str, Callable[[random.Random], None]] = {
    "captions": fuzz_captions,
    "tables": fuzz_tables,
    "png": fuzz_png,
    "tars": fuzz_tars,
}


def failures(kind: str, seeds: Iterable[int]) -> Iterator[str]:
    """What went wrong, one line an input."""
    for seed in seeds:
        try:
            KINDS[kind](random.Random(f"{kind} {seed}"))
        except Exception as error:
            yield f"{kind} {seed}: {type(error).__name__}: {error!s:.300}"


if __name__ == "__main__":
    logging.disable()
    first, last, *kinds = sys.argv[1:]
    for each in kinds:
        for line in failures(each, range(int(first), int(last))):
            print(line, flush=True)

"""What an edit is shown as: sheets with figures, videos, a table."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from clip2gan.images import contact_sheet, difference
from stylegan2.files import atomic_path

LINE, LEAST_WIDTH = 14, 260
FRAMES, FRAMES_PER_SECOND = 24, 12
LARGEST_FRAME = 1024  # pixels of the longer side
COLUMNS = (
    "image",
    "attribute",
    "strength",
    "clip",
    "clip_gain",
    "reached",
    "reference",
    "psnr",
    "identity",
    "perceptual",
    "moved",
    "from_average",
)


def figure_lines(figures: Mapping[str, Any]) -> list[str]:
    """An edit's figures in words, a line for each attribute and one for the rest."""
    lines = [
        f"{text} {strength:+.2f}: CLIP {figures['clip'][text]:.2f} ({figures['clip_gain'][text]:+.2f})"
        for text, strength in figures["strengths"].items()
    ]
    rest = f"psnr {figures['psnr']:.1f} dB, " if "psnr" in figures else ""
    rest += f"identity {figures['identity']:.3f}, perceptual {figures['perceptual']:.3f}, "
    rest += f"moved {figures['moved']:.2f} sd, {figures['from_average']:.2f} sd from w_avg"
    return [*lines, rest]


def edit_sheet(before: Image.Image, after: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Before, after and their difference, and the figures below them."""
    row = contact_sheet([before, after, difference(before, after)], 3)
    font = ImageFont.load_default(10)
    width = max(row.width, LEAST_WIDTH, *(int(font.getlength(line)) + 4 for line in lines))
    sheet = Image.new("RGB", (width, row.height + LINE * len(lines) + 2), "white")
    sheet.paste(row, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((2, row.height + 2 + LINE * number), line, fill="black", font=font)
    return sheet


def there_and_back(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """The frames, and then the same ones backwards."""
    shown = []
    for frame in frames:
        shown.append(frame)
        yield frame
    yield from reversed(shown)


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write figures of edits (with "image" besides) as CSV, a line for each picture and attribute.

    Bytes of names that are no UTF-8 are written as escapes.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            for text in row["strengths"] or [""]:
                parts = {name: row[name].get(text, "") for name in ("clip", "clip_gain", "reached")}
                strength = row["strengths"].get(text, "")
                writer.writerow({**row, **parts, "attribute": text, "strength": strength})

"""What an edit is shown as: sheets with figures, videos, a table."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clip2gan.images import contact_sheet, difference
from stylegan2.files import atomic_path

LINE, LEAST_WIDTH = 14, 260
FRAMES, FRAMES_PER_SECOND = 24, 12
LEAST_FRAME, LARGEST_FRAME = 256, 1024  # pixels of the longer side
VIDEO_SUFFIXES = (".gif", ".mp4")
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


def check_video(path: Path) -> None:
    """Raise ValueError, before anything is computed, for a video that could not be written."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path}: videos are written as {' or '.join(VIDEO_SUFFIXES)}")
    try:
        import imageio.v3  # noqa: F401

        if path.suffix.lower() == ".mp4":
            import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ValueError("videos need imageio: pip install 'clip2gan[video]'") from error


def write_video(path: Path, frames: Sequence[Image.Image]) -> None:
    """Write frames of one size as GIF or MP4, there and back, small ones enlarged."""
    import imageio.v3 as imageio

    width, height = frames[0].size
    scale = max(1, -(-LEAST_FRAME // max(width, height)))
    # H.264 wants even sides.
    size = (width * scale // 2 * 2, height * scale // 2 * 2)
    pixels = [np.asarray(frame.resize(size, Image.Resampling.NEAREST)) for frame in frames]
    pixels += pixels[::-1]
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".gif":
            imageio.imwrite(temporary, pixels, extension=".gif", duration=1000 // FRAMES_PER_SECOND, loop=0)
        else:
            imageio.imwrite(
                temporary,
                pixels,
                extension=".mp4",
                plugin="FFMPEG",
                fps=FRAMES_PER_SECOND,
                macro_block_size=2,
            )


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write figures of edits (with "image" besides) as CSV, a line for each picture and attribute."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            for text in row["strengths"] or [""]:
                parts = {name: row[name].get(text, "") for name in ("clip", "clip_gain", "reached")}
                strength = row["strengths"].get(text, "")
                writer.writerow({**row, **parts, "attribute": text, "strength": strength})

"""Pictures in files: reading any picture a user may have, writing PNGs that tell how they were made."""

import json
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 100_000_000  # 10,000 x 10,000: some 0.4 GB while it is decoded
MIN_SIDE = 8
METADATA_KEY = "clip2gan"
TEXT_SIZE, LINE_HEIGHT, MARGIN = 12, 15, 4  # pixels, of labels
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# First bytes of what is often saved under a picture's name by mistake.
_NOT_PICTURES = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing; export it as PNG first"),
    (b"<?xml", "an XML file"),
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
    (b"%pdf", "a PDF"),
    (b"pk\x03\x04", "a zip archive"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"{", "JSON"),
)


def read_picture(path: str | Path) -> Image.Image:
    """Read a picture as upright 8-bit RGB, whatever its format.

    EXIF rotation is applied, transparency laid on white, 16-bit grey scaled to 8 bits; of an animation it
    is the first frame. Raises FileNotFoundError, or ValueError with one line for anything that is not a
    picture of at least 8x8 and at most 100 million pixels; the size is checked before decoding.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a picture")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise ValueError(f"{path}: an empty file, not a picture")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the limit below is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: {_too_large()}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture: {_guess(head)}") from None
    except Exception as error:  # a damaged header can raise nearly anything from Pillow's readers
        raise ValueError(f"{path}: a damaged picture ({error})") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path}: {width}x{height} pixels is {_too_large()}")
        if min(width, height) < MIN_SIDE:
            raise ValueError(
                f"{path}: {width}x{height} pixels is too small; give at least {MIN_SIDE}x{MIN_SIDE}"
            )
        try:
            return _to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:
            raise ValueError(f"{path}: a damaged or cut off {image.format} picture ({error})") from error


def picture_files(folder: str | Path) -> list[Path]:
    """The picture files directly in `folder`, by name, without hidden ones (such as macOS's `._a.png`).

    Raises ValueError when there are none.
    """
    files = sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise ValueError(f"{folder}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
    return files


def write_png(path: str | Path, image: Image.Image, metadata: Mapping[str, Any]) -> None:
    """Write `image` as PNG with `metadata` as JSON in its text field "clip2gan".

    The folder is made if need be; the file appears whole or not at all. The same picture and metadata give
    the same bytes.
    """
    from stylegan2.files import atomic_path

    text = PngInfo()
    text.add_text(METADATA_KEY, json.dumps(metadata))
    try:
        with atomic_path(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=text)
    except OSError as error:  # the message names the file asked for, not the temporary one
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """What `write_png` stored in a picture, or None when it has none."""
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(METADATA_KEY)
    return None if text is None else json.loads(text)


def to_picture(image: "Tensor") -> Image.Image:
    """[1, 3, R, R] (or [1, 1, R, R]: grey) in [-1, 1] as an RGB picture; values outside are clipped.

    Raises ValueError for another number of channels, and where the picture is NaN or infinite somewhere.
    """
    from stylegan2.files import is_finite

    channels = image.shape[1]
    if channels not in (1, 3):
        raise ValueError(
            f"pictures of {channels} channels cannot be written; they must have 3, or 1 for grey"
        )
    if not is_finite(image):
        raise ValueError("the generator gives a picture that is not finite; take other latents or weights")
    pixels = ((image[0] + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())


def slug(text: str, limit: int = 60) -> str:
    """A file name's worth of `text`: letters and digits of any script in lower case, joined by hyphens.

    >>> slug("A smiling face!")
    'a-smiling-face'
    """
    kept = (
        char if unicodedata.category(char)[0] in "LNM" else " "
        for char in unicodedata.normalize("NFKC", text).lower()
    )
    words = "-".join("".join(kept).split())[:limit]
    # File systems limit names to 255 bytes; a letter can take four.
    return words.encode()[:120].decode(errors="ignore").strip("-") or "text"


def contact_sheet(images: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """The pictures, all of one size, row by row on white with `gap` pixels between them."""
    width, height = images[0].size
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + gap), row * (height + gap)))
    return sheet


def label(text: str, width: int, height: int | None = None) -> Image.Image:
    """A text in black on white, by Pillow's own font, in lines that are cut to `width` pixels.

    They stand in the middle of `height`, where those that do not fit are left out ("..."); None makes the
    picture as high as they are. Scripts that the font lacks (it has Latin letters) come out as boxes.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    lines = _wrapped(text, width - 3 * MARGIN, font.getlength)
    if height is None:
        height = LINE_HEIGHT * len(lines)
    fitting = max(1, height // LINE_HEIGHT)
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], f"{lines[fitting - 1][:-3]}..."]
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = (height - len(lines) * LINE_HEIGHT) // 2
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + number * LINE_HEIGHT), line, fill="black", font=font)
    return picture


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """Where two pictures of one size differ: mid grey where they do not, brighter or darker where they do."""
    return ImageChops.subtract(after, before, scale=1.0, offset=128)


def _wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """The lines of a text that are not longer than `width`; a word that alone is longer is broken."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if length(longer) <= width:
            lines[-1:] = [longer]
            continue
        lines.append("")
        for char in word:
            if lines[-1] and length(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return lines


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip these to 255 instead of scaling them.
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max()))
        return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _too_large() -> str:
    return f"more than the {MAX_PIXELS // 1_000_000} million pixels that are read; scale it down first"


def _guess(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, name in _NOT_PICTURES:
        if start.startswith(prefix):
            return f"it looks like {name}"
    if head[4:8] == b"ftyp":
        still = head[8:12] in (b"heic", b"heix", b"mif1", b"avif")
        return "it looks like " + (
            "an HEIC or AVIF picture; export it as JPEG first" if still else "a video; take a frame of it"
        )
    if head.startswith((b"\x1aE\xdf\xa3", b"RIFF")):
        return "it looks like a video; take a frame of it"
    try:
        head[:200].decode("ascii")
    except UnicodeDecodeError:
        return "no format that Pillow knows"
    return "it looks like text"

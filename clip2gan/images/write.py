"""PNGs that tell how they were made, and their names."""

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clip2gan.images import png
from clip2gan.images.xmp import PNG_KEYWORD, make_packet

GENERATED_PACKET = make_packet()
METADATA_KEY = "clip2gan"
COMPRESSION = 2  # zlib's level: a third of the time of its default, for files a tenth larger
RELATIVE_COLORIMETRIC = 1  # the rendering intent in PNG's sRGB chunk


def write_png(
    path: str | Path,
    image: Image.Image,
    metadata: Mapping[str, Any],
    profile: bytes | None = None,
    *,
    xmp: bytes | None = GENERATED_PACKET,
) -> None:
    """Write `image` as PNG with `metadata` as JSON in its text field "clip2gan".

    Its numbers are sRGB, and the file says so, or those of the colour profile (ICC) that is given. Its XMP
    says that it was generated, unless another packet (see `images.xmp`) or None is given.

    The folder is made if need be; the file appears whole or not at all. The same picture and metadata give
    the same bytes.
    """
    from stylegan2.files import atomic_path

    text = PngInfo()
    text.add_text(METADATA_KEY, json.dumps(metadata))
    if xmp is not None:
        text.add_itxt(PNG_KEYWORD, xmp.decode())
    if profile is None:
        text.add(b"sRGB", bytes([RELATIVE_COLORIMETRIC]))
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=text, icc_profile=profile, compress_level=COMPRESSION)


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """What `write_png` stored in a picture, or None when it has none.

    Nothing else of the picture is read. Raises FileNotFoundError, or ValueError for metadata that is damaged.
    """
    with Path(path).open("rb") as file:
        if file.read(len(png.SIGNATURE)) != png.SIGNATURE:
            return None
        try:
            text = png.read_text(file, METADATA_KEY)
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: its metadata cannot be read ({error})") from error


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

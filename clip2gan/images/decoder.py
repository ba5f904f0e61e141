"""The one decoder: any picture a user may have as upright sRGB, the same for training and editing."""

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip2gan.images import colour, png
from clip2gan.images.formats import HEAD, describe_not_picture, format_of, picture_formats
from clip2gan.images.xmp import COMPOSITE, change_packet, make_packet

MAX_PIXELS = 100_000_000  # 10,000 x 10,000: some 0.8 GB while it is decoded
MAX_SIDE = 65_535
MIN_SIDE = 8
MAX_BYTES = 256 << 20  # of a file
RANGES = "a picture of float numbers holds 0 to 1, one of whole numbers 0 to 255 or 0 to 65535"

_STRIP = 1 << 20  # pixels that are converted at a time
_FLOAT_NOISE = 1e-4  # how far from 0..1 rounding may lead
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS, _PHOTOMETRIC = 274, 258, 262  # tags of TIFF and EXIF

log = logging.getLogger(__name__)

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Photo:
    """A picture as it is worked on, and as its file has it.

    Attributes:
        picture: upright RGB, in sRGB.
        own: the same in the numbers of the file's colour profile; `picture` itself where it is sRGB.
        profile: that profile (ICC); None for sRGB.
        xmp: the file's XMP packet, such as its author and rights.
    """

    picture: Image.Image
    own: Image.Image
    profile: bytes | None = None
    xmp: bytes | None = None

    def restore(self, edited: Image.Image) -> Image.Image:
        """An edited `picture`, of the same size, in the numbers of the photo's own profile.

        What was changed is added to the photo: where nothing was, its own numbers stay to the bit, those that
        sRGB cannot hold too.
        """
        if self.profile is None:
            return edited
        convert = colour.from_srgb(self.profile)
        restored = self.own.copy()
        for box in _strips(edited.size):
            before, after = (
                np.asarray(convert(image.crop(box)), dtype=np.int16) for image in (self.picture, edited)
            )
            own = np.asarray(self.own.crop(box), dtype=np.int16)
            pixels = (own + after - before).clip(0, 255).astype(np.uint8)
            restored.paste(Image.fromarray(pixels), box[:2])
        return restored

    def packet(self, restored: Image.Image) -> bytes | None:
        """The XMP packet for what `restore` gave: the photo's own, which says so where a part was generated.

        None for an unchanged photo that has none. Raises ValueError where the photo's packet is damaged.
        """
        if np.array_equal(np.asarray(restored), np.asarray(self.own)):
            return None if self.xmp is None else change_packet(self.xmp, None)
        return make_packet(COMPOSITE) if self.xmp is None else change_packet(self.xmp, COMPOSITE)


def decode(source: Path | bytes, warn: Warn = log.warning) -> Image.Image:
    """A picture's file, or its bytes, as upright sRGB (mode RGB), whatever its format.

    What decides how it looks is heeded: EXIF's rotation; a colour profile (one that cannot be used is told to
    `warn`, and the picture taken as sRGB); transparency, which is laid on white. Grey of more than 8 bits is
    scaled: float numbers from 0..1, whole ones from 0..255 or 0..65535. An animation gives its first frame.

    Raises:
        ValueError: without the file's name: for anything else than a picture of at least 8x8 and at most 100
            million pixels, no side longer than 65535 and no file larger than 256 MB. The size is checked
            before anything is decoded.
    """
    with _opened(source) as (image, profile):
        return _render(image, profile, warn, own=False, owned=True).picture


def decode_photo(source: Path | bytes, warn: Warn = log.warning) -> Photo:
    """Like `decode`, with the picture in its own colours besides."""
    with _opened(source) as (image, profile):
        return _render(image, profile, warn, own=True, owned=True)


def to_srgb(image: Image.Image, warn: Warn = log.warning) -> Image.Image:
    """An image that was opened by Pillow as `decode` would have read its file.

    An RGB image without a profile, rotation or transparency is returned as it is.
    """
    plain = image.mode == "RGB" and not {"icc_profile", "transparency", "exif", "xmp"} & image.info.keys()
    if plain and type(image) is Image.Image:
        return image
    with _quiet():
        image.load()
        return _render(image, image.info.get("icc_profile"), warn, own=False, owned=False).picture


def read_picture(path: str | Path) -> Image.Image:
    """Read a picture file as `decode` does; its name stands before every message.

    Raises FileNotFoundError, or ValueError with one line for what is no picture that can be read.
    """
    path = _existing(path)
    with _naming(path):
        return decode(path, lambda note: log.warning("%s: %s", path, note))


def read_photo(path: str | Path) -> Photo:
    """Read a picture file with its own colours (see `Photo`); raises what `read_picture` raises."""
    path = _existing(path)
    with _naming(path):
        return decode_photo(path, lambda note: log.warning("%s: %s", path, note))


def picture_size(source: Path | bytes) -> tuple[int, int]:
    """Width and height as the file's header has them, before any rotation; raises what `decode` raises."""
    with _opened(source, load=False) as (image, _):
        return image.size


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a picture")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return path


@contextlib.contextmanager
def _opened(source: Path | bytes, load: bool = True) -> Iterator[tuple[Image.Image, bytes | None]]:
    """A picture, loaded and within the limits, and its colour profile."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file, _quiet():
        image, profile = _open(file)
        with image:
            _check_size(image)
            if load:
                _load(image)
            yield image, profile


def _open(file: BinaryIO) -> tuple[Image.Image, bytes | None]:
    head = file.read(HEAD)
    if not head:
        raise ValueError("an empty file, not a picture")
    if file.seek(0, io.SEEK_END) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MB; scale it down, or save it as PNG or JPEG")
    found = format_of(head)
    known = picture_formats()
    if found == "HEIF" and found not in known:
        raise ValueError(f"not a picture: {describe_not_picture(head)}")
    profile: bytes | None = None
    is_png = found == "PNG"
    if is_png:
        file, profile = png.open_bare(file)
    file.seek(0)
    try:
        image = Image.open(file, formats=[found] if found in known else known)
    except Image.DecompressionBombError:
        raise ValueError(_too_large()) from None
    except UnidentifiedImageError:
        raise ValueError(f"not a picture: {describe_not_picture(head)}") from None
    except Exception as error:  # a damaged header can raise nearly anything from Pillow's readers
        raise ValueError(f"a damaged picture ({_line(error)})") from error
    return image, profile if is_png else image.info.get("icc_profile")


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Image.DecompressionBombError:
        raise ValueError(_too_large()) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost anything on a broken file
        raise ValueError(f"a damaged or cut off {image.format} picture ({_line(error)})") from error
    _check_size(image)  # an icon's header may lie
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        # Of 16-bit colours Pillow keeps the upper 8 bits, but all of those of the transparent one.
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels is {_too_large()}")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width}x{height} pixels: no side may be longer than {MAX_SIDE}; crop it first")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{width}x{height} pixels is too small; give at least {MIN_SIDE}x{MIN_SIDE}")


def _too_large() -> str:
    return f"more than the {MAX_PIXELS // 1_000_000} million pixels that are read; scale it down first"


def _render(image: Image.Image, profile: bytes | None, warn: Warn, own: bool, owned: bool) -> Photo:
    """A loaded image as upright sRGB; with `own`, in the numbers of its profile too.

    One that is `owned` is closed as soon as it can be, which frees its pixels.
    """
    turn = _TURNS.get(_orientation(image))
    given, xmp = image, _xmp(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled_grey(image)
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if owned and image is not given:
        given.close()
    convert = colour.lab_to_srgb() if image.mode == "LAB" else None
    used: bytes | None = None
    if profile is not None:
        try:
            converted = colour.to_srgb(profile, image.mode)
        except ValueError as error:
            warn(f"{error}; it is taken as sRGB")
        else:
            used = profile if converted is not None and own and _can_return(profile, warn) else None
            convert = converted or convert
    mine = _in_rgb(image, None) if used else None
    picture = _in_rgb(image, convert)
    if owned or image is not given:
        image.close()
    if turn is not None:
        picture = picture.transpose(turn)
        mine = mine.transpose(turn) if mine else None
    return Photo(picture, mine or picture, used, xmp)


def _xmp(image: Image.Image) -> bytes | None:
    """The XMP packet of an opened image."""
    found = image.info.get("xmp")
    return found if isinstance(found, bytes) and found.strip(b"\0 ") else None


def _can_return(profile: bytes, warn: Warn) -> bool:
    """Whether pictures can be given back in a profile: one for RGB, which knows the way from sRGB."""
    try:
        colour.from_srgb(profile)
    except ValueError as error:
        warn(f"{error}; edits of it are given back in sRGB")
        return False
    return True


def _in_rgb(image: Image.Image, convert: colour.Convert | None) -> Image.Image:
    """RGB, transparency laid on white, strip by strip: a picture may be as large as memory allows."""
    if image.mode == "RGB" and convert is None and not image.has_transparency_data:
        rgb = image.copy()
        rgb.info = {}
        return rgb
    rgb = Image.new("RGB", image.size)
    for box in _strips(image.size):
        part = image.crop(box)
        colours = part.convert("RGB") if convert is None else convert(part)
        if image.has_transparency_data:
            colours.putalpha(part.convert("RGBA").getchannel("A"))
            white = Image.new("RGBA", part.size, "white")
            colours = Image.alpha_composite(white, colours).convert("RGB")
        rgb.paste(colours, box[:2])
    return rgb


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or float as 8-bit L, or LA where a value stands for transparency."""
    scale = 255 / _white(image)
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0  # white is zero
    clear = image.info.get("transparency")
    grey = Image.new("L" if clear is None else "LA", image.size)
    for box in _strips(image.size):
        values = np.asarray(image.crop(box), dtype=np.float64)
        levels = (values * scale).round().clip(0, 255).astype(np.uint8)
        part = Image.fromarray(255 - levels if inverted else levels)
        if clear is not None:
            part.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        grey.paste(part, box[:2])
    return grey


def _white(image: Image.Image) -> int:
    """The number that stands for white. Raises ValueError where there are numbers beyond black and white."""
    smallest, largest = np.inf, -np.inf
    for box in _strips(image.size):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise ValueError(f"it holds NaN or infinity, and {RANGES}; rescale it")
        smallest, largest = min(smallest, values.min()), max(largest, values.max())
    slack = 0.0
    if image.mode == "F":
        slack, white = _FLOAT_NOISE, 1
    elif image.mode != "I" or image.format == "PPM":  # which say that they have 16 bits
        bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))
        white = 4095 if tuple(bits) == (12,) else 65535
    else:
        white = 255 if largest <= 255 else 65535
    if smallest < -slack or largest > white + slack:
        kind = "float" if image.mode == "F" else "whole"
        raise ValueError(f"its {kind} numbers go from {smallest:g} to {largest:g}, and {RANGES}; rescale it")
    return white


def _orientation(image: Image.Image) -> int:
    """How the camera was held, by EXIF; 1, upright, where it does not say so."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    except Exception:  # EXIF is a format of its own, and often damaged; the pixels are sound
        return 1


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows that together cover a picture of this size."""
    width, height = size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Quiet(contextlib.AbstractContextManager[None]):
    """Pillow's own warnings and log lines, which name no file, are not shown meanwhile.

    Several threads may decode at once, and Python's filters of warnings belong to all of them: the first one
    in sets them, the last one out puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters: warnings.catch_warnings[None] | None = None
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                pillow = logging.getLogger("PIL")
                self._level = pillow.level
                pillow.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._filters is not None:
                self._filters.__exit__(None, None, None)
                logging.getLogger("PIL").setLevel(self._level)


_QUIET = _Quiet()


def _quiet() -> _Quiet:
    return _QUIET

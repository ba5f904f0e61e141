"""Colour profiles: numbers of any colour space as sRGB, and back into a photo's own space.

A profile says what colour the numbers of a picture stand for. Everything here works on sRGB, so pictures are
converted when they are read; without a profile they are taken as sRGB, as browsers do.
"""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from clip2gan.images.png import MAX_PROFILE

_SAME = 2  # levels of 255 by which a profile may differ from sRGB and be taken as it
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC

Convert = Callable[[Image.Image], Image.Image]
"""A part of a picture, in any mode and without transparency, to RGB."""


@lru_cache(maxsize=4)  # of whole profiles: a folder's pictures seldom have more
def to_srgb(profile: bytes, mode: str) -> Convert | None:
    """What turns pictures of a Pillow mode with this profile into sRGB; None where they are it already.

    Raises ValueError, in one line, for a profile that cannot be used.
    """
    space, source = _open(profile)
    taken = _mode_for(space, mode)
    if taken is None:
        raise ValueError(f"its colour profile is for {space or 'nothing'}, not for its {mode} numbers")
    try:
        transform = ImageCms.buildTransform(source, _srgb(), taken, "RGB", _INTENT, _FLAGS)
    except ImageCms.PyCMSError as error:
        raise ValueError(f"its colour profile cannot be used ({error})") from error

    def convert(part: Image.Image) -> Image.Image:
        found = ImageCms.applyTransform(part if part.mode == taken else part.convert(taken), transform)
        assert found is not None  # it is where nothing is changed in place
        return found

    if _difference(convert, taken) <= _SAME:
        return None
    return convert


@lru_cache(maxsize=4)
def from_srgb(profile: bytes) -> Convert:
    """What turns sRGB pictures into an RGB profile's numbers.

    Raises ValueError for a profile that knows only the way to sRGB, or is of another kind than RGB.
    """
    space, target = _open(profile)
    if space != "RGB":
        raise ValueError(f"a colour profile for {space}, not for RGB")
    try:
        transform = ImageCms.buildTransform(_srgb(), target, "RGB", "RGB", _INTENT, _FLAGS)
    except ImageCms.PyCMSError as error:
        raise ValueError(f"no way from sRGB into this colour profile ({error})") from error

    def convert(part: Image.Image) -> Image.Image:
        found = ImageCms.applyTransform(part, transform)
        assert found is not None
        return found

    return convert


@lru_cache(maxsize=1)
def lab_to_srgb() -> Convert:
    """What turns pictures in CIE L*a*b* (D50) into sRGB."""
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB", _INTENT, _FLAGS)

    def convert(part: Image.Image) -> Image.Image:
        found = ImageCms.applyTransform(part, transform)
        assert found is not None
        return found

    return convert


def _open(profile: bytes) -> tuple[str, ImageCms.ImageCmsProfile]:
    """The colour space that a profile is for ("RGB", "GRAY", "CMYK", ...), and the profile."""
    if not profile:
        raise ValueError(f"its colour profile is damaged or larger than {MAX_PROFILE >> 20} MB")
    if len(profile) > MAX_PROFILE:
        raise ValueError(f"its colour profile is larger than {MAX_PROFILE >> 20} MB")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space: str = opened.profile.xcolor_space  # type: ignore[union-attr]  # Pillow types it by its argument
        return space.strip(), opened
    except Exception as error:  # of damaged bytes LittleCMS's binding raises several kinds
        raise ValueError("its colour profile is damaged") from error


def _mode_for(space: str, mode: str) -> str | None:
    """The mode in which a picture is handed to a profile of this colour space; None where they do not fit."""
    if mode == "CMYK" or space == "CMYK":
        return "CMYK" if mode == space else None
    if mode == "LAB" or space == "Lab":
        return "LAB" if (mode, space) == ("LAB", "Lab") else None
    if space == "GRAY":
        return "L" if mode in ("1", "L", "LA", "La") else None
    return "RGB" if space == "RGB" else None


def _difference(convert: Convert, mode: str) -> int:
    """By how many levels of 255 a conversion from RGB or L moves colours at most; 255 for other modes."""
    if mode not in ("RGB", "L"):
        return 255
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None]
    else:
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(27, 27, 3)
    image = Image.fromarray(probe)
    moved = np.asarray(convert(image)).astype(int) - np.asarray(image.convert("RGB")).astype(int)
    return int(np.abs(moved).max())


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

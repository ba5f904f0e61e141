"""The one decoder: every mode and format, the same for training and editing, within limits."""

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip2gan.data.pictures import open_pictures
from clip2gan.images import decode, read_picture, to_srgb

SIDE = 16
FORMATS = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".jpg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".tga": "TGA",
    ".jp2": "JPEG2000",
    ".avif": "AVIF",
    ".ico": "ICO",
    ".pcx": "PCX",
    ".sgi": "SGI",
}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
LOSSLESS = {".png", ".tif", ".bmp", ".ppm", ".tga", ".sgi", ".pcx"}


def image_in(mode: str, seed: int = 0) -> Image.Image:
    """Random pixels of a mode: blocks of 4x4, so that lossy formats keep them about."""
    random = np.random.default_rng(seed)

    def blocks(channels: int) -> np.ndarray:
        return random.integers(0, 256, (SIDE // 4, SIDE // 4, channels), np.uint8).repeat(4, 0).repeat(4, 1)

    grey = Image.fromarray(blocks(1)[..., 0])
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(grey).astype(np.int32))
    if mode == "F":
        return Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    if mode in ("1", "L"):
        return grey.convert(mode)
    colour = Image.fromarray(blocks(3))
    if mode == "LAB":
        return Image.frombytes("LAB", (SIDE, SIDE), blocks(3).tobytes())
    if mode in ("LA", "RGBA", "PA", "RGBa"):
        layer = colour.convert("RGBA")
        layer.putalpha(grey)
        return layer.convert("P").convert("PA") if mode == "PA" else layer.convert(mode)
    return colour.convert("P", colors=64) if mode == "P" else colour.convert(mode)


def expected(image: Image.Image) -> np.ndarray:
    """What a picture looks like on white, said in another way than the decoder's."""
    if image.mode == "I;16":
        grey = np.asarray(image) / 257
    elif image.mode in ("I", "F"):
        grey = np.asarray(image) * (255 if image.mode == "F" else 1)
    else:
        layer = np.asarray(image.convert("RGBA"), dtype=float)
        alpha = layer[..., 3:] / 255
        return layer[..., :3] * alpha + 255 * (1 - alpha)
    return np.repeat(np.asarray(grey, dtype=float)[..., None], 3, axis=-1)


def combinations() -> list[tuple[str, str]]:
    """The modes that each format can hold."""
    found = []
    for suffix, kind in FORMATS.items():
        for mode in MODES:
            try:
                image_in(mode).save(io.BytesIO(), kind)
            except (OSError, ValueError, KeyError):
                continue
            found.append((mode, suffix))
    return found


@pytest.mark.parametrize(("mode", "suffix"), combinations())
def test_training_and_editing_see_the_same_pixels(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    image = image_in(mode)
    image.save(path)
    edited = np.asarray(read_picture(path))
    trained = open_pictures(tmp_path, SIDE).batch([0])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(edited, trained)
    np.testing.assert_array_equal(edited, np.asarray(decode(path.read_bytes())))
    with Image.open(path) as opened:  # what a user of the library hands over
        np.testing.assert_array_equal(edited, np.asarray(to_srgb(opened)))
    if suffix in LOSSLESS and mode != "LAB":
        with Image.open(path) as opened:
            kept = expected(opened) / (257 if opened.mode == "I" and suffix == ".ppm" else 1)
        np.testing.assert_allclose(edited, kept, atol=1.01)


def test_lab_is_converted_and_not_refused(tmp_path: Path) -> None:
    Image.new("LAB", (SIDE, SIDE), (int(53.24 * 2.55), 128 + 80, 128 + 67)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(np.asarray(read_picture(tmp_path / "a.tif"))[8, 8], (255, 0, 0), atol=16)


def ramp(top: float, kind: str) -> Image.Image:
    return Image.fromarray((np.tile(np.linspace(0, 1, 32), (32, 1)) * top).astype(kind))


@pytest.mark.parametrize(
    ("top", "kind", "suffix"),
    [
        (1, "f4", ".tif"),
        (255, "i4", ".tif"),
        (65535, "i4", ".tif"),
        (65535, "u2", ".tif"),
        (65535, ">u2", ".tif"),
        (65535, "u2", ".png"),
        (65535, "i4", ".pgm"),
        (1, "f4", ".pfm"),
    ],
)
def test_grey_is_one_ramp_whatever_its_numbers(tmp_path: Path, top: float, kind: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    ramp(top, kind).save(path)
    np.testing.assert_allclose(np.asarray(read_picture(path))[5, :, 0], np.linspace(0, 255, 32), atol=1.01)
    trained = open_pictures(tmp_path, 32).batch([0])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(trained, np.asarray(read_picture(path)))


@pytest.mark.parametrize("suffix", [".pgm", ".png", ".tif"])
def test_a_dark_picture_of_16_bits_stays_dark(tmp_path: Path, suffix: str) -> None:
    ramp(200, "u2").save(tmp_path / f"a{suffix}")
    assert np.asarray(read_picture(tmp_path / f"a{suffix}")).max() == 1


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((0, 255), "f4"),
        ((-0.5, 0.5), "f4"),
        ((0, 1.5), "f4"),
        ((0, np.nan), "f4"),
        ((0, np.inf), "f4"),
        ((-1, 200), "i4"),
        ((0, 65536), "i4"),
        ((0, 2**31 - 1), "i4"),
    ],
)
def test_other_numbers_are_refused_with_the_ranges(tmp_path: Path, values: tuple, kind: str) -> None:
    pixels = np.full((16, 16), values[0], kind)
    pixels[3, 4] = values[1]
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path)
    message = "float numbers holds 0 to 1, one of whole numbers 0 to 255 or 0 to 65535"
    with pytest.raises(ValueError, match=message) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(ValueError, match=message):
        open_pictures(tmp_path, 16)


@settings(max_examples=60)
@given(
    width=st.integers(8, 40),
    height=st.integers(8, 40),
    turn=st.integers(0, 9),
    mode=st.sampled_from(["L", "P", "RGB", "RGBA", "I;16"]),
    strip=st.integers(1, 400),
)
def test_turns_and_strips_change_no_pixel(width: int, height: int, turn: int, mode: str, strip: int) -> None:
    image = image_in(mode).resize((width, height), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = turn
    data = io.BytesIO()
    image.save(data, "PNG", exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clip2gan.images.decoder._STRIP", strip)
        found = np.asarray(decode(data.getvalue()))
    upright = expected(image)
    for bit, moved in (
        (turn in (5, 6, 7, 8), lambda a: a.transpose(1, 0, 2)),
        (turn in (3, 4, 7, 8), np.flipud),
    ):
        upright = moved(upright) if bit else upright
    upright = np.fliplr(upright) if turn in (2, 3, 6, 7) else upright
    np.testing.assert_allclose(found, upright, atol=1.01)


def test_a_transparent_grey_of_16_bits_is_white(tmp_path: Path) -> None:
    pixels = np.full((16, 16), 1000, np.uint16)
    pixels[:8] = 40_000
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=1000)
    found = np.asarray(read_picture(tmp_path / "a.png"))[..., 0]
    assert found[12, 0] == 255
    assert found[2, 0] == round(40_000 / 257)


def odd_exif(cut: int | None = None) -> bytes:
    """EXIF that says "turned", and then points beyond its end."""
    entries = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\x32\x01\x04\0\x02\0\0\0\x26\0\0\0"
    return (b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + bytes(4) + b"\x01\0\0\0\x02\0\0\0")[:cut]


@pytest.mark.parametrize("cut", [None, 20, 24])
def test_odd_exif_costs_neither_the_picture_nor_a_warning(tmp_path: Path, cut: int | None) -> None:
    image = image_in("RGB").resize((24, 16))
    image.save(tmp_path / "a.jpg", exif=odd_exif(cut))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_picture(tmp_path / "a.jpg")
        open_pictures(tmp_path, 16)
    assert found.size == ((16, 24) if cut is None else (24, 16))


def test_pillows_warnings_come_back_afterwards() -> None:
    before = list(warnings.filters)
    data = io.BytesIO()
    image_in("RGB").save(data, "JPEG", exif=odd_exif())
    decode(data.getvalue())
    assert warnings.filters == before


CHILD = """
import resource, sys, time
from clip2gan.images import read_picture
from clip2gan.data.pictures import open_pictures
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before, start = peak(), time.monotonic()
try:
    picture = read_picture(sys.argv[1])
    print("read", picture.size)
except ValueError as error:
    print("refused", error)
print(peak() - before, time.monotonic() - start)
"""


def in_a_child(path: Path) -> tuple[str, float, float]:
    """What reading a picture says, by how many MB it raises the peak of memory, and its seconds."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    message, figures = done.stdout.splitlines()
    megabytes, seconds = map(float, figures.split())
    return message, megabytes, seconds

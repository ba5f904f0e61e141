"""Any picture a user may have is read or refused in one line; what is written says how it was made."""

import io
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clip2gan.images import (
    contact_sheet,
    difference,
    label,
    picture_files,
    read_metadata,
    read_picture,
    slug,
    write_png,
)
from stylegan2.training.preview import PREVIEW_SIDE, save_grid

RED = (200, 40, 40)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
def test_usual_formats_come_out_as_rgb(tmp_path: Path, suffix: str) -> None:
    picture = read_picture(saved(tmp_path / f"a{suffix}", Image.new("RGB", (12, 10), RED)))
    assert (picture.mode, picture.size) == ("RGB", (12, 10))
    np.testing.assert_allclose(np.asarray(picture)[5, 5], RED, atol=6)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste(RED, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    picture = read_picture(saved(tmp_path / "a.png", image, exif=exif))
    assert picture.size == (10, 20)
    assert picture.getpixel((5, 2)) == RED
    assert picture.getpixel((5, 17)) == (255, 255, 255)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    picture = read_picture(
        saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    )
    red, green, blue = np.asarray(picture)[8, 8]
    assert red > 200
    assert max(green, blue) < 60


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.repeat(np.array([0, 257 * 100, 65535], np.uint16), 8)[None].repeat(8, 0)
    picture = read_picture(saved(tmp_path / "a.png", Image.fromarray(grey)))
    assert [picture.getpixel((x, 4)) for x in (0, 10, 20)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (10, 10), (*RED, 0))
    image.paste((*RED, 255), (0, 0, 5, 10))
    picture = read_picture(saved(tmp_path / "a.png", image))
    assert picture.getpixel((2, 5)) == RED
    assert picture.getpixel((8, 5)) == (255, 255, 255)


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (10, 10), 0)
    image.putpalette([0, 0, 255, *RED])
    image.paste(1, (0, 0, 5, 10))
    picture = read_picture(saved(tmp_path / "a.png", image, transparency=0))
    assert picture.getpixel((2, 5)) == RED
    assert picture.getpixel((8, 5)) == (255, 255, 255)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_picture(path).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file, not a picture"),
        (b"<!DOCTYPE html><html>", "not a picture: it looks like an HTML page"),
        (b"\n <svg xmlns=''>", "not a picture: it looks like an SVG drawing; export it as PNG first"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a picture: it looks like a Git LFS pointer"),
        (b"\x80\x04K\x01.", "not a picture: it looks like a pickle"),
        (b"hello", "not a picture: it looks like text"),
        (bytes(range(128, 256)), "not a picture: no format that Pillow knows"),
        (png_header(1, 1), "1x1 pixels is too small; give at least 8x8"),
        (png_header(40_000, 40_000), "more than the 100 million pixels that are read; scale it down first"),
        (png_header(12_000, 10_000), "12000x10000 pixels is more than the 100 million"),
        (png_header(64, 64), "a damaged or cut off PNG picture ("),
    ],
)
def test_what_is_no_picture_is_named_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_truncated_pictures_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"damaged|not a picture"):
        read_picture(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, not a picture"):
        read_picture(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_picture(tmp_path / "a.png")


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]), st.integers(0, 400))
def test_damaged_bytes_raise_nothing_but_our_errors(tmp_path_factory, noise, kind, at) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    data[at : at + len(noise)] = noise
    path = tmp_path_factory.mktemp("fuzz") / "a"
    path.write_bytes(bytes(data))
    try:
        picture = read_picture(path)
    except ValueError:
        return
    assert picture.mode == "RGB"


def test_metadata_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), RED)
    metadata = {"command": "generate", "text": "ein lächelndes Gesicht 😀 微笑", "seed": 3}
    first, second = tmp_path / "new" / "a.png", tmp_path / "b.png"
    write_png(first, image, metadata)
    write_png(second, image, metadata)
    assert read_metadata(first) == metadata
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as written:
        assert json.loads(written.text["clip2gan"]) == metadata  # type: ignore[attr-defined]
        assert written.mode == "RGB"


def test_a_picture_without_metadata(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("author", "somebody")
    assert read_metadata(saved(tmp_path / "a.png", Image.new("RGB", (8, 8)), pnginfo=info)) is None
    assert read_metadata(saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8)))) is None


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), {})
    assert caught.value.filename == str(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a smiling face", "a-smiling-face"),
        ("  Red   HAIR, & beard! ", "red-hair-beard"),
        ("../../etc/passwd", "etc-passwd"),
        ("微笑的女人", "微笑的女人"),
        ("😀😀", "text"),
        ("", "text"),
        ("\x00\n\u202e", "text"),
        ("x" * 500, "x" * 60),
        ("\udcff", "text"),
    ],
)
def test_slugs(text: str, expected: str) -> None:
    assert slug(text) == expected


@given(st.text())
def test_every_text_gives_a_name_that_a_file_system_takes(text: str) -> None:
    name = slug(text)
    assert 0 < len(name.encode()) <= 120
    assert not set(name) & set('/\\:*?"<>|\0\n\r\t .')
    assert name == slug(name)


def test_picture_files_are_sorted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".c.png.tmp"):
        (tmp_path / name).touch()
    assert [path.name for path in picture_files(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in this folder"):
        picture_files(tmp_path / "empty")


def test_contact_sheets_of_large_pictures_are_reduced(tmp_path: Path) -> None:
    images = [Image.new("RGB", (60, 30), colour) for colour in ("red", "lime", "blue")]
    sheet = contact_sheet(images, columns=2, gap=0, most=20)
    assert sheet.size == (40, 20)
    assert sheet.getpixel((39, 9)) == (0, 255, 0)
    assert contact_sheet(images, columns=2, gap=0, most=100).size == (120, 60)

    save_grid(torch.ones(2, 3, 2 * PREVIEW_SIDE, 2 * PREVIEW_SIDE), tmp_path / "grid.png", columns=2, gap=0)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (2 * PREVIEW_SIDE, PREVIEW_SIDE)
        assert grid.getpixel((7, 7)) == (255, 255, 255)


def test_contact_sheet_places_pictures_row_by_row() -> None:
    images = [Image.new("RGB", (4, 3), (value, 0, 0)) for value in (10, 20, 30)]
    sheet = contact_sheet(images, columns=2, gap=1)
    assert sheet.size == (9, 7)
    assert [sheet.getpixel(at) for at in ((0, 0), (5, 0), (0, 4), (5, 4))] == [
        (10, 0, 0),
        (20, 0, 0),
        (30, 0, 0),
        (255, 255, 255),
    ]


def test_difference_is_grey_where_nothing_changed() -> None:
    before = Image.new("RGB", (2, 1), (100, 100, 100))
    after = before.copy()
    after.putpixel((1, 0), (110, 90, 100))
    shown = difference(before, after)
    assert shown.getpixel((0, 0)) == (128, 128, 128)
    assert shown.getpixel((1, 0)) == (138, 118, 128)


def ink(picture: Image.Image) -> list[int]:
    """The rows of a label that are not all white."""
    return [row for row, values in enumerate(np.asarray(picture)) if values.min() < 255]


def test_a_label_is_as_high_as_its_lines_and_cut_to_a_height() -> None:
    one, more = label("a smiling face", 200), label("a smiling face " * 20, 200)
    assert one.size == (200, 15)
    assert more.width == 200
    assert more.height == 10 * 15
    cut = label("a smiling face " * 20, 200, 50)
    assert cut.size == (200, 50)
    assert ink(cut)[-1] < 50
    rows = ink(label("smile", 200, 101))
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(50, abs=4)


@given(text=st.text(max_size=60), width=st.integers(40, 120))
def test_a_label_stays_in_its_width_whatever_the_text(text: str, width: int) -> None:
    """A word that is longer than a line, such as a path, is broken."""
    pixels = np.asarray(label(f"{text} {'runs/mapper/' * 8}bundle", width))
    assert pixels[:, :2].min() == 255
    assert pixels[:, -2:].min() == 255

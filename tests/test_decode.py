"""The one decoder: every mode and format, the same for training and editing, within limits."""

import contextlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip2gan.data.pictures import open_pictures
from clip2gan.images import decode, png, read_metadata, read_picture, to_srgb, write_png

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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(width: int, height: int, kind: int = 2, rows: int | None = None) -> bytes:
    """A PNG of zeros, as small as PNGs can be, with all or some of its rows."""
    row = 1 + width * {0: 1, 2: 3, 6: 4}[kind]
    packer = zlib.compressobj(9)
    packed = (
        b"".join(packer.compress(bytes(row * 64)) for _ in range(-(-(rows or height) // 64))) + packer.flush()
    )
    return b"".join(
        (
            png.SIGNATURE,
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
            chunk(b"IDAT", packed),
            chunk(b"IEND", b""),
        )
    )


def with_chunks(data: bytes, *more: bytes, at: str = "start") -> bytes:
    """A PNG with chunks after its header, or before its end."""
    place = len(png.SIGNATURE) + 25 if at == "start" else len(data) - 12
    return data[:place] + b"".join(more) + data[place:]


SOUND = io.BytesIO()
image_in("RGB").save(SOUND, "PNG")
MUCH = zlib.compress(b'{"node": 1} ' * 200_000)
METADATA = {
    "text": chunk(b"tEXt", b"workflow\0" + b"x" * 3_000_000),
    "packed text": chunk(b"zTXt", b"workflow\0\0" + MUCH),
    "unicode": chunk(b"iTXt", b"workflow\0\1\0\0\0" + MUCH),
    "profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3_000_000))),
    "EXIF in XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MUCH),
    "raw EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + MUCH),
    "EXIF": chunk(b"eXIf", b"II*\0" + bytes(2_000_000)),
    "unknown": chunk(b"prVt", bytes(3_000_000)),
    "broken text": chunk(b"zTXt", b"workflow\0\0not zlib"),
    "broken profile": chunk(b"iCCP", b"p\0\0not zlib"),
    "nothing": chunk(b"tEXt", b""),
    "many": b"".join(chunk(b"tEXt", b"key%d\0value" % number) for number in range(5000)),
}


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("what", METADATA)
def test_no_metadata_makes_a_png_a_damaged_picture(what: str, at: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(SOUND.getvalue(), METADATA[what], at=at))
    np.testing.assert_array_equal(read_picture(path), image_in("RGB"))
    assert len(open_pictures(tmp_path, 16)) == 1
    assert read_metadata(path) is None


def test_metadata_is_found_whatever_stands_around_it(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", image_in("RGB"), {"text": "a smile"})
    data = (tmp_path / "a.png").read_bytes()
    for at in ("start", "end"):
        data = with_chunks(data, *METADATA.values(), at=at)
    (tmp_path / "b.png").write_bytes(data)
    assert read_metadata(tmp_path / "b.png") == {"text": "a smile"}
    packed = chunk(b"zTXt", b"clip2gan\0\0" + zlib.compress(b'{"seed": 3}'))
    (tmp_path / "c.png").write_bytes(with_chunks(SOUND.getvalue(), packed))
    assert read_metadata(tmp_path / "c.png") == {"seed": 3}


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"clip2gan\0\0" + zlib.compress(bytes(40_000_000))),
        chunk(b"zTXt", b"clip2gan\0\0nonsense"),
        chunk(b"tEXt", b"clip2gan\0{"),
        chunk(b"iTXt", b"clip2gan\0\1"),
        chunk(b"tEXt", b"clip2gan\0" + b"[" * 100_000),
    ],
)
def test_damaged_metadata_is_one_line(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(with_chunks(SOUND.getvalue(), text))
    with pytest.raises(ValueError, match=r"a\.png: its metadata cannot be read \(") as caught:
        read_metadata(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), image_in("RGB"))


def test_a_picture_turned_by_xmp_or_raw_exif_is_turned() -> None:
    data = io.BytesIO()
    image_in("RGB").resize((24, 16)).save(data, "PNG")
    xmp = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')
    assert decode(with_chunks(data.getvalue(), xmp)).size == (16, 24)


@settings(max_examples=100)
@given(noise=st.binary(max_size=30), at=st.integers(0, 400), cut=st.none() | st.integers(0, 400))
def test_broken_pngs_raise_nothing_but_our_errors(noise: bytes, at: int, cut: int | None) -> None:
    small = {name: each for name, each in METADATA.items() if len(each) < 5000}
    data = bytearray(with_chunks(SOUND.getvalue(), chunk(b"tEXt", b"clip2gan\0{}"), *small.values()))
    data[at : at + len(noise)] = noise
    for read in (decode, lambda data: png.read_text(io.BytesIO(data), "clip2gan")):
        with contextlib.suppress(ValueError):
            read(bytes(data[:cut]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (claiming(8, 70_000), "8x70000 pixels: no side may be longer than 65535; crop it first"),
        (claiming(70_000, 8), "70000x8 pixels: no side may be longer than 65535; crop it first"),
        (with_chunks(SOUND.getvalue(), *[chunk(b"tEXt", b"")] * 1001), "a PNG of more than 1,000 pieces"),
    ],
)
def test_what_would_take_too_much_is_refused(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "MAX_CHUNKS", 1000)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        open_pictures(tmp_path, 16)


def test_files_have_a_limit_in_training_and_editing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (("images.decoder", "MAX_BYTES"), ("data.files", "FILE_LIMIT")):
        monkeypatch.setattr(f"clip2gan.{module}.{name}", 1 << 20)
    (tmp_path / "a.png").write_bytes(SOUND.getvalue() + bytes(1 << 20))
    with pytest.raises(ValueError, match="larger than 1 MB; scale it down"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="larger than 1 MB; scale it down"):
        open_pictures(tmp_path, 16)


@pytest.mark.parametrize("kind", [2, 6])
@pytest.mark.parametrize("turn", [1, 6])
def test_memory_is_bounded_by_the_pixels(kind: int, turn: int, tmp_path: Path) -> None:
    """At most 8 bytes a pixel at the peak, transparency and rotation included."""
    exif = chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0" + bytes([turn]) + bytes(7))
    (tmp_path / "a.png").write_bytes(with_chunks(claiming(3000, 4000, kind), exif))
    message, megabytes, _ = in_a_child(tmp_path / "a.png")
    assert message == f"read {(4000, 3000) if turn == 6 else (3000, 4000)}"
    assert megabytes < 8 * 12 + 60  # a strip and Pillow's plugins besides


def test_ten_million_rows_take_neither_time_nor_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(claiming(8, 10_000_000, rows=64))
    message, megabytes, seconds = in_a_child(tmp_path / "a.png")
    assert message.startswith("refused")
    assert "8x10000000 pixels: no side may be longer than 65535" in message
    assert megabytes < 60
    assert seconds < 5

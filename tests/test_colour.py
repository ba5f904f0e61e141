"""Pictures in any colour space are read as sRGB, and photos are given back in their own."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from icc import ADOBE_RGB, DISPLAY_P3, SRGB, SRGB_CURVE, cmyk_profile, grey_profile, in_srgb, rgb_profile
from PIL import Image

from clip2gan.data.pictures import open_pictures
from clip2gan.editing.session import EditSession
from clip2gan.images import decode, read_photo, read_picture, to_srgb, write_png
from clip2gan.model import Model

P3 = rgb_profile(DISPLAY_P3, SRGB_CURVE)
ADOBE = rgb_profile(ADOBE_RGB, 2.19921875)
SPACES = {"Display P3": (DISPLAY_P3, SRGB_CURVE, P3), "Adobe RGB": (ADOBE_RGB, 2.19921875, ADOBE)}


def colours(seed: int = 0, low: int = 0, high: int = 256) -> np.ndarray:
    """Random colours in blocks of 8x8."""
    small = np.random.default_rng(seed).integers(low, high, (4, 4, 3), np.uint8)
    return small.repeat(8, 0).repeat(8, 1)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("space", SPACES)
def test_wide_colours_are_converted(space: str, kind: str) -> None:
    primaries, curve, profile = SPACES[space]
    pixels = colours(1)
    lossless = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    data = encoded(Image.fromarray(pixels), kind, icc_profile=profile, **lossless.get(kind, {}))
    found = np.asarray(decode(data)).astype(float)
    right = in_srgb(pixels.astype(float), primaries, curve).clip(0, 255)
    assert np.abs(right - pixels).max() > 20  # the profile matters
    assert np.abs(found - right).max() < (3 if kind in ("PNG", "TIFF", "WEBP") else 16)
    np.testing.assert_allclose(found, right, atol=16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_training_and_editing_convert_alike(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(colours(2)).convert("RGBA" if mode == "RGBA" else mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "a.png", icc_profile=ADOBE)
    found = np.asarray(read_picture(tmp_path / "a.png"))
    trained = open_pictures(tmp_path, 32).batch([0])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, trained)
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(found, np.asarray(to_srgb(opened)))
    layer = np.asarray(image.convert("RGBA")).astype(float)
    right = in_srgb(layer[..., :3], ADOBE_RGB, 2.19921875).clip(0, 255)
    alpha = layer[..., 3:] / 255
    np.testing.assert_allclose(found, right * alpha + 255 * (1 - alpha), atol=3)


def test_srgb_is_left_as_it_is() -> None:
    from PIL import ImageCms

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for profile in (
        rgb_profile(SRGB, SRGB_CURVE),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ):
        np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), icc_profile=profile)), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_profiles(mode: str) -> None:
    ramp = np.arange(0, 256, 4, dtype=np.uint8)[None].repeat(64, 0)
    image = (
        Image.fromarray(ramp.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(ramp).convert(mode)
    )
    found = np.asarray(decode(encoded(image, icc_profile=grey_profile(1.8))))
    light = (np.asarray(Image.fromarray(ramp).convert("1").convert("L")) if mode == "1" else ramp) / 255
    light = light**1.8
    right = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    np.testing.assert_allclose(found, right[..., None].repeat(3, -1), atol=2)


def test_inks_look_as_on_paper() -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    plain, printed = (
        np.asarray(decode(encoded(image, "TIFF", **options)))[8, 8].astype(int)
        for options in ({}, {"icc_profile": cmyk_profile()})
    )
    assert plain.tolist() == [0, 255, 255]
    assert printed[0] < 40
    assert 120 < printed[1] < 190
    assert 190 < printed[2] < 250


@pytest.mark.parametrize(
    ("profile", "mode", "reason"),
    [
        (b"no profile at all", "RGB", "its colour profile is damaged"),
        (P3[:200], "RGB", "its colour profile"),
        (P3.replace(b"rTRC", b"xTRC"), "RGB", "its colour profile cannot be used"),
        (cmyk_profile(), "RGB", "its colour profile is for CMYK, not for its RGB numbers"),
        (grey_profile(2.2), "RGB", "its colour profile is for GRAY, not for its RGB numbers"),
        (P3, "CMYK", "its colour profile is for RGB, not for its CMYK numbers"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told(
    profile: bytes, mode: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.fromarray(colours(3)).convert(mode)
    path = tmp_path / "a.tif"
    path.write_bytes(encoded(image, "TIFF", icc_profile=profile))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_picture(path), image.convert("RGB"))
    (message,) = caplog.messages
    assert message.startswith(f"{path}: {reason}")
    assert message.endswith("it is taken as sRGB")
    caplog.clear()
    open_pictures(tmp_path, 16)
    assert f"1 pictures: a.tif ({reason}" in caplog.text


@settings(max_examples=100)
@given(data=st.binary(max_size=40), at=st.integers(0, len(P3) + 10), cut=st.integers(0, len(P3)))
def test_no_profile_makes_a_picture_unreadable(data: bytes, at: int, cut: int) -> None:
    profile = bytearray(P3)
    profile[at : at + len(data)] = data
    image = Image.fromarray(colours(4)[:8, :8])
    for each in (bytes(profile), bytes(profile[:cut])):
        assert decode(encoded(image, "TIFF", icc_profile=each), lambda note: None).size == (8, 8)


@settings(max_examples=40)
@given(seed=st.integers(0, 999), turn=st.integers(1, 8), space=st.sampled_from(sorted(SPACES)))
def test_a_photo_is_given_back_to_the_bit_where_nothing_changed(
    seed: int, turn: int, space: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    path = tmp_path_factory.mktemp("photo") / "a.tif"
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(path, icc_profile=SPACES[space][2], exif=exif)
    photo = read_photo(path)
    assert photo.profile == SPACES[space][2]
    np.testing.assert_array_equal(photo.restore(photo.picture), photo.own)
    assert sorted(np.asarray(photo.own).reshape(-1).tolist()) == sorted(pixels.reshape(-1).tolist())

    edited = photo.picture.copy()
    edited.paste((90, 120, 100), (4, 5, 12, 13))
    restored = np.asarray(photo.restore(edited)).astype(int)
    outside = np.ones(restored.shape[:2], bool)
    outside[5:13, 4:12] = False
    np.testing.assert_array_equal(restored[outside], np.asarray(photo.own)[outside])


def test_what_was_edited_looks_as_edited_in_the_photos_profile(tmp_path: Path) -> None:
    Image.fromarray(colours(5, 90, 170)).save(tmp_path / "a.png", icc_profile=P3)
    photo = read_photo(tmp_path / "a.png")
    edited = photo.picture.copy()
    edited.paste((140, 120, 100), (8, 8, 24, 24))
    write_png(tmp_path / "b.png", photo.restore(edited), {}, photo.profile)
    with Image.open(tmp_path / "b.png") as written:
        assert written.info["icc_profile"] == P3
    np.testing.assert_allclose(
        np.asarray(read_picture(tmp_path / "b.png")).astype(int), np.asarray(edited).astype(int), atol=3
    )


@pytest.mark.parametrize(
    ("mode", "profile"), [("RGB", None), ("RGB", rgb_profile(SRGB, SRGB_CURVE)), ("CMYK", cmyk_profile())]
)
def test_photos_that_are_given_back_in_srgb(mode: str, profile: bytes | None, tmp_path: Path, caplog) -> None:
    Image.fromarray(colours(6)).convert(mode).save(tmp_path / "a.tif", icc_profile=profile)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.profile is None
    assert photo.restore(photo.picture) is photo.picture is photo.own


def test_pngs_that_are_written_say_that_they_are_srgb(tmp_path: Path) -> None:
    image = Image.fromarray(colours(7))
    image.info["icc_profile"] = P3  # left over from somewhere
    write_png(tmp_path / "a.png", image, {})
    with Image.open(tmp_path / "a.png") as written:
        assert written.info["srgb"] == 1
        assert "icc_profile" not in written.info
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), image)


def test_a_photo_with_its_face_pasted_back_keeps_its_profile(
    tmp_path: Path, run: Run, tiny_bundle: Path
) -> None:
    pixels = np.random.default_rng(8).integers(0, 256, (96, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png", icc_profile=P3)
    points = "30,40,50,40,40,50,32,60,48,60"
    for strength, name in ((0, "same.png"), (2, "other.png")):
        options = [
            "--model",
            tiny_bundle,
            "--device",
            "cpu",
            "--steps",
            2,
            "--points",
            points,
            "--paste-back",
        ]
        options += ["--image", tmp_path / "photo.png", "--attr", f"a hat:{strength}"]
        code, _, err = run("edit", *options, "--out", tmp_path / name)
        assert code == 0, err
        with Image.open(tmp_path / name) as written:
            assert written.info["icc_profile"] == P3
    same, other = (np.asarray(Image.open(tmp_path / name)) for name in ("same.png", "other.png"))
    np.testing.assert_array_equal(same, pixels)
    changed = (other != pixels).any(-1)
    assert changed.any()
    assert not changed[:, :2].any()
    assert not changed[-2:].any()


def test_the_library_takes_pictures_of_any_profile(tiny: Model) -> None:
    image = Image.fromarray(colours(9))
    with Image.open(io.BytesIO(encoded(image, icc_profile=ADOBE))) as opened:
        right = decode(encoded(image, icc_profile=ADOBE))
        np.testing.assert_array_equal(tiny.fit(opened), tiny.fit(right))
        np.testing.assert_array_equal(EditSession(tiny, opened).photo, right)

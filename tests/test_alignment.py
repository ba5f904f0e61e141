"""Faces in photographs: FFHQ's square of five points, the way back into the photo, and the real detector."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.editing.alignment import (
    Landmarks,
    Square,
    crop_face,
    face_mask,
    face_square,
    looks_unaligned,
    paste_face,
)
from clip2gan.editing.faces import find_faces

UPRIGHT = ((40.0, 50.0), (60.0, 50.0), (50.0, 60.0), (43.0, 70.0), (57.0, 70.0))


def turned(points, angle: float, scale: float, dx: float, dy: float) -> list[tuple[float, float]]:
    """Points turned clockwise about the origin, scaled and moved."""
    c, s = math.cos(angle), math.sin(angle)
    return [(scale * (c * x - s * y) + dx, scale * (s * x + c * y) + dy) for x, y in points]


def smooth_photo(width: int = 320, height: int = 280) -> Image.Image:
    """A photo of gentle waves, which survives resampling."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17 + k) * np.cos(y / (13 + 4 * k)) for k in range(3)]
    return Image.fromarray((127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)


def test_an_upright_face_has_ffhqs_square() -> None:
    square = face_square(Landmarks.of(UPRIGHT))
    # Eyes 20 apart, the mouth 20 below: half a side is max(2 * 20, 1.8 * 20), the centre 2 below the eyes.
    assert square.side == pytest.approx(80)
    assert square.angle == pytest.approx(0)
    assert square.centre == pytest.approx((50, 52))
    assert np.allclose(square.corners(), [(10, 12), (10, 92), (90, 92), (90, 12)])


@given(st.floats(-3, 3), st.floats(0.3, 20), st.floats(-500, 500), st.floats(-500, 500))
def test_the_square_goes_with_the_face(angle: float, scale: float, dx: float, dy: float) -> None:
    still, moved = (
        face_square(Landmarks.of(points)) for points in (UPRIGHT, turned(UPRIGHT, angle, scale, dx, dy))
    )
    assert moved.side == pytest.approx(scale * still.side)
    assert np.allclose(
        moved.corners(), turned(still.corners(), angle, scale, dx, dy), atol=1e-6 * scale + 1e-6
    )


def test_68_points_are_read_as_dlib_numbers_them() -> None:
    points = np.zeros((68, 2))
    points[36:42], points[42:48], points[30], points[48], points[54] = UPRIGHT
    assert Landmarks.of(points.tolist()) == Landmarks.of(UPRIGHT)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(0, 0)] * 4, "5 or 68 points"),
        ([(1, 1)] * 5, "fall into one place"),
        ([(math.nan, 1)] * 5, "finite"),
    ],
)
def test_points_that_are_no_face(points: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Landmarks.of(points)


def test_a_turned_face_is_cut_out_upright() -> None:
    photo = smooth_photo()
    face = turned(UPRIGHT, 0.0, 1.0, 100, 80)
    upright = crop_face(photo, face_square(Landmarks.of(face)), 80)
    spun = photo.rotate(-20, Image.Resampling.BICUBIC, center=(160, 140))
    about = [(x - 160, y - 140) for x, y in face]
    again = turned(about, math.radians(20), 1.0, 160, 140)
    square = face_square(Landmarks.of(again))
    assert square.angle == pytest.approx(20)
    assert psnr(np.asarray(crop_face(spun, square, 80)), np.asarray(upright)) > 30


def test_beyond_the_photo_it_is_mirrored() -> None:
    photo = smooth_photo()
    square = Square((10.0, 10.0), (40.0, 0.0))
    cut = np.asarray(crop_face(photo, square, 80))
    assert np.allclose(cut[30:, 30:], np.asarray(photo)[:50, :50], atol=2)
    assert np.allclose(cut[30:, :30], cut[30:, 30:60][:, ::-1], atol=2)


def test_a_square_far_beyond_the_photo_is_refused() -> None:
    with pytest.raises(ValueError, match="far larger than the photo"):
        crop_face(smooth_photo(), Square((0.0, 0.0), (50_000.0, 0.0)), 64)


def test_a_face_at_the_edge_of_a_large_photo_is_no_matter() -> None:
    photo = smooth_photo(30_000, 20)
    cut, same = (
        np.asarray(
            crop_face(photo.crop((left, 0, 30_000, 20)), Square((29_900.0 - left, 10.0), (900.0, 0.0)), 18)
        )
        for left in (0, 28_000)
    )
    assert (cut == same).all()


@given(st.floats(-3, 3), st.floats(25, 60))
def test_a_face_that_is_cut_out_and_put_back_is_where_it_was(angle: float, half: float) -> None:
    """A perfect inversion into a hole: the round trip gives the photo back."""
    photo = smooth_photo()
    square = Square((150.0, 140.0), (half * math.cos(angle), half * math.sin(angle)))
    face = crop_face(photo, square, 256)
    nothing = Image.new("RGB", face.size)
    back = np.asarray(paste_face(Image.new("RGB", photo.size), square, nothing, face))
    inside = np.asarray(face_mask(photo.size, square)) == 255
    assert inside.sum() > 500
    assert psnr(back[inside], np.asarray(photo)[inside]) > 38


def test_what_did_not_change_stays_to_the_bit() -> None:
    photo = smooth_photo()
    square = Square((150.0, 140.0), (50.0, 20.0))
    face = crop_face(photo, square, 64)
    assert paste_face(photo, square, face, face).tobytes() == photo.tobytes()
    changed = np.asarray(paste_face(photo, square, face, Image.new("RGB", face.size, "red")))
    outside = np.asarray(face_mask(photo.size, square)) == 0
    assert (changed[outside] == np.asarray(photo)[outside]).all()
    centre = changed[140, 150].astype(int)
    assert centre[0] > 200
    assert centre[1:].max() < 60


def test_framing_is_compared_with_ffhqs() -> None:
    face = Landmarks.of(UPRIGHT)
    aligned = Image.new("RGB", (100, 104))
    assert looks_unaligned(aligned, face) is None
    assert "times as large" in str(looks_unaligned(Image.new("RGB", (400, 400)), face))
    lying = Landmarks.of(turned(UPRIGHT, math.pi / 2, 1.0, 100, 0))
    assert "turned by 90 degrees" in str(looks_unaligned(Image.new("RGB", (100, 100)), lying))


def portrait() -> Image.Image:
    """A real portrait, of a real astronaut, in the scikit-image wheel."""
    data = pytest.importorskip(
        "skimage.data", reason="scikit-image, which carries the portrait, is not installed"
    )
    return Image.fromarray(data.astronaut())


def detector() -> None:
    mediapipe = pytest.importorskip("mediapipe", reason="MediaPipe (extra `align`) is not installed")
    if not hasattr(mediapipe, "solutions"):
        pytest.skip("this MediaPipe carries no models (0.10.14 is the last that does)")


def test_the_real_detector_finds_a_real_face() -> None:
    detector()
    photo = portrait()
    (face,) = find_faces(photo)
    expected = ((204, 103), (247, 104), (223, 131), (201, 139), (246, 141))
    for name, point in zip(
        ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth"), expected, strict=True
    ):
        assert math.dist(getattr(face, name), point) < 6, name
    double = photo.resize((1024, 1024))
    assert np.allclose(np.array(find_faces(double)[0].nose) / 2, face.nose, atol=3)


def test_the_real_detector_counts_from_the_left() -> None:
    detector()
    photo = portrait()
    pair = Image.new("RGB", (1024, 512))
    pair.paste(photo, (0, 0))
    pair.paste(photo, (512, 0))
    first, second = find_faces(pair)
    assert second.nose[0] - first.nose[0] == pytest.approx(512, abs=4)


def test_the_real_detector_finds_no_face_where_there_is_none() -> None:
    detector()
    assert find_faces(smooth_photo()) == []
    assert find_faces(Image.new("RGB", (16, 16))) == []


def test_a_portrait_goes_through_an_edit_and_back(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    detector()
    photo = portrait()
    photo.save(tmp_path / "photo.png")
    args = ["--model", tiny_bundle, "--device", "cpu", "--image", tmp_path / "photo.png", "--source", "clip"]
    args += ["--attr", "hat", "--align", "--paste-back"]
    assert run("edit", *args, "--strength", 0, "--out", tmp_path / "same.png")[0] == 0
    assert run("edit", *args, "--strength", 5, "--out", tmp_path / "hat.png")[0] == 0
    with Image.open(tmp_path / "same.png") as same, Image.open(tmp_path / "hat.png") as hat:
        assert same.tobytes() == photo.tobytes()
        changed = (np.asarray(hat) != np.asarray(photo)).any(-1)
        square = face_square(find_faces(photo)[0])
        assert changed.any()
        assert not changed[np.asarray(face_mask(photo.size, square)) == 0].any()


def test_more_faces_are_never_written_over_other_pictures(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    detector()
    photo = portrait()
    pair = Image.new("RGB", (1024, 512))
    pair.paste(photo, (0, 0))
    pair.paste(photo, (512, 0))
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    pair.save(folder / "pair.png")
    args = ["--model", tiny_bundle, "--device", "cpu", "--source", "clip", "--attr", "hat:1", "--align"]
    out.mkdir()
    (out / "pair-face2.png").write_text("mine")
    code, _, err = run("edit", *args, "--image", folder / "pair.png", "--out", out)
    assert code == 1
    assert "pair-face2.png exists already; give --force to overwrite" in err
    assert err.count("\n") == 1
    assert [path.name for path in out.iterdir()] == ["pair-face2.png"]
    photo.save(folder / "pair-face2.png")
    code, _, err = run("edit", *args, "--image", folder, "--out", out, "--force")
    assert code == 1
    assert "pair.png: pair-face2.png and a face of pair.png would both become" in err
    assert {path.name for path in out.iterdir()} == {"pair-face2.png", "figures.csv"}
    (folder / "pair-face2.png").unlink()
    assert run("edit", *args, "--image", folder, "--out", out, "--force", "--sheet")[0] == 0
    assert {path.name for path in out.iterdir()} == {
        "pair.png", "pair-face2.png", "pair-sheet.png", "pair-sheet-face2.png", "figures.csv",
    }  # fmt: skip


def test_photos_without_a_face_are_named_and_the_rest_done(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    detector()
    folder = tmp_path / "photos"
    folder.mkdir()
    portrait().convert("L").save(folder / "grey.png")
    portrait().rotate(25).save(folder / "rotated.png")
    smooth_photo().save(folder / "waves.png")
    Image.new("RGB", (8, 8)).save(folder / "tiny.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    (folder / "clip.gif").write_bytes(b"GIF89a")
    (folder / "notes.txt").write_text("junk")
    args = ["--model", tiny_bundle, "--device", "cpu", "--image", folder, "--source", "clip", "--attr", "hat"]
    code, _, err = run("edit", *args, "--align", "--out", tmp_path / "out")
    assert code == 1
    named = ("waves.png: no face found", "tiny.png: no face found", "broken.jpg", "clip.gif", "notes.txt")
    for name in named:
        assert name in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"grey.png", "rotated.png", "figures.csv"}


def test_without_mediapipe_the_remedy_is_named(
    run: Run, tiny_bundle: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", None)  # as if it were not installed
    args = ["--model", tiny_bundle, "--image", picture, "--attr", "hat", "--align"]
    code, _, err = run("edit", *args)
    assert code == 2
    assert "pip install 'clip2gan[align]'" in err
    assert "--points" in err

"""EditSession: everything that `clip2gan edit` does, from Python."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import clip2gan
from clip2gan.editing.alignment import Landmarks, face_mask, face_square
from clip2gan.editing.kind import SAMPLES, Usual, find_usual, judge_kind, measure_usual
from clip2gan.editing.notices import NoStoredLatents, NotFramed, NotReached, OtherKind, PoorInversion
from clip2gan.editing.session import EditSession, InversionOptions
from clip2gan.model import Model
from stylegan2.generator import SynthesisNetwork

POINTS = [(80.0, 70.0), (110.0, 72.0), (94.0, 85.0), (84.0, 100.0), (108.0, 101.0)]
MAPPED = InversionOptions(source="clip")


@pytest.fixture(scope="module")
def avatars() -> Model:
    return clip2gan.load("avatars", device="cpu")


def photo() -> Image.Image:
    return Image.linear_gradient("L").resize((200, 160)).convert("RGB")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows of ws are drawn, call by call."""
    rows: list[int] = []
    forward = SynthesisNetwork.forward

    def count(self: SynthesisNetwork, ws: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        rows.append(len(ws))
        return forward(self, ws, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SynthesisNetwork, "forward", count)
    return rows


def test_a_whole_picture_is_one_entry(tiny: Model) -> None:
    session = EditSession(tiny, photo(), inversion=MAPPED)
    (face,) = session.faces
    edit = face.edit({"hat": 1.0, "sad": -2.0})
    assert face.square is None
    assert face.picture.size == edit.after.size == (32, 32)
    ws = tiny.estimate(photo())
    assert edit.before.tobytes() == tiny.synthesize(ws).tobytes()
    assert edit.after.tobytes() == tiny.edit(ws, {"hat": 1.0, "sad": -2.0}).tobytes()
    assert edit.change.strengths == {"hat": 1.0, "sad": -2.0}
    assert edit.figures()["psnr"] == pytest.approx(tiny.psnr(photo(), ws), abs=0.01)
    with pytest.raises(ValueError, match="a whole picture is not pasted back"):
        session.paste_back()


def test_a_face_is_inverted_once_and_drawn_once(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    invert = Model.invert

    def watched(self: Model, *args: object, **options: object) -> torch.Tensor:
        found.append(args)
        return invert(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "invert", watched)
    options = InversionOptions(config=tiny.domain.inversion.__class__(steps=2))
    (face,) = EditSession(tiny, photo(), inversion=options).faces
    assert found == []
    assert face.ws.shape == (1, tiny.generator.num_ws, 8)
    rows = counted(monkeypatch)
    first = face.edit({"hat": 1.0})
    assert sum(rows) == 2  # before and after
    face.edit({"sad": 1.0})
    assert sum(rows) == 3
    assert face.psnr == first.figures()["psnr"] or math.isclose(
        face.psnr, first.figures()["psnr"], abs_tol=0.01
    )
    assert first.before is face.before
    assert sum(rows) == 3
    assert len(found) == 1


def test_auto_draws_few_pictures(avatars: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """After inversion; a dozen strengths and five further drawings were the price once."""
    image = avatars.generate("a man with a beard", seed=3)[0]
    (face,) = EditSession(avatars, image, inversion=MAPPED).faces
    assert face.ws is not None
    rows = counted(monkeypatch)
    edit = face.edit({"sunglasses": "auto"})
    assert edit.after.size == (64, 64)
    assert face.psnr > 0
    assert edit.change.reached == {"sunglasses": True}
    assert not edit.notices
    assert sum(rows) <= 8


def test_strengths_are_looked_for_beside_given_ones(avatars: Model) -> None:
    image = avatars.generate("a smiling woman", seed=5)[0]
    (face,) = EditSession(avatars, image, inversion=MAPPED).faces
    edit = face.edit({"sunglasses": "auto", "red hair": 0.5})
    assert edit.change.strengths["red hair"] == 0.5
    assert edit.change.strengths["sunglasses"] > 0
    removed = face.edit({"long hair": "-auto"}, keep=["smiling"])
    assert removed.change.strengths["long hair"] <= 0
    with pytest.raises(ValueError, match="the strength of 'hat' must be a finite number or 'auto'"):
        face.edit({"hat": math.nan})


def test_what_is_not_reached_is_a_value(tiny: Model) -> None:
    (face,) = EditSession(tiny, photo(), inversion=MAPPED).faces
    reached = {}
    for text, sign in (("sad", 1), ("sad", -1), ("hat", 1), ("hat", -1)):
        edit = face.edit({text: "auto" if sign > 0 else "-auto"})
        reached[text, sign] = edit.change.reached[text]
        assert bool(edit.notices) != edit.change.reached[text]
        for notice in edit.notices:
            assert isinstance(notice, NotReached)
            assert (notice.attribute, notice.sign) == (text, sign)
            assert f'--attr "{"-" if notice.sign < 0 else ""}{text}:3"' in str(notice)
    assert set(reached.values()) == {True, False}


def test_a_sweep_ends_in_the_edit_of_its_last_strength(tiny: Model) -> None:
    (face,) = EditSession(tiny, photo(), inversion=MAPPED).faces
    strip = face.sweep({"hat": 1.0}, [-1.0, 0.0, 2.0])
    assert [edit.change.strengths["hat"] for edit in strip] == [-1.0, 0.0, 2.0]
    assert strip[1].after.tobytes() == face.before.tobytes()
    assert face.edited is strip[2]
    assert strip[2].after.tobytes() == face.edit({"hat": 2.0}).after.tobytes()


def test_a_reference_picture_moves_it_too(tiny: Model) -> None:
    other = tiny.generate("a hat", seed=8)[0]
    (face,) = EditSession(tiny, photo(), inversion=MAPPED).faces
    moved = face.edit({}, reference=other, strength=0.5)
    assert moved.after.tobytes() == tiny.edit(face.ws, {}, reference=other, strength=0.5).tobytes()
    assert moved.figures()["reference"] == 0.5
    assert "reference" not in face.edit({"hat": 1.0}).figures()


def test_faces_go_back_into_the_photo(tiny: Model) -> None:
    session = EditSession(tiny, photo(), points=POINTS, inversion=MAPPED)
    (face,) = session.faces
    with pytest.raises(ValueError, match="nothing was edited yet"):
        session.paste_back()
    still = face.edit({"hat": 0.0})
    assert session.paste_back().tobytes() == photo().tobytes()
    face.edit({"hat": 4.0})
    pasted = session.paste_back()
    changed = (np.asarray(pasted) != np.asarray(photo())).any(-1)
    outside = np.asarray(face_mask(photo().size, face_square(Landmarks.of(POINTS)))) == 0
    assert changed.any()
    assert not changed[outside].any()
    assert session.paste_back([still]).tobytes() == photo().tobytes()


def test_frames_go_from_none_to_full(tiny: Model) -> None:
    session = EditSession(tiny, photo(), points=POINTS, inversion=MAPPED)
    edit = session.faces[0].edit({"hat": 2.0})
    faces = list(session.frames(num=5))
    assert [frame.size for frame in faces] == [(32, 32)] * 5
    assert faces[0].tobytes() == edit.before.tobytes()
    assert faces[-1].tobytes() == edit.after.tobytes()
    whole = list(session.frames(paste_back=True, num=3))
    assert whole[0].tobytes() == photo().tobytes()
    assert whole[-1].tobytes() == session.paste_back().tobytes()
    points = [(10 * x, 10 * y) for x, y in POINTS]
    large = EditSession(tiny, photo().resize((2000, 1600)), points=points, inversion=MAPPED)
    large.faces[0].edit({"hat": 2.0})
    assert next(large.frames(paste_back=True, num=2)).size == (1024, 819)


def test_a_video_and_a_sheet(tiny: Model, tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    session = EditSession(tiny, photo(), inversion=MAPPED)
    edit = session.faces[0].edit({"hat": 2.0})
    session.write_video(tmp_path / "v.gif")
    with Image.open(tmp_path / "v.gif") as video:
        assert video.size == (256, 256)
    sheet = edit.sheet()
    assert sheet.crop((34, 0, 66, 32)).tobytes() == edit.after.tobytes()
    assert sheet.crop((0, 0, 32, 32)).tobytes() == session.faces[0].picture.tobytes()


def test_latents_that_were_found_before_are_taken(tiny: Model) -> None:
    from clip2gan.editing.inversion import picture_fingerprint

    ws = tiny.style(4)
    stored = {picture_fingerprint(tiny.fit(photo())): ws}
    (face,) = EditSession(tiny, photo(), inversion=InversionOptions("clip", stored=stored)).faces
    assert torch.equal(face.ws, ws)
    assert face.source == "latents"
    (other,) = EditSession(
        tiny, Image.new("RGB", (40, 40)), inversion=InversionOptions("clip", stored=stored)
    ).faces
    assert NoStoredLatents("the file", "clip") in other.notices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": "faces"}, "unknown alignment 'faces'; choose 'ffhq' or None"),
        ({"face": 0}, "faces are counted from 1, got 0"),
        ({"points": [(1, 1)] * 5}, "the points are no face"),
        ({"points": [(x + 150, y) for x, y in POINTS]}, "is outside of the photo, which has 200x160 pixels"),
        ({"inversion": InversionOptions("encoder")}, "has no encoder; `clip2gan train-encoder --model"),
    ],
)
def test_sessions_that_make_no_sense(tiny: Model, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EditSession(tiny, photo(), **options)


def test_framing_is_told_where_the_model_expects_one(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from clip2gan.editing import session

    assert EditSession(tiny, photo()).notices == ()
    monkeypatch.setattr(Model, "expects_aligned", True)
    monkeypatch.setattr(session, "find_faces", lambda *_: [])
    assert EditSession(tiny, photo()).notices == (NotFramed("it shows 0 faces"),)
    assert EditSession(tiny, photo(), points=POINTS).notices == ()


def star(color: str = "red") -> Image.Image:
    image = Image.new("RGB", (200, 200), "white")
    corners = [(90 if k % 2 else 40, k * math.pi / 5) for k in range(10)]
    points = [(100 + r * math.sin(a), 100 + r * math.cos(a)) for r, a in corners]
    ImageDraw.Draw(image).polygon(points, fill=color)
    return image


def test_pictures_of_another_kind_are_told_by_what_is_usual(avatars: Model) -> None:
    circle = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(circle).ellipse((20, 20, 108, 108), fill="red")
    for other in (star(), star("blue"), circle, Image.new("RGB", (64, 64), "teal")):
        notice = judge_kind(avatars, other)
        assert isinstance(notice, OtherKind)
        assert notice.distance > notice.usual
        assert "does not look like the pictures that the model makes" in str(notice)
    for seed in range(12):
        own = avatars.synthesize(avatars.random_ws(1, torch.Generator().manual_seed(100 + seed)))
        assert judge_kind(avatars, own) is None
        assert judge_kind(avatars, own.resize((500, 500)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) is None


def test_an_untrained_model_blames_no_picture(tiny: Model) -> None:
    assert judge_kind(tiny, star()) is None
    usual = Usual(distance=1.0, encoder_psnr=9.5)
    notice = PoorInversion("encoder", 8.2, usual.encoder_psnr)
    assert str(notice) == (
        "comes back at 8.2 dB only (the encoder gives the model's own pictures back at 9.5 dB); "
        "--source invert is more accurate"
    )


def test_what_is_usual_is_measured_once(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = counted(monkeypatch)
    first = find_usual(tiny)
    assert sum(rows) == 2 * SAMPLES
    assert find_usual(tiny) == first == measure_usual(tiny)
    (file,) = tmp_path.rglob("*.json")
    del rows[:]
    file.write_text('{"distance": NaN}')  # damaged: measured again
    assert find_usual(tiny) == first
    assert sum(rows) == 2 * SAMPLES
    file.unlink()
    file.parent.chmod(0o500)
    assert find_usual(tiny) == first

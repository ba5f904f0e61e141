"""Edits: what the user writes, directions in latent space, and latents found for a picture."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.editing.attributes import AUTO_STRENGTHS, least_strength, parse_attributes, parse_sweep
from clip2gan.editing.inversion import InversionConfig, pixel_distance
from clip2gan.pipeline import Clip2Gan, combine


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["smiling"], {"smiling": 1.0}),
        (["smiling:1.5", "-glasses"], {"smiling": 1.5, "glasses": -1.0}),
        (["-glasses:2", "long red hair : 0.5"], {"glasses": -2.0, "long red hair": 0.5}),
        (["-glasses:-1"], {"glasses": 1.0}),
        (["\N{MINUS SIGN}beard"], {"beard": -1.0}),
        (["smiling:0"], {"smiling": 0.0}),
        (["well-dressed"], {"well-dressed": 1.0}),
        ([], {}),
    ],
)
def test_attributes(items: list[str], expected: dict[str, float]) -> None:
    assert parse_attributes(items) == expected


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["smiling:very"], "'smiling:very': 'very' is not a number; write TEXT or TEXT:STRENGTH"),
        (["smiling:nan"], "'nan' is not a number"),
        (["smiling:inf"], "'inf' is not a number"),
        (["smiling:"], "'' is not a number"),
        ([""], "'' names no attribute"),
        (["-"], "'-' names no attribute"),
        ([":1"], "':1' names no attribute"),
        (["sad", "-sad"], "the attribute 'sad' is given twice"),
    ],
)
def test_attributes_that_make_no_sense(items: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_attributes(items)


@given(
    st.text("abcdefgh -", min_size=1).map(str.strip).filter(lambda text: text.strip("- ") and text[0] != "-"),
    st.floats(-10, 10).map(lambda x: round(x, 3)),
)
def test_any_strength_can_be_written(text: str, strength: float) -> None:
    assert parse_attributes([f"{text}:{strength}"]) == {text: strength}


def test_sweeps() -> None:
    assert parse_sweep("-1:2:4") == [-1.0, 0.0, 1.0, 2.0]
    assert parse_sweep("1:-1:3") == [1.0, 0.0, -1.0]


@pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "0:1:1", "0:1:65", "0:nan:3", "0:1:2.5", "1:2:3:4"])
def test_sweeps_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="-1:2:7"):
        parse_sweep(text)


def test_the_least_strength_that_gains_nearly_all() -> None:
    saturating = {strength: 1 - math.exp(-2 * strength) for strength in (0.0, *AUTO_STRENGTHS)}
    assert least_strength(saturating) == 0.8
    assert least_strength({strength: -strength for strength in saturating}) == 1.0
    assert least_strength({strength: strength for strength in saturating}) == 2.0


def test_no_attributes_leave_the_picture_as_it_is(tiny: Clip2Gan) -> None:
    image = tiny.generate("a face")[0]
    ws = tiny.estimate(image)
    unchanged = tiny.synthesize(ws).tobytes()
    assert tiny.edit(ws, {}).tobytes() == unchanged
    assert tiny.edit(ws, {"smiling": 0.0}).tobytes() == unchanged
    assert tiny.edit(ws, {"smiling": 1.0}, strength=0.0).tobytes() == unchanged
    assert tiny.edit(image, {}, source="clip").tobytes() == unchanged


def test_edits_are_the_formula_of_the_paper_less_the_neutral_text(tiny: Clip2Gan) -> None:
    image = tiny.generate("a face")[0]
    directions = tiny.directions(["smiling", "hats"], neutral="somebody")
    ws = tiny.estimate(image) + 1.5 * directions["smiling"] - 2.0 * directions["hats"]
    edited = tiny.edit(
        image, {"smiling": 0.75, "hats": -1.0}, source="clip", neutral="somebody", strength=2.0
    )
    assert edited.tobytes() == tiny.synthesize(ws).tobytes()


def test_the_neutral_text_itself_changes_nothing(tiny: Clip2Gan) -> None:
    assert combine(tiny.directions(["a face"]), {"a face": 5.0}).abs().max() == 0  # type: ignore[union-attr]


def test_a_reference_draws_the_picture_to_itself(tiny: Clip2Gan) -> None:
    reference = tiny.generate("a hat", seed=8)[0]
    ws = tiny.estimate(tiny.generate("a face")[0])
    own = tiny.estimate(tiny.synthesize(ws))
    expected = tiny.synthesize(ws + 0.5 * (tiny.estimate(reference) - own))
    assert tiny.edit(ws, {}, reference=reference, strength=0.5).tobytes() == expected.tobytes()


def test_auto_strengths_keep_signs_and_proportions(tiny: Clip2Gan) -> None:
    ws = tiny.estimate(tiny.generate("a face")[0])
    wanted = {"smiling": 2.0, "glasses": -1.0}
    strengths = tiny.auto_strengths(ws, wanted)
    assert strengths["smiling"] / 2.0 in AUTO_STRENGTHS
    assert -strengths["glasses"] in AUTO_STRENGTHS
    assert tiny.edit(ws, wanted, strength="auto").tobytes() == tiny.edit(ws, strengths).tobytes()


def test_inversion_finds_a_picture_of_the_generator_again(tiny: Clip2Gan) -> None:
    image = tiny.synthesize(tiny.style(1))
    start = tiny.error(image, tiny.estimate(image))
    ws = tiny.invert(image, InversionConfig(steps=60))
    assert ws.shape == (1, tiny.generator.num_ws, 8)
    assert tiny.error(image, ws) < 0.5 * start
    assert torch.equal(ws, tiny.invert(image, InversionConfig(steps=60)))


def test_no_steps_give_the_estimate(tiny: Clip2Gan) -> None:
    image = tiny.generate("a face")[0]
    assert torch.equal(tiny.invert(image, InversionConfig(steps=0)), tiny.estimate(image))


def test_a_stronger_pull_stays_nearer_to_the_start(tiny: Clip2Gan) -> None:
    image = tiny.synthesize(tiny.style(1))
    start = tiny.estimate(image)
    near, far = (
        (tiny.invert(image, InversionConfig(steps=20, pull=pull)) - start).norm() for pull in (10.0, 0.0)
    )
    assert near < 0.8 * far


def test_inversion_takes_pictures_of_any_shape(tiny: Clip2Gan) -> None:
    wide = Image.linear_gradient("L").resize((90, 40)).convert("RGB")
    assert tiny.invert(wide, InversionConfig(steps=1)).shape == (1, tiny.generator.num_ws, 8)
    assert tiny.fit(wide).size == (32, 32)


def test_inversion_shows_its_steps(tiny: Clip2Gan) -> None:
    seen = []

    def watch(steps):
        for step in steps:
            seen.append(step)
            yield step

    tiny.invert(tiny.generate("a face")[0], InversionConfig(steps=3), watch)
    assert seen == [0, 1, 2]


def test_pixel_distance_sees_all_scales() -> None:
    zeros, ones = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert pixel_distance(zeros, zeros) == 0
    assert float(pixel_distance(zeros, ones)) == pytest.approx(1.0)
    checkers = zeros.clone()
    checkers[..., ::2] = 1
    checkers[..., 1::2] = -1  # averages out at the second scale
    assert float(pixel_distance(zeros, checkers)) == pytest.approx(1 / 3)

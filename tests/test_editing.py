"""Edits: what the user writes, directions in latent space, and latents found for a picture."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_bundle, make_generator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.bundle import BundleInfo, write_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.domain import Domain
from clip2gan.editing.attributes import parse_attributes, parse_sweep
from clip2gan.editing.change import (
    Directions,
    draw_origin,
    make_course,
    measure_change,
    start_trials,
)
from clip2gan.editing.directions import (
    Course,
    Parts,
    ReferenceBank,
    relevance,
    restricted_to,
)
from clip2gan.editing.encoder import EncoderConfig, LatentEncoder, load_encoder, save_encoder
from clip2gan.editing.inversion import (
    InversionConfig,
    TuningConfig,
    load_latents,
    picture_fingerprint,
    pixel_distances,
    psnr,
    save_latents,
)
from clip2gan.editing.strength import FACTORS, Trial, Trials, Want, identity, least_strengths, wants_of
from clip2gan.gap import TextSide
from clip2gan.model import Model, load
from stylegan2 import Generator


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


def unit(*rows: list[float]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


# Pictures that differ in two things, seen by the first and the second coordinate, and are alike in the third.
BANK = ReferenceBank(unit([1, 1, 3], [1, -1, 3], [-1, 1, 3], [-1, -1, 3]), sharpness=40.0)
FIRST = unit([1, 0, 0])[0]


def test_a_direction_changes_what_the_text_names_and_nothing_else() -> None:
    e = BANK.embeddings[2]  # without the first thing, with the second
    delta = BANK.towards(e, FIRST, locality=0.1)
    assert delta[0] > 0.1
    assert abs(delta[1]) < 0.02 * delta[0]
    assert BANK.towards(BANK.embeddings[0], FIRST, sign=-1, locality=0.1)[0] < -0.1


def test_a_step_of_one_says_the_text_as_clearly_as_pictures_that_show_it() -> None:
    e = BANK.embeddings[2]
    shown = torch.nn.functional.normalize(e + BANK.step(e, FIRST, locality=0.1), dim=0)
    assert float(BANK.clearness(shown[None], FIRST)) == pytest.approx(1.0, abs=1e-3)
    assert float(BANK.clearness(e[None], FIRST)) == pytest.approx(-1.0, abs=1e-3)
    assert float(BANK.clearness(e[None], FIRST, sign=-1)) == pytest.approx(1.0, abs=1e-3)


def course(e: torch.Tensor, **settings) -> Course:
    """A course whose latents are the embeddings themselves."""
    parts = Parts(lambda e: e[:, None], lambda e: e[:, None], BANK)
    texts = {"first": FIRST[None]}
    return Course(parts, e[None, None], e[None], texts, unit([0, 0, 1]), locality=0.1, **settings)


def look(ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws nothing: the embedding is the latent."""
    return ws, torch.nn.functional.normalize(ws[:, 0], dim=1)


def test_auto_takes_the_least_strength_at_which_clip_agrees() -> None:
    lacking = course(BANK.embeddings[2])
    choice = least_strengths(Trials(lacking, [1], BANK, look), wants_of({"first": "auto"}))
    assert choice.clearness[0] >= 0.9
    weaker = FACTORS[FACTORS.index(choice.strengths[0]) - 1]
    there = lacking(torch.tensor([[weaker]]))[:, 0]
    assert float(BANK.clearness(torch.nn.functional.normalize(there, dim=1), FIRST)) < 0.9


def test_auto_leaves_a_picture_alone_that_shows_it_already() -> None:
    shown = course(BANK.embeddings[0])
    choice = least_strengths(Trials(shown, [1], BANK, look), wants_of({"first": "auto"}))
    assert choice.strengths == (0.0,)
    assert choice.clearness[0] >= 0.9


def test_auto_never_gives_up_identity() -> None:
    """Where every step makes another person of it, nothing is done."""
    strange = unit([0, 1, 0])[0]

    def draw(ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = (ws[:, 0] - BANK.embeddings[2]).norm(dim=1, keepdim=True)
        return ws, torch.nn.functional.normalize(ws[:, 0] - 30 * moved * strange, dim=1)

    trials = Trials(course(BANK.embeddings[2]), [1], BANK, draw)
    choice = least_strengths(trials, wants_of({"first": "auto"}))
    assert choice.strengths == (0.0,)
    assert choice.clearness[0] < 0.9


def test_auto_comes_back_to_what_a_later_attribute_blurs() -> None:
    e = unit([-1, -1, 3])[0]
    parts = Parts(lambda e: e[:, None], lambda e: e[:, None], BANK)
    texts = {"first": FIRST[None], "second": unit([0, 1, 0])}
    both = Course(parts, e[None, None], e[None], texts, unit([0, 0, 1]), locality=0.1)
    looks = []

    def draw(ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        looks.append(ws)
        blurred = ws[:, 0] - 0.15 * (ws[:, 0, 1:2] - e[1]) * FIRST
        return ws, torch.nn.functional.normalize(blurred, dim=1)

    trials = Trials(both, [1, 1], BANK, draw)
    choice = least_strengths(trials, wants_of({"first": "auto", "second": "auto"}))
    assert min(choice.clearness) >= 0.9
    first, second = choice.strengths
    assert first > second
    assert len(looks) <= 4 * 5  # two rounds of two attributes, each by halving
    _, e_end = draw(both(torch.tensor([choice.strengths])))
    assert choice.clearness[0] == pytest.approx(float(BANK.clearness(e_end, FIRST)), abs=1e-5)


def rising(clearness: Sequence[float], identities: Sequence[float]) -> tuple[Trials, list[float]]:
    """Trials of which CLIP finds these at strength 0 and at each factor, and the strengths they looked at."""
    looks: list[float] = []
    still = course(BANK.embeddings[2])

    class Known(Trials):
        def __call__(self, strengths: Sequence[float]) -> Trial:
            (value,) = strengths
            looks.append(value)
            step = (0.0, *FACTORS).index(value)
            return Trial((value,), still.ws, still.e, (clearness[step],), identities[step])

    return Known(still, [1], BANK, look), looks


SAME = [1.0] * (len(FACTORS) + 1)


@given(st.integers(1, len(FACTORS)), st.floats(0, 0.8), st.floats(0.9, 3))
def test_auto_looks_at_few_strengths_and_finds_the_one_that_all_would_show(
    step: int, below: float, above: float
) -> None:
    clearness = [below * i / step for i in range(step)] + [above + i for i in range(14 - step)]
    trials, looks = rising(clearness, SAME)
    assert least_strengths(trials, wants_of({"first": "auto"})).strengths == (FACTORS[step - 1],)
    assert len(set(looks)) <= 5  # of 14


def test_auto_comes_down_from_what_is_too_strong_to_be_seen() -> None:
    """Clearness may fall again; the least strength at which CLIP agrees is taken all the same."""
    clearness = [0.0, 0.6, 0.78, 0.9, 0.94, 0.92, 0.88, 0.72, 0.61, 0.55, 0.58, 0.6, 0.6, 0.6]
    trials, _ = rising(clearness, SAME)
    assert least_strengths(trials, wants_of({"first": "auto"})).strengths == (0.7,)


def test_auto_goes_past_what_is_like_neither_picture() -> None:
    clearness = [-0.2, -0.1, 0.3, 0.95, 1.1, 1.1, 1.1, *[1.1] * 7]
    identities = [1.0, 0.99, 0.96, 0.89, 0.88, 0.88, 0.91, *[0.96] * 7]
    trials, _ = rising(clearness, identities)
    assert least_strengths(trials, wants_of({"first": "auto"})).strengths == (1.0,)


def test_auto_takes_the_clearest_where_nothing_is_clear_enough() -> None:
    clearness = [0.0, 0.1, 0.2, 0.4, 0.5, 0.7, 0.6, *[0.3] * 7]
    trials, _ = rising(clearness, SAME)
    assert least_strengths(trials, wants_of({"first": "auto"})).strengths == (0.9,)


def test_some_strengths_can_be_given_and_others_looked_for() -> None:
    wants = wants_of({"a": 0.5, "b": "auto", "c": "-auto"}, strength=2.0)
    assert [(want.strength, want.sign, want.search) for want in wants.values()] == [
        (1.0, 1, False),
        (1.0, 1, True),
        (-1.0, -1, True),
    ]
    for wrong in ("strong", float("nan"), float("inf"), None):
        with pytest.raises(ValueError, match="the strength of 'a' must be a finite number or 'auto'"):
            wants_of({"a": wrong})  # type: ignore[dict-item]


def test_identity_does_not_count_what_was_named() -> None:
    before, after = unit([0, 1, 1], [5, 1, 1])
    assert float(identity(after[None], before, FIRST[None])) == pytest.approx(1.0)
    assert float(identity(unit([0, 1, -1]), before, FIRST[None])) == pytest.approx(0.0, abs=1e-6)


def test_what_is_kept_is_left_out_of_the_direction() -> None:
    kept = unit([1, 1, 0])
    free, bound = course(BANK.embeddings[2]), course(BANK.embeddings[2], keep=[kept])
    away = BANK.towards(BANK.embeddings[2], kept[0], locality=0.1)
    moved = [(one(torch.tensor([[1.0]])) - one.ws).flatten() for one in (free, bound)]
    assert abs(float(moved[0] @ away)) > 0.01
    assert abs(float(moved[1] @ away)) < 0.1 * abs(float(moved[0] @ away))


def test_strength_zero_gives_the_latents_themselves() -> None:
    for method in ("neighbours", "clip", "mapped", "raw"):
        one = course(BANK.embeddings[2], method=method)
        assert torch.equal(one(torch.zeros(2, 1)), one.ws.expand(2, -1, -1))


def test_an_unknown_direction_is_named() -> None:
    with pytest.raises(ValueError, match="unknown direction 'up'; choose neighbours, clip, mapped or raw"):
        course(BANK.embeddings[2], method="up")


def test_relevance_is_measured_for_every_style_channel(tiny: Model) -> None:
    delta = tiny.prompt("a hat").embedding[0]
    found = relevance(tiny.generator, tiny.clip, delta, lambda random: tiny.random_ws(1, random), samples=3)
    assert [len(layer) for layer in found] == [
        sum(affine.weight.shape[0] for affine in affines)
        for affines in tiny.generator.synthesis.style_layers()
    ]
    assert max(float(layer.max()) for layer in found) == pytest.approx(1.0)
    assert all(float(layer.min()) >= 0 for layer in found)
    assert not any(parameter.requires_grad for parameter in tiny.generator.parameters())


def test_masks_leave_style_channels_alone(tiny: Model) -> None:
    layers = tiny.generator.synthesis.style_layers()
    sizes = [sum(affine.weight.shape[0] for affine in affines) for affines in layers]
    moved = torch.randn(2, tiny.generator.num_ws, 8, generator=torch.Generator().manual_seed(0))
    nothing = restricted_to(tiny.generator, [torch.zeros(size) for size in sizes])
    assert nothing(moved).abs().max() == 0
    everything = restricted_to(tiny.generator, [torch.ones(size) for size in sizes])(moved)
    for index, affines in enumerate(layers):
        weight = torch.cat([affine.weight for affine in affines])
        assert (moved[:, index] @ weight.T - everything[:, index] @ weight.T).norm() < 0.3 * (
            moved[:, index] @ weight.T
        ).norm()


def test_no_attributes_leave_the_picture_as_it_is(tiny: Model) -> None:
    image = tiny.generate("a face")[0]
    ws = tiny.estimate(image)
    unchanged = tiny.synthesize(ws).tobytes()
    assert tiny.edit(ws, {}).tobytes() == unchanged
    assert tiny.edit(ws, {"smiling": 0.0}).tobytes() == unchanged
    assert tiny.edit(ws, {"smiling": 1.0}, strength=0.0).tobytes() == unchanged
    assert tiny.edit(image, {}, source="clip").tobytes() == unchanged


def test_mapped_edits_are_the_formula_of_the_paper_less_the_neutral_text(tiny: Model) -> None:
    image = tiny.generate("a face")[0]
    texts = torch.cat([tiny.prompt(text).embedding for text in ("somebody", "smiling", "hats")])
    neutral, smiling, hats = tiny.gap.map_text(texts, tiny.mapper).split(1)
    ws = tiny.estimate(image) + 1.5 * (smiling - neutral) - 2.0 * (hats - neutral)
    edited = tiny.edit(
        image,
        {"smiling": 0.75, "hats": -1.0},
        source="clip",
        neutral="somebody",
        strength=2.0,
        direction="mapped",
    )
    assert edited.tobytes() == tiny.synthesize(ws).tobytes()


def test_raw_edits_are_the_formula_of_the_paper(tiny: Model) -> None:
    image = tiny.generate("a face")[0]
    mapped = tiny.gap.map_text(tiny.prompt("smiling").embedding, tiny.mapper)
    edited = tiny.edit(image, {"smiling": 0.2}, source="clip", direction="raw")
    assert edited.tobytes() == tiny.synthesize(tiny.estimate(image) + 0.2 * mapped).tobytes()


def test_the_clip_route_maps_the_difference_of_texts(tiny: Model) -> None:
    ws = tiny.estimate(tiny.generate("a face")[0])
    e, text, neutral = (
        tiny.prompt(each).embedding for each in (tiny.synthesize(ws), "hat", tiny.domain.neutral)
    )
    e = tiny.clip.encode_images(tiny.generator.synthesis(ws))
    step = torch.nn.functional.normalize(text - neutral, dim=1)
    moved = torch.nn.functional.normalize(e + 0.5 * step, dim=1)
    expected = ws + tiny.mapper(moved) - tiny.mapper(e)
    found = tiny.change(ws, {"hat": 0.5}, Directions(method="clip")).ws
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_gap_without_memory_compares_with_samples(
    tiny_clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few = Domain(name="x", references=40)
    folder = make_bundle(tmp_path / "model", tiny_clip, gap="none", domain=few)
    model = load(str(folder), device="cpu")
    ws = model.estimate(Image.new("RGB", (32, 32), "teal"))
    change = model.change(ws, {"hat": 1.0})
    assert model.reference_bank.embeddings.shape == (40, 16)
    assert change.moved > 0
    again = load(str(tmp_path / "model"), device="cpu")  # from the cache this time
    assert torch.equal(again.reference_bank.embeddings, model.reference_bank.embeddings)


def test_a_generator_that_takes_texts_is_told_texts(
    tiny_clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever random latents are drawn for: comparison, tuning, the style channels that matter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    generator = Generator(replace(make_generator().config, c_dim=tiny_clip.embed_dim)).eval()
    gap = TextSide(mean_image=torch.zeros(16), mean_text=torch.zeros(16))
    info = BundleInfo(name="m", domain=Domain(name="m", references=40))
    write_bundle(tmp_path / "m", generator, tiny_clip, {}, gap, info=info)
    model = load(str(tmp_path / "m"), device="cpu")
    monkeypatch.setattr(Generator, "draw_labels", None)  # those are of classes
    told = model.random_ws(500, torch.Generator().manual_seed(5))[:, 0]
    assert torch.allclose(model.mapper.w_std, told.std(0), rtol=0.2)
    assert model.reference_bank.embeddings.shape == (40, 16)
    image = model.generate("a face")[0]
    ws = model.invert(image, InversionConfig(steps=2))
    assert model.change(ws, {"hat": 1.0}, Directions(threshold=0.01)).moved > 0
    assert model.tune(image, ws, TuningConfig(steps=2)).psnr(image, ws) > 0


def test_the_neutral_text_itself_changes_nothing(tiny: Model) -> None:
    ws = tiny.estimate(tiny.generate("a hat")[0])
    for method in ("clip", "mapped"):
        assert tiny.change(ws, {tiny.domain.neutral: 1.0}, Directions(method=method)).moved == 0


def test_a_reference_draws_the_picture_to_itself(tiny: Model) -> None:
    reference = tiny.generate("a hat", seed=8)[0]
    ws = tiny.estimate(tiny.generate("a face")[0])
    own = tiny.mapper(tiny.clip.encode_images(tiny.generator.synthesis(ws)))
    expected = tiny.synthesize(ws + tiny.estimate(reference) - own)
    edited = tiny.edit(ws, {}, reference=reference)
    assert (
        psnr(
            *(torch.tensor(list(each.tobytes())).view(1, 1, 1, -1) / 127.5 - 1 for each in (edited, expected))
        )
        > 50
    )


def test_auto_strengths_keep_signs_and_proportions(tiny: Model) -> None:
    ws = tiny.estimate(tiny.generate("a face")[0])
    wanted = {"smiling": 2.0, "glasses": -1.0}
    strengths = tiny.change(ws, wanted, strength="auto").strengths
    steps = (0.0, *FACTORS)
    assert min(abs(strengths["smiling"] / 2.0 - step) for step in steps) < 1e-6
    assert min(abs(-strengths["glasses"] - step) for step in steps) < 1e-6


def test_a_change_tells_what_it_came_to(tiny: Model) -> None:
    ws = tiny.estimate(tiny.generate("a face")[0])
    still = tiny.change(ws, {"smiling": 0.0})
    assert (still.moved, still.perceptual, still.gains) == (0.0, 0.0, {"smiling": 0.0})
    assert still.identity == pytest.approx(1.0, abs=1e-5)
    change = tiny.change(ws, {"smiling": 1.0})
    assert change.moved == pytest.approx(
        float(((change.ws - ws) / tiny.mapper.w_std).square().mean().sqrt()), rel=1e-5
    )
    assert set(change.figures()) == {
        "strengths", "clip", "clip_gain", "reached", "identity", "perceptual", "moved", "from_average",
    }  # fmt: skip


def test_a_removal_that_nothing_was_done_for_is_judged_as_a_removal(tiny: Model) -> None:
    ws = tiny.estimate(tiny.generate("a face")[0])
    origin = draw_origin(tiny, ws)
    changes = []
    for sign in (1, -1):
        want = {"hat": Want(0.0, sign)}
        trials = start_trials(tiny, origin, make_course(tiny, origin, want, Directions()), want)
        changes.append(measure_change(tiny, origin, trials, trials([0.0])))
    shown, gone = changes
    for change, sign in ((shown, 1), (gone, -1)):
        clearness = float(tiny.reference_bank.clearness(origin.e, change.course.e_texts[0], sign))
        assert change.clearness["hat"] == pytest.approx(clearness, abs=1e-4)
        assert change.reached == {"hat": clearness >= 0.9}
    found = tiny.change(ws, {"hat": -1.0}, strength=0.0)
    assert found.clearness == gone.clearness
    assert tiny.change(ws, {"hat": -1.0}, strength="auto").clearness["hat"] >= gone.clearness["hat"] - 1e-4


@pytest.mark.parametrize("reference", [False, True])
def test_a_part_of_a_change_goes_its_own_way(tiny: Model, reference: bool) -> None:
    """Also where that is not the usual one: a film must not jump at its end."""
    ws = tiny.estimate(tiny.generate("a face")[0])
    other = tiny.generate("a hat", seed=8)[0] if reference else None
    origin, want = draw_origin(tiny, ws), {"hat": Want(1.5, 1)}
    course = make_course(tiny, origin, want, Directions(), locality=0.7, reference=other)
    trials = start_trials(tiny, origin, course, want, 0.5)
    change = measure_change(tiny, origin, trials, trials([1.5]))
    assert torch.equal(change.at(0), ws)
    assert torch.equal(change.at(1), change.ws)
    length = (change.ws - ws).norm()
    assert (change.at(0.999) - change.ws).norm() < 0.01 * length
    assert (change.at(0.001) - ws).norm() < 0.01 * length


def test_inversion_finds_a_picture_of_the_generator_again(tiny: Model) -> None:
    image = tiny.synthesize(tiny.style(1))
    start = tiny.error(image, tiny.estimate(image))
    ws = tiny.invert(image, InversionConfig(steps=60))
    assert ws.shape == (1, tiny.generator.num_ws, 8)
    assert tiny.error(image, ws) < 0.5 * start
    assert torch.equal(ws, tiny.invert(image, InversionConfig(steps=60)))


def test_pictures_are_inverted_together_as_alone(tiny: Model) -> None:
    images = [tiny.synthesize(tiny.style(seed)) for seed in (1, 2)]
    config = InversionConfig(steps=12)
    together = tiny.invert_all(images, config)
    for image, ws in zip(images, together.split(1), strict=True):
        assert torch.allclose(ws, tiny.invert(image, config), atol=1e-3)


def test_no_steps_give_the_estimate(tiny: Model) -> None:
    image = tiny.generate("a face")[0]
    assert torch.equal(tiny.invert(image, InversionConfig(steps=0)), tiny.estimate(image))


def test_what_has_converged_takes_no_more_steps(tiny: Model) -> None:
    image = tiny.synthesize(tiny.style(1))
    impatient = InversionConfig(steps=200, tolerance=0.9)
    assert torch.equal(
        tiny.invert(image, impatient), tiny.invert(image, InversionConfig(steps=400, tolerance=0.9))
    )


def test_more_steps_are_never_worse(tiny: Model) -> None:
    image = tiny.synthesize(tiny.style(3))
    few, many = (tiny.error(image, tiny.invert(image, InversionConfig(steps=n))) for n in (5, 40))
    assert many < few


def test_tuning_brings_the_picture_nearer_and_leaves_the_model_alone(tiny: Model) -> None:
    image = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    ws = tiny.estimate(image)
    before = tiny.synthesize(ws).tobytes()
    tuned = tiny.tune(image, ws, TuningConfig(steps=20, lr=5e-3))
    assert tuned.psnr(image, ws) > tiny.psnr(image, ws) + 1
    assert tiny.synthesize(ws).tobytes() == before


def test_latents_are_found_again_by_their_picture(tiny: Model, tmp_path: Path) -> None:
    image = tiny.generate("a face")[0]
    ws = tiny.estimate(image)
    path = tmp_path / "w.safetensors"
    save_latents(path, ws, [picture_fingerprint(image)], {"command": "invert"})
    found = load_latents(path, tiny.generator)
    assert torch.equal(found[picture_fingerprint(image.copy())], ws)
    assert picture_fingerprint(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) not in found
    save_latents(path, ws, ["x"], {"model": "other", "fingerprint": "f" * 64})
    with pytest.raises(
        ValueError, match=r"latents of another model, other \(ffffffffffff\); this one is 000"
    ):
        load_latents(path, tiny.generator, "0" * 64)
    save_latents(path, ws[:, :2], ["x"], {})
    with pytest.raises(ValueError, match=re.escape("latents of [2, 8], but this model's are [8, 8]")):
        load_latents(path, tiny.generator)


def test_an_encoder_is_read_as_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = LatentEncoder(EncoderConfig(w_dim=8, resolution=32, channel_base=256, channel_max=16))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    save_encoder(encoder, tmp_path / "e.safetensors")
    again = load_encoder(tmp_path / "e.safetensors")
    assert torch.equal(again(images), encoder(images))
    larger = torch.nn.functional.interpolate(images, scale_factor=2, mode="nearest")
    assert again(larger).shape == (2, 8)


def test_a_model_without_an_encoder_says_how_to_get_one(tiny: Model) -> None:
    with pytest.raises(ValueError, match="has no encoder; `clip2gan train-encoder --model"):
        tiny.edit(Image.new("RGB", (32, 32)), {"sad": 1.0}, source="encoder")


def test_a_stronger_pull_stays_nearer_to_the_start(tiny: Model) -> None:
    image = tiny.synthesize(tiny.style(1))
    start = tiny.estimate(image)
    near, far = (
        (tiny.invert(image, InversionConfig(steps=20, pull=pull)) - start).norm() for pull in (10.0, 0.0)
    )
    assert near < 0.8 * far


def test_inversion_takes_pictures_of_any_shape(tiny: Model) -> None:
    wide = Image.linear_gradient("L").resize((90, 40)).convert("RGB")
    assert tiny.invert(wide, InversionConfig(steps=1)).shape == (1, tiny.generator.num_ws, 8)
    assert tiny.fit(wide).size == (32, 32)


def test_inversion_shows_its_steps(tiny: Model) -> None:
    seen = []

    def watch(steps):
        for step in steps:
            seen.append(step)
            yield step

    tiny.invert(tiny.generate("a face")[0], InversionConfig(steps=3), watch)
    assert seen == [0, 1, 2]


def test_pixel_distance_sees_all_scales() -> None:
    zeros, ones = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert float(pixel_distances(zeros, zeros)) == 0
    assert float(pixel_distances(zeros, ones)) == pytest.approx(1.0)
    checkers = zeros.clone()
    checkers[..., ::2] = 1
    checkers[..., 1::2] = -1  # averages out at the second scale
    assert float(pixel_distances(zeros, checkers)) == pytest.approx(1 / 3)

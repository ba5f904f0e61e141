"""A text that says nothing to a model is told, and one that it knows never is."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from conftest import Run, make_bundle

from clip2gan.bundle import read_config
from clip2gan.clip import ClipEncoder
from clip2gan.domain import Domain
from clip2gan.editing.contrast import judge_text, measure_least_contrast
from clip2gan.editing.notices import SaysNothing, shorten
from clip2gan.evaluation.judge import judged_prompts
from clip2gan.model import Model, load

NONSENSE = (
    *("quantum tax law", "zxqv blorp", "mortgage repayment schedule", "recursive descent parser"),
    *("a kilogram of potatoes", "the bishop takes the knight", "seventeen divided by four", "pipe wrench"),
    *("tectonic plates", "the ferry leaves at noon", "ground floor flat to let", "vector space", "gloop"),
    *("stainless steel bolts", "an appeal to the high court", "wind turbines offshore", "leap year"),
    *("liquid nitrogen", "the minutes were approved", "xml schema validation"),
)


@pytest.fixture(scope="module")
def avatars() -> Model:
    return load("avatars", device="cpu")


def test_nonsense_is_told_and_what_is_known_is_not(avatars: Model) -> None:
    told = [judge_text(avatars, text) for text in NONSENSE]
    assert sum(notice is not None for notice in told) >= 0.8 * len(NONSENSE)
    assert told[0] is not None
    assert told[1] is not None
    prompts = [prompt["text"] for prompt in judged_prompts("avatars")]
    assert len(prompts) == 100
    assert sum(judge_text(avatars, text) is not None for text in prompts) < 3
    domain = avatars.domain
    for text in (domain.neutral, "A FACE.", *domain.prompts, *domain.attribute_texts):
        assert judge_text(avatars, text) is None, text


def test_the_stored_statistic_is_the_measured_one(avatars: Model) -> None:
    memory = getattr(avatars.gap, "memory", None)
    found = measure_least_contrast(avatars.clip, memory, avatars.domain)
    assert avatars.domain.least_contrast == pytest.approx(found, rel=0.02)


def test_a_model_without_the_statistic_tells_nothing(
    avatars: Model, tiny: Model, tiny_clip: ClipEncoder, tmp_path: Path
) -> None:
    assert tiny.domain.least_contrast is None
    assert judge_text(tiny, "quantum tax law") is None
    embeddings = torch.nn.functional.normalize(torch.randn(8, tiny_clip.embed_dim), dim=-1)
    assert measure_least_contrast(tiny_clip, embeddings, Domain()) is None  # it has no texts
    assert measure_least_contrast(tiny_clip, None, avatars.domain) is None  # nor pictures
    bundle = make_bundle(tmp_path / "model", tiny_clip)
    plain = json.loads((bundle / "config.json").read_text())
    del plain["domain"]["least_contrast"]
    (bundle / "config.json").write_text(json.dumps(plain))
    assert read_config(bundle).domain.least_contrast is None


def test_commands_tell_it_in_one_line(run: Run, tmp_path: Path, picture: Path) -> None:
    device = ("--device", "cpu")
    code, _, err = run("generate", "--text", "quantum tax law", *device, "--out", tmp_path / "a.png")
    assert code == 0
    assert err == (
        "Warning: 'quantum tax law' means hardly anything to this model's CLIP, so the picture may show "
        f"anything; it knows words about {', '.join(groups())}\n"
    )
    edit = ["edit", "--image", tmp_path / "a.png", "--source", "clip", "--strength", 1, *device]
    code, _, err = run(*edit, "--attr", "leap year", "--out", tmp_path / "b.png")
    assert (code, err.count("'leap year' means hardly anything to this model's CLIP")) == (0, 1)
    code, _, err = run(*edit, "--attr", "sad", "--out", tmp_path / "c.png")
    assert (code, err.count("means hardly anything")) == (0, 0)


def groups() -> list[str]:
    return [name.replace("_", " ") for name in load("avatars", device="cpu").domain.vocabulary]


def test_a_model_without_a_vocabulary_names_texts_that_it_knows(
    tiny_clip: ClipEncoder, tmp_path: Path
) -> None:
    prompts = tuple(f"a car number {number}" for number in range(9))
    domain = Domain(name="cars", neutral="a car", prompts=prompts, least_contrast=2.0)
    model = load(make_bundle(tmp_path / "cars", tiny_clip, domain=domain), device="cpu")
    notice = judge_text(model, "quantum tax law")
    assert str(notice).endswith("texts such as 'a car number 0', 'a car number 3', 'a car number 6'")
    assert judge_text(model, " a car  NUMBER 3!") is None


def test_a_long_text_is_shortened() -> None:
    notice = SaysNothing("la " * 100, ("melody",))
    assert "\n" not in str(notice)
    assert len(str(notice)) < 250
    assert shorten("line\nbreak") == "line break"


def test_a_limit_has_its_limits() -> None:
    with pytest.raises(ValueError, match="least_contrast"):
        dataclasses.replace(Domain(), least_contrast=-1.0)

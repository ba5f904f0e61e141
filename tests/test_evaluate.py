"""Measuring models: the figures, and the command."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip2gan.evaluation.metrics import clip_score, diversity, frechet_distance, r_precision


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_perfect_model_has_the_texts_own_embeddings():
    texts = unit(30, 8)
    own = torch.arange(30).repeat_interleave(2)
    assert clip_score(texts[own], texts[own]) == pytest.approx(1)
    assert r_precision(texts[own], texts, own) == 1
    assert r_precision(texts[own.flip(0)], texts, own) == 0
    assert diversity(texts[:, None].expand(-1, 3, -1)) == pytest.approx(0, abs=1e-6)
    opposite = torch.stack([texts, -texts], dim=1)
    assert diversity(opposite) == pytest.approx(2)


def test_r_precision_of_chance_is_one_in_as_many_as_there_are_candidates():
    found = r_precision(unit(20000, 8, seed=1), unit(500, 8), torch.arange(20000) % 500, candidates=10)
    assert found == pytest.approx(0.1, abs=0.02)


@settings(deadline=None, max_examples=20)
@given(shift=st.floats(-2, 2), scale=st.floats(0.5, 2))
def test_the_frechet_distance_of_normal_distributions_is_known(shift: float, scale: float):
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).double()
    found = frechet_distance(x, scale * x + shift)
    mean, deviation = x.mean(0), x.std(0).square().sum()
    expected = ((scale - 1) * mean + shift).square().sum() + (scale - 1) ** 2 * deviation
    assert found == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)


@pytest.fixture
def small(tmp_path: Path) -> list[object]:
    (tmp_path / "prompts.txt").write_text("a smiling face\na person with glasses\nan old man\n")
    (tmp_path / "attributes.txt").write_text("smiling\nred hair\n")
    (tmp_path / "real").mkdir()
    for index in range(3):
        Image.new("RGB", (80, 64), (80 * index, 100, 50)).save(tmp_path / "real" / f"{index}.png")
    lists = ["--prompts", tmp_path / "prompts.txt", "--attributes", tmp_path / "attributes.txt"]
    return ["evaluate", "--num", 2, "--device", "cpu", "--out", tmp_path / "report.json", *lists]


def test_models_are_put_side_by_side(run: Run, small: list[object], tmp_path: Path):
    code, out, err = run(*small, "--real", tmp_path / "real", "--against", "avatars:mlp")
    assert code == 0, err
    report = json.loads((tmp_path / "report.json").read_text())
    first, second = report["figures"]["avatars"], report["figures"]["avatars:mlp"]
    assert set(first) == {
        "clip_score", "r_precision", "diversity", "frechet_clip", "reconstruction_l1",
        "reconstruction_cosine", "edit_gain", "edit_kept", "seconds",
    }  # fmt: skip
    assert {**first, "seconds": 0} == {**second, "seconds": 0}  # the same model and mapper by two names
    assert (tmp_path / "report.md").read_text() in out
    with Image.open(tmp_path / "report.png") as sheet:
        assert sheet.height == 3 * 96 + 2 * 2  # a row for each prompt

    code, _, err = run(*small)
    assert code == 1
    assert "report.json exists already" in err


def test_without_real_pictures_there_is_less_to_say(run: Run, small: list[object], tmp_path: Path):
    assert run(*small)[0] == 0
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]["avatars"]
    assert set(figures) == {"clip_score", "r_precision", "diversity", "seconds"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "avatars"], "the same model twice"),
        (["--against", "avatars:foo"], "avatars has no mapper 'foo'"),
        (["--model", "nowhere"], "unknown model 'nowhere'"),
        (["--out", "report.txt"], "name it report.json"),
        (["--num", "1"], "--num"),
        (["--real", "nowhere"], "nowhere"),
    ],
)
def test_mistakes(options: list[str], message: str, run: Run, small: list[object], tmp_path: Path):
    code, _, err = run(*small, *options)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "report.json").exists()

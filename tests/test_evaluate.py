"""Measuring models: the figures, and the command."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_perceptual import face_network

from clip2gan.evaluation import inception
from clip2gan.evaluation.attributes import named, others_kept, variety
from clip2gan.evaluation.avatars import groups
from clip2gan.evaluation.inception import missing_part
from clip2gan.evaluation.metrics import clip_score, diversity, frechet_distance, r_precision
from clip2gan.pipeline import load


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
        "reconstruction_cosine", "reconstruction_kept", "edit_gain", "edit_kept", "seconds", "memory_gb",
    }  # fmt: skip
    costs = {"seconds": 0, "memory_gb": 0}
    assert {**first, **costs} == {**second, **costs}  # the same model and mapper by two names
    assert 0.2 < first["memory_gb"] < 4
    if missing_part():
        assert f"FID and KID are left out; for them {missing_part()}" in err
    assert (tmp_path / "report.md").read_text() in out
    with Image.open(tmp_path / "report.png") as sheet:
        assert sheet.height == 3 * 96 + 2 * 2  # a row for each prompt

    code, _, err = run(*small)
    assert code == 1
    assert "report.json exists already" in err


def test_without_real_pictures_there_is_less_to_say(run: Run, small: list[object], tmp_path: Path):
    assert run(*small)[0] == 0
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]["avatars"]
    assert set(figures) == {"clip_score", "r_precision", "diversity", "seconds", "memory_gb"}


def test_the_judge_sees_what_texts_name(run: Run, tmp_path: Path):
    """With the package's own prompts, whose meaning is known; a model of other things is not judged."""
    (tmp_path / "real").mkdir()
    for seed in range(4):
        picture = load("avatars", device="cpu").generate("a person", seed=seed)[0]
        picture.save(tmp_path / "real" / f"{seed}.png")
    options = ["--num", 2, "--real", tmp_path / "real", "--device", "cpu", "--out", tmp_path / "report.json"]
    code, _, err = run("evaluate", *options, "--identity", face_network(tmp_path / "face.onnx"))
    assert code == 0, err
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]["avatars"]
    assert 0.7 < figures["named"] <= 1
    assert 0.4 < figures["variety"] < 1.2
    assert {"edit_target", "edit_others", "reconstruction_kept"} <= set(figures)
    assert 0 < figures["reconstruction_identity"] < 0.5


def test_a_model_of_other_things_is_not_judged(
    run: Run, small: list[object], tiny_bundle: Path, tmp_path: Path
):
    assert run(*small, "--model", tiny_bundle, "--real", tmp_path / "real")[0] == 0
    figures = json.loads((tmp_path / "report.json").read_text())["figures"][str(tiny_bundle)]
    assert "reconstruction_l1" in figures
    assert "reconstruction_kept" not in figures


def attributes(**values: str) -> dict[str, str]:
    plain = {name: group.values[0] for name, group in groups().items()}
    return {**plain, "hair": "short", "facial_hair": "none", "eyewear": "none", **values}


def test_named_attributes_are_counted_text_by_text():
    seen = [[attributes(hair="bob"), attributes(hair="bun")], [attributes(eyewear="glasses")] * 2]
    claims = [{"hair": ["bob"]}, {"eyewear": ["glasses"], "hair": ["long"]}]
    assert named(claims, seen) == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert named([{"eyes": ["open"]}], [[attributes(eyewear="sunglasses", eyes="open")]]) == 0  # hidden


def test_others_are_kept_where_they_can_be_seen():
    before = attributes(hair="bob", skin="pale")
    assert others_kept([before], [attributes(hair="bun", skin="pale")], ["hair"]) == 1
    assert others_kept([before], [attributes(hair="bob", skin="dark")], ["hair"]) == pytest.approx(8 / 9)
    covered = attributes(hair="bob", skin="pale", eyewear="sunglasses", eyes="closed")
    assert others_kept([before], [covered], ["eyewear"]) == 1


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_variety_is_relative_to_the_generator(seed: int):
    rng = np.random.default_rng(seed)

    def sample(**fixed: str) -> dict[str, str]:
        drawn = {name: group.values[rng.integers(len(group.values))] for name, group in groups().items()}
        return {**drawn, **fixed}

    samples = [sample() for _ in range(1600)]
    free = [[sample(hair="bob") for _ in range(16)] for _ in range(40)]
    claims = [{"hair": ["bob"]}] * 40
    assert variety(claims, free, samples) == pytest.approx(1, abs=0.05)
    assert variety(claims, [[row[0]] * 16 for row in free], samples) == 0
    assert variety(claims, [row[:8] * 2 for row in free], samples) < 0.95  # every picture twice


@pytest.mark.slow
def test_inception_distances_of_known_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By a random network of Inception's form: nothing between equal sets, more between other ones."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with monkeypatch.context() as patch:  # its own constructor asks for weights
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        patch.setattr(torch, "load", lambda *_, **__: {})
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="none")
    torch.save(network.state_dict(), tmp_path / "checkpoints" / inception.WEIGHTS)
    assert missing_part() is None

    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]
    flat = [Image.new("RGB", (32, 32), tuple(rng.integers(0, 256, 3).tolist())) for _ in range(8)]
    cpu = torch.device("cpu")
    same, other = (
        inception.inception_distances(noise, noise, cpu),
        inception.inception_distances(noise, flat, cpu),
    )
    assert other["fid"] > 1000 * abs(same["fid"])  # both tiny, as random features are

    (tmp_path / "checkpoints" / inception.WEIGHTS).write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(ValueError, match="not a file of plain weights"):
        inception.inception_distances(noise, flat, cpu)


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

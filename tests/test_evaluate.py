"""Measuring models: the figures, and the command."""

import json
import pickle
import tarfile
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

from clip2gan.domains.avatars.judge import Judge
from clip2gan.domains.avatars.vocabulary import groups
from clip2gan.evaluation import inception
from clip2gan.evaluation.attributes import named_share, others_kept_share, variety
from clip2gan.evaluation.inception import missing_part
from clip2gan.evaluation.metrics import clip_score, diversity, frechet_distance, r_precision
from clip2gan.evaluation.report import Evaluation, Protocol, markdown
from clip2gan.model import load

JUDGE = Judge()


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
        # A label and 2 pictures of each model, a row for each prompt under the models' names.
        assert sheet.size == (200 + 4 * 98 - 2, 15 + 2 + 3 * 98 - 2)
        pixels = np.asarray(sheet)
    prompts = [pixels[17 + 98 * row :][:96, :200] for row in range(3)]
    models = [pixels[:15, 200:394], pixels[:15, 396:]]
    assert all(label.min() < 50 and np.median(label) == 255 for label in prompts + models)  # ink on white
    for name, model in report["models"].items():
        assert model["mapper"] == "mlp", name
        assert len(model["fingerprint"]) == len(model["clip_sha256"]) == 64
        assert model["versions"]["torch"] == torch.__version__
        assert f"{name}: fingerprint {model['fingerprint'][:12]}, mapper mlp" in out
    assert report["prompts"] == ["a smiling face", "a person with glasses", "an old man"]
    assert report["attributes"] == ["smiling", "red hair"]
    asked = {"real": str(tmp_path / "real"), "real_pictures": 3, "max_real": 500, "num": 2, "truncation": 0.7}
    assert {name: report[name] for name in asked} == asked
    assert (report["seeds"], report["clip"], report["judge"]) == ([0, 1], "each model's own", "avatars")
    assert out.startswith(f"prompts 3 of {tmp_path / 'prompts.txt'}, attributes 2 of ")
    assert "picture nearest to its own text, of 3 |" in out
    assert "named and variety are left out" in err
    assert "edit_target and edit_others are left out" in err
    assert "different CLIPs" not in err

    code, _, err = run(*small)
    assert code == 1
    assert "report.json exists already" in err


def test_without_real_pictures_there_is_less_to_say(run: Run, small: list[object], tmp_path: Path):
    assert run(*small)[0] == 0
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]["avatars"]
    assert set(figures) == {"clip_score", "r_precision", "diversity", "seconds", "memory_gb"}


def test_as_json_there_is_nothing_else_on_stdout(run: Run, small: list[object], tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a face\nan old man\na face\n")
    code, out, err = run(*small, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result.pop("files") == [str(tmp_path / f"report.{suffix}") for suffix in ("json", "md", "png")]
    assert result == json.loads((tmp_path / "report.json").read_text())
    assert result["command"] == "evaluate"
    assert result["prompts"] == ["a face", "an old man"]
    assert f"Warning: {tmp_path / 'prompts.txt'}: of its 3 texts 2 are different; each counts once\n" in err


def test_models_of_other_resolutions_and_clips_are_compared(
    run: Run, small: list[object], tiny_bundle: Path, tmp_path: Path
):
    """At 32 and at 64 pixels; the real pictures come in shards, and there are only 2 of them."""
    for index in range(2):
        with tarfile.open(tmp_path / f"pics-{index}.tar", "w") as archive:
            archive.add(tmp_path / "real" / f"{index}.png", f"{index}.png")
    options = ["--real", tmp_path / "pics-{0..1}.tar", "--model", tiny_bundle, "--against", "avatars"]
    code, out, err = run(*small, *options)
    assert code == 0, err
    assert (
        "Warning: the models have different CLIPs, whose figures do not compare; name one by --clip\n" in err
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["real_pictures"] == 2
    small_model, large_model = report["models"].values()
    assert small_model["clip_sha256"] != large_model["clip_sha256"]
    lines = {line.split(" | ")[0].strip("| "): line for line in out.splitlines()}
    assert "**" not in lines["clip_score"]
    assert "**" not in lines["edit_kept"]
    assert "**" in lines["reconstruction_l1"]

    code, out, err = run(*small, *options, "--clip", "avatars", "--force")
    assert code == 0, err
    assert "different CLIPs" not in err
    assert any("clip_score" in line and "**" in line for line in out.splitlines())


def test_a_figure_that_a_model_lacks_is_a_dash():
    row = [[Image.new("RGB", (8, 8))]]
    first = Evaluation({"clip_score": 0.5, "named": 0.25}, row, clip="a")
    second = Evaluation({"clip_score": 0.25}, row, clip="a")
    table = markdown({"first": first, "second": second}).splitlines()
    assert table[2].startswith("| clip_score | **0.500** | 0.250 |")
    assert table[3].startswith("| named | 0.250 | - |")
    assert len(table) == 4


def test_lpips_without_its_trunk_says_what_evaluate_can_do(
    run: Run, small: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "file"))
    (tmp_path / "file").touch()  # no folder: nothing can be fetched into it
    code, _, err = run(*small, "--lpips", "lpips-squeeze")
    assert code == 1
    assert err.splitlines()[-1].endswith("or choose stlpips, which needs no download")
    assert "--perceptual" not in err


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
    assert named_share(JUDGE, claims, seen) == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert (
        named_share(JUDGE, [{"eyes": ["open"]}], [[attributes(eyewear="sunglasses", eyes="open")]]) == 0
    )  # hidden


def test_others_are_kept_where_they_can_be_seen():
    before = attributes(hair="bob", skin="pale")
    assert others_kept_share(JUDGE, [before], [attributes(hair="bun", skin="pale")], ["hair"]) == 1
    assert others_kept_share(
        JUDGE, [before], [attributes(hair="bob", skin="dark")], ["hair"]
    ) == pytest.approx(8 / 9)
    covered = attributes(hair="bob", skin="pale", eyewear="sunglasses", eyes="closed")
    assert others_kept_share(JUDGE, [before], [covered], ["eyewear"]) == 1


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
    assert variety(JUDGE, claims, free, samples) == pytest.approx(1, abs=0.05)
    assert variety(JUDGE, claims, [[row[0]] * 16 for row in free], samples) == 0
    assert variety(JUDGE, claims, [row[:8] * 2 for row in free], samples) < 0.95  # every picture twice


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
        (["--against", "avatars:foo"], "'--against': avatars has no mapper 'foo'"),
        (["--model", "nowhere"], "unknown model 'nowhere'"),
        (["--out", "report.txt"], "name it report.json"),
        (["--num", "1"], "--num"),
        (["--real", "nowhere"], "'--real': nowhere: no such folder or zip or tar"),
        (["--real", "pics-{0..1}.tar"], "pics-0.tar: no such shard"),
        (["--against", "nowhere"], "'--against': unknown model 'nowhere'"),
        (["--against", "nowhere:flow"], "'--against': unknown model 'nowhere'"),
        (["--model", "avatars:foo"], "'--model': avatars has no mapper 'foo'"),
        (["--clip", "nothing"], "'--clip': unknown CLIP 'nothing'"),
    ],
)
def test_mistakes(options: list[str], message: str, run: Run, small: list[object], tmp_path: Path):
    code, _, err = run(*small, *options)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "report.json").exists()


def test_one_real_picture_is_too_few(run: Run, small: list[object], tmp_path: Path):
    for index in (1, 2):
        (tmp_path / "real" / f"{index}.png").unlink()
    code, _, err = run(*small, "--real", tmp_path / "real")
    assert code == 2
    assert f"'--real': {tmp_path / 'real'}: there is 1 picture in it; at least 2 are needed" in err
    assert err.count("\n") == 1
    with pytest.raises(ValueError, match="at least 2"):
        Protocol(["a face"], real=[Image.new("RGB", (8, 8))])

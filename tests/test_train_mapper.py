"""Training a mapper: frozen parts stay, captions change nothing, a stopped run goes on exactly."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, make_generator
from PIL import Image
from torch import nn

from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import open_pictures
from clip2gan.gap import Knn, Noise, fit_gap, load_gap
from clip2gan.mappers import load_mapper
from clip2gan.model import load
from clip2gan.settings import override
from clip2gan.training.mapper import train_mapper
from clip2gan.training.presets import PRESETS, LossWeights, MapperTraining
from clip2gan.training.validation import Validation, _rank, held_out
from stylegan2 import save_generator
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder

ALL_TERMS = LossWeights(
    pixel_l1=1, pixel_l2=1, perceptual=1, cosine=1, identity=1, latent=1, diversity=0.1, adversarial=1
)
SMALL = MapperTraining(
    mapper_settings={"layers": 3, "width": 16},
    samples=24,
    gap="knn",
    noise=Noise("unit", 0.1),
    weights=LossWeights(pixel_l1=1, perceptual=1, cosine=1, latent=1),
    warmup_steps=3,
    warmup_batch=8,
    steps=3,
    batch=4,
)
MAPPER = "bundle/mapper-mlp.safetensors"


@pytest.fixture(autouse=True)
def few_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip2gan.training.mapper.PREVIEWS", 1)
    monkeypatch.setattr("clip2gan.training.validation.PREVIEW_PROMPTS", 2)


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def train(path: Path, clip: ClipEncoder, config: MapperTraining = SMALL, seconds: float = 60) -> Path:
    run = RunFolder.open(path, config.flat())
    generator = make_generator()
    pictures = [open_pictures(source, 32) for source in config.data if source != "sampled"]
    return train_mapper(config, generator, clip, pictures, run, checkpoint_seconds=seconds)


def picture_zip(path: Path, count: int, others: dict[str, str] | None = None, seed: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (others or {}).items():
            archive.writestr(name, text)
        for index in range(count):
            pixels = np.random.default_rng([seed, index]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            archive.writestr(f"{index}.png", file.getvalue())
    return path


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_generator_and_clip_stay_as_they_are(precision: str, tiny_clip: ClipEncoder, tmp_path: Path):
    generator = make_generator()
    before = weights_hash(generator), weights_hash(tiny_clip.model)
    config = override(SMALL, {"precision": precision, "weights": ALL_TERMS})
    run = RunFolder.open(tmp_path / "run", config.flat())
    bundle = train_mapper(config, generator, tiny_clip, [], run)
    assert (weights_hash(generator), weights_hash(tiny_clip.model)) == before

    model = load(str(bundle), device="cpu")
    assert weights_hash(model.generator) == before[0]
    assert weights_hash(model.clip.model) == before[1]
    assert model.generate("a face", num=1, seed=0)[0].size == (32, 32)
    figures = log(tmp_path / "run")[-1]
    assert {"pixel_l1", "pixel_l2", "perceptual", "cosine", "latent", "diversity", "lr"} <= set(figures)
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_captions_change_nothing(tiny_clip: ClipEncoder, tmp_path: Path):
    written = []
    for name, others in [
        ("without", {}),
        ("with", {"dataset.json": json.dumps({"captions": {"0.png": "a sad man"}}), "0.txt": "a sad man"}),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        source = picture_zip(folder / "pictures.zip", 6, others)
        config = override(SMALL, {"data": ("sampled", str(source))})
        train(folder / "run", tiny_clip, config)
        written.append([(folder / "run" / part).read_bytes() for part in (MAPPER, "bundle/gap.safetensors")])
    assert written[0] == written[1]


def test_pictures_from_disk_are_trained_on(tiny_clip: ClipEncoder, tmp_path: Path):
    config = override(SMALL, {"data": (str(picture_zip(tmp_path / "p.zip", 6)),)})
    bundle = train(tmp_path / "run", tiny_clip, config)
    gap = load_gap(bundle / "gap.safetensors")
    assert isinstance(gap, Knn)
    assert len(gap.memory) == 6  # the pictures alone, not what the generator makes
    lines = log(tmp_path / "run")
    assert "pixel_l1" in lines[-1]
    assert "latent" not in lines[-1]  # no latent of these is known


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize("adversarial", [0.0, 1.0])
def test_a_stopped_run_goes_on_exactly(
    stop: int, adversarial: float, tiny_clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = override(SMALL, {"weights.adversarial": adversarial})
    whole = train(tmp_path / "whole", tiny_clip, config)

    class Killed(BaseException):
        pass

    save = RunFolder.save

    def save_and_die(run: RunFolder, step: int, tensors: dict, extra: dict) -> None:
        save(run, step, tensors, extra)
        if step == stop:
            raise Killed

    monkeypatch.setattr(RunFolder, "save", save_and_die)
    with pytest.raises(Killed):
        train(tmp_path / "stopped", tiny_clip, config, seconds=0)
    monkeypatch.setattr(RunFolder, "save", save)
    resumed = train(tmp_path / "stopped", tiny_clip, config)
    assert (resumed / "gap.safetensors").read_bytes() == (whole / "gap.safetensors").read_bytes()
    name = "mapper-mlp.safetensors"
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps))


def test_a_finished_run_is_left_as_it_is(tiny_clip: ClipEncoder, tmp_path: Path):
    before = (train(tmp_path / "run", tiny_clip) / "mapper-mlp.safetensors").read_bytes()
    assert (train(tmp_path / "run", tiny_clip) / "mapper-mlp.safetensors").read_bytes() == before


def test_training_brings_pictures_nearer(tiny_clip: ClipEncoder, tmp_path: Path):
    config = override(
        SMALL,
        {"warmup_steps": 0, "steps": 100, "lr": 3e-3, "noise.scale": 0.0, "weights": LossWeights(pixel_l2=1)},
    )
    train(tmp_path / "run", tiny_clip, config)
    lines = log(tmp_path / "run")
    assert lines[-1]["pixel_l2"] < 0.9 * lines[0]["pixel_l2"]


def test_a_loss_that_stays_not_finite_stops_the_run(tiny_clip: ClipEncoder, tmp_path: Path):
    changes = {"warmup_steps": 0, "steps": 80, "lr": 1e22, "weights": LossWeights(pixel_l2=1)}
    with pytest.raises(
        ValueError,
        match=r"step \d+: the loss pixel_l2 is not finite; begin another run with a lower lr "
        r"\(after 32 such steps in a row\)",
    ):
        train(tmp_path / "run", tiny_clip, override(SMALL, changes))
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_discriminator_that_is_not_finite_stops_the_run(
    tiny_clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def penalty(discriminator: nn.Module, real: torch.Tensor) -> torch.Tensor:
        """Finite, with a gradient that is not."""
        return torch.sqrt(0 * next(discriminator.parameters()).sum())

    monkeypatch.setattr("clip2gan.training.adversary.r1_penalty", penalty)
    config = override(SMALL, {"warmup_steps": 0, "adversary.interval": 1, "weights": ALL_TERMS})
    with pytest.raises(
        ValueError,
        match=r"step 2: the gradient of discriminator \+ penalty is not finite; begin another run "
        r"with a lower adversary.lr or adversary.penalty",
    ):
        train(tmp_path / "run", tiny_clip, config)
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize("kind", ["wgan-gp", "logistic"])
def test_the_adversary_learns_to_tell(kind: str, tiny_clip: ClipEncoder, tmp_path: Path):
    weights = LossWeights(pixel_l2=1, adversarial=1e-6)  # the mapper hardly cares
    changes = {
        "warmup_steps": 0,
        "steps": 51,
        "lr": 1e-8,
        "weights": weights,
        "adversary.kind": kind,
        "adversary.lr": 4e-3,
    }
    source = picture_zip(tmp_path / "noise.zip", 8)  # which the generator does not draw
    train(tmp_path / "run", tiny_clip, override(SMALL, {**changes, "data": (str(source),)}))
    first, *_, last = log(tmp_path / "run")
    name = "critic" if kind == "wgan-gp" else "discriminator"
    assert last[name] < first[name] - 0.3
    assert "adversarial" in last
    assert any("penalty" in line for line in log(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["mlp", "flow", "diffusion"])
def test_turns_of_a_batch_add_up_to_it(kind: str, tiny_clip: ClipEncoder, tmp_path: Path):
    changes = {"mapper": kind, "mapper_settings": {"width": 16}, "weights": ALL_TERMS, "noise.scale": 0.3}
    config = override(SMALL, changes)
    ws = []
    for turns in (1, 2, 4):
        path = train(tmp_path / str(turns), tiny_clip, override(config, {"accumulate": turns}))
        ws.append(load_mapper(path / f"mapper-{kind}.safetensors")(torch.eye(16)[:2]))
    torch.testing.assert_close(ws[1], ws[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ws[2], ws[0], rtol=1e-3, atol=1e-3)


def test_the_best_mapper_is_kept(tiny_clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not the last one: the steps after the warm-up spoil it."""
    monkeypatch.setattr("clip2gan.training.mapper.PREVIEWS", 20)
    changes = {"warmup_steps": 60, "steps": 20, "lr": 1.0, "schedule": "constant", "ema": 0.0}
    config = override(SMALL, {**changes, "weights": LossWeights(pixel_l2=1)})
    bundle = train(tmp_path / "run", tiny_clip, config)
    scores = [line["valid_cosine"] for line in log(tmp_path / "run") if "valid_cosine" in line]
    assert max(scores) > scores[-1] + 1e-3
    model = load(str(bundle), device="cpu")
    validation = Validation.draw(config, make_generator(), tiny_clip, [], model.gap, ["a face"])
    assert validation.reconstruction(model.mapper)["valid_cosine"] == pytest.approx(max(scores), abs=1e-3)


def test_pictures_are_held_out(tmp_path: Path):
    source = open_pictures(picture_zip(tmp_path / "p.zip", 40), 32)
    config = override(SMALL, {"data": ("sampled", "p.zip")})
    assert held_out(config, source) == 4  # a tenth
    assert held_out(override(config, {"validation": 6}), source) == 3  # and three are drawn
    assert held_out(override(config, {"validation": 0}), source) == 0


def test_texts_that_do_not_steer_are_warned_of(
    tiny_clip: ClipEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("clip2gan.training.validation.PREVIEW_PROMPTS", 12)
    train(tmp_path / "run", tiny_clip)
    assert "texts hardly steer this model" in caplog.text  # a random CLIP


@pytest.mark.parametrize(("rank", "deaf"), [(0.5, True), (0.6, True), (0.75, False), (1.0, False)])
def test_a_prompt_counts_once_whatever_its_number_of_pictures(
    tiny_clip: ClipEncoder, rank: float, deaf: bool
) -> None:
    gap = fit_gap("none", torch.eye(16), torch.eye(16), 10.0)
    validation = Validation.draw(SMALL, make_generator(), tiny_clip, [], gap, ["a thing"])
    validation.prompts = [f"a picture of thing {index}" for index in range(12)]
    assert validation.warn_if_deaf(rank) == deaf


def test_pictures_that_are_all_the_same_rank_their_own_prompts_as_chance_does() -> None:
    own = torch.arange(12).repeat_interleave(4)
    cosines = torch.rand(12, generator=torch.Generator().manual_seed(0)).expand(48, -1)
    assert _rank(cosines, own) == pytest.approx(0.5)
    assert _rank(torch.nn.functional.one_hot(own, 12).float(), own) == 1.0
    assert _rank(torch.zeros(48, 12), own) == 0.5


def test_the_learning_rate_rises_and_falls_in_each_phase(tiny_clip: ClipEncoder, tmp_path: Path):
    changes = {"warmup_steps": 110, "steps": 110, "warmup_lr": 1e-3, "lr": 1e-4}
    config = override(SMALL, {**changes, "weights": LossWeights(latent=1)})
    rates = {}
    for schedule in ("cosine", "constant"):
        train(tmp_path / schedule, tiny_clip, override(config, {"schedule": schedule}))
        rates[schedule] = {line["step"]: line["lr"] for line in log(tmp_path / schedule)}
    assert rates["cosine"][110] == pytest.approx(1e-4, rel=0.05)  # of 1e-3, a tenth
    assert rates["cosine"][150] == pytest.approx(0.4 * 1e-4 * 0.74, rel=0.05)
    assert rates["cosine"][220] == pytest.approx(1e-5, rel=0.05)
    assert rates["constant"][110] == 1e-3
    assert rates["constant"][150] == pytest.approx(0.4 * 1e-4)
    assert rates["constant"][220] == 1e-4


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name: str, tiny_clip: ClipEncoder, tmp_path: Path):
    preset = PRESETS[name]
    small = {"samples": 20, "warmup_steps": 1, "batch": 2, "mapper_settings.width": 8}
    small["steps"] = min(1, preset.steps)
    bundle = train(tmp_path / "run", tiny_clip, override(preset, small))
    assert load_mapper(bundle / f"mapper-{preset.mapper}.safetensors").kind == preset.mapper
    assert load(str(bundle), device="cpu").generate("a face", num=2, seed=0)


# ---- the command


@pytest.fixture
def arguments(tiny_clip: ClipEncoder, tmp_path: Path) -> list[object]:
    save_generator(make_generator(), tmp_path / "g.safetensors")
    small = ["samples=20", "warmup_steps=2", "warmup_batch=4", "mapper_settings.width=8"]
    chosen = ["--steps", 2, "--batch", 2, "--out", tmp_path / "run", "--device", "cpu"]
    for assignment in small:
        chosen += ["--set", assignment]
    return ["train-mapper", "--generator", tmp_path / "g.safetensors", "--clip", tiny_clip.spec, *chosen]


def test_the_command_trains_and_goes_on(run: Run, arguments: list[object], tmp_path: Path):
    arguments += ["--gap", "posterior", "--set", "gap_settings.sharpness=50"]
    code, out, err = run(*arguments)
    assert code == 0, err
    assert f"wrote {tmp_path / 'run' / 'bundle'}" in out
    assert "modality gap: texts are " in out
    assert "steps: 2" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["mapper_settings.width"] == 8
    assert config["gap_settings.sharpness"] == 50
    assert load_gap(tmp_path / "run" / "bundle" / "gap.safetensors").kind == "posterior"

    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments, "--lr", 0.5, "--seed", 3)
    assert code == 1
    assert "lr: 0.0003 -> 0.5, seed: 0 -> 3" in err
    assert err.count("\n") == 1


def test_other_pictures_of_the_same_names_are_another_setting(
    run: Run, arguments: list[object], tmp_path: Path
):
    arguments += ["--gap", "knn", "--data", picture_zip(tmp_path / "pictures.zip", 4)]
    assert run(*arguments)[0] == 0
    picture_zip(tmp_path / "pictures.zip", 4, seed=1)
    code, _, err = run(*arguments)
    assert code == 1
    assert "was begun with other settings (pictures: ['4 pictures, fingerprint" in err


def test_pictures_that_cannot_be_read_are_listed(run: Run, arguments: list[object], tmp_path: Path):
    source = picture_zip(tmp_path / "pictures.zip", 4)
    with zipfile.ZipFile(source, "a") as archive:
        for index in range(7):
            archive.writestr(f"bad{index}.png", b"nothing")
    assert run(*arguments, "--gap", "knn", "--data", source)[0] == 0
    lines = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert lines == [f"bad{index}.png\tnot a picture: it looks like text" for index in range(7)]


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_steps_of_mappers_that_learn_from_pairs(kind: str, run: Run, arguments: list[object]):
    code, out, err = run(
        *arguments[:5], *arguments[arguments.index("--steps") :], "--mapper", kind, "--dry-run"
    )
    assert code == 0, err
    assert "\nwarmup_steps: 2\n" in out
    assert "\nwarmup_batch: 4\n" in out  # --set comes last
    assert "\nsteps: 0\n" in out


@pytest.mark.parametrize("chosen", [["--gap", "c3"], ["--set", "gap=c3"]])
def test_c3_brings_its_own_noise(chosen: list[str], run: Run, arguments: list[object]):
    out = run(*arguments, "--preset", "small", *chosen, "--set", "noise.mean=0.5", "--dry-run")[1]
    assert "noise.kind: gauss\nnoise.scale: 0.126" in out
    assert "noise.mean: 0.5" in out


def test_a_dry_run_writes_nothing(run: Run, arguments: list[object], tmp_path: Path):
    code, out, err = run(*arguments, "--gap", "knn", "--dry-run")
    assert code == 0, err
    assert "weights.cosine: 2.0" in out
    assert "parameters" in out
    assert not (tmp_path / "run").exists()


def test_another_mapper_does_not_take_over_the_presets_settings(run: Run, arguments: list[object]):
    chosen = [*arguments, "--preset", "small", "--dry-run"]
    assert "mapper_settings.sample_sigma" in run(*chosen)[1]
    code, out, err = run(*chosen, "--mapper", "flow")
    assert code == 0, err
    assert "mapper_settings.sample_sigma" not in out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--mapper", "foo"], 2, "unknown mapper 'foo'; choose from mlp"),
        (["--gap", "foo"], 2, "unknown gap 'foo'; choose from none, shift, collapse"),
        (["--preset", "foo"], 2, "unknown preset 'foo'; choose from small, small-flow"),
        (["--generator", "nothing.safetensors"], 2, "nothing.safetensors: no such file"),
        (["--clip", "local-dir:nowhere"], 2, "nowhere: no such folder of a CLIP model"),
        (["--data", "nowhere"], 2, "nowhere: no such folder or zip"),
        (["--prompts", "nowhere.txt"], 2, "nowhere.txt: no such file of texts"),
        (["--set", "weights.foo=1"], 2, "has no setting 'foo'"),
        (["--set", "mapper_settings.foo=1"], 2, "mapper 'mlp' has no setting 'foo'"),
        (["--set", "gap_settings.foo=1"], 2, "gap 'knn' has no setting 'foo'"),
        (["--set", "lr=fast"], 2, "lr must be float, got 'fast'"),
        (["--set", "noise.mode=mul"], 2, "noise of kind unit is added and has no mean"),
        (["--perceptual", "vgg"], 2, "'vgg' is not one of 'clip', 'lpips-vgg'"),
        (["--identity", "face.onnx"], 2, "File 'face.onnx' does not exist"),
        (
            ["--accumulate", "3"],
            2,
            "'--set warmup_batch': a batch of 4 cannot be shared by 1 x 3 (accumulate)",
        ),
        (["--set", "noise=5"], 2, "noise must be"),
        (["--set", "weights=5"], 2, "weights must be LossWeights, got 5"),
        (["--set", "weights.cosine=-1"], 2, "weights of the loss must be 0 or more"),
        (["--set", "data=pictures"], 2, "data must be"),
        (["--set", "lr=NaN"], 2, "lr must be float, got nan"),
        (["--set", "warmup_lr=-1"], 2, "warmup_lr must be above 0"),
        (["--set", "ema=2"], 2, "ema must be from 0 to below 1"),
        (["--set", "noise.scale=-1"], 2, "noise.scale must be 0 or more"),
        (["--set", "adversary.lr=0"], 2, "adversary.lr must be above 0"),
        (["--set", "gap_settings.memory=3"], 2, "gap 'knn': memory must be Tensor, got 3"),
        (["--set", "mapper_settings.embed_dim=3"], 2, "embed_dim: given by CLIP and the generator"),
        (["--set", "adversary.kind=hinge"], 2, "unknown adversary 'hinge'; choose from wgan-gp, logistic"),
        (["--set", "lr"], 2, "'lr' is not NAME=VALUE"),
        (["--steps", "-1"], 2, "--steps"),
        (["--lr", "nan"], 2, "not a finite number"),
    ],
)
def test_mistakes(
    options: list[str], code: int, message: str, run: Run, arguments: list[object], tmp_path: Path
):
    found, _, err = run(*arguments, "--gap", "knn", *options)
    assert found == code
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


# ---- several processes


@pytest.mark.slow  # the library's two processes are tested by test_trainings.py; this is the command
@pytest.mark.parametrize("kind", ["mlp", "diffusion"])
def test_two_processes_train_as_one(kind: str, arguments: list[object], tmp_path: Path):
    """The same losses step by step, up to rounding, from the same command under a launcher."""
    arguments += ["--preset", "clip2gan", "--mapper", kind]
    arguments[arguments.index("--batch") + 1] = 4
    arguments += ["--gap", "knn", "--set", "gap_settings.nearest=5", "--set", "noise.scale=0.3"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    figures = {}
    for name, launch in (("one", []), ("two", launcher)):
        words = [str(word) for word in arguments]
        words[words.index("--out") + 1] = str(tmp_path / name)
        subprocess.run(
            [sys.executable, *launch, "-m", "clip2gan", *words],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        figures[name] = [
            {key: value for key, value in line.items() if key != "seconds"} for line in log(tmp_path / name)
        ]
        assert load_mapper(tmp_path / name / MAPPER.replace("mlp", kind)).kind == kind
    assert len(figures["one"]) == len(figures["two"]) > 0
    for one, two in zip(figures["one"], figures["two"], strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    ws = [
        load_mapper(tmp_path / name / MAPPER.replace("mlp", kind))(torch.eye(16)[:2])
        for name in ("one", "two")
    ]
    torch.testing.assert_close(*ws, rtol=1e-3, atol=1e-3)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch):
    processes = Processes(torch.device("cpu"))
    assert processes.rows([3, 2]).tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(processes, "count", 2)
    monkeypatch.setattr(processes, "index", 1)
    assert processes.rows([4, 2]).tolist() == [1, 3, 5]
    with pytest.raises(
        ValueError, match=r"a batch of 4 \+ 3 cannot be shared by 2 processes; take a multiple of 2"
    ):
        processes.rows([4, 3])

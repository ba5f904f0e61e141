"""What the trainings take where nothing is said: never a part of another domain."""

from pathlib import Path

import pytest
from conftest import Run, make_generator
from PIL import Image

from clip2gan.training.presets import PRESETS, default_preset
from stylegan2 import save_generator


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    save_generator(make_generator(), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        Image.new("RGB", (32, 32), (60 * index, 90, 30)).save(tmp_path / "pictures" / f"{index}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("command", [["train-mapper"], ["train-gan", "--condition", "clip"]])
def test_a_stranger_says_which_clip(run: Run, command: list[str], generator: Path, pictures: Path) -> None:
    source = ["--generator", generator] if command[0] == "train-mapper" else ["--data", pictures]
    for given in ([], ["--clip", "none"]):
        code, _, err = run(*command, *source, *given, "--dry-run", "--out", generator.parent / "run")
        assert code == 2
        assert "a CLIP is needed; give --clip ViT-B-32:laion2b_s34b_b79k (fast) or --clip ViT-B-16:" in err
        assert err.count("\n") == 1


def test_the_generator_of_a_model_brings_its_clip_and_domain(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    code, out, err = run("train-mapper", "--generator", tiny_bundle, "--dry-run", "--out", tmp_path / "run")
    assert code == 0, err
    assert f"clip: {tiny_bundle}\n" in out
    assert "gap: posterior\n" in out
    assert "weights.adversarial: 0.0\n" in out


def test_the_default_of_train_mapper_is_ours_by_kind_and_size() -> None:
    for resolution, size in ((64, "small"), (128, "small"), (256, "large"), (1024, "large")):
        for kind in ("mlp", "flow", "diffusion"):
            preset = PRESETS[default_preset(kind, resolution)]
            assert default_preset(kind, resolution).startswith(size)
            assert (preset.mapper, preset.gap, preset.weights.adversarial) == (kind, "posterior", 0)
            assert preset.compared == 256
    assert (PRESETS["clip2gan"].gap, PRESETS["clip2gan"].adversary.kind) == ("none", "wgan-gp")


def test_train_gan_follows_the_pictures(run: Run, pictures: Path, tmp_path: Path) -> None:
    code, _, err = run("train-gan", "--data", pictures, "--dry-run", "--out", tmp_path / "run")
    assert code == 0, err
    assert '"focus": null' in err
    assert '"autoencoder_images": 200000' in err
    code, _, err = run(
        "train-gan", "--data", pictures, "--resolution", 256, "--dry-run", "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert '"adversarial_images": 25000000' in err


@pytest.mark.parametrize("focus", ["1", "0,0,1,1,x", "0.5,0,0.2,1,2", "0,0,1,2,2", "0,0,1,1,nan"])
def test_a_focus_is_a_box_with_a_weight(run: Run, pictures: Path, focus: str, tmp_path: Path) -> None:
    code, _, err = run("train-gan", "--data", pictures, "--focus", focus, "--out", tmp_path / "run")
    assert code == 2
    assert "Invalid value for '--focus'" in err


def test_captioned_training_begins_from_scratch(
    run: Run, pictures: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    clip = f"local-dir:{tiny_bundle / 'clip'}"
    command = ("train-gan", "--condition", "clip", "--clip", clip, "--data", pictures, "--dry-run")
    code, out, err = run(*command, "--out", tmp_path / "run")
    assert code == 0, err
    assert "init: None\n" in out
    assert "mapping_steps: 0\n" in out
    assert run(*command, "--preset", "finetune", "--out", tmp_path / "run")[0] == 2


@pytest.mark.parametrize(
    ("command", "name", "wrong"),
    [
        ("train-mapper", "batch", 0),
        ("train-mapper", "lr", 0),
        ("train-mapper", "schedule", "linear"),
        ("train-encoder", "batch", 0),
        ("train-encoder", "lr", 0),
        ("train-encoder", "precision", "int8"),
        ("train-gan", "r1_gamma", -1),
        ("train-gan", "batch", 0),
        ("train-gan", "adversarial_lr", 0),
    ],
)
def test_an_option_and_set_have_the_same_limits(
    run: Run, pictures: Path, command: str, name: str, wrong: object, tmp_path: Path
) -> None:
    data = ["--data", pictures] if command == "train-gan" else []
    flag = f"--{name.replace('_', '-')}"
    for option, given in ((flag, wrong), ("--set", f"{name}={wrong}")):
        code, out, err = run(command, *data, option, given, "--out", tmp_path / "run")
        assert (code, out) == (2, "")
        assert err.startswith(f"Error: Invalid value for '{option}': ")
        assert str(wrong) in err
    assert not (tmp_path / "run").exists()


def test_plain_training_of_a_gan_takes_any_setting(run: Run, pictures: Path, tmp_path: Path) -> None:
    command = ("train-gan", "--data", pictures, "--dry-run", "--out", tmp_path / "run")
    changes = ("--set", "latent_noise=0.25", "--set", "generator.mapping_layers=4", "--batch", 5)
    code, _, err = run(*command, *changes)
    assert code == 0, err
    for shown in ('"latent_noise": 0.25', '"mapping_layers": 4', '"batch": 5'):
        assert shown in err
    assert run(*command, "--set", "nothing=1")[0] == 2


@pytest.mark.parametrize("option", ["--clip", "--max-memory", "--steps", "--clip-weight"])
def test_options_of_captions_have_no_meaning_without_them(
    run: Run, pictures: Path, option: str, tmp_path: Path
) -> None:
    code, _, err = run("train-gan", "--data", pictures, option, 3, "--out", tmp_path / "run")
    assert code == 2
    assert f"{option} has no meaning with --condition none" in err

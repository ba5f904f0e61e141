"""Generators of grey pictures work as RGB ones everywhere; those of other channels are refused by name."""

from pathlib import Path

import pytest
import torch
from conftest import Run
from PIL import Image

from clip2gan.clip import ClipEncoder
from clip2gan.model import load
from stylegan2 import Generator, GeneratorConfig, load_generator, save_generator
from stylegan2.checkpoints import CheckpointError, read_generator


def make(channels: int, architecture: str = "skip") -> Generator:
    torch.manual_seed(channels)
    widths = (8, 8) if architecture == "mobile" else None
    config = GeneratorConfig(
        z_dim=8,
        w_dim=8,
        img_resolution=16,
        img_channels=channels,
        channel_base=128,
        mapping_layers=2,
        architecture=architecture,  # type: ignore[arg-type]
        widths=widths,
    )
    generator = Generator(config).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    return generator


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet", "mobile"])
def test_a_grey_generator_has_three_equal_channels(architecture: str, tmp_path: Path) -> None:
    grey = make(1, architecture)
    grey.licence = "CC0-1.0"
    save_generator(grey, tmp_path / "g.safetensors")
    generator = load_generator(tmp_path / "g.safetensors")
    assert (generator.config.img_channels, generator.licence, generator.training) == (3, "CC0-1.0", False)
    ws = torch.randn(2, generator.num_ws, 8, requires_grad=True)
    pictures = generator.synthesis(ws, noise_mode="const")
    expected = grey.synthesis(ws.detach(), noise_mode="const")
    torch.testing.assert_close(pictures.detach(), expected.expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(pictures.square().sum(), ws)
    assert gradient.abs().sum() > 0
    assert read_generator(tmp_path / "g.safetensors")[0].config.img_channels == 1  # as it is, to convert it


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_other_channels_are_refused(channels: int, tmp_path: Path) -> None:
    save_generator(make(channels), tmp_path / "g.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_generator(tmp_path / "g.safetensors")
    assert str(error.value) == (
        f"{tmp_path / 'g.safetensors'}: a generator of pictures with {channels} channels; "
        "RGB (3) and grey (1) are supported"
    )


@pytest.mark.parametrize("command", ["train-mapper", "train-gan", "sample"])
def test_every_command_refuses_them_before_it_computes(
    command: str, tmp_path: Path, tiny_clip: ClipEncoder, run: Run
) -> None:
    save_generator(make(4), tmp_path / "g.safetensors")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "pictures" / "a.png")
    arguments = {
        "train-mapper": ["--clip", tiny_clip.spec, "--generator"],
        "train-gan": [
            "--condition",
            "clip",
            "--clip",
            tiny_clip.spec,
            "--data",
            tmp_path / "pictures",
            "--init",
        ],
        "sample": ["--generator"],
    }[command]
    code, _, err = run(
        command, *arguments, tmp_path / "g.safetensors", "--out", tmp_path / "out", "--device", "cpu"
    )
    assert code in (1, 2)
    assert "4 channels" in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_model_of_a_grey_generator_is_trained_and_used(
    tmp_path: Path, tiny_clip: ClipEncoder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_generator(make(1), tmp_path / "grey.safetensors")
    parts = ["--generator", tmp_path / "grey.safetensors", "--clip", tiny_clip.spec, "--device", "cpu"]
    sizes = [
        part for setting in ("samples=16", "validation=2", "warmup_steps=1") for part in ("--set", setting)
    ]
    small = [*sizes, "--gap", "none", "--steps", 2, "--batch", 2]
    code, _, err = run("train-mapper", *parts, *small, "--out", tmp_path / "run")
    assert code == 0, err
    model = load(str(tmp_path / "run" / "bundle"), device="cpu")
    (image,) = model.generate("a grey thing")
    assert image.mode == "RGB"
    red, green, blue = image.split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()
    model.invert(image)

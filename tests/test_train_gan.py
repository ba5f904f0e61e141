"""Training a generator: the phases, exact resume, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from clip2gan.cli.train_gan import command
from stylegan2 import Discriminator, GeneratorConfig, load_generator
from stylegan2.runs import RunFolder
from stylegan2.training import TrainingConfig, averaged_networks, train
from stylegan2.training.config import Focus
from stylegan2.training.losses import r1_penalty, reconstruction_loss
from stylegan2.training.mapping import Flow, Pairs

CPU = torch.device("cpu")
SHAPE = GeneratorConfig(z_dim=8, w_dim=8, img_resolution=16, channel_base=64, channel_max=8, mapping_layers=2)
CONFIG = TrainingConfig(
    generator=SHAPE,
    batch=4,
    autoencoder_images=12,
    mapping_steps=2,
    adversarial_images=12,
    autoencoder_weight=1.0,
    r1_interval=2,
    focus=Focus((0.25, 0.25, 0.75, 0.75), 2.0),
)


class Patches:
    """Sixteen fixed pictures of four coloured squares."""

    def __init__(self) -> None:
        colors = torch.randint(0, 256, (16, 3, 2, 2), generator=torch.Generator().manual_seed(0))
        self.pixels = colors.byte().repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: list[int]) -> torch.Tensor:
        return self.pixels[indices]

    def read_ahead(self, upcoming: object) -> "Patches":
        return self


def weights(path: Path) -> bytes:
    return (path / "generator.safetensors").read_bytes()


def test_all_phases_run_and_leave_a_loadable_generator(tmp_path):
    generator = train(CONFIG, Patches(), RunFolder.open(tmp_path, {}), CPU)
    z = torch.randn(2, 8)
    assert torch.equal(load_generator(tmp_path / "generator.safetensors")(z), generator(z))
    assert generator.config == SHAPE
    assert [file.name for file in sorted((tmp_path / "samples").iterdir())] == [
        f"{step:08d}.png" for step in (3, 5, 8)
    ]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 8


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_stopped_training_goes_on_exactly(tmp_path, stop):
    """Stopped in the middle of each phase, the result has the bytes of an uninterrupted run."""
    train(CONFIG, Patches(), RunFolder.open(tmp_path / "whole", {}), CPU)

    def stopping(steps: range):
        for step in steps:
            if step == stop:
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt):
        train(
            CONFIG,
            Patches(),
            RunFolder.open(tmp_path / "parts", {}),
            CPU,
            progress=stopping,
            checkpoint_seconds=0,
        )
    train(CONFIG, Patches(), RunFolder.open(tmp_path / "parts", {}), CPU)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_the_autoencoder_learns(tmp_path):
    config = replace(CONFIG, autoencoder_images=1600, mapping_steps=0, adversarial_images=0, half=False)
    train(config, Patches(), RunFolder.open(tmp_path, {}), CPU)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["reconstruction"] < 0.9 * lines[0]["reconstruction"]


def test_a_run_can_start_from_another(tmp_path):
    first = RunFolder.open(tmp_path / "first", {})
    train(CONFIG, Patches(), first, CPU)
    checkpoint = first.latest()
    assert checkpoint is not None
    initial = checkpoint[1]
    assert set(averaged_networks(initial)) == {
        name for name in initial if name.startswith(("generator/", "encoder/"))
    }
    config = replace(CONFIG, autoencoder_images=4, autoencoder_lr=0.0, mapping_steps=0, adversarial_images=0)
    generator = train(config, Patches(), RunFolder.open(tmp_path / "second", {}), CPU, initial=initial)
    expected = load_generator(tmp_path / "first" / "generator.safetensors")
    z = torch.randn(2, 8)
    torch.testing.assert_close(generator(z), expected(z), rtol=0.02, atol=0.02)

    # With a mapping phase its mapping network is fitted anew, and may be deeper.
    deeper = replace(config, generator=replace(SHAPE, mapping_layers=3), mapping_steps=2)
    generator = train(deeper, Patches(), RunFolder.open(tmp_path / "third", {}), CPU, initial=initial)
    ws = torch.randn(2, SHAPE.num_ws, 8)
    torch.testing.assert_close(generator.synthesis(ws), expected.synthesis(ws), rtol=0.02, atol=0.02)


def test_pictures_of_another_size_are_refused(tmp_path):
    config = replace(CONFIG, generator=replace(SHAPE, img_resolution=32))
    with pytest.raises(ValueError, match=r"pictures are \[3, 16, 16\], the generator makes 32 px"):
        train(config, Patches(), RunFolder.open(tmp_path, {}), CPU)


def test_a_flow_takes_noise_to_the_clusters_of_its_latents():
    torch.manual_seed(0)
    flow = Flow(16)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(300):
        clusters = (torch.randint(0, 2, (256, 1)) * 2.0 - 1).expand(-1, 16)
        optimizer.zero_grad()
        flow.loss(clusters + 0.1 * torch.randn(256, 16), torch.randn(256, 16), torch.rand(256, 1)).backward()
        optimizer.step()
    pairs = Pairs(flow, 20, 1000, torch.Generator().manual_seed(0))
    assert pairs.z.shape == (1000, 20)
    assert ((pairs.latents.abs() - 1).abs().mean(dim=1) < 0.2).float().mean() > 0.9
    assert 0.35 < (pairs.latents.mean(dim=1) > 0).float().mean() < 0.65


def test_r1_is_the_squared_gradient_norm():
    real = torch.randn(5, 3, 4, 4)
    slope = torch.randn(3, 4, 4)
    penalty = r1_penalty(lambda images: (images * slope).sum(dim=[1, 2, 3]), real)
    torch.testing.assert_close(penalty, slope.square().sum())
    assert r1_penalty(Discriminator(SHAPE), torch.randn(4, 3, 16, 16)).requires_grad


def test_focus_counts_errors_inside_its_box_more():
    focus = Focus((0.25, 0.25, 0.75, 0.75), 2.0)
    real = torch.zeros(1, 3, 16, 16)
    inside, outside = real.clone(), real.clone()
    inside[:, :, 8, 8] = 1
    outside[:, :, 1, 1] = 1
    assert reconstruction_loss(real, real, focus) == 0
    assert reconstruction_loss(inside, real, focus) > reconstruction_loss(outside, real, focus) * 2


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def arguments(pictures: Path, out: Path, **changes: int) -> list[str]:
    options = {
        "resolution": 16,
        "batch": 2,
        "autoencoder-images": 6,
        "mapping-steps": 2,
        "adversarial-images": 4,
    }
    options.update(changes)
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["--data", str(pictures), "--out", str(out), "--device", "cpu", *flags]


def test_command_trains_and_refuses_other_settings(pictures, tmp_path):
    out = tmp_path / "run"
    result = CliRunner().invoke(command, arguments(pictures, out), catch_exceptions=False)
    assert result.exit_code == 0
    assert f"wrote {out / 'generator.safetensors'}" in result.output
    assert load_generator(out / "generator.safetensors").config.img_resolution == 16
    again = CliRunner().invoke(command, arguments(pictures, out), catch_exceptions=False)
    newest = out / "checkpoints" / "00000007.safetensors"
    assert f"{out} is finished: all of its 7 steps are done; to train on, start another" in again.output
    assert f"--init {newest} " in again.output
    assert newest.is_file()
    assert "finished" not in result.output
    with pytest.raises(ValueError, match="begun with other settings"):
        CliRunner().invoke(command, arguments(pictures, out, batch=4), catch_exceptions=False)


def test_command_names_bad_arguments(pictures, tmp_path):
    result = CliRunner().invoke(command, arguments(pictures, tmp_path / "run", resolution=48))
    assert result.exit_code == 2
    assert "48 is not a power of two; take 32 or 64" in result.output
    assert not (tmp_path / "run").exists()

"""`clip2gan train-encoder`: from a model to the same model with an encoder, stopped or not."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Run
from PIL import Image

from clip2gan.bundle import add_encoder, load_bundle
from clip2gan.editing.encoder import EncoderConfig, LatentEncoder, save_encoder
from clip2gan.model import Model, load
from clip2gan.training.encoder import EncoderTraining, train_encoder, untrained_encoder
from stylegan2.files import load_tensors
from stylegan2.runs import RunFolder

SMALL = EncoderTraining(channel_base=256, channel_max=16, steps=80, batch=8, lr=5e-3, ema=0.9)


def folder(path: Path) -> RunFolder:
    return RunFolder.open(path, {})


def test_it_learns_to_give_samples_back(tiny: Model, tmp_path: Path) -> None:
    z = torch.randn(16, 8, generator=torch.Generator().manual_seed(5))
    images = tiny.generator.synthesis(tiny.generator.mapping(z))

    @torch.no_grad()
    def error(encoder: LatentEncoder) -> float:
        again = tiny.generator.synthesis(encoder(images)[:, None].repeat(1, tiny.generator.num_ws, 1))
        return float((again - images).abs().mean())

    before = error(untrained_encoder(SMALL, tiny.generator))
    encoder = train_encoder(SMALL, tiny.generator, tiny.clip, [], folder(tmp_path / "run"))
    assert error(encoder) < 0.8 * before
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 80]
    assert set(lines[0]) >= {"latent", "pixel_l1", "perceptual", "lr"}
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_a_stopped_training_goes_on_to_the_same_weights(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EncoderTraining(channel_base=256, channel_max=16, steps=8, batch=4)
    whole = train_encoder(config, tiny.generator, tiny.clip, [], folder(tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    saves = []
    save = RunFolder.save

    def save_and_stop(self: RunFolder, step: int, *args) -> None:
        save(self, step, *args)
        saves.append(step)
        if len(saves) == 3:
            raise StoppedError

    monkeypatch.setattr(RunFolder, "save", save_and_stop)
    with pytest.raises(StoppedError):
        train_encoder(config, tiny.generator, tiny.clip, [], folder(tmp_path / "parts"), checkpoint_seconds=0)
    monkeypatch.setattr(RunFolder, "save", save)
    again = train_encoder(config, tiny.generator, tiny.clip, [], folder(tmp_path / "parts"))
    assert saves == [1, 2, 3]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_command_gives_a_model_that_encodes(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        Image.new("RGB", (40, 32), (80 * index, 90, 40)).save(pictures / f"{index}.png")
    out = tmp_path / "run"
    args = ["--model", tiny_bundle, "--data", "sampled", "--data", pictures, "--out", out, "--device", "cpu"]
    args += ["--steps", 3, "--batch", 4, "--set", "channel_base=256", "--set", "channel_max=16"]
    code, text, err = run("train-encoder", *args)
    assert (code, err) == (0, "")
    assert text.endswith(f"wrote {out / 'bundle'}\n")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert run("train-encoder", *args)[0] == 0  # nothing left to do
    assert (out / "encoder.safetensors").read_bytes() == before["encoder.safetensors"]

    model = load(str(out / "bundle"), device="cpu")
    image = Image.open(pictures / "1.png").convert("RGB")
    assert model.encode(image).shape == (1, model.generator.num_ws, 8)
    edit = ["--model", out / "bundle", "--device", "cpu", "--image", pictures / "1.png", "--attr", "sad"]
    assert run("edit", *edit, "--source", "encoder", "--out", tmp_path / "e.png")[0] == 0
    latents = tmp_path / "w.safetensors"
    invert = ["--model", out / "bundle", "--image", pictures, "--source", "encoder", "--device", "cpu"]
    assert run("invert", *invert, "--out", latents)[0] == 0
    assert torch.equal(load_tensors(latents)[0]["ws"][1:2], model.encode(image))


def test_an_encoder_is_added_to_a_model_in_place(tiny_bundle: Path, tmp_path: Path) -> None:
    encoder = LatentEncoder(EncoderConfig(w_dim=8, resolution=32, channel_base=256, channel_max=16))
    save_encoder(encoder, tmp_path / "e.safetensors")
    add_encoder(tiny_bundle, tmp_path / "e.safetensors", tmp_path / "model")
    add_encoder(tmp_path / "model", tmp_path / "e.safetensors", tmp_path / "model")
    bundle = load_bundle(str(tmp_path / "model"))
    assert bundle.encoder is not None
    assert torch.equal(bundle.encoder.trunk.b4.fc.weight, encoder.trunk.b4.fc.weight)  # type: ignore[union-attr]
    assert "encoder.safetensors" in (tmp_path / "model" / "README.md").read_text()
    assert load_bundle(str(tiny_bundle)).encoder is None


def test_an_encoder_of_other_latents_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    save_encoder(
        LatentEncoder(EncoderConfig(w_dim=4, resolution=32, channel_base=256)), tmp_path / "e.safetensors"
    )
    with pytest.raises(ValueError, match="this encoder has w_dim 4, the generator 8"):
        add_encoder(tiny_bundle, tmp_path / "e.safetensors", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "huge"], "Invalid value for '--preset': unknown preset 'huge'"),
        (["--set", "nothing=1"], "Invalid value for '--set': EncoderTraining has no setting 'nothing'"),
        (["--model", "nowhere"], "Invalid value for '--model': unknown model 'nowhere'"),
        (["--steps", "0"], "Invalid value for '--steps': 0 is not in the range"),
        (["--set", "batch=0"], "Invalid value for '--set': batch must be at least 1"),
    ],
)
def test_bad_arguments_exit_2(run: Run, tmp_path: Path, args: list[str], message: str) -> None:
    code, out, err = run("train-encoder", *args, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {message}")
    assert not (tmp_path / "run").exists()

"""Numbers that are not finite are refused wherever weights or latents are read, by file and tensor."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Run, make_generator
from safetensors.torch import load_file, save_file
from torch import Tensor

from clip2gan.bundle import load_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.editing.encoder import LatentEncoder, encoder_for, load_encoder, save_encoder
from clip2gan.editing.inversion import load_latents, picture_fingerprint, psnr, save_latents
from clip2gan.images import read_picture, to_picture
from clip2gan.model import Model
from clip2gan.training.start import from_file
from stylegan2 import load_generator, save_generator
from stylegan2.checkpoints import CheckpointError, inspect
from stylegan2.files import check_finite, fingerprint, is_finite, load_tensors, save_tensors
from tools import checkpoint_files as files

BAD = [float("nan"), float("inf"), float("-inf")]


def poison(path: Path, name: str, value: float = float("nan")) -> None:
    """Put `value` into one number of a tensor of a safetensors file, and leave the rest as it is."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_number_among_many_is_found(value, dtype):
    tensor = torch.randn(64, 33).to(dtype)
    assert is_finite(tensor)
    tensor[40, 3] = value
    assert not is_finite(tensor)
    with pytest.raises(
        ValueError, match=r"^a.pt: w is not finite \(1 of its 2,112 numbers .*earlier snapshot"
    ):
        check_finite({"fine": torch.ones(3), "w": tensor}, "a.pt")


def test_large_and_empty_and_whole_numbers_are_finite():
    for dtype in (torch.float16, torch.float32):
        assert is_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype))  # their sum is not
    assert is_finite(torch.empty(0))
    assert is_finite(torch.ones(3, dtype=torch.int64))
    assert is_finite(torch.ones(3).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))


# ---- checkpoints of others


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("writer", "name"),
    [
        (files.nvidia, "synthesis.b8.conv1.weight"),
        (files.tensorflow, "synthesis/8x8/Conv1/weight"),
        (files.rosinality, "convs.1.conv.weight"),
        (lambda g: files.rosinality(g, legacy=True), "convs.1.conv.weight"),
        (files.e4e, "convs.1.conv.weight"),
    ],
)
def test_checkpoints(writer, name, value, tmp_path):
    generator = make_generator()
    generator.get_parameter("synthesis.b8.conv1.weight")[1, 0, 2, 2] = value
    path = files.write(tmp_path / "g.pt", writer(generator))
    message = rf"^{re.escape(str(path))}: .*{re.escape(name)} is not finite \(1 of .*take an earlier snapshot"
    for read in (load_generator, inspect):
        with pytest.raises(CheckpointError, match=message):
            read(path)


@pytest.mark.parametrize("key", ["mapping.w_avg", "synthesis.b4.conv1.noise_const"])
def test_buffers_count_too(key, tmp_path):
    generator = make_generator()
    generator.get_buffer(key)[0] = torch.nan
    with pytest.raises(CheckpointError, match="is not finite"):
        load_generator(files.write(tmp_path / "g.pkl", files.nvidia(generator)))
    with pytest.raises(CheckpointError, match="is not finite"):
        load_generator(files.write(tmp_path / "g.pt", files.rosinality(generator)))


def test_numbers_beyond_float32(tmp_path):
    state = {name: tensor.double() for name, tensor in files.rosinality_state(make_generator()).items()}
    state["convs.0.conv.weight"][0, 0, 0] = 1e300
    path = files.write(tmp_path / "g.pt", files.torch_save({"g_ema": state}))
    with pytest.raises(CheckpointError, match=r"g.pt: convs.0.conv.weight is not finite \(9 of"):
        load_generator(path)


def test_convert_writes_nothing(run: Run, tmp_path):
    generator = make_generator()
    generator.get_parameter("synthesis.b4.const")[0, 0, 0] = torch.nan
    path = files.write(tmp_path / "g.pkl", files.nvidia(generator))
    code, _, err = run("convert", path, tmp_path / "g.safetensors")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{path}: synthesis.b4.const is not finite" in err
    assert list(tmp_path.iterdir()) == [path]


# ---- files of ours


@pytest.mark.parametrize(
    ("part", "tensor"),
    [
        ("generator.safetensors", "synthesis.b8.conv0.weight"),
        ("mapper-mlp.safetensors", "layers.1.weight"),
        ("gap.safetensors", "images"),
        ("clip/open_clip_model.safetensors", "visual.proj"),
    ],
)
def test_parts_of_bundles(part, tensor, run: Run, tiny_bundle: Path, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "model")
    names = load_file(folder / part)
    poison(folder / part, tensor if tensor in names else next(iter(names)))
    config = json.loads((folder / "config.json").read_text())
    config["files"][part] = fingerprint(folder / part)
    del config["clip_fingerprint"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{Path(part).parts[0]}.* is not finite"):
        load_bundle(str(folder))
    code, _, err = run("generate", "--model", folder, "--text", "a", "--out", tmp_path / "a.png")
    assert (code, err.count("\n")) == (1, 1), err
    assert not (tmp_path / "a.png").exists()


def test_encoders(tmp_path):
    generator = make_generator()
    encoder = LatentEncoder(encoder_for(generator, 128, 8))
    save_encoder(encoder, tmp_path / "e.safetensors")
    load_encoder(tmp_path / "e.safetensors")
    poison(tmp_path / "e.safetensors", "w_std")
    with pytest.raises(ValueError, match=r"e.safetensors: w_std is not finite"):
        load_encoder(tmp_path / "e.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_clips_of_architectures(suffix, tmp_path, monkeypatch):
    import open_clip

    monkeypatch.setattr(open_clip, "list_models", lambda: ["tiny"])
    from conftest import CLIP_CONFIG
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny", CLIP_CONFIG)
    state = open_clip.CLIP(**CLIP_CONFIG).state_dict()
    state["token_embedding.weight"][5, 3] = torch.inf
    path = tmp_path / f"clip{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(ValueError, match=rf"clip{suffix}: token_embedding.weight is not finite"):
        ClipEncoder.load(f"tiny:{path}")


@pytest.mark.parametrize("averaged", [True, False])
def test_states_that_trainings_start_from(averaged, tmp_path):
    generator = make_generator()
    name = "generator_ema" if averaged else "generator"
    state: dict[str, Tensor] = {f"{name}/{key}": value for key, value in generator.state_dict().items()}
    state[f"{name}/synthesis.b4.const"][0, 0, 0] = torch.nan
    save_tensors(tmp_path / "s.safetensors", state, {})
    with pytest.raises(ValueError, match=rf"s.safetensors: {name}/synthesis.b4.const is not finite"):
        from_file(tmp_path / "s.safetensors", None, 16)
    save_generator(generator, tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match=r"g.safetensors: synthesis.b4.const is not finite"):
        from_file(tmp_path / "g.safetensors", None, 16)


# ---- latents


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ws: ws.fill_(torch.nan), r"l.safetensors: ws is not finite"),
        (lambda ws: ws.mul_(torch.inf), r"l.safetensors: ws is not finite"),
        (
            lambda ws: ws.fill_(1e30),
            r"l.safetensors: numbers as large as 1e\+30, where latents are of the order",
        ),
        (lambda ws: ws.double().fill_(1e300), r"l.safetensors: numbers as large as 1e\+300"),
    ],
)
def test_latents(change: Callable[[Tensor], Tensor], message, run: Run, tiny: Model, picture, tmp_path):
    ws = change(torch.randn(1, tiny.generator.num_ws, 8))
    path = tmp_path / "l.safetensors"
    save_latents(path, ws, [picture_fingerprint(tiny.fit(read_picture(picture)))], {})
    with pytest.raises(ValueError, match=message):
        load_latents(path, tiny.generator)
    edit = ["edit", "--model", tiny.name, "--image", picture, "--attr", "sad:1", "--latents", path]
    code, out, err = run(*edit, "--out", tmp_path / "a.png")
    assert (code, err.count("\n")) == (2, 1), err
    assert "nan dB" not in out + err
    assert not (tmp_path / "a.png").exists()


def test_pictures_that_are_not_finite_are_never_written(tiny: Model):
    ws = torch.full((1, tiny.generator.num_ws, 8), torch.nan)
    with pytest.raises(ValueError, match="the generator gives a picture that is not finite"):
        tiny.synthesize(ws)
    image = tiny.generator.synthesis(ws)
    with pytest.raises(ValueError, match="the generator gives a picture that is not finite"):
        psnr(image, torch.zeros_like(image))
    to_picture(torch.zeros(1, 3, 8, 8))


def test_the_models_that_come_with_the_package_are_finite():
    for path in (Path(__file__).parents[1] / "clip2gan").rglob("*.safetensors"):
        load_tensors(path)

"""`convert` to rosinality's .pt and to ONNX: the same weights, and the same pictures."""

import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from pickletools import genops
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import Run

from stylegan2 import Generator, GeneratorConfig, load_generator, save_generator
from stylegan2.checkpoints import inspect
from stylegan2.checkpoints.export import save_onnx, save_rosinality
from tools import checkpoint_files as files

PLAIN = GeneratorConfig(
    z_dim=16, w_dim=16, img_resolution=32, channel_base=256, channel_max=16, mapping_layers=2
)


@pytest.fixture(scope="module")
def plain() -> Generator:
    return files.make(PLAIN)


def variant(**changes: Any) -> Generator:
    return files.make(replace(PLAIN, **changes))


# ---- rosinality's .pt


def rosinality_shapes(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of rosinality's Generator, in words of its layout and not of ours."""
    width = {resolution: config.channels(resolution) for resolution in config.block_resolutions}
    latent, shapes = config.w_dim, {}
    for index in range(1, config.mapping_layers + 1):
        shapes |= {f"style.{index}.weight": (latent, latent), f"style.{index}.bias": (latent,)}
    shapes["input.input"] = (1, width[4], 4, 4)

    def modulated(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{name}.conv.weight": (1, outputs, inputs, kernel, kernel),
            f"{name}.conv.modulation.weight": (inputs, latent),
            f"{name}.conv.modulation.bias": (inputs,),
        }

    def convolution(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        own = {f"{name}.noise.weight": (1,), f"{name}.activate.bias": (outputs,)}
        return {**modulated(name, inputs, outputs, 3), **own}

    def colours(name: str, inputs: int) -> dict[str, tuple[int, ...]]:
        return {**modulated(name, inputs, 3, 1), f"{name}.bias": (1, 3, 1, 1)}

    shapes |= {**convolution("conv1", width[4], width[4]), **colours("to_rgb1", width[4])}
    shapes["noises.noise_0"] = (1, 1, 4, 4)
    for block, resolution in enumerate(config.block_resolutions[1:]):
        first, second = 2 * block, 2 * block + 1
        shapes |= convolution(f"convs.{first}", width[resolution // 2], width[resolution])
        shapes |= convolution(f"convs.{second}", width[resolution], width[resolution])
        shapes |= colours(f"to_rgbs.{block}", width[resolution])
        shapes |= {f"convs.{first}.conv.blur.kernel": (4, 4), f"to_rgbs.{block}.upsample.kernel": (4, 4)}
        shapes |= {f"noises.noise_{n + 1}": (1, 1, resolution, resolution) for n in (first, second)}
    return shapes


LAYOUTS = [
    {},
    {"mapping_layers": 8, "img_resolution": 64},
    {"img_resolution": 8},
    {"widths": (16, 12, 8, 4)},
    {"mapping_width": 16},
]


@pytest.mark.parametrize("changes", LAYOUTS, ids=str)
def test_a_pt_has_rosinalitys_names_and_shapes(changes: dict[str, Any], tmp_path: Path) -> None:
    generator = variant(**changes)
    save_rosinality(generator, tmp_path / "g.pt")
    found = torch.load(tmp_path / "g.pt", weights_only=True)
    assert list(found) == ["g_ema", "latent_avg"]
    assert found["latent_avg"].shape == (16,)
    shapes = {name: tuple(tensor.shape) for name, tensor in found["g_ema"].items()}
    assert shapes == rosinality_shapes(generator.config)
    assert all(tensor.dtype == torch.float32 for tensor in found["g_ema"].values())
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 16
    for name, tensor in found["g_ema"].items():
        if name.endswith("kernel"):
            assert torch.equal(tensor, kernel), name


@pytest.mark.parametrize("changes", LAYOUTS, ids=str)
def test_a_pt_comes_back_to_the_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    generator = variant(**changes)
    save_rosinality(generator, tmp_path / "g.pt")
    assert inspect(tmp_path / "g.pt")["format"] == "rosinality"
    again = load_generator(tmp_path / "g.pt").state_dict()
    assert list(again) == list(generator.state_dict())
    for name, value in generator.state_dict().items():
        assert torch.equal(again[name], value), name


def test_a_pt_holds_tensors_alone(plain: Generator, tmp_path: Path) -> None:
    save_rosinality(plain, tmp_path / "g.pt")
    with zipfile.ZipFile(tmp_path / "g.pt") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        operations = list(genops(archive.read(name)))
    wanted = {argument for operation, argument, _ in operations if operation.name == "GLOBAL"}
    assert wanted == {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}
    assert not [operation for operation, _, _ in operations if operation.name in ("STACK_GLOBAL", "INST")]


def test_differences_from_rosinalitys_generator_are_noted(tmp_path: Path) -> None:
    notes = save_rosinality(variant(conv_clamp=256), tmp_path / "a.pt")
    assert len(notes) == 2
    assert "other channels than these (4: 16, 8: 16, 16: 16, 32: 8)" in notes[0]
    assert "does not clamp activations as this one does (at 256)" in notes[1]
    own = variant(z_dim=8, w_dim=8, img_resolution=8, channel_base=16384, channel_max=512)
    assert save_rosinality(own, tmp_path / "b.pt") == ()
    own.licence = "for research"
    assert save_rosinality(own, tmp_path / "c.pt") == ("the licence of the weights is not kept in a .pt",)


def test_grey_is_written_as_rgb(tmp_path: Path) -> None:
    grey = variant(img_channels=1)
    save_rosinality(grey, tmp_path / "g.pt")
    ws = torch.randn(1, grey.num_ws, 16)
    pictures = load_generator(tmp_path / "g.pt").synthesis(ws)
    torch.testing.assert_close(pictures, grey.synthesis(ws).expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architecture": "resnet"}, "architecture resnet"),
        ({"architecture": "orig"}, "architecture orig"),
        ({"architecture": "mobile", "widths": (16, 16, 8)}, "architecture mobile"),
        ({"c_dim": 3}, "labels (3)"),
        ({"z_dim": 8}, "z of 8 and w of 16"),
        ({"mapping_width": 24}, "a mapping network 24 wide"),
    ],
    ids=str,
)
def test_what_rosinalitys_layout_cannot_hold_is_refused(
    changes: dict[str, Any], what: str, tmp_path: Path, run: Run
) -> None:
    save_generator(variant(**changes), tmp_path / "g.safetensors")
    code, _, err = run("convert", tmp_path / "g.safetensors", tmp_path / "g.pt")
    assert (code, err.count("\n")) == (2, 1)
    assert f"rosinality's layout (.pt) has no place for {what}; write .safetensors or .onnx" in err
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


# ---- ONNX


def check_onnx_pictures(path: Path, generator: Generator, numbers: tuple[int, ...] = (1, 2, 5)) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for number in numbers:
        ws = torch.randn(number, generator.num_ws, generator.config.w_dim)
        (pictures,) = session.run(["pictures"], {"ws": ws.numpy()})
        expected = generator.synthesis(ws, noise_mode="const").numpy()
        assert isinstance(pictures, np.ndarray)
        assert (pictures.shape, pictures.dtype) == (expected.shape, np.float32)
        np.testing.assert_allclose(pictures, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"img_resolution": 64, "mapping_layers": 8},
        {"img_resolution": 8},
        {"architecture": "resnet", "c_dim": 3},
        {"architecture": "orig"},
        {"conv_clamp": 1.0, "num_fp16_res": 2},
        {"architecture": "mobile", "widths": (16, 16, 8)},
        {"architecture": "mobile", "widths": (16, 16, 8), "num_fp16_res": 2},
    ],
    ids=str,
)
def test_onnx_draws_the_same_pictures(changes: dict[str, Any], tmp_path: Path) -> None:
    generator = variant(**changes)
    save_onnx(generator, tmp_path / "g.onnx")
    check_onnx_pictures(tmp_path / "g.onnx", generator)
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]


@pytest.mark.parametrize("changes", [{}, {"architecture": "mobile", "widths": (16, 16, 8)}], ids=str)
def test_onnx_of_a_grey_generator_gives_three_channels(changes: dict[str, Any], tmp_path: Path) -> None:
    save_generator(variant(img_channels=1, **changes), tmp_path / "g.safetensors")
    rgb = load_generator(tmp_path / "g.safetensors")
    save_onnx(variant(img_channels=1, **changes), tmp_path / "g.onnx")
    assert rgb.config.img_channels == 3
    check_onnx_pictures(tmp_path / "g.onnx", rgb)


def test_onnx_of_configuration_f(tmp_path: Path) -> None:
    """Its channels, at 16 px."""
    generator = files.make(GeneratorConfig(img_resolution=16))
    save_onnx(generator, tmp_path / "g.onnx")
    check_onnx_pictures(tmp_path / "g.onnx", generator, (2,))


@pytest.mark.slow
def test_onnx_of_configuration_f_at_1024_px(tmp_path: Path) -> None:
    generator = files.make(GeneratorConfig())
    save_onnx(generator, tmp_path / "g.onnx")
    check_onnx_pictures(tmp_path / "g.onnx", generator, (1,))


def test_onnx_leaves_the_generator_as_it_is_and_keeps_its_licence(tmp_path: Path) -> None:
    generator = variant(num_fp16_res=2).train().requires_grad_(True)
    generator.licence = "for research"
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    save_onnx(generator, tmp_path / "g.onnx")
    assert generator.training
    assert all(parameter.requires_grad for parameter in generator.parameters())
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
    assert generator.synthesis.get_submodule("b32").is_half
    (licence,) = onnx.load(tmp_path / "g.onnx").metadata_props
    assert (licence.key, licence.value) == ("licence", "for research")


# ---- the command


def test_the_command_writes_both_and_prefers_safetensors(plain: Generator, tmp_path: Path, run: Run) -> None:
    save_generator(plain, tmp_path / "g.safetensors")
    code, out, err = run("convert", tmp_path / "g.safetensors", tmp_path / "g.pt")
    assert (code, err) == (0, "")
    assert "note: a .pt is a pickle; prefer .safetensors wherever it can be read" in out
    assert out.endswith(f"wrote {tmp_path / 'g.pt'}\n")
    code, out, err = run("convert", tmp_path / "g.pt", tmp_path / "G.ONNX")
    assert (code, err) == (0, "")
    assert out.endswith(f"wrote {tmp_path / 'G.ONNX'}\n")
    check_onnx_pictures(tmp_path / "G.ONNX", plain)
    for name in ("g.pt", "G.ONNX"):
        code, _, err = run("convert", tmp_path / "g.safetensors", tmp_path / name)
        assert (code, "exists already" in err) == (1, True)


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_pictures_of_four_channels_are_refused_in_one_line(suffix: str, tmp_path: Path, run: Run) -> None:
    save_generator(variant(img_channels=4), tmp_path / "g.safetensors")
    code, _, err = run("convert", tmp_path / "g.safetensors", tmp_path / f"g{suffix}")
    assert (code, err.count("\n")) == (2, 1)
    assert "4 channels; RGB (3) and grey (1) are supported" in err


def test_onnx_without_its_package_names_it(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = run("convert", "https://example.org/large.pkl", tmp_path / "g.onnx")
    assert (code, err) == (1, "Error: writing ONNX needs onnx: pip install 'clip2gan[onnx]'\n")
    assert not list(tmp_path.iterdir())

"""Generators' weights as people leave them: wrapped, without noise, by themselves, under either naming."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_checkpoints import PLAIN, assert_same_weights
from torch import Tensor

from stylegan2 import Generator, load_generator
from stylegan2.checkpoints import CheckpointError, inspect
from tools import checkpoint_files as files

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def plain() -> Generator:
    return files.make(PLAIN)


def save(path: Path, value: Any) -> Path:
    return files.write(path, files.torch_save(value))


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def without_noise(state: State) -> State:
    return {
        name: value for name, value in state.items() if "noise_const" not in name and "noises." not in name
    }


def nvidia_state(generator: Generator) -> State:
    return {name: value.contiguous() for name, value in generator.state_dict().items()}


WRAPPED: dict[str, Callable[[State, Tensor], Any]] = {
    "bare": lambda state, average: state,
    "bare, wrapped": lambda state, average: prefixed(state, "module."),
    "g_ema, wrapped": lambda state, average: {"g_ema": prefixed(state, "module."), "latent_avg": average},
    "e4e": lambda state, average: {"state_dict": prefixed(state, "decoder."), "latent_avg": average},
    "e4e, wrapped": lambda state, average: {
        "state_dict": prefixed(state, "module.decoder.") | {"module.encoder.weight": torch.zeros(2)},
        "latent_avg": average,
    },
    "wrapped twice": lambda state, average: {
        "g_ema": prefixed(state, "module.module."),
        "latent_avg": average,
    },
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_rosinalitys_names_under_wrappers(wrapping, plain, tmp_path):
    path = save(tmp_path / "g.pt", WRAPPED[wrapping](files.rosinality_state(plain), plain.mapping.w_avg))
    loaded = load_generator(path)
    for name, value in plain.synthesis.state_dict().items():
        torch.testing.assert_close(loaded.synthesis.state_dict()[name], value, rtol=0, atol=1e-6)
    assert inspect(path)["format"] == "rosinality"
    if "latent_avg" in str(WRAPPED[wrapping]({}, plain.mapping.w_avg)):
        assert_same_weights(loaded, plain)


@pytest.mark.parametrize("key", [None, "G_ema", "g_ema", "generator", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "generator.", "G_ema."])
def test_nvidias_names(key, prefix, plain, tmp_path):
    state = prefixed(nvidia_state(plain), prefix)
    path = save(tmp_path / "g.pt", state if key is None else {key: state})
    assert_same_weights(load_generator(path), plain)
    assert inspect(path)["format"] == "state_dict"


def test_averaged_weights_are_preferred_to_those_beside_them(plain, tmp_path):
    other = files.make(PLAIN, seed=9)
    both = prefixed(nvidia_state(other), "G.") | prefixed(nvidia_state(plain), "G_ema.")
    for value in (both, {"G": nvidia_state(other), "G_ema": nvidia_state(plain)}):
        path = save(tmp_path / "g.pt", value)
        assert_same_weights(load_generator(path), plain)
        assert_same_weights(load_generator(path, network="G"), other)


@pytest.mark.parametrize("naming", ["nvidia", "rosinality"])
def test_safetensors_without_our_header(naming, plain, tmp_path):
    state = nvidia_state(plain) if naming == "nvidia" else files.rosinality_state(plain)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, tmp_path / "g.safetensors")
    loaded = load_generator(tmp_path / "g.safetensors")
    for name, value in plain.synthesis.state_dict().items():
        torch.testing.assert_close(loaded.synthesis.state_dict()[name], value, rtol=0, atol=1e-6)
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"other.safetensors: no StyleGAN2 generator in it \(but layer.weight"
    ):
        load_generator(tmp_path / "other.safetensors")


@pytest.mark.parametrize("labels", [0, 3])
def test_a_state_dict_of_nvidias_without_what_can_be_made_again(labels, tmp_path, caplog):
    from dataclasses import replace

    generator = files.make(replace(PLAIN, c_dim=labels))
    state = without_noise(nvidia_state(generator))
    state = {name: value for name, value in state.items() if "resample" not in name and "w_avg" not in name}
    loaded = load_generator(save(tmp_path / "g.pt", state))
    ws = torch.randn(1, generator.num_ws, 16)
    torch.testing.assert_close(
        loaded.synthesis(ws, noise_mode="none"), generator.synthesis(ws, noise_mode="none")
    )
    assert "no noise buffers" in caplog.text
    assert "no latent_avg" in caplog.text


def test_missing_noise_is_drawn_from_a_fixed_seed_and_told(plain, tmp_path, caplog):
    state = without_noise(files.rosinality_state(plain))
    path = save(tmp_path / "g.pt", {"g_ema": state, "latent_avg": plain.mapping.w_avg})
    first, again = load_generator(path), load_generator(path)
    assert caplog.text.count("the file has no noise buffers; drawn anew (seed 0)") == 2
    noises = [value for name, value in first.state_dict().items() if name.endswith("noise_const")]
    assert [value.shape[0] for value in noises] == [4, 8, 8, 16, 16]
    assert all(0.5 < value.std() < 1.5 for value in noises)
    assert_same_weights(first, again)
    ws = torch.randn(1, plain.num_ws, 16)
    torch.testing.assert_close(first.synthesis(ws, noise_mode="none"), plain.synthesis(ws, noise_mode="none"))
    del state["style.1.weight"]  # what cannot be drawn is still missing
    with pytest.raises(CheckpointError):
        load_generator(save(path, {"g_ema": state, "latent_avg": plain.mapping.w_avg}))


def test_a_part_of_the_noise_is_damage(plain, tmp_path):
    state = files.rosinality_state(plain)
    del state["noises.noise_1"]
    with pytest.raises(CheckpointError, match=r"missing synthesis.b8.conv0.noise_const"):
        load_generator(save(tmp_path / "g.pt", {"g_ema": state}))


def test_only_the_trained_weights(plain, tmp_path, caplog):
    path = save(tmp_path / "g.pt", {"g": files.rosinality_state(plain), "latent_avg": plain.mapping.w_avg})
    assert_same_weights(load_generator(path), plain)
    assert "no averaged weights (g_ema); these are g's" in caplog.text
    path = save(tmp_path / "n.pt", {"G": nvidia_state(plain)})
    assert_same_weights(load_generator(path), plain)
    assert "no averaged weights (G_ema); these are G's" in caplog.text
    with pytest.raises(CheckpointError, match=r"no G in it|no generator"):
        load_generator(save(tmp_path / "o.pt", {"g_ema": {"x": torch.zeros(1)}}), network="G")


@pytest.mark.parametrize("shape", [(4, 2), (8, 4), (4, 8), (8, 8)])
def test_generators_of_other_shapes_are_said_so(shape, plain, tmp_path):
    state = files.rosinality_state(plain) | {"input.input": torch.zeros(1, 16, *shape)}
    kind = "not square" if shape[0] != shape[1] else "of another size"
    with pytest.raises(
        CheckpointError, match=rf"pictures .*{kind} \(its constant is {shape[0]}x{shape[1]}, not 4x4\)"
    ):
        load_generator(save(tmp_path / "g.pt", {"g_ema": state}))

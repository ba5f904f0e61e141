"""Generators of tools whose files are not read are told by the tools' names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clip2gan.messages import LONGEST, one_line
from stylegan2 import load_generator
from stylegan2.checkpoints import CheckpointError
from tools import checkpoint_files as files

TOOLS = {
    "a StyleGAN3 generator": ["mapping.fc0.weight", "synthesis.input.freqs", "synthesis.L0_36_512.weight"],
    "a StyleGAN-XL generator": ["mapping.embed_proj.weight", "synthesis.input.freqs"],
    "a StyleGAN2 of MMGeneration (mmgen)": ["style_mapping.1.linear.weight", "constant_input.const"],
    "a StyleGAN2 of BasicSR": ["style_mlp.1.weight", "constant_input.weight", "noises.noise0"],
    "a model of lucidrains' stylegan2_pytorch": ["S.net.0.weight", "G.initial_block", "D.final_conv.weight"],
}
PLACES = {
    "bare": lambda state: state,
    "mmgen": lambda state: {"meta": {"mmgen_version": "0.7"}, "state_dict": state},
    "averaged": lambda state: {
        "meta": {},
        "state_dict": {f"generator_ema.{name}": value for name, value in state.items()},
    },
    "BasicSR": lambda state: {"params_ema": state, "params": state},
    "lucidrains": lambda state: {"GAN": state, "version": "1.8.9"},
    "rosinality": lambda state: {"g_ema": {f"module.{name}": value for name, value in state.items()}},
    "NVIDIA": lambda state: {"G_ema": state},
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("place", PLACES)
def test_a_file_of_another_tool_is_told_by_its_name(tool: str, place: str, tmp_path: Path) -> None:
    state = {name: torch.zeros(2) for name in TOOLS[tool]}
    path = files.write(tmp_path / "x.pth", files.torch_save(PLACES[place](state)))
    with pytest.raises(CheckpointError) as error:
        load_generator(path)
    assert str(error.value).startswith(f"{path}: {tool}, which ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tool", TOOLS)
def test_so_are_safetensors(tool: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(2) for name in TOOLS[tool]}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_generator(tmp_path / "x.safetensors")
    assert f": {tool}, which " in str(error.value)


def test_texts_of_others_keep_their_useful_end() -> None:
    assert (
        one_line(ValueError("short\n  and whole, to the end: /a/path"))
        == "short and whole, to the end: /a/path"
    )
    assert one_line(ValueError()) == "ValueError"
    first = "This is what went wrong, in a sentence of some length. "
    assert one_line(first * 10) == (first * 5).strip()
    words = one_line("word " * 200)
    assert words.endswith("word...")
    assert len(words) <= LONGEST
    assert len(one_line("x" * 5000)) == LONGEST

"""The .pt files of rosinality's stylegan2-pytorch, and of what was built on it (e4e, pSp, StyleGAN-NADA).

{"g_ema": state_dict, maybe "g", "d", "latent_avg", ...}; e4e and pSp: {"state_dict": with the generator's
names after "decoder.", "latent_avg", "opts"}. Beside these, a generator's state_dict alone; and "module."
before all names, which DataParallel leaves there.
"""

import re
from typing import Any

import torch
from torch import Tensor

from stylegan2.checkpoints.checkpoint import (
    Checkpoint,
    Network,
    Source,
    check_filter,
    completed,
    generator_part,
    infer_config,
    layer_at,
    with_filters,
    without_first,
)
from stylegan2.checkpoints.pickles import CheckpointError, Value, describe

NAMES = {"argparse.Namespace", "torch.device"}
CONSTANT = "input.input"


def recognise(root: Value) -> bool:
    return isinstance(root, dict) and (
        any(key in root for key in ("g_ema", "g", "state_dict", "d"))
        or generator_part(root, CONSTANT, "G_ema") is not None
    )


def read(root: Value, source: Source, network: Network) -> Checkpoint:
    """The generator of a file's object. Raises CheckpointError."""
    records, choice = _choose(root, network)
    tensors = _renamed({name: source.tensor(record, name) for name, record in records.items()})
    average = root.get("latent_avg")
    if average is not None:
        tensors["mapping.w_avg"] = _single(source.tensor(average, "latent_avg"))
    config = infer_config(tensors)
    tensors, notes, averaged = completed(tensors, config)
    return Checkpoint("rosinality", config, tensors, notes=(*choice, *notes), averaged_latents=averaged)


def _choose(root: dict[Any, Value], network: Network) -> tuple[dict[str, Value], tuple[str, ...]]:
    """(the generator's state_dict, notes on the choice)."""
    key, notes = ("g_ema" if network == "G_ema" else "g"), ()
    if key == "g_ema" and key not in root and generator_part(root.get("g"), CONSTANT, network) is not None:
        key, notes = "g", ("the file has no averaged weights (g_ema); these are g's",)
    state: Value = root[key] if key in root else root.get("state_dict", root)
    if not isinstance(state, dict):
        raise CheckpointError(f"its {key} is {describe(state)}, not a state_dict")
    found = generator_part(state, CONSTANT, network)
    if found is None:
        names = ", ".join(ascii(name) for name in list(state or root)[:5])
        raise CheckpointError(
            f"no {CONSTANT}, so no generator, in it (but {names:.120}); give the file that has one"
        )
    return found, notes


def _renamed(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under NVIDIA's names, and in its shapes."""
    tensors = {}
    for name, value in arrays.items():
        if name.endswith((".blur.kernel", ".upsample.kernel")):
            check_filter(value / 4, name)  # upsampling's gain is folded in
            continue
        translated = _translate(name, value)
        if translated is None:
            raise CheckpointError(f"an unknown tensor {name!a:.80}")
        tensors[translated[0]] = translated[1].contiguous()
    return with_filters(tensors)


def _translate(name: str, value: Tensor) -> tuple[str, Tensor] | None:
    if match := re.fullmatch(r"style\.([1-9]\d{0,2})\.(weight|bias)", name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}", value  # style.0 normalises, and has no tensors
    if name == CONSTANT:
        return "synthesis.b4.const", without_first(name, value)
    if match := re.fullmatch(r"noises\.noise_(\d{1,2})", name):
        resolution, layer = layer_at(int(match[1]))
        return f"synthesis.b{resolution}.{layer}.noise_const", without_first(name, without_first(name, value))
    if match := re.fullmatch(r"(conv1|convs\.(\d{1,2})|to_rgb1|to_rgbs\.(\d{1,2}))\.(.+)", name):
        if match[1].startswith("conv"):
            resolution, layer = layer_at(0 if match[2] is None else int(match[2]) + 1)
        else:
            resolution, layer = 4 if match[3] is None else 8 * 2 ** int(match[3]), "torgb"
        prefix = f"synthesis.b{resolution}.{layer}"
        part = match[4]
        if part == "conv.weight":
            return f"{prefix}.weight", without_first(name, value)
        if part in ("conv.modulation.weight", "conv.modulation.bias"):
            return f"{prefix}.affine.{part.rpartition('.')[2]}", value
        if part == "noise.weight" and layer != "torgb" and value.numel() == 1:
            return f"{prefix}.noise_strength", value.reshape(())
        if part == ("bias" if layer == "torgb" else "activate.bias"):
            return f"{prefix}.bias", value.flatten()
    return None


def _single(average: Tensor) -> Tensor:
    """latent_avg [w_dim]; e4e and pSp repeat it for each layer."""
    if average.ndim == 2 and torch.equal(average, average[:1].expand_as(average)):
        average = average[0]
    if average.ndim != 1:
        raise CheckpointError(f"latent_avg is {list(average.shape)}; one latent was expected")
    return average.contiguous()

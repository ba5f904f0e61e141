"""The .pt files of rosinality's stylegan2-pytorch, and of what was built on it (e4e, pSp, StyleGAN-NADA).

{"g_ema": state_dict, maybe "g", "d", "latent_avg", ...}; e4e and pSp: {"state_dict": with the generator's
names after "decoder.", "latent_avg", "opts"}. Beside these, a generator's state_dict alone.
"""

import re
from typing import Any

import torch
from torch import Tensor

from stylegan2.checkpoints.arrays import Storages
from stylegan2.checkpoints.checkpoint import (
    Checkpoint,
    Network,
    WithoutData,
    check_filter,
    infer_config,
    layer_at,
    with_filters,
    without_first,
)
from stylegan2.checkpoints.pickles import CheckpointError, Value, describe
from stylegan2.files import check_weights
from stylegan2.generator import GeneratorConfig, MappingNetwork

NAMES = {"argparse.Namespace", "torch.device"}
CONSTANT = "input.input"
DECODER = "decoder."
AVERAGED_LATENTS = 10_000


def recognise(root: Value) -> bool:
    return isinstance(root, dict) and (
        any(key in root for key in ("g_ema", "g", "state_dict", "d")) or CONSTANT in root
    )


def read(root: Value, storages: Storages, network: Network) -> Checkpoint:
    """The generator of a file's object. Raises CheckpointError."""
    records = _choose(root, network)
    arrays = {name: storages.tensor(record, name) for name, record in records.items()}
    tensors = _renamed(arrays)
    notes: tuple[str, ...] = ()
    average = root.get("latent_avg")
    if average is not None:
        tensors["mapping.w_avg"] = _single(storages.tensor(average, "latent_avg"))
        config = infer_config(tensors)
    else:
        config = infer_config(tensors)
        tensors["mapping.w_avg"] = _mean_latent(tensors, config)
        notes = (f"the file has no latent_avg; estimated from {AVERAGED_LATENTS:,} latents (seed 0)",)
    return Checkpoint(format="rosinality", config=config, tensors=tensors, notes=notes)


def _choose(root: dict[Any, Value], network: Network) -> dict[str, Value]:
    """The generator's state_dict."""
    key = "g_ema" if network == "G_ema" else "g"
    found: Value = root
    if key in root:
        found = root[key]
    elif "state_dict" in root and isinstance(root["state_dict"], dict):
        found = {
            name.removeprefix(DECODER): value
            for name, value in root["state_dict"].items()
            if isinstance(name, str) and name.startswith(DECODER)
        }
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"its {key} is {describe(found)}, not a state_dict")
    if CONSTANT not in found:
        names = ", ".join(ascii(name) for name in list(found or root)[:5])
        raise CheckpointError(
            f"no {CONSTANT}, so no generator, in it (but {names:.120}); give the file that has one"
        )
    return found


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


def _mean_latent(tensors: dict[str, Tensor], config: GeneratorConfig) -> Tensor:
    with WithoutData():
        mapping = MappingNetwork(config)
    weights = {
        name: tensors.get(f"mapping.{name}", torch.zeros(config.w_dim)) for name in mapping.state_dict()
    }
    check_weights(mapping, weights, "mapping")
    mapping.load_state_dict(weights, assign=True)
    z = torch.randn(AVERAGED_LATENTS, config.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return mapping(z)[:, 0].mean(dim=0)

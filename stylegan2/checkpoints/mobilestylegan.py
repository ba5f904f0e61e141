"""The .ckpt files of MobileStyleGAN.pytorch: PyTorch Lightning's, with the whole training in them.

{"state_dict": names of the mapping network after "mapping_net.", of the mobile generator after "student.", of
its teacher and others, "style_mean"; beside it the state of the trainer}. Demodulation, which does not depend
on the style here, is multiplied into the weights.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from stylegan2.checkpoints.checkpoint import Checkpoint, Network, Source, without_first
from stylegan2.checkpoints.pickles import CheckpointError, Value
from stylegan2.config import GeneratorConfig

# Lightning names the class of a callback as the key of its state.
NAMES = {"pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "addict.addict.Dict"}
STUDENT, MAPPING = "student.", "mapping_net.layers."
CONSTANT = "student.input.input"
AVERAGED_LATENTS = 100_000
NOISE_SEED = 0


def recognise(root: Value) -> bool:
    state = root.get("state_dict") if isinstance(root, dict) else None
    return isinstance(state, dict) and CONSTANT in state


def read(root: Value, source: Source, network: Network) -> Checkpoint:
    """The generator of a file's object. Raises CheckpointError."""
    if network != "G_ema":
        raise CheckpointError("MobileStyleGAN.pytorch keeps one generator; leave --network out")
    arrays = {
        name: source.tensor(record, name)
        for name, record in root["state_dict"].items()
        if isinstance(name, str) and name.startswith((STUDENT, MAPPING, "style_mean"))
    }
    tensors = _mapping(arrays)
    tensors |= _synthesis({name.removeprefix(STUDENT): value for name, value in arrays.items()})
    notes = (f"the file has no noise; drawn from seed {NOISE_SEED}",)
    averaged = 0
    if "style_mean" in arrays:
        tensors["mapping.w_avg"] = _single(arrays["style_mean"])
    else:
        averaged = AVERAGED_LATENTS
        notes += (f"the file has no mean latent; estimated from {averaged:,} latents (seed 0)",)
    config = mobile_config(tensors)
    return Checkpoint("mobilestylegan", config, tensors, notes=notes, averaged_latents=averaged)


def mobile_config(tensors: Mapping[str, Tensor]) -> GeneratorConfig:
    """The configuration of a mobile generator that the tensors' shapes show. Raises CheckpointError."""
    widths = []
    while (bias := tensors.get(f"synthesis.b{4 * 2 ** len(widths)}.conv1.bias")) is not None:
        widths.append(bias.numel())
    first = tensors.get("mapping.fc0.weight")
    colours = tensors.get("synthesis.torgb.bias")
    if first is None or first.ndim != 2 or colours is None:
        raise CheckpointError(
            "not a MobileStyleGAN generator: its mapping network or its colours are missing"
        )
    w_dim, z_dim = first.shape
    try:
        return GeneratorConfig(
            z_dim=z_dim,
            w_dim=w_dim,
            img_resolution=4 * 2 ** len(widths),
            img_channels=colours.numel() // 4,
            mapping_layers=sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in tensors),
            architecture="mobile",
            widths=tuple(widths),
        )
    except ValueError as error:
        raise CheckpointError(f"not a MobileStyleGAN generator: {error}") from error


def _single(average: Tensor) -> Tensor:
    """The mean latent [w_dim], which is repeated for each of their latents."""
    rows = average.reshape(-1, average.shape[-1]) if average.numel() else average
    if rows.ndim != 2 or not torch.equal(rows, rows[:1].expand_as(rows)):
        raise CheckpointError(f"style_mean is {list(average.shape)}; one latent was expected")
    return rows[0].clone()


def _mapping(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The linear layers, which begin at 1 (0 is the normalisation) and are scaled as ours."""
    found = {}
    for name, value in arrays.items():
        if match := re.fullmatch(r"mapping_net\.layers\.([1-9]\d?)\.(weight|bias)", name):
            found[f"mapping.fc{int(match[1]) - 1}.{match[2]}"] = value
    return found


def _synthesis(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's tensors under our names; its colours of lower resolutions count for nothing."""
    random = torch.Generator().manual_seed(NOISE_SEED)
    tensors = {"synthesis.b4.const": without_first(CONSTANT, _get(arrays, "input.input"))}
    tensors |= _layer(arrays, "conv1", "synthesis.b4.conv1", 4, random)
    count = len({name.split(".")[1] for name in arrays if name.startswith("layers.")})
    for index in range(count):
        resolution = 8 * 2**index
        tensors |= _affine(arrays, f"layers.{index}.up.modulation", f"synthesis.b{resolution}.up_affine", 1.0)
        for theirs, ours in (("conv1", "conv0"), ("conv2", "conv1")):
            name = f"synthesis.b{resolution}.{ours}"
            tensors |= _layer(arrays, f"layers.{index}.{theirs}", name, resolution, random)
    last = f"layers.{count - 1}.to_img"
    weight = _get(arrays, f"{last}.conv.weight", 4)
    tensors["synthesis.torgb.weight"] = weight
    tensors["synthesis.torgb.bias"] = _get(arrays, f"{last}.bias").flatten()
    scale = 1 / math.sqrt(weight[0].numel())
    return tensors | _affine(arrays, f"{last}.conv.modulation", "synthesis.torgb.affine", scale)


def _layer(
    arrays: Mapping[str, Tensor], theirs: str, ours: str, resolution: int, random: torch.Generator
) -> dict[str, Tensor]:
    """A modulated convolution, dense or separable, with what follows it."""
    tensors = {
        f"{ours}.bias": _get(arrays, f"{theirs}.bias").flatten(),
        f"{ours}.noise_strength": _get(arrays, f"{theirs}.noise.weight").reshape(-1)[:1].reshape(()).clone(),
        f"{ours}.noise_const": torch.randn(resolution, resolution, generator=random),
    }
    inverse = _get(arrays, f"{theirs}.conv.style_inv").reshape(1, -1, 1, 1)
    if f"{theirs}.conv.weight" in arrays:
        weight = _get(arrays, f"{theirs}.conv.weight", 4)
        scale = 1 / math.sqrt(weight[0].numel())
        tensors[f"{ours}.weight"] = weight * _demodulation(weight, inverse, scale)
    else:
        depthwise = _get(arrays, f"{theirs}.conv.weight_dw", 4)
        pointwise = _get(arrays, f"{theirs}.conv.weight_permute", 4)
        if depthwise.shape[1] != 1 or pointwise.shape[1] != len(depthwise) or pointwise.shape[2:] != (1, 1):
            raise CheckpointError(f"{theirs}: kernels {list(depthwise.shape)} and {list(pointwise.shape)}")
        scale = 1 / math.sqrt(depthwise.numel())
        whole = depthwise.transpose(0, 1) * pointwise
        tensors[f"{ours}.depthwise"] = depthwise
        tensors[f"{ours}.pointwise"] = pointwise * _demodulation(whole, inverse, scale)
    return tensors | _affine(arrays, f"{theirs}.conv.modulation", f"{ours}.affine", scale)


def _demodulation(weight: Tensor, inverse: Tensor, scale: float) -> Tensor:
    """[O, 1, 1, 1] by which kernels [O, I, k, k] are multiplied; inverse [1, I, 1, 1] stands for a style."""
    if inverse.shape[1] != weight.shape[1]:
        raise CheckpointError(f"a style of {inverse.shape[1]} channels for kernels {list(weight.shape)}")
    return ((scale * inverse * weight).square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()


def _affine(arrays: Mapping[str, Tensor], theirs: str, ours: str, scale: float) -> dict[str, Tensor]:
    """scale * (A w + b); our layer divides its weights by the square root of their number of inputs."""
    weight, bias = _get(arrays, f"{theirs}.weight", 2), _get(arrays, f"{theirs}.bias", 1)
    return {
        f"{ours}.weight": weight * (scale * math.sqrt(weight.shape[1])),
        f"{ours}.bias": bias * scale,
    }


def _get(arrays: Mapping[str, Tensor], name: str, dimensions: int | None = None) -> Tensor:
    """A tensor that has to be there. Raises CheckpointError."""
    value = arrays.get(name)
    if value is None or (dimensions is not None and value.ndim != dimensions) or value.numel() == 0:
        found = "missing" if value is None else list(value.shape)
        raise CheckpointError(f"not a MobileStyleGAN generator: {STUDENT}{name} is {found}")
    return value

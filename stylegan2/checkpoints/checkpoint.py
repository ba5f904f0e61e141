"""What every reader gives: tensors under NVIDIA's PyTorch names, and the configuration that they show."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from stylegan2.checkpoints.pickles import CheckpointError
from stylegan2.config import Architecture, GeneratorConfig
from stylegan2.generator import MappingNetwork
from stylegan2.layers import RESAMPLE_TAPS
from stylegan2.ops import setup_filter

Network = Literal["G_ema", "G"]
NVIDIA_LICENCE = (
    "as published by NVIDIA, for non-commercial use only (NVIDIA Source Code License); "
    "weights that others trained have their own terms"
)
AVERAGED_LATENTS, AVERAGED_AT_ONCE = 10_000, 2_000
LARGEST_DRAWN = 2048
MAPPING_LEARNING_RATE = 0.01  # the multiplier that GeneratorConfig takes for granted


@dataclass(frozen=True)
class Checkpoint:
    """A generator as read from a file.

    Attributes:
        format: "safetensors", "nvidia", "tensorflow", "rosinality", "state_dict" (of NVIDIA's names),
            "mobilestylegan" or "openvino".
        config: the generator's shape, taken from the tensors' shapes.
        tensors: by the names of `Generator.state_dict()`.
        licence: of the weights, where the source tells.
        has_code: whether source text was found inside. It was not run.
        notes: what a user should know about how the file was read.
        averaged_latents: of how many w_avg is the mean, where the file has none; 0 where it has one.
    """

    format: str
    config: GeneratorConfig
    tensors: Mapping[str, Tensor]
    licence: str | None = None
    has_code: bool = False
    notes: tuple[str, ...] = ()
    averaged_latents: int = 0


class Source(Protocol):
    """Turns what a file has for tensors into tensors."""

    def tensor(self, value: Any, name: str) -> Tensor:
        """A new, contiguous float32 tensor. Raises ValueError, with `name`, for what is none."""
        ...


class Tensors:
    """A source whose tensors are read already."""

    def tensor(self, value: Any, name: str) -> Tensor:
        return value.to(torch.float32).contiguous()


def infer_config(
    tensors: Mapping[str, Tensor], num_fp16_res: int = 0, conv_clamp: float | None = None
) -> GeneratorConfig:
    """The configuration that the tensors' names and shapes show; the last two do not show in them.

    Raises CheckpointError when a tensor that tells is not there, or the configuration is none of a StyleGAN2.
    """

    def shape(name: str, dimensions: int) -> torch.Size:
        if name not in tensors or tensors[name].ndim != dimensions:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise CheckpointError(f"not a StyleGAN2 generator: {name} is {found}")
        return tensors[name].shape

    resolutions = _numbers(tensors, r"synthesis\.b(\d{1,5})\..*")
    if resolutions != [4 * 2**k for k in range(len(resolutions))] or len(resolutions) < 2:
        raise CheckpointError(f"not a StyleGAN2 generator: it has blocks at resolutions {resolutions[:12]}")
    const = shape("synthesis.b4.const", 3)
    if const[1:] != (4, 4):
        kind = "pictures that are not square" if const[1] != const[2] else "pictures of another size"
        raise CheckpointError(
            f"a generator of {kind} (its constant is {const[1]}x{const[2]}, not 4x4); not supported"
        )
    widths = tuple(shape(f"synthesis.b{resolution}.conv1.weight", 4)[0] for resolution in resolutions)
    depth = len(_numbers(tensors, r"mapping\.fc(\d{1,3})\.weight"))
    w_dim, z_dim = shape("mapping.fc0.weight", 2)
    c_dim = 0
    if "mapping.embed.weight" in tensors:
        embedded, c_dim = shape("mapping.embed.weight", 2)
        z_dim -= embedded
    architecture: Architecture = "skip"
    if "synthesis.b4.torgb.weight" not in tensors:
        architecture = "resnet" if "synthesis.b8.skip.weight" in tensors else "orig"
    base, maximum = _base_and_maximum(resolutions, widths)
    try:
        config = GeneratorConfig(
            z_dim=z_dim,
            c_dim=c_dim,
            w_dim=w_dim,
            img_resolution=resolutions[-1],
            img_channels=shape(f"synthesis.b{resolutions[-1]}.torgb.weight", 4)[0],
            channel_base=base,
            channel_max=maximum,
            mapping_layers=depth,
            num_fp16_res=num_fp16_res,
            conv_clamp=conv_clamp,
            architecture=architecture,
        )
        if [config.channels(resolution) for resolution in resolutions] != list(widths):
            config = GeneratorConfig(**{**vars(config), "widths": widths})
    except ValueError as error:
        raise CheckpointError(f"not a StyleGAN2 generator: {error}") from error
    return config


def generator_part(state: Any, constant: str, network: Network) -> dict[str, Any] | None:
    """The part of a state_dict that is a generator, without what wrappers put before its names.

    The prefix ("module.", "decoder.", "module.decoder.", ...) is what stands before the name `constant`.
    Where there are several, it is that of averaged weights, unless G is asked for. None where there is none.
    """
    if not isinstance(state, dict):
        return None
    names = [name for name in state if isinstance(name, str)]
    prefixes = [
        name.removesuffix(constant) for name in names if name == constant or name.endswith(f".{constant}")
    ]
    if not prefixes:
        return None
    prefixes.sort(key=lambda prefix: ("ema" in prefix.lower()) != (network == "G_ema"))
    prefix = prefixes[0]
    return {name.removeprefix(prefix): state[name] for name in names if name.startswith(prefix)}


def completed(
    tensors: dict[str, Tensor], config: GeneratorConfig
) -> tuple[dict[str, Tensor], tuple[str, ...], int]:
    """(tensors with noise, notes, averaged_latents) of a file that may lack noise and the mean latent."""
    tensors, notes, averaged = dict(tensors), [], 0
    if not any(name.endswith(".noise_const") for name in tensors):
        if config.img_resolution > LARGEST_DRAWN:  # small files must not ask for much memory
            raise CheckpointError(f"no noise buffers in it, which are drawn for {LARGEST_DRAWN} px at most")
        random = torch.Generator().manual_seed(0)
        for index in range(2 * len(config.block_resolutions) - 1):
            resolution, layer = layer_at(index)
            noise = torch.randn(resolution, resolution, generator=random)
            tensors[f"synthesis.b{resolution}.{layer}.noise_const"] = noise
        notes.append("the file has no noise buffers; drawn anew (seed 0)")
    if "mapping.w_avg" not in tensors:
        averaged = AVERAGED_LATENTS
        notes.append(f"the file has no latent_avg; estimated from {averaged:,} latents (seed 0)")
    return tensors, tuple(notes), averaged


@torch.no_grad()
def mean_latent(mapping: MappingNetwork, count: int) -> Tensor:
    """The mean [w_dim] of `count` latents w, of z (and classes) drawn from seed 0."""
    random = torch.Generator().manual_seed(0)
    total = torch.zeros_like(mapping.w_avg, dtype=torch.float64)
    for first in range(0, count, AVERAGED_AT_ONCE):
        size, c = min(AVERAGED_AT_ONCE, count - first), None
        z = torch.randn(size, mapping.z_dim, generator=random)
        if mapping.c_dim:
            c = F.one_hot(torch.randint(mapping.c_dim, (size,), generator=random), mapping.c_dim)
        total += mapping(z, c)[:, 0].sum(dim=0, dtype=torch.float64)
    return (total / count).to(torch.float32)


def check_filter(f: Tensor, name: str) -> None:
    """Raise CheckpointError unless `f` [4, 4] is the filter that StyleGAN2 resamples with."""
    expected = setup_filter(RESAMPLE_TAPS)
    if f.shape != expected.shape or not torch.allclose(f, expected, atol=1e-5):
        raise CheckpointError(f"{name}: resamples with another filter than [1, 3, 3, 1]; not supported")


def layer_at(index: int) -> tuple[int, str]:
    """(resolution, layer) of the index-th convolution: one at 4x4, two at each higher resolution."""
    return 4 * 2 ** ((index + 1) // 2), "conv0" if index % 2 else "conv1"


def without_first(name: str, value: Tensor) -> Tensor:
    """`value` [1, ...] without that dimension."""
    if value.ndim == 0 or value.shape[0] != 1:
        raise CheckpointError(f"{name} is {list(value.shape)}; a first dimension of 1 was expected")
    return value[0]


def with_filters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors and, for formats that do not store them, the filters of all layers that have one."""
    filters = {}
    for name in tensors:
        layer, _, part = name.rpartition(".")
        if part == "weight" and layer.endswith((".conv0", ".conv1", ".skip")):
            for owner in (layer, layer.rpartition(".")[0]):
                filters[f"{owner}.resample_filter"] = setup_filter(RESAMPLE_TAPS)
    return {**tensors, **filters}


def _numbers(names: Iterable[str], pattern: str) -> list[int]:
    matches = (re.fullmatch(pattern, name) for name in names)
    return sorted({int(match[1]) for match in matches if match})


def _base_and_maximum(resolutions: list[int], widths: tuple[int, ...]) -> tuple[int, int]:
    """channel_base and channel_max that give these widths, if any do."""
    maximum = max(widths)
    narrower = [r * width for r, width in zip(resolutions, widths, strict=True) if width < maximum]
    return max(narrower, default=maximum * resolutions[-1]), maximum

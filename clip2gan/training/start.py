"""What a conditional GAN starts from: nothing, any checkpoint that we read, or a training's state."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from stylegan2 import Generator, GeneratorConfig, load_generator
from stylegan2.discriminator import Encoder
from stylegan2.files import WithoutData, check_weights, load_tensors, load_weights
from stylegan2.training import averaged_networks

M = TypeVar("M", bound=nn.Module)
MAPPING_WIDTH = 384  # of a new mapping network: texts and noise to latents is more than noise alone


@dataclass(frozen=True)
class Start:
    """The shape of the generator to train, and the weights it begins with.

    Attributes:
        shape: with c_dim the length of CLIP's embeddings.
        generator: to take weights from, of the same or a lower resolution; None starts from scratch.
        encoder: pictures -> w, that belongs to `generator`.
        new_mapping: leave the mapping network as it was drawn, for a mapping phase to fit it.
    """

    shape: GeneratorConfig
    generator: Generator | None = None
    encoder: Encoder | None = None
    new_mapping: bool = False

    @property
    def licence(self) -> str | None:
        return None if self.generator is None else self.generator.licence

    @torch.no_grad()
    def fill(self, generator: Generator) -> None:
        """Copy the weights into `generator`, of this shape.

        The condition enters the first layer by weights of zero, so that the pictures are at first those of
        the generator that was read; resolutions beyond its own add nothing to its upsampled picture.
        """
        if self.generator is None:
            return
        source = self.generator
        if not self.new_mapping:
            _fill_mapping(source, generator)
        own = generator.synthesis.state_dict()
        for name, value in source.synthesis.state_dict().items():
            own[name].copy_(value)
        for resolution in generator.synthesis.block_resolutions:
            if resolution > source.config.img_resolution:
                torgb = getattr(generator.synthesis, f"b{resolution}").torgb
                torgb.weight.zero_()
                torgb.bias.zero_()


def from_scratch(resolution: int, c_dim: int, small: bool = False) -> Start:
    """Config F of the StyleGAN2 paper, or a quarter of its channels.

    Raises ValueError for a resolution that it cannot have.
    """
    shape = GeneratorConfig(img_resolution=resolution, c_dim=c_dim)
    return Start(dataclasses.replace(shape, channel_base=8192, channel_max=128) if small else shape)


def from_file(
    path: str | Path,
    resolution: int | None,
    c_dim: int,
    new_mapping: bool = False,
    mapping_width: int | None = None,
) -> Start:
    """Start from a checkpoint.

    Args:
        path: any generator that `load_generator` reads; the state of one of our trainings gives its encoder
            as well.
        resolution: to train at, the checkpoint's own or higher; None takes its own.
        c_dim: length of CLIP's embeddings.
        new_mapping: have a new mapping network, of this `mapping_width`, for a mapping phase to fit.
        mapping_width: of the new network's hidden layers; None gives them the length of w.

    Raises ValueError where the shapes cannot be joined, and what `load_generator` raises.
    """
    generator, encoder = _read(Path(path))
    config = generator.config
    if config.architecture == "mobile":
        raise ValueError(f"{path} is a MobileStyleGAN, which is not trained here; give a StyleGAN2")
    own = config.img_resolution
    resolution = own if resolution is None else resolution
    if resolution < own:
        raise ValueError(f"{path} makes {own} px, more than {resolution}; give --resolution {own} or higher")
    if resolution > own and config.architecture != "skip":
        raise ValueError(
            f"{path}: a generator of architecture {config.architecture!r} cannot grow; use it at {own} px"
        )
    if config.c_dim not in (0, c_dim):
        raise ValueError(f"{path} takes {config.c_dim} labels, CLIP gives {c_dim} numbers; use another one")
    shape = dataclasses.replace(config, img_resolution=own, c_dim=c_dim, num_fp16_res=0, conv_clamp=None)
    if new_mapping:
        shape = dataclasses.replace(shape, mapping_width=mapping_width)
    if resolution > own:
        shape = _grown(shape, resolution)
        encoder = None
    return Start(shape, generator, encoder, new_mapping)


def resolution_of_state(tensors: Mapping[str, Tensor], source: str) -> int:
    """What the generator among a training's tensors makes; `source` is their file.

    Raises ValueError where there is none.
    """
    found = [int(match[1]) for name in tensors if (match := re.search(r"synthesis\.b(\d+)\.", name))]
    if not found:
        raise ValueError(
            f"{source}: no state of a training (it has no synthesis network); give a checkpoint of train-gan"
        )
    return max(found)


def _grown(shape: GeneratorConfig, resolution: int) -> GeneratorConfig:
    """The shape with more resolutions, each of half the channels of the one before."""
    widths = [shape.channels(each) for each in shape.block_resolutions]
    while 4 * 2 ** (len(widths) - 1) < resolution:
        widths.append(max(widths[-1] // 2, 8))
    base = max(shape.channel_base, resolution)
    return dataclasses.replace(shape, img_resolution=resolution, widths=tuple(widths), channel_base=base)


def _read(path: Path) -> tuple[Generator, Encoder | None]:
    """A generator, and the encoder of our own trainings' state."""
    if path.suffix == ".safetensors":
        tensors, header = load_tensors(path)
        if any(name.startswith(("generator/", "generator_ema/")) for name in tensors):
            return _read_state(path, averaged_networks(tensors) or tensors, header)
    return load_generator(path), None


def _read_state(path: Path, tensors: dict[str, Tensor], header: dict) -> tuple[Generator, Encoder | None]:
    settings = header.get(
        "config", header
    )  # a checkpoint has the training's settings, a kept state the run's
    if not isinstance(settings, dict) or not isinstance(settings.get("generator"), dict):
        raise ValueError(f"{path}: its header does not tell the generator's shape; give a generator's file")
    try:
        shape = GeneratorConfig(**settings["generator"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: its header does not describe a generator ({error}); give a generator's file"
        ) from error
    generator = _filled(Generator, shape, tensors, "generator/", path)
    encoder = None
    if any(name.startswith("encoder/") for name in tensors):
        encoder = _filled(Encoder, shape, tensors, "encoder/", path)
    return generator.eval().requires_grad_(False), encoder


def _filled(
    make: Callable[[GeneratorConfig], M],
    shape: GeneratorConfig,
    tensors: Mapping[str, Tensor],
    prefix: str,
    path: Path,
) -> M:
    """A network with the tensors of this prefix, compared with its own before it is made."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    with WithoutData():
        empty = make(shape)
    check_weights(empty, own, str(path))
    network = make(shape).eval()
    load_weights(network, own, str(path))
    return network


def _fill_mapping(source: Generator, target: Generator) -> None:
    """Copy the mapping network; where the source takes no condition, it enters by zeros."""
    own = target.mapping.state_dict()
    for name, value in source.mapping.state_dict().items():
        if name == "fc0.weight" and source.config.c_dim == 0 and target.config.c_dim > 0:
            # A layer's weights are divided by the root of how many numbers go in.
            inputs = own[name].shape[1]
            own[name].zero_()
            own[name][:, : value.shape[1]] = value * (inputs / value.shape[1]) ** 0.5
        else:
            own[name].copy_(value)

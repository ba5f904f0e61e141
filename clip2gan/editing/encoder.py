"""The fast start of inversion: a network from pictures to latents, in one pass."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan2 import Encoder, Generator, GeneratorConfig
from stylegan2.files import WithoutData, check_weights, load_tensors, load_weights, save_tensors

LARGEST_INPUT = 256  # larger pictures are shrunk: what W can hold is seen in them


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The shape of an encoder.

    Attributes:
        w_dim: the length of a latent.
        resolution: R of the pictures it looks at; others are resized.
        channel_base: the trunk has min(channel_base / r, channel_max) channels where pictures are r wide.
        channel_max: see there.
    """

    w_dim: int
    resolution: int
    channel_base: int = 16384
    channel_max: int = 256


class LatentEncoder(nn.Module):
    """Pictures to latents of W: the trunk of StyleGAN2's discriminator, and the statistics of the latents.

    One latent for all layers, and not W+: the nearest to what the generator was trained on, so that edits
    work on it; optimisation in W+ adds what is missing.
    """

    w_mean: Tensor
    w_std: Tensor

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.trunk = Encoder(
            GeneratorConfig(
                z_dim=config.w_dim,
                w_dim=config.w_dim,
                img_resolution=config.resolution,
                channel_base=config.channel_base,
                channel_max=config.channel_max,
            )
        )
        self.register_buffer("w_mean", torch.zeros(config.w_dim))
        self.register_buffer("w_std", torch.ones(config.w_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures [N, 3, R, R] in [-1, 1] -> w [N, w_dim]."""
        size = self.config.resolution
        if images.shape[-1] != size:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
        return self.w_mean + self.w_std * self.trunk(images)


def encoder_for(generator: Generator, channel_base: int, channel_max: int) -> EncoderConfig:
    """The shape that fits a generator."""
    resolution = min(generator.config.img_resolution, LARGEST_INPUT)
    return EncoderConfig(
        w_dim=generator.config.w_dim,
        resolution=resolution,
        channel_base=channel_base,
        channel_max=channel_max,
    )


def save_encoder(encoder: LatentEncoder, path: str | Path, half: bool = False) -> None:
    """Write an encoder as safetensors with its shape in the header; `half` stores 16 bit."""
    weights = encoder.state_dict()
    if half:
        weights = {name: tensor.half() for name, tensor in weights.items()}
    save_tensors(path, weights, asdict(encoder.config))


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> LatentEncoder:
    """Read what `save_encoder` wrote: frozen, in float32, on `device`.

    Raises FileNotFoundError, or ValueError when the file is not whole or not an encoder's.
    """
    tensors, settings = load_tensors(path)
    try:
        config = EncoderConfig(**settings)
        with WithoutData():
            shape = LatentEncoder(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not hold an encoder ({error})") from error
    check_weights(shape, tensors, str(path))  # before a large one is made
    encoder = LatentEncoder(config)
    load_weights(encoder, tensors, str(path))
    return encoder.eval().requires_grad_(False).to(device)

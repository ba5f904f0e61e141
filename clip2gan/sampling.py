"""Pictures of a generator by seed, without CLIP: each depends on its own seed and on nothing else."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clip2gan.images import to_picture
from stylegan2 import Generator
from stylegan2.generator import NoiseMode

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class SeedLatents:
    """What a seed stands for.

    Attributes:
        seed: 0 to 2^63 - 1.
        ws: [1, num_ws, w_dim], truncated.
        label: the class, of a generator that takes one.
    """

    seed: int
    ws: Tensor
    label: int | None


def seed_random(seed: int, stream: int = 0) -> np.random.RandomState:
    """The random numbers of a seed, 0 to 2^63 - 1; those of other streams are independent.

    NumPy keeps the stream of RandomState for good, and NVIDIA's scripts draw z from it, so that a seed shows
    the picture that is known by its number.

    Raises ValueError for a seed out of range.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed {seed} is out of range; give one from 0 to {LARGEST_SEED}")
    # RandomState takes 32 bits, or a list of them.
    words = [seed % 2**32, seed >> 32, stream]
    return np.random.RandomState(seed if seed < 2**32 and stream == 0 else words)


@torch.no_grad()
def seed_latents(
    generator: Generator, seed: int, *, truncation: float = 1.0, label: int | None = None
) -> SeedLatents:
    """The latents of a seed.

    Args:
        generator: frozen, on any device.
        seed: 0 to 2^63 - 1.
        truncation: psi; 1 leaves the latents as they are, 0 gives w_avg.
        label: a class from 0 to c_dim - 1, for a generator that takes one; None lets the seed choose it.

    Raises ValueError for a seed or a class that is out of range, and for a class where none is taken.
    """
    config = generator.config
    check_label(generator, label)
    random = seed_random(seed)
    device = generator.mapping.w_avg.device
    z = torch.from_numpy(random.randn(1, config.z_dim)).to(device, torch.float32)
    c = None
    if config.c_dim:
        label = int(random.randint(config.c_dim)) if label is None else label
        c = F.one_hot(torch.tensor([label]), config.c_dim).to(device, torch.float32)
    return SeedLatents(seed, generator.mapping(z, c, truncation_psi=truncation), label)


def check_label(generator: Generator, label: int | None) -> None:
    """Raise ValueError for a class that the generator does not have."""
    classes = generator.config.c_dim
    if label is None:
        return
    if not classes:
        raise ValueError("this generator has no classes; leave it out")
    if not 0 <= label < classes:
        raise ValueError(f"this generator has no class {label}; give one from 0 to {classes - 1}")


@torch.no_grad()
def draw_picture(generator: Generator, ws: Tensor, noise_mode: NoiseMode = "const") -> Image.Image:
    """The RGB picture of ws [1, num_ws, w_dim]; grey ones as three equal channels.

    Raises ValueError for a generator of another number of channels.
    """
    return to_picture(generator.synthesis(ws, noise_mode=noise_mode))

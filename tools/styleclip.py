"""StyleCLIP's latent optimisation, as a baseline to measure against.

From the paper's definition (Patashnik et al. 2021, "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery",
section 4, equation 1): the latent in W+ that minimises CLIP's cosine distance between picture and text, plus
l2 times the squared distance to the picture's own latent. The identity term needs a face recogniser, which
drawings have none of. 200 steps, the paper's fewest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip2gan.clip import ClipEncoder
from stylegan2 import Generator


@dataclass(frozen=True)
class StyleClip:
    """Settings: steps of Adam, its largest step size, and the weight of the squared distance (a sum)."""

    steps: int = 200
    lr: float = 0.1
    l2: float = 0.008


def optimise(
    generator: Generator, clip: ClipEncoder, ws: Tensor, texts: Sequence[str], config: StyleClip
) -> Tensor:
    """ws [N, num_ws, w_dim], each led towards its text; they do not depend on each other."""
    wanted = clip.encode_texts(texts)
    moved = ws.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], lr=config.lr, betas=(0.9, 0.999))
    with torch.enable_grad():
        for step in range(config.steps):
            # Up over the first twentieth, down over the last quarter by half a cosine.
            progress = step / config.steps
            fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - progress) / 0.25))
            optimizer.param_groups[0]["lr"] = config.lr * min(1.0, progress / 0.05 + 0.01) * fall
            image = generator.synthesis(moved, noise_mode="const")
            loss = (1 - (clip.encode_images(image) * wanted).sum(1)).sum()
            loss = loss + config.l2 * (moved - ws).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return moved.detach()

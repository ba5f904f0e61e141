"""Inversion: latents whose picture is a given one, by optimisation."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.defaults import INVERSION_STEPS

if TYPE_CHECKING:
    from clip2gan.clip import ClipEncoder
    from stylegan2 import Generator


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """How hard to look.

    Attributes:
        steps: of Adam.
        lr: its first step size, in units of w; it falls to zero by a half cosine.
        perceptual: weight of the distance of CLIP's image features.
        pull: weight of the squared distance to the start, which keeps the latents editable.
    """

    steps: int = INVERSION_STEPS
    lr: float = 0.05
    perceptual: float = 0.5
    pull: float = 0.02


def invert(
    generator: "Generator",
    clip: "ClipEncoder",
    target: Tensor,
    start: Tensor,
    *,
    config: InversionConfig,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Tensor:
    """Latents in W+ near `start` that give `target` back.

    Minimises pixel differences (L1 at three scales) + perceptual * the distance of CLIP's image features +
    pull * |ws - start|^2, in the manner of Image2StyleGAN (Abdal et al., 2019) with the mapper's estimate as
    its start.

    Args:
        generator: frozen.
        clip: for its image features.
        target: [1, 3, R, R] in [-1, 1].
        start: [1, num_ws, w_dim].
        config: steps and weights.
        progress: wraps the steps, to show how far it is.

    Returns:
        ws [1, num_ws, w_dim].
    """
    features = [_unit(feature) for feature in clip.image_features(target)]
    ws = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([ws], lr=config.lr, betas=(0.9, 0.99))
    with torch.enable_grad():
        for step in progress(range(config.steps)):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            image = generator.synthesis(ws, noise_mode="const")
            loss = pixel_distance(image, target) + config.pull * (ws - start).square().mean()
            if config.perceptual:
                found = clip.image_features(image)
                distances = [
                    (_unit(a) - b).square().sum(1).mean() for a, b in zip(found, features, strict=True)
                ]
                loss = loss + config.perceptual * torch.stack(distances).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return ws.detach()


def pixel_distance(image: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """The mean over `scales` halvings of the mean absolute difference of two pictures [N, 3, R, R]."""
    total = torch.zeros((), device=image.device)
    for _ in range(scales):
        total = total + (image - target).abs().mean()
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
    return total / scales


def _unit(features: Tensor) -> Tensor:
    """Every position's feature vector [N, C, H, W] at unit length."""
    return F.normalize(features, dim=1)

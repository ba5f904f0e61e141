"""Adaptive augmentation of what a discriminator sees (ADA, Karras et al. 2020), for small datasets.

Each transformation befalls a picture with probability p, real and generated ones alike, so that the generator
is not led to draw them. p rises while the discriminator knows too well which pictures it was shown as real.
"""

import torch
from torch import Tensor, nn

SHIFT = 1 / 8  # of a side, at most
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # standard deviations, the last two of a logarithm to base 2
MOST = 0.8  # above, augmentations would leak into the generated pictures


class Augmentation(nn.Module):
    """Flips, shifts and changes of colour, differentiable; p is a buffer, so that checkpoints hold it."""

    p: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("p", torch.zeros([]))

    def forward(self, images: Tensor, random: torch.Generator) -> Tensor:
        """images [N, 3, R, R] -> the same shape; `random` is a CPU generator."""
        p = float(self.p)
        return augment(images, p, random) if p > 0 else images

    @torch.no_grad()
    def adapt(self, real_logits: Tensor, target: float, images: int) -> None:
        """Move p by N / `images`, up when the mean sign of the logits [N, 1] of real pictures is above
        `target`, down when it is below."""
        direction = (real_logits.sign().mean() - target).sign()
        self.p.add_(direction * len(real_logits) / images).clamp_(0, MOST)


def augment(images: Tensor, p: float, random: torch.Generator) -> Tensor:
    """Pictures [N, 3, R, R], each flipped, shifted and changed in brightness, contrast and saturation, each
    of these with probability p."""
    count, resolution = len(images), images.shape[-1]

    def number(kind: str, deviation: float = 1.0) -> Tensor:
        """One for each picture, [N, 1, 1, 1]; 0 where the transformation does not happen."""
        shape = (count, 1, 1, 1)
        happens = torch.rand(shape, generator=random) < p
        values = (
            torch.rand(shape, generator=random) * 2 - 1
            if kind == "uniform"
            else torch.randn(shape, generator=random)
        )
        return (values * happens * deviation).to(images)

    flipped = torch.where(number("uniform") > 0, images.flip(3), images)
    shifts = torch.cat([number("uniform", SHIFT), number("uniform", SHIFT)], dim=1)[:, :, 0, 0]
    moved = _shift(flipped, (shifts * resolution).round().long())
    moved = moved + number("normal", BRIGHTNESS)
    moved = moved * 2 ** number("normal", CONTRAST)
    grey = moved.mean(dim=1, keepdim=True)
    return grey + (moved - grey) * 2 ** number("normal", SATURATION)


def _shift(images: Tensor, pixels: Tensor) -> Tensor:
    """images moved by whole pixels [N, 2] (right, down); borders repeat."""
    if not pixels.any():
        return images
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)[None] - pixels[:, 1:]
    columns = torch.arange(width, device=images.device)[None] - pixels[:, :1]
    index = torch.arange(len(images), device=images.device)[:, None, None]
    last = images.permute(0, 2, 3, 1)
    moved = last[index, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return moved.permute(0, 3, 1, 2)

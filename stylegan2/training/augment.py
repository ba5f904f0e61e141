"""Adaptive augmentation of what a discriminator sees (ADA, Karras et al. 2020), for small datasets.

Each transformation befalls a picture with probability p, real and generated ones alike, so that the generator
is not led to draw them. p rises while the discriminator knows too well which pictures it was shown as real.
"""

import torch
from torch import Tensor, nn

SHIFT = 1 / 8  # of a side, at most
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # standard deviations, the last two of a logarithm to base 2
UNIFORM, NORMAL = 3, 3  # how many are drawn of either kind
MOST = 0.8  # above, augmentations would leak into the generated pictures


class Augmentation(nn.Module):
    """Flips, shifts and changes of colour, differentiable; p is a buffer, so that checkpoints hold it."""

    p: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("p", torch.zeros([]))

    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        """images [N, 3, R, R] and their `draw_augmentation` [N, 2, 6] -> the same shape."""
        p = float(self.p)
        return augment(images, p, draws) if p > 0 else images

    @torch.no_grad()
    def adapt(self, mean_sign: Tensor, target: float, share: float) -> None:
        """Move p by `share`: up when the mean sign of the logits of real pictures is above `target`, else
        down."""
        self.p.add_((mean_sign - target).sign() * share).clamp_(0, MOST)


def draw_augmentation(rows: int, random: torch.Generator) -> Tensor:
    """What `augment` needs for each picture of a batch, [rows, 2, 6], by a CPU generator.

    For each transformation: a number in [0, 1), below p where it happens, and how much of it does.
    """
    happens = torch.rand(rows, UNIFORM + NORMAL, generator=random)
    uniform = torch.rand(rows, UNIFORM, generator=random) * 2 - 1
    normal = torch.randn(rows, NORMAL, generator=random)
    return torch.stack([happens, torch.cat([uniform, normal], dim=1)], dim=1)


def augment(images: Tensor, p: float, draws: Tensor) -> Tensor:
    """Pictures [N, 3, R, R], each flipped, shifted and changed in brightness, contrast and saturation, each
    of these with probability p; `draws` [N, 2, 6] are those of `draw_augmentation`."""
    draws = draws.to(images)
    amounts = draws[:, 1] * (draws[:, 0] < p)
    flip, right, down, brightness, contrast, saturation = amounts[:, :, None, None, None].unbind(dim=1)
    flipped = torch.where(flip > 0, images.flip(3), images)
    shifts = SHIFT * torch.cat([right, down], dim=1)[:, :, 0, 0]
    moved = _shift(flipped, (shifts * images.shape[-1]).round().long())
    moved = moved + BRIGHTNESS * brightness
    moved = moved * 2 ** (CONTRAST * contrast)
    grey = moved.mean(dim=1, keepdim=True)
    return grey + (moved - grey) * 2 ** (SATURATION * saturation)


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

"""Losses between pictures, embeddings and latents. Pictures are [N, 3, R, R] in about [-1, 1]."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from clip2gan.clip import ClipEncoder


def pixel_l1(x: Tensor, y: Tensor, scales: Sequence[int] = (1, 2, 4, 8)) -> Tensor:
    """Mean absolute difference, averaged over the pictures shrunk (box filter) by each of `scales`."""
    return torch.stack([F.avg_pool2d(x - y, scale).abs().mean() for scale in scales]).mean()


def pixel_l2(x: Tensor, y: Tensor, scales: Sequence[int] = (1,)) -> Tensor:
    """Mean squared difference, averaged over `scales` as in `pixel_l1`; CLIP2GAN's L_rec."""
    return torch.stack([F.avg_pool2d(x - y, scale).square().mean() for scale in scales]).mean()


def feature_distance(features_x: Sequence[Tensor], features_y: Sequence[Tensor]) -> Tensor:
    """Squared distance of features [N, C_i, H_i, W_i] scaled to unit length along C, over places and layers.

    The form of LPIPS (Zhang et al. 2018, equation 1) without learned weights. 0 if equal, at most 4.
    """
    distances = [
        (F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)).square().sum(1).mean()
        for x, y in zip(features_x, features_y, strict=True)
    ]
    return torch.stack(distances).mean()


def cosine_distance(e_x: Tensor, e_y: Tensor) -> Tensor:
    """1 - cosine of unit embeddings [N, D], averaged; 0 if equal, at most 2."""
    return 1 - (e_x * e_y).sum(-1).mean()


def perceptual_distance(clip: "ClipEncoder") -> Callable[[Tensor, Tensor], Tensor]:
    """`feature_distance` + `cosine_distance` in a CLIP's image tower, as a distance of pictures."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        features_x, e_x = clip.features_and_embeddings(x)
        with torch.no_grad():
            features_y, e_y = clip.features_and_embeddings(y)
        return feature_distance(features_x, features_y) + cosine_distance(e_x, e_y)

    return distance


def diversity_ratio(e: Tensor, e_near: Tensor, x: Tensor, x_near: Tensor) -> Tensor:
    """L_div of CLIP2GAN: |e - e_near|_1 / |x - x_near|_1, the mean over N of ratios of mean differences.

    `x` and `x_near` [N, 3, R, R] are the pictures mapped from embeddings `e` and `e_near` [N, D]. It is large
    when the embedding changes and the picture does not.
    """
    change_e = (e - e_near).abs().mean(1)
    change_x = (x - x_near).abs().mean((1, 2, 3))
    return (change_e / (change_x + 1e-3)).mean()

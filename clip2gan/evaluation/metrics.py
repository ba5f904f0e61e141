"""Figures of merit. Embeddings are CLIP's, of unit length, [N, D]."""

import torch
from torch import Tensor

CANDIDATES = 100  # texts that a picture's own is among


def clip_score(pictures: Tensor, texts: Tensor) -> float:
    """Mean cosine of pictures [N, D] and each one's text [N, D] (Hessel et al. 2021, unscaled)."""
    return (pictures * texts).sum(1).mean().item()


def r_precision(pictures: Tensor, texts: Tensor, own: Tensor, candidates: int = CANDIDATES) -> float:
    """How often a picture is nearer to its own text than to others (Xu et al. 2018, R-precision with R = 1).

    Args:
        pictures: [N, D].
        texts: [T, D], different texts.
        own: [N], the index of each picture's text.
        candidates: among how many texts, its own with it; a picture's others are the next ones in order. All
            of them where T is not larger.
    """
    count = min(candidates, len(texts))
    rivals = (own[:, None] + torch.arange(count).to(own)) % len(texts)
    cosines = (pictures @ texts.T).gather(1, rivals)
    return (cosines.argmax(1) == 0).float().mean().item()


def diversity(pictures: Tensor) -> float:
    """Mean of 1 - cosine over pairs of pictures of one text, and over texts; pictures [T, K, D], K > 1."""
    count = pictures.shape[1]
    distances = 1 - pictures @ pictures.transpose(1, 2)
    return distances.sum((1, 2)).mean().item() / (count * (count - 1))


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The Frechet distance of normal distributions fitted to two sets [N, D] and [M, D] (Heusel et al. 2017).

    Both have at least 2 rows.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). With fewer samples than dimensions it is too small to compare
    with other numbers of samples.
    """
    first, second = first.double(), second.double()
    mean_part = (first.mean(0) - second.mean(0)).square().sum()
    cov1, cov2 = torch.cov(first.T), torch.cov(second.T)
    root = _square_root(cov1)
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return max(0.0, (mean_part + cov1.trace() + cov2.trace() - 2 * cross).item())


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T

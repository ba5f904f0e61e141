"""The modality gap, and what to do about it.

CLIP's embeddings of pictures and of texts lie in two narrow cones apart from each other, and a text says far
less than a picture. A mapper is trained on embeddings of pictures; a *gap* decides what it is trained with
(`Gap.train`: noise, so that it bears embeddings that are a little off) and what it is given in place of a
text's embedding (`Gap.to_image`).

    none       the text's embedding itself (CLIP2GAN)
    shift      moved by the difference of the two modalities' means (CapDec's modality offset)
    collapse   each modality's mean is taken away, in training as well (C3 without its noise)
    c3         the same, with normal noise in training (Zhang et al. 2024, "Connect, Collapse, Corrupt")
    whiten     whitened by the texts' mean and covariance, coloured by the pictures'
    memory     the mean of pictures' embeddings weighted by a softmax of their cosines (DeCap, Li et al. 2023)
    knn        a random convex combination of pictures' embeddings near the text (Fast text2StyleGAN,
               arXiv 2209.03953)
    posterior  a picture's embedding drawn by CLIP's posterior of pictures given the text, pulled to its mean
    text       the other way round, for generators trained on texts: pictures are moved to where texts lie

`memory`, `knn` and `posterior` remember embeddings of pictures; the answers of the last two are random. The
statistics come from pictures and, for the texts' mean, from a fixed list of plain prompts; no caption of any
picture has a part in them.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2gan.domain import GapSettings
from clip2gan.noise import Noise
from clip2gan.remedies import (
    C3,
    Collapse,
    Gap,
    Knn,
    MeanShift,
    NoGap,
    Posterior,
    SoftMemory,
    TextSide,
    Whiten,
    farthest_points,
)
from stylegan2.files import load_tensors, save_tensors
from stylegan2.settings import check_size

__all__ = [
    "C3",
    "KINDS",
    "Collapse",
    "Gap",
    "Knn",
    "MeanShift",
    "NoGap",
    "Noise",
    "Posterior",
    "SoftMemory",
    "TextSide",
    "Whiten",
    "farthest_points",
    "fit_gap",
    "gap_figures",
    "load_gap",
    "save_gap",
]

MEMORY_SIZE = 12288  # embeddings that `knn` and `posterior` remember
# Of `posterior`, and in an edit, in units of 1 / the standard deviation of pictures' cosines with a text.
POSTERIOR_SHARPNESS, EDIT_SHARPNESS = 5.0, 2.5
MOST_SHARPNESS = 10.0  # in units of CLIP's logit scale, where cosines are hardly spread at all

GAPS = (NoGap, MeanShift, Collapse, C3, Whiten, SoftMemory, Knn, Posterior, TextSide)
KINDS: dict[str, type[Gap]] = {gap.kind: gap for gap in GAPS}


def fit_gap(
    kind: str,
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: float,
    noise: Noise | None = None,
) -> Gap:
    """Fit a remedy, with its default settings (`dataclasses.replace` changes them).

    Args:
        kind: one of `KINDS`.
        image_embeddings: [M, D] of training pictures in random order; the first `MEMORY_SIZE` are remembered.
        text_embeddings: [T, D] of plain prompts.
        logit_scale: CLIP's.
        noise: for training; None: the remedy's own.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown gap {kind!r}; choose from {', '.join(KINDS)}")
    available: dict[str, Any] = {
        "noise": noise,
        "mean_image": image_embeddings.mean(0).cpu(),
        "mean_text": text_embeddings.mean(0).cpu(),
        "memory": image_embeddings[:MEMORY_SIZE].half().cpu(),
        "transform": _recolouring(text_embeddings.cpu(), image_embeddings.cpu()),
    }
    if kind == Posterior.kind:
        spread = cosine_spread(image_embeddings, text_embeddings)
        most = MOST_SHARPNESS * logit_scale
        available["sharpness"] = min(POSTERIOR_SHARPNESS / spread, most)
        available["edit_sharpness"] = min(EDIT_SHARPNESS / spread, most)
    gap = KINDS[kind]
    names = [part.name for part in dataclasses.fields(gap)]
    return gap(**{name: value for name, value in available.items() if name in names and value is not None})


def cosine_spread(image_embeddings: Tensor, text_embeddings: Tensor) -> float:
    """The standard deviation of the cosines of pictures [M, D] with a text, in the mean over texts [T, D]."""
    if len(image_embeddings) < 2:
        return 1.0
    cosines = image_embeddings.float() @ text_embeddings.float().to(image_embeddings.device).T
    return max(cosines.std(0).mean().item(), 1e-6)


def gap_figures(gap: Gap, image_embeddings: Tensor, text_embeddings: Tensor) -> dict[str, float]:
    """How far texts are from pictures, as they are and as a remedy gives them to a mapper.

    Args:
        gap: the remedy.
        image_embeddings: [M, D].
        text_embeddings: [T, D].

    Returns:
        gap_before, gap_after: distance of the means of both (Liang et al. 2022, "Mind the Gap").
        near_before, near_after: cosine of a text, or its answer, to the nearest picture, in the mean.
    """
    answers = gap.to_image(text_embeddings, 1, torch.Generator().manual_seed(0))[:, 0]
    figures = {}
    for when, texts, images in (
        ("before", text_embeddings, image_embeddings),
        ("after", answers, gap.from_image(image_embeddings)),
    ):
        figures[f"gap_{when}"] = (texts.mean(0) - images.mean(0)).norm().item()
        figures[f"near_{when}"] = (texts @ images.T).amax(1).mean().item()
    return figures


def save_gap(gap: Gap, path: str | Path) -> None:
    """Write a gap as safetensors: its tensors, and its kind and settings in the header."""
    values = {part.name: getattr(gap, part.name) for part in dataclasses.fields(gap)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    settings = {name: value for name, value in values.items() if name not in tensors}
    save_tensors(path, tensors, {**settings, "kind": gap.kind, "noise": dataclasses.asdict(gap.noise)})


def load_gap(path: str | Path, device: str | torch.device = "cpu") -> Gap:
    """Read what `save_gap` wrote, its tensors on `device`.

    Raises FileNotFoundError, or ValueError when the file is not whole or not a gap's.
    """
    tensors, settings = load_tensors(path)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{path}: unknown gap {kind!r:.40}, so not the file of a gap; get it again")
    values: dict[str, Any] = {**settings, **{name: tensor.to(device) for name, tensor in tensors.items()}}
    try:
        values["noise"] = Noise(**settings.get("noise", {}))
        gap = KINDS[kind](**values)
        _check_values(gap)
        return gap
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not hold a gap of kind {kind!r} ({error})") from error


def _check_values(gap: Gap) -> None:
    """Raise TypeError or ValueError where values are of another kind than the gap has, or too large."""
    dims = set()
    for part in dataclasses.fields(gap):
        value, kind = getattr(gap, part.name), str(part.type)
        if "Tensor" in kind:
            if not isinstance(value, Tensor):
                raise TypeError(f"{part.name} is missing")
            dims.add(value.shape[-1] if value.ndim in (1, 2) else None)
        elif "int" in kind:
            check_size(part.name, value, 1, 2**20)
        elif "float" in kind and not (isinstance(value, (int, float)) and abs(value) < 1e9):  # nor NaN
            raise ValueError(f"{part.name} must be a finite number, got {value!r:.40}")
    if len(dims) > 1 or None in dims:
        raise ValueError("its tensors are not embeddings of one length")


def with_settings(gap: Gap, settings: GapSettings) -> Gap:
    """A gap `posterior` with those settings that are given; another gap as it is."""
    if not isinstance(gap, Posterior):
        return gap
    given = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    return dataclasses.replace(gap, **given)


def _recolouring(text: Tensor, image: Tensor) -> Tensor:
    """S_image^(1/2) S_text^(-1/2) of embeddings [N, D]: [D, D]."""
    return _covariance_power(image, 0.5) @ _covariance_power(text, -0.5)


def _covariance_power(e: Tensor, power: float) -> Tensor:
    """A power of the covariance, shrunk the more the fewer embeddings there are for each dimension."""
    e = (e - e.mean(0)).double()
    covariance = e.T @ e / max(len(e) - 1, 1)
    dim = len(covariance)
    share = dim / (dim + len(e))
    shrunk = (1 - share) * covariance + share * (covariance.trace() / dim + 1e-8) * torch.eye(dim)
    values, vectors = torch.linalg.eigh(shrunk)
    return (vectors * values.clamp(min=1e-12) ** power @ vectors.T).float()

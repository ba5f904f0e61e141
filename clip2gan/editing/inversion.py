"""Inversion: latents whose picture is a given one, by optimisation, and a copy of the generator tuned to it.

The generator's noise stays as it is stored: nothing of a picture can hide in it, where no edit reaches it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.domain import InversionConfig, TuningConfig
from clip2gan.perceptual import compare
from stylegan2.files import load_tensors, save_tensors
from stylegan2.seeds import seed_generator

if TYPE_CHECKING:
    from PIL import Image

    from clip2gan.perceptual import Features
    from stylegan2 import Generator

Progress = Callable[[Iterable[int]], Iterable[int]]

LARGEST_LATENT = 1e4  # latents are of the order of 1; the squares of larger ones leave the range of float32
BETAS = (0.9, 0.99)  # of Adam
PATIENCE = 10  # steps over which progress is looked at
HALVINGS = 4  # of the step size, after which a picture has converged


def invert(
    generator: "Generator",
    features: "Features",
    targets: Tensor,
    starts: Sequence[Tensor],
    *,
    anchor: Tensor,
    w_std: Tensor,
    config: InversionConfig,
    progress: Progress = iter,
) -> Tensor:
    """Latents in W+ near `anchor` that give `targets` back.

    Minimises, for each picture, pixel differences (L1 at three scales) + perceptual * the distance of
    features + pull * |(ws - anchor) / w_std|^2 + pull_average * |(ws - w_avg) / w_std|^2 (means over
    all numbers), in the manner of Image2StyleGAN (Abdal et al., 2019). It begins at the start of least loss.
    The pictures do not depend on each other.

    Args:
        generator: frozen.
        features: what compares pictures, those of `config.features`; see `perceptual.load_features`.
        targets: [N, 3, R, R] in [-1, 1].
        starts: one or several ws [N, num_ws, w_dim] for each picture, of which the best is taken.
        anchor: ws [N, num_ws, w_dim], the mapper's estimate.
        w_std: [w_dim], the spread of latents.
        config: steps and weights.
        progress: wraps the steps, to show how far it is.

    Returns:
        ws [N, num_ws, w_dim], the best that were seen.
    """
    w_avg = generator.mapping.w_avg
    with torch.no_grad():
        given = features(targets)

    def losses(ws: Tensor, rows: Tensor) -> Tensor:
        image = generator.synthesis(ws, noise_mode="const")
        total = pixel_distances(image, targets[rows])
        total = total + config.pull * ((ws - anchor[rows]) / w_std).square().mean((1, 2))
        total = total + config.pull_average * ((ws - w_avg) / w_std).square().mean((1, 2))
        if config.perceptual:
            distances = compare(features(image), [layer[rows] for layer in given])
            total = total + config.perceptual * distances
        return total

    everyone = torch.arange(len(targets), device=targets.device)
    with torch.no_grad():
        candidates = torch.stack([losses(start, everyone) for start in starts])
        first = candidates.argmin(0)
        ws = torch.stack([starts[choice][row] for row, choice in enumerate(first.tolist())])
    best, least = ws.clone(), candidates.amin(0)
    moments, squares = torch.zeros_like(ws), torch.zeros_like(ws)
    lr = torch.full_like(least, config.lr)
    looked, since = least.clone(), torch.zeros_like(everyone)
    for step in progress(range(config.steps)):
        rows = everyone[lr > config.lr * 0.5 ** (HALVINGS - 0.5)]
        if not len(rows):
            continue  # all have converged; a progress bar still ends
        current = ws[rows].requires_grad_(True)
        with torch.enable_grad():
            loss = losses(current, rows)
            (gradient,) = torch.autograd.grad(loss.sum(), current)
        loss = loss.detach()
        better = loss < least[rows]
        least[rows[better]], best[rows[better]] = loss[better], ws[rows[better]]

        moments[rows] = moments[rows].lerp(gradient, 1 - BETAS[0])
        squares[rows] = squares[rows].lerp(gradient.square(), 1 - BETAS[1])
        mean = moments[rows] / (1 - BETAS[0] ** (step + 1))
        deviation = (squares[rows] / (1 - BETAS[1] ** (step + 1))).sqrt() + 1e-8
        ws[rows] -= lr[rows, None, None] * w_std * mean / deviation

        since[rows] += 1
        due = rows[since[rows] >= PATIENCE]
        slow = due[least[due] > (1 - config.tolerance) * looked[due]]
        lr[slow] /= 2
        ws[slow] = best[slow]
        looked[due], since[due] = least[due], 0
    if config.steps:
        with torch.no_grad():
            final = losses(ws, everyone) < least
        best[final] = ws[final]
    return best


def tune(
    generator: "Generator",
    features: "Features",
    target: Tensor,
    ws: Tensor,
    draw: Callable[[torch.Generator], Tensor],
    *,
    config: TuningConfig | None = None,
    progress: Progress = iter,
) -> "Generator":
    """A copy of the generator whose synthesis gives `target` back at `ws`: pivotal tuning.

    Roich et al. 2021, "Pivotal Tuning for Latent-based Editing of Real Images": the latent stays, the weights
    move, and what they draw at latents between it and random ones must stay what it was.

    Args:
        generator: not changed.
        features: what compares pictures, those of `config.features`; see `perceptual.load_features`.
        target: [1, 3, R, R] in [-1, 1].
        ws: [1, num_ws, w_dim], an inversion of it.
        draw: random latents [1, num_ws, w_dim] of the generator.
        config: steps and weights.
        progress: wraps the steps.
    """
    config = config or TuningConfig()
    random = seed_generator(config.seed)
    tuned = deepcopy(generator)
    weights = list(tuned.synthesis.parameters())
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=config.lr)
    with torch.no_grad():
        given = features(target)
    with torch.enable_grad():
        for _ in progress(range(config.steps)):
            other = ws.lerp(draw(random), 0.5)
            with torch.no_grad():
                before = generator.synthesis(other, noise_mode="const")
            image, after = tuned.synthesis(torch.cat([ws, other]), noise_mode="const").split(1)
            loss = pixel_distances(image, target).mean()
            loss = loss + config.locality * pixel_distances(after, before).mean()
            if config.perceptual:
                loss = loss + config.perceptual * compare(features(image), given).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tuned.requires_grad_(False)


def pixel_distances(images: Tensor, targets: Tensor, scales: int = 3) -> Tensor:
    """For each pair of pictures [N, 3, R, R], the mean absolute difference over `scales` halvings: [N]."""
    total = torch.zeros(len(images), device=images.device)
    for _ in range(scales):
        total = total + (images - targets).abs().mean((1, 2, 3))
        images, targets = F.avg_pool2d(images, 2), F.avg_pool2d(targets, 2)
    return total / scales


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of pictures [N, 3, R, R] in [-1, 1], in dB: [N].

    Raises ValueError where a picture is NaN somewhere.
    """
    error = (images.clamp(-1, 1) - targets.clamp(-1, 1)).square().mean((1, 2, 3))
    if error.isnan().any():
        raise ValueError("the generator gives a picture that is not finite; take other latents or weights")
    return 10 * torch.log10(4 / error.clamp(min=1e-12))


def picture_fingerprint(picture: "Image.Image") -> str:
    """The sha256 (hex) of a picture's size and RGB values, whatever file they came from."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()


def save_latents(
    path: str | Path, ws: Tensor, fingerprints: Sequence[str], config: Mapping[str, Any]
) -> None:
    """Write ws [N, num_ws, w_dim] as safetensors; the pictures' fingerprints and `config` in the header."""
    save_tensors(path, {"ws": ws}, {**config, "fingerprints": list(fingerprints)})


def load_latents(
    path: str | Path, generator: "Generator", model_fingerprint: str | None = None
) -> dict[str, Tensor]:
    """What `save_latents` wrote: a picture's fingerprint -> ws [1, num_ws, w_dim], on the generator's device.

    Raises FileNotFoundError, or ValueError when the file holds no latents of this generator, those of a
    model with another fingerprint than `model_fingerprint`, or numbers that no picture's latents have.
    """
    tensors, config = load_tensors(path)
    fingerprints: Any = config.get("fingerprints")
    shape = (generator.num_ws, generator.config.w_dim)
    ws = tensors.get("ws")
    is_list = isinstance(fingerprints, list) and all(isinstance(each, str) for each in fingerprints)
    if ws is None or not is_list or ws.ndim != 3 or len(fingerprints) != len(ws):
        raise ValueError(
            f"{path}: holds no latents with their pictures' fingerprints; `clip2gan invert` does"
        )
    if ws.shape[1:] != shape:
        raise ValueError(f"{path}: latents of {list(ws.shape[1:])}, but this model's are {list(shape)}")
    made_with = config.get("fingerprint")
    if model_fingerprint is not None and made_with not in (None, model_fingerprint):
        raise ValueError(
            f"{path}: latents of another model, {config.get('model', 'unknown')!s:.80} ({made_with!s:.12}); "
            f"this one is {model_fingerprint[:12]}: run `clip2gan invert` with it"
        )
    if ws.numel() and ws.abs().max() > LARGEST_LATENT:
        raise ValueError(
            f"{path}: numbers as large as {float(ws.abs().max()):.3g}, where latents are of the order of 1; "
            "run `clip2gan invert` again"
        )
    ws = ws.to(generator.mapping.w_avg)
    return {name: row[None] for name, row in zip(fingerprints, ws, strict=True)}

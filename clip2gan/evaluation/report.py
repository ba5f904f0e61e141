"""Models measured by the same prompts and pictures, side by side."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clip2gan.clip import ClipEncoder
from clip2gan.defaults import NEUTRAL
from clip2gan.evaluation.metrics import clip_score, diversity, frechet_distance, r_precision
from clip2gan.images import contact_sheet
from clip2gan.pipeline import Clip2Gan, to_tensor

EDITED = 20  # pictures that are edited, each by the next of the attributes
SHEET_PROMPTS, SHEET_COLUMNS = 12, 3


@dataclass(frozen=True)
class Protocol:
    """What all models are given.

    Attributes:
        prompts: texts to draw.
        num: pictures of each, at least 2.
        truncation: psi.
        attributes: texts to edit by.
        real: pictures that no model was trained on, or none.
        seed: of the first picture of a text.
    """

    prompts: Sequence[str]
    num: int = 4
    truncation: float = 0.7
    attributes: Sequence[str] = ()
    real: Sequence[Image.Image] = ()
    seed: int = 0

    def __post_init__(self):
        if not self.prompts:
            raise ValueError("there are no prompts; give at least one")
        if self.num < 2:
            raise ValueError(f"diversity needs at least 2 pictures a prompt, got {self.num}")


@dataclass(frozen=True)
class Figure:
    """A figure's meaning, and whether more of it is better."""

    what: str
    more_is_better: bool = True


FIGURES: Mapping[str, Figure] = {
    "clip_score": Figure("cosine of text and picture"),
    "r_precision": Figure("picture nearest to its own text, of 100"),
    "diversity": Figure("1 - cosine between pictures of a text"),
    "frechet_clip": Figure("Frechet distance to real pictures, CLIP features", more_is_better=False),
    "reconstruction_l1": Figure("mapped back: absolute difference on [-1, 1]", more_is_better=False),
    "reconstruction_cosine": Figure("mapped back: cosine to the picture"),
    "edit_gain": Figure("edit: rise of the cosine with the attribute's direction"),
    "edit_kept": Figure("edit: cosine to the picture before"),
    "seconds": Figure("seconds a picture, warm", more_is_better=False),
}


@dataclass(frozen=True)
class Evaluation:
    """A model's figures (those of `FIGURES` that could be had) and the pictures [prompt][k] it drew."""

    figures: dict[str, float]
    pictures: list[list[Image.Image]]


@torch.no_grad()
def evaluate(
    model: Clip2Gan,
    protocol: Protocol,
    judge: ClipEncoder | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Evaluation:
    """Measure a model.

    Args:
        model: the model.
        protocol: what it is given.
        judge: the CLIP that compares pictures and texts; None: the model's own, which favours it.
        progress: wraps the loop over pictures.
    """
    judge = judge or model.clip
    prompts = [model.prompt(text) for text in protocol.prompts]
    model.draw(prompts[0], protocol.seed, truncation=protocol.truncation)  # warm
    pictures: list[list[Image.Image]] = [[] for _ in prompts]
    seconds = []
    for (row, prompt), k in progress(list(product(enumerate(prompts), range(protocol.num)))):
        start = time.perf_counter()
        pictures[row].append(model.draw(prompt, protocol.seed + k, truncation=protocol.truncation))
        seconds.append(time.perf_counter() - start)

    e_texts = judge.encode_texts(list(protocol.prompts))
    e_pictures = torch.stack([_embed(judge, row) for row in pictures])
    own = torch.arange(len(prompts), device=e_texts.device).repeat_interleave(protocol.num)
    figures = {
        "clip_score": clip_score(e_pictures.flatten(0, 1), e_texts[own]),
        "r_precision": r_precision(e_pictures.flatten(0, 1), e_texts, own),
        "diversity": diversity(e_pictures),
    }
    if protocol.real:
        figures |= _against_real(model, judge, e_pictures.flatten(0, 1), protocol.real)
        if protocol.attributes:
            figures |= _edits(model, judge, protocol)
    figures["seconds"] = statistics.median(seconds)
    return Evaluation(figures, pictures)


def markdown(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A table: a row for each figure, a column for each model, the best of a row in bold."""
    lines = [
        f"| figure | {' | '.join(figures)} | what it is |",
        "|---|" + "---|" * (len(figures) + 1),
    ]
    for name, figure in FIGURES.items():
        values = [row[name] for row in figures.values() if name in row]
        if len(values) < len(figures):
            continue
        best = (max if figure.more_is_better else min)(values)
        cells = [
            f"**{value:.3f}**" if len(values) > 1 and value == best else f"{value:.3f}" for value in values
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {figure.what} |")
    return "\n".join(lines)


def sheet(evaluations: Sequence[Evaluation], size: int) -> Image.Image:
    """A row for each of the first prompts; the first pictures of each model, `size` pixels wide, in turn."""
    count = min(SHEET_PROMPTS, len(evaluations[0].pictures))
    shown = [
        picture.resize((size, size), Image.Resampling.LANCZOS)
        for row in range(count)
        for evaluation in evaluations
        for picture in evaluation.pictures[row][:SHEET_COLUMNS]
    ]
    return contact_sheet(shown, columns=len(shown) // count)


def _against_real(
    model: Clip2Gan, judge: ClipEncoder, e_pictures: Tensor, real: Sequence[Image.Image]
) -> dict[str, float]:
    fitted = [model.fit(picture) for picture in real]
    mapped = [model.synthesize(model.estimate(picture)) for picture in fitted]
    e_real, e_mapped = _embed(judge, fitted), _embed(judge, mapped)
    errors = [(to_tensor(a) - to_tensor(b)).abs().mean().item() for a, b in zip(fitted, mapped, strict=True)]
    return {
        "frechet_clip": frechet_distance(e_pictures, e_real),
        "reconstruction_l1": statistics.mean(errors),
        "reconstruction_cosine": clip_score(e_mapped, e_real),
    }


def _edits(model: Clip2Gan, judge: ClipEncoder, protocol: Protocol) -> dict[str, float]:
    """Edits, at strength 1, of what the mapper makes of each picture."""
    gains, kept = [], []
    edits = model.directions(protocol.attributes)
    texts = judge.encode_texts([NEUTRAL, *edits])
    for index, picture in enumerate(protocol.real[:EDITED]):
        which = index % len(edits)
        ws = model.estimate(picture)
        moved = ws + list(edits.values())[which]
        before, after = (_embed(judge, [model.synthesize(each)]) for each in (ws, moved))
        direction = F.normalize(texts[which + 1] - texts[0], dim=0)
        gains.append(((after - before) @ direction).item())
        kept.append((after * before).sum().item())
    return {"edit_gain": statistics.mean(gains), "edit_kept": statistics.mean(kept)}


def _embed(judge: ClipEncoder, pictures: Sequence[Image.Image], batch: int = 64) -> Tensor:
    parts = [list(pictures[start : start + batch]) for start in range(0, len(pictures), batch)]
    return torch.cat([judge.encode_images(part) for part in parts])

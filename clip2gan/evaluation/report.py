"""Models measured by the same prompts and pictures, side by side."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, product

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clip2gan.clip import ClipEncoder
from clip2gan.evaluation.attributes import (
    Claims,
    Verdicts,
    kept_shares,
    named_share,
    others_kept_share,
    variety,
)
from clip2gan.evaluation.inception import inception_distances
from clip2gan.evaluation.judge import Judge
from clip2gan.evaluation.metrics import CANDIDATES, clip_score, diversity, frechet_distance, r_precision
from clip2gan.images import contact_sheet, label
from clip2gan.memory import PeakMemory
from clip2gan.model import Model, to_tensor
from clip2gan.perceptual import Distance
from stylegan2.seeds import seed_generator
from stylegan2.settings import check_seed

EDITED = 100  # pictures that are edited, each by the next of the attributes
VARIETY_DRAWS = 32  # sets of samples that the pictures of a text are compared with
SHEET_PROMPTS, SHEET_COLUMNS = 12, 3
SHEET_GAP, SHEET_LABEL = 2, 200  # pixels


@dataclass(frozen=True)
class Attribute:
    """A text to edit by; where a vocabulary has it also what it says: a group and its value."""

    text: str
    group: str | None = None
    value: str | None = None


@dataclass(frozen=True)
class Protocol:
    """What all models are given.

    Attributes:
        prompts: different texts to draw.
        claims: what each of these texts says, where a judge knows it; else nothing.
        num: pictures of each, at least 2.
        truncation: psi.
        attributes: to edit by.
        real: pictures that no model was trained on, of any size, at least 2; or none.
        seed: of the first picture of a text.
    """

    prompts: Sequence[str]
    claims: Sequence[Claims] = ()
    num: int = 4
    truncation: float = 0.7
    attributes: Sequence[Attribute] = ()
    real: Sequence[Image.Image] = ()
    seed: int = 0

    def __post_init__(self):
        if not self.prompts:
            raise ValueError("there are no prompts; give at least one")
        if self.num < 2:
            raise ValueError(f"diversity needs at least 2 pictures a prompt, got {self.num}")
        if len(self.real) == 1:
            raise ValueError("a distance to real pictures needs at least 2 of them, got 1")
        check_seed(self.seed, self.num)


@dataclass(frozen=True)
class Instruments:
    """What measures; figures of an instrument that is None are left out.

    Attributes:
        clip: compares pictures and texts; None: each model's own, which favours it.
        judge: sees the attributes of the models' domain.
        lpips: a distance of pictures, averaged over a batch.
        identity: likewise, of faces.
        inception: whether to compute FID and KID.
    """

    clip: ClipEncoder | None = None
    judge: Judge | None = None
    lpips: Distance | None = None
    identity: Distance | None = None
    inception: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure's meaning, whether more of it is better, and whether CLIP measures it."""

    what: str
    more_is_better: bool = True
    by_clip: bool = False


FIGURES: Mapping[str, Figure] = {
    "clip_score": Figure("cosine of text and picture", by_clip=True),
    "r_precision": Figure("picture nearest to its own text, of {texts}", by_clip=True),
    "named": Figure("attributes that the text names, present"),
    "variety": Figure("entropy of the others, beside the generator's"),
    "diversity": Figure("1 - cosine between pictures of a text", by_clip=True),
    "diversity_lpips": Figure("LPIPS between pictures of a text"),
    "frechet_clip": Figure(
        "Frechet distance to real pictures, CLIP features", more_is_better=False, by_clip=True
    ),
    "fid": Figure("Frechet distance to real pictures, Inception", more_is_better=False),
    "kid": Figure("kernel distance to real pictures, Inception", more_is_better=False),
    "reconstruction_l1": Figure("mapped back: absolute difference on [-1, 1]", more_is_better=False),
    "reconstruction_cosine": Figure("mapped back: cosine to the picture", by_clip=True),
    "reconstruction_lpips": Figure("mapped back: LPIPS", more_is_better=False),
    "reconstruction_identity": Figure("mapped back: distance of the faces", more_is_better=False),
    "reconstruction_kept": Figure("mapped back: attributes kept"),
    "edit_gain": Figure("edit: rise of the cosine with the attribute's direction", by_clip=True),
    "edit_kept": Figure("edit: cosine to the picture before", by_clip=True),
    "edit_target": Figure("edit: the attribute present"),
    "edit_others": Figure("edit: the other attributes as before"),
    "seconds": Figure("seconds a picture, warm", more_is_better=False),
    "memory_gb": Figure("peak memory of the process [GB]", more_is_better=False),
}


@dataclass(frozen=True)
class Evaluation:
    """A model's figures (those of `FIGURES` that could be had) and the pictures [prompt][k] it drew.

    `clip` is the fingerprint of the CLIP that compared pictures and texts.
    """

    figures: dict[str, float]
    pictures: list[list[Image.Image]]
    clip: str


@torch.no_grad()
def evaluate(
    model: Model,
    protocol: Protocol,
    instruments: Instruments | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Evaluation:
    """Measure a model.

    Args:
        model: the model.
        protocol: what it is given.
        instruments: what measures; None: the model's own CLIP alone.
        progress: wraps the loop over pictures.
    """
    instruments = instruments or Instruments()
    clip = instruments.clip or model.clip
    protocol = replace(protocol, real=[model.fit(picture) for picture in protocol.real])
    memory = PeakMemory(model.device)
    prompts = [model.prompt(text) for text in protocol.prompts]
    model.draw(prompts[0], protocol.seed, truncation=protocol.truncation)  # warm
    pictures: list[list[Image.Image]] = [[] for _ in prompts]
    seconds = []
    for (row, prompt), k in progress(list(product(enumerate(prompts), range(protocol.num)))):
        start = time.perf_counter()
        pictures[row].append(model.draw(prompt, protocol.seed + k, truncation=protocol.truncation))
        seconds.append(time.perf_counter() - start)
    peak = memory.gigabytes()

    e_texts = clip.encode_texts(list(protocol.prompts))
    e_pictures = torch.stack([_embed(clip, row) for row in pictures])
    own = torch.arange(len(prompts), device=e_texts.device).repeat_interleave(protocol.num)
    figures = {
        "clip_score": clip_score(e_pictures.flatten(0, 1), e_texts[own]),
        "r_precision": r_precision(e_pictures.flatten(0, 1), e_texts, own),
        "diversity": diversity(e_pictures),
    }
    if instruments.judge is not None and protocol.claims:
        figures |= _attributes(model, instruments.judge, protocol, pictures)
    if instruments.lpips is not None:
        figures["diversity_lpips"] = _pairwise(instruments.lpips, pictures, model.device)
    if protocol.real:
        flat = [picture for row in pictures for picture in row]
        figures["frechet_clip"] = frechet_distance(e_pictures.flatten(0, 1), _embed(clip, protocol.real))
        if instruments.inception:
            figures |= inception_distances(flat, protocol.real, model.device)
        figures |= _reconstruction(model, clip, instruments, protocol.real)
        if protocol.attributes:
            figures |= _edits(model, clip, instruments.judge, protocol)
    figures |= {"seconds": statistics.median(seconds), "memory_gb": peak}
    found = {name: figures[name] for name in FIGURES if not math.isnan(figures.get(name, math.nan))}
    return Evaluation(found, pictures, clip.fingerprint())


def markdown(evaluations: Mapping[str, Evaluation]) -> str:
    """A table: a row for each figure, a column for each model, by name.

    The best of a row is in bold, but for figures of CLIP where the models were measured by different ones. A
    dash stands for what one of them lacks.
    """
    rows = list(evaluations.values())
    one_clip = len({row.clip for row in rows}) == 1
    texts = min(CANDIDATES, len(rows[0].pictures))
    lines = [
        f"| figure | {' | '.join(evaluations)} | what it is |",
        "|---|" + "---|" * (len(rows) + 1),
    ]
    for name, figure in FIGURES.items():
        values = [row.figures.get(name) for row in rows]
        known = [value for value in values if value is not None]
        if not known:
            continue
        comparable = len(known) > 1 and (one_clip or not figure.by_clip)
        best = (max if figure.more_is_better else min)(known) if comparable else None
        cells = [_cell(value, value == best) for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} | {figure.what.format(texts=texts)} |")
    return "\n".join(lines)


def _cell(value: float | None, is_best: bool) -> str:
    if value is None:
        return "-"
    return f"**{value:.3f}**" if is_best else f"{value:.3f}"


def sheet(evaluations: Mapping[str, Evaluation], prompts: Sequence[str], size: int) -> Image.Image:
    """A row for each of the first prompts, its text before it; under each model's name its first pictures.

    Args:
        evaluations: by the models' names.
        prompts: that were drawn.
        size: pixels of a picture's side.
    """
    count = min(SHEET_PROMPTS, len(prompts))
    rows = [
        [picture for one in evaluations.values() for picture in one.pictures[row][:SHEET_COLUMNS]]
        for row in range(count)
    ]
    shown = [picture.resize((size, size), Image.Resampling.LANCZOS) for row in rows for picture in row]
    body = contact_sheet(shown, len(rows[0]), SHEET_GAP)
    span = len(rows[0]) // len(evaluations) * (size + SHEET_GAP)
    names = [label(name, span - SHEET_GAP) for name in evaluations]
    top = max(name.height for name in names) + SHEET_GAP
    whole = Image.new("RGB", (SHEET_LABEL + body.width, top + body.height), "white")
    whole.paste(body, (SHEET_LABEL, top))
    for column, name in enumerate(names):
        whole.paste(name, (SHEET_LABEL + column * span, 0))
    for row, prompt in enumerate(prompts[:count]):
        whole.paste(label(prompt, SHEET_LABEL, size), (0, top + row * (size + SHEET_GAP)))
    return whole


def _attributes(
    model: Model, judge: Judge, protocol: Protocol, pictures: Sequence[Sequence[Image.Image]]
) -> dict[str, float]:
    seen = [judge.see(stack(row)) for row in pictures]
    random = seed_generator(protocol.seed)
    samples: Verdicts = []
    for _ in range(VARIETY_DRAWS):
        ws = model.random_ws(protocol.num, random, protocol.truncation)
        samples += judge.see(model.generator.synthesis(ws, noise_mode="const").cpu())
    return {
        "named": named_share(judge, protocol.claims, seen),
        "variety": variety(judge, protocol.claims, seen, samples),
    }


def _pairwise(distance: Distance, pictures: Sequence[Sequence[Image.Image]], device: torch.device) -> float:
    """The mean distance between two pictures of a text, over all pairs and texts."""
    found = []
    for row in pictures:
        images = stack(row).to(device)
        first, second = torch.combinations(torch.arange(len(row))).T
        found.append(distance(images[first], images[second]).item())
    return statistics.mean(found)


def _reconstruction(
    model: Model, clip: ClipEncoder, instruments: Instruments, real: Sequence[Image.Image]
) -> dict[str, float]:
    mapped = [model.synthesize(model.estimate(picture)) for picture in real]
    before, after = stack(real), stack(mapped)
    figures = {
        "reconstruction_l1": (before - after).abs().mean().item(),
        "reconstruction_cosine": clip_score(_embed(clip, mapped), _embed(clip, real)),
    }
    for name, distance in (("lpips", instruments.lpips), ("identity", instruments.identity)):
        if distance is not None:
            parts = zip(before.split(1), after.split(1), strict=True)
            distances = [distance(x.to(model.device), y.to(model.device)).item() for x, y in parts]
            figures[f"reconstruction_{name}"] = statistics.mean(distances)
    if instruments.judge is not None:
        shares = kept_shares(instruments.judge, instruments.judge.see(before), instruments.judge.see(after))
        figures["reconstruction_kept"] = statistics.mean(shares.values())
    return figures


def _edits(model: Model, clip: ClipEncoder, judge: Judge | None, protocol: Protocol) -> dict[str, float]:
    """Edits, as `clip2gan edit` does them, of what the mapper makes of pictures; by the next attribute each.

    With a judge, by the next one that it does not see in the picture already.
    """
    texts = {attribute.text: attribute for attribute in protocol.attributes}
    neutral, *aims = clip.encode_texts([model.domain.neutral, *texts])
    directions = dict(zip(texts, F.normalize(torch.stack(aims) - neutral, dim=-1), strict=True))
    turns = cycle(texts.values())
    gains, similar, done, images = [], [], [], []
    for picture in protocol.real[:EDITED]:
        ws = model.estimate(picture)
        before = model.synthesize(ws)
        attribute = next(turns)
        if judge is not None:
            (seen,) = judge.see(to_tensor(before))
            attribute = next(one for one in turns if one.group is None or seen[one.group] != one.value)
        after = model.synthesize(model.change(ws, {attribute.text: 1.0}, strength="auto").ws)
        e_before, e_after = _embed(clip, [before, after])
        gains.append(((e_after - e_before) @ directions[attribute.text]).item())
        similar.append((e_after @ e_before).item())
        done.append(attribute)
        images.append((to_tensor(before), to_tensor(after)))
    figures = {"edit_gain": statistics.mean(gains), "edit_kept": statistics.mean(similar)}
    if judge is not None and all(attribute.group for attribute in done):
        old, new = (judge.see(torch.cat(column)) for column in zip(*images, strict=True))
        aims = [{one.group or "": [one.value or ""]} for one in done]
        figures["edit_target"] = named_share(judge, aims, [[seen] for seen in new])
        figures["edit_others"] = others_kept_share(judge, old, new, [one.group or "" for one in done])
    return figures


def stack(pictures: Iterable[Image.Image]) -> Tensor:
    """Pictures of one size as [N, 3, R, R] in [-1, 1]."""
    return torch.cat([to_tensor(picture) for picture in pictures])


def _embed(judge: ClipEncoder, pictures: Sequence[Image.Image], batch: int = 64) -> Tensor:
    parts = [list(pictures[start : start + batch]) for start in range(0, len(pictures), batch)]
    return torch.cat([judge.encode_images(part) for part in parts])

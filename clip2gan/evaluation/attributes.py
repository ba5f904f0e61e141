"""Avatars' attributes as the judge sees them: named ones that appear, others that stay or vary."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from clip2gan.evaluation import avatars
from clip2gan.evaluation.judge import RESOLUTION, Judge, judge_images, verdicts

Verdicts = list[avatars.Attributes]
Claims = Mapping[str, Sequence[str]]
"""For each group that a text names, the values of which it is true."""


def judged(judge: Judge, images: Tensor) -> Verdicts:
    """The judge's verdicts on pictures [N, 3, R, R] in [-1, 1]."""
    return verdicts(judge_images(judge, judge_size(images)))


def judge_size(images: Tensor) -> Tensor:
    """Pictures as a viewer would see them, at the judge's resolution."""
    images = images.clamp(-1, 1)
    return F.adaptive_avg_pool2d(images, RESOLUTION) if images.shape[-1] != RESOLUTION else images


def named(claims: Sequence[Claims], seen: Sequence[Verdicts]) -> float:
    """The share of what each text names that its pictures show, mean over texts and their pictures."""
    shares = [
        _mean([avatars.matches({group: values}, picture) for group, values in claim.items()])
        for claim, pictures in zip(claims, seen, strict=True)
        for picture in pictures
    ]
    return _mean(shares)


def kept(before: Verdicts, after: Verdicts) -> dict[str, float]:
    """For each group, the share of pictures that still show its value, of those that showed it before."""
    shares = {}
    for group in avatars.groups():
        pairs = [(old, new) for old, new in zip(before, after, strict=True) if avatars.visible(old)[group]]
        shares[group] = _mean([avatars.matches({group: [old[group]]}, new) for old, new in pairs])
    return shares


def others_kept(before: Verdicts, after: Verdicts, edited: Sequence[str]) -> float:
    """Of the groups but the edited one that can be seen before and after an edit, the share that stay."""
    return _mean(
        [
            old[group] == new[group]
            for old, new, target in zip(before, after, edited, strict=True)
            for group in avatars.groups()
            if group != target and avatars.visible(old)[group] and avatars.visible(new)[group]
        ]
    )


def variety(claims: Sequence[Claims], seen: Sequence[Verdicts], samples: Verdicts) -> float:
    """How much what a text does not name varies between its pictures, beside how it varies in general.

    For each group: the mean entropy of its value among the pictures of a text that does not name it, over the
    mean entropy among as many samples of the generator. The mean of these ratios over groups; 1 where a text
    leaves all that it does not name as free as the generator has it.

    Args:
        claims: of each text.
        seen: verdicts on the pictures of each text, equally many.
        samples: verdicts on the generator's samples, at the same truncation.
    """
    size = len(seen[0])
    draws = [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]
    ratios = []
    for group in avatars.groups():
        free = [pictures for claim, pictures in zip(claims, seen, strict=True) if group not in claim]
        found = [entropy for pictures in free if (entropy := _entropy(group, pictures)) is not None]
        general = [entropy for pictures in draws if (entropy := _entropy(group, pictures)) is not None]
        if found and _mean(general) > 0:
            ratios.append(_mean(found) / _mean(general))
    return _mean(ratios)


def _entropy(group: str, pictures: Verdicts) -> float | None:
    """Of a group's value among pictures in which it can be seen [nats]; None where fewer than two are."""
    counts = Counter(picture[group] for picture in pictures if avatars.visible(picture)[group])
    total = counts.total()
    if total < 2:
        return None
    return -sum(count / total * math.log(count / total) for count in counts.values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

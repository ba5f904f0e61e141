"""Attributes as a judge sees them: named ones that appear, others that stay or vary."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from clip2gan.evaluation.judge import Attributes, Judge

Verdicts = list[Attributes]
Claims = Mapping[str, Sequence[str]]
"""For each group that a text names, the values of which it is true."""


def shows(judge: Judge, claims: Claims, attributes: Attributes) -> bool:
    """Whether every claim is true of these attributes and can be seen: hidden groups do not match."""
    shown = judge.visible(attributes)
    return all(shown[group] and attributes[group] in values for group, values in claims.items())


def named_share(judge: Judge, claims: Sequence[Claims], seen: Sequence[Verdicts]) -> float:
    """The share of what each text names that its pictures show, mean over texts and their pictures."""
    shares = [
        _mean([shows(judge, {group: values}, picture) for group, values in claim.items()])
        for claim, pictures in zip(claims, seen, strict=True)
        for picture in pictures
    ]
    return _mean(shares)


def kept_shares(judge: Judge, before: Verdicts, after: Verdicts) -> dict[str, float]:
    """For each group, the share of pictures that still show its value, of those that showed it before."""
    shares = {}
    for group in judge.groups:
        pairs = [(old, new) for old, new in zip(before, after, strict=True) if judge.visible(old)[group]]
        shares[group] = _mean([shows(judge, {group: [old[group]]}, new) for old, new in pairs])
    return shares


def others_kept_share(judge: Judge, before: Verdicts, after: Verdicts, edited: Sequence[str]) -> float:
    """Of the groups but the edited one that can be seen before and after an edit, the share that stay."""
    return _mean(
        [
            old[group] == new[group]
            for old, new, target in zip(before, after, edited, strict=True)
            for group in judge.groups
            if group != target and judge.visible(old)[group] and judge.visible(new)[group]
        ]
    )


def variety(judge: Judge, claims: Sequence[Claims], seen: Sequence[Verdicts], samples: Verdicts) -> float:
    """How much what a text does not name varies between its pictures, beside how it varies in general.

    For each group: the mean entropy of its value among the pictures of a text that does not name it, over the
    mean entropy among as many samples of the generator. The mean of these ratios over groups; 1 where a text
    leaves all that it does not name as free as the generator has it.

    Args:
        judge: of whom the verdicts are.
        claims: of each text.
        seen: verdicts on the pictures of each text, equally many.
        samples: verdicts on the generator's samples, at the same truncation.
    """
    size = len(seen[0])
    draws = [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]
    ratios = []
    for group in judge.groups:
        free = [pictures for claim, pictures in zip(claims, seen, strict=True) if group not in claim]
        found = [entropy for pictures in free if (entropy := _entropy(judge, group, pictures)) is not None]
        general = [entropy for pictures in draws if (entropy := _entropy(judge, group, pictures)) is not None]
        if found and _mean(general) > 0:
            ratios.append(_mean(found) / _mean(general))
    return _mean(ratios)


def _entropy(judge: Judge, group: str, pictures: Verdicts) -> float | None:
    """Of a group's value among pictures in which it can be seen [nats]; None where fewer than two are."""
    counts = Counter(picture[group] for picture in pictures if judge.visible(picture)[group])
    total = counts.total()
    if total < 2:
        return None
    return -sum(count / total * math.log(count / total) for count in counts.values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

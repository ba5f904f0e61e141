"""Labels by eye: `labelled/*.csv`, in the words of `labelled/GUIDE.md`, and the values that they make."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clip2gan.domains.faces.vocabulary import Group, groups

LABELLED = Path(__file__).with_name("labelled")
TRAIN_LABELS = tuple(LABELLED / f"{name}.csv" for name in (*(f"train_{part}" for part in "abcdefg"), "rare"))
JUDGE_LABELS = tuple(LABELLED / f"{name}.csv" for name in ("judge", "judge_b", "judge_rare"))
NOT_TOLD = "?"

Labels = dict[int, dict[str, str]]
"""What was written of each seed: column -> word."""


def read_labels(paths: Sequence[Path]) -> Labels:
    """The labels of some files, the later ones first in doubt.

    Raises ValueError for a file without the columns, or with a word that the vocabulary does not know.
    """
    labels: Labels = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            missing = [name for name in ("seed", *_labelled()) if name not in columns]
            if missing:
                raise ValueError(f"{path}: no column {missing[0]!r}; see {LABELLED / 'GUIDE.md'}")
            for number, row in enumerate(rows, start=2):
                try:
                    seed = int(row["seed"])
                except ValueError:
                    raise ValueError(f"{path}, line {number}: {row['seed']!r} is no seed") from None
                labels[seed] = {name: row[name] for name in _labelled()}
    return labels


def _labelled() -> dict[str, Group]:
    return {name: group for name, group in groups().items() if not group.is_measured}


def value_of(group: Group, word: str) -> int:
    """The index of the value that a label's word makes, or -1 where it makes none."""
    return next((index for index, words in enumerate(group.labels) if word in words), -1)


def label_values(labels: Labels, seeds: Sequence[int]) -> dict[str, Tensor]:
    """For each labelled group, the value of each seed as an index: int64 [N], -1 where none is known."""
    return {
        name: torch.tensor([value_of(group, labels[s][name]) if s in labels else -1 for s in seeds])
        for name, group in _labelled().items()
    }


def agreement(first: Labels, second: Labels) -> dict[str, float]:
    """For each group, how often two labels of one picture make the same value, where both make one."""
    shared = sorted(first.keys() & second.keys())
    one, two = label_values(first, shared), label_values(second, shared)
    shares = {}
    for name in one:
        both = (one[name] >= 0) & (two[name] >= 0)
        shares[name] = (one[name] == two[name])[both].float().mean().item()
    return shares


def attributes_of(values: Mapping[str, Tensor], row: int) -> dict[str, str]:
    """The known attributes of one row of values (indices, -1 where unknown)."""
    known = groups()
    return {name: known[name].values[int(v[row])] for name, v in values.items() if v[row] >= 0}

"""People's attributes: the groups of values in `vocabulary.json`, and where each can be seen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Attributes = dict[str, str]
"""A value for each attribute group of which something is known, such as {"gender": "man", "age": "old"}."""


@dataclass(frozen=True)
class Group:
    """One attribute group.

    Attributes:
        name: such as smile.
        values: such as none, closed and open.
        labels: the words of labels by eye that make each value; none where the group is measured.
    """

    name: str
    values: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]

    @property
    def is_measured(self) -> bool:
        return not any(self.labels)


@cache
def groups() -> dict[str, Group]:
    """The attribute groups by name, in the order of `vocabulary.json`."""
    path = Path(__file__).with_name("vocabulary.json")
    entries = json.loads(path.read_text(encoding="utf-8"))["groups"]
    return {
        name: Group(name, tuple(values), tuple(tuple(value.get("labels", ())) for value in values.values()))
        for name, values in entries.items()
    }


def visible(attributes: Mapping[str, str]) -> dict[str, bool]:
    """Whether each group is known and can be seen in the picture.

    A bald head has no colour, curls or fringe; beards are spoken of where there may be one: not of women, nor
    of children.
    """
    shown = {name: name in attributes for name in groups()}
    if attributes.get("length") == "bald":
        shown |= {"hair": False, "curls": False, "fringe": False}
    if attributes.get("beard") != "beard" and (
        attributes.get("gender") != "man" or attributes.get("age") == "child"
    ):
        shown["beard"] = False
    return shown


def matches(claims: Mapping[str, Sequence[str]], attributes: Mapping[str, str]) -> bool:
    """Whether every claim is true of these attributes and can be seen: hidden groups do not match."""
    shown = visible(attributes)
    return all(shown[group] and attributes[group] in values for group, values in claims.items())

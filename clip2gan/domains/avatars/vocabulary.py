"""The avatars' attributes: ten groups of values, of `vocabulary.json`, and where each can be seen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Attributes = dict[str, str]
"""One value for each attribute group, such as {"hair": "bob", "hair_color": "red", ...}."""


@dataclass(frozen=True)
class Group:
    """One attribute group: its values, how often each is drawn, and the parts that show each of them."""

    name: str
    values: tuple[str, ...]
    probabilities: tuple[float, ...]
    parts: dict[str, list]
    enums: dict[str, str]


@cache
def vocabulary() -> dict:
    """The whole of `vocabulary.json`."""
    return json.loads(Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8"))


@cache
def groups() -> dict[str, Group]:
    """The attribute groups by name, in the order of `vocabulary.json`."""
    return {name: _group(name, entry) for name, entry in vocabulary()["groups"].items()}


def _group(name: str, entry: dict) -> Group:
    values = entry["values"]
    return Group(
        name=name,
        values=tuple(values),
        probabilities=tuple(value["p"] for value in values.values()),
        parts={value: details["parts"] for value, details in values.items()},
        enums={value: details.get("enum", entry.get("enum", "")) for value, details in values.items()},
    )


def visible(attributes: Mapping[str, str]) -> dict[str, bool]:
    """Whether each group can be seen in the picture ("hidden" of `vocabulary.json`).

    Hair colour has nothing to show on where a hat or a bald head goes without facial hair, and sunglasses
    cover the eyes.
    """
    shown = dict.fromkeys(groups(), True)
    shown["hair_color"] = attributes["hair"] not in ("hat", "bald") or attributes["facial_hair"] != "none"
    shown["eyes"] = attributes["eyewear"] != "sunglasses"
    return shown


def matches(claims: Mapping[str, Sequence[str]], attributes: Mapping[str, str]) -> bool:
    """Whether every claim is true of these attributes and can be seen: hidden groups do not match."""
    shown = visible(attributes)
    return all(shown[group] and attributes[group] in values for group, values in claims.items())

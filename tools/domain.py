"""The avatars domain: ten attribute groups, how they are drawn, and where they can be seen.

The vocabulary lives in `avatars.json`. Pictures are drawn with python-avatars (Avataaars by Pablo Stanley)
and rasterised with resvg.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Attributes = dict[str, str]
"""One value for each attribute group, such as {"hair": "bob", "hair_color": "red", ...}."""

Parts = dict[str, Any]
"""The part drawn for each group: the name of a python_avatars enum member, or an RGB colour [r, g, b]."""


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
    """The whole of `avatars.json`."""
    return json.loads(Path(__file__).with_name("avatars.json").read_text(encoding="utf-8"))


@cache
def groups() -> dict[str, Group]:
    """The attribute groups by name, in the order of `avatars.json`."""
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


def sample_attributes(rng: np.random.Generator) -> Attributes:
    """Draw one value of each group, independently, with the probabilities of `avatars.json`."""
    return {
        group.name: group.values[int(rng.choice(len(group.values), p=group.probabilities))]
        for group in groups().values()
    }


def choose_parts(attributes: Mapping[str, str], rng: np.random.Generator) -> Parts:
    """For each group one of the parts that show its value, drawn uniformly."""
    chosen = {}
    for group in groups().values():
        candidates = group.parts[attributes[group.name]]
        chosen[group.name] = candidates[int(rng.integers(len(candidates)))]
    return chosen


def visible(attributes: Mapping[str, str]) -> dict[str, bool]:
    """Whether each group can be seen in the picture ("hidden" of `avatars.json`).

    Hair colour has nothing to show on where a hat or a bald head goes without facial hair, and sunglasses
    cover the eyes.
    """
    shown = dict.fromkeys(groups(), True)
    shown["hair_color"] = attributes["hair"] not in ("hat", "bald") or attributes["facial_hair"] != "none"
    shown["eyes"] = attributes["eyewear"] != "sunglasses"
    return shown


def render(attributes: Mapping[str, str], parts: Parts, size: int) -> "Image.Image":
    """The RGB picture [size x size] of these attributes, drawn with these parts.

    Raises ValueError if `size` is not positive.
    """
    import resvg_py
    from PIL import Image

    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    canvas = vocabulary()["canvas"]["size"]
    png = resvg_py.svg_to_bytes(svg_string=_svg(attributes, parts), skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as drawing:
        figure = drawing.convert("RGBA")
    picture = Image.new("RGBA", (canvas, canvas), (*parts["background"], 255))
    picture.alpha_composite(figure, ((canvas - figure.width) // 2, (canvas - figure.height) // 2))
    return picture.convert("RGB").resize((size, size), Image.Resampling.BOX)


def draw(attributes: Mapping[str, str], rng: np.random.Generator, size: int = 64) -> "Image.Image":
    """An RGB picture [size x size] that shows these attributes; `rng` chooses among a value's parts."""
    return render(attributes, choose_parts(attributes, rng), size)


def _svg(attributes: Mapping[str, str], parts: Parts) -> str:
    import python_avatars

    def member(group: str) -> Any:
        enum = groups()[group].enums[attributes[group]]
        return getattr(python_avatars, enum)[parts[group]]

    fixed = vocabulary()["fixed"]
    return python_avatars.Avatar(
        style=python_avatars.AvatarStyle[fixed["style"]],
        eyebrows=python_avatars.EyebrowType[fixed["eyebrows"]],
        nose=python_avatars.NoseType[fixed["nose"]],
        top=member("hair"),
        hair_color=member("hair_color"),
        facial_hair_color=member("hair_color"),
        facial_hair=member("facial_hair"),
        accessory=member("eyewear"),
        mouth=member("expression"),
        eyes=member("eyes"),
        skin_color=member("skin"),
        clothing=member("clothing"),
        clothing_color=member("clothing_color"),
    ).render()

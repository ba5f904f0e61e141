"""The avatars domain: how attributes are chosen and drawn.

The vocabulary is that of `clip2gan.domains.avatars`. Pictures are drawn with python-avatars
(Avataaars by Pablo Stanley) and rasterised with resvg.
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from clip2gan.domains.avatars.vocabulary import Attributes, groups, vocabulary

if TYPE_CHECKING:
    from PIL import Image

Parts = dict[str, Any]
"""The part drawn for each group: the name of a python_avatars enum member, or an RGB colour [r, g, b]."""


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

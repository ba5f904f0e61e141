"""What pictures are drawn from, and the seeds of their candidates."""

import hashlib
from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """What a picture is drawn from.

    Attributes:
        embedding: [1, D], unit length.
        is_text: whether it is a text's embedding, or a picture's.
        center: [1, num_ws, w_dim] or [w_dim], where truncation pulls to.
    """

    embedding: Tensor
    is_text: bool
    center: Tensor


@dataclass(frozen=True)
class Drawing:
    """A picture that was drawn.

    Attributes:
        source: the text, or the picture that it is a variation of.
        seed: its own.
        image: RGB.
    """

    source: str | Image.Image
    seed: int
    image: Image.Image


def check_text(text: str) -> None:
    """Raise ValueError for a text that says nothing."""
    if not text.strip():
        raise ValueError("the text is empty; say what the picture shows")


def candidate_seed(seed: int, index: int) -> int:
    """The seed of a picture's candidate: its own for the first, so that more candidates only add to it."""
    if index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:7]) % 2**32

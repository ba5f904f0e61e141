"""Attributes of an edit: what the user writes, and how strongly it is meant."""

import math
from collections.abc import Iterable

MINUS_SIGNS = ("-", "\N{MINUS SIGN}")


def parse_attributes(items: Iterable[str]) -> dict[str, float]:
    """Attributes with their strengths: "smiling", "smiling:1.5", "-glasses" (takes away), "-glasses:0.5".

    >>> parse_attributes(["smiling:1.5", "-glasses"])
    {'smiling': 1.5, 'glasses': -1.0}

    Raises ValueError for an empty attribute, a strength that is not a finite number, or one given twice.
    """
    attributes: dict[str, float] = {}
    for item in items:
        text, colon, number = item.strip().rpartition(":")
        if not colon:
            text, number = number, "1"
        try:
            strength = float(number)
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength):
            raise ValueError(
                f"{item!r}: {number!r} is not a number; write TEXT or TEXT:STRENGTH, as in red:1.5"
            )
        text = text.strip()
        if text.startswith(MINUS_SIGNS):
            text, strength = text[1:].strip(), -strength
        if not text:
            raise ValueError(f"{item!r} names no attribute; write TEXT or TEXT:STRENGTH, as in red:1.5")
        if text in attributes:
            raise ValueError(f"the attribute {text!r} is given twice; give it once, with one strength")
        attributes[text] = strength
    return attributes


def parse_sweep(text: str) -> list[float]:
    """The N strengths of "A:B:N", from A to B in equal steps.

    >>> parse_sweep("-1:1:3")
    [-1.0, 0.0, 1.0]

    Raises ValueError for anything else; N is between 2 and 64.
    """
    try:
        first, last, count = text.split(":")
        start, end, steps = float(first), float(last), int(count)
    except ValueError:
        raise ValueError(f"{text!r} is not A:B:N, such as -1:2:7 (from -1 to 2 in 7 pictures)") from None
    if not (math.isfinite(start) and math.isfinite(end)) or not 2 <= steps <= 64:
        raise ValueError(f"{text!r}: A and B must be finite and N from 2 to 64, as in -1:2:7")
    return [start + (end - start) * i / (steps - 1) for i in range(steps)]

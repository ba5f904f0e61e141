"""What both trainings of `clip2gan train-gan` are asked for, and how they follow the pictures' size."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2gan.cli._common import warn
from clip2gan.defaults import SMALL

if TYPE_CHECKING:
    import torch

DEFAULT_RESOLUTION = 64  # of pictures of many sizes


@dataclass(frozen=True, kw_only=True)
class GanRequest:
    """What the command was asked for.

    Attributes:
        data, preset, resolution, init, dry_run, out, device: the options of these names.
        settings: what was given of the training's settings, by name.
        assigned: those of `--set`.
    """

    data: Sequence[str]
    preset: str | None
    resolution: int | None
    settings: Mapping[str, Any]
    assigned: Mapping[str, Any]
    init: Path | None
    dry_run: bool
    out: Path
    device: "torch.device"


def preset_for(resolution: int) -> str:
    """The preset of a training from scratch at this resolution."""
    return "small" if resolution <= SMALL else "stylegan2"


def own_resolution(sides: Set[int]) -> int:
    """What to train at from scratch: the pictures' own size, or the power of two below, where they agree."""
    return 1 << (max(8, *sides).bit_length() - 1) if len(sides) == 1 else DEFAULT_RESOLUTION


def warn_of_shrinking(sides: Set[int], resolution: int) -> None:
    """Tell where the generator is smaller than the pictures."""
    if max(sides, default=0) > resolution:
        warn(
            f"pictures of up to {max(sides)} px are shrunk to {resolution} px; --resolution sets another size"
        )

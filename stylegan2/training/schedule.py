"""How learning rates and averaged weights change over a training."""

import math

import torch
from torch import nn


def rate_factor(step: int, steps: int, *, ramp: int = 0, end: float = 0.1, shape: str = "cosine") -> float:
    """What a learning rate is multiplied by at `step` (from 0) of a phase of `steps`.

    It rises along a line over `ramp` steps, and falls from 1 to `end` along half a cosine ("cosine") or a
    line ("linear"), or stays ("constant").

    Example:
        >>> [round(rate_factor(step, 100, ramp=10), 2) for step in (0, 9, 50, 99)]
        [0.1, 0.98, 0.55, 0.1]
    """
    left = {
        "cosine": 0.5 + 0.5 * math.cos(math.pi * step / steps),
        "linear": 1 - step / steps,
        "constant": 1.0,
    }[shape]
    risen = min(1.0, (step + 1) / ramp) if ramp else 1.0
    return (end + (1 - end) * left) * risen


def ema_keep(longest: float, step: int) -> float:
    """How much of averaged weights `step` (from 0) keeps: `longest`, and less at first, to forget the start.

    The ramp is that of TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    return min(longest, (1 + step) / (10 + step))


@torch.no_grad()
def ema_update(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move the averaged parameters towards the model's, by 1 - keep of the way; buffers are copied."""
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)
    for mean, value in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(value)

"""The operations a StyleGAN2 is made of: reference.py defines them, and here it is chosen what computes them.

On CUDA these are the kernels of csrc/, compiled at first use; where there are none, and everywhere else, it
is PyTorch. STYLEGAN2_OPS in the environment can be "auto" (that), "torch" (no kernels) or "cuda" (kernels, or
an error).
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from stylegan2.ops import reference, registered
from stylegan2.ops.kernels import TYPES
from stylegan2.ops.reference import ACTIVATIONS, pair, setup_filter

__all__ = ["bias_act", "epilogue", "setting", "setup_filter", "upfirdn2d", "uses_kernels"]

SETTINGS = ("auto", "cuda", "torch")
_PIECEWISE_LINEAR = {"linear": 1.0, "relu": 0.0}  # activation -> its slope below 0; lrelu's is alpha


def setting() -> str:
    """STYLEGAN2_OPS, by default "auto". Raises ValueError for a value that means nothing."""
    value = os.environ.get("STYLEGAN2_OPS") or "auto"
    if value not in SETTINGS:
        raise ValueError(f"STYLEGAN2_OPS is {value!r}; set it to one of {', '.join(SETTINGS)}")
    return value


def uses_kernels(x: Tensor) -> bool:
    """Whether the kernels of csrc/ compute with x; compiles them at the first call for a CUDA tensor.

    Raises ValueError where they are demanded and cannot be had.
    """
    wanted = setting()
    if wanted == "torch":
        return False
    there = x.is_cuda and x.dtype in TYPES and _has_kernels(x.device.index)
    if wanted == "cuda" and not there:
        raise ValueError(
            f"no CUDA kernels for {x.dtype} on {x.device}, and --ops (STYLEGAN2_OPS) asks for them; "
            "choose auto (clip2gan doctor tells more)"
        )
    return there


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(x + b)); see `reference.bias_act`."""
    slope = _PIECEWISE_LINEAR.get(act, ACTIVATIONS["lrelu"].alpha if alpha is None else alpha)
    if dim == 1 and x.ndim >= 2 and act in ("linear", "relu", "lrelu") and uses_kernels(x):
        gain = ACTIVATIONS[act].gain if gain is None else gain
        if slope >= 0 and gain > 0:  # else the sign of the result would not tell the derivative
            return registered.epilogue(x, None, None, b, slope, gain, clamp)
    return reference.bias_act(x, b, dim, act, alpha, gain, clamp)


def epilogue(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    gain: float = ACTIVATIONS["lrelu"].gain,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * lrelu(x * scale + noise + b)); see `reference.epilogue`."""
    function = registered.epilogue if uses_kernels(x) else reference.epilogue
    return function(x, scale, noise, b, ACTIVATIONS["lrelu"].alpha, gain, clamp)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample by zero insertion, pad, filter, and keep every `down`-th pixel; see `reference.upfirdn2d`."""
    if f is None or not uses_kernels(x):
        return reference.upfirdn2d(x, f, up, down, padding, flip_filter, gain)
    ups, downs = list(pair(up)), list(pair(down))
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    if f.ndim == 2:
        return registered.upfirdn2d(x, f, ups, downs, pads, flip_filter, gain)
    # A separable filter: along rows, then along columns.
    x = registered.upfirdn2d(
        x, f[None, :], [ups[0], 1], [downs[0], 1], [*pads[:2], 0, 0], flip_filter, gain**0.5
    )
    return registered.upfirdn2d(
        x, f[:, None], [1, ups[1]], [1, downs[1]], [0, 0, *pads[2:]], flip_filter, gain**0.5
    )


def _has_kernels(device: int) -> bool:
    return registered.kernels(torch.device("cuda", device)) is not None


# What torch.compiler.assume_constant_result does; that would import the whole compiler, for seconds, here.
_has_kernels._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]

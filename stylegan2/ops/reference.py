"""The definitions of StyleGAN2's operations, in plain PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """A pointwise function f(x, alpha), with the alpha and the gain that StyleGAN2 gives it by default.

    The gain keeps the variance of a layer's output near that of its input.
    """

    function: Callable[[Tensor, float], Tensor]
    gain: float = 1.0
    alpha: float = 0.0


ACTIVATIONS = {
    "linear": Activation(lambda x, alpha: x),
    "relu": Activation(lambda x, alpha: F.relu(x), gain=2**0.5),
    "lrelu": Activation(F.leaky_relu, gain=2**0.5, alpha=0.2),
    "tanh": Activation(lambda x, alpha: torch.tanh(x)),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x)),
    "elu": Activation(lambda x, alpha: F.elu(x)),
    "selu": Activation(lambda x, alpha: F.selu(x)),
    "softplus": Activation(lambda x, alpha: F.softplus(x)),
    "swish": Activation(lambda x, alpha: F.silu(x), gain=2**0.5),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(x + b)).

    `b` is a vector along dimension `dim` of `x`; `alpha` and `gain` default to the activation's own
    (see ACTIVATIONS); `clamp` bounds the absolute value of the result. Raises ValueError for an unknown
    `act`.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"unknown activation {act!r}; choose one of {', '.join(ACTIVATIONS)}")
    activation = ACTIVATIONS[act]
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = activation.function(x, activation.alpha if alpha is None else alpha)
    gain = activation.gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def epilogue(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    slope: float = 0.2,
    gain: float = 2**0.5,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * lrelu(x * scale + noise + b)): what follows a modulated convolution, in one.

    x [N, C, ...]; scale [N, C], the demodulation; noise [1 or N, 1, H, W]; b [C]; `slope` is the leaky ReLU's
    (1 makes it linear, 0 a ReLU); `clamp` bounds the absolute value of the result.
    """
    ones = [1] * (x.ndim - 2)
    if scale is not None:
        x = x * scale.to(x.dtype).reshape(*scale.shape, *ones)
    if noise is not None:
        x = x + noise.to(x.dtype)
    if b is not None:
        x = x + b.to(x.dtype).reshape(-1, *ones)
    x = x if slope == 1 else F.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def setup_filter(taps: Sequence[float], normalize: bool = True) -> Tensor:
    """The separable 2-D filter [n, n] of `taps`; its sum is 1 when `normalize`."""
    one = torch.tensor(taps, dtype=torch.float32)
    two = torch.outer(one, one)
    return two / two.sum() if normalize else two


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample by zero insertion, pad, filter, and keep every `down`-th pixel.

    For each channel of `x` [N, C, H, W]: put `up - 1` zeros after each pixel; pad (crop, where negative) by
    `padding` = (left, right, top, bottom); convolve with `f` times `gain`, where the filter lies wholly
    inside; subsample. `up` and `down` are one number or (x, y); `f` is [fh, fw], or [n] for a separable
    filter, or None for no filter; it is flipped, as a convolution asks, unless `flip_filter` says that it is
    flipped already.
    """
    up_x, up_y = pair(up)
    down_x, down_y = pair(down)
    left, right, top, bottom = [padding] * 4 if isinstance(padding, int) else padding
    n, c, height, width = x.shape

    x = F.pad(x.reshape(n, c, height, 1, width, 1), [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = x.reshape(n, c, height * up_y, width * up_x)
    x = _padded(x, left, right, top, bottom)
    if f is None:
        x = x * gain
    else:
        kernel = f.to(x.dtype) * gain ** (f.ndim / 2)
        kernel = kernel if flip_filter else kernel.flip(list(range(f.ndim)))
        for part in [kernel] if f.ndim == 2 else [kernel[None, :], kernel[:, None]]:
            x = F.conv2d(x, part.expand(c, 1, *part.shape), groups=c)
    return x[:, :, ::down_y, ::down_x]


def _padded(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """`x` with zeros around it, and cropped where the amount is negative: by more than it has, too."""
    x = F.pad(x, [max(amount, 0) for amount in (left, right, top, bottom)])
    height, width = x.shape[2:]
    return x[:, :, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])

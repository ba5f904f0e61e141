"""The operations as PyTorch knows them, `torch.ops.stylegan2.*`: kernels on CUDA, reference.py elsewhere.

With the shapes (fake) and the derivatives registered here, torch.compile and torch.export see through them,
and gradients of any order are again these operations.
"""

from typing import Any

import torch
from torch import Tensor

from stylegan2.ops import build, reference
from stylegan2.ops.kernels import Kernels, out_size


@torch.library.custom_op("stylegan2::epilogue", mutates_args=())
def epilogue(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    slope: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """`reference.epilogue`."""
    y = reference.epilogue(x, scale, noise, b, slope, gain, clamp)
    return y.clone() if y is x else y  # the result of an operation must not be its argument


@torch.library.custom_op("stylegan2::epilogue_grad", mutates_args=())
def epilogue_grad(dy: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    """dy * gain * (1 or, where y <= 0, slope), and 0 where y is clamped."""
    du = dy * torch.where(y > 0, gain, gain * slope).to(dy.dtype)
    return du if clamp is None else du * (y.abs() < clamp)


@torch.library.custom_op("stylegan2::upfirdn2d", mutates_args=())
def upfirdn2d(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float
) -> Tensor:
    """`reference.upfirdn2d`: f [fh, fw]; up and down (x, y); padding (left, right, top, bottom)."""
    return reference.upfirdn2d(x, f, up, down, padding, flip_filter, gain).clone()


def kernels(device: torch.device) -> Kernels | None:
    """The kernels for a CUDA device, compiled if they must be; None where they cannot be had."""
    major, minor = torch.cuda.get_device_capability(device)
    return build.kernels(f"{major}{minor}")


def _required(device: torch.device) -> Kernels:
    found = kernels(device)
    assert found is not None, "stylegan2.ops chooses these operations only where there are kernels"
    return found


@epilogue.register_kernel("cuda")
def _(x, scale, noise, b, slope, gain, clamp):
    return _required(x.device).epilogue(x, scale, noise, b, slope, gain, clamp)


@epilogue_grad.register_kernel("cuda")
def _(dy, y, slope, gain, clamp):
    return _required(y.device).epilogue_grad(dy, y, slope, gain, clamp)


@upfirdn2d.register_kernel("cuda")
def _(x, f, up, down, padding, flip_filter, gain):
    return _required(x.device).upfirdn2d(x, f, up, down, padding, flip_filter, gain)


@epilogue.register_fake
def _(x, scale, noise, b, slope, gain, clamp):
    return torch.empty_like(x)


@epilogue_grad.register_fake
def _(dy, y, slope, gain, clamp):
    return torch.empty_like(y)


@upfirdn2d.register_fake
def _(x, f, up, down, padding, flip_filter, gain):
    return x.new_empty(*x.shape[:2], *out_size(x, f, up, down, padding))


def _keep_for_epilogue(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, scale, noise, b, *ctx.settings = inputs
    ctx.noise_shape = None if noise is None else noise.shape
    ctx.save_for_backward(x if scale is not None else None, scale, b, output)


def _epilogue_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, b, y = ctx.saved_tensors
    du = epilogue_grad(dy, y, *ctx.settings)
    over = list(range(2, du.ndim))
    ones = [1] * len(over)
    dx, dscale, dnoise, db = du, None, None, None
    if scale is not None:
        dx = du * scale.to(du.dtype).reshape(*scale.shape, *ones)
        dscale = (du * x).sum(over).to(scale.dtype) if over else (du * x).to(scale.dtype)
    if ctx.noise_shape is not None:
        dnoise = du.sum(dim=1, keepdim=True).sum_to_size(ctx.noise_shape)
    if b is not None:
        db = du.sum([0, *over]).to(b.dtype)
    return dx, dscale, dnoise, db, None, None, None


epilogue.register_autograd(_epilogue_backward, setup_context=_keep_for_epilogue)


def _keep_for_grad(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, y, *ctx.settings = inputs
    ctx.save_for_backward(y)


def _grad_backward(ctx: Any, ddu: Tensor) -> tuple[Tensor | None, ...]:
    # Linear in dy; in y it is a step function, of derivative 0.
    return epilogue_grad(ddu, ctx.saved_tensors[0], *ctx.settings), None, None, None, None


epilogue_grad.register_autograd(_grad_backward, setup_context=_keep_for_grad)


def _keep_for_upfirdn2d(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, *ctx.settings = inputs
    ctx.in_size, ctx.out_size = x.shape[2:], output.shape[2:]
    ctx.save_for_backward(f)


def _upfirdn2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The transposed operation: up and down exchanged, the filter mirrored, padding so that sizes return."""
    up, down, (left, _, top, _), flip_filter, gain = ctx.settings
    (f,) = ctx.saved_tensors
    (in_height, in_width), (out_height, out_width), (fh, fw) = ctx.in_size, ctx.out_size, f.shape
    padding = [
        fw - left - 1,
        in_width * up[0] - out_width * down[0] + left - up[0] + 1,
        fh - top - 1,
        in_height * up[1] - out_height * down[1] + top - up[1] + 1,
    ]
    return upfirdn2d(dy, f, down, up, padding, not flip_filter, gain), None, None, None, None, None, None


upfirdn2d.register_autograd(_upfirdn2d_backward, setup_context=_keep_for_upfirdn2d)

"""Calling the compiled kernels of csrc/ on tensors.

The library has no Python or PyTorch in it, only C functions that take pointers: it compiles in seconds and
does not depend on PyTorch's version.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class _Resample(ctypes.Structure):
    """`struct Resample` of ops.cu."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("count", "channels", "in_height", "in_width", "out_height", "out_width"),
                *("stride_n", "stride_c", "stride_y", "stride_x"),
                *("up_x", "up_y", "down_x", "down_y", "left", "top"),
                *("filter_height", "filter_width", "flip", "channels_last"),
            )
        ),
        ("gain", ctypes.c_double),
    )


class Kernels:
    """The functions of a compiled csrc/ops.cu, on tensors of one device in float32, float16 or bfloat16.

    Raises OSError for a file that is no such library, and RuntimeError where a launch fails.
    """

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        pointer, integer, real, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_int64
        try:
            self._library.stylegan2_error.restype = ctypes.c_char_p
            self._library.stylegan2_epilogue.argtypes = (
                *(integer, *[pointer] * 5, *[long] * 3, integer, long, *[real] * 3, pointer),
            )
            self._library.stylegan2_epilogue_grad.argtypes = (
                *(integer, *[pointer] * 3, long, *[real] * 3, pointer),
            )
            self._library.stylegan2_upfirdn2d.argtypes = (
                *(integer, *[pointer] * 3, ctypes.POINTER(_Resample), pointer),
            )
        except AttributeError as error:
            raise OSError(f"{path}: not the library of these sources ({error})") from error

    def epilogue(
        self,
        x: Tensor,
        scale: Tensor | None,
        noise: Tensor | None,
        b: Tensor | None,
        slope: float,
        gain: float,
        clamp: float | None,
    ) -> Tensor:
        """`reference.epilogue`; x [N, C, ...]."""
        x, channels_last = _dense(x)
        y = torch.empty_like(x)
        channels, pixels = x.shape[1], x[0, 0].numel() if x.numel() else 0
        scale, noise, b = (None if t is None else t.float().contiguous() for t in (scale, noise, b))
        noise_step = pixels if noise is not None and len(noise) > 1 else 0
        self._run(
            "epilogue",
            *(x, x, y, scale, noise, b, x.numel(), channels, pixels, channels_last),
            *(noise_step, slope, gain, -1.0 if clamp is None else clamp),
        )
        return y

    def epilogue_grad(self, dy: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
        """What reaches the leaky ReLU's argument, from the epilogue's result y and its gradient dy."""
        y, channels_last = _dense(y)
        dy = dy.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        du = torch.empty_like(y)
        self._run("epilogue_grad", y, dy, y, du, y.numel(), slope, gain, -1.0 if clamp is None else clamp)
        return du

    def upfirdn2d(
        self,
        x: Tensor,
        f: Tensor,
        up: Sequence[int],
        down: Sequence[int],
        padding: Sequence[int],
        flip_filter: bool,
        gain: float,
    ) -> Tensor:
        """`reference.upfirdn2d` with a 2-D filter, and pairs (x, y) for up and down."""
        n, channels, height, width = x.shape
        out_height, out_width = out_size(x, f, up, down, padding)
        is_last = _is_channels_last(x)
        y = x.new_empty(
            (n, channels, out_height, out_width),
        ).contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
        f = f.to(x.device, torch.float32).contiguous()
        settings = _Resample(
            *(y.numel(), channels, height, width, out_height, out_width, *x.stride()),
            *(*up, *down, padding[0], padding[2], *f.shape, flip_filter, is_last, gain),
        )
        self._run("upfirdn2d", x, x, f, y, ctypes.byref(settings))
        return y

    def _run(self, name: str, like: Tensor, *arguments: object) -> None:
        """Call a function on `like`'s device, in its current stream and for its type."""
        values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
        function = getattr(self._library, f"stylegan2_{name}")
        if like.is_cuda:
            with torch.cuda.device(like.device):
                code = function(TYPES[like.dtype], *values, torch.cuda.current_stream().cuda_stream)
        else:
            code = function(TYPES[like.dtype], *values, None)
        if code:
            raise RuntimeError(f"the kernel {name} failed: {self._library.stylegan2_error(code).decode()}")


def out_size(
    x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """Height and width of what upfirdn2d makes of x. Raises ValueError where the filter does not fit."""
    left, right, top, bottom = padding
    height = x.shape[2] * up[1] + top + bottom - f.shape[0]
    width = x.shape[3] * up[0] + left + right - f.shape[1]
    if height < 0 or width < 0:
        raise ValueError(f"upfirdn2d: the filter {list(f.shape)} is larger than the padded picture")
    return height // down[1] + 1, width // down[0] + 1


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """x without gaps in memory, and whether its format is channels_last."""
    return (x, True) if _is_channels_last(x) else (x.contiguous(), False)


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)

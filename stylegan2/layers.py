"""The layers that StyleGAN2's networks share; learning rates are equalised by scaling weights at run time."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan2.ops import bias_act, setup_filter
from stylegan2.ops.resample import blur_before_downsampling, downsample2d

RESAMPLE_TAPS = (1, 3, 3, 1)


class FullyConnectedLayer(nn.Module):
    """act(x @ W.T * lr_multiplier / sqrt(in) + b * lr_multiplier): [N, in] -> [N, out]."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, (self.weight * self.weight_gain).to(x.dtype))
        return bias_act(x, self.bias * self.bias_gain, act=self.activation)


class Conv2dLayer(nn.Module):
    """A 1x1 or 3x3 convolution with bias and activation, halving the resolution when `down` is 2.

    [N, in, H, W] -> [N, out, H/down, W/down]. `gain` scales the result.
    """

    bias: Tensor | None
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.activation, self.down, self.conv_clamp = activation, down, conv_clamp
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        if self.down == 1:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        elif weight.shape[-1] == 1:
            x = F.conv2d(downsample2d(x, self.resample_filter), weight)
        else:
            x = F.conv2d(blur_before_downsampling(x, self.resample_filter), weight, stride=2)
        act_gain = gain * (1.0 if self.activation == "linear" else math.sqrt(2))
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias, act=self.activation, gain=act_gain, clamp=clamp)


def half_dtype(device: torch.device) -> torch.dtype:
    """The 16-bit type of the top resolutions: float16 on CUDA; bfloat16 elsewhere, faster on CPUs."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def is_quick_in_half(device: torch.device) -> bool:
    """Whether this device has instructions for its 16-bit type; a CPU without them takes ten times as long.

    An older PyTorch cannot say what a CPU has: then False.
    """
    if device.type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))

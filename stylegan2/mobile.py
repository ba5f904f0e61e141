"""MobileStyleGAN's synthesis network (Belousov 2021, arXiv 2104.04767): StyleGAN2 made small by distillation.

It takes StyleGAN2's own latents. Where StyleGAN2 convolves with 3x3 kernels, this network filters each
channel by itself and then mixes them (depthwise and pointwise convolutions), and where StyleGAN2 upsamples,
every four channels are the subbands of a wavelet transform, which is inverted. Demodulation does not depend
on the style, so it is part of the weights.

    b4        const 4x4, dense 3x3 convolution                           w0
    b8 ...    inverse transform, separable convolution to the new width  w1, w3, ...
              separable convolution                                      w2, w4, ...
    torgb     1x1 convolution to four subbands of RGB, inverse transform the last w

These modules define what is computed and serve training and any device; on a CPU, frozen weights run through
mobile_tiled.py.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan2 import mobile_tiled
from stylegan2.config import GeneratorConfig, NoiseMode, check_synthesis_input
from stylegan2.layers import FullyConnectedLayer, half_dtype

SLOPE = 0.2  # of the leaky ReLU, which has no gain here


def inverse_haar(x: Tensor) -> Tensor:
    """The inverse of a Haar wavelet transform: [N, 4C, H, W] -> [N, C, 2H, 2W].

    The first C channels are the means LL; the others, seen as [C, 3], the horizontal, vertical and diagonal
    details LH, HL, HH. Each pixel becomes the block
    [[LL + LH + HL + HH, LL + LH - HL - HH], [LL - LH + HL - HH, LL - LH - HL + HH]] / 2.
    """
    n, channels, height, width = x.shape
    low, details = x[:, : channels // 4], x[:, channels // 4 :].unflatten(1, (channels // 4, 3))
    lh, hl, hh = details.unbind(dim=2)
    top, bottom = low + lh, low - lh
    plus, minus = hl + hh, hl - hh
    rows = [
        torch.stack([top + plus, top - plus], dim=-1),
        torch.stack([bottom + minus, bottom - minus], dim=-1),
    ]
    return torch.stack(rows, dim=3).reshape(n, channels // 4, 2 * height, 2 * width) / 2


class MobileLayer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU: [N, I, R, R] -> [N, O, R, R]."""

    noise_const: Tensor

    def __init__(self, config: GeneratorConfig, in_channels: int, out_channels: int, resolution: int):
        super().__init__()
        self.affine = FullyConnectedLayer(config.w_dim, in_channels, bias_init=1)
        if resolution == 4:
            self.weight = nn.Parameter(
                torch.randn(out_channels, in_channels, 3, 3) / math.sqrt(9 * in_channels)
            )
        else:
            self.depthwise = nn.Parameter(torch.randn(in_channels, 1, 3, 3) / 3)
            self.pointwise = nn.Parameter(
                torch.randn(out_channels, in_channels, 1, 1) / math.sqrt(in_channels)
            )
        self.is_separable = resolution > 4
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode) -> Tensor:
        x = x * self.affine(w).to(x.dtype)[:, :, None, None]
        if self.is_separable:
            x = F.conv2d(x, self.depthwise.to(x.dtype), padding=1, groups=x.shape[1])
            x = F.conv2d(x, self.pointwise.to(x.dtype), self.bias.to(x.dtype))
        else:
            x = F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=1)
        if noise_mode == "const":
            x = x + (self.noise_const * self.noise_strength).to(x.dtype)
        elif noise_mode == "random":
            noise = torch.randn([x.shape[0], 1, *x.shape[2:]], device=x.device)
            x = x + (noise * self.noise_strength).to(x.dtype)
        elif callable(noise_mode):
            x = x + (noise_mode(x.shape[2]) * self.noise_strength).to(x.dtype)
        return F.leaky_relu(x, SLOPE)


class MobileBlock(nn.Module):
    """One resolution: the constant and a convolution, or twice the size and two convolutions."""

    def __init__(self, config: GeneratorConfig, resolution: int):
        super().__init__()
        channels = config.channels(resolution)
        self.is_first = resolution == 4
        if self.is_first:
            self.const = nn.Parameter(torch.randn(channels, 4, 4))
        else:
            before = config.channels(resolution // 2)
            self.up_affine = FullyConnectedLayer(config.w_dim, before, bias_init=1)
            self.conv0 = MobileLayer(config, before // 4, channels, resolution)
        self.conv1 = MobileLayer(config, channels, channels, resolution)

    def forward(self, x: Tensor, ws: Tensor, noise_mode: NoiseMode) -> Tensor:
        """x [N, C, R/2, R/2] (of the first block [1, C, 4, 4]), ws [N, 1 or 2, w_dim] -> [N, C', R, R]."""
        if not self.is_first:
            x = inverse_haar(x * self.up_affine(ws[:, 0]).to(x.dtype)[:, :, None, None])
            x = self.conv0(x, ws[:, 0], noise_mode)
        return self.conv1(x, ws[:, -1], noise_mode)


class MobileToRGB(nn.Module):
    """Modulated 1x1 convolution to the subbands of the picture, and their inverse transform."""

    def __init__(self, config: GeneratorConfig, in_channels: int):
        super().__init__()
        self.affine = FullyConnectedLayer(config.w_dim, in_channels, bias_init=1)
        shape = (4 * config.img_channels, in_channels, 1, 1)
        self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(in_channels))
        self.bias = nn.Parameter(torch.zeros(4 * config.img_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = x * self.affine(w).to(x.dtype)[:, :, None, None]
        subbands = F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return inverse_haar(subbands.to(torch.float32))


class MobileSynthesis(nn.Module):
    """Intermediate latents ws to pictures, as `SynthesisNetwork`."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.num_ws, self.w_dim = config.num_ws, config.w_dim
        self.block_resolutions = config.block_resolutions
        self.b4 = MobileBlock(config, 4)
        for resolution in self.block_resolutions[1:]:
            setattr(self, f"b{resolution}", MobileBlock(config, resolution))
        self.torgb = MobileToRGB(config, config.channels(self.block_resolutions[-1]))
        self.half_type: torch.dtype | None = None
        self.uses_half = config.num_fp16_res > 0
        self.prepared: tuple[list, list[mobile_tiled.Block]] | None = None  # see mobile_tiled.prepared

    def forward(self, ws: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """ws [N, num_ws, w_dim] -> pictures [N, img_channels, R, R], float32, about [-1, 1].

        noise_mode: "const" (the stored noise; repeatable), "random" (drawn anew), "none", or a function that
        draws it: resolution R -> [N, 1, R, R].
        """
        check_synthesis_input(ws, self.num_ws, self.w_dim, noise_mode)
        ws = ws.to(torch.float32)
        if mobile_tiled.can_run(self, ws):
            return mobile_tiled.synthesize(self, ws, noise_mode)
        x = self.start(ws, noise_mode).to(self.dtype(ws.device))
        for index, resolution in enumerate(self.block_resolutions[1:]):
            x = getattr(self, f"b{resolution}")(x, ws[:, 2 * index + 1 : 2 * index + 3], noise_mode)
        return self.torgb(x, ws[:, -1])

    def start(self, ws: Tensor, noise_mode: NoiseMode) -> Tensor:
        """The features at 4 px [N, C, 4, 4], always in float32."""
        return self.b4(self.b4.const[None].expand(ws.shape[0], -1, -1, -1), ws[:, :1], noise_mode)

    def dtype(self, device: torch.device) -> torch.dtype:
        """What is computed in from 8 px up; see `set_precision`."""
        if self.half_type is None and self.uses_half and device.type == "cuda":
            return half_dtype(device)
        return self.half_type or torch.float32

    def set_precision(self, half_type: torch.dtype | None, config: GeneratorConfig | None) -> None:
        """Compute in `half_type` from 8 px up; None: in float32, or as `config` says where it is given."""
        self.half_type = half_type
        self.uses_half = config is not None and config.num_fp16_res > 0

    def style_layers(self) -> list[list[FullyConnectedLayer]]:
        """For each of the num_ws latents the affine layers that read it: of convolutions and colours."""
        layers: list[list[FullyConnectedLayer]] = []
        for resolution in self.block_resolutions:
            block = getattr(self, f"b{resolution}")
            if not block.is_first:
                layers.append([block.up_affine, block.conv0.affine])
            layers.append([block.conv1.affine])
        return [*layers, [self.torgb.affine]]

"""Synthesis with frozen weights on a CPU: the pictures of `SynthesisNetwork`, in less time and memory.

The modules of generator.py define what is computed; here only the order differs.

- Work is cut into tiles, rows of one picture or whole pictures, whose intermediate values stay in the
  caches. Where no gradient is asked for, a block's convolutions, epilogues and RGB layer run tile by tile,
  and only what the next block reads is written out: the page faults of fresh memory cost more than the
  arithmetic of the layers that have few channels.
- Styles and demodulation scale the weights or the activations, whichever are fewer. The gain of the leaky
  ReLU, a homogeneous function, goes with them, into bias and into noise.
- Activations are channels_last, which convolutions on a CPU take without reordering.
- Gradients flow to `ws` alone, and of a layer only its input and its output are kept for them: the sign of
  the output tells the slope of the leaky ReLU, and sums over it give the demodulation's gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from stylegan2.ops.reference import ACTIVATIONS
from stylegan2.ops.resample import upsample2d
from stylegan2.tiles import TILE_BYTES, empty, frozen_state, is_frozen_on_cpu

if TYPE_CHECKING:
    from stylegan2.config import NoiseMode
    from stylegan2.generator import SynthesisBlock, SynthesisLayer, SynthesisNetwork

SLOPE, GAIN = ACTIVATIONS["lrelu"].alpha, ACTIVATIONS["lrelu"].gain


@dataclass(frozen=True)
class Layer:
    """A SynthesisLayer, ready to run.

    weight: [O, I, 3, 3], or [I, O, 3, 3] of an upsampling layer, float32, channels_last. cast: the same in
    the block's type. power: [O, I], squared weights summed over the kernel. bias: [O] and noise: [1, 1, R, R]
    are times GAIN; noise is None where it has no strength. blur: [O, 1, 4, 4] where `up` is 2, else None.
    """

    affine: nn.Module
    weight: Tensor
    cast: Tensor
    power: Tensor
    bias: Tensor
    noise: Tensor | None
    noise_strength: Tensor
    blur: Tensor | None
    clamp: float | None
    resolution: int

    @property
    def up(self) -> int:
        return 1 if self.blur is None else 2

    def modulation(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Latents w [N, w_dim] -> what scales the convolution's input [N, I] and its output [N, O]."""
        styles = self.affine(w)
        return styles, (styles.square() @ self.power.T + 1e-8).rsqrt() * GAIN

    def scaled(self, out_scale: Tensor, in_scale: Tensor | None = None) -> Tensor:
        """One picture's kernel: the weights times out_scale [1, O], and in_scale [1, I]."""
        scale = out_scale.T if in_scale is None else out_scale.T * in_scale
        scale = scale if self.up == 1 else scale.T
        return (self.weight * scale[:, :, None, None]).to(self.cast.dtype)

    def has_few_weights(self, pictures: int) -> bool:
        """Whether scaling weights takes less work than scaling the activations of so many pictures."""
        inputs = self.power.shape[1] * (self.resolution // self.up) ** 2
        return pictures == 1 and self.weight.numel() < inputs


@dataclass(frozen=True)
class Block:
    """A SynthesisBlock, ready to run.

    const: what the first block starts from, [1, C, 4, 4]. layers: one in the first block, else two.
    rgb_weight: [img_channels, C], with its gain. is_last: whether no other block reads its features.
    """

    resolution: int
    dtype: torch.dtype
    const: Tensor | None
    layers: list[Layer]
    rgb_affine: nn.Module
    rgb_weight: Tensor
    rgb_bias: Tensor
    rgb_clamp: float | None
    up_filter: Tensor
    is_last: bool

    def rgb(self, x: Tensor, kernels: Tensor) -> Tensor:
        """[n, C, h, W] and each picture's kernel [n, img_channels, C] -> [n, img_channels, h, W], float32."""
        n, _, height, width = x.shape
        rgb = (x.permute(0, 2, 3, 1).reshape(n, height * width, -1) @ kernels.mT).to(torch.float32)
        rgb = rgb + self.rgb_bias
        if self.rgb_clamp is not None:
            rgb = rgb.clamp(-self.rgb_clamp, self.rgb_clamp)
        return rgb.reshape(n, height, width, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class BoundLayer:
    """A Layer with the modulation and the noise of some pictures.

    Either all modulation is in the kernel, or `before` [n, I, 1, 1] and `after` [n, O, 1, 1] hold it.
    """

    layer: Layer
    kernel: Tensor
    before: Tensor | None
    after: Tensor | None
    noise: Tensor | None

    def rows(self, x: Tensor, first: int, last: int, origin: int = 0) -> Tensor:
        """Rows [first, last) of the layer's output; x [n, I, h, W] begins with the input's row `origin`."""
        layer = self.layer
        low, high = _input_rows(layer.up, first, last)
        x = _take_rows(x, low - origin, high - origin)
        bias = layer.bias if self.after is None else None
        if self.before is not None:
            x = x * self.before
        if layer.blur is None:
            x = F.conv2d(x, self.kernel, bias, padding=(0, 1))
        else:
            x = F.conv_transpose2d(x, self.kernel, stride=2)
            x = x[:, :, first - 1 - 2 * low : last + 2 - 2 * low]
            x = F.conv2d(x, layer.blur, bias, padding=(0, 1), groups=x.shape[1])
        if self.after is not None:
            x.mul_(self.after).add_(layer.bias[:, None, None])
        if self.noise is not None:
            x.add_(self.noise[:, :, first:last])
        F.leaky_relu_(x, SLOPE)
        return x if layer.clamp is None else x.clamp_(-layer.clamp, layer.clamp)


def bind(layer: Layer, styles: Tensor, gain: Tensor, noise: Tensor | None, pictures: slice) -> BoundLayer:
    """The layer for some `pictures` of a batch: styles [N, I], gain [N, O], noise [1 or N, 1, R, R]."""
    styles, gain = styles[pictures], gain[pictures]
    if noise is not None and len(noise) > 1:
        noise = noise[pictures]
    if layer.has_few_weights(len(styles)):
        return BoundLayer(layer, layer.scaled(gain, styles), None, None, noise)
    return BoundLayer(layer, layer.cast, _per_channel(styles, layer), _per_channel(gain, layer), noise)


def can_run(synthesis: "SynthesisNetwork", ws: Tensor) -> bool:
    """Whether `synthesize` applies: a frozen network of architecture skip, in float32, on a CPU, untraced.

    float16 is left to the modules, which keep its sums in range.
    """
    return (
        all(block.has_rgb and not block.is_residual for block in _blocks(synthesis))
        and is_frozen_on_cpu(synthesis, ws)
        and torch.float16 not in _types(synthesis)
    )


def synthesize(synthesis: "SynthesisNetwork", ws: Tensor, noise_mode: "NoiseMode") -> Tensor:
    """ws [N, num_ws, w_dim] -> pictures [N, img_channels, R, R], float32; differentiable once, in ws."""
    blocks = prepared(synthesis)
    with torch.autocast("cpu", enabled=False):
        return _synthesize(blocks, ws, noise_mode)


def prepared(synthesis: "SynthesisNetwork") -> list[Block]:
    """The network's blocks, ready to run; made anew only when a weight or a type has changed."""
    blocks, types = _blocks(synthesis), _types(synthesis)
    state = [types, frozen_state(synthesis)]
    if synthesis.prepared is None or synthesis.prepared[0] != state:
        # Whatever mode this is called in, the tensors serve calls that want gradients too.
        with torch.inference_mode(False), torch.no_grad():
            ready = [
                _prepare_block(block, dtype, is_last=block is blocks[-1])
                for block, dtype in zip(blocks, types, strict=True)
            ]
        synthesis.prepared = state, ready
    return synthesis.prepared[1]


def _blocks(synthesis: "SynthesisNetwork") -> "list[SynthesisBlock]":
    return [getattr(synthesis, f"b{resolution}") for resolution in synthesis.block_resolutions]


def _types(synthesis: "SynthesisNetwork") -> list[torch.dtype]:
    """What each block computes in: autocast's type inside torch.autocast."""
    if torch.is_autocast_enabled("cpu"):
        return [torch.get_autocast_dtype("cpu") for _ in synthesis.block_resolutions]
    return [block.dtype(torch.device("cpu")) for block in _blocks(synthesis)]


def _prepare_block(block: "SynthesisBlock", dtype: torch.dtype, is_last: bool) -> Block:
    torgb = block.torgb
    layers = [block.conv1] if block.is_first else [block.conv0, block.conv1]
    return Block(
        resolution=block.conv1.noise_const.shape[-1],
        dtype=dtype,
        const=block.const[None].to(dtype) if block.is_first else None,
        layers=[_prepare_layer(layer, dtype) for layer in layers],
        rgb_affine=torgb.affine,
        rgb_weight=torgb.weight[:, :, 0, 0] * torgb.weight_gain,
        rgb_bias=torgb.bias,
        rgb_clamp=torgb.conv_clamp,
        up_filter=block.resample_filter,
        is_last=is_last,
    )


def _prepare_layer(layer: "SynthesisLayer", dtype: torch.dtype) -> Layer:
    weight = (layer.weight if layer.up == 1 else layer.weight.transpose(0, 1)).detach()
    weight = weight.contiguous(memory_format=torch.channels_last)
    noise = (layer.noise_const * (layer.noise_strength * GAIN)).to(dtype)[None, None]
    return Layer(
        affine=layer.affine,
        weight=weight,
        cast=weight.to(dtype),
        power=layer.weight.square().sum(dim=[2, 3]),
        bias=(layer.bias * GAIN).to(dtype),
        noise=noise if layer.noise_strength else None,
        noise_strength=layer.noise_strength,
        blur=(
            None
            if layer.up == 1
            else (layer.resample_filter * 4).to(dtype).repeat(len(layer.weight), 1, 1, 1)
        ),
        clamp=layer.conv_clamp,
        resolution=layer.noise_const.shape[-1],
    )


def _synthesize(blocks: list[Block], ws: Tensor, noise_mode: "NoiseMode") -> Tensor:
    run_block = _block_with_gradient if torch.is_grad_enabled() and ws.requires_grad else _block
    x = image = None
    first = 0
    for block in blocks:
        w = ws[:, first : first + len(block.layers) + 1].unbind(dim=1)
        first += len(block.layers)
        if block.const is not None:
            x = block.const.expand(len(ws), -1, -1, -1)
        assert x is not None
        noises = [_noise(layer, noise_mode, len(ws)) for layer in block.layers]
        modulations = [layer.modulation(each) for layer, each in zip(block.layers, w, strict=False)]
        kernels = (block.rgb_affine(w[-1])[:, None, :] * block.rgb_weight).to(block.dtype)
        x, rgb = run_block(block, x.to(block.dtype), modulations, noises, kernels)
        image = rgb if image is None else upsample2d(image, block.up_filter) + rgb
    assert image is not None
    return image


def _block(
    block: Block,
    x: Tensor,
    modulations: list[tuple[Tensor, Tensor]],
    noises: list[Tensor | None],
    kernels: Tensor,
) -> tuple[Tensor | None, Tensor]:
    """x -> the block's features (None of the last one) and its RGB."""
    count, size, channels = len(x), block.resolution, len(block.layers[-1].bias)
    y = None if block.is_last else empty((count, channels, size, size), x)
    rgb = torch.empty(count, kernels.shape[1], size, size)
    for pictures, ranges in _tiles(count, size, channels * size * x.itemsize):
        *before, conv1 = [
            bind(layer, *modulation, noise, pictures)
            for layer, modulation, noise in zip(block.layers, modulations, noises, strict=True)
        ]
        for first, last in ranges:
            h, origin = x[pictures], 0
            for conv0 in before:
                origin = max(first - 1, 0)
                h = conv0.rows(h, origin, min(last + 1, size))
            h = conv1.rows(h, first, last, origin)
            rgb[pictures, :, first:last] = block.rgb(h, kernels[pictures])
            if y is not None:
                y[pictures, :, first:last] = h
    return y, rgb


def _block_with_gradient(
    block: Block,
    x: Tensor,
    modulations: list[tuple[Tensor, Tensor]],
    noises: list[Tensor | None],
    kernels: Tensor,
) -> tuple[Tensor, Tensor]:
    for layer, modulation, noise in zip(block.layers, modulations, noises, strict=True):
        x = _Modulated.apply(x, *modulation, layer, noise)
    return x, block.rgb(x, kernels)


class _Modulated(torch.autograd.Function):
    """A layer of which input and output are kept, for gradients of its input and of its modulation."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, styles: Tensor, gain: Tensor, layer: Layer, noise: Tensor | None
    ) -> Tensor:
        size = layer.resolution
        y = empty((len(x), len(layer.bias), size, size), x)
        for pictures, ranges in _tiles(len(x), size, y.shape[1] * size * y.itemsize):
            bound = bind(layer, styles, gain, noise, pictures)
            for first, last in ranges:
                y[pictures, :, first:last] = bound.rows(x[pictures], first, last)
        ctx.layer, ctx.noise = layer, noise
        ctx.save_for_backward(x, styles, gain, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        layer, noise = ctx.layer, ctx.noise
        x, styles, gain, y = ctx.saved_tensors
        dx = empty(x.shape, x) if ctx.needs_input_grad[0] else None
        dstyles, dgain = torch.zeros_like(styles), torch.zeros_like(gain)
        bias = layer.bias.to(torch.float32)
        up, height = layer.up, x.shape[2]
        for pictures, ranges in _tiles(len(x), height, dy.shape[1] * up * dy.shape[3] * dy.itemsize):
            after = gain[pictures]
            few = layer.has_few_weights(len(after))
            kernel = layer.scaled(after) if few else layer.cast
            before, after = _per_channel(styles[pictures], layer), _per_channel(after, layer)
            for first, last in ranges:
                low, high = _output_rows(up, first, last)
                grad, out = (_take_rows(t[pictures], low, high) for t in (dy, y))
                if layer.clamp is not None:
                    grad = grad * (out.abs() < layer.clamp)
                du = torch.ops.aten.leaky_relu_backward(grad, out, SLOPE, True)

                # Of output = lrelu(gain * convolution + shift), homogeneous in what lrelu takes.
                own = slice(up * first - low, up * last - low)
                own_du = du[:, :, own]
                shift = bias * _sum_pixels(own_du)
                if noise is not None:
                    part = noise if len(noise) == 1 else noise[pictures]
                    shift = shift + _sum_pixels(own_du * part[:, :, up * first : up * last])
                dgain[pictures] += _sum_pixels(grad[:, :, own] * out[:, :, own]) - shift

                if not few:
                    du = du * after
                if layer.blur is None:
                    du = F.conv_transpose2d(du, kernel, padding=(2, 1))
                else:
                    du = F.conv2d(du, layer.blur, padding=(0, 2), groups=du.shape[1])
                    du = F.conv2d(du, kernel, stride=2)
                dstyles[pictures] += _sum_pixels(du * x[pictures, :, first:last])
                if dx is not None:
                    dx[pictures, :, first:last] = du.mul_(before)
        return dx, dstyles, dgain / gain, None, None


def _tiles(count: int, rows: int, row_bytes: int) -> Iterator[tuple[slice, list[tuple[int, int]]]]:
    """Cut `count` pictures of `rows` rows: (some pictures, ranges of rows), each pair about TILE_BYTES."""
    together = max(1, TILE_BYTES // (rows * row_bytes))
    step = max(1, TILE_BYTES // row_bytes)
    ranges = [(first, min(first + step, rows)) for first in range(0, rows, step)]
    for first in range(0, count, together):
        yield slice(first, min(first + together, count)), ranges


def _input_rows(up: int, first: int, last: int) -> tuple[int, int]:
    """The input rows on which a layer's output rows [first, last) depend; some lie outside the picture."""
    if up == 1:
        return first - 1, last + 1
    # The blur takes row r from rows r - 1 to r + 2 of the transposed convolution, which takes its row t from
    # rows t // 2 and, if t is even, t // 2 - 1.
    return first // 2 - 1, (last + 1) // 2 + 1


def _output_rows(up: int, first: int, last: int) -> tuple[int, int]:
    """The output rows that depend on a layer's input rows [first, last); some lie outside the picture."""
    return (first - 1, last + 1) if up == 1 else (2 * first - 2, 2 * last + 2)


def _take_rows(x: Tensor, first: int, last: int) -> Tensor:
    """x[:, :, first:last], with rows of zeros where that is outside."""
    above, below = max(-first, 0), max(last - x.shape[2], 0)
    inside = x[:, :, max(first, 0) : last]
    return F.pad(inside, (0, 0, above, below)) if above or below else inside


def _sum_pixels(x: Tensor) -> Tensor:
    return x.sum(dim=(2, 3), dtype=torch.float32)


def _per_channel(scale: Tensor, layer: Layer) -> Tensor:
    return scale.to(layer.cast.dtype)[:, :, None, None]


def _noise(layer: Layer, noise_mode: "NoiseMode", count: int) -> Tensor | None:
    if noise_mode == "random" or callable(noise_mode):
        size = layer.resolution
        noise = noise_mode(size) if callable(noise_mode) else torch.randn(count, 1, size, size)
        return (noise * (layer.noise_strength * GAIN)).to(layer.cast.dtype)
    return layer.noise if noise_mode == "const" else None

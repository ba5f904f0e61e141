"""MobileStyleGAN's synthesis with frozen weights on a CPU: the pictures of mobile.py, in less time.

The modules of mobile.py define what is computed; here only the order differs.

- Work is cut into rows of one picture whose intermediate values stay in the caches: a block's wavelet
  transform and both convolutions, and in the last block the colours too, run tile by tile, and only what the
  next block reads is written out.
- A layer's style scales its depthwise kernel, which has few numbers, instead of the activations.
- Channels are reordered once so that each subband is a contiguous part of a pixel.
- Gradients flow to `ws` alone. A tile's values are computed again for them, so that nothing but the blocks'
  inputs is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from stylegan2.layers import FullyConnectedLayer
from stylegan2.tiles import TILE_BYTES, empty, frozen_state, is_frozen_on_cpu

if TYPE_CHECKING:
    from stylegan2.config import NoiseMode
    from stylegan2.mobile import MobileBlock, MobileLayer, MobileSynthesis

SLOPE = 0.2
Noises = list[Tensor | None]  # of both layers of a block


@dataclass(frozen=True)
class Layer:
    """A MobileLayer above 4 px, ready to run.

    depthwise: [I, 1, 3, 3]. pointwise: [O, I, 1, 1]. flipped and transposed: these for gradients. bias: [O].
    noise: [1, 1, R, R], None where it has no strength.
    """

    affine: FullyConnectedLayer
    depthwise: Tensor
    pointwise: Tensor
    flipped: Tensor
    transposed: Tensor
    bias: Tensor
    noise: Tensor | None
    noise_strength: Tensor


@dataclass(frozen=True)
class Block:
    """A MobileBlock above 4 px, ready to run; the last one also has the colours."""

    resolution: int
    dtype: torch.dtype
    up_weight: Tensor
    up_bias: Tensor
    layers: tuple[Layer, Layer]
    colours: "Colours | None"


@dataclass(frozen=True)
class Colours:
    """A MobileToRGB, ready to run. weight: [4 * img_channels, C]."""

    affine: FullyConnectedLayer
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Styles:
    """What modulates one picture in a block: its input [4C], its convolutions [C] and [C'], colours [C']."""

    up: Tensor
    convolutions: tuple[Tensor, Tensor]
    colours: Tensor | None


def can_run(synthesis: "MobileSynthesis", ws: Tensor) -> bool:
    """Whether `synthesize` applies: a frozen network in float32 on a CPU, untraced, and a picture or more."""
    return is_frozen_on_cpu(synthesis, ws) and _dtype(synthesis) != torch.float16 and len(ws) > 0


def synthesize(synthesis: "MobileSynthesis", ws: Tensor, noise_mode: "NoiseMode") -> Tensor:
    """ws [N, num_ws, w_dim] -> pictures [N, img_channels, R, R], float32; differentiable once, in ws."""
    blocks = prepared(synthesis)
    with torch.autocast("cpu", enabled=False):
        noises = _draw_noises(blocks, noise_mode, len(ws))
        return torch.cat([_picture(synthesis, blocks, ws[i], noises, i) for i in range(len(ws))])


def prepared(synthesis: "MobileSynthesis") -> list[Block]:
    """The network's blocks above 4 px, ready to run; made anew only when a weight or the type has changed."""
    state = [_dtype(synthesis), frozen_state(synthesis)]
    if synthesis.prepared is None or synthesis.prepared[0] != state:
        # Whatever mode this is called in, the tensors serve calls that want gradients too.
        with torch.inference_mode(False), torch.no_grad():
            ready = [_prepare_block(synthesis, resolution) for resolution in synthesis.block_resolutions[1:]]
        synthesis.prepared = state, ready
    return synthesis.prepared[1]


def _dtype(synthesis: "MobileSynthesis") -> torch.dtype:
    """What the blocks compute in: autocast's type inside torch.autocast."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return synthesis.dtype(torch.device("cpu"))


def _prepare_block(synthesis: "MobileSynthesis", resolution: int) -> Block:
    block: MobileBlock = getattr(synthesis, f"b{resolution}")
    dtype, is_last = _dtype(synthesis), resolution == synthesis.block_resolutions[-1]
    affine, torgb = block.up_affine, synthesis.torgb
    return Block(
        resolution=resolution,
        dtype=dtype,
        # Half as much, as `_inverse_haar` gives twice its result; likewise in the colours.
        up_weight=_grouped(affine.weight * (affine.weight_gain / 2)),
        up_bias=_grouped(affine.bias * (affine.bias_gain / 2)),
        layers=(
            _prepare_layer(block.conv0, dtype, grouped=False),
            _prepare_layer(block.conv1, dtype, grouped=not is_last),
        ),
        colours=(
            Colours(torgb.affine, _grouped(torgb.weight[:, :, 0, 0] / 2), _grouped(torgb.bias / 2))
            if is_last
            else None
        ),
    )


def _prepare_layer(layer: "MobileLayer", dtype: torch.dtype, grouped: bool) -> Layer:
    """`grouped`: whether the output's channels are put in the order of subbands."""
    pointwise, bias = layer.pointwise.detach(), layer.bias.detach()
    if grouped:
        pointwise, bias = _grouped(pointwise), _grouped(bias)
    noise = (layer.noise_const * layer.noise_strength).to(dtype)[None, None]
    channels_last = torch.channels_last
    return Layer(
        affine=layer.affine,
        depthwise=layer.depthwise.detach(),
        pointwise=pointwise.to(dtype).contiguous(memory_format=channels_last),
        flipped=layer.depthwise.detach().flip(2, 3).to(dtype),
        transposed=pointwise.transpose(0, 1).to(dtype).contiguous(memory_format=channels_last),
        bias=bias.to(dtype),
        noise=noise if layer.noise_strength else None,
        noise_strength=layer.noise_strength,
    )


def _grouped(channels: Tensor, dim: int = 0) -> Tensor:
    """Channels as LL [C], then [C, 3] of LH, HL, HH -> LL [C], LH [C], HL [C], HH [C]."""
    low, details = channels.tensor_split([channels.shape[dim] // 4], dim=dim)
    details = details.unflatten(dim, (-1, 3)).transpose(dim, dim + 1).flatten(dim, dim + 1)
    return torch.cat([low, details], dim=dim)


def _draw_noises(blocks: list[Block], noise_mode: "NoiseMode", count: int) -> list[Tensor | bool]:
    """For each layer from 4 px up noise [N, 1, R, R], in the modules' order; or whether to use its own."""
    resolutions = [4, *(block.resolution for block in blocks for _ in block.layers)]
    if callable(noise_mode):
        return [noise_mode(resolution) for resolution in resolutions]
    if noise_mode == "random":
        return [torch.randn(count, 1, resolution, resolution) for resolution in resolutions]
    return [noise_mode == "const"] * len(resolutions)


def _picture(
    synthesis: "MobileSynthesis",
    blocks: list[Block],
    ws: Tensor,
    noises: list[Tensor | bool],
    index: int,
) -> Tensor:
    """The picture of ws [num_ws, w_dim], with row `index` of drawn noises."""
    first, *rest = [noise[index : index + 1] if isinstance(noise, Tensor) else noise for noise in noises]
    if isinstance(first, Tensor):
        x = synthesis.start(ws[None], lambda _: first)
    else:
        x = synthesis.start(ws[None], "const" if first else "none")
    x = _grouped(x, dim=1)
    for number, block in enumerate(blocks):
        first_w, second_w = ws[2 * number + 1], ws[2 * number + 2]
        own = [
            _noise(layer, noise)
            for layer, noise in zip(block.layers, rest[2 * number : 2 * number + 2], strict=True)
        ]
        up = F.linear(first_w, block.up_weight, block.up_bias)
        conv0, conv1 = (
            layer.affine(w[None])[0] for layer, w in zip(block.layers, (first_w, second_w), strict=True)
        )
        colours = block.colours.affine(ws[-1:])[0] if block.colours is not None else None
        x = x.to(block.dtype).contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() and ws.requires_grad:
            x = _BlockWithGradient.apply(x, up, conv0, conv1, colours, block, own)
        else:
            x = _run(block, x, Styles(up, (conv0, conv1), colours), own)
    return x


def _noise(layer: Layer, noise: Tensor | bool) -> Tensor | None:
    if isinstance(noise, Tensor):
        return (noise * layer.noise_strength).to(layer.pointwise.dtype)
    return layer.noise if noise else None


def _run(block: Block, x: Tensor, styles: Styles, noises: Noises) -> Tensor:
    """x [1, 4C, R/2, R/2] -> the block's features [1, C', R, R]; of the last, the picture [1, c, 2R, 2R]."""
    size = block.resolution
    kernels = _scaled_kernels(block, styles)
    if block.colours is None:
        out = empty((1, len(block.layers[1].bias), size, size), x)
    else:
        out = torch.empty(1, len(block.colours.bias) // 4, 2 * size, 2 * size)
    for first, last in _ranges(block):
        *_, h = _rows(block, x, styles, kernels, noises, first, last)
        if block.colours is None:
            out[:, :, first:last] = h
        else:
            out[:, :, 2 * first : 2 * last] = _inverse_haar(_subbands(block.colours, h, styles.colours))
    return out


def _scaled_kernels(block: Block, styles: Styles) -> list[Tensor]:
    """The depthwise kernels of both layers, times their styles."""
    return [
        (layer.depthwise * style[:, None, None, None]).to(block.dtype)
        for layer, style in zip(block.layers, styles.convolutions, strict=True)
    ]


def _ranges(block: Block) -> Iterator[tuple[int, int]]:
    """Ranges of rows, of even bounds, whose widest features take about TILE_BYTES."""
    row = max(len(layer.bias) for layer in block.layers) * block.resolution * block.dtype.itemsize
    step = max(2, TILE_BYTES // row // 2 * 2)
    for first in range(0, block.resolution, step):
        yield first, min(first + step, block.resolution)


def _rows(
    block: Block, x: Tensor, styles: Styles, kernels: list[Tensor], noises: Noises, first: int, last: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What output rows [first, last) come from: rows of x, of its transform, and of both convolutions.

    Each layer needs one row more on either side than the one after it.
    """
    size = block.resolution
    below, above = max(first // 2 - 1, 0), min(last // 2 + 1, size // 2)
    rows = x[:, :, below:above]
    found = [rows, _inverse_haar(rows * styles.up.to(x.dtype)[:, None, None])]
    low = 2 * below
    for layer, kernel, noise, halo in zip(block.layers, kernels, noises, (1, 0), strict=True):
        start, stop = max(first - halo, 0), min(last + halo, size)
        h = F.conv2d(found[-1], kernel, padding=1, groups=len(kernel))[:, :, start - low : stop - low]
        h = F.conv2d(h, layer.pointwise, layer.bias)
        if noise is not None:
            h.add_(noise[:, :, start:stop])
        found.append(F.leaky_relu_(h, SLOPE))
        low = start
    return found[0], found[1], found[2], found[3]


def _subbands(colours: Colours, h: Tensor, style: Tensor | None) -> Tensor:
    """[1, C, rows, R] -> the picture's subbands [1, 4c, rows, R], float32, channels_last."""
    assert style is not None
    kernel = (colours.weight * style).to(h.dtype)
    subbands = h.permute(0, 2, 3, 1) @ kernel.mT
    return (subbands.to(torch.float32) + colours.bias).permute(0, 3, 1, 2)


def _inverse_haar(x: Tensor) -> Tensor:
    """[1, 4C, H, W], channels_last, subband by subband -> [1, C, 2H, 2W], channels_last, times 2."""
    _, channels, height, width = x.shape
    low, lh, hl, hh = x.permute(0, 2, 3, 1)[0].unflatten(2, (4, channels // 4)).unbind(dim=2)
    top, bottom, plus, minus = low + lh, low - lh, hl + hh, hl - hh
    out = x.new_empty(height, 2, width, 2, channels // 4)
    torch.add(top, plus, out=out[:, 0, :, 0])
    torch.sub(top, plus, out=out[:, 0, :, 1])
    torch.add(bottom, minus, out=out[:, 1, :, 0])
    torch.sub(bottom, minus, out=out[:, 1, :, 1])
    return out.reshape(1, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def _haar(x: Tensor) -> Tensor:
    """The transpose of `_inverse_haar`: [1, C, 2H, 2W] -> [1, 4C, H, W], both channels_last."""
    _, channels, height, width = x.shape
    (a, b), (c, d) = (
        rows.unbind(dim=2)
        for rows in x.permute(0, 2, 3, 1).reshape(height // 2, 2, width // 2, 2, channels).unbind(dim=1)
    )
    top, bottom, plus, minus = a + b, c + d, a - b, c - d
    out = x.new_empty(height // 2, width // 2, 4, channels)
    torch.add(top, bottom, out=out[:, :, 0])
    torch.sub(top, bottom, out=out[:, :, 1])
    torch.add(plus, minus, out=out[:, :, 2])
    torch.sub(plus, minus, out=out[:, :, 3])
    return out.reshape(1, height // 2, width // 2, 4 * channels).permute(0, 3, 1, 2)


class _BlockWithGradient(torch.autograd.Function):
    """A block of which only the input is kept, for gradients of its input and of its styles."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up: Tensor,
        conv0: Tensor,
        conv1: Tensor,
        colours: Tensor | None,
        block: Block,
        noises: Noises,
    ) -> Tensor:
        ctx.block, ctx.noises = block, noises
        ctx.save_for_backward(x, up, conv0, conv1, colours)
        return _run(block, x, Styles(up, (conv0, conv1), colours), noises)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, None, None]:
        block, noises = ctx.block, ctx.noises
        x, up, conv0, conv1, colours = ctx.saved_tensors
        styles = Styles(up, (conv0, conv1), colours)
        kernels = _scaled_kernels(block, styles)
        dx = torch.zeros_like(x)
        dup, d0, d1 = (torch.zeros_like(style) for style in (up, conv0, conv1))
        dcolours = None if colours is None else torch.zeros_like(colours)
        for first, last in _ranges(block):
            rows, u, a0, a1 = _rows(block, x, styles, kernels, noises, first, last)
            if block.colours is None or colours is None or dcolours is None:
                grad = dy[:, :, first:last]
            else:
                grad = _haar(dy[:, :, 2 * first : 2 * last]).permute(0, 2, 3, 1) @ block.colours.weight
                grad = grad.permute(0, 3, 1, 2)
                dcolours.add_(_sum_products(grad, a1))
                grad = (grad * colours[:, None, None]).to(block.dtype)
            start, stop = first, last
            for layer, before, after, style, dstyle in (
                (block.layers[1], a0, a1, conv1, d1),
                (block.layers[0], u, a0, conv0, d0),
            ):
                grad = torch.ops.aten.leaky_relu_backward(grad, after, SLOPE, True)
                grad, start, stop = _separable_backward(layer, grad, start, stop, block.resolution)
                dstyle.add_(_sum_products(grad, before))
                grad = grad * style.to(grad.dtype)[:, None, None]
            grad = _haar(grad)
            dup += _sum_products(grad, rows)
            dx[:, :, start // 2 : stop // 2] += grad * up.to(grad.dtype)[:, None, None]
        return dx, dup, d0, d1, dcolours, None, None


def _separable_backward(
    layer: Layer, grad: Tensor, start: int, stop: int, size: int
) -> tuple[Tensor, int, int]:
    """The gradient of a layer's modulated input, and its rows, from that of its rows [start, stop)."""
    grad = F.conv2d(grad, layer.transposed)
    low, high = max(start - 1, 0), min(stop + 1, size)
    grad = F.conv2d(grad, layer.flipped, padding=(2, 1), groups=len(layer.flipped))
    return grad[:, :, low - (start - 1) : high - (start - 1)], low, high


def _sum_products(a: Tensor, b: Tensor) -> Tensor:
    """[1, C, H, W] twice -> the sums [C] of their products over all pixels, in float32."""
    return (a * b).sum(dim=(0, 2, 3), dtype=torch.float32)

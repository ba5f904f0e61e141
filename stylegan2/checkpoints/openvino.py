"""MobileStyleGAN as OpenVINO's intermediate representation (IR, version 10): two networks in one folder.

    MappingNetwork.xml, .bin      z -> w
    SynthesisNetwork.xml, .bin    w -> picture

Nothing in them is run: a graph of layers (openvino_graph.py) is followed from its result back to its input,
each layer must be what MobileStyleGAN has there (whatever its name or number), and the constants on the way
are the weights. Any other graph is refused.
"""

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylegan2.checkpoints.checkpoint import Checkpoint
from stylegan2.checkpoints.mobilestylegan import AVERAGED_LATENTS, mobile_config
from stylegan2.checkpoints.openvino_graph import TYPES, Graph, Layer, read_sizes
from stylegan2.checkpoints.pickles import CheckpointError
from stylegan2.config import LARGEST
from stylegan2.files import check_finite

MAPPING, SYNTHESIS = "MappingNetwork.xml", "SynthesisNetwork.xml"
# Layers that only say how the numbers of their first input are arranged.
SHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Broadcast", "Tile")
HAAR = math.sqrt(0.5)


def recognise(head: bytes) -> bool:
    """Whether a file that begins so is an XML other than a web page."""
    return (
        re.match(rb"(\xef\xbb\xbf)?\s*<(\?xml|net)[\s>]", head) is not None and b"<html" not in head.lower()
    )


def read(path: Path) -> Checkpoint:
    """The generator of whose two networks `path` is the XML of one. Raises CheckpointError."""
    folder = path.parent
    for name in (MAPPING, SYNTHESIS):
        for file in (folder / name, (folder / name).with_suffix(".bin")):
            if not file.is_file():
                raise CheckpointError(
                    f"OpenVINO's form of a generator is {MAPPING} and {SYNTHESIS}, each with its .bin; "
                    f"{file.name} is not there"
                )
    tensors = _mapping(Graph.read(folder / MAPPING)) | _synthesis(Graph.read(folder / SYNTHESIS))
    check_finite(tensors)
    note = f"the files have no mean latent; estimated from {AVERAGED_LATENTS:,} latents (seed 0)"
    return Checkpoint(
        "openvino", mobile_config(tensors), tensors, notes=(note,), averaged_latents=AVERAGED_LATENTS
    )


# What MobileStyleGAN is made of, matched from the end back to the input.


def _skip_shaping(layer: Layer) -> Layer:
    while layer.type in SHAPING and layer.inputs:
        layer = layer.inputs[0][0]
    return layer


def _operands(graph: Graph, layer: Layer, kind: str, what: str) -> tuple[Layer, np.ndarray]:
    """(other input, constant) of a layer of two inputs, one of them a constant, in either order."""
    layer = _skip_shaping(layer)
    inputs = [_skip_shaping(source) for source, _ in layer.inputs]
    if layer.type != kind or len(inputs) < 2:
        raise graph.refuse(what, layer)
    for constant, other in (inputs[1::-1], inputs[:2]):
        if constant.value is not None and constant.value.dtype == TYPES["f32"] and other.value is None:
            return other, constant.value
    raise graph.refuse(f"{what} with a constant", layer)


def _leaky_relu(graph: Graph, layer: Layer) -> Layer:
    before, slope = _operands(graph, layer, "PReLU", "a leaky ReLU")
    if slope.size != 1 or not math.isclose(float(slope.item()), 0.2, rel_tol=1e-5):
        raise graph.refuse("a leaky ReLU of slope 0.2", layer)
    return before


def _tensor(values: np.ndarray, *shape: int | None) -> Tensor:
    """A constant as a new tensor of this shape, in which None is any size."""
    sizes = [size for size in values.shape if size != 1] if values.ndim > len(shape) else list(values.shape)
    sizes = list(values.shape) if len(sizes) != len(shape) else sizes
    fits = len(sizes) == len(shape) and all(w in (None, s) for s, w in zip(sizes, shape, strict=True))
    if not fits or max(sizes, default=0) > LARGEST:
        raise CheckpointError(f"a constant of shape {list(values.shape)} where {list(shape)} was expected")
    return torch.from_numpy(values.reshape(sizes).copy())


def _linear(graph: Graph, layer: Layer, what: str) -> tuple[Layer, Tensor, Tensor]:
    """(input, weight [O, I], bias [O]) of x @ weight.T + bias."""
    product, bias = _operands(graph, layer, "Add", f"{what}'s bias")
    before, weight = _operands(graph, product, "MatMul", f"{what}'s product")
    if (product.data.get("transpose_a"), product.data.get("transpose_b")) != ("false", "true"):
        raise graph.refuse(f"{what}'s product", product)
    weights = _tensor(weight, None, None)
    return before, weights, _tensor(bias.reshape(-1), len(weights))


def _mapping(graph: Graph) -> dict[str, Tensor]:
    """Linear layers with leaky ReLU and gain sqrt(2), after a division by the root mean square."""
    found: list[tuple[Tensor, Tensor]] = []
    layer = graph.end
    while _skip_shaping(layer).type == "Multiply" and _has_constant(_skip_shaping(layer)):
        before, gain = _operands(graph, layer, "Multiply", "a gain")
        if gain.size != 1 or not math.isclose(float(gain.item()), math.sqrt(2), rel_tol=1e-5):
            raise graph.refuse("a gain of the square root of 2", layer)
        layer, weight, bias = _linear(graph, _leaky_relu(graph, before), "a fully connected layer")
        found.append((weight, bias))
    _check_normalization(graph, layer)
    if not found:
        raise graph.refuse("fully connected layers", layer)
    tensors = {}
    for index, (weight, bias) in enumerate(reversed(found)):
        # A mapping network's own layers scale their weights at run time (layers.FullyConnectedLayer).
        tensors[f"mapping.fc{index}.weight"] = weight * (math.sqrt(weight.shape[1]) / 0.01)
        tensors[f"mapping.fc{index}.bias"] = bias / 0.01
    return tensors


def _has_constant(layer: Layer) -> bool:
    return any(_skip_shaping(source).value is not None for source, _ in layer.inputs)


def _check_normalization(graph: Graph, layer: Layer) -> None:
    """z * (mean(z^2) + 1e-8)^-1/2, the power written as one or as several."""
    layer = _skip_shaping(layer)
    if layer.type != "Multiply" or len(layer.inputs) != 2 or layer.inputs[0][0] is not graph.start:
        raise graph.refuse("a division by the root mean square", layer)
    exponent, root = 1.0, layer.inputs[1][0]
    while root.type in ("Power", "Multiply"):
        kind = root.type
        root, value = _operands(graph, root, kind, "a power")
        number = float(value.item()) if value.size == 1 else math.nan
        if kind == "Power":
            exponent *= number
        elif number != 1:
            raise graph.refuse("a reciprocal root mean square", layer)
    mean, epsilon = _operands(graph, root, "Add", "an epsilon")
    if exponent != -0.5 or epsilon.size != 1 or not 0 <= float(epsilon.item()) < 1e-6:
        raise graph.refuse("a reciprocal root mean square", root)
    if mean.type != "ReduceMean" or len(mean.inputs) != 2:
        raise graph.refuse("a mean", mean)
    square, power = _operands(graph, mean.inputs[0][0], "Power", "a square")
    if square is not graph.start or power.size != 1 or float(power.item()) != 2:
        raise graph.refuse("the square of the input", square)


def _synthesis(graph: Graph) -> dict[str, Tensor]:
    """From the picture back to the constant, the finest block first."""
    tensors: dict[str, Tensor] = {}
    subbands = _inverse_haar(graph, graph.end)
    layer, bias = _operands(graph, subbands, "Add", "the bias of the colours")
    layer, weight = _convolution(graph, layer, "Convolution", size=1)
    tensors |= {
        "synthesis.torgb.weight": weight,
        "synthesis.torgb.bias": _tensor(bias.reshape(-1), len(weight)),
    }
    layer = _modulation(graph, layer, "synthesis.torgb.affine", weight.shape[1], tensors)
    blocks: list[dict[str, Tensor]] = []
    while True:
        own: dict[str, Tensor] = {}
        blocks.append(own)
        layer = _convolution_layer(graph, layer, "conv1", own)
        if "conv1.weight" in own:
            break
        layer = _convolution_layer(graph, layer, "conv0", own)
        layer = _inverse_haar(graph, layer)
        layer = _modulation(graph, layer, "up_affine", 4 * own["conv0.depthwise"].shape[0], own)
        if len(blocks) > 16:
            raise graph.refuse("the constant at 4 px", layer)
    constant = _skip_shaping(layer)
    if constant.value is None:
        raise graph.refuse("the constant at 4 px", constant)
    own["const"] = _tensor(constant.value, None, 4, 4)
    for index, found in enumerate(reversed(blocks)):
        tensors |= {f"synthesis.b{4 * 2**index}.{name}": tensor for name, tensor in found.items()}
    return tensors


def _convolution_layer(graph: Graph, layer: Layer, name: str, tensors: dict[str, Tensor]) -> Layer:
    """A modulated convolution with noise, bias and leaky ReLU; returns what goes in."""
    layer, first = _operands(graph, _leaky_relu(graph, layer), "Add", "a bias")
    layer, second = _operands(graph, layer, "Add", "noise")
    noise, bias = (second, first) if first.shape[-1] == 1 else (first, second)
    if _skip_shaping(layer).type == "Convolution" and _is_pointwise(layer):
        layer, tensors[f"{name}.pointwise"] = _convolution(graph, layer, "Convolution", size=1)
        layer, tensors[f"{name}.depthwise"] = _convolution(graph, layer, "GroupConvolution", size=3)
        channels, width = tensors[f"{name}.depthwise"].shape[0], len(tensors[f"{name}.pointwise"])
    else:
        layer, tensors[f"{name}.weight"] = _convolution(graph, layer, "Convolution", size=3)
        width, channels = tensors[f"{name}.weight"].shape[:2]
    tensors[f"{name}.bias"] = _tensor(bias.reshape(-1), width)
    field_ = _tensor(noise, None, None)
    # Stored is the product of a strength and of noise with a deviation of about 1.
    strength = field_.std() if field_.std() > 0 else torch.tensor(0.0)
    tensors[f"{name}.noise_strength"] = strength
    tensors[f"{name}.noise_const"] = field_ / strength if strength > 0 else field_
    return _modulation(graph, layer, f"{name}.affine", channels, tensors)


def _is_pointwise(layer: Layer) -> bool:
    kernels = [source.value for source, _ in _skip_shaping(layer).inputs if source.value is not None]
    return len(kernels) == 1 and kernels[0].shape[-2:] == (1, 1)


def _convolution(graph: Graph, layer: Layer, kind: str, size: int) -> tuple[Layer, Tensor]:
    """(input, kernels) of a convolution that keeps the picture's size."""
    layer = _skip_shaping(layer)
    before, kernel = _operands(graph, layer, kind, f"a convolution of {size}x{size}")
    pad = size // 2
    wanted = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": [pad] * 2, "pads_end": [pad] * 2}
    if any(read_sizes(layer.data.get(name, "")) != value for name, value in wanted.items()):
        raise graph.refuse(f"a convolution of {size}x{size} that keeps the size", layer)
    if kind == "GroupConvolution":  # [groups, 1, 1, 3, 3]
        if kernel.ndim != 5 or kernel.shape[1:3] != (1, 1):
            raise graph.refuse("a convolution of each channel by itself", layer)
        return before, _tensor(kernel[:, 0], None, 1, size, size)
    return before, _tensor(kernel, None, None, size, size)


def _modulation(graph: Graph, layer: Layer, name: str, channels: int, tensors: dict[str, Tensor]) -> Layer:
    """x * scale * (A w + b); returns x."""
    layer = _skip_shaping(layer)
    if layer.type != "Multiply" or len(layer.inputs) != 2:
        raise graph.refuse("a modulation by the style", layer)
    before, style = (source for source, _ in layer.inputs)
    if _is_style(before):
        before, style = style, before
    style, scale = _skip_shaping(style), 1.0
    if style.type == "Multiply":
        style, factor = _operands(graph, style, "Multiply", "a style's scale")
        scale = float(factor.item()) if factor.size == 1 else math.nan
    start, weight, bias = _linear(graph, style, "a style")
    if start is not graph.start or len(bias) != channels or not math.isfinite(scale):
        raise graph.refuse(f"a style of {channels} channels", style)
    tensors[f"{name}.weight"] = weight * (scale * math.sqrt(weight.shape[1]))  # as for the mapping network
    tensors[f"{name}.bias"] = bias * scale
    return before


def _is_style(layer: Layer) -> bool:
    """Whether a linear layer, scaled or not, is what this comes from."""
    layer = _skip_shaping(layer)
    for kind in ("Multiply", "Add"):
        if layer.type == kind and _has_constant(layer):
            layer = next(
                (_skip_shaping(each) for each, _ in layer.inputs if _skip_shaping(each).value is None), layer
            )
    return layer.type == "MatMul"


def _inverse_haar(graph: Graph, layer: Layer) -> Layer:
    """A sum of transposed convolutions with Haar's filters over four subbands; returns these together.

    The subbands are the first quarter of the channels, and the rest as [C, 3].
    """
    leaves = _haar_leaves(graph, layer)
    # The signs over width and height of the means, and of LH, HL and HH.
    wanted = {(1, 1): None, (1, -1): 0, (-1, 1): 1, (-1, -1): 2}
    parts: set[int | None] = set()
    split: Layer | None = None
    for signs, source in leaves:
        part = wanted[signs[0], signs[1]]
        split = _subband(graph, source, part, split)
        parts.add(part)
    if len(leaves) != 4 or len(parts) != 4 or split is None:
        raise graph.refuse("an inverse wavelet transform of four subbands", layer)
    return split.inputs[0][0]


def _haar_leaves(
    graph: Graph, layer: Layer, signs: tuple[int, ...] = ()
) -> list[tuple[tuple[int, ...], tuple[Layer, int]]]:
    """(signs of the filters over width and height, source) of each subband."""
    layer = _skip_shaping(layer)
    if layer.type != "Add" or len(layer.inputs) != 2:
        raise graph.refuse("the sum of an inverse wavelet transform", layer)
    leaves = []
    for source, _ in layer.inputs:
        upsampling = _skip_shaping(source)
        values = [each.value for each, _ in upsampling.inputs if each.value is not None]
        along = [1, 2] if not signs else [2, 1]
        if (
            upsampling.type != "GroupConvolutionBackpropData"
            or len(values) != 1
            or read_sizes(upsampling.data.get("strides", "")) != along
            or any(
                read_sizes(upsampling.data.get(name, "0, 0")) != [0, 0] for name in ("pads_begin", "pads_end")
            )
            or values[0].shape[1:] != ((1, 1, 1, 2) if not signs else (1, 1, 2, 1))
        ):
            raise graph.refuse("Haar's filters", upsampling)
        taps = values[0].reshape(-1, 2)
        sign = -1 if taps.size and taps[0, 1] < 0 else 1
        if not np.allclose(taps, [HAAR, sign * HAAR], atol=1e-6):
            raise graph.refuse("Haar's filters", upsampling)
        if not signs:
            leaves += _haar_leaves(graph, upsampling.inputs[0][0], (sign,))
        else:
            leaves.append(((*signs, sign), upsampling.inputs[0]))
    return leaves


def _subband(graph: Graph, source: tuple[Layer, int], part: int | None, known: Layer | None) -> Layer:
    """The split of all channels from which subband `part` comes: None the means, else one of the details."""
    layer, port = source
    while layer.type in SHAPING:
        layer, port = layer.inputs[0]
    if part is not None:
        if port != part or _split_sizes(layer, axis=2) != [1, 1, 1]:
            raise graph.refuse("the details of a wavelet transform", layer)
        layer, port = layer.inputs[0]
        while layer.type in SHAPING:
            layer, port = layer.inputs[0]
    sizes = _split_sizes(layer, axis=1)
    if len(sizes) != 2 or sizes[1] not in (3 * sizes[0], -1) or port != (part is not None):
        raise graph.refuse("the subbands of a wavelet transform", layer)
    if known is not None and layer is not known:
        raise graph.refuse("subbands of the same features", layer)
    return layer


def _split_sizes(layer: Layer, axis: int) -> list[int]:
    """The sizes of the parts that a layer splits its input into along `axis`; none where it does not."""
    values = [source.value for source, _ in layer.inputs[1:]]
    if layer.type != "VariadicSplit" or len(values) != 2 or values[0] is None or values[1] is None:
        return []
    return [int(size) for size in values[1].reshape(-1)[:4]] if values[0].tolist() in (axis, [axis]) else []

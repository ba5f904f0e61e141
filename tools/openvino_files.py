"""A mobile generator in OpenVINO's form (IR, version 10), as its package has it, for tests.

The graphs are written for a batch of one, as OpenVINO's converter wrote them in 2021.
"""

from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from stylegan2 import Generator
from stylegan2.layers import FullyConnectedLayer
from stylegan2.mobile import MobileBlock, MobileLayer, MobileSynthesis

Port = tuple[int, int]  # (layer, which of its outputs)
TYPES = {"float32": "f32", "int64": "i64"}


def write_openvino(generator: Generator, folder: Path) -> Path:
    """Write the four files of a mobile generator into `folder`, which is made if need be, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(_mapping(generator), folder / "MappingNetwork.xml")
    _write(_synthesis(generator), folder / "SynthesisNetwork.xml")
    return folder


@dataclass
class _Network:
    """A graph as it grows: XML elements, edges and the constants' bytes."""

    name: str
    layers: list[ElementTree.Element] = field(default_factory=list)
    edges: list[tuple[Port, Port]] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)

    def add(self, kind: str, *inputs: Port, outputs: int = 1, **data: object) -> Port:
        """A layer; its ports are numbered through, inputs first."""
        index = len(self.layers)
        layer = ElementTree.Element(
            "layer", {"id": str(index), "name": f"{kind}_{index}", "type": kind, "version": "opset1"}
        )
        if data:
            ElementTree.SubElement(layer, "data", {name: str(value) for name, value in data.items()})
        for name, first, count in (("input", 0, len(inputs)), ("output", len(inputs), outputs)):
            if count:
                ports = ElementTree.SubElement(layer, name)
                for port in range(first, first + count):
                    ElementTree.SubElement(ports, "port", {"id": str(port)})
        self.layers.append(layer)
        for port, source in enumerate(inputs):
            self.edges.append((source, (index, port)))
        return index, len(inputs)

    def constant(self, values: Tensor | np.ndarray) -> Port:
        array = np.asarray(values.detach() if isinstance(values, Tensor) else values)
        offset = len(self.weights)
        self.weights += array.tobytes()
        shape = ", ".join(map(str, array.shape))
        element_type = TYPES[array.dtype.name]
        return self.add("Const", element_type=element_type, shape=shape, offset=offset, size=array.nbytes)

    def reshape(self, source: Port, *shape: int) -> Port:
        return self.add("Reshape", source, self.constant(np.array(shape)), special_zero="true")

    def multiply(self, source: Port, factor: float, *shape: int) -> Port:
        return self.add("Multiply", source, self.constant(torch.full(shape or (1, 1), factor)))

    def leaky_relu(self, source: Port) -> Port:
        return self.add("PReLU", source, self.constant(torch.tensor([0.2])))

    def linear(self, source: Port, weight: Tensor, bias: Tensor) -> Port:
        product = self.add("MatMul", source, self.constant(weight), transpose_a="false", transpose_b="true")
        return self.add("Add", product, self.constant(bias[None]))

    def affine(self, w: Port, layer: FullyConnectedLayer) -> Port:
        weight = layer.weight * layer.weight_gain
        return self.reshape(self.linear(w, weight, layer.bias), 1, len(weight), 1, 1)

    def convolve(self, source: Port, kernel: Tensor, kind: str = "Convolution") -> Port:
        pads = f"{kernel.shape[-1] // 2}, {kernel.shape[-1] // 2}"
        ones = "1, 1"
        return self.add(
            kind, source, self.constant(kernel), strides=ones, dilations=ones, pads_begin=pads, pads_end=pads
        )

    def inverse_haar(self, source: Port, channels: int) -> Port:
        """[1, 4 * channels, H, W] -> [1, channels, 2H, 2W]."""
        sizes = self.constant(np.array([channels, 3 * channels]))
        low, port = self.add("VariadicSplit", source, self.constant(np.array(1)), sizes, outputs=2)
        details = self.reshape((low, port + 1), 1, channels, 3, 0, 0)
        axis, thirds = self.constant(np.array(2)), self.constant(np.array([1, 1, 1]))
        split, first = self.add("VariadicSplit", details, axis, thirds, outputs=3)
        lh, hl, hh = (self.add("Squeeze", (split, first + part), axis) for part in range(3))
        halves = []
        for even, odd in (((low, port), lh), (hl, hh)):
            columns = [self._upsample(even, 1, "2, 1", channels), self._upsample(odd, -1, "2, 1", channels)]
            halves.append(self.add("Add", *columns))
        rows = [
            self._upsample(half, sign, "1, 2", channels) for half, sign in zip(halves, (1, -1), strict=True)
        ]
        return self.add("Add", *rows)

    def _upsample(self, source: Port, sign: int, strides: str, channels: int) -> Port:
        taps = torch.tensor([1.0, sign]) * 0.5**0.5
        shape = (1, 1, 1, 2, 1) if strides == "2, 1" else (1, 1, 1, 1, 2)
        kernel = taps.reshape(shape).repeat(channels, 1, 1, 1, 1)
        return self.add(
            "GroupConvolutionBackpropData",
            source,
            self.constant(kernel),
            strides=strides,
            pads_begin="0, 0",
            pads_end="0, 0",
        )


def _mapping(generator: Generator) -> _Network:
    network = _Network("MappingNetwork")
    z = network.add("Parameter", shape="1, 512", element_type="f32")
    square = network.add("Power", z, network.constant(torch.full((1, 1), 2.0)))
    mean = network.add("ReduceMean", square, network.constant(np.array([1])), keep_dims="true")
    shifted = network.add("Add", mean, network.constant(torch.full((1, 1), 1e-8)))
    root = network.add("Power", shifted, network.constant(torch.full((1, 1), 0.5)))
    inverse = network.add("Power", root, network.constant(torch.full((1, 1), -1.0)))
    x = network.add("Multiply", z, inverse)
    for index in range(generator.config.mapping_layers):
        layer = getattr(generator.mapping, f"fc{index}")
        x = network.linear(x, layer.weight * layer.weight_gain, layer.bias * layer.bias_gain)
        x = network.multiply(network.leaky_relu(x), 2**0.5)
    network.add("Result", x, outputs=0)
    return network


def _synthesis(generator: Generator) -> _Network:
    network, synthesis = _Network("SynthesisNetwork"), generator.synthesis
    assert isinstance(synthesis, MobileSynthesis)
    w = network.add("Parameter", shape="1, 512", element_type="f32")
    x = network.constant(synthesis.b4.const[None])
    for resolution in synthesis.block_resolutions:
        block: MobileBlock = getattr(synthesis, f"b{resolution}")
        if not block.is_first:
            x = network.add("Multiply", x, network.affine(w, block.up_affine))
            x = network.inverse_haar(x, len(block.conv0.depthwise))
            x = _layer(network, x, w, block.conv0)
        x = _layer(network, x, w, block.conv1)
    torgb = synthesis.torgb
    x = network.add("Multiply", x, network.affine(w, torgb.affine))
    x = network.convolve(x, torgb.weight)
    x = network.add("Add", x, network.constant(torgb.bias[None, :, None, None]))
    network.add("Result", network.inverse_haar(x, len(torgb.bias) // 4), outputs=0)
    return network


def _layer(network: _Network, x: Port, w: Port, layer: MobileLayer) -> Port:
    x = network.add("Multiply", network.affine(w, layer.affine), x)
    if layer.is_separable:
        x = network.convolve(x, layer.depthwise[:, None], "GroupConvolution")
        x = network.convolve(x, layer.pointwise)
    else:
        x = network.convolve(x, layer.weight)
    x = network.add("Add", x, network.constant((layer.noise_const * layer.noise_strength)[None, None]))
    return network.leaky_relu(network.add("Add", x, network.constant(layer.bias[None, :, None, None])))


def _write(network: _Network, path: Path) -> None:
    root = ElementTree.Element("net", {"name": network.name, "version": "10"})
    layers, edges = ElementTree.SubElement(root, "layers"), ElementTree.SubElement(root, "edges")
    layers.extend(network.layers)
    for (source, port), (target, place) in network.edges:
        names = {"from-layer": source, "from-port": port, "to-layer": target, "to-port": place}
        ElementTree.SubElement(edges, "edge", {name: str(value) for name, value in names.items()})
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    path.with_suffix(".bin").write_bytes(network.weights)

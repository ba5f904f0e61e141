"""A network in OpenVINO's intermediate representation (IR): its XML and .bin as a graph of layers.

The XML describes layers and the edges between them, and ties constants to ranges of the .bin. Nothing is run.
"""

import math
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from stylegan2.checkpoints.pickles import CheckpointError, printable

MAX_XML = 2**24  # bytes
MAX_LAYERS = 20_000
MAX_DIMENSIONS = 8
TYPES = {"f32": np.dtype("<f4"), "f64": np.dtype("<f8"), "i32": np.dtype("<i4"), "i64": np.dtype("<i8")}


@dataclass(frozen=True)
class Layer:
    """One layer: its inputs are (layer, port) pairs in order; `value` is a constant's."""

    type: str
    data: Mapping[str, str]
    inputs: "list[tuple[Layer, int]]" = field(default_factory=list, repr=False)
    value: np.ndarray | None = None


@dataclass(frozen=True)
class Graph:
    """A network: `end` is what goes into its one result, `start` its one input. `file` names it in errors."""

    file: str
    start: Layer
    end: Layer

    @classmethod
    def read(cls, path: Path) -> "Graph":
        """Read a network's XML and the .bin beside it. Raises CheckpointError."""
        try:
            return cls(path.name, *_read_layers(path))
        except CheckpointError as error:
            raise CheckpointError(f"{path.name}: {error}") from error

    def refuse(self, expected: str, layer: Layer) -> CheckpointError:
        """The error for a layer that stands where another was expected."""
        return CheckpointError(
            f"{self.file}: not MobileStyleGAN's network: {expected} was expected, "
            f"found {printable(layer.type)}; no other network in this form is read"
        )


class _NoDocumentType(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise CheckpointError("has a document type, which no network needs; it is refused")


def _read_layers(path: Path) -> tuple[Layer, Layer]:
    """(input, what goes into the result) of a network's XML and .bin."""
    if path.stat().st_size > MAX_XML:
        raise CheckpointError(f"{path.stat().st_size:,} bytes; no generator's network is so large")
    try:
        parser = ElementTree.XMLParser(target=_NoDocumentType())
        parser.feed(path.read_bytes())
        root = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"not readable as XML ({error}); get it again") from error
    if root.tag != "net":
        raise CheckpointError(f"an XML of {printable(root.tag)!r}, not a network of OpenVINO")
    if root.get("version") not in ("10", "11"):
        raise CheckpointError(
            f"version {root.get('version', 'unknown')!a:.20} of the form; 10 and 11 are read"
        )
    weights = path.with_suffix(".bin")
    with weights.open("rb") as file:
        size = weights.stat().st_size
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    layers: dict[str, Layer] = {}
    for element in root.iterfind("layers/layer"):
        if len(layers) >= MAX_LAYERS:
            raise CheckpointError(f"more than {MAX_LAYERS:,} layers; no generator has so many")
        kind, attributes = element.get("type", ""), element.find("data")
        described = {} if attributes is None else dict(attributes.attrib)
        value = _constant(described, data, element.get("name", "")) if kind == "Const" else None
        identity = element.get("id", "")
        if identity in layers:
            raise CheckpointError(f"two layers have the id {identity!a:.20}; get it again")
        layers[identity] = Layer(kind, described, value=value)
    _connect(root, layers)
    starts = [layer for layer in layers.values() if layer.type == "Parameter"]
    results = [layer for layer in layers.values() if layer.type == "Result"]
    if len(starts) != 1 or len(results) != 1 or len(results[0].inputs) != 1:
        raise CheckpointError(f"{len(starts)} inputs and {len(results)} results; a generator has one of each")
    return starts[0], results[0].inputs[0][0]


def _connect(root: ElementTree.Element, layers: dict[str, Layer]) -> None:
    """Fill in the layers' inputs: the input ports in the order of their numbers, output ports from 0."""
    outputs: dict[str, dict[str, int]] = {}
    ports: dict[str, list[str]] = {}
    for element in root.iterfind("layers/layer"):
        identity = element.get("id", "")
        outputs[identity] = {
            port.get("id", ""): index for index, port in enumerate(element.iterfind("output/port"))
        }
        ports[identity] = [port.get("id", "") for port in element.iterfind("input/port")]
    found: dict[str, dict[str, tuple[Layer, int]]] = {}
    for edge in root.iterfind("edges/edge"):
        source, target = edge.get("from-layer", ""), edge.get("to-layer", "")
        port = outputs.get(source, {}).get(edge.get("from-port", ""))
        if port is None or target not in layers:
            raise CheckpointError("an edge from or to a layer that is not there; get it again")
        found.setdefault(target, {})[edge.get("to-port", "")] = (layers[source], port)
    for identity, layer in layers.items():
        own = found.get(identity, {})
        if own.keys() != set(ports[identity]):
            raise CheckpointError(f"a {printable(layer.type)} without all its inputs; get it again")
        layer.inputs.extend(own[port] for port in ports[identity])


def _constant(data: Mapping[str, str], weights: memoryview, name: str) -> np.ndarray:
    """A constant's numbers, still a view of the file."""
    dtype = TYPES.get(data.get("element_type", ""))
    if dtype is None:
        kind = data.get("element_type", "")
        raise CheckpointError(f"{printable(name)}: numbers of type {kind!a:.20}; f32 is read")
    shape = tuple(_number(part, name) for part in data.get("shape", "").split(",") if part.strip())
    offset, size = _number(data.get("offset", ""), name), _number(data.get("size", ""), name)
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * dtype.itemsize != size:
        raise CheckpointError(f"{printable(name)}: shape {list(shape[:9])} does not fit its {size:,} bytes")
    if offset + size > len(weights):
        raise CheckpointError(
            f"{printable(name)}: beyond the end of the .bin of {len(weights):,} bytes; get it again"
        )
    return np.frombuffer(weights[offset : offset + size], dtype).reshape(shape)


def _number(text: str, name: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,15}\s*", text):
        raise CheckpointError(f"{printable(name)}: {text!a:.40} is not a size")
    return int(text)


def read_sizes(text: str) -> list[int | str]:
    """The sizes in an attribute such as "1, 1"; what is no size stays text, which equals none."""
    parts = [part.strip() for part in text.split(",")]
    return [int(part) if part.isdecimal() and len(part) < 10 else part for part in parts]

"""Distances of pictures by networks that others trained: CLIP, LPIPS, and recognition of faces.

They load their network when they are asked for, and say in one line what is missing. They compare pictures
[N, 3, R, R] in about [-1, 1]; gradients flow to both.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2gan.defaults import LPIPS
from clip2gan.losses import cosine_distance
from clip2gan.messages import one_line
from clip2gan.shift_tolerant import WEIGHTS, load_shift_tolerant
from stylegan2.files import check_finite
from stylegan2.settings import check_size

if TYPE_CHECKING:
    from onnx import ModelProto

    from clip2gan.clip import ClipEncoder

Distance = Callable[[Tensor, Tensor], Tensor]
Features = Callable[[Tensor], list[Tensor]]  # pictures to maps [N, C, H, W], for `compare`

LPIPS_TRUNKS = {kind: kind.removeprefix("lpips-") for kind in LPIPS if kind not in WEIGHTS}
LPIPS_LEAST, LPIPS_MOST = 64, 256  # pixels: trunks halve a picture several times; its patches were of 64
FACE_BOX = (0.125, 0.137, 0.859, 0.871)  # left, top, right, bottom of the face in an FFHQ-aligned picture
FACE_SIZE, LARGEST_FACE = 112, 1024  # pixels a side: of ArcFace, and of any other


def compare(features_x: Sequence[Tensor], features_y: Sequence[Tensor]) -> Tensor:
    """For each pair of pictures, the squared distance of their features [N, C, H, W], summed over C: [N].

    The mean over places, and then over layers.
    """
    distances = [(x - y).square().sum(1).mean((1, 2)) for x, y in zip(features_x, features_y, strict=True)]
    return torch.stack(distances).mean(0)


def load_features(kind: str, clip: "ClipEncoder") -> Features:
    """The features that `kind` names: "clip", or one of `defaults.LPIPS`, on CLIP's device.

    CLIP's are those of its image tower, at unit length in each place: LPIPS's form without learned weights.
    Raises as `lpips_features` does.
    """
    if kind != "clip":
        return lpips_features(kind, clip.device)
    return lambda images: [F.normalize(feature.float(), dim=1) for feature in clip.image_features(images)]


def lpips_features(kind: str, device: str | torch.device = "cpu", random_trunk: bool = False) -> Features:
    """Features whose comparison is LPIPS (Zhang et al. 2018, equation 1) or its shift-tolerant form.

    Pictures of more than 256 px are shrunk to these first, those of less than 64 px enlarged.

    Args:
        kind: one of `defaults.LPIPS`.
        device: where to compute.
        random_trunk: do without the trained trunk. Such a distance means little; it is for tests.

    Raises:
        ValueError: the kind is unknown, its weights are not finite, or its package is not installed.
        OSError: the trunk's weights are not in torchvision's cache and cannot be fetched.
    """
    if kind not in LPIPS:
        raise ValueError(f"unknown LPIPS {kind!r}; choose from {', '.join(LPIPS)}")
    network = load_shift_tolerant(kind) if kind in WEIGHTS else _LpipsFeatures(kind, random_trunk)
    check_finite(network.state_dict(), f"the weights of {kind}")
    network = network.eval().requires_grad_(False).to(device)

    def features(images: Tensor) -> list[Tensor]:
        layers = network(_within(images))
        return [layer * len(layers) ** 0.5 for layer in layers]  # LPIPS is the sum over layers

    return features


def lpips_distance(kind: str, device: str | torch.device = "cpu", random_trunk: bool = False) -> Distance:
    """LPIPS, averaged over a batch; 0 if equal. Arguments and errors are those of `lpips_features`."""
    features = lpips_features(kind, device, random_trunk)
    return lambda x, y: compare(features(x), features(y)).mean()


class _LpipsFeatures(nn.Module):
    """Trunk and heads of the package lpips: pictures to features of unit length, scaled by the heads."""

    def __init__(self, kind: str, random_trunk: bool):
        super().__init__()
        import lpips

        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                network: Any = lpips.LPIPS(net=LPIPS_TRUNKS[kind], pnet_rand=random_trunk, verbose=False)
        except (OSError, RuntimeError) as error:
            cache = Path(torch.hub.get_dir()) / "checkpoints"
            raise OSError(
                f"{kind} needs torchvision's weights of its trunk, which cannot be fetched "
                f"({one_line(error)}); put them into {cache}, or choose stlpips, which needs no download"
            ) from error
        self.trunk = nn.Sequential(network.scaling_layer, network.net)
        self.heads = nn.ParameterList(head.model[-1].weight for head in network.lins)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            F.normalize(layer.float(), dim=1, eps=1e-10) * head.sqrt()
            for layer, head in zip(self.trunk(images), self.heads, strict=True)
        ]


def identity_distance(path: str | Path, device: str | torch.device = "cpu") -> Distance:
    """1 - cosine of a face recogniser's features, averaged over a batch; 0 if the same person, at most 2.

    Args:
        path: an ONNX file like ArcFace's: faces [N, 3, S, S] in [-1, 1] to features [N, D].
        device: where to compute.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such network, its weights are not finite, or onnx2torch is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such face recogniser; give an ONNX file like ArcFace's")
    recogniser, size = _recogniser(path)
    check_finite(recogniser.state_dict(), path)
    recogniser = recogniser.eval().requires_grad_(False).to(device)

    def features(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        left, top, right, bottom = FACE_BOX
        faces = images[
            :, :, round(top * height) : round(bottom * height), round(left * width) : round(right * width)
        ]
        scaled = F.interpolate(faces, (size, size), mode="bilinear", align_corners=False, antialias=True)
        return F.normalize(recogniser(scaled).float(), dim=-1)

    try:
        shape = features(torch.zeros(2, 3, FACE_SIZE, FACE_SIZE, device=device)).shape
    except Exception as error:  # a strange graph can raise anything
        raise ValueError(f"{path}: does not run on two faces ({one_line(error)})") from error
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"{path}: gives {list(shape)} for two faces, where [2, D] was expected")
    return lambda x, y: cosine_distance(features(x), features(y))


def _recogniser(path: Path) -> tuple[nn.Module, int]:
    """The network of an ONNX file, and the side of the faces it takes."""
    try:
        import onnx
        import onnx2torch
    except ImportError as error:
        raise ValueError(f"{path} needs onnx2torch; pip install 'clip2gan[identity]'") from error
    logging.getLogger("onnx2torch").setLevel(logging.ERROR)
    try:
        model = onnx.load(str(path), load_external_data=False)
        for number, node in enumerate(model.graph.node):
            node.name = f"node_{number}"  # onnx2torch makes Python's source of them
        return onnx2torch.convert(model), _input_size(model)
    except Exception as error:  # damaged data and unknown operators raise many kinds
        raise ValueError(f"{path}: not an ONNX network that onnx2torch reads ({one_line(error)})") from error


def _input_size(model: "ModelProto") -> int:
    weights = {tensor.name for tensor in model.graph.initializer}
    images = next(value for value in model.graph.input if value.name not in weights)
    dimensions = images.type.tensor_type.shape.dim
    side = dimensions[3].dim_value or FACE_SIZE if len(dimensions) == 4 else FACE_SIZE
    check_size("the side of its pictures", side, 1, LARGEST_FACE)
    return side


def _within(images: Tensor) -> Tensor:
    """Pictures of a size that LPIPS was made for."""
    size = min(max(images.shape[-1], LPIPS_LEAST), LPIPS_MOST)
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)

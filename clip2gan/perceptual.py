"""Distances of pictures by networks that others trained: LPIPS, and recognition of faces.

Both load their network when they are asked for, and say in one line what is missing. They compare pictures
[N, 3, R, R] in about [-1, 1]; gradients flow to both.
"""

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2gan.defaults import LPIPS
from clip2gan.losses import cosine_distance
from clip2gan.messages import one_line
from stylegan2.files import check_finite

if TYPE_CHECKING:
    from onnx import ModelProto

Distance = Callable[[Tensor, Tensor], Tensor]

LPIPS_TRUNKS = {kind: kind.removeprefix("lpips-") for kind in LPIPS}
LPIPS_LEAST, LPIPS_MOST = 64, 256  # pixels: trunks halve a picture several times; its patches were of 64
FACE_BOX = (0.125, 0.137, 0.859, 0.871)  # left, top, right, bottom of the face in an FFHQ-aligned picture
FACE_SIZE = 112  # pixels, of ArcFace


def lpips_distance(kind: str, device: str | torch.device = "cpu", random_trunk: bool = False) -> Distance:
    """LPIPS (Zhang et al. 2018, equation 1), averaged over a batch; 0 if equal.

    Pictures of more than 256 px are shrunk to these first.

    Args:
        kind: a key of `LPIPS_TRUNKS`.
        device: where to compute.
        random_trunk: do without the trained trunk. Such a distance means little; it is for tests.

    Raises:
        ValueError: the kind is unknown, or its weights are not finite.
        OSError: the trunk's weights are not in torchvision's cache and cannot be fetched.
    """
    if kind not in LPIPS_TRUNKS:
        raise ValueError(f"unknown LPIPS {kind!r}; choose from {', '.join(LPIPS_TRUNKS)}")
    import lpips

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            network = lpips.LPIPS(net=LPIPS_TRUNKS[kind], pnet_rand=random_trunk, verbose=False)
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise OSError(
            f"{kind} needs torchvision's weights of its trunk, which cannot be fetched ({one_line(error)}); "
            f"put them into {cache}, or choose --perceptual clip"
        ) from error
    check_finite(network.state_dict(), f"the weights of {kind}")
    network = network.eval().requires_grad_(False).to(device)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return network(_within(x), _within(y)).mean()

    return distance


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
        model = onnx.load(str(path))
        return onnx2torch.convert(model), _input_size(model)
    except Exception as error:  # damaged data and unknown operators raise many kinds
        raise ValueError(f"{path}: not an ONNX network that onnx2torch reads ({one_line(error)})") from error


def _input_size(model: "ModelProto") -> int:
    weights = {tensor.name for tensor in model.graph.initializer}
    images = next(value for value in model.graph.input if value.name not in weights)
    dimensions = images.type.tensor_type.shape.dim
    return dimensions[3].dim_value or FACE_SIZE if len(dimensions) == 4 else FACE_SIZE


def _within(images: Tensor) -> Tensor:
    """Pictures of a size that LPIPS was made for."""
    size = min(max(images.shape[-1], LPIPS_LEAST), LPIPS_MOST)
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)

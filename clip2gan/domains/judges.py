"""A small classifier of a domain's attributes in pictures that are all framed alike."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan2.files import WithoutData, check_weights, load_tensors, load_weights, save_tensors
from stylegan2.settings import check_size

Attributes = dict[str, str]
J = TypeVar("J", bound="AttributeJudge")
GRID = 32  # positions a side of the first features


class Group(Protocol):
    @property
    def values(self) -> tuple[str, ...]: ...


class Vocabulary(Protocol):
    """The attribute groups of a domain, and where each can be seen: a module `vocabulary` of it."""

    def groups(self) -> Mapping[str, Group]: ...

    def visible(self, attributes: Mapping[str, str]) -> dict[str, bool]: ...


class AttributeJudge(nn.Module):
    """Pictures [N, 3, R, R] in [-1, 1] to the probabilities of each group's values, {group: [N, values]}.

    Faces sit at the same place in all pictures, so the last features keep their positions (no pooling).

    Attributes:
        vocabulary: of the domain.
        resolution: R, a multiple of 32.
        sizes: the number of values of each group.
        width: channels of the first features.
    """

    def __init__(self, vocabulary: Vocabulary, resolution: int, width: int = 32):
        super().__init__()
        self.vocabulary, self.resolution, self.width = vocabulary, resolution, width
        self.sizes = {name: len(group.values) for name, group in vocabulary.groups().items()}
        factor = resolution // GRID  # keeps every pixel of eyes and mouth, at few positions
        self.features = nn.Sequential(
            nn.PixelUnshuffle(factor),
            *_block(3 * factor**2, width),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 2 * width),
            *_block(2 * width, 3 * width, stride=2),
            *_block(3 * width, 3 * width),
            nn.Conv2d(3 * width, width, 1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(width * 8 * 8, 4 * width),
            nn.ReLU(),
        )
        self.heads = nn.Linear(4 * width, sum(self.sizes.values()))

    def save(self, path: str | Path) -> None:
        """Write the weights in 16 bit."""
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in self.state_dict().items()}
        save_tensors(path, tensors, {"width": self.width, "groups": self.sizes})

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the attribute groups."""
        return tuple(self.sizes)

    def see(self, images: Tensor) -> list[Attributes]:
        """The verdicts on pictures [N, 3, R, R] in [-1, 1], of any size."""
        return verdicts(self.vocabulary, judge_images(self, fit(images, self.resolution)))

    def visible(self, attributes: Attributes) -> dict[str, bool]:
        """Whether each group can be seen in a picture with these attributes."""
        return self.vocabulary.visible(attributes)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """The unnormalised scores of each group's values, {group: [N, values]}.

        Raises ValueError if the pictures are not [N, 3, R, R].
        """
        side = self.resolution
        if images.shape[1:] != (3, side, side):
            raise ValueError(f"the judge takes pictures [N, 3, {side}, {side}], not {list(images.shape)}")
        scores = self.heads(self.features(images))
        return dict(zip(self.sizes, scores.split(list(self.sizes.values()), dim=1), strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {group: scores.softmax(dim=1) for group, scores in self.logits(images).items()}


def load_judge(make: Callable[[int], J], path: str | Path) -> J:
    """The judge of this file, in eval mode and without gradients.

    Args:
        make: a judge of a given width.
        path: of its weights.

    Raises FileNotFoundError or ValueError when the file cannot serve.
    """
    path = Path(path)
    tensors, config = load_tensors(path)
    width = config.get("width", 32)
    try:
        check_size("width", width, 1, 1024)
    except ValueError as error:
        raise ValueError(f"{path}: does not hold a judge ({error})") from error
    with WithoutData():
        shape = make(width)
    check_weights(shape, tensors, str(path))
    judge = make(width)
    load_weights(judge, tensors, str(path))
    return judge.eval().requires_grad_(False)


def fit(images: Tensor, resolution: int) -> Tensor:
    """Pictures as a viewer would see them, at a judge's resolution."""
    images = images.clamp(-1, 1)
    return images if images.shape[-1] == resolution else F.adaptive_avg_pool2d(images, resolution)


def verdicts(vocabulary: Vocabulary, probabilities: Mapping[str, Tensor]) -> list[Attributes]:
    """The most probable value of each group, for each picture."""
    values = {name: vocabulary.groups()[name].values for name in probabilities}
    indices = {name: p.argmax(dim=1).tolist() for name, p in probabilities.items()}
    num = len(next(iter(indices.values())))
    return [{name: values[name][indices[name][i]] for name in values} for i in range(num)]


def judge_images(judge: AttributeJudge, images: Tensor, batch: int = 250) -> dict[str, Tensor]:
    """`judge(images)` in batches, without gradients."""
    with torch.no_grad():
        parts = [judge(part) for part in images.split(batch)]
    return {group: torch.cat([part[group] for part in parts]) for group in parts[0]}


def _block(in_channels: int, out_channels: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()

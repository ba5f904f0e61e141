"""The modality gap, and what to do about it.

CLIP's embeddings of pictures and of texts lie in two narrow cones apart from each other, and a text says far
less than a picture. A mapper is trained on embeddings of pictures; a *gap* decides what it is trained with
(`Gap.train`: noise, so that it bears embeddings that are a little off) and what it is given in place of a
text's embedding (`Gap.to_image`).

    none     the text's embedding itself (CLIP2GAN)
    shift    moved by the difference of the two modalities' means (CapDec's modality offset)
    knn      a random convex combination of pictures' embeddings near the text (Fast text2StyleGAN,
             arXiv 2209.03953)
    anchor   a random picture's embedding near the text, moved the least distance that makes it say the text

`knn` and `anchor` remember embeddings of pictures, and give a different answer for each random number. The
statistics come from pictures and, for the texts' mean, from a fixed list of plain prompts; no caption of any
picture has a part in them.
"""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan2.files import load_tensors, save_tensors

MEMORY_SIZE = 16384  # embeddings that `knn` and `anchor` remember


@dataclass(frozen=True)
class Noise:
    """What is added to a picture's embedding in training, before it gets unit length again.

    Attributes:
        kind: "unit", a random direction of length `scale` (clip2latent, arXiv 2210.02347); or "gauss", a
            normal number of standard deviation `scale` in each dimension (CapDec).
        scale: 0 adds nothing.
    """

    kind: str = "unit"
    scale: float = 0.0

    def __post_init__(self):
        if self.kind not in ("unit", "gauss"):
            raise ValueError(f"unknown noise {self.kind!r}; choose unit or gauss")

    def __call__(self, e: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy unit embeddings of [N, D] unit embeddings, by a CPU generator."""
        if self.scale == 0:
            return e
        noise = torch.randn(e.shape, generator=generator).to(e)
        if self.kind == "unit":
            noise = F.normalize(noise, dim=-1)
        return F.normalize(e + self.scale * noise, dim=-1)


@dataclass(kw_only=True)
class Gap(ABC):
    """A remedy for the modality gap. Embeddings are of unit length, [N, D]."""

    kind: ClassVar[str]
    noise: Noise = field(default_factory=Noise)

    def train(self, e_image: Tensor, generator: torch.Generator) -> Tensor:
        """What the mapper is given in training for pictures' embeddings [N, D]: [N, D], random."""
        return self.noise(e_image, generator)

    @abstractmethod
    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """What the mapper is given for texts.

        Args:
            e_text: [N, D] embeddings of texts.
            num: how many embeddings are wanted of each.
            generator: a CPU generator. A text's embeddings depend on its state and on the text's number only;
                the first of them are the same whatever `num` is.

        Returns:
            [N, num, D], where pictures of the texts would be.
        """


@dataclass(kw_only=True)
class NoGap(Gap):
    """The text's embedding, as it is."""

    kind = "none"

    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        return e_text[:, None].expand(-1, num, -1)


@dataclass(kw_only=True)
class MeanShift(Gap):
    """normalise(e_text + mean_image - mean_text).

    Attributes:
        mean_image: [D], mean embedding of the training pictures.
        mean_text: [D], mean embedding of plain prompts.
    """

    kind = "shift"
    mean_image: Tensor
    mean_text: Tensor

    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        return self.shifted(e_text)[:, None].expand(-1, num, -1)

    def shifted(self, e_text: Tensor) -> Tensor:
        return F.normalize(e_text + (self.mean_image - self.mean_text).to(e_text), dim=-1)


@dataclass(kw_only=True)
class Knn(MeanShift):
    """Of the `nearest` remembered pictures the `spread` that differ most, mixed with Dirichlet weights.

    Attributes:
        memory: [M, D] float16, embeddings of pictures.
        nearest: how many pictures around the mean-shifted text are looked at.
        spread: how many of those, each farthest from the ones before, are mixed.
        concentration: of the symmetric Dirichlet distribution; small ones give weights near 0 and 1.
    """

    kind = "knn"
    memory: Tensor
    nearest: int = 50
    spread: int = 10
    concentration: float = 0.5

    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        memory = self.memory.to(e_text)
        near = (self.shifted(e_text) @ memory.T).topk(min(self.nearest, len(memory)), dim=1).indices
        rows = []
        for row, random in zip(near, _row_generators(generator, len(e_text)), strict=True):
            corners = memory[row][farthest_points(memory[row], self.spread)]
            weights = random.dirichlet([self.concentration] * len(corners), size=num)
            rows.append(torch.from_numpy(weights).to(corners) @ corners)
        return F.normalize(torch.stack(rows), dim=-1)


@dataclass(kw_only=True)
class Anchor(MeanShift):
    """A remembered picture's embedding, moved until it says the text as clearly as the memory's best do.

    A text names a few attributes, a picture's embedding holds all of them; so the rest is taken from a
    picture drawn at random. Measured from each modality's mean, with a the picture and d the unit direction
    of the text, what the picture says of the text is a . d. If that is less than the `quantile` of all
    remembered pictures, a moves along d up to it: the nearest point that says as much.

    Attributes:
        memory: [M, D] float16, embeddings of pictures.
        nearest: the picture is one of this many that say the text most clearly; 0 means any of the memory.
        quantile: of the memory's a . d, that is reached at least.
    """

    kind = "anchor"
    memory: Tensor
    nearest: int = 256
    quantile: float = 0.995

    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        memory = self.memory.to(e_text)
        said = self._directions(e_text) @ (memory - self.mean_image.to(e_text)).T
        candidates = said.topk(min(self.nearest or len(memory), len(memory)), dim=1).indices
        picks = [
            random.integers(candidates.shape[1], size=num)
            for random in _row_generators(generator, len(e_text))
        ]
        anchors = memory[candidates.gather(1, torch.from_numpy(np.stack(picks)).to(candidates))]
        return self.towards(anchors.flatten(0, 1), e_text.repeat_interleave(num, 0)).unflatten(0, (-1, num))

    def towards(self, e_image: Tensor, e_text: Tensor) -> Tensor:
        """The nearest embeddings to `e_image` [N, D] that say `e_text` [N, D]: [N, D], of unit length."""
        mean_image = self.mean_image.to(e_image)
        directions = self._directions(e_text)
        rank = 1 + round((1 - self.quantile) * (len(self.memory) - 1))
        said_by_memory = directions @ (self.memory.to(e_text) - mean_image).T
        level = said_by_memory.topk(rank, dim=1).values[:, -1]
        said = ((e_image - mean_image) * directions).sum(1)
        return F.normalize(e_image + (level - said).clamp(min=0)[:, None] * directions, dim=-1)

    def _directions(self, e_text: Tensor) -> Tensor:
        return F.normalize(e_text - self.mean_text.to(e_text), dim=-1)


KINDS: dict[str, type[Gap]] = {gap.kind: gap for gap in (NoGap, MeanShift, Knn, Anchor)}


def fit_gap(kind: str, image_embeddings: Tensor, text_embeddings: Tensor, noise: Noise | None = None) -> Gap:
    """Fit a remedy, with its default settings (`dataclasses.replace` changes them).

    Args:
        kind: one of `KINDS`.
        image_embeddings: [M, D] of training pictures in random order; the first `MEMORY_SIZE` are remembered.
        text_embeddings: [T, D] of plain prompts.
        noise: for training.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown gap {kind!r}; choose from {', '.join(KINDS)}")
    available = {
        "noise": noise or Noise(),
        "mean_image": image_embeddings.mean(0).cpu(),
        "mean_text": text_embeddings.mean(0).cpu(),
        "memory": image_embeddings[:MEMORY_SIZE].half().cpu(),
    }
    gap = KINDS[kind]
    values: dict[str, Any] = {
        part.name: available[part.name] for part in dataclasses.fields(gap) if part.name in available
    }
    return gap(**values)


def save_gap(gap: Gap, path: str | Path) -> None:
    """Write a gap as safetensors: its tensors, and its kind and settings in the header."""
    values = {part.name: getattr(gap, part.name) for part in dataclasses.fields(gap)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    settings = {name: value for name, value in values.items() if name not in tensors}
    save_tensors(path, tensors, {**settings, "kind": gap.kind, "noise": dataclasses.asdict(gap.noise)})


def load_gap(path: str | Path, device: str | torch.device = "cpu") -> Gap:
    """Read what `save_gap` wrote, its tensors on `device`.

    Raises FileNotFoundError, or ValueError when the file is not whole or not a gap's.
    """
    tensors, settings = load_tensors(path)
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"{path}: unknown gap {kind!r}; choose from {', '.join(KINDS)}")
    values: dict[str, Any] = {**settings, **{name: tensor.to(device) for name, tensor in tensors.items()}}
    try:
        values["noise"] = Noise(**settings.get("noise", {}))
        return KINDS[kind](**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not hold a gap of kind {kind!r} ({error})") from error


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices of `count` of `points` [N, D]: the first one, then always the one farthest from all before."""
    chosen = [0]
    distance = (points - points[0]).norm(dim=-1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=-1))
    return torch.tensor(chosen)


def _row_generators(generator: torch.Generator, rows: int) -> list[np.random.Generator]:
    """A NumPy generator for each row (it has a Dirichlet distribution), seeded in order from `generator`."""
    seeds: list[Any] = torch.randint(2**62, (rows,), generator=generator).tolist()
    return [np.random.default_rng(seed) for seed in seeds]

"""The remedies for the modality gap, which `clip2gan.gap` tells of, fits and keeps in files."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip2gan.noise import C3_NOISE, Noise

EDIT_MEMORY = 4096  # of the remembered embeddings, that `posterior` maps for an edit


@dataclass(kw_only=True)
class Gap(ABC):
    """A remedy for the modality gap. Embeddings are of unit length, [N, D]."""

    kind: ClassVar[str]
    is_random: ClassVar[bool] = False  # whether `to_image` gives different answers
    noise: Noise = field(default_factory=Noise)

    def train(self, e_image: Tensor, generator: torch.Generator) -> Tensor:
        """What the mapper is given in training for pictures' embeddings [N, D]: [N, D], random."""
        return self.noise(self.from_image(e_image), generator)

    def from_image(self, e_image: Tensor) -> Tensor:
        """What the mapper is given for pictures' embeddings [N, D] when it is used: [N, D]."""
        return e_image

    @abstractmethod
    def center(self, e_text: Tensor) -> Tensor:
        """The one answer [N, D] to texts [N, D] without randomness, as editing needs it."""

    def map_text(self, e_text: Tensor, mapper: Callable[[Tensor], Tensor]) -> Tensor:
        """What editing takes for the latents of texts [N, D]: ws [N, num_ws, w_dim], without randomness."""
        return mapper(self.center(e_text))

    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """What the mapper is given for texts; the center, where a remedy is not random.

        Args:
            e_text: [N, D] embeddings of texts.
            num: how many embeddings are wanted of each.
            generator: a CPU generator. A text's embeddings depend on its state and on the text's number only;
                the first of them are the same whatever `num` is.

        Returns:
            [N, num, D], where pictures of the texts would be.
        """
        return self.center(e_text)[:, None].expand(-1, num, -1)


@dataclass(kw_only=True)
class NoGap(Gap):
    """The text's embedding, as it is."""

    kind = "none"

    def center(self, e_text: Tensor) -> Tensor:
        return e_text


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

    def center(self, e_text: Tensor) -> Tensor:
        return self.shifted(e_text)

    def shifted(self, e_text: Tensor) -> Tensor:
        """The mean-shifted texts [N, D]."""
        return F.normalize(e_text + (self.mean_image - self.mean_text).to(e_text), dim=-1)


@dataclass(kw_only=True)
class Collapse(Gap):
    """normalise(e - mean), with the mean of its own modality; a mapper has to be trained with it.

    Attributes:
        mean_image: [D], mean embedding of the training pictures.
        mean_text: [D], mean embedding of plain prompts.
    """

    kind = "collapse"
    mean_image: Tensor
    mean_text: Tensor

    def center(self, e_text: Tensor) -> Tensor:
        return F.normalize(e_text - self.mean_text.to(e_text), dim=-1)

    def from_image(self, e_image: Tensor) -> Tensor:
        return F.normalize(e_image - self.mean_image.to(e_image), dim=-1)

    def train(self, e_image: Tensor, generator: torch.Generator) -> Tensor:
        # The noise comes before unit length, as in C3.
        return F.normalize(self.noise(e_image - self.mean_image.to(e_image), generator), dim=-1)


@dataclass(kw_only=True)
class C3(Collapse):
    """`Collapse` with the noise that C3 adds in training: a variance of 0.016 in each dimension."""

    kind = "c3"
    noise: Noise = field(default_factory=lambda: C3_NOISE)


@dataclass(kw_only=True)
class Whiten(Gap):
    """normalise(mean_image + transform (e_text - mean_text)), transform = S_image^(1/2) S_text^(-1/2).

    Both covariances S are shrunk towards a multiple of the identity, as plain prompts are few.

    Attributes:
        mean_image: [D], mean embedding of the training pictures.
        mean_text: [D], mean embedding of plain prompts.
        transform: [D, D].
    """

    kind = "whiten"
    mean_image: Tensor
    mean_text: Tensor
    transform: Tensor

    def center(self, e_text: Tensor) -> Tensor:
        coloured = (e_text - self.mean_text.to(e_text)) @ self.transform.to(e_text).T
        return F.normalize(self.mean_image.to(e_text) + coloured, dim=-1)


@dataclass(kw_only=True)
class SoftMemory(Gap):
    """The mean of remembered pictures' embeddings, weighted by softmax(sharpness * cosine with the text).

    Attributes:
        memory: [M, D] float16, embeddings of pictures.
        sharpness: 100 in DeCap; the logit scale of most CLIPs.
    """

    kind = "memory"
    memory: Tensor
    sharpness: float = 100.0

    def center(self, e_text: Tensor) -> Tensor:
        memory = self.memory.to(e_text)
        return F.normalize(self._probabilities(e_text, memory) @ memory, dim=-1)

    def _probabilities(self, e_text: Tensor, memory: Tensor) -> Tensor:
        return (self.sharpness * (e_text @ memory.T)).softmax(1)


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
    is_random = True
    memory: Tensor
    nearest: int = 50
    spread: int = 10
    concentration: float = 0.5

    def center(self, e_text: Tensor) -> Tensor:
        return F.normalize(self._near(e_text).mean(1), dim=-1)

    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        rows = []
        for near, random in zip(self._near(e_text), _row_generators(generator, len(e_text)), strict=True):
            corners = near[farthest_points(near, self.spread)]
            weights = random.dirichlet([self.concentration] * len(corners), size=num)
            rows.append(torch.from_numpy(weights).to(corners) @ corners)
        return F.normalize(torch.stack(rows), dim=-1)

    def _near(self, e_text: Tensor) -> Tensor:
        """The pictures [N, nearest, D] around each text, the nearest first."""
        memory = self.memory.to(e_text)
        return memory[(self.shifted(e_text) @ memory.T).topk(min(self.nearest, len(memory)), dim=1).indices]


@dataclass(kw_only=True)
class Posterior(SoftMemory):
    """A remembered picture that CLIP finds described by the text, led nearer to the text.

    The probability of picture i is softmax_i(sharpness * cos(memory_i, text)), which is what CLIP is trained
    to make the posterior of a picture given a text; all that the text does not name comes from the picture
    that is drawn. In the posterior's mean what is named stays and all else averages out. So the direction
    from the mean of all pictures to it is that of the text among pictures (the text's own embedding points
    out of their cone), and the picture moves along it, the least distance that brings it at least `guidance`
    times as far as the posterior's mean.

    With spread and guidance 0 this is `SoftMemory`.

    Attributes:
        mean_image: [D], mean embedding of the training pictures.
        sharpness: larger ones draw from fewer pictures, nearer to the text. CLIP's own posterior has its
            logit scale.
        spread: how far from the posterior's mean an answer starts, in parts of its picture's distance.
        guidance: larger ones say the text more clearly, and everything else less.
        edit_sharpness: of `map_text`, which is less sharp, so as to average over more pictures.
        edit_guidance: how far `map_text` is from the mean of all pictures, in parts of its own distance.
    """

    kind = "posterior"
    is_random = True
    mean_image: Tensor
    spread: float = 1.0
    guidance: float = 1.5
    edit_sharpness: float
    edit_guidance: float = 2.25

    def map_text(self, e_text: Tensor, mapper: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean latents of the pictures that the texts describe, away from those of all pictures.

        Averaging in W what many pictures are mapped to changes less that the text does not name than mapping
        the average of their embeddings.
        """
        memory = self.memory[:EDIT_MEMORY].to(e_text)
        probabilities = (self.edit_sharpness * (e_text @ memory.T)).softmax(1)
        ws = mapper(memory)
        mean = ws.mean(0)
        described = (probabilities @ ws.flatten(1)).unflatten(1, ws.shape[1:])
        return mean + self.edit_guidance * (described - mean)

    def to_image(self, e_text: Tensor, num: int, generator: torch.Generator) -> Tensor:
        memory = self.memory.to(e_text)
        probabilities = self._probabilities(e_text, memory)
        cumulative = probabilities.cpu().double().cumsum(1).numpy()
        picks = [
            np.searchsorted(row, random.random(num) * row[-1], side="right")
            for row, random in zip(cumulative, _row_generators(generator, len(e_text)), strict=True)
        ]
        drawn = memory[torch.from_numpy(np.stack(picks)).to(memory.device)]
        mean = (probabilities @ memory)[:, None]
        free = mean + self.spread * (drawn - mean)
        away = mean - self.mean_image.to(e_text)
        distance = away.norm(dim=-1, keepdim=True)
        direction = away / distance.clamp(min=1e-6)
        said = ((free - self.mean_image.to(e_text)) * direction).sum(-1, keepdim=True)
        return F.normalize(free + (self.guidance * distance - said).clamp(min=0) * direction, dim=-1)


@dataclass(kw_only=True)
class TextSide(Gap):
    """A picture's embedding as a pseudo-text: normalise(e_image - mean_image + mean_text); texts stay.

    With unit noise in training this is LAFITE's language-free training (Zhou et al. 2022) with the gap taken
    away first. For generators that take texts themselves; a text's answers come from their noise.

    Attributes:
        mean_image: [D], mean embedding of the training pictures.
        mean_text: [D], mean embedding of their captions, or of plain prompts.
    """

    kind = "text"
    mean_image: Tensor
    mean_text: Tensor

    def center(self, e_text: Tensor) -> Tensor:
        return e_text

    def from_image(self, e_image: Tensor) -> Tensor:
        return F.normalize(e_image + (self.mean_text - self.mean_image).to(e_image), dim=-1)


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

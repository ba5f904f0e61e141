"""The modality gap, and what to do about it.

CLIP's embeddings of pictures and of texts lie in two narrow cones apart from each other, and a text says far
less than a picture. A mapper is trained on embeddings of pictures; a *gap* decides what it is trained with
(`Gap.train`: noise, so that it bears embeddings that are a little off) and what it is given in place of a
text's embedding (`Gap.to_image`).

    none       the text's embedding itself (CLIP2GAN)
    shift      moved by the difference of the two modalities' means (CapDec's modality offset)
    collapse   each modality's mean is taken away, in training as well (C3 without its noise)
    c3         the same, with normal noise in training (Zhang et al. 2024, "Connect, Collapse, Corrupt")
    whiten     whitened by the texts' mean and covariance, coloured by the pictures'
    memory     the mean of pictures' embeddings weighted by a softmax of their cosines (DeCap, Li et al. 2023)
    knn        a random convex combination of pictures' embeddings near the text (Fast text2StyleGAN,
               arXiv 2209.03953)
    posterior  a picture's embedding drawn by CLIP's posterior of pictures given the text, pulled to its mean
    text       the other way round, for generators trained on texts: pictures are moved to where texts lie

`memory`, `knn` and `posterior` remember embeddings of pictures; the answers of the last two are random. The
statistics come from pictures and, for the texts' mean, from a fixed list of plain prompts; no caption of any
picture has a part in them.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip2gan.domain import GapSettings
from stylegan2.files import check_size, load_tensors, save_tensors

MEMORY_SIZE = 12288  # embeddings that `knn` and `posterior` remember
# Of `posterior`, and in an edit, in units of 1 / the standard deviation of pictures' cosines with a text.
POSTERIOR_SHARPNESS, EDIT_SHARPNESS = 5.0, 2.5
MOST_SHARPNESS = 10.0  # in units of CLIP's logit scale, where cosines are hardly spread at all
EDIT_MEMORY = 4096  # of them, that `posterior` maps for an edit


@dataclass(frozen=True)
class Noise:
    """What is done to a picture's embedding in training, before it gets unit length again.

    Attributes:
        kind: "unit", a random direction of length `scale` (clip2latent, arXiv 2210.02347); or "gauss", a
            normal number of standard deviation `scale` in each dimension (CapDec).
        scale: 0 adds nothing.
        mean: of the normal numbers.
        mode: whether the noise is added ("add"), or each dimension is multiplied by it ("mul", normal numbers
            only). CLIP2GAN names a mean of 1 and a variance of 0.36: as factors, `Noise("gauss", 0.6, 1.0,
            "mul")`.
    """

    kind: str = "unit"
    scale: float = 0.0
    mean: float = 0.0
    mode: str = "add"

    def __post_init__(self):
        if self.kind not in ("unit", "gauss"):
            raise ValueError(f"unknown noise {self.kind!r}; choose unit or gauss")
        if self.scale < 0:
            raise ValueError(f"noise.scale must be 0 or more, got {self.scale}")
        if self.mode not in ("add", "mul"):
            raise ValueError(f"unknown noise mode {self.mode!r}; choose add or mul")
        if self.kind == "unit" and (self.mode == "mul" or self.mean):
            raise ValueError("noise of kind unit is added and has no mean; choose gauss")
        if self.mode == "mul" and self.mean == self.scale == 0:
            raise ValueError("noise of mode mul with mean and scale 0 leaves nothing; set noise.mean=1")

    def __call__(self, e: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy unit embeddings of [N, D] unit embeddings, by a CPU generator."""
        if self.mode == "add" and self.scale == self.mean == 0:
            return e
        noise = torch.randn(e.shape, generator=generator).to(e)
        if self.kind == "unit":
            noise = F.normalize(noise, dim=-1)
        noise = self.mean + self.scale * noise
        return F.normalize(e * noise if self.mode == "mul" else e + noise, dim=-1)


C3_NOISE = Noise("gauss", 0.016**0.5)


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


GAPS = (NoGap, MeanShift, Collapse, C3, Whiten, SoftMemory, Knn, Posterior, TextSide)
KINDS: dict[str, type[Gap]] = {gap.kind: gap for gap in GAPS}


def fit_gap(
    kind: str,
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: float,
    noise: Noise | None = None,
) -> Gap:
    """Fit a remedy, with its default settings (`dataclasses.replace` changes them).

    Args:
        kind: one of `KINDS`.
        image_embeddings: [M, D] of training pictures in random order; the first `MEMORY_SIZE` are remembered.
        text_embeddings: [T, D] of plain prompts.
        logit_scale: CLIP's.
        noise: for training; None: the remedy's own.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown gap {kind!r}; choose from {', '.join(KINDS)}")
    available: dict[str, Any] = {
        "noise": noise,
        "mean_image": image_embeddings.mean(0).cpu(),
        "mean_text": text_embeddings.mean(0).cpu(),
        "memory": image_embeddings[:MEMORY_SIZE].half().cpu(),
        "transform": _recolouring(text_embeddings.cpu(), image_embeddings.cpu()),
    }
    if kind == Posterior.kind:
        spread = cosine_spread(image_embeddings, text_embeddings)
        most = MOST_SHARPNESS * logit_scale
        available["sharpness"] = min(POSTERIOR_SHARPNESS / spread, most)
        available["edit_sharpness"] = min(EDIT_SHARPNESS / spread, most)
    gap = KINDS[kind]
    names = [part.name for part in dataclasses.fields(gap)]
    return gap(**{name: value for name, value in available.items() if name in names and value is not None})


def cosine_spread(image_embeddings: Tensor, text_embeddings: Tensor) -> float:
    """The standard deviation of the cosines of pictures [M, D] with a text, in the mean over texts [T, D]."""
    if len(image_embeddings) < 2:
        return 1.0
    cosines = image_embeddings.float() @ text_embeddings.float().to(image_embeddings.device).T
    return max(cosines.std(0).mean().item(), 1e-6)


def gap_figures(gap: Gap, image_embeddings: Tensor, text_embeddings: Tensor) -> dict[str, float]:
    """How far texts are from pictures, as they are and as a remedy gives them to a mapper.

    Args:
        gap: the remedy.
        image_embeddings: [M, D].
        text_embeddings: [T, D].

    Returns:
        gap_before, gap_after: distance of the means of both (Liang et al. 2022, "Mind the Gap").
        near_before, near_after: cosine of a text, or its answer, to the nearest picture, in the mean.
    """
    answers = gap.to_image(text_embeddings, 1, torch.Generator().manual_seed(0))[:, 0]
    figures = {}
    for when, texts, images in (
        ("before", text_embeddings, image_embeddings),
        ("after", answers, gap.from_image(image_embeddings)),
    ):
        figures[f"gap_{when}"] = (texts.mean(0) - images.mean(0)).norm().item()
        figures[f"near_{when}"] = (texts @ images.T).amax(1).mean().item()
    return figures


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
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{path}: unknown gap {kind!r}; choose from {', '.join(KINDS)}")
    values: dict[str, Any] = {**settings, **{name: tensor.to(device) for name, tensor in tensors.items()}}
    try:
        values["noise"] = Noise(**settings.get("noise", {}))
        gap = KINDS[kind](**values)
        _check_values(gap)
        return gap
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not hold a gap of kind {kind!r} ({error})") from error


def _check_values(gap: Gap) -> None:
    """Raise TypeError or ValueError where values are of another kind than the gap has, or too large."""
    dims = set()
    for part in dataclasses.fields(gap):
        value, kind = getattr(gap, part.name), str(part.type)
        if "Tensor" in kind:
            if not isinstance(value, Tensor):
                raise TypeError(f"{part.name} is missing")
            dims.add(value.shape[-1] if value.ndim in (1, 2) else None)
        elif "int" in kind:
            check_size(part.name, value, 1, 2**20)
        elif "float" in kind and not (isinstance(value, (int, float)) and abs(value) < 1e9):  # nor NaN
            raise ValueError(f"{part.name} must be a finite number, got {value!r:.40}")
    if len(dims) > 1 or None in dims:
        raise ValueError("its tensors are not embeddings of one length")


def with_settings(gap: Gap, settings: GapSettings) -> Gap:
    """A gap `posterior` with those settings that are given; another gap as it is."""
    if not isinstance(gap, Posterior):
        return gap
    given = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    return dataclasses.replace(gap, **given)


def _recolouring(text: Tensor, image: Tensor) -> Tensor:
    """S_image^(1/2) S_text^(-1/2) of embeddings [N, D]: [D, D]."""
    return _covariance_power(image, 0.5) @ _covariance_power(text, -0.5)


def _covariance_power(e: Tensor, power: float) -> Tensor:
    """A power of the covariance, shrunk the more the fewer embeddings there are for each dimension."""
    e = (e - e.mean(0)).double()
    covariance = e.T @ e / max(len(e) - 1, 1)
    dim = len(covariance)
    share = dim / (dim + len(e))
    shrunk = (1 - share) * covariance + share * (covariance.trace() / dim + 1e-8) * torch.eye(dim)
    values, vectors = torch.linalg.eigh(shrunk)
    return (vectors * values.clamp(min=1e-12) ** power @ vectors.T).float()


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

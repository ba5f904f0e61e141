"""What a step of a mapper's training draws, and the terms of its loss."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import Pictures, ReadAhead
from clip2gan.data.samples import Samples, to_floats
from clip2gan.gap import Gap
from clip2gan.losses import cosine_distance, diversity_ratio, feature_distance, pixel_l1, pixel_l2
from clip2gan.mappers import Mapper
from clip2gan.perceptual import Distance, identity_distance, lpips_distance
from clip2gan.training.adversary import Adversary, Compared
from clip2gan.training.settings import SAMPLED, MapperTraining
from stylegan2 import Generator
from stylegan2.processes import Processes
from stylegan2.runs import step_generator
from stylegan2.training.engine import Terms


@dataclass(frozen=True)
class Networks:
    """The pretrained networks of the terms that `config` asks for, all frozen.

    Attributes:
        perceptual: distance of pictures; None: by CLIP's features.
        identity: likewise; None: by CLIP's embeddings.
    """

    perceptual: Distance | None = None
    identity: Distance | None = None

    @classmethod
    def load(cls, config: MapperTraining, device: torch.device) -> "Networks":
        """Load them; raises OSError or ValueError, in one line, where one is missing."""
        weights = config.weights
        wants_lpips = weights.perceptual and config.steps and config.perceptual != "clip"
        wants_recogniser = weights.identity and config.steps and config.identity is not None
        return cls(
            lpips_distance(config.perceptual, device) if wants_lpips else None,
            identity_distance(config.identity, device) if wants_recogniser and config.identity else None,
        )


@dataclass
class _Batch:
    """Pictures [N, 3, R, R], their CLIP features and embeddings [N, D]; latents w [K, w_dim] of the first K.

    They are the rows [N] of the batch that all processes work on.
    """

    images: Tensor
    features: list[Tensor]
    embeddings: Tensor
    w: Tensor
    rows: Tensor


@dataclass
class Objective:
    """The loss of a step, for this process and one of the step's `config.accumulate` turns.

    The random numbers are those of the whole batch, whatever its shares are.

    Attributes:
        drawn: of each of `pictures`, how many (the first ones) are trained on.
    """

    config: MapperTraining
    generator: Generator
    clip: ClipEncoder
    pictures: Sequence[Pictures]
    drawn: Sequence[int]
    samples: Samples
    gap: Gap
    mapper: Mapper
    adversary: Adversary | None
    networks: Networks
    processes: Processes
    _ahead: list[ReadAhead] = field(default_factory=list)

    def warmup(self, step: int, turn: int) -> Terms:
        """The terms of a step on cached pairs."""
        random = step_generator(self.config.seed, step)
        rows = torch.randint(len(self.samples.w), (self.config.warmup_batch,), generator=random)
        mine = self._rows([len(rows)], turn)
        e = self.gap.train(self.samples.embeddings[rows], random)[mine].to(self.clip.device)
        noise = self.mapper.loss_noise(len(rows), random)[mine]
        return {"latent": (1.0, self.mapper.loss(e, self.samples.w[rows[mine]].to(e), noise))}

    def reconstruction(self, step: int, turn: int) -> tuple[Terms, Compared]:
        """The terms of a step through the generator, and the pictures that were compared."""
        random = step_generator(self.config.seed, step)
        weights = self.config.weights
        if not self._ahead:
            self._ahead = [
                source.read_ahead(self._coming(number, step)) for number, source in enumerate(self.pictures)
            ]
        batch = self._draw(random, turn)
        e = self._noisy(batch, random)
        images = self.generator.synthesis(self.mapper(e), noise_mode="const")
        features: list[Tensor] = []
        embeddings = batch.embeddings
        if self._looks:
            features, embeddings = self.clip.features_and_embeddings(images)

        shown, real = self._compared(images), self._compared(batch.images)
        terms: dict[str, tuple[float, Tensor]] = {}

        def add(name: str, weight: float, value: Callable[[], Tensor]) -> None:
            if weight:
                terms[name] = weight, value()

        add("pixel_l1", weights.pixel_l1, lambda: pixel_l1(shown, real))
        add("pixel_l2", weights.pixel_l2, lambda: pixel_l2(shown, real))
        perceptual, identity = self.networks.perceptual, self.networks.identity
        add(
            "perceptual",
            weights.perceptual,
            lambda: perceptual(shown, real) if perceptual else feature_distance(features, batch.features),
        )
        add("cosine", weights.cosine, lambda: cosine_distance(embeddings, batch.embeddings))
        add(
            "identity",
            weights.identity,
            lambda: identity(shown, real) if identity else cosine_distance(embeddings, batch.embeddings),
        )
        if len(batch.w):
            known = batch.rows[: len(batch.w)]
            noise = self.mapper.loss_noise(self.config.batch, random)[known]
            add("latent", weights.latent, lambda: self.mapper.loss(e[: len(known)], batch.w, noise))
        if weights.diversity:
            e_near = self._noisy(batch, random)
            images_near = self.generator.synthesis(self.mapper(e_near), noise_mode="const")
            terms["diversity"] = (
                weights.diversity,
                diversity_ratio(e, e_near, shown, self._compared(images_near)),
            )
        if self.adversary is not None:
            terms["adversarial"] = weights.adversarial, self.adversary.fool(shown)
        places = torch.rand(self.config.batch, generator=random)[batch.rows].to(images)
        return terms, Compared(real, shown.detach(), places)

    def _compared(self, images: Tensor) -> Tensor:
        """Pictures at the size at which they are compared."""
        size = self.config.compared
        return F.adaptive_avg_pool2d(images, size) if images.shape[-1] > size else images

    @property
    def _looks(self) -> bool:
        """Whether CLIP sees the mapped pictures."""
        weights, networks = self.config.weights, self.networks
        by_features = weights.perceptual and networks.perceptual is None
        return bool(weights.cosine or by_features or (weights.identity and networks.identity is None))

    def _rows(self, sizes: Sequence[int], turn: int) -> Tensor:
        return self.processes.rows(sizes, turn, self.config.accumulate)

    def _noisy(self, batch: _Batch, random: torch.Generator) -> Tensor:
        """What the mapper is given for the batch, by random numbers for all processes' rows."""
        everyones = batch.embeddings.new_zeros(self.config.batch, batch.embeddings.shape[1])
        everyones[batch.rows] = batch.embeddings
        return self.gap.train(everyones, random)[batch.rows]

    def _choose(self, random: torch.Generator) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Of a whole batch: z and labels of the samples, and which pictures of each source."""
        given = self.config.parts()
        z, c = torch.empty(0), None
        if SAMPLED in self.config.data:
            known, *given = given
            z = torch.randn(known, self.generator.config.z_dim, generator=random)
            c = self.generator.draw_labels(len(z), random)
        sizes = zip(self.drawn, given, strict=True)
        return z, c, [torch.randint(drawn, (size,), generator=random) for drawn, size in sizes]

    def _coming(self, source: int, first: int) -> Iterator[Tensor]:
        """Which of a source's pictures each turn takes, from a step on."""
        for step in range(first, self.config.warmup_steps + self.config.steps):
            chosen = self._choose(step_generator(self.config.seed, step))[2][source]
            for turn in range(self.config.accumulate):
                yield chosen[self._rows([len(chosen)], turn)]

    @torch.no_grad()
    def _draw(self, random: torch.Generator, turn: int) -> _Batch:
        """This turn's rows of a batch, in equal parts from all sources, those with known latents first."""
        device = self.clip.device
        z, c, chosen = self._choose(random)
        images = []
        w = torch.empty(0, self.generator.config.w_dim, device=device)
        if len(z):
            mine = self._rows([len(z)], turn)
            ws = self.generator.mapping(z[mine].to(device), None if c is None else c[mine].to(device))
            w = ws[:, 0]
            images.append(self.generator.synthesis(ws, noise_mode="const"))
        for source, each in zip(self._ahead or self.pictures, chosen, strict=True):
            images.append(to_floats(source.batch(each[self._rows([len(each)], turn)])).to(device))
        all_images = torch.cat(images)
        features, embeddings = self.clip.features_and_embeddings(all_images)
        return _Batch(all_images, features, embeddings, w, self._rows(self.config.parts(), turn))

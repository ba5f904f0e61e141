"""Training an encoder, the fast start of inversion: pictures to latents, by the generator's own samples.

Nothing is labelled: a sample's latent is known because it was drawn, and every picture must come back when
the frozen generator draws what the encoder makes of it. Pictures from disk, of which no latent is known, may
be mixed in; of them only the second part counts.

A stopped run goes on exactly: all randomness of a step comes from (seed, step).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import Pictures, ReadAhead
from clip2gan.data.samples import to_floats
from clip2gan.devices import resolve_precision
from clip2gan.editing.encoder import LatentEncoder, encoder_for, save_encoder
from clip2gan.images import contact_sheet, to_picture, write_png
from clip2gan.images.xmp import COMPOSITE, make_packet
from clip2gan.losses import pixel_l1
from clip2gan.perceptual import Features, compare, load_features
from clip2gan.training.settings import SAMPLED, EncoderTraining, EncoderWeights
from stylegan2 import Generator
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder, step_generator
from stylegan2.training.engine import Phase, Step, Task, Terms, Trainer, Update, Updates
from stylegan2.training.preview import PREVIEW_SIDE
from stylegan2.training.schedule import rate_factor

RAMP_STEPS = 100  # over which the learning rate rises
STATISTICS = 4096  # latents that are drawn for their mean and deviation
PREVIEWS = 10  # over a run
PREVIEW_PICTURES = 16
RESULT = "encoder.safetensors"


def train_encoder(
    config: EncoderTraining,
    generator: Generator,
    clip: ClipEncoder,
    pictures: Sequence[Pictures],
    run: RunFolder,
    *,
    features: Features | None = None,
    checkpoint_seconds: float = 60,
) -> LatentEncoder:
    """Train an encoder in `run`, from its newest checkpoint if it has one; also writes encoder.safetensors.

    Args:
        config: the settings.
        generator: frozen; its weights do not change.
        clip: frozen likewise, on the generator's device.
        pictures: the opened sources of `config.data` other than "sampled", at the generator's resolution.
        run: its folder.
        features: what compares pictures; None: load those of `config.perceptual`.
        checkpoint_seconds: at most this much work is lost by a kill.

    Returns:
        The averaged encoder, frozen.

    Raises:
        ValueError: losses or gradients were not finite for many steps in a row, or a batch cannot be shared
            evenly by the processes.
    """
    config = dataclasses.replace(config, precision=resolve_precision(config.precision, clip.device))
    features = features or load_features(config.perceptual, clip)
    training = _Training(config, generator, clip, features, pictures, run, Processes(clip.device))
    Trainer(training.task(), run, training.processes, config.seed, checkpoint_seconds).train()
    if training.processes.is_first:
        save_encoder(training.average, run.path / RESULT)
    return training.average


class _Training:
    """The steps of an encoder's training, with what they share."""

    def __init__(
        self,
        config: EncoderTraining,
        generator: Generator,
        clip: ClipEncoder,
        features: Features,
        pictures: Sequence[Pictures],
        run: RunFolder,
        processes: Processes,
    ):
        self.config, self.generator, self.clip, self.pictures = config, generator, clip, pictures
        self.features, self.run, self.processes = features, run, processes
        self._ahead: list[ReadAhead] = []
        self.rows = processes.rows(config.shares(config.batch))
        self.encoder = untrained_encoder(config, generator).to(clip.device)
        self.average = deepcopy(self.encoder).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.encoder.trunk.parameters(), lr=config.lr, betas=(0.9, 0.99))
        size = PREVIEW_PICTURES
        random = step_generator(config.seed, -1)
        self._shown = self._draw(random, config.shares(size), torch.arange(size))[0]

    def task(self) -> Task:
        config = self.config
        averages = [(self.encoder, self.average)]
        return Task(
            parts={"encoder": self.encoder, "average": self.average, "optimizer": self.optimizer},
            phases=[Phase(steps=config.steps, step=self._step, averages=averages, ema=config.ema)],
            preview=self._preview,
            preview_every=max(1, config.steps // PREVIEWS),
        )

    def _step(self, step: Step) -> Updates:
        config = self.config
        if not self._ahead:
            self._ahead = [
                source.read_ahead(self._coming(number, step.number))
                for number, source in enumerate(self.pictures)
            ]
        images, w = self._draw(step.random, config.shares(config.batch), self.rows)
        yield Update(
            optimizer=self.optimizer,
            losses=lambda turn: _losses(
                config.weights, self.encoder, self.generator, self.features, images, w
            ),
            rates=[config.lr * rate_factor(step.index, config.steps, ramp=RAMP_STEPS)],
            precision=config.precision,
        )

    def _choose(
        self, random: torch.Generator, sizes: Sequence[int], rows: Tensor
    ) -> tuple[tuple[Tensor, Tensor | None], list[Tensor]]:
        """z and labels of all samples of a batch, and which of each source's pictures are in these rows."""
        given, start = list(sizes), 0
        z, c = torch.empty(0), None
        if SAMPLED in self.config.data:
            start = given.pop(0)
            z, c = _draw_z(self.generator, start, random)
        chosen = []
        for source, size in zip(self.pictures, given, strict=True):
            own = rows[(rows >= start) & (rows < start + size)] - start
            chosen.append(torch.randint(len(source), (size,), generator=random)[own])
            start += size
        return (z, c), chosen

    def _coming(self, source: int, first: int) -> Iterator[Tensor]:
        """Which of a source's pictures each step takes, from the first one on."""
        config = self.config
        for number in range(first, config.steps):
            random = step_generator(config.seed, number)
            yield self._choose(random, config.shares(config.batch), self.rows)[1][source]

    @torch.no_grad()
    def _draw(self, random: torch.Generator, sizes: Sequence[int], rows: Tensor) -> tuple[Tensor, Tensor]:
        """These rows of a batch that has so many pictures of each source, and the latents of the samples.

        The samples come first. The random numbers are those of the whole batch.
        """
        device = self.clip.device
        (z, c), chosen = self._choose(random, sizes, rows)
        images = []
        w = torch.empty(0, self.generator.config.w_dim, device=device)
        if len(z):
            w = _map(self.generator, z, c)[rows[rows < len(z)]].to(device)
            images.append(self.generator.synthesis(_broadcast(w, self.generator), noise_mode="const"))
        for source, each in zip(self._ahead or self.pictures, chosen, strict=True):
            images.append(to_floats(source.batch(each)).to(device))
        return torch.cat(images), w

    @torch.no_grad()
    def _preview(self, done: int) -> dict[str, float]:
        """Write pictures in a row, and below them what the generator makes of their codes."""
        ws = _broadcast(self.average(self._shown), self.generator)
        again = self.generator.synthesis(ws, noise_mode="const")
        images = [to_picture(image[None]) for image in torch.cat([self._shown, again])]
        sheet = contact_sheet(images, len(self._shown), most=PREVIEW_SIDE)
        path = self.run.samples / f"{done:08d}.png"
        write_png(path, sheet, {"rows": "pictures, and what comes back"}, xmp=make_packet(COMPOSITE))
        return {}


@torch.no_grad()
def untrained_encoder(config: EncoderTraining, generator: Generator) -> LatentEncoder:
    """The encoder of `config` for this generator, its weights drawn from the seed.

    Raises ValueError for a shape that cannot be.
    """
    shape = encoder_for(generator, config.channel_base, config.channel_max)
    random = step_generator(config.seed, -(2**40))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.initial_seed())
        encoder = LatentEncoder(shape)
    w = _map(generator, *_draw_z(generator, STATISTICS, random))
    encoder.w_mean.copy_(w.mean(0))
    encoder.w_std.copy_(w.std(0).clamp(min=1e-6))
    return encoder


def _losses(
    weights: EncoderWeights,
    encoder: LatentEncoder,
    generator: Generator,
    features: Features,
    images: Tensor,
    w: Tensor,
) -> Terms:
    """The terms of a batch; `w` [K, w_dim] are latents of the first K pictures."""
    found = encoder(images)
    terms: dict[str, tuple[float, Tensor]] = {}
    if weights.latent and len(w):
        distance = ((found[: len(w)] - w) / encoder.w_std).square().mean()
        terms["latent"] = weights.latent, distance
    if weights.pixel_l1 or weights.perceptual:
        again = generator.synthesis(_broadcast(found, generator), noise_mode="const")
        if weights.pixel_l1:
            terms["pixel_l1"] = weights.pixel_l1, pixel_l1(again, images)
        if weights.perceptual:
            with torch.no_grad():
                given = features(images)
            terms["perceptual"] = weights.perceptual, compare(features(again), given).mean()
    return terms


@torch.no_grad()
def _draw_z(generator: Generator, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Random z [count, z_dim] and labels."""
    return torch.randn(count, generator.config.z_dim, generator=random), generator.draw_labels(count, random)


def _map(generator: Generator, z: Tensor, c: Tensor | None) -> Tensor:
    """w [N, w_dim] of z [N, z_dim] and labels."""
    return generator.mapping(z.to(generator.mapping.w_avg.device), c)[:, 0]


def _broadcast(w: Tensor, generator: Generator) -> Tensor:
    return w[:, None].expand(-1, generator.num_ws, -1)

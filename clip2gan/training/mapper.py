"""Training a mapper: pictures through CLIP, the mapper and the frozen generator, back to the pictures.

No caption has a part in it. A step takes pictures, drawn from the generator or from disk, embeds them with
CLIP's image tower, adds the gap's noise, maps the embeddings to latents, and compares what the generator
makes of these with the pictures. Before that come quick steps that fit cached pairs of latent and embedding
only; they bring the mapper where pictures are worth comparing.

A stopped run goes on exactly: all randomness of a step comes from (seed, step).
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clip2gan.bundle import BundleInfo, write_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import Pictures
from clip2gan.data.samples import Samples, draw_samples, embed_pictures, plain_prompts, to_floats
from clip2gan.gap import Gap, Noise, fit_gap
from clip2gan.images import contact_sheet, write_png
from clip2gan.losses import cosine_distance, diversity_ratio, feature_distance, pixel_l1, pixel_l2
from clip2gan.mappers import Mapper, new_mapper
from clip2gan.pipeline import to_picture
from clip2gan.settings import flatten
from clip2gan.training.processes import Processes
from stylegan2 import Generator
from stylegan2.runs import RunFolder, pack, step_generator, unpack

SAMPLED = "sampled"  # the data source that is the generator itself
RAMP_STEPS = 100  # over which each phase's learning rate rises
PREVIEWS = 10  # over a run
PREVIEW_PROMPTS, PREVIEW_SEEDS = 12, 4


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms; one that is 0 is not computed.

    Attributes:
        pixel_l1: absolute difference of pictures at four scales.
        pixel_l2: squared difference at full size (CLIP2GAN's L_rec).
        perceptual: distance in the features of CLIP's image tower.
        cosine: distance of CLIP's embeddings.
        latent: the mapper's own objective, where the latent is known.
        diversity: CLIP2GAN's L_div; a second pass through the generator.
    """

    pixel_l1: float = 0.0
    pixel_l2: float = 0.0
    perceptual: float = 0.0
    cosine: float = 0.0
    latent: float = 0.0
    diversity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MapperTraining:
    """Settings of a training.

    Attributes:
        mapper: its kind.
        mapper_settings: fields of the mapper's config, other than the sizes.
        data: "sampled" (drawn from the generator), or the name of a folder or zip; several are mixed.
        samples: pairs of latent and embedding drawn once, for statistics, the warm-up and the gap's memory.
        gap: the remedy for the modality gap, a kind of `clip2gan.gap`.
        gap_settings: fields of the gap that are not fitted.
        noise: added to embeddings in training; None: the gap's own (c3 has one).
        prompts: a file of plain prompts for the gap and the previews; None: those of the package.
        warmup_steps: first steps, on cached pairs alone; with batches of `warmup_batch`, from `warmup_lr`.
        steps: steps through the generator after that; with batches of `batch`, from `lr`. 0 for mappers that
            learn a distribution, which a comparison of pictures would narrow to its middle.
        ema: how much of the averaged weights a step keeps; the average is what is stored in the end.
        precision: "fp32", or "bf16" for the forward passes.
        seed: where all random numbers come from.
    """

    mapper: str = "mlp"
    mapper_settings: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = (SAMPLED,)
    samples: int = 16384
    gap: str = "posterior"
    gap_settings: Mapping[str, Any] = field(default_factory=dict)
    noise: Noise | None = field(default_factory=Noise)
    prompts: str | None = None
    weights: LossWeights = field(default_factory=LossWeights)
    warmup_steps: int = 2000
    warmup_batch: int = 256
    warmup_lr: float = 2e-3
    steps: int = 2000
    batch: int = 16
    lr: float = 3e-4
    ema: float = 0.998
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; choose fp32 or bf16")
        for name in ("samples", "batch", "warmup_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.steps, self.warmup_steps) < 0 or self.steps + self.warmup_steps == 0:
            raise ValueError("steps and warmup_steps must be 0 or more, and one of them above 0")
        if self.steps > 0 and not any(dataclasses.astuple(self.weights)):
            raise ValueError(
                "steps are asked for, but all loss weights are 0; set one, as weights.pixel_l1=1"
            )

    def flat(self) -> dict[str, Any]:
        """All settings in one level, as a run folder keeps and compares them."""
        return flatten(dataclasses.asdict(self))


PRESETS: dict[str, MapperTraining] = {
    # For the avatars: a quarter of an hour on two cores.
    "avatars": MapperTraining(
        mapper_settings={"width": 384, "sample_sigma": 0.3},
        samples=24576,
        noise=Noise("unit", 0.3),
        weights=LossWeights(pixel_l1=1.0, perceptual=1.0, cosine=2.0, latent=0.5),
        warmup_steps=4000,
        steps=1200,
        batch=32,
        precision="bf16",
    ),
    # The other two mappers on the avatars: some minutes each, on pairs of latent and embedding alone.
    "avatars-flow": MapperTraining(
        mapper="flow",
        samples=24576,
        noise=Noise("unit", 0.3),
        warmup_steps=8000,
        warmup_lr=1e-3,
        steps=0,
    ),
    "avatars-diffusion": MapperTraining(
        mapper="diffusion",
        mapper_settings={"width": 384, "blocks": 3},
        samples=24576,
        noise=Noise("unit", 0.3),
        warmup_steps=12000,
        warmup_lr=1e-3,
        steps=0,
        ema=0.999,
    ),
    # CLIP2GAN. From the paper: W+, 12 layers without shortcuts, L2, L_div, Gaussian noise of variance 0.36 on
    # the feature, no remedy for the gap. Ours, as the paper leaves them open: the width, all weights, the
    # learning rate, batch and steps, mean 0 for the noise, and its unit (0.6 of an embedding's root mean
    # square, so noise 0.6 times as long as the embedding). CLIP's features stand in for LPIPS.
    "clip2gan": MapperTraining(
        mapper_settings={"width": 512, "residual": False, "sample_sigma": 0.6},
        gap="none",
        noise=Noise("unit", 0.6),
        weights=LossWeights(pixel_l2=1.0, perceptual=1.0, diversity=0.1),
        steps=20000,
        lr=1e-4,
    ),
    # CLIP-Flow. From the abstract: Real-NVP with activation normalisation and invertible linear maps, texts
    # fed in directly. Ours: all else, the likelihood of latents as the objective among it.
    "clip-flow": MapperTraining(
        mapper="flow",
        mapper_settings={"steps": 12, "width": 512, "condition": 512},
        samples=131_072,
        gap="none",
        warmup_steps=100_000,
        warmup_lr=5e-4,
        steps=0,
    ),
    # clip2latent. From its code: W, z-scored latents, unit noise of the embedding's own length, the embedding
    # hidden from a fifth of a batch, guidance 2, batches of 512 at 1e-4, no remedy for the gap. Ours: a
    # residual network in place of a transformer, and how many samples and steps.
    "clip2latent": MapperTraining(
        mapper="diffusion",
        mapper_settings={"width": 1024, "blocks": 6, "guidance": 2.0},
        samples=131_072,
        gap="none",
        noise=Noise("unit", 1.0),
        warmup_steps=200_000,
        warmup_batch=512,
        warmup_lr=1e-4,
        steps=0,
        ema=0.9999,
    ),
}


def train_mapper(
    config: MapperTraining,
    generator: Generator,
    clip: ClipEncoder,
    pictures: Sequence[Pictures],
    run: RunFolder,
    *,
    checkpoint_seconds: float = 60,
) -> Path:
    """Train a mapper in `run`, from its newest checkpoint if it has one, and write `run.path / "bundle"`.

    Args:
        config: the settings.
        generator: frozen; its weights do not change.
        clip: frozen likewise, on the generator's device.
        pictures: the opened sources of `config.data` other than "sampled", at the generator's resolution.
        run: its folder.
        checkpoint_seconds: at most this much work is lost by a kill.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: a loss or gradient is not finite; no checkpoint has it.
    """
    device = clip.device
    processes = Processes(device)
    cache = run.path / "cache"
    samples = draw_samples(generator, clip, config.samples, config.seed, cache / SAMPLED, processes)
    prompts = plain_prompts(config.prompts)
    chosen = prompts[:: -(-len(prompts) // PREVIEW_PROMPTS)]
    gap = _fit_gap(config, clip, samples, pictures, prompts=prompts, cache=cache, processes=processes)

    mapper = untrained_mapper(config, generator, clip)
    mapper.fit_statistics(gap.from_image(samples.embeddings), samples.w)
    mapper = mapper.to(device)
    average = deepcopy(mapper).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(mapper.parameters(), lr=config.lr, betas=(0.9, 0.99))

    first = 0
    checkpoint = run.latest()
    if checkpoint is not None:
        first, tensors, _ = checkpoint
        unpack(tensors, mapper=mapper, average=average, optimizer=optimizer)

    total = config.warmup_steps + config.steps
    step_losses = _StepLosses(config, generator, clip, pictures, samples, gap, mapper, processes)
    figures = _Means()
    saved = time.monotonic()
    for step in tqdm(range(first, total), "training", total, initial=first, disable=None, leave=False):
        if step == config.warmup_steps:
            optimizer.state.clear()  # the second moments of another loss
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        terms = step_losses(step)
        values = processes.average([value.detach() for _, value in terms.values()])
        if bad := [name for name, value in zip(terms, values, strict=True) if not value.isfinite()]:
            raise ValueError(f"step {step}: the loss {', '.join(bad)} is not finite; try a lower --lr")
        optimizer.zero_grad(set_to_none=True)
        torch.stack([weight * value for weight, value in terms.values()]).sum().backward()
        gradients = [parameter.grad for parameter in mapper.parameters() if parameter.grad is not None]
        for gradient, mean in zip(gradients, processes.average(gradients), strict=True):
            gradient.copy_(mean)
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            raise ValueError(f"step {step}: the gradient is not finite; try a lower --lr")
        optimizer.step()
        _move_average(average, mapper, min(config.ema, (1 + step) / (10 + step)))

        done = step + 1
        if not processes.is_first:
            continue
        figures.add({name: value.item() for name, value in zip(terms, values, strict=True)})
        if done % (50 if step >= config.warmup_steps else 500) == 0 or done == total:
            run.log(done, **figures.pop(), lr=learning_rate(config, step))
        if done % max(1, total // PREVIEWS) == 0 or done == total:
            sheet = preview(average, generator, clip, gap, chosen)
            write_png(run.samples / f"{done:08d}.png", sheet, {"prompts": chosen})
        if time.monotonic() - saved > checkpoint_seconds or done == total:
            run.save(done, pack(mapper=mapper, average=average, optimizer=optimizer), {})
            saved = time.monotonic()

    bundle = run.path / "bundle"
    if not processes.is_first:
        return bundle
    info = BundleInfo(
        name=run.path.name,
        description=f"Trained by clip2gan train-mapper for {total} steps.",
        licences={} if generator.licence is None else {"generator": generator.licence},
    )
    write_bundle(bundle, generator, clip, {config.mapper: average}, gap, info=info)
    return bundle


def untrained_mapper(config: MapperTraining, generator: Generator, clip: ClipEncoder) -> Mapper:
    """The mapper of `config` for this generator and CLIP, its weights drawn from the seed.

    Raises ValueError for an unknown kind or setting.
    """
    sizes = {"embed_dim": clip.embed_dim, "num_ws": generator.num_ws, "w_dim": generator.config.w_dim}
    mapper = new_mapper(config.mapper, {**config.mapper_settings, **sizes})
    mapper.init_weights(step_generator(config.seed, -(2**40)))
    return mapper


@torch.no_grad()
def preview(
    mapper: Mapper, generator: Generator, clip: ClipEncoder, gap: Gap, prompts: Sequence[str]
) -> Image.Image:
    """A sheet of pictures: a row for each prompt, a column for each seed from 0."""
    images = []
    for e_text in clip.encode_texts(prompts).split(1):
        for seed in range(PREVIEW_SEEDS):
            random = torch.Generator().manual_seed(seed)
            ws = mapper.sample(gap.to_image(e_text, 1, random)[:, 0], 1, random)[:, 0]
            images.append(to_picture(generator.synthesis(ws, noise_mode="const")))
    return contact_sheet(images, PREVIEW_SEEDS)


def learning_rate(config: MapperTraining, step: int) -> float:
    """A ramp, then half a cosine: from warmup_lr to a tenth in the warm-up, from lr to a tenth after it."""
    warm = step < config.warmup_steps
    start, length = (0, config.warmup_steps) if warm else (config.warmup_steps, config.steps)
    top = config.warmup_lr if warm else config.lr
    progress = (step - start) / length
    decay = 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * progress))
    return top * decay * min(1.0, (step - start + 1) / RAMP_STEPS)


@dataclass
class _Batch:
    """Pictures [N, 3, R, R], their embeddings [N, D], and the latents w [K, w_dim] of the first K.

    They are the rows [N] of the batch that all processes work on.
    """

    images: Tensor
    embeddings: Tensor
    w: Tensor
    rows: Tensor


@dataclass
class _StepLosses:
    """The loss terms of a step: name -> (weight, value)."""

    config: MapperTraining
    generator: Generator
    clip: ClipEncoder
    pictures: Sequence[Pictures]
    samples: Samples
    gap: Gap
    mapper: Mapper
    processes: Processes

    def __call__(self, step: int) -> dict[str, tuple[float, Tensor]]:
        random = step_generator(self.config.seed, step)
        with torch.autocast(self.clip.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self._warmup(random) if step < self.config.warmup_steps else self._reconstruction(random)

    def _warmup(self, random: torch.Generator) -> dict[str, tuple[float, Tensor]]:
        rows = torch.randint(len(self.samples.w), (self.config.warmup_batch,), generator=random)
        mine = self.processes.rows([len(rows)])
        e = self.gap.train(self.samples.embeddings[rows], random)[mine].to(self.clip.device)
        return {"latent": (1.0, self.mapper.loss(e, self.samples.w[rows[mine]].to(e), random))}

    def _reconstruction(self, random: torch.Generator) -> dict[str, tuple[float, Tensor]]:
        weights = self.config.weights
        batch = self._draw(random)
        e = self._noisy(batch, random)
        images = self.generator.synthesis(self.mapper(e), noise_mode="const")

        terms: dict[str, tuple[float, Tensor]] = {}
        if weights.pixel_l1:
            terms["pixel_l1"] = weights.pixel_l1, pixel_l1(images, batch.images)
        if weights.pixel_l2:
            terms["pixel_l2"] = weights.pixel_l2, pixel_l2(images, batch.images)
        if weights.perceptual:
            with torch.no_grad():
                target = self.clip.image_features(batch.images)
            terms["perceptual"] = (
                weights.perceptual,
                feature_distance(self.clip.image_features(images), target),
            )
        if weights.cosine:
            distance = cosine_distance(self.clip.encode_images(images), batch.embeddings)
            terms["cosine"] = weights.cosine, distance
        if weights.latent and len(batch.w):
            terms["latent"] = weights.latent, self.mapper.loss(e[: len(batch.w)], batch.w, random)
        if weights.diversity:
            e_near = self._noisy(batch, random)
            images_near = self.generator.synthesis(self.mapper(e_near), noise_mode="const")
            terms["diversity"] = weights.diversity, diversity_ratio(e, e_near, images, images_near)
        return terms

    def _noisy(self, batch: _Batch, random: torch.Generator) -> Tensor:
        """What the mapper is given for the batch, by random numbers for all processes' rows."""
        everyones = batch.embeddings.new_zeros(self.config.batch, batch.embeddings.shape[1])
        everyones[batch.rows] = batch.embeddings
        return self.gap.train(everyones, random)[batch.rows]

    @torch.no_grad()
    def _draw(self, random: torch.Generator) -> _Batch:
        """This process's rows of a batch, in equal parts from all sources, those with known latents first."""
        device, sources = self.clip.device, list(self.pictures)
        known = self.config.data.count(SAMPLED)
        total = known + len(sources)
        bounds = [self.config.batch * part // total for part in range(total + 1)]
        sizes = [stop - start for start, stop in pairwise(bounds[known:])]
        if known:
            sizes = [bounds[known], *sizes]

        images = []
        w = torch.empty(0, self.generator.config.w_dim, device=device)
        if known:
            z = torch.randn(bounds[known], self.generator.config.z_dim, generator=random)
            c = self.generator.draw_labels(len(z), random)
            mine = self.processes.rows([len(z)])
            ws = self.generator.mapping(z[mine].to(device), None if c is None else c[mine].to(device))
            w = ws[:, 0]
            images.append(self.generator.synthesis(ws, noise_mode="const"))
        for source, size in zip(sources, sizes[bool(known) :], strict=True):
            chosen = torch.randint(len(source), (size,), generator=random)
            images.append(to_floats(source.batch(chosen[self.processes.rows([size])])).to(device))
        all_images = torch.cat(images)
        return _Batch(all_images, self.clip.encode_images(all_images), w, self.processes.rows(sizes))


class _Means:
    """Means of figures since they were last taken."""

    def __init__(self):
        self._values: list[dict[str, float]] = []

    def add(self, figures: dict[str, float]) -> None:
        self._values.append(figures)

    def pop(self) -> dict[str, float]:
        last = self._values[-1].keys()  # the terms of the phase that we are in
        means = {
            name: sum(row[name] for row in rows) / len(rows)
            for name in last
            if (rows := [row for row in self._values if name in row])
        }
        self._values.clear()
        return means


def _fit_gap(
    config: MapperTraining,
    clip: ClipEncoder,
    samples: Samples,
    pictures: Sequence[Pictures],
    *,
    prompts: Sequence[str],
    cache: Path,
    processes: Processes,
) -> Gap:
    """The gap between all sources' pictures, in random order, and the plain prompts."""
    parts = [samples.embeddings] if SAMPLED in config.data else []
    parts += [
        embed_pictures(source, clip, cache / f"pictures-{index}", processes)
        for index, source in enumerate(pictures)
    ]
    embeddings = torch.cat(parts)
    order = torch.randperm(len(embeddings), generator=step_generator(config.seed, -(2**41)))
    gap = fit_gap(config.gap, embeddings[order], clip.encode_texts(list(prompts)), config.noise)
    return dataclasses.replace(gap, **config.gap_settings)


@torch.no_grad()
def _move_average(average: Mapper, mapper: Mapper, keep: float) -> None:
    for mean, value in zip(average.parameters(), mapper.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)

"""Training an encoder, the fast start of inversion: pictures to latents, by the generator's own samples.

Nothing is labelled: a sample's latent is known because it was drawn, and every picture must come back when
the frozen generator draws what the encoder makes of it. Pictures from disk, of which no latent is known, may
be mixed in; of them only the second part counts.

A stopped run goes on exactly: all randomness of a step comes from (seed, step).
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import Pictures
from clip2gan.data.samples import to_floats
from clip2gan.editing.encoder import LatentEncoder, encoder_for, save_encoder
from clip2gan.images import contact_sheet, to_picture, write_png
from clip2gan.losses import feature_distance, pixel_l1
from clip2gan.settings import flatten
from stylegan2 import Generator
from stylegan2.runs import RunFolder, pack, step_generator, unpack

SAMPLED = "sampled"  # the data source that is the generator itself
RAMP_STEPS = 100  # over which the learning rate rises
STATISTICS = 4096  # latents that are drawn for their mean and deviation
PREVIEWS = 10  # over a run
PREVIEW_PICTURES = 16
RESULT = "encoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """Weights of the terms; one that is 0 is not computed.

    Attributes:
        latent: squared distance of standardised latents, where they are known.
        pixel_l1: absolute difference of pictures at four scales.
        perceptual: distance in the features of CLIP's image tower.
    """

    latent: float = 0.5
    pixel_l1: float = 1.0
    perceptual: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EncoderTraining:
    """Settings of a training.

    Attributes:
        data: "sampled" (drawn from the generator), or the name of a folder or zip; several are mixed.
        channel_base: of the encoder, see `EncoderConfig`.
        channel_max: likewise.
        weights: of the loss terms.
        steps: how many.
        batch: pictures in each of them.
        lr: learning rate at first; it falls to a tenth.
        ema: how much of the averaged weights a step keeps; the average is what is stored in the end.
        precision: "fp32", or "bf16" for the forward passes.
        seed: where all random numbers come from.
    """

    data: tuple[str, ...] = (SAMPLED,)
    channel_base: int = 16384
    channel_max: int = 256
    weights: EncoderWeights = field(default_factory=EncoderWeights)
    steps: int = 20000
    batch: int = 16
    lr: float = 1e-3
    ema: float = 0.998
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; choose fp32 or bf16")
        for name in ("steps", "batch", "channel_base", "channel_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not any(dataclasses.astuple(self.weights)):
            raise ValueError("all loss weights are 0; set one, as weights.pixel_l1=1")
        if self.data.count(SAMPLED) == 0 and not (self.weights.pixel_l1 or self.weights.perceptual):
            raise ValueError(
                "latents are known of samples alone; mix them in (--data sampled) or compare pictures"
            )

    def flat(self) -> dict[str, Any]:
        """All settings in one level, as a run folder keeps and compares them."""
        return flatten(dataclasses.asdict(self))


PRESETS: dict[str, EncoderTraining] = {
    # Half an hour on one core; small, so that it fits into the package.
    "avatars": EncoderTraining(
        channel_base=1024, channel_max=64, steps=3000, batch=24, lr=2e-3, precision="bf16"
    ),
    "large": EncoderTraining(),
}


def train_encoder(
    config: EncoderTraining,
    generator: Generator,
    clip: ClipEncoder,
    pictures: Sequence[Pictures],
    run: RunFolder,
    *,
    checkpoint_seconds: float = 60,
) -> LatentEncoder:
    """Train an encoder in `run`, from its newest checkpoint if it has one; also writes encoder.safetensors.

    Args:
        config: the settings.
        generator: frozen; its weights do not change.
        clip: frozen likewise, on the generator's device; its features compare pictures.
        pictures: the opened sources of `config.data` other than "sampled", at the generator's resolution.
        run: its folder.
        checkpoint_seconds: at most this much work is lost by a kill.

    Returns:
        The averaged encoder, frozen.

    Raises:
        ValueError: a loss is not finite; no checkpoint has it.
    """
    encoder = untrained_encoder(config, generator).to(clip.device)
    average = deepcopy(encoder).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(encoder.trunk.parameters(), lr=config.lr, betas=(0.9, 0.99))
    first = 0
    if (checkpoint := run.latest()) is not None:
        first, tensors, _ = checkpoint
        unpack(tensors, encoder=encoder, average=average, optimizer=optimizer)

    shown = _draw(config, generator, pictures, clip.device, step=-1, batch=PREVIEW_PICTURES)[0]
    sums: dict[str, float] = {}
    counted = 0
    saved = time.monotonic()
    steps = range(first, config.steps)
    for step in tqdm(steps, "training", config.steps, initial=first, disable=None, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        images, w = _draw(config, generator, pictures, clip.device, step, config.batch)
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            terms = _losses(config.weights, encoder, generator, clip, images, w)
        values = {name: value.item() for name, (_, value) in terms.items()}
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise ValueError(f"step {step}: the loss {', '.join(bad)} is not finite; try a lower --lr")
        optimizer.zero_grad(set_to_none=True)
        torch.stack([weight * value for weight, value in terms.values()]).sum().backward()
        optimizer.step()
        _move_average(average, encoder, min(config.ema, (1 + step) / (10 + step)))

        done = step + 1
        sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        counted += 1
        if done % 50 == 0 or done == config.steps:
            means = {name: value / counted for name, value in sums.items()}
            run.log(done, **means, lr=learning_rate(config, step))
            sums, counted = {}, 0
        if done % max(1, config.steps // PREVIEWS) == 0 or done == config.steps:
            sheet = preview(average, generator, shown)
            write_png(run.samples / f"{done:08d}.png", sheet, {"rows": "pictures, and what comes back"})
        if time.monotonic() - saved > checkpoint_seconds or done == config.steps:
            run.save(done, pack(encoder=encoder, average=average, optimizer=optimizer), {})
            saved = time.monotonic()
    save_encoder(average, run.path / RESULT)
    return average


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
    w = _draw_latents(generator, STATISTICS, random)
    encoder.w_mean.copy_(w.mean(0))
    encoder.w_std.copy_(w.std(0).clamp(min=1e-6))
    return encoder


@torch.no_grad()
def preview(encoder: LatentEncoder, generator: Generator, images: Tensor) -> Image.Image:
    """Pictures [N, 3, R, R] in a row, and below them what the generator makes of their codes."""
    again = generator.synthesis(_broadcast(encoder(images), generator), noise_mode="const")
    return contact_sheet([to_picture(image[None]) for image in torch.cat([images, again])], len(images))


def learning_rate(config: EncoderTraining, step: int) -> float:
    """A ramp, then half a cosine down to a tenth."""
    decay = 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
    return config.lr * decay * min(1.0, (step + 1) / RAMP_STEPS)


def _losses(
    weights: EncoderWeights,
    encoder: LatentEncoder,
    generator: Generator,
    clip: ClipEncoder,
    images: Tensor,
    w: Tensor,
) -> dict[str, tuple[float, Tensor]]:
    """The terms of a batch, name -> (weight, value); `w` [K, w_dim] are latents of the first K pictures."""
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
                features = clip.image_features(images)
            distance = feature_distance(clip.image_features(again), features)
            terms["perceptual"] = weights.perceptual, distance
    return terms


@torch.no_grad()
def _draw(
    config: EncoderTraining,
    generator: Generator,
    pictures: Sequence[Pictures],
    device: torch.device,
    step: int,
    batch: int,
) -> tuple[Tensor, Tensor]:
    """A step's pictures, in equal parts from all sources, and the latents of the first ones, the samples."""
    random = step_generator(config.seed, step)
    known = config.data.count(SAMPLED)
    total = known + len(pictures)
    bounds = [batch * part // total for part in range(total + 1)]
    w = _draw_latents(generator, bounds[known], random).to(device)
    images = [generator.synthesis(_broadcast(w, generator), noise_mode="const")] if len(w) else []
    for source, (start, stop) in zip(pictures, pairwise(bounds[known:]), strict=True):
        chosen = torch.randint(len(source), (stop - start,), generator=random)
        images.append(to_floats(source.batch(chosen)).to(device))
    return torch.cat(images), w


@torch.no_grad()
def _draw_latents(generator: Generator, count: int, random: torch.Generator) -> Tensor:
    """w [count, w_dim] of random z and labels."""
    z = torch.randn(count, generator.config.z_dim, generator=random)
    c = generator.draw_labels(count, random)
    return generator.mapping(z.to(generator.mapping.w_avg.device), c)[:, 0]


def _broadcast(w: Tensor, generator: Generator) -> Tensor:
    return w[:, None].expand(-1, generator.num_ws, -1)


@torch.no_grad()
def _move_average(average: LatentEncoder, encoder: LatentEncoder, keep: float) -> None:
    for mean, value in zip(average.parameters(), encoder.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)

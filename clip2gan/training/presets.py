"""What a mapper's training can be set to; presets by kind and size, and of the published systems."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from clip2gan.defaults import SMALL
from clip2gan.devices import PRECISIONS
from clip2gan.gap import Noise
from clip2gan.perceptual import LPIPS_TRUNKS
from clip2gan.settings import flatten
from clip2gan.training.adversary import AdversaryConfig

SAMPLED = "sampled"  # the data source that is the generator itself
PERCEPTUAL = ("clip", *LPIPS_TRUNKS)
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms; one that is 0 is not computed.

    Attributes:
        pixel_l1: absolute difference of pictures at four scales.
        pixel_l2: squared difference at full size (CLIP2GAN's L_rec).
        perceptual: distance of features; of which network, `MapperTraining.perceptual` says.
        cosine: distance of CLIP's embeddings, the mapped picture's and the given one's.
        identity: distance of a face recogniser's features (`MapperTraining.identity`), or of CLIP's without
            one.
        latent: the mapper's own objective, where the latent is known.
        diversity: CLIP2GAN's L_div; a second pass through the generator.
        adversarial: how much the pictures look unreal to a discriminator that learns beside the mapper.
    """

    pixel_l1: float = 0.0
    pixel_l2: float = 0.0
    perceptual: float = 0.0
    cosine: float = 0.0
    identity: float = 0.0
    latent: float = 0.0
    diversity: float = 0.0
    adversarial: float = 0.0

    def __post_init__(self):
        if min(dataclasses.astuple(self)) < 0:
            raise ValueError("weights of the loss must be 0 or more")


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
        noise: what is done to embeddings in training; None: the gap's own (c3 has one).
        prompts: a file of plain prompts for the gap and the previews; None: those of the package.
        compared: pixels along a side at which pictures are compared, and seen by the discriminator, where the
            generator's are larger. CLIP sees no more of them either.
        perceptual: the perceptual term's network: "clip", the image tower that is there anyway; or lpips-vgg,
            lpips-alex or lpips-squeeze, whose trunks torchvision fetches.
        identity: an ONNX file of a face recogniser like ArcFace's for the identity term.
        adversary: the discriminator of the adversarial term.
        warmup_steps: first steps, on cached pairs alone; with batches of `warmup_batch`, from `warmup_lr`.
        steps: steps through the generator after that; with batches of `batch`, from `lr`. 0 for mappers that
            learn a distribution, which a comparison of pictures would narrow to its middle.
        accumulate: turns in which a batch is worked through, to save memory.
        schedule: of both learning rates after a short ramp: "cosine", to a tenth, or "constant".
        ema: how much of the averaged weights a step keeps; the average is what is stored in the end.
        validation: pictures held out to measure by, some times over a run; the best average is stored. At
            most a tenth of a source of pictures is.
        precision: of the forward passes, see `clip2gan.devices.resolve_precision`.
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
    compared: int = 256
    perceptual: str = "clip"
    identity: str | None = None
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    warmup_steps: int = 2000
    warmup_batch: int = 256
    warmup_lr: float = 2e-3
    steps: int = 2000
    batch: int = 16
    lr: float = 3e-4
    accumulate: int = 1
    schedule: str = "cosine"
    ema: float = 0.998
    validation: int = 64
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self):
        for name, choices in (
            ("precision", PRECISIONS),
            ("schedule", SCHEDULES),
            ("perceptual", PERCEPTUAL),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}")
        for name in ("samples", "batch", "warmup_batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "warmup_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.compared < 8 or self.compared & (self.compared - 1):
            raise ValueError(f"compared must be a power of two from 8 on, got {self.compared}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be from 0 to below 1, got {self.ema}")
        if self.validation < 0:
            raise ValueError(f"validation must be 0 or more, got {self.validation}")
        if min(self.steps, self.warmup_steps) < 0 or self.steps + self.warmup_steps == 0:
            raise ValueError("steps and warmup_steps must be 0 or more, and one of them above 0")
        if self.steps > 0 and not any(dataclasses.astuple(self.weights)):
            raise ValueError(
                "steps are asked for, but all loss weights are 0; set one, as weights.pixel_l1=1"
            )

    def parts(self) -> list[int]:
        """Of a batch, how many pictures come from each source: the generator first, where it is one."""
        known = self.data.count(SAMPLED)
        bounds = [self.batch * part // len(self.data) for part in range(len(self.data) + 1)]
        given = [stop - start for start, stop in pairwise(bounds[known:])]
        return [bounds[known], *given] if known else given

    def flat(self) -> dict[str, Any]:
        """All settings in one level, as a run folder keeps and compares them."""
        return flatten(dataclasses.asdict(self))


PRESETS: dict[str, MapperTraining] = {
    # Ours, by kind of mapper and size of generator (see `default_preset`). For small generators
    # half an hour of one core; flow and diffusion some minutes, on pairs of latent and embedding alone.
    "small": MapperTraining(
        mapper_settings={"width": 384, "sample_sigma": 0.3},
        samples=24576,
        noise=Noise("unit", 0.15),
        weights=LossWeights(pixel_l1=1.0, perceptual=1.0, cosine=2.0, latent=0.5),
        warmup_steps=4000,
        steps=4000,
        batch=32,
    ),
    "small-flow": MapperTraining(
        mapper="flow",
        samples=24576,
        noise=Noise("unit", 0.3),
        warmup_steps=8000,
        warmup_lr=1e-3,
        steps=0,
    ),
    "small-diffusion": MapperTraining(
        mapper="diffusion",
        mapper_settings={"width": 384, "blocks": 3},
        samples=24576,
        noise=Noise("unit", 0.3),
        warmup_steps=12000,
        warmup_lr=1e-3,
        steps=0,
        ema=0.999,
    ),
    # For large generators: a GPU.
    "large": MapperTraining(
        mapper_settings={"width": 512, "sample_sigma": 0.3},
        samples=32768,
        noise=Noise("unit", 0.15),
        weights=LossWeights(pixel_l1=1.0, perceptual=1.0, cosine=2.0, latent=0.5),
        warmup_steps=10000,
        steps=20000,
        batch=16,
    ),
    "large-flow": MapperTraining(
        mapper="flow",
        mapper_settings={"steps": 12, "width": 512, "condition": 512},
        samples=65536,
        noise=Noise("unit", 0.3),
        warmup_steps=50_000,
        warmup_lr=5e-4,
        steps=0,
    ),
    "large-diffusion": MapperTraining(
        mapper="diffusion",
        mapper_settings={"width": 1024, "blocks": 6},
        samples=65536,
        noise=Noise("unit", 0.3),
        warmup_steps=100_000,
        warmup_lr=3e-4,
        steps=0,
        ema=0.9995,
    ),
    # CLIP2GAN. From the paper: W+, 12 layers without shortcuts, the terms L2, perceptual, adversarial
    # (WGAN-GP), identity, diversity; Gaussian noise of variance 0.36 on the feature; no remedy for the gap.
    # Ours, as the paper leaves them open: the width, all weights, both learning rates, batch and steps, mean
    # 0 for the noise, and its unit (0.6 of an embedding's root mean square, so noise 0.6 times as long as the
    # embedding). CLIP's features stand in for LPIPS and ArcFace (--perceptual lpips-vgg, --identity FILE).
    "clip2gan": MapperTraining(
        mapper_settings={"width": 512, "residual": False, "sample_sigma": 0.6},
        gap="none",
        noise=Noise("unit", 0.6),
        weights=LossWeights(pixel_l2=1.0, perceptual=1.0, identity=0.5, diversity=0.1, adversarial=0.01),
        adversary=AdversaryConfig(kind="wgan-gp", lr=1e-4, penalty=10.0, interval=1),
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


def default_preset(mapper: str, resolution: int) -> str:
    """The name of ours for this kind of mapper and a generator of this many pixels along a side.

    That of the mlp for a kind that there is not, which is refused where it is looked up.
    """
    size = "small" if resolution <= SMALL else "large"
    return f"{size}-{mapper}" if f"{size}-{mapper}" in PRESETS else size

"""What the trainings on this side of CLIP can be set to: mappers, encoders, captioned GANs.

Each field carries its help and its limits, from which the options of the commands are made.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from clip2gan.defaults import LPIPS
from clip2gan.devices import PRECISIONS
from clip2gan.noise import Noise
from clip2gan.settings import flatten
from stylegan2.settings import LARGEST_SEED, check_limits, setting

SAMPLED = "sampled"  # the data source that is the generator itself
SOURCES = "sampled|DIR|ZIP|SHARDS"
PRECISION_HELP = "Precision of forward passes; auto: 16 bit where the device is quick in it."
PERCEPTUAL_HELP = (
    "Network of the perceptual term: CLIP's image tower; shift-tolerant LPIPS on VGG16 or AlexNet, whose "
    "weights come in a package (the extra perceptual); or LPIPS, whose weights are fetched."
)
ADVERSARIES = ("wgan-gp", "logistic")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms of a mapper's loss; one that is 0 is not computed."""

    pixel_l1: float = setting(0.0, "Absolute difference of images at four scales.")
    pixel_l2: float = setting(0.0, "Squared difference at full size (CLIP2GAN's L_rec).")
    perceptual: float = setting(0.0, "Distance of features, those of the network that `perceptual` names.")
    cosine: float = setting(0.0, "Distance of CLIP's embeddings, the mapped image's and the given one's.")
    identity: float = setting(
        0.0, "Distance of a face recogniser's features (`identity`), or of CLIP's without one."
    )
    latent: float = setting(0.0, "The mapper's own objective, where the latent is known.")
    diversity: float = setting(0.0, "CLIP2GAN's L_div; a second pass through the generator.")
    adversarial: float = setting(
        0.0, "How unreal images look to a discriminator that learns beside the mapper."
    )

    def __post_init__(self):
        if min(dataclasses.astuple(self)) < 0:
            raise ValueError("weights of the loss must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """The discriminator of a mapper's adversarial term, and its loss."""

    kind: str = setting(
        "logistic",
        "wgan-gp: a critic whose gradient has length 1 (Gulrajani et al. 2017), as in CLIP2GAN; logistic: "
        "StyleGAN2's loss, with R1.",
    )
    lr: float = setting(1e-3, "Learning rate of the discriminator.", above=0)
    penalty: float = setting(5.0, "Weight of the gradient penalty: 10 in WGAN-GP; of R1, gamma / 2.", least=0)
    interval: int = setting(
        4, "Steps from one penalty to the next, which counts as much as so many.", least=1
    )
    channel_base: int = setting(
        0, "Width of the discriminator, as the generator's is given; 0: as wide as the generator.", least=0
    )

    def __post_init__(self):
        if self.kind not in ADVERSARIES:
            raise ValueError(f"unknown adversary {self.kind!r}; choose from {', '.join(ADVERSARIES)}")
        check_limits(self, "adversary.")


@dataclass(frozen=True, kw_only=True)
class MapperTraining:
    """Settings of the training of a mapper. Raises ValueError for a value out of its limits."""

    mapper: str = setting("mlp", "Kind of the mapper.", metavar="mlp|flow|diffusion")
    mapper_settings: Mapping[str, Any] = setting({}, "Fields of the mapper's config, other than the sizes.")
    data: tuple[str, ...] = setting(
        (SAMPLED,),
        "Images to reconstruct: drawn from the generator, or given; several sources are mixed (repeatable).",
        metavar=SOURCES,
    )
    samples: int = setting(
        16384,
        "Pairs of latent and embedding to draw first, for statistics, warm-up and gap.",
        least=4,  # calibration compares this many
    )
    samples_from: str | None = setting(
        None,
        "Take the pairs from a folder that tools.draw_samples filled from this generator, the lowest seeds "
        "first, rather than draw them; several trainings can share it.",
        metavar="DIR",
    )
    samples_first: int = setting(
        0, "Lowest seed that is taken from `samples_from`, so that those below it can serve tests.", least=0
    )
    gap: str = setting(
        "posterior",
        "Remedy for the modality gap: none, shift, collapse, c3, whiten, memory, knn or posterior.",
        metavar="KIND",
    )
    gap_settings: Mapping[str, Any] = setting({}, "Fields of the gap that are not fitted.")
    noise: Noise | None = setting(
        Noise(), "What is done to embeddings in training; None: the gap's own (c3 has one)."
    )
    prompts: str | None = setting(
        None, "Plain texts about the domain, one per line, for the gap and the previews.", metavar="FILE"
    )
    compared: int = setting(
        256,
        "Pixels along a side at which images are compared, and seen by the discriminator, where the "
        "generator's are larger; CLIP sees no more either.",
    )
    perceptual: str = setting("clip", PERCEPTUAL_HELP, choices=("clip", *LPIPS))
    identity: str | None = setting(
        None, "A face recogniser like ArcFace's, for the identity term.", metavar="FILE.onnx", is_file=True
    )
    adversary: AdversaryConfig = setting(AdversaryConfig(), "The discriminator of the adversarial term.")
    weights: LossWeights = setting(LossWeights(), "Weights of the terms of the loss.")
    warmup_steps: int = setting(2000, "Steps on cached pairs alone, before those through the generator.")
    warmup_batch: int = setting(256, "Pairs per step of the warm-up.", least=1)
    warmup_lr: float = setting(2e-3, "Learning rate of the warm-up.", above=0)
    steps: int = setting(
        2000,
        "Steps through the generator; flow and diffusion, which have none, count steps on cached pairs.",
        least=0,
    )
    batch: int = setting(16, "Images per step; pairs, for flow and diffusion.", least=1)
    lr: float = setting(3e-4, "Learning rate.", above=0)
    accumulate: int = setting(1, "Parts to compute a batch in, to save memory.", least=1)
    schedule: str = setting(
        "cosine",
        "Course of the learning rate after a short ramp: down to a tenth along a cosine, or constant.",
        choices=("cosine", "constant"),
    )
    ema: float = setting(
        0.998, "How much of the averaged weights a step keeps; the average is stored.", least=0, below=1
    )
    validation: int = setting(
        64,
        "Images held out to measure by, at most a tenth of a source; the average that does best is stored.",
        least=0,
    )
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS)
    seed: int = setting(0, "Random seed.", least=0, most=LARGEST_SEED)

    def __post_init__(self):
        check_limits(self)
        if self.compared < 8 or self.compared & (self.compared - 1):
            raise ValueError(f"compared must be a power of two from 8 on, got {self.compared}")
        if min(self.steps, self.warmup_steps) < 0 or self.steps + self.warmup_steps == 0:
            raise ValueError("steps and warmup_steps must be 0 or more, and one of them above 0")
        if self.steps > 0 and not any(dataclasses.astuple(self.weights)):
            raise ValueError(
                "steps are asked for, but all loss weights are 0; set one, as weights.pixel_l1=1"
            )

    def parts(self) -> list[int]:
        """Of a batch, how many images come from each source: the generator first, where it is one."""
        return share_out(self.batch, self.data)

    def flat(self) -> dict[str, Any]:
        """All settings in one level, as a run folder keeps and compares them."""
        return flatten(dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """Weights of the terms of an encoder's loss; one that is 0 is not computed."""

    latent: float = setting(0.5, "Squared distance of standardised latents, where they are known.", least=0)
    pixel_l1: float = setting(1.0, "Absolute difference of images at four scales.", least=0)
    perceptual: float = setting(
        1.0, "Distance of features, those of the network that `perceptual` names.", least=0
    )

    def __post_init__(self):
        check_limits(self, "weights.")


@dataclass(frozen=True, kw_only=True)
class EncoderTraining:
    """Settings of the training of an encoder. Raises ValueError for a value out of its limits."""

    data: tuple[str, ...] = setting(
        (SAMPLED,),
        "Images to learn from: drawn from the generator, or given; several sources are mixed (repeatable).",
        metavar=SOURCES,
    )
    channel_base: int = setting(16384, "Width of the encoder, see `EncoderConfig`.", least=1)
    channel_max: int = setting(256, "Most channels of a layer.", least=1)
    perceptual: str = setting("clip", PERCEPTUAL_HELP, choices=("clip", *LPIPS))
    weights: EncoderWeights = setting(EncoderWeights(), "Weights of the terms of the loss.")
    steps: int = setting(20000, "Training steps.", least=1)
    batch: int = setting(16, "Images per step.", least=1)
    lr: float = setting(1e-3, "Learning rate; it falls to a tenth.", above=0)
    ema: float = setting(
        0.998, "How much of the averaged weights a step keeps; the average is stored.", least=0, below=1
    )
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS)
    seed: int = setting(0, "Random seed.", least=0, most=LARGEST_SEED)

    def __post_init__(self):
        check_limits(self)
        if not any(dataclasses.astuple(self.weights)):
            raise ValueError("all loss weights are 0; set one, as weights.pixel_l1=1")
        if self.data.count(SAMPLED) == 0 and not (self.weights.pixel_l1 or self.weights.perceptual):
            raise ValueError(
                "latents are known of samples alone; mix them in (--data sampled) or compare pictures"
            )

    def shares(self, count: int) -> list[int]:
        """Of so many images, how many come from each source: the samples first, if there are any."""
        return share_out(count, self.data)

    def flat(self) -> dict[str, Any]:
        """All settings in one level, as a run folder keeps and compares them."""
        return flatten(dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class GanTraining:
    """Settings of the training of a captioned GAN. Raises ValueError for a value out of its limits."""

    steps: int = setting(25_000, "Steps of the adversarial phase, of a captioned GAN.", least=0)
    batch: int = setting(32, "Images per step.", least=1)
    mapping_steps: int = setting(0, "Length of the mapping phase, in steps; 0 without an encoder.", least=0)
    flow_guidance: float = setting(
        1.5, "Above 1, the mapping phase has texts said more clearly than the captions do.", least=0
    )
    lr: float = setting(
        1e-3, "Learning rate, which rises at first, then falls to a tenth along a cosine.", least=0
    )
    mapping_lr: float = setting(
        0.1,
        "Learning rate of the mapping network, whose stored weights are 100 times what is used.",
        least=0,
    )
    discriminator_lr: float = setting(2e-3, "Learning rate of the discriminator.", least=0)
    synthesis_start: float = setting(
        0.0, "Share of the adversarial phase after which the synthesis network learns too.", least=0, most=1
    )
    clip_weight: float = setting(
        4.0, "Weight of CLIP's guidance, of a captioned GAN; 0 leaves it out.", least=0
    )
    contrastive: float = setting(
        0.1,
        "Within CLIP's guidance, weight of the contrastive form over a batch.",
        least=0,
    )
    clip_share: float = setting(1.0, "Share of a batch's images that CLIP looks at.", least=0, most=1)
    anchor: float = setting(
        0.0,
        "Weight of the distance to the latents that the mapping network gave at the start of the adversarial "
        "phase, which keeps their variety.",
        least=0,
    )
    matching: float = setting(
        0.5, "Weight of real images with wrong texts among what the discriminator must refuse.", least=0
    )
    r1_gamma: float = setting(1.0, "Weight of the R1 gradient penalty.", least=0)
    r1_interval: int = setting(16, "Steps from one gradient penalty to the next.", least=1)
    augment: float = setting(
        0.6,
        "What adaptive augmentation aims at: the mean sign of the discriminator's logits of real images; 0 "
        "switches it off.",
        least=0,
    )
    augment_images: int = setting(100_000, "Images in which the augmentation can move by 1.", least=1)
    pseudo_share: float = setting(
        0.1, "How often a captioned image is given a pseudo-text instead of a caption.", least=0, most=1
    )
    pseudo_noise: float = setting(0.3, "Length of the noise on pseudo-texts' unit embeddings.", least=0)
    text_noise: float = setting(0.1, "Length of the noise on captions' unit embeddings.", least=0)
    style_mixing: float = setting(
        0.0, "How often the layers of an image take two latents of its text.", least=0, most=1
    )
    noise: bool = setting(True, "Whether the synthesis network adds noise.")
    ema_images: int = setting(10_000, "Half-life of the averaged weights, in images.", least=1)
    half: bool = setting(True, "Compute in 16 bit where it is safe: at all resolutions from 8 up.")
    seed: int = setting(0, "Random seed.", least=0, most=LARGEST_SEED)

    def __post_init__(self):
        check_limits(self)
        if self.steps + self.mapping_steps == 0:
            raise ValueError("steps and mapping_steps must be 0 or more, and one of them above 0")

    @property
    def total_steps(self) -> int:
        return self.mapping_steps + self.steps


def share_out(count: int, data: tuple[str, ...]) -> list[int]:
    """Of so many images, how many come from each source of `data`: the samples first, if there are any."""
    known = data.count(SAMPLED)
    bounds = [count * part // len(data) for part in range(len(data) + 1)]
    given = [stop - start for start, stop in pairwise(bounds[known:])]
    return [bounds[known], *given] if known else given

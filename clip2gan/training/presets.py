"""Presets of a mapper's training, by kind and size, and of the published systems."""

from dataclasses import replace

from clip2gan.defaults import SMALL
from clip2gan.noise import Noise
from clip2gan.training.settings import AdversaryConfig, LossWeights, MapperTraining

# What ours share: a mapper trained through the generator, and those that learn a distribution from pairs of
# latent and embedding alone, which a comparison of images would narrow to its middle.
MLP = MapperTraining(
    noise=Noise("unit", 0.15),
    weights=LossWeights(pixel_l1=1.0, perceptual=1.0, cosine=2.0, latent=0.5),
)
FLOW = MapperTraining(mapper="flow", noise=Noise("unit", 0.3), steps=0)
DIFFUSION = replace(FLOW, mapper="diffusion")

PRESETS: dict[str, MapperTraining] = {
    # Ours, by kind of mapper and size of generator (see `default_preset`). For small generators:
    # half an hour of one core; flow and diffusion some minutes.
    "small": replace(
        MLP,
        mapper_settings={"width": 384, "sample_sigma": 0.3},
        samples=24576,
        warmup_steps=4000,
        steps=4000,
        batch=32,
    ),
    "small-flow": replace(FLOW, samples=24576, warmup_steps=8000, warmup_lr=1e-3),
    "small-diffusion": replace(
        DIFFUSION,
        mapper_settings={"width": 384, "blocks": 3},
        samples=24576,
        warmup_steps=12000,
        warmup_lr=1e-3,
        ema=0.999,
    ),
    # For large generators: a GPU.
    "large": replace(
        MLP,
        mapper_settings={"width": 512, "sample_sigma": 0.3},
        samples=32768,
        warmup_steps=10000,
        steps=20000,
    ),
    "large-flow": replace(
        FLOW,
        mapper_settings={"steps": 12, "width": 512, "condition": 512},
        samples=65536,
        warmup_steps=50_000,
        warmup_lr=5e-4,
    ),
    "large-diffusion": replace(
        DIFFUSION,
        mapper_settings={"width": 1024, "blocks": 6},
        samples=65536,
        warmup_steps=100_000,
        warmup_lr=3e-4,
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

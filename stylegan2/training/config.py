"""What the training of a GAN from pictures alone can be set to."""

from dataclasses import dataclass

from stylegan2.config import GeneratorConfig
from stylegan2.training.losses import Focus


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training computes.

    autoencoder_images, mapping_steps, adversarial_images: lengths of the phases. batch: pictures a step.
    autoencoder_lr falls to a tenth along a cosine. latent_noise: standard deviation added to w.
    perceptual_weight: of `train`'s perceptual distance in the reconstruction loss.
    autoencoder_weight: of the reconstruction loss kept in the adversarial phase. r1_gamma, r1_interval: lazy
    R1. style_mixing: probability that the layers of a picture take two latents. ema_images: half-life of the
    averaged weights. half: run all resolutions from 8 up in 16 bit.
    """

    generator: GeneratorConfig
    seed: int = 0
    batch: int = 16
    autoencoder_images: int = 0
    autoencoder_lr: float = 2e-3
    latent_noise: float = 0.1
    focus: Focus | None = None
    perceptual_weight: float = 0.0
    mapping_steps: int = 0
    adversarial_images: int = 25_000_000
    adversarial_lr: float = 2e-3
    autoencoder_weight: float = 0.0
    noise: bool = True
    r1_gamma: float = 1.0
    r1_interval: int = 16
    style_mixing: float = 0.9
    ema_images: int = 10_000
    half: bool = True

    @property
    def autoencoder_steps(self) -> int:
        return -(-self.autoencoder_images // self.batch)

    @property
    def adversarial_steps(self) -> int:
        return -(-self.adversarial_images // self.batch)

    @property
    def total_steps(self) -> int:
        return self.autoencoder_steps + self.mapping_steps + self.adversarial_steps

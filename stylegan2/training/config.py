"""What the training of a GAN from pictures alone can be set to, and presets."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stylegan2.config import GeneratorConfig
from stylegan2.settings import LARGEST_SEED, check_limits, setting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Focus:
    """A box whose details count more: (left, top, right, bottom) as fractions of a picture, and a weight.

    Raises ValueError for what is no box within the picture, and a weight that is not above 0.
    """

    box: tuple[float, float, float, float]
    weight: float

    def __post_init__(self):
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1 and 0 < self.weight < 1e6):
            raise ValueError(f"{self.box} with weight {self.weight:g} is no box from 0 to 1, weight above 0")

    def crop(self, images: "Tensor") -> "Tensor":
        height, width = images.shape[2:]
        left, top, right, bottom = self.box
        return images[
            :, :, round(top * height) : round(bottom * height), round(left * width) : round(right * width)
        ]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training computes. Raises ValueError for a value out of its limits."""

    generator: GeneratorConfig
    seed: int = setting(0, "Random seed.", least=0, most=LARGEST_SEED)
    batch: int = setting(16, "Images per step.", least=1)
    autoencoder_images: int = setting(0, "Length of the autoencoder phase, in images.", least=0)
    autoencoder_lr: float = setting(
        2e-3, "Learning rate of the autoencoder phase; falls to a tenth.", least=0
    )
    latent_noise: float = setting(
        0.1, "Standard deviation of the noise on the encoder's latents, in the first two phases.", least=0
    )
    focus: Focus | None = setting(
        None,
        "A box, in fractions of a side, that reconstructions must get right: it counts WEIGHT times as much.",
        metavar="LEFT,TOP,RIGHT,BOTTOM,WEIGHT",
    )
    perceptual_weight: float = setting(
        0.0, "Weight of the perceptual distance in the loss of reconstructions.", least=0
    )
    mapping_steps: int = setting(0, "Length of the mapping phase, in steps.", least=0)
    adversarial_images: int = setting(25_000_000, "Length of the adversarial phase, in images.", least=0)
    adversarial_lr: float = setting(2e-3, "Learning rate of the adversarial phase.", above=0)
    autoencoder_weight: float = setting(
        0.0, "Weight of the loss of reconstructions in the adversarial phase.", least=0
    )
    noise: bool = setting(True, "Whether the synthesis network adds noise.")
    r1_gamma: float = setting(1.0, "Weight of the R1 gradient penalty.", least=0)
    r1_interval: int = setting(16, "Steps from one gradient penalty to the next.", least=1)
    style_mixing: float = setting(0.9, "How often the layers of an image take two latents.", least=0, most=1)
    ema_images: int = setting(10_000, "Half-life of the averaged weights, in images.", least=1)
    half: bool = setting(True, "Compute in 16 bit where it is safe: at all resolutions from 8 up.")

    def __post_init__(self):
        check_limits(self)

    @property
    def autoencoder_steps(self) -> int:
        return -(-self.autoencoder_images // self.batch)

    @property
    def adversarial_steps(self) -> int:
        return -(-self.adversarial_images // self.batch)

    @property
    def total_steps(self) -> int:
        return self.autoencoder_steps + self.mapping_steps + self.adversarial_steps


PRESETS: dict[str, TrainingConfig] = {
    # Small pictures on two CPU cores: most is learned by an autoencoder.
    "small": TrainingConfig(
        GeneratorConfig(z_dim=128, w_dim=128, img_resolution=64, channel_base=2048, channel_max=128),
        batch=8,
        autoencoder_images=200_000,
        mapping_steps=12_000,
        adversarial_images=8_000,
        adversarial_lr=5e-4,
        autoencoder_weight=10.0,
        noise=False,
        style_mixing=0.5,
    ),
    # Config F of the StyleGAN2 paper: adversarial training alone, for large collections and GPUs.
    "stylegan2": TrainingConfig(GeneratorConfig(), batch=32, r1_gamma=10.0),
}


def preset_at(name: str, resolution: int) -> TrainingConfig:
    """A preset for pictures of this many pixels along a side. Raises ValueError for no power of two."""
    config = PRESETS[name]
    return replace(config, generator=replace(config.generator, img_resolution=resolution))

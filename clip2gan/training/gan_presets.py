"""What the training of a captioned GAN can be set to, and presets."""

from dataclasses import dataclass

NOT_NEGATIVE = (
    *("lr", "mapping_lr", "discriminator_lr", "flow_guidance", "clip_weight", "contrastive", "anchor"),
    *("matching", "r1_gamma", "augment", "pseudo_noise", "text_noise"),
)


@dataclass(frozen=True, kw_only=True)
class GanTraining:
    """Settings of a training.

    Attributes:
        steps: of the adversarial phase, with batches of `batch`.
        mapping_steps: of the mapping phase before it; 0 without an encoder.
        flow_guidance: above 1 the mapping phase has texts said more clearly than the captions do.
        lr, mapping_lr, discriminator_lr: rates of Adam, which rise at first, then fall to a tenth along a
            cosine. The mapping network's stored weights are 100 times what is used, and so is its rate.
        synthesis_start: share of the adversarial phase after which the synthesis network learns too.
        clip_weight: of the guidance by CLIP; 0 leaves it out.
        contrastive: weight, within that, of the contrastive form over a batch, beside the cosine.
        clip_share: of a batch's pictures that CLIP looks at.
        anchor: weight of the distance to the latents that the mapping network gave at the start of the
            adversarial phase, which keeps their variety.
        matching: weight of real pictures with wrong texts among what the discriminator learns to refuse.
        r1_gamma, r1_interval: lazy R1.
        augment: what adaptive augmentation aims at, the mean sign of the discriminator's logits of real
            pictures; 0 switches it off. It moves by 1 in `augment_images` pictures.
        pseudo_share: how often a captioned picture is given a pseudo-text instead of a caption.
        pseudo_noise, text_noise: lengths of the noise on pseudo-texts' and captions' unit embeddings.
        style_mixing: probability that the layers of a picture take two latents of its text.
        noise: whether the synthesis network adds noise.
        ema_images: half-life of the averaged weights.
        half: 16 bit from 8 px up, where it is safe.
        seed: where all random numbers come from.
    """

    steps: int = 25_000
    batch: int = 32
    mapping_steps: int = 0
    flow_guidance: float = 1.5
    lr: float = 1e-3
    mapping_lr: float = 0.1
    discriminator_lr: float = 2e-3
    synthesis_start: float = 0.0
    clip_weight: float = 4.0
    contrastive: float = 0.1
    clip_share: float = 1.0
    anchor: float = 0.0
    matching: float = 0.5
    r1_gamma: float = 1.0
    r1_interval: int = 16
    augment: float = 0.6
    augment_images: int = 100_000
    pseudo_share: float = 0.1
    pseudo_noise: float = 0.3
    text_noise: float = 0.1
    style_mixing: float = 0.0
    noise: bool = True
    ema_images: int = 10_000
    half: bool = True
    seed: int = 0

    def __post_init__(self):
        for name in ("batch", "r1_interval", "augment_images", "ema_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.steps, self.mapping_steps) < 0 or self.steps + self.mapping_steps == 0:
            raise ValueError("steps and mapping_steps must be 0 or more, and one of them above 0")
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("clip_share", "pseudo_share", "synthesis_start", "style_mixing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")

    @property
    def total_steps(self) -> int:
        return self.mapping_steps + self.steps


PRESETS: dict[str, GanTraining] = {
    # From a generator of the same pictures and its encoder (--init): about an hour of a core at 64 px.
    "finetune": GanTraining(
        steps=4000,
        batch=16,
        mapping_steps=6000,
        lr=2e-4,
        mapping_lr=0.1,
        discriminator_lr=1e-3,
        synthesis_start=0.1,
        clip_weight=8.0,
        anchor=0.3,
        noise=False,
    ),
    # From scratch, for small pictures.
    "small": GanTraining(batch=16, noise=False),
    # From scratch or from any checkpoint, for large collections and GPUs.
    "stylegan2": GanTraining(steps=800_000, r1_gamma=10.0, augment_images=500_000),
}

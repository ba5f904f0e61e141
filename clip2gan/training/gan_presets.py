"""Presets of a captioned GAN's training."""

from clip2gan.training.settings import GanTraining

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

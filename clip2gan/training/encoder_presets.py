"""Presets of an encoder's training."""

from clip2gan.training.settings import EncoderTraining

PRESETS: dict[str, EncoderTraining] = {
    # For small generators: half an hour of one core.
    "small": EncoderTraining(channel_base=1024, channel_max=64, steps=3000, batch=24, lr=2e-3),
    "large": EncoderTraining(),
}

"""Training a StyleGAN2 from pictures alone."""

from stylegan2.training.loop import Pictures, TrainingConfig, averaged_networks, train

__all__ = ["Pictures", "TrainingConfig", "averaged_networks", "train"]

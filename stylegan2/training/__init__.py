"""Training a StyleGAN2 from pictures alone."""

from stylegan2.training.config import TrainingConfig
from stylegan2.training.gan import Pictures, averaged_networks, train

__all__ = ["Pictures", "TrainingConfig", "averaged_networks", "train"]

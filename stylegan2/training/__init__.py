"""Training a StyleGAN2 from pictures alone."""

from typing import TYPE_CHECKING

from stylegan2.lazy import lazy_names

if TYPE_CHECKING:
    from stylegan2.training.config import TrainingConfig
    from stylegan2.training.gan import Pictures, averaged_networks, train

__all__ = ["Pictures", "TrainingConfig", "averaged_networks", "train"]

__getattr__ = lazy_names(
    __name__,
    {
        "Pictures": "stylegan2.training.gan",
        "TrainingConfig": "stylegan2.training.config",
        "averaged_networks": "stylegan2.training.gan",
        "train": "stylegan2.training.gan",
    },
)

"""StyleGAN2 on its own: generator, discriminator, training, and the files they are kept in.

Importing this package is quick: torch and the rest load with the first use of a public name.
"""

from typing import TYPE_CHECKING

from stylegan2.lazy import lazy_names

if TYPE_CHECKING:
    from stylegan2.checkpoints import load_generator
    from stylegan2.config import GeneratorConfig
    from stylegan2.discriminator import Discriminator, Encoder
    from stylegan2.generator import Generator, save_generator

__all__ = ["Discriminator", "Encoder", "Generator", "GeneratorConfig", "load_generator", "save_generator"]

__getattr__ = lazy_names(
    __name__,
    {
        "Discriminator": "stylegan2.discriminator",
        "Encoder": "stylegan2.discriminator",
        "Generator": "stylegan2.generator",
        "GeneratorConfig": "stylegan2.config",
        "load_generator": "stylegan2.checkpoints",
        "save_generator": "stylegan2.generator",
    },
)

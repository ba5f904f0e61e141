"""StyleGAN2 on its own: generator, discriminator, training, and the files they are kept in."""

from stylegan2.checkpoints import load_generator
from stylegan2.config import GeneratorConfig
from stylegan2.discriminator import Discriminator, Encoder
from stylegan2.generator import Generator, save_generator

__all__ = ["Discriminator", "Encoder", "Generator", "GeneratorConfig", "load_generator", "save_generator"]

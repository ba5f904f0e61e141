"""StyleGAN2 on its own: generator, discriminator, training, and the files they are kept in."""

from stylegan2.checkpoints import load_generator
from stylegan2.discriminator import Discriminator, Encoder
from stylegan2.generator import Generator, GeneratorConfig, save_generator

__all__ = ["Discriminator", "Encoder", "Generator", "GeneratorConfig", "load_generator", "save_generator"]

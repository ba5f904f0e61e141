"""The adversarial term of a mapper's training: a discriminator that learns beside it.

It sees the pictures that are to be reconstructed as real, and what the generator makes of the mapped
embeddings as fake, so that details come back which CLIP does not tell (CLIP2GAN, Wang et al. 2022).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clip2gan.training.settings import AdversaryConfig
from stylegan2 import Discriminator, Generator
from stylegan2.seeds import seed_torch
from stylegan2.training.engine import Terms
from stylegan2.training.losses import discriminator_loss, generator_loss, r1_penalty


@dataclass
class Compared:
    """Pictures [N, 3, R, R], given and mapped, and a random number in [0, 1) for each of them [N]."""

    real: Tensor
    fake: Tensor
    places: Tensor


class Adversary:
    """A discriminator with its optimizer, both part of a checkpoint.

    A step calls `fool` in the mapper's loss, and then `losses` of the same pictures.
    """

    def __init__(
        self,
        config: AdversaryConfig,
        generator: Generator,
        seed: int,
        device: torch.device,
        most_pixels: int = 256,
    ):
        """A discriminator of the generator's pictures, shrunk to `most_pixels` along a side if larger."""
        self.config = config
        shape = generator.config
        if shape.architecture == "mobile":  # a discriminator is as StyleGAN2's
            shape = replace(shape, architecture="skip", widths=None)
        resolution = min(shape.img_resolution, most_pixels)
        shape = replace(shape, c_dim=0, num_fp16_res=0, img_resolution=resolution)
        if shape.widths:
            shape = replace(shape, widths=shape.widths[: len(shape.block_resolutions)])
        if config.channel_base:
            shape = replace(shape, channel_base=config.channel_base)
        with torch.random.fork_rng(devices=[]):
            seed_torch(seed)
            # Pictures are judged one by one: a batch may be shared by processes.
            self.discriminator = Discriminator(shape, minibatch_std=False)
        self.discriminator.to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=config.lr, betas=(0.0, 0.99))

    def fool(self, fake: Tensor) -> Tensor:
        """The mapper's term for its pictures [N, 3, R, R]."""
        logits = self.discriminator(fake)
        return -logits.mean() if self.config.kind == "wgan-gp" else generator_loss(logits)

    def losses(self, step: int, pictures: Compared) -> Terms:
        """The discriminator's terms. WGAN-GP looks at its gradient between real and fake, at `places`."""
        real, fake = pictures.real, pictures.fake
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake])).split(len(real))
        if self.config.kind == "wgan-gp":
            terms = {"critic": (1.0, fake_logits.mean() - real_logits.mean())}
        else:
            terms = {"discriminator": (1.0, discriminator_loss(real_logits, fake_logits))}
        if step % self.config.interval == 0:
            terms["penalty"] = self.config.penalty * self.config.interval, self._penalty(pictures)
        return terms

    def _penalty(self, pictures: Compared) -> Tensor:
        if self.config.kind == "logistic":
            return r1_penalty(self.discriminator, pictures.real)
        between = pictures.real.lerp(pictures.fake, pictures.places[:, None, None, None]).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

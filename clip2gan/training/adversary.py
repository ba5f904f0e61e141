"""The adversarial term of a mapper's training: a discriminator that learns beside it.

It sees the pictures that are to be reconstructed as real, and what the generator makes of the mapped
embeddings as fake, so that details come back which CLIP does not tell (CLIP2GAN, Wang et al. 2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from clip2gan.training.processes import Processes
from stylegan2 import Discriminator, Generator
from stylegan2.training.losses import discriminator_loss, generator_loss, r1_penalty

KINDS = ("wgan-gp", "logistic")


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Settings of the discriminator and its loss.

    Attributes:
        kind: "wgan-gp", the paper's (Gulrajani et al. 2017): a critic whose gradient has length 1; or
            "logistic", StyleGAN2's, with R1.
        lr: of its Adam.
        penalty: weight of the gradient's penalty: 10 in WGAN-GP; of R1, gamma / 2.
        interval: the penalty is taken at every such step only, and counts so many times as much.
        channel_base: of the discriminator's width, as the generator's; 0: as wide as the generator.
    """

    kind: str = "logistic"
    lr: float = 1e-3
    penalty: float = 5.0
    interval: int = 4
    channel_base: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown adversary {self.kind!r}; choose from {', '.join(KINDS)}")
        if self.interval < 1:
            raise ValueError(f"adversary.interval must be at least 1, got {self.interval}")
        if self.lr <= 0 or self.penalty < 0:
            raise ValueError("adversary.lr must be above 0 and adversary.penalty 0 or more")


class Adversary:
    """A discriminator with its optimizer, both part of a checkpoint.

    A step calls `fool` in the mapper's loss, then `learn` on the same pictures, then `step`.
    """

    def __init__(self, config: AdversaryConfig, generator: Generator, seed: int, device: torch.device):
        self.config = config
        shape = replace(generator.config, c_dim=0, num_fp16_res=0)
        if config.channel_base:
            shape = replace(shape, channel_base=config.channel_base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Pictures are judged one by one: a batch may be shared by processes.
            self.discriminator = Discriminator(shape, minibatch_std=False)
        self.discriminator.requires_grad_(False).to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=config.lr, betas=(0.0, 0.99))

    def fool(self, fake: Tensor) -> Tensor:
        """The mapper's term for its pictures [N, 3, R, R]."""
        logits = self.discriminator(fake)
        return -logits.mean() if self.config.kind == "wgan-gp" else generator_loss(logits)

    def learn(self, step: int, real: Tensor, fake: Tensor, places: Tensor, share: float) -> dict[str, Tensor]:
        """Add `share` of the discriminator's gradients on pictures [N, 3, R, R]; returns its terms.

        `places` [N], random in [0, 1), are where between real and fake WGAN-GP looks at its gradient.
        """
        self.discriminator.requires_grad_(True)
        fake = fake.detach()
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake])).split(len(real))
        if self.config.kind == "wgan-gp":
            terms = {"critic": fake_logits.mean() - real_logits.mean()}
        else:
            terms = {"discriminator": discriminator_loss(real_logits, fake_logits)}
        loss = next(iter(terms.values()))
        if step % self.config.interval == 0:
            terms["penalty"] = self._penalty(real, fake, places)
            loss = loss + self.config.penalty * self.config.interval * terms["penalty"]
        (share * loss).backward()
        self.discriminator.requires_grad_(False)
        return {name: value.detach() for name, value in terms.items()}

    def step(self, step: int, processes: Processes) -> None:
        """Move the discriminator by the mean gradients of all processes, and forget them.

        Raises ValueError where they are not finite.
        """
        parameters = self.discriminator.parameters()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        average(processes, gradients)
        if not nn.utils.get_total_norm(gradients).isfinite():
            raise ValueError(
                f"step {step}: the discriminator's gradient is not finite; "
                "begin another run with a lower adversary.lr or adversary.penalty"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _penalty(self, real: Tensor, fake: Tensor, places: Tensor) -> Tensor:
        if self.config.kind == "logistic":
            return r1_penalty(self.discriminator, real)
        between = real.lerp(fake, places[:, None, None, None]).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def average(processes: Processes, gradients: Sequence[Tensor]) -> None:
    """Replace gradients, in place, by their mean over all processes."""
    for gradient, mean in zip(gradients, processes.average(gradients), strict=True):
        gradient.copy_(mean)

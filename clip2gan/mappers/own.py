"""The mapping network of a generator that was trained on CLIP's embeddings, in the place of a mapper."""

from typing import ClassVar

import torch
from torch import Tensor

from clip2gan.mappers.base import Mapper, MapperConfig, row_noise
from stylegan2 import Generator

ANSWERS = 64  # that are averaged to the best single one
SPREAD_ANSWERS = 1024  # of which the spread of latents is measured


class OwnMapping(Mapper):
    """Noise and embedding -> ws, by `generator.mapping`, of which this holds no copy.

    The embeddings are those of texts; for a picture the gap gives one (`clip2gan.gap.TextSide`).
    """

    kind: ClassVar[str] = "none"
    is_random: ClassVar[bool] = True

    def __init__(self, generator: Generator):
        shape = generator.config
        super().__init__(MapperConfig(embed_dim=shape.c_dim, num_ws=shape.num_ws, w_dim=shape.w_dim))
        self._generator = (generator,)  # in a tuple, so that its weights do not count as this module's

    def init_weights(self, generator: torch.Generator) -> None:
        """Nothing: the weights are the generator's."""

    @torch.no_grad()
    def fit_spread(self, e: Tensor) -> None:
        """Take the latents' statistics from answers to one embedding e [1, D]."""
        w = self.sample(e, SPREAD_ANSWERS, torch.Generator().manual_seed(0))[0, :, 0]
        self.fit_statistics(e, w)

    def forward(self, e: Tensor) -> Tensor:
        """The mean of answers to the same noise for every embedding."""
        return self.sample(e, ANSWERS, torch.Generator().manual_seed(0), same_noise=True).mean(1)

    def sample(self, e: Tensor, num: int, generator: torch.Generator, same_noise: bool = False) -> Tensor:
        """As in `Mapper`; with `same_noise` all embeddings share the noise of the first one."""
        own = self._generator[0]
        noise = row_noise(generator, 1 if same_noise else len(e), num, own.config.z_dim).to(e.device)
        z = noise.expand(len(e), -1, -1).flatten(0, 1)
        return own.mapping(z, e.repeat_interleave(num, dim=0)).unflatten(0, (len(e), num))

    def loss_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """[num, z_dim], normal."""
        return torch.randn(num, self._generator[0].config.z_dim, generator=generator)

    def loss(self, e: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Squared error of latents. The generator's own training is `clip2gan.training.gan`."""
        return (self._generator[0].mapping(noise.to(e), e)[:, 0] - w).square().mean()

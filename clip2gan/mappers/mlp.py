"""The mapper of CLIP2GAN (Wang et al., 2022): one deep fully connected network to W+ (or W)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2gan.mappers.base import Mapper, MapperConfig, row_noise

SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True, kw_only=True)
class MlpConfig(MapperConfig):
    """Settings of `MlpMapper`.

    Attributes:
        layers: fully connected layers, the last one included; the paper's best has 12.
        width: of the hidden layers; the paper does not say.
        space: "w+" (a latent of its own for each layer of the generator) or "w" (one for all).
        residual: add each hidden layer's input to its output. Without it (the paper has none) twelve layers
            learn slowly: after the same steps on pairs (e, w), their error was a third above four layers'.
        sample_mean: mean of the noise that `sample` adds, in units of an embedding's root mean square value.
        sample_sigma: its standard deviation in the same units; 0.6 in the paper. 0 makes `sample` forward.
    """

    layers: int = 12
    width: int = 512
    space: str = "w+"
    residual: bool = True
    sample_mean: float = 0.0
    sample_sigma: float = 0.6

    def __post_init__(self):
        if self.space not in ("w", "w+"):
            raise ValueError(f"mapper space {self.space!r} is not known; choose w or w+")
        if self.layers < 1 or self.width < 1:
            raise ValueError(f"mapper layers and width must be 1 or more, got {self.layers} and {self.width}")
        super().__post_init__()


class MlpMapper(Mapper):
    """e -> 12 x (linear, leaky ReLU) -> ws, one deterministic answer; different ones by noise on e."""

    kind = "mlp"
    config: MlpConfig

    def __init__(self, config: MlpConfig):
        super().__init__(config)
        outputs = config.w_dim * (config.num_ws if config.space == "w+" else 1)
        sizes = [config.embed_dim, *[config.width] * (config.layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the weights (He initialisation, which keeps the variance through leaky ReLUs)."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight, a=SLOPE, generator=generator)
            nn.init.zeros_(layer.bias)
        if self.config.residual:
            for layer in self.layers[1:-1]:  # the sum of all layers then starts with the variance of a few
                assert isinstance(layer, nn.Linear)
                layer.weight.data.mul_(len(self.layers) ** -0.5)

    def forward(self, e: Tensor) -> Tensor:
        x = self.restore_w(self._standardised(e))
        return x.expand(-1, self.config.num_ws, -1)

    def sample(self, e: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Map noisy copies of e: normalise(e + |e| / sqrt(D) * n) with n ~ N(sample_mean, sample_sigma^2)."""
        noise = row_noise(generator, len(e), num, e.shape[1]).to(e)
        noise = self.config.sample_mean + self.config.sample_sigma * noise
        noisy = F.normalize(e[:, None] + noise * e.shape[1] ** -0.5, dim=-1)
        return self(noisy.flatten(0, 1)).unflatten(0, (len(e), num))

    def loss(self, e: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the standardised latents."""
        return (self._standardised(e) - self.standardise_w(w)[:, None]).square().mean()

    def _standardised(self, e: Tensor) -> Tensor:
        """Standardised latents [N, num_ws or 1, w_dim]."""
        x = self.standardise_embeddings(e)
        for index, layer in enumerate(self.layers[:-1]):
            y = F.leaky_relu(layer(x), SLOPE)
            x = x + y if self.config.residual and index > 0 else y
        return self.layers[-1](x).unflatten(1, (-1, self.config.w_dim))

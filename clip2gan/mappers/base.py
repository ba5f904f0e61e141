"""What every mapper from CLIP's embedding space to the generator's latent space can do."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from stylegan2.settings import check_size

# Bounds on numbers of layers and the like; lengths may be 65536.
LARGEST = {"layers": 256, "steps": 256, "blocks": 256, "num_ws": 128, "sampling_steps": 10_000}


@dataclass(frozen=True, kw_only=True)
class MapperConfig:
    """The sizes every mapper needs.

    Attributes:
        embed_dim: D, the length of a CLIP embedding.
        num_ws: layers of the generator that take a latent.
        w_dim: the length of one latent.
    """

    embed_dim: int
    num_ws: int
    w_dim: int

    def __post_init__(self):
        """Raise ValueError for sizes that no mapper has; they come in files from strangers."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int"):
                check_size(field.name, value, 1, LARGEST.get(field.name, 2**16))
            elif field.type in (float, "float") and not (
                isinstance(value, (int, float)) and math.isfinite(value)
            ):
                raise ValueError(f"{field.name} must be a finite number, got {value!r:.40}")


class Mapper(nn.Module, ABC):
    """A network from unit embeddings [N, D] to latents ws [N, num_ws, w_dim].

    Inside, embeddings and latents are standardised by statistics of the training samples, which are stored
    with the weights: latents per channel, embeddings by their mean and one common scale, so that directions
    in CLIP's space stay what they are.
    """

    kind: ClassVar[str]
    is_random: ClassVar[bool] = False  # whether `sample` draws from a distribution that was learned
    embedding_mean: Tensor
    embedding_std: Tensor
    w_mean: Tensor
    w_std: Tensor

    def __init__(self, config: MapperConfig):
        super().__init__()
        self.config = config
        self.register_buffer("embedding_mean", torch.zeros(config.embed_dim))
        self.register_buffer("embedding_std", torch.tensor(config.embed_dim**-0.5))
        self.register_buffer("w_mean", torch.zeros(config.w_dim))
        self.register_buffer("w_std", torch.ones(config.w_dim))

    @torch.no_grad()
    def fit_statistics(self, embeddings: Tensor, w: Tensor) -> None:
        """Take the statistics from training samples: embeddings [N, D] and their latents w [N, w_dim]."""
        self.embedding_mean.copy_(embeddings.mean(0))
        self.embedding_std.copy_((embeddings - embeddings.mean(0)).square().mean().sqrt().clamp(min=1e-6))
        self.w_mean.copy_(w.mean(0))
        self.w_std.copy_(w.std(0, correction=0).clamp(min=1e-6))

    def standardise_embeddings(self, e: Tensor) -> Tensor:
        return (e - self.embedding_mean) / self.embedding_std

    def standardise_w(self, w: Tensor) -> Tensor:
        return (w - self.w_mean) / self.w_std

    def restore_w(self, standardised: Tensor) -> Tensor:
        """The inverse of `standardise_w`."""
        return standardised * self.w_std + self.w_mean

    @abstractmethod
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the weights that a training starts from, by a CPU generator."""

    @abstractmethod
    def forward(self, e: Tensor) -> Tensor:
        """The best single answer: unit embeddings [N, D] to ws [N, num_ws, w_dim]."""

    @abstractmethod
    def sample(self, e: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Different answers to the same embedding, as far as the mapper has them.

        Args:
            e: [N, D], unit length.
            num: answers to each embedding.
            generator: a CPU generator. A row's answers depend on its state and on the row's number only.

        Returns:
            ws [N, num, num_ws, w_dim].
        """

    def loss_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Random numbers [num, K] for the rows of `loss`, by a CPU generator; K is 0 where it needs none.

        They are drawn apart from it, so that parts of a batch can have their rows of those of the whole.
        """
        return torch.empty(num, 0)

    @abstractmethod
    def loss(self, e: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """The mapper's own objective on samples whose latent is known, a scalar.

        Args:
            e: [N, D], unit length.
            w: [N, w_dim], the latents that the embedded pictures were made from.
            noise: [N, K] of `loss_noise`.
        """


def row_noise(generator: torch.Generator, rows: int, num: int, dim: int) -> Tensor:
    """Normal numbers [rows, num, dim], those of a row's first answers whatever `rows` and `num` are."""
    seeds: list[int] = torch.randint(2**62, (rows,), generator=generator).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = [torch.randn(dim, generator=row) for row in generators for _ in range(num)]
    return torch.stack(noise).unflatten(0, (rows, num))

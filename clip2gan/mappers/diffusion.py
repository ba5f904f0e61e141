"""The mapper of clip2latent (Pinkney and Li, BMVC 2022): a diffusion prior over W, given the embedding.

x_t = alpha_t x_0 + sigma_t n with the cosine schedule alpha_t = cos(pi t / 2), t in [0, 1] (Nichol and
Dhariwal 2021); a network guesses x_0, the standardised latent, from x_t, t and e.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2gan.mappers.base import Mapper, MapperConfig, row_noise

FREQUENCIES = 32
LAST_TIME = 0.995  # sampling starts here; at 1 nothing is left of x_0


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(MapperConfig):
    """Settings of `DiffusionMapper`.

    Attributes:
        width: of the residual network; its hidden layers are twice as wide.
        blocks: of the residual network.
        condition_dropout: how often training hides the embedding, which guidance needs; 0.2 in clip2latent.
        guidance: x_0 = free + guidance * (given e - free); 1 takes the network's answer as it is.
        sampler: "ddim" (Song et al. 2021), "ddpm" (ancestral; Ho et al. 2020) or "dpmpp-2m"
            (DPM-Solver++(2M), Lu et al. 2022).
        sampling_steps: evaluations of the network for an answer (twice with guidance), 4 to 20.
        temperature: standard deviation of the noise that `sample` starts from; 1 is what it was trained on.
    """

    width: int = 512
    blocks: int = 4
    condition_dropout: float = 0.2
    guidance: float = 1.5
    sampler: str = "dpmpp-2m"
    sampling_steps: int = 8
    temperature: float = 1.0

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; choose from {', '.join(SAMPLERS)}")
        if min(self.width, self.blocks, self.sampling_steps) < 1:
            raise ValueError("diffusion width, blocks and sampling_steps must be 1 or more")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must be from 0 to below 1, got {self.condition_dropout}")
        super().__post_init__()


class Block(nn.Module):
    """x + f(norm(x) * (1 + scale) + shift), scaled and shifted by the condition (Peebles and Xie 2023)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.modulation(c).chunk(2, dim=1)
        return x + self.second(F.silu(self.first(self.norm(x) * (1 + scale) + shift)))


class DiffusionMapper(Mapper):
    """Noise to latents w, led by the embedding in a few steps."""

    kind = "diffusion"
    is_random = True
    config: DiffusionConfig
    frequencies: Tensor

    def __init__(self, config: DiffusionConfig):
        super().__init__(config)
        self.register_buffer("frequencies", torch.logspace(0, 2, FREQUENCIES) * math.pi / 2, persistent=False)
        self.embed_x = nn.Linear(config.w_dim, config.width)
        self.embed_e = nn.Linear(config.embed_dim, config.width)
        self.embed_t = nn.Linear(2 * FREQUENCIES, config.width)
        self.no_e = nn.Parameter(torch.zeros(config.width))
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        self.last = nn.Linear(config.width, config.w_dim)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the weights; blocks that change nothing yet, and a guess of 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear", generator=generator)
                nn.init.zeros_(layer.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.modulation.weight)
            nn.init.zeros_(block.second.weight)
        nn.init.zeros_(self.last.weight)

    def forward(self, e: Tensor) -> Tensor:
        """The latent that zero noise leads to."""
        start = e.new_zeros(len(e), self.config.w_dim)
        return self._latents(start, e, start[:, None, :0])

    def sample(self, e: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Latents led from noise of standard deviation `temperature`."""
        steps = self.config.sampling_steps if self.config.sampler == "ddpm" else 1
        noise = row_noise(generator, len(e), num, steps * self.config.w_dim).to(e).flatten(0, 1)
        noise = self.config.temperature * noise.unflatten(1, (steps, -1))
        ws = self._latents(noise[:, 0], e.repeat_interleave(num, 0), noise[:, 1:])
        return ws.unflatten(0, (len(e), num))

    def loss_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """[num, 2 + w_dim]: the time and whether the embedding is hidden, from 0 to 1; normal numbers."""
        uniform = torch.rand(num, 2, generator=generator)
        return torch.cat([uniform, torch.randn(num, self.config.w_dim, generator=generator)], dim=1)

    def loss(self, e: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the guessed x_0 at random times, the embedding hidden now and then."""
        x = self.standardise_w(w)
        t, hide, normal = noise.to(x).split([1, 1, self.config.w_dim], dim=1)
        alpha, sigma = schedule(t)
        condition = self._condition(e, hide < self.config.condition_dropout)
        return (self._guess(alpha * x + sigma * normal, t, condition) - x).square().mean()

    def _latents(self, noise: Tensor, e: Tensor, more_noise: Tensor) -> Tensor:
        shown = self._condition(e, torch.zeros(len(e), 1, dtype=torch.bool, device=e.device))
        hidden = self.no_e.expand(len(e), -1)
        guidance = self.config.guidance

        def guess(x: Tensor, t: Tensor) -> Tensor:
            if guidance == 1:
                return self._guess(x, t, shown)
            both = self._guess(torch.cat([x, x]), torch.cat([t, t]), torch.cat([shown, hidden]))
            given, free = both.chunk(2)
            return free + guidance * (given - free)

        times = torch.linspace(LAST_TIME, 0, self.config.sampling_steps + 1).tolist()
        x = SAMPLERS[self.config.sampler](guess, noise, times, more_noise)
        return self.restore_w(x)[:, None].expand(-1, self.config.num_ws, -1)

    def _condition(self, e: Tensor, hidden: Tensor) -> Tensor:
        return torch.where(hidden, self.no_e, self.embed_e(self.standardise_embeddings(e)))

    def _guess(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        phase = t * self.frequencies
        c = F.silu(c + self.embed_t(torch.cat([phase.sin(), phase.cos()], dim=1)))
        x = self.embed_x(x)
        for block in self.blocks:
            x = block(x, c)
        return self.last(x)


def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha_t, sigma_t): how much of x_0 and of noise is in x_t, t in [0, 1]; their squares sum to 1."""
    return torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)


# The samplers take `guess(x, t [N, 1])` of x_0, noise x [N, D] to start from, the times they visit, the last
# of them 0, and more noise [N, len(times) - 2, D]; they return x_0 [N, D].
Guess = Callable[[Tensor, Tensor], Tensor]


def ddim(guess: Guess, x: Tensor, times: list[float], more_noise: Tensor) -> Tensor:
    """Deterministic, first order (Song et al. 2021, "Denoising Diffusion Implicit Models", equation 12)."""
    for t, s in _steps(x, times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        guessed = guess(x, t)
        x = alpha_s * guessed + sigma_s / sigma_t * (x - alpha_t * guessed)
    return x


def ddpm(guess: Guess, x: Tensor, times: list[float], more_noise: Tensor) -> Tensor:
    """Ancestral: each step draws from q(x_s | x_t, guessed x_0) (Ho et al. 2020, equation 7)."""
    for index, (t, s) in enumerate(_steps(x, times)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        guessed = guess(x, t)
        ratio = alpha_t / alpha_s
        between = sigma_t.square() - (ratio * sigma_s).square()  # variance of x_t given x_s
        x = (ratio * sigma_s.square() * x + alpha_s * between * guessed) / sigma_t.square()
        if index < more_noise.shape[1]:
            x = x + between.clamp(min=0).sqrt() * sigma_s / sigma_t * more_noise[:, index]
    return x


def dpmpp_2m(guess: Guess, x: Tensor, times: list[float], more_noise: Tensor) -> Tensor:
    """Deterministic, second order: DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2)."""
    before: tuple[Tensor, Tensor] | None = None  # the last guess, and the log-SNR it was made at
    for t, s in _steps(x, times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        guessed = guess(x, t)
        if (s == 0).all():  # the log-SNR is infinite, and the first-order step is the guess itself
            return guessed
        now, step = (alpha_t / sigma_t).log(), (alpha_s / sigma_s).log() - (alpha_t / sigma_t).log()
        slope = guessed
        if before is not None:
            slope = guessed + step / (2 * (now - before[1])) * (guessed - before[0])
        before = guessed, now
        x = sigma_s / sigma_t * x - alpha_s * torch.expm1(-step) * slope
    return x


SAMPLERS = {"ddim": ddim, "ddpm": ddpm, "dpmpp-2m": dpmpp_2m}


def _steps(x: Tensor, times: list[float]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a time and the next, each as [N, 1]."""
    columns = [x.new_full((len(x), 1), time) for time in times]
    return list(pairwise(columns))

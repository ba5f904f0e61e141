"""The mapping network fitted to latents that an encoder gave, by way of a flow.

Such latents lie in clusters (with glasses, without), and a mapping network that meets only their mean and
covariance draws what lies between. So a velocity field first learns to carry noise to latents, by flow
matching (Lipman et al. 2023; Liu et al. 2023); followed from z it ends at one latent, and the mapping network
learns to go there in one step.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan2.progress import progress_bar

FREQUENCIES = 16
HEUN_STEPS = 20


class Flow(nn.Module):
    """The velocity at x [N, dim] and time t [N, 1] in [0, 1], of a flow from noise to scaled latents.

    With `c_dim` it depends on a condition c [N, c_dim] of mean square 1; without one (None) c is 0, as in a
    training that hides conditions from time to time.
    """

    frequencies: Tensor

    def __init__(self, dim: int, blocks: int = 3, c_dim: int = 0):
        super().__init__()
        self.c_dim = c_dim
        width = 3 * dim
        self.register_buffer("frequencies", torch.arange(1, FREQUENCIES + 1) * math.pi)
        self.first = nn.Linear(dim + 2 * FREQUENCIES + c_dim, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        phase = t * self.frequencies
        c = x.new_zeros(len(x), self.c_dim) if c is None else c
        x = self.first(torch.cat([x, phase.sin(), phase.cos(), c], dim=1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(F.silu(x))

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Flow matching: the velocity along the straight line from `noise` to `latents` [N, dim], at t."""
        return (self(noise.lerp(latents, t), t, c) - (latents - noise)).square().mean()

    @torch.no_grad()
    def follow(
        self, x: Tensor, steps: int = HEUN_STEPS, c: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Where the flow takes noise x [N, dim], by Heun's method.

        guidance: how far the velocity goes from the unconditional one towards the one with c; above 1 it goes
        beyond (classifier-free guidance, Ho and Salimans 2022).
        """

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            conditional = self(x, t, c)
            return conditional if guidance == 1 else self(x, t).lerp(conditional, guidance)

        for step in range(steps):
            t = torch.full_like(x[:, :1], step / steps)
            slope = velocity(x, t)
            x = x + (slope + velocity(x + slope / steps, t + 1 / steps)) / (2 * steps)
        return x


class Latents:
    """Latents w [N, w_dim]: their mean, their standard deviation, and `scaled` to 0 and 1 of these."""

    def __init__(self, w: Tensor):
        self.mean, self.deviation = w.mean(dim=0), w.std(dim=0).clamp_min(1e-8)
        self.scaled = self.scale(w)

    def scale(self, w: Tensor) -> Tensor:
        return (w - self.mean) / self.deviation


class Pairs:
    """Without conditions: noise z [N, z_dim] and the scaled latents [N, w_dim] to which a flow takes it."""

    def __init__(self, flow: Flow, z_dim: int, count: int, random: torch.Generator, shown: bool = True):
        """`shown`: whether this process shows a progress bar."""
        dim = flow.last.out_features
        device = flow.last.weight.device
        noise = torch.randn(count, max(z_dim, dim), generator=random).to(device)
        self.z, self.c = noise[:, :z_dim], None
        parts = progress_bar(noise[:, :dim].split(4096), "following the flow [x4096]", shown=shown)
        self.latents = torch.cat([flow.follow(part) for part in parts])

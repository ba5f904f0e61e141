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

FREQUENCIES = 16
HEUN_STEPS = 20


class Flow(nn.Module):
    """The velocity at x [N, dim] and time t [N, 1] in [0, 1], of a flow from noise to scaled latents."""

    frequencies: Tensor

    def __init__(self, dim: int, blocks: int = 3):
        super().__init__()
        width = 3 * dim
        self.register_buffer("frequencies", torch.arange(1, FREQUENCIES + 1) * math.pi)
        self.first = nn.Linear(dim + 2 * FREQUENCIES, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phase = t * self.frequencies
        x = self.first(torch.cat([x, phase.sin(), phase.cos()], dim=1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(F.silu(x))

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Flow matching: the velocity along the straight line from `noise` to `latents` [N, dim], at t."""
        return (self(noise.lerp(latents, t), t) - (latents - noise)).square().mean()

    @torch.no_grad()
    def follow(self, x: Tensor, steps: int = HEUN_STEPS) -> Tensor:
        """Where the flow takes noise x [N, dim], by Heun's method."""
        for step in range(steps):
            t = torch.full_like(x[:, :1], step / steps)
            slope = self(x, t)
            x = x + (slope + self(x + slope / steps, t + 1 / steps)) / (2 * steps)
        return x


class Latents:
    """Latents w [N, w_dim]: their mean, their standard deviation, and `scaled` to 0 and 1 of these."""

    def __init__(self, w: Tensor):
        self.mean, self.deviation = w.mean(dim=0), w.std(dim=0).clamp_min(1e-8)
        self.scaled = self.scale(w)

    def scale(self, w: Tensor) -> Tensor:
        return (w - self.mean) / self.deviation


class Pairs:
    """Noise z [N, z_dim] and the scaled latents [N, w_dim] to which a flow takes it."""

    def __init__(self, flow: Flow, z_dim: int, count: int, random: torch.Generator):
        dim = flow.last.out_features
        device = flow.last.weight.device
        noise = torch.randn(count, max(z_dim, dim), generator=random).to(device)
        self.z = noise[:, :z_dim]
        self.latents = torch.cat([flow.follow(part) for part in noise[:, :dim].split(4096)])

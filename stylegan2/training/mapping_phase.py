"""The mapping phase of a GAN's training: a flow is fitted to an encoder's latents, the mapping network to it.

It may depend on conditions, such as texts. All processes do its steps alike, as they are small.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from stylegan2.generator import Generator, MappingNetwork
from stylegan2.training.engine import Phase, Step, Terms, Update, Updates
from stylegan2.training.mapping import Flow, Latents
from stylegan2.training.schedule import rate_factor

BATCH = 512
FLOW_LR = 1e-3
PAIRS_PER_STEP = 32  # drawn for each step that learns from them, where that is less than the most

Conditions = Callable[[Tensor, torch.Generator], Tensor | None]
"""Conditions c [N, c_dim] that the flow is shown for latents at these indices [N]; None: there are none."""


class Networks(Protocol):
    """What is trained here."""

    generator: Generator
    generator_ema: Generator
    flow: Flow

    @property
    def flow_optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def mapping_optimizer(self) -> torch.optim.Optimizer: ...


class Pairs(Protocol):
    """Noise z [N, z_dim], its conditions c [N, c_dim] if any, and the scaled latents a flow takes it to."""

    @property
    def z(self) -> Tensor: ...
    @property
    def c(self) -> Tensor | None: ...
    @property
    def latents(self) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class PhaseSettings:
    """How the phase is divided, and at which rates it learns.

    Attributes:
        steps: of the whole phase.
        flow_share: of the steps, that the flow takes.
        lr: of the mapping network, whose stored weights are 100 times what is used: so must its steps be.
        latent_noise: standard deviation of the noise on w.
        log_every: steps from one log line to the next.
    """

    steps: int
    flow_share: float
    lr: float
    latent_noise: float
    log_every: int

    @property
    def flow_steps(self) -> int:
        return int(self.flow_share * self.steps)

    @property
    def mapping_steps(self) -> int:
        return self.steps - self.flow_steps

    def count_pairs(self, most: int) -> int:
        """How many pairs of noise and latent the mapping network learns from."""
        return min(most, max(BATCH, self.mapping_steps * PAIRS_PER_STEP))


@dataclass
class MappingPhase:
    """The steps of the phase.

    Attributes:
        networks: what is trained.
        settings: of the phase.
        make_latents: gives the latents of all pictures; called once, when they are wanted first.
        make_pairs: gives the pairs; likewise, when the flow has been fitted.
        conditions: draws what the flow is shown.
    """

    networks: Networks
    settings: PhaseSettings
    make_latents: Callable[[], Latents]
    make_pairs: Callable[[], Pairs]
    conditions: Conditions = lambda rows, random: None

    def phases(self, ema: float) -> list[Phase]:
        """The flow's steps and the mapping network's."""
        settings = self.settings
        mapping = (self.networks.generator.mapping, self.networks.generator_ema.mapping)
        return [
            Phase(steps=settings.flow_steps, step=self._fit_flow, log_every=settings.log_every),
            Phase(
                steps=settings.mapping_steps,
                step=self._distill,
                averages=[mapping],
                ema=ema,
                log_every=settings.log_every,
            ),
        ]

    @cached_property
    def _latents(self) -> Latents:
        return self.make_latents()

    @cached_property
    def _pairs(self) -> Pairs:
        return self.make_pairs()

    def _fit_flow(self, step: Step) -> Updates:
        latents, random, networks = self._latents, step.random, self.networks
        scaled = latents.scaled
        rows = torch.randint(len(scaled), (BATCH,), generator=random)
        c = self.conditions(rows, random)
        noise, blur = torch.randn(2, BATCH, scaled.shape[1], generator=random).to(scaled)
        noisy = scaled[rows.to(scaled.device)] + blur * self.settings.latent_noise / latents.deviation
        t = torch.randn(BATCH, 1, generator=random).sigmoid().to(scaled)
        c = c if c is None else c.to(scaled)
        yield Update(
            optimizer=networks.flow_optimizer,
            losses=lambda turn: {"mapping_flow": (1.0, networks.flow.loss(noisy, noise, t, c))},
            rates=[FLOW_LR * _falling(step, self.settings.flow_steps)],
            remedy="mapping_steps",
        )

    def _distill(self, step: Step) -> Updates:
        pairs, mapping, device = self._pairs, self.networks.generator.mapping, self._latents.mean.device
        rows = torch.randint(len(pairs.z), (BATCH,), generator=step.random)
        z, ends = (table[rows.to(table.device)].to(device) for table in (pairs.z, pairs.latents))
        c = None if pairs.c is None else pairs.c[rows.to(pairs.c.device)].to(device)
        found: list[Tensor] = []

        def losses(turn: int) -> Terms:
            w = mapping(z, c)[:, 0]
            found.append(w.detach())
            return {"mapping_distillation": (1.0, (self._latents.scale(w) - ends).square().mean())}

        yield Update(
            optimizer=self.networks.mapping_optimizer,
            losses=losses,
            rates=[self.settings.lr * _falling(step, self.settings.mapping_steps)],
            remedy="mapping_steps",
        )
        track_w_avg(mapping, found[0])


@torch.no_grad()
def track_w_avg(mapping: MappingNetwork, w: Tensor) -> None:
    """Move the mean latent towards that of w [N, w_dim]."""
    mapping.w_avg.lerp_(w.mean(dim=0), 0.005)


def _falling(step: Step, steps: int) -> float:
    return rate_factor(step.index, steps, end=0.01, shape="linear")

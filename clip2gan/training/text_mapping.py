"""A mapping network that draws latents for texts, fitted before any picture is made: minutes on a CPU.

Where an encoder belongs to the generator, the latents of the captioned pictures are known. A flow learns to
carry noise to them, given a caption's embedding (flow matching with classifier-free guidance); then the
mapping network, which is given noise and embedding, learns to go in one step where the flow ends. So a text's
latents keep the variety that pictures with such a caption have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from clip2gan.data.captioned import Captioned
from clip2gan.data.samples import Sharing, shards, to_floats, weights_fingerprint
from clip2gan.devices import pictures_at_once
from stylegan2 import Generator
from stylegan2.discriminator import Encoder
from stylegan2.generator import normalize_second_moment
from stylegan2.runs import step_generator
from stylegan2.training.engine import Phase, Step, Terms, Update, Updates
from stylegan2.training.gan import track_w_avg
from stylegan2.training.mapping import Flow, Latents
from stylegan2.training.schedule import rate_factor

BATCH = 512
FLOW_SHARE = 0.5  # of the phase's steps
FLOW_LR = 1e-3
FLOW_BLOCKS = 4
MAPPING_LR = 1.0  # the mapping network's stored weights are 100 times what is used
HIDDEN = 0.1  # how often the flow does not see the condition
LATENT_NOISE = 0.05
PAIRS, PAIRS_PER_STEP = 65_536, 32  # at most, and for each step that learns from them
PAIR_STEPS = 8

Conditions = Callable[[Tensor, torch.Generator], Tensor]
"""Conditions c [N, D] for the pictures at these indices [N]."""


class Networks(Protocol):
    """What is trained here."""

    generator: Generator
    generator_ema: Generator
    flow: Flow

    @property
    def flow_optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def mapping_optimizer(self) -> torch.optim.Optimizer: ...


def new_flow(generator: Generator) -> Flow:
    """An untrained flow to this generator's w, given its conditions."""
    return Flow(generator.config.w_dim, FLOW_BLOCKS, generator.config.c_dim)


@torch.no_grad()
def encode_all(
    encoder: Encoder, data: Captioned, device: torch.device, cache: Path, processes: Sharing | None = None
) -> Tensor:
    """The latents w [N, w_dim] of all pictures, or what is in `cache` of them."""
    made_from = {
        "encoder": weights_fingerprint(encoder),
        "pictures": [source.fingerprint for source in data.pictures.sources],
        "resolution": encoder.config.img_resolution,
    }

    def make(start: int, stop: int) -> dict[str, Tensor]:
        parts = torch.arange(start, stop).split(pictures_at_once(encoder.config.img_resolution, device))
        images = (to_floats(data.batch(part.tolist())).to(device) for part in parts)
        return {"w": torch.cat([encoder(part) for part in images])}

    return shards(cache, len(data), made_from, make, "encoding pictures", processes)["w"].to(device)


@dataclass
class TextMapping:
    """The steps of the phase, with what they share.

    Attributes:
        networks: what is trained.
        w: latents of the pictures [N, w_dim].
        conditions: draws them.
        guidance: of the flow, where the mapping network learns from it; above 1 texts are said more clearly.
        steps: of the whole phase.
        seed: of the pairs of noise and latent.
        cache: where these are kept.
        processes: that share their making.
    """

    networks: Networks
    w: Tensor
    conditions: Conditions
    guidance: float
    steps: int
    seed: int
    cache: Path
    processes: Sharing | None = None

    def __post_init__(self):
        self.latents = Latents(self.w)

    def phases(self, ema: float) -> list[Phase]:
        """The flow's steps and the mapping network's; all processes do them alike, as they are small."""
        networks, flow_steps = self.networks, int(FLOW_SHARE * self.steps)
        mapping = (networks.generator.mapping, networks.generator_ema.mapping)
        rest = self.steps - flow_steps
        return [
            Phase(steps=flow_steps, step=self._fit_flow, log_every=500),
            Phase(steps=rest, step=self._distill, averages=[mapping], ema=ema, log_every=500),
        ]

    def _fit_flow(self, step: Step) -> Updates:
        random, scaled = step.random, self.latents.scaled
        rows = torch.randint(len(scaled), (BATCH,), generator=random)
        c = self.conditions(rows, random).to(scaled)
        seen = torch.rand(BATCH, 1, generator=random) >= HIDDEN
        noise, blur = torch.randn(2, BATCH, scaled.shape[1], generator=random).to(scaled)
        chosen = scaled[rows.to(scaled.device)] + blur * LATENT_NOISE / self.latents.deviation
        t = torch.randn(BATCH, 1, generator=random).sigmoid().to(scaled)
        c = normalize_second_moment(c) * seen.to(scaled)
        rate = rate_factor(step.index, int(FLOW_SHARE * self.steps), end=0.01, shape="linear")
        yield Update(
            optimizer=self.networks.flow_optimizer,
            losses=lambda turn: {"mapping_flow": (1.0, self.networks.flow.loss(chosen, noise, t, c))},
            rates=[FLOW_LR * rate],
            remedy="mapping_steps",
        )

    def _distill(self, step: Step) -> Updates:
        device, mapping = self.w.device, self.networks.generator.mapping
        rows = torch.randint(len(self._pairs["z"]), (BATCH,), generator=step.random)
        z, c, ends = (self._pairs[name][rows].to(device) for name in ("z", "c", "latents"))
        found: list[Tensor] = []

        def losses(turn: int) -> Terms:
            w = mapping(z, c)[:, 0]
            found.append(w.detach())
            return {"mapping_distillation": (1.0, (self.latents.scale(w) - ends).square().mean())}

        rest = self.steps - int(FLOW_SHARE * self.steps)
        rate = MAPPING_LR * rate_factor(step.index, rest, end=0.01, shape="linear")
        yield Update(
            optimizer=self.networks.mapping_optimizer, losses=losses, rates=[rate], remedy="mapping_steps"
        )
        track_w_avg(mapping, found[0])

    @cached_property
    def _pairs(self) -> dict[str, Tensor]:
        """Noise z and conditions c, and the scaled latents to which the flow takes them."""
        flow, device = self.networks.flow, self.w.device
        z_dim, w_dim = self.networks.generator.config.z_dim, self.w.shape[1]

        def make(start: int, stop: int) -> dict[str, Tensor]:
            random = step_generator(self.seed, -(2**42) - start)
            noise = torch.randn(stop - start, max(z_dim, w_dim), generator=random)
            rows = torch.randint(len(self.w), (stop - start,), generator=random)
            c = self.conditions(rows, random)
            ends = flow.follow(
                noise[:, :w_dim].to(device),
                PAIR_STEPS,
                normalize_second_moment(c.to(device)),
                self.guidance,
            )
            return {"z": noise[:, :z_dim], "c": c, "latents": ends}

        made_from = {"flow": weights_fingerprint(flow), "guidance": self.guidance, "seed": self.seed}
        count = min(PAIRS, max(BATCH, round(self.steps * (1 - FLOW_SHARE)) * PAIRS_PER_STEP))
        return shards(self.cache, count, made_from, make, "following the flow", self.processes)

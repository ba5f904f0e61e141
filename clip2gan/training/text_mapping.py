"""A mapping network that draws latents for texts, fitted before any picture is made: minutes on a CPU.

Where an encoder belongs to the generator, the latents of the captioned pictures are known. A flow learns to
carry noise to them, given a caption's embedding (flow matching with classifier-free guidance); then the
mapping network, which is given noise and embedding, learns to go in one step where the flow ends. So a text's
latents keep the variety that pictures with such a caption have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clip2gan.data.captioned import Captioned
from clip2gan.data.samples import Sharing, shards, to_floats, weights_fingerprint
from clip2gan.devices import pictures_at_once
from stylegan2 import Generator
from stylegan2.discriminator import Encoder
from stylegan2.generator import normalize_second_moment
from stylegan2.runs import step_generator
from stylegan2.training.engine import Phase
from stylegan2.training.mapping import Flow, Latents
from stylegan2.training.mapping_phase import MappingPhase, Networks, PhaseSettings

FLOW_SHARE, MAPPING_LR = 0.5, 1.0  # of the phase
FLOW_BLOCKS = 4
HIDDEN = 0.1  # how often the flow does not see the condition
LATENT_NOISE = 0.05
PAIRS = 65_536  # at most
PAIR_STEPS = 8
LOG_EVERY = 500  # steps

Conditions = Callable[[Tensor, torch.Generator], Tensor]
"""Conditions c [N, D] for the pictures at these indices [N]."""


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


@dataclass(frozen=True)
class Pairs:
    """Noise z [N, z_dim], conditions c [N, c_dim], and the scaled latents [N, w_dim] the flow takes it to."""

    z: Tensor
    c: Tensor
    latents: Tensor


@dataclass(frozen=True, kw_only=True)
class TextMapping:
    """What the mapping phase of a captioned GAN draws and keeps.

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

    def phases(self, ema: float) -> list[Phase]:
        """The flow's steps and the mapping network's."""
        settings = PhaseSettings(
            steps=self.steps,
            flow_share=FLOW_SHARE,
            lr=MAPPING_LR,
            latent_noise=LATENT_NOISE,
            log_every=LOG_EVERY,
        )
        phase = MappingPhase(
            self.networks,
            settings,
            lambda: Latents(self.w),
            lambda: self._draw_pairs(settings.count_pairs(PAIRS)),
            self._shown_conditions,
        )
        return phase.phases(ema)

    def _shown_conditions(self, rows: Tensor, random: torch.Generator) -> Tensor:
        """Of some the flow sees zeros, to learn what is true without a condition."""
        c = self.conditions(rows, random)
        seen = torch.rand(len(rows), 1, generator=random) >= HIDDEN
        return normalize_second_moment(c) * seen.to(c)

    def _draw_pairs(self, count: int) -> Pairs:
        """What the flow has learnt."""
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
        drawn = shards(self.cache, count, made_from, make, "following the flow", self.processes)
        return Pairs(drawn["z"], drawn["c"], drawn["latents"])

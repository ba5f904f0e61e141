"""The mapper of CLIP-Flow (Ma et al., CVM 2024): a Real-NVP between CLIP's space and W.

The abstract says Real-NVP (Dinh et al. 2017) with activation normalisation and invertible linear maps (Glow,
Kingma and Dhariwal 2018), and leaves open what is carried to what. Both readings are here:

    conditional   noise <-> w, given e: many answers to an embedding, each with its exact likelihood
    direct        e <-> w itself, where both have as many dimensions: one answer, which can be taken back
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2gan.mappers.base import Mapper, MapperConfig, row_noise

STARTING_SAMPLES = 4096


@dataclass(frozen=True, kw_only=True)
class FlowConfig(MapperConfig):
    """Settings of `FlowMapper`.

    Attributes:
        reading: "conditional" or "direct" (see the module).
        steps: of the flow; each is an activation normalisation, a linear map and a coupling.
        width: of the couplings' two hidden layers.
        condition: length of what the couplings see of the embedding, after a layer of its own.
        clamp: a coupling scales by exp(s), |s| < clamp.
        temperature: standard deviation of the noise that `sample` carries to w; 1 is what it was trained on.
        sample_sigma: for the direct reading, noise that `sample` adds to e, in units of an embedding's root
            mean square value.
    """

    reading: str = "conditional"
    steps: int = 8
    width: int = 256
    condition: int = 128
    clamp: float = 2.0
    temperature: float = 0.7
    sample_sigma: float = 0.3

    def __post_init__(self):
        if self.reading not in ("conditional", "direct"):
            raise ValueError(f"flow reading {self.reading!r} is not known; choose conditional or direct")
        if self.reading == "direct" and self.embed_dim != self.w_dim:
            raise ValueError(
                f"a direct flow needs embeddings and latents of one length, not {self.embed_dim} and "
                f"{self.w_dim}; choose reading conditional"
            )
        if min(self.steps, self.width, self.condition) < 1:
            raise ValueError("flow steps, width and condition must be 1 or more")
        super().__post_init__()


class ActNorm(nn.Module):
    """y = (x + bias) * exp(log_scale)."""

    def __init__(self, dim: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Start where y has zero mean and unit variance."""
        self.bias.copy_(-x.mean(0))
        self.log_scale.copy_(-x.std(0, correction=0).clamp(min=1e-3).log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + self.bias) * self.log_scale.exp(), self.log_scale.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.log_scale).exp() - self.bias


class InvertibleLinear(nn.Module):
    """y = P L (U + diag(s)) x with a fixed permutation P: Glow's 1x1 convolution, on vectors."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("permutation", torch.arange(dim))
        self.register_buffer("sign", torch.ones(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.lower = nn.Parameter(torch.zeros(dim, dim))
        self.upper = nn.Parameter(torch.zeros(dim, dim))

    @torch.no_grad()
    def init_rotation(self, generator: torch.Generator) -> None:
        """Start as a random rotation."""
        dim = len(self.sign)
        rotation, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.permutation.copy_(permutation.argmax(1))
        self.sign.copy_(diagonal.sign())
        self.log_scale.copy_(diagonal.abs().log())
        self.lower.copy_(lower)
        self.upper.copy_(upper)

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.sign)).to(self.lower)
        return lower, self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        return (x @ (lower @ upper).T)[:, self.permutation], self.log_scale.sum()

    def inverse(self, y: Tensor) -> Tensor:
        lower, upper = self._factors()
        x = torch.empty_like(y)
        x[:, self.permutation] = y
        x = torch.linalg.solve_triangular(lower, x.T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, x, upper=True).T


class AffineCoupling(nn.Module):
    """y1 = x1, y2 = x2 * exp(s(x1, c)) + t(x1, c), with s bounded by a tanh."""

    def __init__(self, dim: int, config: FlowConfig):
        super().__init__()
        self.kept, self.clamp = dim // 2, config.clamp
        seen = self.kept + (config.condition if config.reading == "conditional" else 0)
        changed = dim - self.kept
        self.net = nn.Sequential(
            nn.Linear(seen, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            nn.Linear(config.width, 2 * changed),
        )

    def _scale_and_shift(self, kept: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.net(torch.cat([kept, c], dim=1)).chunk(2, dim=1)
        return self.clamp * torch.tanh(scale / self.clamp), shift

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept, c)
        return torch.cat([kept, changed * log_scale.exp() + shift], dim=1), log_scale.sum(1)

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        kept, changed = y[:, : self.kept], y[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept, c)
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)


class FlowStep(nn.Module):
    """Activation normalisation, a linear map, a coupling; `forward` also gives log |det dy/dx| [N]."""

    def __init__(self, dim: int, config: FlowConfig):
        super().__init__()
        self.norm = ActNorm(dim)
        self.linear = InvertibleLinear(dim)
        self.coupling = AffineCoupling(dim, config)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        x, of_norm = self.norm(x)
        x, of_linear = self.linear(x)
        x, of_coupling = self.coupling(x, c)
        return x, of_norm + of_linear + of_coupling

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        return self.norm.inverse(self.linear.inverse(self.coupling.inverse(y, c)))


class FlowMapper(Mapper):
    """Standardised latents x <-> y by the flow; y is noise (conditional) or the embedding (direct)."""

    kind = "flow"
    is_random = True
    config: FlowConfig

    def __init__(self, config: FlowConfig):
        super().__init__(config)
        conditional = config.reading == "conditional"
        self.embed = nn.Linear(config.embed_dim, config.condition) if conditional else None
        self.steps = nn.ModuleList(FlowStep(config.w_dim, config) for _ in range(config.steps))

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the weights: couplings that change nothing yet, after random rotations."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
            if isinstance(layer, InvertibleLinear):
                layer.init_rotation(generator)
        for step in self.steps:
            assert isinstance(step, FlowStep)
            last = step.coupling.net[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)

    @torch.no_grad()
    def fit_statistics(self, embeddings: Tensor, w: Tensor) -> None:
        """As every mapper does; the activation normalisations start from the same samples."""
        super().fit_statistics(embeddings, w)
        e, x = embeddings[:STARTING_SAMPLES], self.standardise_w(w[:STARTING_SAMPLES])
        c = self._condition(e)
        for step in self.steps:
            assert isinstance(step, FlowStep)
            step.norm.fit(x)
            x, _ = step(x, c)

    def forward(self, e: Tensor) -> Tensor:
        """The latent of zero noise, near the most likely one; or of e itself for the direct reading."""
        start = e.new_zeros(len(e), self.config.w_dim) if self.embed else self._target(e)
        return self._latents(start, e)

    def sample(self, e: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Carry noise of standard deviation `temperature` to w; the direct reading maps noisy copies of e."""
        dim = self.config.w_dim if self.embed else self.config.embed_dim
        noise = row_noise(generator, len(e), num, dim).to(e)
        if self.embed:
            ws = self._latents(self.config.temperature * noise.flatten(0, 1), e.repeat_interleave(num, 0))
        else:
            scatter = self.config.sample_sigma * dim**-0.5
            ws = self(F.normalize(e[:, None] + scatter * noise, dim=-1).flatten(0, 1))
        return ws.unflatten(0, (len(e), num))

    def loss(self, e: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Conditional: negative log-likelihood of w given e, in nats a dimension.

        Direct: squared error in both directions, on standardised latents and embeddings; the likelihood has
        no part in it, as w given e would be a point.
        """
        if self.embed:
            return -self.log_prob(w, e).mean() / self.config.w_dim
        x, target = self.standardise_w(w), self._target(e)
        return (self._to_noise(x, e)[0] - target).square().mean() + (
            self._to_latents(target, e) - x
        ).square().mean()

    def log_prob(self, w: Tensor, e: Tensor) -> Tensor:
        """log p(w | e) [N] of latents w [N, w_dim], exactly: log N(y; 0, I) + log |det dy/dw|.

        Raises ValueError for the direct reading, which gives one answer and no density.
        """
        if not self.embed:
            raise ValueError("a direct flow has no likelihood; choose reading conditional")
        y, log_det = self._to_noise(self.standardise_w(w), e)
        log_normal = -(y.square().sum(1) + self.config.w_dim * math.log(2 * math.pi)) / 2
        return log_normal + log_det - self.w_std.log().sum()

    def invert(self, ws: Tensor) -> Tensor:
        """The embeddings [N, D] whose latents [N, num_ws, w_dim] these are, for the direct reading."""
        if self.embed:
            raise ValueError("a conditional flow cannot be taken back to embeddings; choose reading direct")
        y, _ = self._to_noise(self.standardise_w(ws[:, 0]), ws[:, 0])
        return y * self.embedding_std + self.embedding_mean

    def _latents(self, start: Tensor, e: Tensor) -> Tensor:
        w = self.restore_w(self._to_latents(start, e))
        return w[:, None].expand(-1, self.config.num_ws, -1)

    def _target(self, e: Tensor) -> Tensor:
        return self.standardise_embeddings(e)

    def _condition(self, e: Tensor) -> Tensor:
        return F.silu(self.embed(self.standardise_embeddings(e))) if self.embed else e[:, :0]

    def _to_noise(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):  # 16 bit would blur the likelihood
            c, total = self._condition(e), x.new_zeros(len(x))
            for step in self.steps:
                x, log_det = step(x, c)
                total = total + log_det
            return x, total

    def _to_latents(self, y: Tensor, e: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            c = self._condition(e)
            for step in reversed(list(self.steps)):
                assert isinstance(step, FlowStep)
                y = step.inverse(y, c)
            return y

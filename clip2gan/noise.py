"""The noise on embeddings that a mapper is trained with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """What is done to a picture's embedding in training, before it gets unit length again.

    Attributes:
        kind: "unit", a random direction of length `scale` (clip2latent, arXiv 2210.02347); or "gauss", a
            normal number of standard deviation `scale` in each dimension (CapDec).
        scale: 0 adds nothing.
        mean: of the normal numbers.
        mode: whether the noise is added ("add"), or each dimension is multiplied by it ("mul", normal numbers
            only). CLIP2GAN names a mean of 1 and a variance of 0.36: as factors, `Noise("gauss", 0.6, 1.0,
            "mul")`.
    """

    kind: str = "unit"
    scale: float = 0.0
    mean: float = 0.0
    mode: str = "add"

    def __post_init__(self):
        if self.kind not in ("unit", "gauss"):
            raise ValueError(f"unknown noise {self.kind!r}; choose unit or gauss")
        if self.scale < 0:
            raise ValueError(f"noise.scale must be 0 or more, got {self.scale}")
        if self.mode not in ("add", "mul"):
            raise ValueError(f"unknown noise mode {self.mode!r}; choose add or mul")
        if self.kind == "unit" and (self.mode == "mul" or self.mean):
            raise ValueError("noise of kind unit is added and has no mean; choose gauss")
        if self.mode == "mul" and self.mean == self.scale == 0:
            raise ValueError("noise of mode mul with mean and scale 0 leaves nothing; set noise.mean=1")

    def __call__(self, e: "Tensor", generator: "torch.Generator") -> "Tensor":
        """Noisy unit embeddings of [N, D] unit embeddings, by a CPU generator."""
        if self.mode == "add" and self.scale == self.mean == 0:
            return e
        import torch
        from torch.nn import functional as F

        noise = torch.randn(e.shape, generator=generator).to(e)
        if self.kind == "unit":
            noise = F.normalize(noise, dim=-1)
        noise = self.mean + self.scale * noise
        return F.normalize(e * noise if self.mode == "mul" else e + noise, dim=-1)


C3_NOISE = Noise("gauss", 0.016**0.5)  # of the remedy "c3": a variance of 0.016 in each dimension

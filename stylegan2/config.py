"""A generator's shape, checked: it comes in files from strangers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from stylegan2.settings import check_size

if TYPE_CHECKING:
    from torch import Tensor

NoiseMode = Literal["const", "random", "none"] | Callable[[int], "Tensor"]
Architecture = Literal["skip", "orig", "resnet", "mobile"]
# Bounds on configurations, which come in files from strangers: on sizes, and on numbers of layers.
LARGEST = 2**16
DEEPEST = 64


@dataclass(frozen=True)
class GeneratorConfig:
    """A generator's shape.

    img_resolution: a power of two, at least 8. channel_base, channel_max: a layer at resolution r has
    min(channel_base // r, channel_max) channels. mapping_layers: depth of the mapping network; mapping_width:
    of its hidden layers, w_dim where it is None. num_fp16_res: how many of the highest resolutions run in 16
    bit; conv_clamp: bound on activations.
    architecture: how a picture comes out, in the words of the StyleGAN2 paper's figure 7: "skip" adds up the
    colours of all resolutions, "orig" takes those of the last one, "resnet" too, with residual blocks.
    "mobile" is MobileStyleGAN's network, whose picture comes out of a wavelet transform (see mobile.py).
    widths: the channels of each resolution from 4 up, where they follow no channel_base and channel_max.

    Raises ValueError for a size that is out of range.
    """

    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_resolution: int = 1024
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    num_fp16_res: int = 0
    conv_clamp: float | None = None
    architecture: Architecture = "skip"
    widths: tuple[int, ...] | None = None
    mapping_width: int | None = None

    def __post_init__(self):
        for name in ("z_dim", "w_dim", "img_resolution", "img_channels", "channel_base", "channel_max"):
            # channel_base is a product of a resolution and a width.
            check_size(name, getattr(self, name), 1, LARGEST**2 if name == "channel_base" else LARGEST)
        check_size("c_dim", self.c_dim, 0, LARGEST)
        check_size("mapping_layers", self.mapping_layers, 1, DEEPEST)
        if self.mapping_width is not None:
            check_size("mapping_width", self.mapping_width, 1, LARGEST)
        check_size("num_fp16_res", self.num_fp16_res, 0, DEEPEST)
        if self.conv_clamp is not None and not (
            isinstance(self.conv_clamp, (int, float)) and self.conv_clamp > 0
        ):
            raise ValueError(f"conv_clamp must be positive or None, got {self.conv_clamp!r:.40}")
        if self.architecture not in get_args(Architecture):
            known = ", ".join(get_args(Architecture))
            raise ValueError(f"architecture must be one of {known}, got {self.architecture!r:.40}")
        if self.img_resolution < 8 or self.img_resolution & (self.img_resolution - 1):
            raise ValueError(
                f"img_resolution must be a power of two of at least 8, got {self.img_resolution}"
            )
        if self.widths is not None:
            object.__setattr__(self, "widths", tuple(self.widths))  # JSON gives a list
            if len(self.widths) != len(self.block_resolutions):
                raise ValueError(f"widths must be {len(self.block_resolutions)} numbers, one a resolution")
            for width in self.widths:
                check_size("widths", width, 1, LARGEST)
        elif self.channel_base < self.img_resolution:
            raise ValueError(
                f"channel_base {self.channel_base} is less than the resolution; give a larger one"
            )
        if self.architecture == "mobile":
            # An inverse wavelet transform makes one channel of four.
            wrong = [r for r in self.block_resolutions[:-1] if self.channels(r) % 4]
            if wrong:
                raise ValueError(
                    f"a mobile generator has {self.channels(wrong[0])} channels at {wrong[0]} px; "
                    "a multiple of 4 is needed"
                )

    @property
    def block_resolutions(self) -> list[int]:
        """Of the features, from 4 px up; "mobile" ends at half the picture's size."""
        last = self.img_resolution // 2 if self.architecture == "mobile" else self.img_resolution
        return [2**i for i in range(2, int(math.log2(last)) + 1)]

    @property
    def num_ws(self) -> int:
        """How many latents the synthesis network takes: one a convolution, and one for the last RGB layer."""
        return 2 * len(self.block_resolutions)

    def channels(self, resolution: int) -> int:
        if self.widths is not None:
            return self.widths[int(math.log2(resolution)) - 2]
        return min(self.channel_base // resolution, self.channel_max)

    def uses_half(self, resolution: int) -> bool:
        """Whether this resolution runs in 16 bit (never below 8)."""
        return resolution >= max(self.img_resolution * 2 // 2**self.num_fp16_res, 8)


def check_synthesis_input(ws: "Tensor", num_ws: int, w_dim: int, noise_mode: NoiseMode) -> None:
    """Raise ValueError unless ws is [N, num_ws, w_dim] and noise_mode is one of `NoiseMode`."""
    if ws.ndim != 3 or ws.shape[1:] != (num_ws, w_dim):
        raise ValueError(f"ws must be [N, {num_ws}, {w_dim}], got {list(ws.shape)}")
    if noise_mode not in ("const", "random", "none") and not callable(noise_mode):
        raise ValueError(f"noise_mode must be const, random or none, got {noise_mode!r}")

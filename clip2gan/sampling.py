"""Pictures of a generator by seed, without CLIP: each depends on its own seed and on nothing else.

from clip2gan.generators import load_named_generator
from clip2gan.sampling import draw_picture, seed_latents

generator = load_named_generator("avatars")
picture = draw_picture(generator, seed_latents(generator, 7, truncation=0.7).ws)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clip2gan.images import to_picture
from stylegan2 import Generator
from stylegan2.config import NoiseMode
from stylegan2.settings import LARGEST_SEED, check_seed

MOST_SEEDS = 100_000  # that are asked for at once
SHEET_PIXELS = 2**25  # of a whole sheet: 32 pictures of 1024 px at full size


@dataclass(frozen=True)
class SeedLatents:
    """What a seed stands for.

    Attributes:
        seed: 0 to 2^63 - 1.
        ws: [1, num_ws, w_dim], truncated.
        label: the class, of a generator that takes one.
    """

    seed: int
    ws: Tensor
    label: int | None


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet, counted from 0: of a seed, or of a seed with the style of another."""

    row: int
    column: int
    seed: int
    style_seed: int | None = None


def plan_cells(seeds: Sequence[int], style_seeds: Sequence[int] = ()) -> list[Cell]:
    """The pictures of a sheet: of seeds in a square; or of a mixing matrix.

    The matrix has the pictures of style_seeds in row 0, those of seeds in column 0, and their mixtures.
    """
    if not style_seeds:
        columns = max(1, round(len(seeds) ** 0.5))
        return [Cell(*divmod(index, columns), seed) for index, seed in enumerate(seeds)]
    cells = [Cell(0, column, seed) for column, seed in enumerate(style_seeds, 1)]
    for row, seed in enumerate(seeds, 1):
        cells.append(Cell(row, 0, seed))
        cells += [Cell(row, column, seed, style) for column, style in enumerate(style_seeds, 1)]
    return cells


@dataclass(frozen=True)
class Sampler:
    """Draws pictures of `generator` by seed.

    Attributes:
        generator: frozen.
        truncation: psi; 1 leaves the latents as they are, 0 gives w_avg.
        label: a class, for a generator that takes one; None lets each seed choose it.
        noise_mode: "const" or "none".
        layers: taken from the style, where a cell has one.

    Raises ValueError for a class that the generator does not have, or for pictures neither RGB nor grey.

    Example:
        sampler = Sampler(load_named_generator("avatars"), truncation=0.7)
        picture = sampler.draw(sampler.latents(7).ws)
        for cell in plan_cells([0, 1], style_seeds=[5, 6]):
            sampler.draw_cell(cell).save(f"{cell.row}-{cell.column}.png")
    """

    generator: Generator
    truncation: float = 1.0
    label: int | None = None
    noise_mode: NoiseMode = "const"
    layers: Sequence[int] = ()

    def __post_init__(self):
        check_channels(self.generator)
        check_label(self.generator, self.label)

    def latents(self, seed: int) -> SeedLatents:
        """Those of a seed."""
        return seed_latents(self.generator, seed, truncation=self.truncation, label=self.label)

    def draw(self, ws: Tensor) -> Image.Image:
        """The picture of ws [1, num_ws, w_dim]."""
        return draw_picture(self.generator, ws, self.noise_mode)

    def draw_cell(self, cell: Cell) -> Image.Image:
        """The picture of a sheet's cell."""
        ws = self.latents(cell.seed).ws
        if cell.style_seed is not None:
            ws = mix_styles(ws, self.latents(cell.style_seed).ws, self.layers)
        return self.draw(ws)

    def draw_walk(self, seeds: Sequence[int], frames: int) -> Iterator[Image.Image]:
        """The frames of a closed path through seeds; see `walk`."""
        return (self.draw(ws) for ws in walk([self.latents(seed).ws for seed in seeds], frames))


def seed_random(seed: int, stream: int = 0) -> np.random.RandomState:
    """The random numbers of a seed, 0 to 2^63 - 1; those of other streams are independent.

    NumPy keeps the stream of RandomState for good, and NVIDIA's scripts draw z from it, so that a seed shows
    the picture that is known by its number.

    Raises ValueError for a seed out of range.
    """
    check_seed(seed)
    # RandomState takes 32 bits, or a list of them.
    words = [seed % 2**32, seed >> 32, stream]
    return np.random.RandomState(seed if seed < 2**32 and stream == 0 else words)


@torch.no_grad()
def seed_latents(
    generator: Generator, seed: int, *, truncation: float = 1.0, label: int | None = None
) -> SeedLatents:
    """The latents of a seed.

    Args:
        generator: frozen, on any device.
        seed: 0 to 2^63 - 1.
        truncation: psi; 1 leaves the latents as they are, 0 gives w_avg.
        label: a class from 0 to c_dim - 1, for a generator that takes one; None lets the seed choose it.

    Raises ValueError for a seed or a class that is out of range, and for a class where none is taken.
    """
    config = generator.config
    check_label(generator, label)
    random = seed_random(seed)
    device = generator.mapping.w_avg.device
    z = torch.from_numpy(random.randn(1, config.z_dim)).to(device, torch.float32)
    c = None
    if config.c_dim:
        label = int(random.randint(config.c_dim)) if label is None else label
        c = F.one_hot(torch.tensor([label]), config.c_dim).to(device, torch.float32)
    return SeedLatents(seed, generator.mapping(z, c, truncation_psi=truncation), label)


def check_label(generator: Generator, label: int | None) -> None:
    """Raise ValueError for a class that the generator does not have."""
    classes = generator.config.c_dim
    if label is None:
        return
    if not classes:
        raise ValueError("this generator has no classes; leave it out")
    if not 0 <= label < classes:
        raise ValueError(f"this generator has no class {label}; give one from 0 to {classes - 1}")


@torch.no_grad()
def draw_picture(generator: Generator, ws: Tensor, noise_mode: NoiseMode = "const") -> Image.Image:
    """The RGB picture of ws [1, num_ws, w_dim]; grey ones as three equal channels.

    Raises ValueError for a generator of another number of channels.
    """
    return to_picture(generator.synthesis(ws, noise_mode=noise_mode))


def parse_seeds(text: str) -> list[int]:
    """Seeds and ranges of seeds, both ends included, in the order given.

    >>> parse_seeds("0-3, 50")
    [0, 1, 2, 3, 50]

    Raises ValueError, naming the part, for what is no seed, a range that runs backwards, or more than
    MOST_SEEDS in all.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (each.strip() for each in part.partition("-"))
        start, stop = _parse_seed(first, part), _parse_seed(last if dash else first, part)
        if stop < start:
            raise ValueError(f"{part.strip()!r} runs backwards; write it as {stop}-{start}")
        if len(seeds) + stop - start + 1 > MOST_SEEDS:
            raise ValueError(f"more than {MOST_SEEDS:,} seeds; ask for fewer at once")
        seeds.extend(range(start, stop + 1))
    return seeds


def parse_layers(text: str | None, num_ws: int) -> list[int]:
    """Layers of ws, such as "8-15" or "0,3", as `parse_seeds` reads seeds.

    None gives the finer half, which holds colours and textures more than shapes. Raises ValueError as
    `parse_seeds` does, and for a layer beyond num_ws - 1.
    """
    if text is None:
        return list(range(num_ws // 2, num_ws))
    layers = sorted(set(parse_seeds(text)))
    if layers[-1] >= num_ws:
        raise ValueError(f"this generator has no layer {layers[-1]}; give layers from 0 to {num_ws - 1}")
    return layers


def mix_styles(ws: Tensor, style: Tensor, layers: Sequence[int]) -> Tensor:
    """ws [1, num_ws, w_dim] with these layers taken from `style` (Karras et al. 2019, section 3.1)."""
    mixed = ws.clone()
    mixed[:, list(layers)] = style[:, list(layers)]
    return mixed


def walk(keys: Sequence[Tensor], frames: int) -> Iterator[Tensor]:
    """A smooth closed path through latents: `frames` steps from each key to the next, and back to the first.

    A Catmull-Rom spline, which passes through every key (frame 0, `frames`, 2 `frames`, ...) without a kink.

    Args:
        keys: ws [1, num_ws, w_dim] each, at least two.
        frames: steps from one key to the next.

    Raises ValueError for fewer than two keys.
    """
    count = len(keys)
    if count < 2:
        raise ValueError("a path needs at least two seeds")
    return (
        _spline([keys[(index + offset) % count] for offset in (-1, 0, 1, 2)], frame / frames)
        for index in range(count)
        for frame in range(frames)
    )


def sheet_cell(pictures: int, resolution: int) -> int:
    """Pixels a side of each picture in a sheet of so many: the resolution, halved until all fit in."""
    while pictures * resolution**2 > SHEET_PIXELS and resolution > 8:
        resolution //= 2
    return resolution


def check_channels(generator: Generator) -> None:
    """Raise ValueError for a generator whose pictures are neither RGB nor grey."""
    channels = generator.config.img_channels
    if channels not in (1, 3):
        raise ValueError(f"its pictures have {channels} channels; only RGB (3) and grey (1) can be drawn")


def _spline(points: Sequence[Tensor], t: float) -> Tensor:
    before, start, end, after = points
    if t == 0:
        return start
    slope, next_slope = (end - before) / 2, (after - start) / 2
    square, cube = t**2, t**3
    return (
        (2 * cube - 3 * square + 1) * start
        + (cube - 2 * square + t) * slope
        + (3 * square - 2 * cube) * end
        + (cube - square) * next_slope
    )


def _parse_seed(text: str, part: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{part.strip()[:40]!r} is neither a seed nor a range of seeds; write 0-35,50")
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > LARGEST_SEED:
        raise ValueError(f"{part.strip()[:40]!r} is out of range; the largest seed is {LARGEST_SEED}")
    return int(digits)

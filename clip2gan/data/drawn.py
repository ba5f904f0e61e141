"""A folder of drawn samples: small pictures of a generator, and the latents they were drawn from.

    config.json                     what was drawn from, and how
    pictures/00003/00003141.jpg     the picture of seed 3141, antialiased to the folder's size
    latents/00003072.safetensors    of seeds 3072 to 3327: "seed" [N], "w" [N, w_dim] of the pictures,
                                    "truncation" [N], and "label" [N] of a generator with classes

Sample i depends on seed i alone. Every file appears whole, so that a stopped command goes on. Drawing is most
of the work with a large generator; several trainings can use what was drawn once.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip2gan.images import read_picture
from clip2gan.sampling import SeedLatents, draw_picture, seed_latents, seed_random
from stylegan2 import Generator
from stylegan2.files import atomic_path, load_tensors, save_tensors
from stylegan2.settings import LARGEST_SEED

SHARD = 256  # seeds of a file of latents
PICTURES_PER_FOLDER = 1000
QUALITY = 95  # of the JPEGs
TOLERANCE = 1e-2  # between latents of one generator on different machines


def picture_path(folder: Path, seed: int) -> Path:
    """Where the picture of a seed lies."""
    return folder / "pictures" / f"{seed // PICTURES_PER_FOLDER:05d}" / f"{seed:08d}.jpg"


@dataclass(frozen=True)
class Drawer:
    """Draws the samples of `generator` into `folder`; truncation is uniform in a range, by seed."""

    generator: Generator
    folder: Path
    size: int
    truncation: tuple[float, float]

    def draw_shard(self, seeds: range) -> Iterator[bool]:
        """Make what is missing of these seeds of one shard; yields whether each picture was drawn now."""
        path = self.folder / "latents" / f"{seeds.start // SHARD * SHARD:08d}.safetensors"
        known = _read_seeds(path)
        if known.issuperset(seeds) and all(picture_path(self.folder, seed).is_file() for seed in seeds):
            yield from (False for _ in seeds)
            return
        rows = []
        for seed in sorted(known.union(seeds)):
            latents, psi = self._latents(seed)
            rows.append((latents, psi))
            is_new = not picture_path(self.folder, seed).is_file()
            if is_new:
                self._draw(latents)
            if seed in seeds:
                yield is_new
        save_tensors(path, _stack(rows), {})

    def _latents(self, seed: int) -> tuple[SeedLatents, float]:
        low, high = self.truncation
        psi = low if low == high else seed_random(seed, stream=1).uniform(low, high)
        return seed_latents(self.generator, seed, truncation=psi), psi

    def _draw(self, latents: SeedLatents) -> None:
        picture = draw_picture(self.generator, latents.ws)
        if self.size < picture.width:
            picture = picture.resize((self.size, self.size), Image.Resampling.LANCZOS)
        with atomic_path(picture_path(self.folder, latents.seed)) as temporary:
            picture.save(temporary, format="JPEG", quality=QUALITY, subsampling=0)


def _stack(rows: list[tuple[SeedLatents, float]]) -> dict[str, Tensor]:
    tensors = {
        "seed": torch.tensor([latents.seed for latents, _ in rows]),
        "truncation": torch.tensor([psi for _, psi in rows]),
        "w": torch.cat([latents.ws[:, 0] for latents, _ in rows]),
    }
    labels = [latents.label for latents, _ in rows if latents.label is not None]
    return {**tensors, "label": torch.tensor(labels)} if labels else tensors


def _read_seeds(path: Path) -> set[int]:
    try:
        return set(load_tensors(path)[0]["seed"].tolist())
    except (FileNotFoundError, ValueError, KeyError):  # not made yet, or damaged: made again
        return set()


def split_shards(seeds: range) -> Iterator[range]:
    """A range of seeds, cut at the multiples of SHARD.

    >>> list(split_shards(range(200, 600)))
    [range(200, 256), range(256, 512), range(512, 600)]
    """
    start = seeds.start
    while start < seeds.stop:
        stop = min((start // SHARD + 1) * SHARD, seeds.stop)
        yield range(start, stop)
        start = stop


@dataclass(frozen=True)
class DrawnSamples:
    """Some of a folder's samples, in the order of their seeds.

    Attributes:
        folder: where they are.
        seeds: ascending.
        w: their latents, float32 [N, w_dim].
        truncation: psi of each, [N]; w is the truncated latent.
    """

    folder: Path
    seeds: list[int]
    w: Tensor
    truncation: Tensor

    def fingerprint(self) -> str:
        """The sha256 of the latents, in hex."""
        return hashlib.sha256(self.w.contiguous().numpy().tobytes()).hexdigest()

    def first(self, count: int) -> "DrawnSamples":
        """Those of the lowest seeds."""
        return DrawnSamples(self.folder, self.seeds[:count], self.w[:count], self.truncation[:count])

    def pixels(self, rows: slice = slice(None), size: int | None = None) -> Tensor:
        """The pictures of these rows, as they are or resized: uint8 [N, 3, size, size], RGB.

        Raises FileNotFoundError where a picture is missing.
        """
        pictures = [np.asarray(open_sample(self.folder, seed, size)) for seed in self.seeds[rows]]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def open_sample(folder: Path, seed: int, size: int | None = None) -> Image.Image:
    """The RGB picture of a seed, as it is or at size x size."""
    picture = read_picture(picture_path(folder, seed))
    return picture if size is None else picture.resize((size, size), Image.Resampling.LANCZOS)


def shard_paths(folder: Path, seeds: range) -> list[Path]:
    """The files of latents in which some of these seeds are.

    Raises FileNotFoundError when there is none.
    """
    found = [
        path
        for path in sorted((folder / "latents").glob("*.safetensors"))
        if path.stem.isdecimal() and int(path.stem) < seeds.stop and int(path.stem) + SHARD > seeds.start
    ]
    if not found:
        raise FileNotFoundError(
            f"{folder} has no drawn samples of seeds {seeds.start} to {seeds.stop - 1}; draw some by "
            f"python -m tools.draw_samples --generator GENERATOR --seeds 0-9999 --out {folder}"
        )
    return found


def read_drawn(folder: Path, seeds: range = range(LARGEST_SEED + 1)) -> DrawnSamples:
    """The samples of these seeds that have been drawn.

    Raises FileNotFoundError when there is none, ValueError for a damaged file.
    """
    numbers: list[int] = []
    w: list[Tensor] = []
    psi: list[Tensor] = []
    for path in shard_paths(folder, seeds):
        tensors = load_tensors(path)[0]
        if missing := {"seed", "w", "truncation"} - tensors.keys():
            raise ValueError(f"{path}: has no {sorted(missing)[0]!r}; remove it and draw it again")
        keep = [i for i, seed in enumerate(tensors["seed"].tolist()) if seed in seeds]
        numbers += tensors["seed"][keep].tolist()
        w.append(tensors["w"][keep])
        psi.append(tensors["truncation"][keep])
    return DrawnSamples(folder, numbers, torch.cat(w), torch.cat(psi))


def open_drawn(folder: str | Path, generator: Generator, count: int, first_seed: int = 0) -> DrawnSamples:
    """The `count` samples of the lowest seeds from `first_seed` on, which must be drawn from `generator`.

    Raises FileNotFoundError when there is none, ValueError when there are fewer, or where the first sample's
    latent is not what the generator makes of its seed.
    """
    found = read_drawn(Path(folder), range(first_seed, LARGEST_SEED + 1))
    if len(found.seeds) < count:
        raise ValueError(
            f"{folder}: has {len(found.seeds)} samples from seed {first_seed} on, and --samples asks for "
            f"{count}; draw more, or give --samples {len(found.seeds)}"
        )
    drawn = found.first(count)
    w = drawn.w[0]
    own = seed_latents(generator, drawn.seeds[0], truncation=drawn.truncation[0].item()).ws[0, 0].cpu()
    if own.shape != w.shape or not torch.allclose(own, w, atol=TOLERANCE):
        raise ValueError(
            f"{folder}: drawn from another generator; draw samples of this one into a new folder"
        )
    return drawn

"""Reading a folder of `tools.draw_samples`: small pictures, and the latents they were drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylegan2.files import load_tensors
from tools.draw_samples import PICTURES_PER_FOLDER, SHARD

FIRST_JUDGE_SEED = 10_240
"""Samples from this seed on train and test the judge, and nothing else."""


@dataclass(frozen=True)
class Samples:
    """Some of a folder's samples, in the order of their seeds.

    Attributes:
        folder: of `tools.draw_samples`.
        seeds: ascending.
        w: their latents, float32 [N, w_dim].
    """

    folder: Path
    seeds: list[int]
    w: Tensor

    def pixels(self, size: int) -> Tensor:
        """Their pictures, resized: uint8 [N, 3, size, size], RGB."""
        result = torch.empty(len(self.seeds), 3, size, size, dtype=torch.uint8)
        for row, seed in zip(result, self.seeds, strict=True):
            pixels = np.array(open_sample(self.folder, seed, size))
            row.copy_(torch.from_numpy(pixels).permute(2, 0, 1))
        return result


def sample_path(folder: Path, seed: int) -> Path:
    """Where the picture of a seed lies."""
    return folder / "pictures" / f"{seed // PICTURES_PER_FOLDER:05d}" / f"{seed:08d}.jpg"


def open_sample(folder: Path, seed: int, size: int) -> Image.Image:
    """The RGB picture of a seed at size x size."""
    with Image.open(sample_path(folder, seed)) as picture:
        return picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def shard_paths(folder: Path, seeds: range) -> list[Path]:
    """The files of latents in which some of these seeds are.

    Raises FileNotFoundError when there is none.
    """
    found = [
        path
        for path in sorted((folder / "latents").glob("*.safetensors"))
        if int(path.stem) < seeds.stop and int(path.stem) + SHARD > seeds.start
    ]
    if not found:
        raise FileNotFoundError(
            f"{folder} has no samples of seeds {seeds.start} to {seeds.stop - 1}; draw them by "
            f"python -m tools.draw_samples --generator faces --seeds {seeds.start}-{seeds.stop - 1} "
            f"--truncation 0.6:1.0 --out {folder}"
        )
    return found


def read_samples(folder: Path, seeds: range) -> Samples:
    """The samples of these seeds that have been drawn. Raises FileNotFoundError when there is none."""
    numbers: list[int] = []
    rows: list[Tensor] = []
    for path in shard_paths(folder, seeds):
        tensors = load_tensors(path)[0]
        keep = [i for i, seed in enumerate(tensors["seed"].tolist()) if seed in seeds]
        numbers += tensors["seed"][keep].tolist()
        rows.append(tensors["w"][keep])
    return Samples(folder, numbers, torch.cat(rows))


def rows_of(seeds: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The rows of the `wanted` seeds among `seeds`; KeyError names one that is missing."""
    row = {seed: index for index, seed in enumerate(seeds)}
    return [row[seed] for seed in wanted]

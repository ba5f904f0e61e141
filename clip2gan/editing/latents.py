"""Files of latents: our own, and those of other tools.

NVIDIA's projected_w.npz, and the latents.pt of e4e, pSp and StyleCLIP, hold ws [N, num_ws, w_dim] without a
word of whose pictures they are. Nothing in them is run.
"""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clip2gan.editing.inversion import load_latents
from stylegan2.checkpoints.arrays import NAMES, Storages
from stylegan2.checkpoints.containers import map_file, read_root
from stylegan2.files import atomic_path, check_finite

if TYPE_CHECKING:
    from stylegan2 import Generator

NVIDIA_KEY = "w"
MAX_BYTES = 2**30  # unpacked
LARGEST = 1e4  # latents are of the order of 1


@dataclass(frozen=True)
class LatentsFile:
    """Latents as a file has them.

    Attributes:
        path: of the file.
        ws: [N, num_ws, w_dim], on the generator's device.
        by_picture: a picture's fingerprint -> its row of ws; None where the file does not say.
    """

    path: Path
    ws: Tensor
    by_picture: Mapping[str, Tensor] | None = None

    def row(self, index: int) -> Tensor:
        """The latents [1, num_ws, w_dim] of a number, from 0. Raises ValueError where there are fewer."""
        if not 0 <= index < len(self.ws):
            raise ValueError(f"{self.path} has {len(self.ws)} latents, numbered from 0; there is no {index}")
        return self.ws[index : index + 1]

    def names(self) -> list[str]:
        """A name for the picture of each row: the file's, numbered where there are several."""
        if len(self.ws) == 1:
            return [self.path.stem]
        return [f"{self.path.stem}-{number:0{len(str(len(self.ws) - 1))}d}" for number in range(len(self.ws))]


def read_latents(
    path: str | Path, generator: "Generator", model_fingerprint: str | None = None
) -> LatentsFile:
    """The latents of a file of `clip2gan invert` (.safetensors), or of another tool (.npz, .pt).

    Raises what `load_latents` and `read_other_latents` raise.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        stored = load_latents(path, generator, model_fingerprint)
        if not stored:
            raise ValueError(f"{path}: holds no latents")
        return LatentsFile(path, torch.cat(list(stored.values())), stored)
    ws = read_other_latents(path, generator.num_ws, generator.config.w_dim)
    return LatentsFile(path, ws.to(generator.mapping.w_avg))


def read_other_latents(path: str | Path, num_ws: int, w_dim: int) -> Tensor:
    """The latents of a .npz or .pt file of another tool, [N, num_ws, w_dim] float32.

    Raises FileNotFoundError, or ValueError, with the path, for what holds no such latents of a generator with
    `num_ws` and `w_dim`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    try:
        ws = _read_npz(path) if path.suffix.lower() == ".npz" else _read_pt(path)
        check_finite({"the latents": ws})
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path}: holds no latents that are read here ({error})") from error
    if ws.ndim != 3 or not len(ws) or tuple(ws.shape[1:]) != (num_ws, w_dim):
        raise ValueError(f"{path}: latents of {list(ws.shape)}, but this model's are [N, {num_ws}, {w_dim}]")
    if ws.abs().max() > LARGEST:
        raise ValueError(f"{path}: numbers as large as {float(ws.abs().max()):.3g}, which no latents have")
    return ws


def write_nvidia_latents(path: str | Path, ws: Tensor) -> None:
    """Write ws [N, num_ws, w_dim] as NVIDIA's projector does: a .npz with them as "w", in float32."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, w=ws.detach().float().cpu().numpy())  # NVIDIA_KEY


def _read_npz(path: Path) -> Tensor:
    member = f"{NVIDIA_KEY}.npy"
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if member not in sizes:
            raise ValueError(f"no array {NVIDIA_KEY!r} in it, but {', '.join(list(sizes)[:5])!a:.80}")
        with archive.open(member) as file:  # a small file may promise a large array
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
    if not math.prod(shape) * dtype.itemsize <= sizes[member] <= MAX_BYTES:
        raise ValueError("its array does not fit the file, or is larger than any latents")
    with np.load(path, allow_pickle=False) as arrays:
        array = arrays[NVIDIA_KEY]
    if array.dtype.kind != "f":
        raise ValueError(f"numbers of type {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _read_pt(path: Path) -> Tensor:
    data = map_file(path)
    root, parts = read_root(data, NAMES)
    return Storages(parts, len(data)).tensor(root, "the file")

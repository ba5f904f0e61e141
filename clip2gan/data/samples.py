"""Embeddings computed once: of pictures drawn from the generator (with their latents), and of pictures given.

They are kept in shards beside the run that uses them. A shard's header tells what it was made from, so that a
training that was stopped goes on with the next one, and shards of another generator or CLIP are made anew.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clip2gan.clip import ClipEncoder
from clip2gan.data.drawn import DrawnSamples
from clip2gan.data.lines import read_texts
from clip2gan.data.pictures import Pictures
from clip2gan.devices import pictures_at_once
from clip2gan.domain import Domain
from stylegan2 import Generator
from stylegan2.files import load_tensors, save_tensors
from stylegan2.progress import progress_bar
from stylegan2.runs import step_generator

SHARD = 1024  # rows of a shard
EMBEDDED_AT_ONCE = 64  # small pictures


class Sharing(Protocol):
    """Processes that share the work; `stylegan2.processes.Processes` is one."""

    index: int
    count: int

    def wait(self) -> None: ...


@dataclass(frozen=True)
class Samples:
    """Latents w [N, w_dim] drawn from the generator, and the embeddings [N, D] of the pictures they give."""

    w: Tensor
    embeddings: Tensor


def draw_samples(
    generator: Generator,
    clip: ClipEncoder,
    count: int,
    seed: int,
    folder: Path,
    processes: Sharing | None = None,
) -> Samples:
    """Draw `count` pictures (psi 1, constant noise) and embed them, or read from `folder` what is there.

    Sample i depends on `seed` and i only.
    """
    made_from = {"generator": weights_fingerprint(generator), "clip": clip.fingerprint(), "seed": seed}

    def make(start: int, stop: int) -> dict[str, Tensor]:
        # Below zero, so that no step of a training draws the same numbers.
        random = step_generator(seed, -1 - start // SHARD)
        z = torch.randn(SHARD, generator.config.z_dim, generator=random)[: stop - start].to(clip.device)
        c = generator.draw_labels(SHARD, random)
        w = generator.mapping(z, None if c is None else c[: stop - start])[:, 0]
        pictures = (
            generator.synthesis(part[:, None].expand(-1, generator.num_ws, -1))
            for part in w.split(pictures_at_once(generator.config.img_resolution, clip.device))
        )
        return {"w": w, "embeddings": torch.cat([clip.encode_images(part) for part in pictures])}

    tensors = shards(folder, count, made_from, make, "drawing samples", processes)
    return Samples(tensors["w"], tensors["embeddings"])


def embed_drawn(
    drawn: DrawnSamples, clip: ClipEncoder, folder: Path, processes: Sharing | None = None
) -> Samples:
    """Latents of samples drawn before, and embeddings of their pictures, or what is in `folder` of these."""
    made_from = {"drawn": drawn.fingerprint(), "clip": clip.fingerprint()}

    def make(start: int, stop: int) -> dict[str, Tensor]:
        parts = range(start, stop, EMBEDDED_AT_ONCE)
        images = (
            to_floats(drawn.pixels(slice(first, min(first + EMBEDDED_AT_ONCE, stop)))).to(clip.device)
            for first in parts
        )
        return {"embeddings": torch.cat([clip.encode_images(part) for part in images])}

    tensors = shards(folder, len(drawn.seeds), made_from, make, "embedding samples", processes)
    return Samples(drawn.w, tensors["embeddings"])


def embed_pictures(
    pictures: Pictures, clip: ClipEncoder, folder: Path, processes: Sharing | None = None
) -> Tensor:
    """Embeddings [len(pictures), D], or what is in `folder` of them."""
    made_from = {
        "pictures": pictures.fingerprint,
        "resolution": pictures.resolution,
        "clip": clip.fingerprint(),
    }

    def make(start: int, stop: int) -> dict[str, Tensor]:
        parts = torch.arange(start, stop).split(pictures_at_once(pictures.resolution, clip.device))
        images = (to_floats(pictures.batch(part)).to(clip.device) for part in parts)
        return {"embeddings": torch.cat([clip.encode_images(part) for part in images])}

    return shards(folder, len(pictures), made_from, make, "embedding pictures", processes)["embeddings"]


def embed_texts(
    texts: Sequence[str], clip: ClipEncoder, folder: Path, processes: Sharing | None = None
) -> Tensor:
    """Embeddings [len(texts), D], or what is in `folder` of them."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    made_from = {"texts": digest, "clip": clip.fingerprint()}

    def make(start: int, stop: int) -> dict[str, Tensor]:
        parts = [texts[first : min(first + 128, stop)] for first in range(start, stop, 128)]
        return {"embeddings": torch.cat([clip.encode_texts(part) for part in parts])}

    return shards(folder, len(texts), made_from, make, "embedding texts", processes)["embeddings"]


def to_floats(pictures: Tensor) -> Tensor:
    """uint8 pictures as float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def plain_prompts(path: str | Path | None = None, domain: Domain | None = None) -> list[str]:
    """The lines of a text file; without one the domain's plain prompts, or else some about no domain.

    Their mean embedding stands for "a text" when the modality gap is measured (see `clip2gan.gap`). They
    describe no training picture. For a domain without any, write such a list: a few dozen short phrases that
    together name all that may be asked for.

    Raises FileNotFoundError, or ValueError when there is no text in the file.
    """
    if path is None and domain is not None and domain.prompts:
        return list(domain.prompts)
    source = resources.files("clip2gan.data") / "prompts.txt" if path is None else Path(path)
    return read_texts(source)


def weights_fingerprint(module: nn.Module) -> str:
    """The sha256 (hex) of all parameters and buffers of a module: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def shards(
    folder: Path,
    count: int,
    made_from: Mapping[str, Any],
    make: Callable[[int, int], dict[str, Tensor]],
    description: str,
    processes: Sharing | None = None,
) -> dict[str, Tensor]:
    """The tensors of rows 0 to `count`: from shards in `folder`, or made by `make(start, stop)`.

    `made_from` is kept with them, and shards of something else are made anew. Of several processes each makes
    its share of what is missing, and all read the rest.
    """

    def shard(start: int) -> dict[str, Tensor]:
        stop = min(start + SHARD, count)
        path = folder / f"{start // SHARD:05d}.safetensors"
        header = {**made_from, "rows": [start, stop]}
        found = _read_shard(path, header)
        if found is None:
            found = {name: tensor.float().cpu() for name, tensor in make(start, stop).items()}
            save_tensors(path, found, header)
        return found

    starts = range(0, count, SHARD)
    if processes is not None and processes.count > 1:
        for start in starts[processes.index :: processes.count]:
            shard(start)
        processes.wait()
    shards = [shard(start) for start in progress_bar(starts, description)]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def _read_shard(path: Path, header: Mapping[str, Any]) -> dict[str, Tensor] | None:
    try:
        tensors, found = load_tensors(path)
    except (FileNotFoundError, ValueError):  # not made yet, or damaged: a cache is made again
        return None
    return tensors if found == header else None

"""Captioned pictures with their CLIP embeddings, as the conditional GAN is trained on them."""

import contextlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from clip2gan.clip import ClipEncoder
from clip2gan.data.captions import DATASET, prepared_resolution, read_captions
from clip2gan.data.files import Files, open_files
from clip2gan.data.pictures import MEMORY_LIMIT, Mixed, Pictures, ReadAhead, open_pictures
from clip2gan.data.samples import Sharing, embed_pictures, embed_texts
from clip2gan.images import picture_size
from clip2gan.messages import one_line
from stylegan2.files import check_finite

EMBEDDINGS = "embeddings.safetensors"  # in a zip of `clip2gan prepare`
LOOKED_AT = 100  # pictures of a source, to learn their size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captioned:
    """Pictures, and what CLIP makes of them and of their captions.

    Attributes:
        pictures: of one size.
        images: embeddings of the pictures [N, D].
        texts: embeddings of all captions [M, D], picture by picture.
        counts: how many of them each picture has [N]; 0 where it has none.
    """

    pictures: Mixed
    images: Tensor
    texts: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: list[int]) -> Tensor:
        """uint8 [len(indices), 3, R, R]."""
        return self.pictures.batch(indices)

    def read_ahead(self, upcoming: Iterable[list[int]]) -> ReadAhead:
        """The pictures, whose coming batches are decoded while the ones before are worked on."""
        return self.pictures.read_ahead(upcoming)

    def draw_captions(self, indices: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A caption's embedding [N, D] for each picture, and whether it has one [N]; zeros where not."""
        numbers = (torch.rand(len(indices), generator=random) * self.counts[indices]).long()
        has = self.counts[indices] > 0
        rows = torch.where(has, self._starts[indices] + numbers, 0)
        if not len(self.texts):
            return self.images.new_zeros(len(indices), self.images.shape[1]), has
        return self.texts[rows] * has[:, None], has

    @cached_property
    def _starts(self) -> Tensor:
        return self.counts.cumsum(0) - self.counts


@dataclass(frozen=True)
class Uncoded:
    """Pictures and their captions as they were read, before CLIP has looked at them.

    Attributes:
        files: where each source lies.
        pictures: of each source.
        captions: of each picture of each source.
    """

    files: list[Files]
    pictures: list[Pictures]
    captions: list[list[list[str]]]

    def embed(self, clip: ClipEncoder, cache: Path, processes: Sharing | None = None) -> Captioned:
        """Embed both, or take the embeddings of a zip of `clip2gan prepare` that was prepared with this CLIP.

        What is computed is kept in `cache`.
        """
        images, texts, counts = [], [], []
        sources = zip(self.files, self.pictures, self.captions, strict=True)
        for number, (files, pictures, captions) in enumerate(sources):
            flat = [text for each in captions for text in each]
            stored = _stored_embeddings(files, clip, len(pictures), len(flat))
            if stored is None:
                found = embed_pictures(pictures, clip, cache / f"pictures-{number}", processes)
                empty = found.new_zeros(0, found.shape[1])
                stored = (
                    found,
                    embed_texts(flat, clip, cache / f"texts-{number}", processes) if flat else empty,
                )
            images.append(stored[0])
            texts.append(stored[1])
            counts += [len(each) for each in captions]
        return Captioned(Mixed(self.pictures), torch.cat(images), torch.cat(texts), torch.tensor(counts))


def open_captioned(
    sources: Sequence[str], resolution: int, memory_limit: int = MEMORY_LIMIT, allow_missing: bool = False
) -> Uncoded:
    """Open folders, zips and shards of pictures with the captions beside them.

    Up to `memory_limit` bytes of decoded pictures are kept. What is skipped is named in warnings. Raises what
    `open_pictures` and `read_captions` raise.
    """
    opened = Uncoded([], [], [])
    for source in sources:
        files = open_files(source)
        pictures = open_pictures(source, resolution, memory_limit // len(sources))
        captions = read_captions(files, allow_missing=allow_missing)
        for line in [*captions.how_matched(), *captions.notes]:
            log.warning("%s: %s", source, line)
        for line in captions.summary():
            log.warning("%s: skipped %s", source, line)
        opened.files.append(files)
        opened.pictures.append(pictures)
        opened.captions.append([captions.of.get(name, []) for name in pictures.names])
    return opened


def picture_sides(sources: Sequence[str]) -> set[int]:
    """How many pixels the shorter sides of the pictures have.

    A zip of `clip2gan prepare` says so itself; of other pictures some are looked at. Raises what `open_files`
    raises.
    """
    sides: set[int] = set()
    for source in sources:
        files = open_files(source)
        resolution = prepared_resolution(files)
        if resolution is not None:
            sides.add(resolution)
            continue
        names = files.pictures
        for name in names[:: max(1, len(names) // LOOKED_AT)]:
            with contextlib.suppress(Exception):  # decoders raise almost anything on a broken file
                sides.add(min(picture_size(files.read(name))))
    return sides


def _stored_embeddings(
    files: Files, clip: ClipEncoder, num_pictures: int, num_texts: int
) -> tuple[Tensor, Tensor] | None:
    """What `clip2gan prepare` put into its zip, where it is of this CLIP and of all that was read."""
    if not {EMBEDDINGS, DATASET} <= set(files.names):
        return None
    try:
        if not clip.has_fingerprint(json.loads(files.read(DATASET))["clip"]):
            log.warning("%s: was prepared with another CLIP; its embeddings are computed anew", files.source)
            return None
        tensors = load(files.read(EMBEDDINGS))
        images, texts = tensors["images"], tensors["texts"]
        shapes = [list(images.shape), list(texts.shape)]
        if shapes != [[num_pictures, clip.embed_dim], [num_texts, clip.embed_dim]]:
            return None
        check_finite({"images": images, "texts": texts})
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        reason = one_line(error)
        log.warning("%s: its embeddings cannot be read (%s); they are computed again", files.source, reason)
        return None
    return images.float(), texts.float()

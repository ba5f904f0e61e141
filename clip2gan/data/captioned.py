"""Captioned pictures with their CLIP embeddings, as the conditional GAN is trained on them."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from clip2gan.clip import ClipEncoder
from clip2gan.data.captions import DATASET, read_captions
from clip2gan.data.files import Files, open_files
from clip2gan.data.pictures import Mixed, open_pictures
from clip2gan.data.samples import Sharing, embed_pictures, embed_texts

EMBEDDINGS = "embeddings.safetensors"  # in a zip of `clip2gan prepare`

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


def open_captioned(
    sources: Sequence[str],
    resolution: int,
    clip: ClipEncoder,
    cache: Path,
    processes: Sharing | None = None,
    any_script: bool = False,
) -> Captioned:
    """Open folders, zips and shards of pictures with the captions beside them, and embed both.

    Embeddings come from a zip of `clip2gan prepare` that was prepared with this CLIP, or are computed once
    and kept in `cache`. What is skipped is named in warnings. Raises what `open_pictures` raises.
    """
    opened, images, texts, counts = [], [], [], []
    for number, source in enumerate(sources):
        files = open_files(source)
        pictures = open_pictures(source, resolution)
        captions = read_captions(files, any_script)
        for line in captions.summary():
            log.warning("%s: skipped %s", source, line)
        own = [captions.of.get(name, []) for name in pictures.names]
        flat = [text for each in own for text in each]
        stored = _stored_embeddings(files, clip, len(pictures), len(flat))
        if stored is None:
            found = embed_pictures(pictures, clip, cache / f"pictures-{number}", processes)
            empty = found.new_zeros(0, found.shape[1])
            stored = (
                found,
                embed_texts(flat, clip, cache / f"texts-{number}", processes) if flat else empty,
            )
        opened.append(pictures)
        images.append(stored[0])
        texts.append(stored[1])
        counts += [len(each) for each in own]
    return Captioned(Mixed(opened), torch.cat(images), torch.cat(texts), torch.tensor(counts))


def _stored_embeddings(
    files: Files, clip: ClipEncoder, num_pictures: int, num_texts: int
) -> tuple[Tensor, Tensor] | None:
    """What `clip2gan prepare` put into its zip, where it is of this CLIP and of all that was read."""
    if not {EMBEDDINGS, DATASET} <= set(files.names):
        return None
    try:
        if json.loads(files.read(DATASET)).get("clip") != clip.fingerprint():
            return None
        tensors = load(files.read(EMBEDDINGS))
        images, texts = tensors["images"].float(), tensors["texts"].float()
    except (ValueError, KeyError, SafetensorError) as error:
        log.warning("%s: its embeddings cannot be read (%s); they are computed again", files.source, error)
        return None
    return (images, texts) if (len(images), len(texts)) == (num_pictures, num_texts) else None

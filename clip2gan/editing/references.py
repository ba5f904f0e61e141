"""Pictures that edits are compared with: those that a gap remembers, or samples of the generator."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip2gan.data.samples import draw_samples, shards
from clip2gan.devices import pictures_at_once
from clip2gan.editing.directions import ReferenceBank
from stylegan2.checkpoints.download import cache_folder
from stylegan2.runs import step_generator

if TYPE_CHECKING:
    from clip2gan.model import Model


def reference_bank(model: "Model") -> ReferenceBank:
    """The pictures that a model's edits are compared with.

    Samples are drawn on first use and kept in the user's cache.
    """
    remembered = getattr(model.gap, "memory", None)
    if remembered is None:
        count = model.domain.references
        folder = cache_folder().with_name("clip2gan") / "samples" / model.bundle.fingerprint[:16]
        if model.takes_texts:
            made_from = {"model": model.bundle.fingerprint, "text": model.domain.neutral}
            embed = lambda start, stop: embed_random(model, start, stop)  # noqa: E731
            remembered = shards(folder, count, made_from, embed, "drawing samples")["embeddings"]
        else:
            remembered = draw_samples(model.generator, model.clip, count, 0, folder).embeddings
    return ReferenceBank(remembered.to(model.w_avg), model.clip.logit_scale)


@torch.no_grad()
def embed_random(model: "Model", start: int, stop: int) -> dict[str, Tensor]:
    """The "embeddings" [stop - start, D] of random pictures."""
    ws = model.random_ws(stop - start, step_generator(0, -1 - start))
    parts = ws.split(pictures_at_once(model.resolution, model.device))
    images = (model.draw_ws(part) for part in parts)
    return {"embeddings": torch.cat([model.clip.encode_images(image) for image in images])}

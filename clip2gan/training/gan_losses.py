"""What the captioned GAN's losses say of pictures and texts, by CLIP."""

import torch
import torch.nn.functional as F
from torch import Tensor


def guidance(images: Tensor, texts: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """CLIP's judgement of pictures' and their texts' unit embeddings [N, D], two scalars.

    1 - cosine, averaged; and the contrastive loss that CLIP itself is trained with (Radford et al. 2021,
    figure 3), over the batch: each picture has to be told from the others by its text, and the reverse.
    """
    logits = logit_scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return 1 - (images * texts).sum(1).mean(), contrast


def mismatched(c: Tensor, targets: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The condition of the picture before, for each, and whether it is wrong there [N].

    It counts as wrong where CLIP finds it less like the picture than its own. All are [N, D].
    """
    own, others = (images * targets).sum(1), (images * targets.roll(1, 0)).sum(1)
    return c.roll(1, 0), others < own

"""Whether a text says anything to a model: how far its CLIP tells the domain's pictures apart by it.

The contrast of a text is how much nearer the pictures that it describes are to it than all pictures are: 0
where CLIP finds it in none of them more than in others, as it does with most texts about other things.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip2gan.data.lines import read_texts
from clip2gan.editing.directions import ReferenceBank
from clip2gan.editing.notices import SaysNothing

if TYPE_CHECKING:
    from clip2gan.clip import ClipEncoder
    from clip2gan.domain import Domain
    from clip2gan.model import Model

UNRELATED = Path(__file__).parents[1] / "data" / "unrelated.txt"  # texts that are about no domain of pictures
CHANCE = 0.97  # the share of them that has less contrast than a text needs
KNOWN = 0.25  # at most this share of the domain's own texts has less


@torch.no_grad()
def measure_contrast(clip: "ClipEncoder", memory: Tensor, texts: Sequence[str]) -> Tensor:
    """The contrast of each text [T] among embeddings [M, D] of the domain's pictures."""
    bank = ReferenceBank(memory.to(clip.device, torch.float32), clip.logit_scale)
    return torch.tensor([bank.level(e) - bank.mean(e) for e in clip.encode_texts(list(texts))])


def measure_least_contrast(clip: "ClipEncoder", memory: Tensor | None, domain: "Domain") -> float | None:
    """The contrast below which a text says no more than those about other things do.

    None where pictures or texts of the domain are missing: what has less could not be told what to say.
    """
    known = domain.attribute_texts or domain.prompts
    if memory is None or not known:
        return None
    chance = measure_contrast(clip, memory, read_texts(UNRELATED)).quantile(CHANCE)
    usual = measure_contrast(clip, memory, known).quantile(KNOWN)
    return float(f"{min(float(chance), float(usual)):.4g}")


def judge_text(model: "Model", text: str) -> SaysNothing | None:
    """A notice if a text says nothing to a model; None too for a model of which that was not measured."""
    domain, memory = model.domain, getattr(model.gap, "memory", None)
    own = {_plain(each) for each in (domain.neutral, *domain.prompts, *domain.attribute_texts)}
    if domain.least_contrast is None or memory is None or _plain(text) in own:
        return None
    if float(measure_contrast(model.clip, memory, [text])) >= domain.least_contrast:
        return None
    examples = domain.prompts[:: max(1, len(domain.prompts) // 3)][:3]
    groups = tuple(name.replace("_", " ") for name in domain.vocabulary)
    return SaysNothing(text, groups, examples)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")

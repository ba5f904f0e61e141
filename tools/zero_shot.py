"""Zero-shot classification: which of a group's values fits a picture best, by CLIP alone.

The prompts are those of the domain's lexicon, worded on their own, not taken from the captions' grammar.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.captions import Grammar

TEMPLATES = ("{}", "a picture of {}", "This is {}.")


def classifier(grammar: Grammar, group: str, encode_texts: Callable[[list[str]], Tensor]) -> Tensor:
    """One unit vector for each value of `group`: the mean of its prompts' embeddings [values, D]."""
    rows = []
    for value in grammar.vocabulary.groups()[group].values:
        texts = [
            template.format(prompt) for prompt in grammar.prompts[group][value] for template in TEMPLATES
        ]
        rows.append(F.normalize(encode_texts(texts).mean(0), dim=0))
    return torch.stack(rows)


def accuracy(
    grammar: Grammar,
    embeddings: Tensor,
    attributes: Sequence[Mapping[str, str]],
    encode_texts: Callable[[list[str]], Tensor],
) -> dict[str, float]:
    """The share (0 to 1) of pictures whose value is found, for each group, where it is visible.

    Args:
        grammar: of the domain.
        embeddings: [N, D] unit embeddings of pictures.
        attributes: what each of the pictures shows.
        encode_texts: gives unit embeddings [T, D] of T texts.
    """
    shown = [grammar.vocabulary.visible(a) for a in attributes]
    result = {}
    for name, group in grammar.vocabulary.groups().items():
        truth = torch.tensor(
            [
                group.values.index(a[name]) if seen[name] else -1
                for a, seen in zip(attributes, shown, strict=True)
            ]
        )
        found = (embeddings @ classifier(grammar, name, encode_texts).T).argmax(1).cpu()
        if (truth >= 0).any():
            result[name] = (found == truth)[truth >= 0].float().mean().item()
    return result

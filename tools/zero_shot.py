"""Zero-shot classification of avatars: which of a group's values fits a picture best, by CLIP alone.

The prompts are worded on their own, not taken from the captions' grammar.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clip2gan.domains.avatars import vocabulary as avatars

TEMPLATES = ("{}", "a picture of {}", "This is {}.")

PROMPTS: dict[str, dict[str, tuple[str, ...]]] = {
    "hair": {
        "bald": ("a bald person", "somebody with no hair at all"),
        "short": ("a person with short hair", "somebody whose hair is cut short"),
        "curly": ("a person with curly hair", "somebody with an afro"),
        "long": ("a person with long hair", "somebody with long straight hair"),
        "wavy": ("a person with wavy hair", "somebody whose hair falls in waves"),
        "bob": ("a person with a bob", "somebody with a bob haircut"),
        "bun": ("a person with a bun", "somebody whose hair is tied up in a bun"),
        "hat": ("a person with a hat", "somebody wearing a winter hat"),
    },
    "hair_color": {
        "black": ("a person with black hair", "black-haired"),
        "brown": ("a person with brown hair", "brown-haired"),
        "blond": ("a person with blond hair", "blonde"),
        "red": ("a person with red hair", "red-haired"),
        "gray": ("a person with gray hair", "gray-haired"),
        "pink": ("a person with pink hair", "pink-haired"),
    },
    "facial_hair": {
        "none": ("a person without a beard", "a clean-shaven face"),
        "beard": ("a person with a beard", "a bearded face"),
        "moustache": ("a person with a moustache", "a face with a mustache"),
    },
    "eyewear": {
        "none": ("a person without glasses", "a face with no eyewear"),
        "glasses": ("a person with glasses", "a face with eyeglasses"),
        "sunglasses": ("a person with sunglasses", "a face with dark shades"),
    },
    "expression": {
        "smiling": ("a smiling person", "a happy face"),
        "sad": ("a sad person", "an unhappy face"),
        "serious": ("a serious person", "a face with a straight mouth"),
        "surprised": ("a surprised person", "a shocked face with the mouth wide open"),
        "tongue": ("a person sticking out the tongue", "a face with the tongue out"),
    },
    "eyes": {
        "open": ("a person with open eyes", "a face with normal eyes"),
        "closed": ("a person with closed eyes", "a face with the eyes shut"),
        "wide": ("a person with wide eyes", "a face with big round eyes"),
        "winking": ("a winking person", "a face with one eye closed"),
    },
    "skin": {
        "pale": ("a person with pale skin", "a pale face"),
        "light": ("a person with light skin", "a light-skinned face"),
        "tanned": ("a person with tanned skin", "a tanned face"),
        "brown": ("a person with brown skin", "a brown-skinned face"),
        "dark": ("a person with dark skin", "a dark-skinned face"),
    },
    "clothing": {
        "t-shirt": ("a person in a t-shirt", "somebody wearing a tee"),
        "hoodie": ("a person in a hoodie", "somebody wearing a hooded sweatshirt"),
        "suit": ("a person in a suit", "somebody wearing a jacket over a shirt"),
    },
    "clothing_color": {
        "red": ("a person in red clothes", "somebody dressed in red"),
        "blue": ("a person in blue clothes", "somebody dressed in blue"),
        "black": ("a person in black clothes", "somebody dressed in black"),
        "white": ("a person in white clothes", "somebody dressed in white"),
        "yellow": ("a person in yellow clothes", "somebody dressed in yellow"),
        "green": ("a person in green clothes", "somebody dressed in green"),
        "pink": ("a person in pink clothes", "somebody dressed in pink"),
    },
    "background": {
        "white": ("a person on a white background", "somebody in front of a white wall"),
        "gray": ("a person on a gray background", "somebody in front of a gray wall"),
        "blue": ("a person on a blue background", "somebody in front of a blue wall"),
        "green": ("a person on a green background", "somebody in front of a green wall"),
        "pink": ("a person on a pink background", "somebody in front of a pink wall"),
    },
}


def classifier(group: str, encode_texts: Callable[[list[str]], Tensor]) -> Tensor:
    """One unit vector for each value of `group`: the mean of its prompts' embeddings [values, D]."""
    rows = []
    for value in avatars.groups()[group].values:
        texts = [template.format(prompt) for prompt in PROMPTS[group][value] for template in TEMPLATES]
        rows.append(F.normalize(encode_texts(texts).mean(0), dim=0))
    return torch.stack(rows)


def accuracy(
    embeddings: Tensor,
    attributes: Sequence[Mapping[str, str]],
    encode_texts: Callable[[list[str]], Tensor],
) -> dict[str, float]:
    """The share (0 to 1) of pictures whose value is found, for each group, where it is visible.

    Args:
        embeddings: [N, D] unit embeddings of pictures.
        attributes: what each of the pictures shows.
        encode_texts: gives unit embeddings [T, D] of T texts.
    """
    result = {}
    for group in avatars.groups().values():
        truth = torch.tensor(
            [group.values.index(a[group.name]) if avatars.visible(a)[group.name] else -1 for a in attributes]
        )
        found = (embeddings @ classifier(group.name, encode_texts).T).argmax(1).cpu()
        result[group.name] = (found == truth)[truth >= 0].float().mean().item()
    return result

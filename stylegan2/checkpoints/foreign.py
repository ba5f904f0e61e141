"""Generators of other tools, which are not read, told by the names of their tensors."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice

from stylegan2.checkpoints.pickles import CheckpointError, Value

_MANY = 10_000  # names that are looked at
_ANOTHER_NETWORK = "which is another network; only StyleGAN2 is read"
_ANOTHER_LAYOUT = (
    "which names and lays out its tensors in its own way; give NVIDIA's or rosinality's file that it was "
    "converted from"
)
# (names of tensors that no other tool has, what the file is, what to do)
_MARKS = (
    (r"(.*\.)?mapping\.embed_proj\..*", "a StyleGAN-XL generator", _ANOTHER_NETWORK),
    (r"(.*\.)?synthesis\.(input\.|L\d+_\d+_\d+\.).*", "a StyleGAN3 generator", _ANOTHER_NETWORK),
    (r"(.*\.)?style_mapping\.\d+\..*", "a StyleGAN2 of MMGeneration (mmgen)", _ANOTHER_LAYOUT),
    (r"(.*\.)?style_mlp\.\d+\..*", "a StyleGAN2 of BasicSR", _ANOTHER_LAYOUT),
    (
        r"(.*\.)?(G|GE|S|SE)\.(initial_block|initial_conv|blocks\.\d+\.to_style1|net\.\d+)(\..*)?",
        "a model of lucidrains' stylegan2_pytorch",
        _ANOTHER_NETWORK,
    ),
)


def check_tool(root: Value) -> None:
    """Raise CheckpointError, with the tool's name, for the file of one whose generators are not read."""
    if isinstance(root, dict):
        places = (root, *(part for part in root.values() if isinstance(part, Mapping)))
        for place in places:
            check_names(place)


def check_names(names: Iterable[object]) -> None:
    """Raise CheckpointError for tensors' names of a generator that is not read."""
    for name in islice(names, _MANY):
        if not isinstance(name, str) or len(name) > 200:
            continue
        for mark, what, remedy in _MARKS:
            if re.fullmatch(mark, name):
                raise CheckpointError(f"{what}, {remedy}")

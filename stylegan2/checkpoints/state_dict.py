"""A generator's state_dict under NVIDIA's names, as torch.save or safetensors write it, alone or in a dict.

What an NVIDIA pickle says beside its tensors (16-bit layers, clamps) is not in it.
"""

from typing import Any

from stylegan2.checkpoints.checkpoint import (
    Checkpoint,
    Network,
    Source,
    check_filter,
    completed,
    generator_part,
    infer_config,
    with_filters,
)
from stylegan2.checkpoints.pickles import CheckpointError, Value

NAMES: set[str] = set()
CONSTANT = "synthesis.b4.const"
# Where trainings keep a generator's state_dict; "" is the whole file.
PLACES = {
    "G_ema": ("G_ema", "g_ema", "generator_ema", "state_dict", "model", "", "G", "g", "generator"),
    "G": ("G", "g", "generator", "state_dict", "model", ""),
}


def recognise(root: Value) -> bool:
    return _find(root, "G_ema") is not None


def read(root: Value, source: Source, network: Network) -> Checkpoint:
    """The generator of a file's object. Raises CheckpointError."""
    found = _find(root, network)
    if found is None:
        raise CheckpointError(f"no {network} in it; give the file that has the generator")
    place, records = found
    tensors = with_filters({name: source.tensor(value, name) for name, value in records.items()})
    for name, tensor in tensors.items():
        if name.endswith("resample_filter"):
            check_filter(tensor, name)
    config = infer_config(tensors)
    tensors, notes, averaged = completed(tensors, config)
    if network == "G_ema" and place in ("G", "g", "generator"):
        notes = (f"the file has no averaged weights (G_ema); these are {place}'s", *notes)
    return Checkpoint("state_dict", config, tensors, notes=notes, averaged_latents=averaged)


def _find(root: Value, network: Network) -> tuple[str, dict[str, Any]] | None:
    """(where, state_dict) of the generator."""
    if not isinstance(root, dict):
        return None
    for place in PLACES[network]:
        part = generator_part(root.get(place) if place else root, CONSTANT, network)
        if part is not None:
            return place, part
    return None

"""Configs of CLIPs from strangers: read as JSON, and refused where they ask for more than any CLIP has."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_JSON = 2**20  # bytes of a config
MAX_SIZE, MAX_LAYERS = 2**20, 256  # numbers in a config
# What a config may say of a tokenizer; others reach transformers, which can be told to run a folder's code.
TOKENIZER_SETTINGS = frozenset({"clean", "strip_sep_token", "language", "reduction_mask"})
# Names of towers and tokenizers that timm and transformers fetch; they take paths as well.
_PUBLISHED = {
    "timm_model_name": re.compile(r"[\w.-]+"),
    "hf_model_name": re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?"),
    "hf_tokenizer_name": re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?"),
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of limited size. Raises ValueError, naming the file, for anything else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError("it is too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); get the model again") from error
    return found


def check_config(config: Mapping[str, Any], numbers: int | None, source: str) -> None:
    """Raise ValueError for a model's config that asks for more than any CLIP has, or than its file holds.

    So it does for one that names files elsewhere, or has other software do more than read it.

    Args:
        config: open_clip's arguments for a model, from a stranger.
        numbers: how many the file of weights holds; None where it is not at hand.
        source: to name in the message.
    """
    for tower in ("vision_cfg", "text_cfg"):
        if not isinstance(config.get(tower), dict):
            raise ValueError(f"{source}: no {tower} in its model_cfg; get the model again")
        _check_names(config[tower], source)
    for name, value in _numbers_of(config):
        if not (math.isfinite(value) and abs(value) <= (MAX_LAYERS if name == "layers" else MAX_SIZE)):
            raise ValueError(
                f"{source}: {name} is {value!r:.40}, more than any CLIP has; get the model again"
            )
    needed = _least_numbers(config)
    if numbers is not None and needed > numbers:
        raise ValueError(
            f"{source}: describes a model of at least {needed:,} numbers, and its file holds {numbers:,}; "
            "get the model again"
        )


def _check_names(tower: Mapping[str, Any], source: str) -> None:
    for key, pattern in _PUBLISHED.items():
        name = tower.get(key)
        if name and not (isinstance(name, str) and pattern.fullmatch(name) and not Path(name).exists()):
            raise ValueError(
                f"{source}: {key} {name!r:.80} is not the name of a published model; get the model again"
            )
    settings = tower.get("tokenizer_kwargs", {})
    unknown = set(settings) - TOKENIZER_SETTINGS if isinstance(settings, dict) else {"tokenizer_kwargs"}
    if unknown:
        raise ValueError(
            f"{source}: its tokenizer's setting {sorted(unknown)[0]!a:.80} is not one of "
            f"{', '.join(sorted(TOKENIZER_SETTINGS))}; get the model again"
        )


def _numbers_of(config: Mapping[str, Any], depth: int = 4) -> Iterator[tuple[str, float]]:
    for name, value in config.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, (int, float)) and not isinstance(each, bool):
                yield str(name), each
            elif isinstance(each, dict) and depth:
                yield from _numbers_of(each, depth - 1)


def _least_numbers(config: Mapping[str, Any]) -> int:
    """How many numbers the weights of such a model have at least: those of its large layers."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    total, embed = 0, _whole(config, "embed_dim", 512)
    if not vision.get("timm_model_name"):
        width = _whole(vision, "width", 768)
        if isinstance(vision.get("layers", 12), list):  # a ResNet
            total += sum(layers for layers in vision["layers"] if isinstance(layers, int)) * width**2
        else:
            patch = max(_whole(vision, "patch_size", 16), 1)
            size = vision.get("image_size", 224)
            sides = size if isinstance(size, (list, tuple)) else (size, size)
            cells = math.prod(int(side) // patch for side in sides if isinstance(side, (int, float)))
            total += _transformer(vision, width) + width * (3 * patch**2 + cells + embed)
    if not text.get("hf_model_name"):
        width = _whole(text, "width", 512)
        tokens = _whole(text, "vocab_size", 49408) + _whole(text, "context_length", 77)
        total += _transformer(text, width) + width * tokens
    return total


def _transformer(tower: Mapping[str, Any], width: int) -> int:
    ratio = tower.get("mlp_ratio", 4.0)
    hidden = int(width * ratio) if isinstance(ratio, (int, float)) else 0
    return _whole(tower, "layers", 12) * (4 * width**2 + 2 * width * hidden)


def _whole(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a whole number, got {value!r:.40}")
    return value

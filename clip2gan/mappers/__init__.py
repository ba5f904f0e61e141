"""Mappers by kind, and the files they are kept in."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clip2gan.mappers.base import Mapper, MapperConfig
from clip2gan.mappers.diffusion import DiffusionConfig, DiffusionMapper
from clip2gan.mappers.flow import FlowConfig, FlowMapper
from clip2gan.mappers.mlp import MlpConfig, MlpMapper
from clip2gan.settings import check_settings
from stylegan2.files import WithoutData, check_weights, load_tensors, load_weights, save_tensors

# kind -> (mapper, its settings)
KINDS: dict[str, tuple[type[Mapper], type[MapperConfig]]] = {
    "mlp": (MlpMapper, MlpConfig),
    "flow": (FlowMapper, FlowConfig),
    "diffusion": (DiffusionMapper, DiffusionConfig),
}

__all__ = ["KINDS", "Mapper", "MapperConfig", "load_mapper", "new_mapper", "save_mapper"]


def new_mapper(kind: str, settings: Mapping[str, Any]) -> Mapper:
    """An untrained mapper; `settings` are the fields of its config, embed_dim, num_ws and w_dim at least.

    Raises ValueError for an unknown kind or setting.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown mapper {kind!r}; choose from {', '.join(KINDS)}")
    mapper, config = KINDS[kind]
    check_settings(config, settings, f"mapper {kind!r}")
    return mapper(config(**settings))


def save_mapper(mapper: Mapper, path: str | Path) -> None:
    """Write a mapper's weights and statistics as safetensors, its kind and config in the header."""
    save_tensors(path, mapper.state_dict(), {"kind": mapper.kind, **dataclasses.asdict(mapper.config)})


def load_mapper(path: str | Path, device: str | torch.device = "cpu") -> Mapper:
    """Read what `save_mapper` wrote (16-bit weights become float32): frozen, in eval mode, on `device`.

    Raises FileNotFoundError, or ValueError when the file is not whole, not a mapper, or does not fit.
    """
    tensors, config = load_tensors(path)
    kind = config.pop("kind", None)
    try:
        with WithoutData():
            shape = new_mapper(str(kind), config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its header does not describe a mapper ({error}); get it again") from error
    check_weights(shape, tensors, str(path))  # before a large one is made
    mapper = new_mapper(str(kind), config)
    load_weights(mapper, tensors, str(path))
    return mapper.eval().requires_grad_(False).to(device)

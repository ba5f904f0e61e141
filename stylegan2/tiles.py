"""What the frozen fast paths on a CPU share: when they apply, and tiles of features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

TILE_BYTES = 2**23  # of a layer's output


def is_frozen_on_cpu(network: nn.Module, ws: Tensor) -> bool:
    """Whether `network` is frozen, in float32 and on a CPU, as ws is, and nothing is being traced."""
    return (
        ws.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and all(
            p.device.type == "cpu" and p.dtype == torch.float32 and not p.requires_grad
            for p in network.parameters()
        )
    )


def frozen_state(network: nn.Module) -> list[Any]:
    """What changes whenever a weight or buffer of `network` does, in place or not."""
    tensors = [*network.parameters(), *network.buffers()]
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """New features of this shape and of the type of `like`, channels_last."""
    return torch.empty(*shape, dtype=like.dtype, memory_format=torch.channels_last)

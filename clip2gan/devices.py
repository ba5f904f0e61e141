"""Which device a computation runs on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> "torch.device":
    """The torch device for "auto" (the fastest there is), "cpu", "cuda" or "mps".

    Raises ValueError when the named device is unknown or this machine does not have it.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    kind = name.split(":")[0]
    if kind not in present:
        raise ValueError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if not present[kind]:
        raise ValueError(
            f"{kind} is not available on this machine; use --device cpu (clip2gan doctor tells why)"
        )
    return torch.device(name)

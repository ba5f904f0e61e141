"""Which device a computation runs on, and at which precision a training does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")  # of a training's forward passes


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


def resolve_precision(name: str, device: "torch.device") -> str:
    """The precision of a training's forward passes; "auto" is 16 bit where the device computes in it.

    bfloat16 on CPUs and GPUs that have it, float16 on other GPUs. A CPU without it takes ten times as long.
    """
    import torch

    from stylegan2.layers import is_quick_in_half

    if name != "auto":
        return name
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16"
    return "bf16" if is_quick_in_half(device) else "fp32"

"""Which device a computation runs on, at which precision, and how much of it at once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BATCH_PIXELS = 2**18  # that a CPU is given at once: more gains it little
BYTES_PER_PIXEL = 1024  # that drawing a picture takes on a GPU, at most
MOST_AT_ONCE = 256
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


def pictures_at_once(resolution: int, device: "torch.device", learning: bool = False) -> int:
    """How many pictures of this many pixels a side frozen networks are given at once.

    A GPU gets what fills a quarter of its free memory, a CPU 64 pictures of 64 px or one of 512.

    Args:
        resolution: of the pictures.
        device: where the networks are.
        learning: gradients are kept, which takes four times the memory.
    """
    import torch

    pixels = BATCH_PIXELS
    if device.type == "cuda":
        pixels = max(pixels, torch.cuda.mem_get_info(device)[0] // 4 // BYTES_PER_PIXEL)
    if learning:
        pixels //= 4
    return min(max(1, pixels // resolution**2), MOST_AT_ONCE)

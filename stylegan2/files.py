"""Reading and writing tensor files: atomic, self-describing, and unable to run code."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stylegan2.atomic import atomic_path
from stylegan2.faults import write_error
from stylegan2.names import check_utf8_path


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write `tensors` as safetensors with `config` as JSON in the header, atomically.

    Raises OSError, with the path, where it cannot be written, and ValueError for a path that is not UTF-8;
    then nothing has changed.
    """
    check_utf8_path(path)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={"config": json.dumps(config)})
        except SafetensorError as error:  # its text holds the system's number of the error
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise write_error(path, OSError(number, os.strerror(number))) from error


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors (on the CPU) and the header's config ({} without one).

    Raises FileNotFoundError, or ValueError when the file is not whole or not safetensors, or holds numbers
    that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path, or get it again")
    check_utf8_path(path)
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if not isinstance(config, dict):
                raise ValueError("its header is no JSON object")
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); fetch or make it again"
        ) from error
    check_finite(tensors, path)
    return tensors, config


def is_finite(tensor: Tensor) -> bool:
    """Whether no number in it is NaN or infinite."""
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:  # no arithmetic is defined on 8-bit floats
        tensor = tensor.float()
    # A finite sum has finite terms. Summing is many times faster than looking at each number, which is left
    # for sums that are too large.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_finite(tensors: Mapping[str, Tensor], source: str | Path | None = None) -> None:
    """Raise ValueError, naming the `source` (if any) and the tensor, where numbers are NaN or infinite.

    A training that diverged leaves such weights. All that is computed with them is NaN, and pictures come out
    black.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            count, size = tensor.numel() - int(tensor.float().isfinite().sum()), tensor.numel()
            prefix = "" if source is None else f"{source}: "
            raise ValueError(
                f"{prefix}{ascii(name)[1:-1]:.80} is not finite ({count:,} of its {size:,} numbers are NaN "
                "or infinite); take an earlier snapshot, or get the file again"
            )


class WithoutData(TorchFunctionMode):
    """While this is in force, weights are shapes on the meta device: nothing is drawn and nothing allocated.

    A small file may describe a large module: `check_weights` compares what it has before that is made.

    PyTorch's own way, `with torch.device("meta")`, takes seconds at its first arithmetic, importing what it
    needs to work out the results' shapes.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.randn, torch.zeros, torch.ones, torch.empty, torch.full):
            is_shape = isinstance(args[0], (list, tuple))
            size = args[0] if is_shape or func is torch.full else args
            return torch.empty(size, device="meta")
        is_meta = bool(args) and isinstance(args[0], Tensor) and args[0].is_meta
        is_in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if is_meta and (func is torch.Tensor.div or is_in_place):  # drawing and scaling of initial weights
            return args[0]
        return func(*args, **(kwargs or {}))


def check_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError unless `tensors` have exactly the names and shapes of the module's own."""
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unexpected {ascii(name)[1:-1]:.80}" for name in tensors if name not in own]
    problems += [
        f"{name} is {list(tensors[name].shape)}, expected {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise ValueError(f"{source}: weights do not fit the model ({shown})")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module`, whose names and shapes must be exactly these (dtypes are converted).

    Raises ValueError with the missing, unexpected and wrongly shaped names; then nothing was copied.
    """
    check_weights(module, tensors, source)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            value.copy_(tensors[name])


def fingerprint(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

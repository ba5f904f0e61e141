"""PyTorch's files by the reader of checkpoints: TorchScript archives, and bounds for those torch.load reads.

A TorchScript archive is OpenAI's form of CLIP; none of its code is read.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from torch import Tensor

from stylegan2.checkpoints.arrays import NAMES, PARAMETER, TENSORS, Storages
from stylegan2.checkpoints.containers import is_script, map_file, read_root
from stylegan2.checkpoints.pickles import CheckpointError, Record, Value

MAX_DEPTH, MAX_TENSORS = 16, 10_000


class _AnyName(Collection[str]):
    """Every name: a record of it is only a record."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def check_bounds(path: Path) -> None:
    """Raise ValueError for a file of `torch.save` that would unfold to more than it holds.

    torch.load(weights_only=True) runs nothing, but has no limits: of compressed entries, of one storage under
    thousands of names, of lists that are copied.
    """
    read_root(map_file(path), _AnyName())


class _ScriptNames(Collection[str]):
    """Names that a TorchScript archive may have records of: its own classes, and those of tensors."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in NAMES or name.startswith(("__torch__.", "torch.jit._pickle."))
        )

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


def read_script(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a TorchScript archive by their dotted names, in float32; None for a file that is none.

    The sources of its classes are not even read. Raises ValueError for an archive that is damaged.
    """
    try:
        data = map_file(path)
        if not is_script(data):
            return None
        root, parts = read_root(data, _ScriptNames())
        storages = Storages(parts, len(data))
        return {name: storages.tensor(record, name) for name, record in _walk(root).items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _walk(root: Value) -> dict[str, Value]:
    found: dict[str, Value] = {}
    pending = [("", root)]
    if not isinstance(root, Record):
        raise CheckpointError("a TorchScript archive without a module; get it again")
    while pending:
        prefix, module = pending.pop()
        if prefix.count(".") > MAX_DEPTH or len(found) + len(pending) > MAX_TENSORS:
            raise CheckpointError("more modules in modules than any CLIP has")
        for name, value in (module.state if isinstance(module.state, dict) else {}).items():
            if not isinstance(value, Record) or not isinstance(name, str):
                continue
            if value.name in TENSORS or value.name == PARAMETER:
                found[f"{prefix}{name}"] = value
            elif value.name.startswith("__torch__."):
                pending.append((f"{prefix}{name}.", value))
    return found

"""References to PyTorch's storages in the records of a pickle."""

import numpy as np

from stylegan2.checkpoints.pickles import PERSISTENT, CheckpointError, Name, Record, Value, describe

# PyTorch's storage classes. bfloat16, which numpy lacks, is read as integers and reinterpreted.
STORAGE_TYPES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}


def storage_key(value: Value) -> tuple[str, str]:
    """(key, type) of a reference ("storage", class, key, location, number of elements[, None]).

    The location (the device it was on) does not matter here.
    """
    pid = value.args[0] if isinstance(value, Record) and value.name == PERSISTENT else None
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Name)):
        raise CheckpointError(f"expected a storage, found {describe(value)}")
    if (
        not isinstance(pid[2], str)
        or pid[1].name not in STORAGE_TYPES
        or (len(pid) > 5 and pid[5] is not None)
    ):
        raise CheckpointError("a storage of an unknown kind")
    return pid[2], STORAGE_TYPES[pid[1].name]


def itemsize(dtype: str) -> int:
    """Bytes of a number of one of the `STORAGE_TYPES`."""
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize

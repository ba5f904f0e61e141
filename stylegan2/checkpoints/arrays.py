"""From the records of a pickle to float32 tensors, within the bounds of what the file holds.

A tensor is stored as a flat storage and a view of it: offset, shape and strides (in elements). PyTorch keeps
storages beside the pickle, or, in a plain pickle, inside it as the bytes of one more file of the older layout
(see `containers.py`). numpy arrays hold their own bytes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan2.checkpoints.containers import read_legacy
from stylegan2.checkpoints.pickles import (
    CheckpointError,
    Record,
    Value,
    describe,
    printable,
)
from stylegan2.checkpoints.storages import STORAGE_TYPES, itemsize, storage_key
from stylegan2.files import check_finite

NUMPY_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
PARAMETER = "torch._utils._rebuild_parameter"
TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
NESTED = "torch.storage._load_from_bytes"
DTYPE = "numpy.dtype"
RECONSTRUCT = "numpy.core.multiarray._reconstruct"
FROM_BUFFER = "numpy.core.numeric._frombuffer"
SCALAR = "numpy.core.multiarray.scalar"
NAMES = {
    *STORAGE_TYPES,
    *TENSORS,
    PARAMETER,
    NESTED,
    DTYPE,
    RECONSTRUCT,
    FROM_BUFFER,
    SCALAR,
    "numpy.ndarray",
}
MAX_DIMENSIONS = 8
STORAGE_OPERATIONS = 200  # of a pickle that holds one storage; the same bytes may stand for many tensors
OVERHEAD = 2**20  # bytes by which tensors may exceed their file, being views of the same storage


class Storages:
    """Turns records into tensors.

    Args:
        parts: the storages beside the pickle: key -> bytes.
        size: the file's size in bytes. Together the tensors may not be (much) larger: thousands of views of
            one storage are not what a checkpoint has.
    """

    def __init__(self, parts: Mapping[str, memoryview], size: int):
        self._parts, self._bytes_left = parts, size + OVERHEAD

    def tensor(self, value: Value, name: str) -> Tensor:
        """A tensor or array of numbers as a new, contiguous float32 tensor.

        Raises CheckpointError, with `name`, for anything else and for a view that leaves its storage; and
        ValueError for numbers that are not finite.
        """
        try:
            array, dtype = self._array(value)
        except CheckpointError as error:
            raise CheckpointError(f"{printable(name)}: {error}") from error
        self._bytes_left -= array.nbytes
        if self._bytes_left < 0:
            raise CheckpointError(f"{printable(name)}: its tensors together are larger than the file")
        if dtype == "bf16":
            tensor = torch.from_numpy(array.copy()).view(torch.bfloat16).float().contiguous()
        else:
            with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite
                tensor = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
        check_finite({name: tensor})
        return tensor

    def _array(self, value: Value) -> tuple[np.ndarray, str]:
        if not isinstance(value, Record):
            raise CheckpointError(f"expected a tensor, found {describe(value)}")
        if value.name == PARAMETER and value.args:
            value = value.args[0]
        if isinstance(value, Record) and value.name in TENSORS and len(value.args) >= 4:
            return self._view(*value.args[:4])
        return numpy_array(value), ""

    def _view(self, storage: Value, offset: Value, size: Value, stride: Value) -> tuple[np.ndarray, str]:
        data, dtype = self._storage(storage)
        flat = np.frombuffer(data, dtype="i2" if dtype == "bf16" else f"<{dtype}")
        shape, strides = _sizes(size), _sizes(stride)
        (start,) = _sizes((offset,))
        if len(shape) != len(strides):
            raise CheckpointError("as many sizes as strides were expected")
        count = math.prod(shape)
        last = start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else start
        if count > len(flat) or last >= len(flat) + (count == 0):
            raise CheckpointError(f"shape {list(shape)} does not fit its storage of {len(flat):,} numbers")
        steps = [step * flat.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(flat[start:], shape, steps, writeable=False), dtype

    def _storage(self, value: Value) -> tuple[memoryview, str]:
        if isinstance(value, Record) and value.name == NESTED and len(value.args) == 1:
            data = value.args[0]
            if not isinstance(data, (bytes, memoryview)):
                raise CheckpointError(f"expected a storage's bytes, found {describe(data)}")
            root, parts = read_legacy(memoryview(data), STORAGE_TYPES, STORAGE_OPERATIONS)
            return _stored(root, parts)
        return _stored(value, self._parts)


def _stored(value: Value, parts: Mapping[str, memoryview]) -> tuple[memoryview, str]:
    key, dtype = storage_key(value)
    if key not in parts:
        raise CheckpointError(f"its storage {key!a:.40} is missing; get the file again")
    data = parts[key]
    return data[: len(data) - len(data) % itemsize(dtype)], dtype


def numpy_array(value: Value) -> np.ndarray:
    """A numpy array of numbers, still a view of the file. Raises CheckpointError for anything else."""
    if not isinstance(value, Record):
        raise CheckpointError(f"expected an array, found {describe(value)}")
    data = dtype = shape = None
    order = "C"
    if value.name == RECONSTRUCT and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, data = value.state
        order = "F" if fortran is True else "C"
    elif value.name == FROM_BUFFER and len(value.args) == 4:
        data, dtype, shape, order = value.args
    elif value.name == SCALAR and len(value.args) == 2:
        (dtype, data), shape = value.args, ()
    if not isinstance(data, (bytes, memoryview)) or order not in ("C", "F"):
        raise CheckpointError(f"expected an array of numbers, found {describe(value)}")
    kind, sizes = _numpy_type(dtype), _sizes(shape)
    if math.prod(sizes) * kind.itemsize != len(data):
        raise CheckpointError(f"shape {list(sizes)} does not fit its {len(data):,} bytes")
    return np.frombuffer(data, dtype=kind).reshape(sizes, order="F" if order == "F" else "C")


def number(value: Value) -> Any:
    """A Python number, string, bool or None as it is; a numpy scalar as a Python number.

    Raises CheckpointError for anything else.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Record) and value.name == SCALAR:
        return numpy_array(value).item()
    raise CheckpointError(f"expected a number, found {describe(value)}")


def _numpy_type(value: Value) -> np.dtype:
    if not isinstance(value, Record) or value.name != DTYPE or not value.args:
        raise CheckpointError(f"expected a numpy dtype, found {describe(value)}")
    code = value.args[0]
    state = value.state if isinstance(value.state, tuple) else ()
    if len(state) > 1 and state[1] == ">":
        raise CheckpointError("big-endian numbers are not read")
    if not isinstance(code, str) or code not in NUMPY_TYPES:
        raise CheckpointError(f"an array of type {code!a:.20} is not one of numbers")
    return np.dtype(code)


def _sizes(values: Value) -> tuple[int, ...]:
    """Sizes, strides or an offset: a few integers, none of them negative."""
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS:
        raise CheckpointError("expected the sizes of a tensor")
    if not all(type(value) is int and 0 <= value < 2**40 for value in values):
        raise CheckpointError("a size of a tensor is not a whole number in range")
    return values

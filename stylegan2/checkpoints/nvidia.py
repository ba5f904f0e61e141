"""NVIDIA's PyTorch pickles (the stylegan2-ada-pytorch and stylegan3 repositories).

A plain pickle of {"G", "D", "G_ema": modules, "training_set_kwargs", "augment_pipe"}. A module is a call of
`torch_utils.persistence._reconstruct_persistent_obj` with {"type": "class", "version": 6, "module_src":
source text, "class_name", "state": the module's __dict__}. Stock loaders run that text; here it is only
noticed.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from stylegan2.checkpoints.arrays import Storages, number
from stylegan2.checkpoints.checkpoint import (
    MAPPING_LEARNING_RATE,
    NVIDIA_LICENCE,
    Checkpoint,
    Network,
    check_filter,
    infer_config,
)
from stylegan2.checkpoints.foreign import check_names
from stylegan2.checkpoints.pickles import MAX_NAME, CheckpointError, Record, Value, describe

MODULE = "torch_utils.persistence._reconstruct_persistent_obj"
NAMES = {MODULE}
VERSION = 6
MAX_DEPTH = 8  # of modules in modules; a generator has 4
# Modules and dicts may be named again and again in a file, so what is found is counted.
MAX_MODULES = MAX_TENSORS = 10_000


def recognise(root: Value) -> bool:
    return _is_module(root) or (isinstance(root, dict) and any(_is_module(value) for value in root.values()))


def read(root: Value, storages: Storages, network: Network) -> Checkpoint:
    """The generator of a pickle's object. Raises CheckpointError."""
    module, notes = _choose(root, network)
    meta = _meta(module)
    class_name = meta.get("class_name")
    attributes: dict[str, dict[Any, Value]] = {}
    records: dict[str, Value] = {}
    for path, state in _walk(module):
        attributes[path] = state
        for kind in ("_parameters", "_buffers"):
            for name, value in _dict(state.get(kind, {})).items():
                if value is not None:
                    records[f"{path}{_own_name(name)}"] = value
        if len(records) > MAX_TENSORS:
            raise CheckpointError(f"more than {MAX_TENSORS:,} tensors")
    check_names(records)
    if any(name.endswith(("fromrgb.weight", "b4.out.weight")) for name in records):
        raise CheckpointError("a discriminator; give the file that has the generator")
    if "synthesis.b4.const" not in records:
        raise CheckpointError(f"its {class_name!a:.40} is not a StyleGAN2 generator")
    tensors = {name: storages.tensor(record, name) for name, record in records.items()}
    _check_settings(attributes, tensors)
    num_fp16_res, conv_clamp = _precision(attributes)
    return Checkpoint(
        format="nvidia",
        config=infer_config(tensors, num_fp16_res, conv_clamp),
        tensors=tensors,
        licence=NVIDIA_LICENCE,
        has_code=bool(meta.get("module_src")),
        notes=notes,
    )


def _choose(root: Value, network: Network) -> tuple[Record, tuple[str, ...]]:
    if isinstance(root, Record):
        return root, ()
    modules = {key: value for key, value in root.items() if _is_module(value)}
    if network in modules:
        return modules[network], ()
    if network == "G_ema" and "G" in modules:
        return modules["G"], ("the file has no averaged weights (G_ema); these are G's",)
    found = ", ".join(ascii(key) for key in list(modules)[:5])
    raise CheckpointError(f"no {network} in it (only {found:.100}); give the file that has the generator")


def _is_module(value: Value) -> bool:
    return isinstance(value, Record) and value.name == MODULE


def _meta(module: Record) -> dict[Any, Value]:
    meta = _dict(module.args[0] if module.args else None)
    version = meta.get("version")
    if meta.get("type") != "class" or version != VERSION:
        shown = version if isinstance(version, int) else describe(version)
        raise CheckpointError(f"NVIDIA persistence version {shown!s:.20}; version {VERSION} is read")
    return meta


def _walk(module: Record) -> Iterator[tuple[str, dict[Any, Value]]]:
    """(dotted prefix, __dict__) of a module and all in it."""
    pending = [("", module)]
    for _ in range(MAX_MODULES):
        if not pending:
            return
        prefix, module = pending.pop()
        state = _dict(_meta(module).get("state"))
        yield prefix, state
        if prefix.count(".") >= MAX_DEPTH:
            raise CheckpointError(f"modules nested more than {MAX_DEPTH} deep")
        for name, child in _dict(state.get("_modules", {})).items():
            if child is None:
                continue
            path = f"{prefix}{_own_name(name)}"
            if not _is_module(child):
                raise CheckpointError(f"{path} is {describe(child)}, not one of NVIDIA's modules")
            pending.append((f"{path}.", child))
    raise CheckpointError(f"more than {MAX_MODULES:,} modules")


def _own_name(name: Value) -> str:
    """The name of a tensor or module within its module."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not (name.isascii() and name.isprintable()):
        raise CheckpointError(f"{name!a:.40} is not the name of a tensor or module")
    return name


def _dict(value: Value) -> dict[Any, Value]:
    if not isinstance(value, dict):
        raise CheckpointError(f"expected a dict, found {describe(value)}")
    return value


def _check_settings(attributes: dict[str, dict[Any, Value]], tensors: dict[str, Tensor]) -> None:
    """Refuse what shapes do not show and our generator does not do: it would load, and draw garbage."""
    for prefix, state in attributes.items():
        if prefix.startswith("mapping.fc"):
            expected = {"activation": "lrelu", "bias_gain": MAPPING_LEARNING_RATE}
        elif prefix.endswith((".conv0.", ".conv1.")):
            expected = {"activation": "lrelu", "use_noise": True}
        else:
            continue
        for name, value in expected.items():
            if name in state and number(state[name]) != value:
                raise CheckpointError(
                    f"{prefix}{name} is {number(state[name])!r:.40}; only {value!r} is supported"
                )
    mapping = _dict(_dict(attributes[""].get("_init_kwargs", {})).get("mapping_kwargs", {}))
    rate = number(mapping.get("lr_multiplier", MAPPING_LEARNING_RATE))
    if rate != MAPPING_LEARNING_RATE:
        raise CheckpointError(f"lr_multiplier is {rate!r:.40}; only {MAPPING_LEARNING_RATE} is supported")
    for name, tensor in tensors.items():
        if name.endswith("resample_filter"):
            check_filter(tensor, name)


def _precision(attributes: dict[str, dict[Any, Value]]) -> tuple[int, float | None]:
    """(num_fp16_res, conv_clamp), from the layers' own attributes, else from the constructor's arguments."""
    root = attributes[""]
    kwargs = _dict(root.get("_init_kwargs", {}))
    if "synthesis_kwargs" in kwargs:
        kwargs = _dict(kwargs["synthesis_kwargs"])
        default_res, default_clamp = 0, None  # stylegan2-ada-pytorch's
    elif "channel_base" in kwargs or "num_fp16_res" in kwargs:
        default_res, default_clamp = 4, 256  # stylegan3's, which has the same arguments one level up
    else:
        default_res, default_clamp = 0, None
    num_fp16_res = number(kwargs.get("num_fp16_res", default_res))
    conv_clamp = number(kwargs.get("conv_clamp", default_clamp))
    blocks = [
        state
        for prefix, state in attributes.items()
        if prefix.startswith("synthesis.b") and prefix.count(".") == 2
    ]
    if all("use_fp16" in state for state in blocks):
        num_fp16_res = sum(number(state["use_fp16"]) is True for state in blocks)
    clamps = [
        state["conv_clamp"]
        for prefix, state in attributes.items()
        if prefix.endswith(".conv1.") and "conv_clamp" in state
    ]
    if clamps:
        conv_clamp = number(clamps[0])
    return num_fp16_res, conv_clamp

"""The TensorFlow pickles of NVIDIA's stylegan2 and stylegan2-ada: a triple (G, D, Gs), Gs being the average.

Each is a `dnnlib.tflib.network.Network` with the state {"version", "name", "static_kwargs", "components":
name -> Network, "build_module_src": source text that stock loaders run, "variables": [(name, array)]}.
"""

import re
from typing import Any

from torch import Tensor

from stylegan2.checkpoints.arrays import Storages, number
from stylegan2.checkpoints.checkpoint import (
    MAPPING_LEARNING_RATE,
    NVIDIA_LICENCE,
    Checkpoint,
    Network,
    infer_config,
    layer_at,
    with_filters,
    without_first,
)
from stylegan2.checkpoints.pickles import MAX_NAME, CheckpointError, Record, Value, describe
from stylegan2.layers import RESAMPLE_TAPS

NETWORK = "dnnlib.tflib.network.Network"
NAMES = {NETWORK}
OLDEST_VERSION = 4
MAX_DEPTH = 4
MAX_VARIABLES = 10_000
# static_kwargs that our generator has one value of; the rest shows in the tensors.
FIXED = {
    "mapping_lrmul": MAPPING_LEARNING_RATE,
    "mapping_nonlinearity": "lrelu",
    "nonlinearity": "lrelu",
    "normalize_latents": True,
    "use_noise": True,
}


def recognise(root: Value) -> bool:
    return _is_network(root) or (
        isinstance(root, (tuple, list)) and any(_is_network(value) for value in root)
    )


def read(root: Value, storages: Storages, network: Network) -> Checkpoint:
    """The generator of a pickle's object. Raises CheckpointError."""
    chosen = _state(_choose(root, network))
    version = chosen.get("version")
    if not isinstance(version, int) or version < OLDEST_VERSION:
        shown = version if isinstance(version, int) else describe(version)
        raise CheckpointError(
            f"a TensorFlow network of version {shown!s:.20}, which is StyleGAN1 or older; StyleGAN2 is read"
        )
    records = dict(_variables(chosen, "", MAX_DEPTH))
    _refuse_other_networks(records)
    kwargs = chosen.get("static_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    for name, value in FIXED.items():
        if name in kwargs and number(kwargs[name]) != value:
            raise CheckpointError(f"{name} is {number(kwargs[name])!r:.40}; only {value!r} is supported")
    _check_taps(kwargs.get("resample_kernel"))
    arrays = {name: storages.tensor(record, name) for name, record in records.items()}
    tensors = _renamed(arrays)
    config = infer_config(
        tensors, number(kwargs.get("num_fp16_res", 0)) or 0, number(kwargs.get("conv_clamp"))
    )
    return Checkpoint(
        format="tensorflow",
        config=config,
        tensors=tensors,
        licence=NVIDIA_LICENCE,
        has_code=bool(chosen.get("build_module_src")),
    )


def _is_network(value: Value) -> bool:
    return isinstance(value, Record) and value.name == NETWORK


def _choose(root: Value, network: Network) -> Record:
    if isinstance(root, Record):
        return root
    index = 2 if network == "G_ema" else 0
    if len(root) != 3 or not all(map(_is_network, root)):
        raise CheckpointError(f"{len(root)} things in it; the three networks (G, D, Gs) were expected")
    return root[index]


def _state(value: Value) -> dict[Any, Value]:
    if not _is_network(value) or not isinstance(value.state, dict):
        raise CheckpointError(f"expected a network, found {describe(value)}")
    return value.state


def _variables(state: dict[Any, Value], prefix: str, depth: int) -> list[tuple[str, Value]]:
    """(name with its components' names before it, array)."""
    if depth == 0:
        raise CheckpointError(f"networks nested more than {MAX_DEPTH} deep")
    variables, components = state.get("variables"), state.get("components", {})
    if not isinstance(variables, (list, tuple)) or not isinstance(components, dict) or len(components) > 8:
        raise CheckpointError("a network without its variables; get the file again")
    found = []
    for pair in variables:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise CheckpointError("variables are not pairs of name and array; get the file again")
        found.append((prefix + _own_name(pair[0]), pair[1]))
        if len(found) > MAX_VARIABLES:
            raise CheckpointError(f"more than {MAX_VARIABLES:,} variables")
    for name, component in components.items():
        found += _variables(_state(component), f"{prefix}{_own_name(name)}/", depth - 1)
        if len(found) > MAX_VARIABLES:
            raise CheckpointError(f"more than {MAX_VARIABLES:,} variables")
    return found


def _own_name(name: Value) -> str:
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise CheckpointError("a network or variable without a name; get the file again")
    return name


def _refuse_other_networks(names: dict[str, Value]) -> None:
    if any("/StyleMod/" in name or "/Noise/weight" in name for name in names):
        raise CheckpointError(
            "a StyleGAN1 generator (or StyleGAN2's config A); StyleGAN2 configs E and F are read"
        )
    if any("ToRGB_lod" in name for name in names):
        raise CheckpointError("a StyleGAN2 of configs B to D (progressive growing); configs E and F are read")
    if any("FromRGB" in name for name in names):
        raise CheckpointError("a discriminator; give the file that has the generator")
    if any("LabelConcat" in name for name in names):
        raise CheckpointError("labels by LabelConcat, as before stylegan2-ada; not supported")
    if "synthesis/4x4/Const/const" not in names:
        raise CheckpointError("a TensorFlow network that is not a StyleGAN2 generator")


def _check_taps(taps: Value) -> None:
    if taps is None:
        return
    if not isinstance(taps, (list, tuple)) or [number(tap) for tap in taps] != list(RESAMPLE_TAPS):
        raise CheckpointError("resamples with another filter than [1, 3, 3, 1]; not supported")


def _renamed(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """TensorFlow's variables under PyTorch's names, and in its layouts."""
    tensors = {}
    for name, value in arrays.items():
        translated = _translate(name, value)
        if translated is None and "/" in name:
            raise CheckpointError(f"an unknown variable {name!a:.80}")
        if translated is None:  # lod and others that only training uses
            continue
        tensors[translated[0]] = translated[1]
    return with_filters(tensors)


def _translate(name: str, value: Tensor) -> tuple[str, Tensor] | None:
    if name == "dlatent_avg":
        return "mapping.w_avg", value
    if match := re.fullmatch(r"mapping/(?:Dense(\d{1,3})|LabelEmbed)/(weight|bias)", name):
        layer = "embed" if match[1] is None else f"fc{int(match[1])}"
        return f"mapping.{layer}.{match[2]}", value.T if value.ndim == 2 else value
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", without_first(name, value)
    if match := re.fullmatch(r"synthesis/noise(\d{1,2})", name):
        resolution, layer = layer_at(int(match[1]))
        return f"synthesis.b{resolution}.{layer}.noise_const", without_first(name, without_first(name, value))
    pattern = r"synthesis/(\d{1,5})x\1/(Conv|Conv0_up|Conv1|ToRGB|Skip)/(\w+)"
    if match := re.fullmatch(pattern, name):
        resolution, layer, part = match.groups()
        own = {"Conv": "conv1", "Conv1": "conv1", "Conv0_up": "conv0", "ToRGB": "torgb", "Skip": "skip"}[
            layer
        ]
        prefix = f"synthesis.b{resolution}.{own}"
        if part == "weight" and value.ndim == 4:
            value = value.permute(3, 2, 0, 1)  # height, width, in, out -> out, in, height, width
            return f"{prefix}.weight", value.flip(2, 3) if layer in ("Conv0_up", "Skip") else value
        if part == "mod_weight" and value.ndim == 2:
            return f"{prefix}.affine.weight", value.T
        if part == "mod_bias":
            return f"{prefix}.affine.bias", value + 1  # TensorFlow adds the one at run time
        if part in ("bias", "noise_strength"):
            return f"{prefix}.{part}", value
    return None

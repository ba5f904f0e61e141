"""Small checkpoints in the layouts of other projects, written by code of ours: the same records, inert text.

The modules and classes that such files name are put in place while a file is written, and are empty.
"""

import argparse
import contextlib
import io
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stylegan2 import Generator, GeneratorConfig
from stylegan2.checkpoints.export import rosinality_state
from stylegan2.generator import SynthesisBlock, SynthesisLayer, ToRGBLayer
from stylegan2.layers import FullyConnectedLayer

SOURCE = "raise SystemExit('the text of a module in a checkpoint was run')\n"
LABELS = GeneratorConfig(
    z_dim=16, c_dim=3, w_dim=16, img_resolution=16, channel_base=128, channel_max=16, mapping_layers=2
)


def make(config: GeneratorConfig, seed: int = 0) -> Generator:
    """A random generator in which everything matters: noise, biases and w_avg are not zero."""
    torch.manual_seed(seed)
    generator = Generator(config).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
        elif name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) / 4)
    generator.mapping.w_avg.normal_()
    return generator


# ---- the names that files hold


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("called")


class EasyDict(dict):
    pass


class Network:
    def __init__(self, state: dict[str, Any]):
        self.state = state

    def __getstate__(self) -> dict[str, Any]:
        return self.state


@contextlib.contextmanager
def foreign_modules() -> Iterator[None]:
    """The modules of NVIDIA's repositories, as far as pickles name them."""
    named = {
        "torch_utils.persistence": [_reconstruct_persistent_obj],
        "dnnlib.util": [EasyDict],
        "dnnlib.tflib.network": [Network],
    }
    added: dict[str, ModuleType] = {}
    homes = [(item, item.__module__) for items in named.values() for item in items]
    for path, items in named.items():
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            added.setdefault(name, ModuleType(name))
        for item in items:
            setattr(added[path], item.__name__, item)
            item.__module__ = path
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
        for item, home in homes:
            item.__module__ = home


def dumps(value: Any, protocol: int = 4) -> bytes:
    with foreign_modules():
        return pickle.dumps(value, protocol=protocol)


# ---- NVIDIA's PyTorch pickles


class Persistent:
    """Pickled as NVIDIA's persistent classes are."""

    def __init__(self, class_name: str, state: dict[str, Any], version: int = 6):
        self.meta = {
            "type": "class",
            "version": version,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


def persistent(
    module: nn.Module, config: GeneratorConfig, layout: Literal["ada", "sg3"] = "ada", attributes: bool = True
) -> Persistent:
    """A module of ours with NVIDIA's attributes, or with the constructor's arguments alone."""
    state: dict[str, Any] = {
        "training": False,
        "_parameters": module._parameters,
        "_buffers": module._buffers,
    }
    state["_non_persistent_buffers_set"] = set()
    state["_backward_hooks"] = OrderedDict()
    state["_modules"] = OrderedDict(
        (name, persistent(child, config, layout, attributes))  # type: ignore[arg-type]
        for name, child in module._modules.items()
    )
    state["_init_args"], state["_init_kwargs"] = (), EasyDict()
    if isinstance(module, Generator):
        shape = {name: getattr(config, name) for name in ("z_dim", "c_dim", "w_dim", "img_resolution")}
        synthesis = {
            name: getattr(config, name)
            for name in ("channel_base", "channel_max", "num_fp16_res", "conv_clamp", "architecture")
        }
        kwargs = EasyDict(shape, img_channels=3, mapping_kwargs=EasyDict(num_layers=config.mapping_layers))
        kwargs.update({"synthesis_kwargs": EasyDict(synthesis)} if layout == "ada" else synthesis)
        state["_init_kwargs"] = kwargs
    if attributes:
        state |= _attributes(module, config)
    return Persistent(type(module).__name__, state)


def _attributes(module: nn.Module, config: GeneratorConfig) -> dict[str, Any]:
    if isinstance(module, FullyConnectedLayer):
        weight_gain = np.float64(module.weight_gain)
        return {
            "activation": module.activation,
            "bias_gain": module.bias_gain,
            "weight_gain": weight_gain,
        }
    if isinstance(module, SynthesisLayer):
        return {"activation": "lrelu", "use_noise": True, "conv_clamp": config.conv_clamp, "up": module.up}
    if isinstance(module, ToRGBLayer):
        return {"conv_clamp": config.conv_clamp}
    return {"use_fp16": module.is_half} if isinstance(module, SynthesisBlock) else {}


def nvidia(generator: Generator, protocol: int = 4, **layout: Any) -> bytes:
    """{"G", "D", "G_ema", ...}; G has other weights than G_ema."""
    config = generator.config
    value = {
        "G": persistent(make(config, seed=9), config, **layout),
        "D": Persistent("Discriminator", {"_modules": OrderedDict(), "_parameters": {}, "_buffers": {}}),
        "G_ema": persistent(generator, config, **layout),
        "training_set_kwargs": EasyDict(path="data.zip", resolution=config.img_resolution),
        "augment_pipe": None,
    }
    return dumps(value, protocol)


# ---- TensorFlow's pickles


def tensorflow(generator: Generator, protocol: int = 4, version: int = 4, **kwargs: Any) -> bytes:
    """(G, D, Gs); G has other weights than Gs."""
    networks = [
        _network(make(generator.config, seed=9), version, kwargs),
        Network({"version": version, "name": "D", "static_kwargs": {}, "components": {}, "variables": []}),
        _network(generator, version, kwargs),
    ]
    return dumps(tuple(networks), protocol)


def _network(generator: Generator, version: int, kwargs: dict[str, Any]) -> Network:
    variables: dict[str, list[tuple[str, np.ndarray]]] = {"": [], "mapping": [], "synthesis": []}
    for name, tensor in generator.state_dict().items():
        if not name.endswith("resample_filter"):
            path, value = _tensorflow_variable(name, tensor)
            component, _, own = path.rpartition("/") if "/" not in path else path.partition("/")
            variables[component].append((own, np.array(value.numpy(), order="C")))
    config = generator.config
    static = EasyDict(
        resolution=config.img_resolution,
        fmap_base=config.channel_base // 2,
        fmap_max=config.channel_max,
        num_channels=3,
        label_size=config.c_dim,
        latent_size=config.z_dim,
        dlatent_size=config.w_dim,
        mapping_layers=config.mapping_layers,
        architecture=config.architecture,
        **kwargs,
    )
    parts = {
        part: Network(
            {
                "version": version,
                "name": f"G_{part}",
                "static_kwargs": static,
                "components": {},
                "build_module_src": SOURCE,
                "build_func_name": f"G_{part}",
                "variables": variables[part],
            }
        )
        for part in ("mapping", "synthesis")
    }
    return Network(
        {
            "version": version,
            "name": "Gs",
            "static_kwargs": static,
            "components": EasyDict(parts),
            "build_module_src": SOURCE,
            "build_func_name": "G_main",
            "variables": variables[""],
        }
    )


def _tensorflow_variable(name: str, value: Tensor) -> tuple[str, Tensor]:
    if name == "mapping.w_avg":
        return "dlatent_avg", value
    if match := re.fullmatch(r"mapping\.(fc(\d+)|embed)\.(\w+)", name):
        layer = "LabelEmbed" if match[2] is None else f"Dense{match[2]}"
        return f"mapping/{layer}/{match[3]}", value.T if value.ndim == 2 else value
    if name == "synthesis.b4.const":
        return "synthesis/4x4/Const/const", value[None]
    match = re.fullmatch(r"synthesis\.b(\d+)\.(\w+)\.(.+)", name)
    assert match is not None
    resolution, layer, part = int(match[1]), match[2], match[3]
    if part == "noise_const":
        index = 2 * resolution.bit_length() - (6 if layer == "conv1" else 7)
        return f"synthesis/noise{index}", value[None, None]
    own = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip"}[layer]
    if resolution == 4 and layer == "conv1":
        own = "Conv"
    path = f"synthesis/{resolution}x{resolution}/{own}"
    if part == "weight":
        value = value.flip(2, 3) if layer in ("conv0", "skip") else value
        return f"{path}/weight", value.permute(2, 3, 1, 0)
    if part == "affine.weight":
        return f"{path}/mod_weight", value.T
    if part == "affine.bias":
        return f"{path}/mod_bias", value - 1
    return f"{path}/{part}", value


# ---- rosinality's .pt


def rosinality(generator: Generator, legacy: bool = False) -> bytes:
    """{"g_ema", "g", "latent_avg", "args", "g_optim"}; g has other weights than g_ema."""
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    value = {
        "g_ema": rosinality_state(generator),
        "g": rosinality_state(make(generator.config, seed=9)),
        "g_optim": optimizer.state_dict(),
        "args": argparse.Namespace(size=generator.config.img_resolution, path="data", lr=0.002),
        "latent_avg": generator.mapping.w_avg,
    }
    return torch_save(value, legacy)


def e4e(generator: Generator) -> bytes:
    state = {f"decoder.{name}": value for name, value in rosinality_state(generator).items()}
    state["encoder.input_layer.0.weight"] = torch.zeros(2, 2)
    average = generator.mapping.w_avg.repeat(generator.num_ws, 1)
    return torch_save({"state_dict": state, "latent_avg": average, "opts": {"stylegan_size": 16}})


def torch_save(value: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path

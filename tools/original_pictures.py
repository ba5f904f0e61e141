"""Run the original code of NVIDIA or rosinality: checkpoints of random weights, and the pictures they give.

python -m tools.original_pictures FORMAT SOURCE OUT, in a process of its own (the originals' modules have the
same names); `tools.compare_checkpoints` starts it. SOURCE is a copy of the original repository, outside of
this one.

For each variant, OUT gets the checkpoint and NAME.expected.safetensors: z, maybe c, and what the original
makes of them. What the originals import and today's environments lack is put in place, empty.
"""

import importlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Images = Callable[[Tensor, str], Tensor]  # (ws, noise_mode) -> pictures

COMMON = {"w_dim": 32, "z_dim": 32, "img_channels": 3}
WIDTHS = {"channel_base": 1024, "channel_max": 32}
# name -> (constructor's arguments, synthesis' arguments, mapping layers)
NVIDIA: dict[str, tuple[dict[str, int], dict[str, Any], int]] = {
    "skip, 64 px": ({"c_dim": 0, "img_resolution": 64}, {**WIDTHS, "num_fp16_res": 0, "conv_clamp": None}, 8),
    "skip, 128 px, labels, 16 bit, clamp 256": (
        {"c_dim": 5, "img_resolution": 128},
        {**WIDTHS, "num_fp16_res": 4, "conv_clamp": 256},
        2,
    ),
    "orig, 32 px": ({"c_dim": 0, "img_resolution": 32}, {**WIDTHS, "architecture": "orig"}, 2),
    "resnet, 32 px, labels": ({"c_dim": 3, "img_resolution": 32}, {**WIDTHS, "architecture": "resnet"}, 2),
    "skip, 32 px, a clamp that binds": ({"c_dim": 0, "img_resolution": 32}, {**WIDTHS, "conv_clamp": 0.7}, 2),
    "resnet, 32 px, a clamp that binds": (
        {"c_dim": 0, "img_resolution": 32},
        {**WIDTHS, "architecture": "resnet", "conv_clamp": 0.7},
        2,
    ),
}
ROSINALITY = {"multiplier 2, 64 px": (64, 2), "multiplier 1, 128 px": (128, 1)}


def nvidia(out: Path, nested: bool) -> None:
    """Pickles of the installed `training` package; `nested` as stylegan2-ada-pytorch's arguments are."""
    dnnlib: Any = importlib.import_module("dnnlib")
    networks: Any = importlib.import_module("training.networks" if nested else "training.networks_stylegan2")
    for name, (arguments, synthesis, layers) in NVIDIA.items():
        torch.manual_seed(0)
        settings = {"synthesis_kwargs": dnnlib.EasyDict(synthesis)} if nested else synthesis
        mapping = dnnlib.EasyDict(num_layers=layers)
        generator = networks.Generator(**COMMON, **arguments, mapping_kwargs=mapping, **settings).eval()
        _disturb(generator)
        generator.mapping.w_avg.normal_()
        with (out / f"{name}.pkl").open("wb") as file:
            pickle.dump({"G": None, "D": None, "G_ema": generator, "training_set_kwargs": None}, file)
        _save_nvidia(out / name, generator, arguments["c_dim"])


def tensorflow(out: Path) -> None:
    """What the stylegan3 repository makes of the TensorFlow pickles that are in `out` already."""
    legacy: Any = importlib.import_module("legacy")
    for path in sorted(out.glob("*.pkl")):
        with path.open("rb") as file:
            network = legacy._LegacyUnpickler(file).load()[2]
        generator = legacy.convert_tf_generator(network)
        _save_nvidia(path.with_suffix(""), generator, generator.c_dim)


def rosinality(out: Path) -> None:
    """Files of rosinality's model.py, in both layouts of torch.save."""
    # Its import builds CUDA code, which the CPU does not use.
    vars(importlib.import_module("torch.utils.cpp_extension"))["load"] = lambda *_, **__: None
    model: Any = importlib.import_module("model")
    for name, (size, multiplier) in ROSINALITY.items():
        torch.manual_seed(0)
        generator = model.Generator(size, 64, 4, channel_multiplier=multiplier).eval()
        _disturb(generator)
        average = generator.mean_latent(256)[0]

        def images(ws: Tensor, noise_mode: str, generator: Any = generator) -> Tensor:
            fixed = [getattr(generator.noises, f"noise_{index}") for index in range(generator.num_layers)]
            noise = fixed if noise_mode == "const" else [0 * tensor for tensor in fixed]
            return generator([ws], input_is_latent=True, noise=noise)[0]

        content = {"g_ema": generator.state_dict(), "latent_avg": average}
        for legacy in (False, True):
            path = out / f"{name}{', legacy torch.save' if legacy else ''}"
            torch.save(content, f"{path}.pt", _use_new_zipfile_serialization=not legacy)
            z = torch.randn(4, 64)
            ws = generator.get_latent(z)[:, None].repeat(1, generator.n_latent, 1)
            cut = torch.cat([average.lerp(ws[:, :4], 0.7), ws[:, 4:]], dim=1)
            _save(path, {"z": z, "ws": cut}, images)


def _disturb(module: nn.Module) -> None:
    """Let noise strengths and biases, which begin at zero or one, matter."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        if name.endswith(("noise_strength", "noise.weight")):
            parameter.fill_(0.3)
        elif name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) / 4)


def _save_nvidia(path: Path, generator: Any, c_dim: int) -> None:
    z = torch.randn(4, COMMON["z_dim"])
    given = {"z": z, "c": torch.eye(c_dim)[torch.arange(4) % c_dim]} if c_dim else {"z": z}
    ws = generator.mapping(z, given.get("c"), truncation_psi=0.7, truncation_cutoff=4)
    _save(
        path, {**given, "ws": ws}, lambda ws, mode: generator.synthesis(ws, noise_mode=mode, force_fp32=True)
    )


def _save(path: Path, tensors: dict[str, Tensor], images: Images) -> None:
    ws = tensors["ws"]
    mixed = torch.cat([ws[:, :5], ws.flip(0)[:, 5:]], dim=1)
    tensors = {
        **tensors,
        "mixed": mixed,
        "image const": images(ws, "const"),
        "image none": images(ws, "none"),
        "image mixed": images(mixed, "const"),
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, f"{path}.expected.safetensors")


def _stand_in(name: str, **content: Any) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module


@torch.no_grad()
def main() -> None:
    kind, source, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    from packaging.version import parse

    _stand_in("pkg_resources", parse_version=parse)
    _stand_in("requests")
    sys.path.insert(0, source)
    makers: dict[str, Callable[[], None]] = {
        "stylegan2-ada": lambda: nvidia(out, nested=True),
        "stylegan3": lambda: nvidia(out, nested=False),
        "tensorflow": lambda: tensorflow(out),
        "rosinality": lambda: rosinality(out),
    }
    makers[kind]()


if __name__ == "__main__":
    main()

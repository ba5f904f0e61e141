"""Generators for other tools: rosinality's .pt, and ONNX."""

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylegan2.atomic import atomic_path
from stylegan2.config import GeneratorConfig
from stylegan2.files import WithoutData
from stylegan2.generator import Generator, as_rgb
from stylegan2.layers import RESAMPLE_TAPS
from stylegan2.ops import setup_filter

OPSET = 17  # onnxruntime 1.12 (2022) and later run it
WS, PICTURES = "ws", "pictures"  # the names of a network's input and output


def save_rosinality(generator: Generator, path: str | Path) -> tuple[str, ...]:
    """Write {"g_ema", "latent_avg"} as rosinality's stylegan2-pytorch does: a pickle, of tensors alone.

    A grey generator is written as one of three equal channels. Returns notes for the user: what is lost, and
    where rosinality's own code would have to be changed to draw the same pictures.

    Raises ValueError for a generator that this layout cannot hold.
    """
    _check_rosinality(generator.config)
    generator = as_rgb(generator)
    content = {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}
    with atomic_path(path) as temporary:
        torch.save(_on_cpu(content), temporary)
    licence = [] if generator.licence is None else ["the licence of the weights is not kept in a .pt"]
    return (*licence, *_differences(generator.config))


def rosinality_state(generator: Generator) -> dict[str, Tensor]:
    """The generator's tensors under rosinality's names, and in its shapes."""
    state: dict[str, Tensor] = {}
    for name, value in generator.state_dict().items():
        if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", name):
            state[f"style.{int(match[1]) + 1}.{match[2]}"] = value
        elif name == "synthesis.b4.const":
            state["input.input"] = value[None]
        elif match := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", name):
            state |= _rosinality_layer(int(match[1]).bit_length() - 4, match[2], match[3], value)
    return state


def check_onnx() -> None:
    """Raise ValueError where onnx is not installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ValueError("writing ONNX needs onnx: pip install 'clip2gan[onnx]'") from error


def save_onnx(generator: Generator, path: str | Path) -> None:
    """Write the synthesis network as ONNX: "ws" [N, num_ws, w_dim] -> "pictures" [N, 3, R, R], about [-1, 1].

    N is free, noise is the stored one, all is float32; a grey generator gives three equal channels. The
    licence of the weights is kept as metadata.

    Raises ValueError where onnx is not installed, and for a generator of neither RGB nor grey pictures.
    """
    check_onnx()
    import onnx

    network = _Synthesis(_copy(as_rgb(generator)))
    example = torch.zeros(2, generator.num_ws, generator.config.w_dim)  # of one picture, N would be fixed
    with atomic_path(path) as temporary, _quietly():
        torch.onnx.export(
            network,
            (example,),
            str(temporary),
            input_names=[WS],
            output_names=[PICTURES],
            dynamic_axes={WS: {0: "N"}, PICTURES: {0: "N"}},
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs another package
        )
        model = onnx.load(str(temporary))
        if generator.licence is not None:
            onnx.helper.set_model_props(model, {"licence": generator.licence})
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))


class _Synthesis(nn.Module):
    """ws -> pictures, with the stored noise."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.synthesis = generator.synthesis

    def forward(self, ws: Tensor) -> Tensor:
        return self.synthesis(ws, noise_mode="const")


def _copy(generator: Generator) -> Generator:
    """The same weights on the CPU, frozen, in float32."""
    with WithoutData():
        copy = Generator(generator.config)
    state = {name: tensor.to("cpu", torch.float32) for name, tensor in generator.state_dict().items()}
    copy.load_state_dict(state, assign=True)
    return copy.eval().requires_grad_(False)


def _on_cpu(content: Any) -> Any:
    """Tensors without what they are views of, in dicts."""
    if isinstance(content, dict):
        return {name: _on_cpu(value) for name, value in content.items()}
    return content.detach().cpu().clone()


def _check_rosinality(config: GeneratorConfig) -> None:
    """Raise ValueError for what rosinality's layout cannot hold, naming all of it."""
    wrong = []
    if config.architecture != "skip":
        wrong.append(f"architecture {config.architecture}")
    if config.c_dim:
        wrong.append(f"labels ({config.c_dim})")
    if config.z_dim != config.w_dim:
        wrong.append(f"z of {config.z_dim} and w of {config.w_dim}")
    if config.mapping_width not in (None, config.w_dim):
        wrong.append(f"a mapping network {config.mapping_width} wide")
    if wrong:
        raise ValueError(
            f"rosinality's layout (.pt) has no place for {', '.join(wrong)}; write .safetensors or .onnx"
        )


def _differences(config: GeneratorConfig) -> tuple[str, ...]:
    """In what rosinality's own Generator differs from this one."""
    notes = []
    widths = {resolution: config.channels(resolution) for resolution in config.block_resolutions}
    known = [{r: min(512, base // r) for r in widths} for base in (16384, 32768)]
    if widths not in known or config.img_resolution > 1024:
        shown = ", ".join(f"{resolution}: {width}" for resolution, width in widths.items())
        notes.append(
            f"rosinality's Generator has other channels than these ({shown}); change its table of them"
        )
    if config.conv_clamp is not None:
        notes.append(
            f"rosinality's Generator does not clamp activations as this one does (at {config.conv_clamp:g}); "
            "pictures may differ"
        )
    return tuple(notes)


def _rosinality_layer(block: int, layer: str, part: str, value: Tensor) -> dict[str, Tensor]:
    """A tensor of a layer under its own name, with the filter beside it; block: -1 at 4x4, 0 at 8x8, ..."""
    kernel = setup_filter(RESAMPLE_TAPS) * 4  # upsampling's gain is folded in
    index = 2 * block + (layer == "conv1")
    if layer == "torgb":
        own = "to_rgb1" if block < 0 else f"to_rgbs.{block}"
    else:
        own = "conv1" if block < 0 else f"convs.{index}"
    if part == "weight":
        filters = {}
        if layer == "conv0":
            filters[f"{own}.conv.blur.kernel"] = kernel
        elif layer == "torgb" and block >= 0:
            filters[f"{own}.upsample.kernel"] = kernel
        return {f"{own}.conv.weight": value[None], **filters}
    if part.startswith("affine."):
        return {f"{own}.conv.modulation.{part.removeprefix('affine.')}": value}
    if part == "noise_strength":
        return {f"{own}.noise.weight": value[None]}
    if part == "noise_const":
        return {f"noises.noise_{index + 1}": value[None, None]}
    if part == "bias":
        bias = value[None, :, None, None]
        return {f"{own}.bias": bias} if layer == "torgb" else {f"{own}.activate.bias": value}
    return {}  # resample_filter


@contextlib.contextmanager
def _quietly():
    """Without the exporter's words on what does not matter here: sizes that become constants, its age."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

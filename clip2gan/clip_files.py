"""Files of CLIPs as they are in the wild: whose they are, and which activation they were trained with.

OpenAI's weights, and some others', need QuickGELU, an approximation of GELU. Nothing in the tensors shows it,
and with the other one a model still works, only worse. What a file is known by, in this order:

    OpenAI's own archive    TorchScript; its state has input_resolution, context_length and vocab_size
    Hugging Face's layout   `hidden_act` of the config.json beside it
    open_clip's layout      `quick_gelu` of the open_clip_config.json beside it, or of the header
    its sha256              open_clip's table of published weights names (the start of) some
"""

import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2gan.clip_config import read_json
from clip2gan.clip_script import check_bounds, read_script
from clip2gan.messages import one_line
from stylegan2.files import fingerprint

OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}
HF_CONFIG, HF_PREPROCESSING = "config.json", "preprocessor_config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
QUICK = "-quickgelu"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, in Hugging Face's configs


@dataclass(frozen=True)
class ClipFile:
    """What a file of CLIP weights holds.

    Attributes:
        path: the file.
        shapes: of its tensors, by the names they have in it.
        quick_gelu: whether it was trained with QuickGELU; None where nothing tells.
        preprocessing: keys of open_clip's PreprocessCfg that are known of it.
        state: the weights under open_clip's names, of files that open_clip does not read itself.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    quick_gelu: bool | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Tensor] | None = None


def read_clip_file(path: Path, architecture: str) -> ClipFile:
    """What a file of weights for one of open_clip's architectures tells of itself; nothing in it is run.

    Raises ValueError unless it holds plain weights.
    """
    if path.suffix in (".npz", ".npy"):  # big_vision's, which open_clip reads without pickle
        _check_npz(path)
        return ClipFile(path, {}, False)
    script = None if path.suffix == ".safetensors" else read_script(path)
    if script is not None:
        if not script.keys() >= OPENAI_MARKS:
            raise ValueError(
                f"{path}: a TorchScript archive that is none of OpenAI's CLIPs, and no other is read; "
                f"give {architecture}:openai, or the weights as safetensors"
            )
        _check_openai(path, script, architecture)
        shapes = {name: tuple(tensor.shape) for name, tensor in script.items()}
        state = {name: tensor for name, tensor in script.items() if name not in OPENAI_MARKS}
        return ClipFile(path, shapes, True, _published("openai", architecture), state)
    shapes, header = read_shapes(path)
    if shapes.keys() >= OPENAI_MARKS:
        state = {name: tensor for name, tensor in _plain_state(path).items() if name not in OPENAI_MARKS}
        return ClipFile(path, shapes, True, _published("openai", architecture), state)
    if any(name.startswith("text_model.") for name in shapes):
        quick, preprocessing = _hugging_face_facts(path.parent)
        return ClipFile(path, shapes, quick, preprocessing, hugging_face_state(_plain_state(path)))
    beside = path.with_name(OPEN_CLIP_CONFIG)
    config = read_json(beside) if path.name.startswith("open_clip_") and beside.is_file() else header
    if isinstance(config.get("model_cfg"), dict):
        quick = bool(config["model_cfg"].get("quick_gelu", False))
        return ClipFile(path, shapes, quick, _only_preprocessing(config.get("preprocess_cfg")))
    known = _by_sum(path)
    if known is not None:
        return ClipFile(path, shapes, bool(known.get("quick_gelu")), _only_preprocessing(known))
    return ClipFile(path, shapes)


def agreed_preprocessing(architecture: str) -> dict[str, Any] | None:
    """What all published weights of an architecture are preprocessed by.

    It is {} where none are published, and None where they differ.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(architecture)
    found = [_only_preprocessing(get_pretrained_cfg(architecture, tag)) for tag in tags]
    return None if any(each != found[0] for each in found) else found[0] if found else {}


# ---- OpenAI's archives


def _check_openai(path: Path, state: Mapping[str, Tensor], architecture: str) -> None:
    """Raise ValueError where an archive of OpenAI's is another of its models than the one that was named."""
    found = [name for name in _openai_architectures() if _is_of(name, state)]
    if found and architecture.removesuffix(QUICK) not in found:
        raise ValueError(f"{path}: OpenAI's {found[0]}, not {architecture}; give {found[0]}:{path.name}")


def _openai_architectures() -> list[str]:
    from open_clip.pretrained import list_pretrained_models_by_tag

    return [name for name in list_pretrained_models_by_tag("openai") if not name.endswith(QUICK)]


def _is_of(architecture: str, state: Mapping[str, Tensor]) -> bool:
    from open_clip import get_model_config

    config: dict[str, Any] = get_model_config(architecture) or {}
    projection, convolution = state.get("text_projection"), state.get("visual.conv1.weight")
    if projection is None or convolution is None or projection.ndim != 2 or not config:
        return False
    width = convolution.shape[0] * (1 if "visual.proj" in state else 2)  # a ResNet's stem has half its width
    expected = (config["embed_dim"], config["vision_cfg"]["width"], config["vision_cfg"]["image_size"])
    same_patches = config["vision_cfg"].get("patch_size") in (None, convolution.shape[-1])
    return expected == (projection.shape[1], width, int(state["input_resolution"])) and same_patches


# ---- plain files of weights


def read_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of a file's tensors, and the config in its header (safetensors of ours).

    Raises ValueError unless it holds plain tensors. open_clip retries some failed reads without asking for
    tensors only; what fails does so here, first.
    """
    if path.suffix in (".npz", ".npy"):  # NumPy's are read without pickle
        return {}, {}
    from safetensors import safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                header = json.loads((file.metadata() or {}).get("config", "{}"))
            return shapes, header if isinstance(header, dict) else {}
        check_bounds(path)
        found = _state_of(torch.load(path, map_location="meta", weights_only=True))
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        if sum(map(math.prod, shapes.values())) > path.stat().st_size:  # views of few numbers
            raise ValueError("its tensors together are larger than the file")
        return shapes, {}
    except Exception as error:  # damaged data can raise almost anything
        raise ValueError(
            f"{path}: not a readable file of plain weights ({one_line(error)}); get it again"
        ) from error


def _check_npz(path: Path) -> None:
    """Raise ValueError for NumPy's archive that is damaged, or that unpacks to many times its size."""
    if path.suffix == ".npy":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable file of plain weights ({one_line(error)}); get it again"
        ) from error
    if unpacked > 4 * path.stat().st_size:
        raise ValueError(f"{path}: not a file of weights: it unpacks to {unpacked:,} bytes")


def _plain_state(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return _state_of(torch.load(path, map_location="cpu", weights_only=True))


def _state_of(loaded: Any) -> dict[str, Tensor]:
    """The tensors of what torch.load gave, as open_clip takes them: a state_dict, or one under that key."""
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a state_dict")
    return {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}


# ---- Hugging Face's layout


def hugging_face_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a transformers CLIPModel under open_clip's names.

    Raises ValueError for a name that a CLIPModel does not have.
    """
    renamed: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.endswith(".position_ids"):
            continue
        tower, layer, rest = _split_layer(name)
        if layer is None:
            own = _HF_NAMES.get(name)
            if own is None:
                raise ValueError(f"{name!a:.80} is not a tensor of Hugging Face's CLIP")
            renamed[own] = (
                value.T if name in ("text_projection.weight", "visual_projection.weight") else value
            )
            continue
        prefix = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{layer}"
        if match := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", rest):
            attention.setdefault(f"{prefix}.attn.in_proj_{match[2]}", {})[match[1]] = value
        elif own := _HF_LAYER_NAMES.get(rest.rpartition(".")[0]):
            renamed[f"{prefix}.{own}.{rest.rpartition('.')[2]}"] = value
        else:
            raise ValueError(f"{name!a:.80} is not a tensor of Hugging Face's CLIP")
    for name, parts in attention.items():
        if parts.keys() != {"q", "k", "v"}:
            raise ValueError(f"the parts of {name} are not all there; get the file again")
        renamed[name] = torch.cat([parts[part] for part in "qkv"])
    return renamed


def _split_layer(name: str) -> tuple[str, str | None, str]:
    match = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d{1,3})\.(.+)", name)
    return (match[1], match[2], match[3]) if match else ("", None, name)


_HF_NAMES = {
    "logit_scale": "logit_scale",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # so spelt there
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_HF_LAYER_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def hugging_face_config(path: Path) -> dict[str, Any]:
    """open_clip's arguments for the model that a transformers config.json describes.

    Raises ValueError for what is no CLIP with OpenAI's tokens.
    """
    config = read_json(path)
    text, vision = config.get("text_config"), config.get("vision_config")
    if config.get("model_type") != "clip" or not isinstance(text, dict) or not isinstance(vision, dict):
        raise ValueError(
            f"{path}: not the config of a CLIPModel; a CLIP of open_clip's or of this kind is read"
        )

    def number(part: dict[str, Any], name: str, default: int) -> int:
        value = part.get(name, default)
        if type(value) is not int or not 0 < value < 2**20:
            raise ValueError(f"{path}: {name} must be a whole number in range, got {value!r:.40}")
        return value

    if number(text, "vocab_size", 49408) != 49408:
        raise ValueError(
            f"{path}: a vocabulary of {text['vocab_size']} tokens; only OpenAI's of 49408 is read"
        )
    width, text_width = number(vision, "hidden_size", 768), number(text, "hidden_size", 512)
    quick, _ = _hugging_face_facts(path.parent)
    return {
        "embed_dim": number(config, "projection_dim", 512),
        "vision_cfg": {
            "image_size": number(vision, "image_size", 224),
            "layers": number(vision, "num_hidden_layers", 12),
            "width": width,
            "head_width": width // number(vision, "num_attention_heads", 12),
            "patch_size": number(vision, "patch_size", 32),
            "mlp_ratio": number(vision, "intermediate_size", 3072) / width,
        },
        "text_cfg": {
            "context_length": number(text, "max_position_embeddings", 77),
            "vocab_size": 49408,
            "width": text_width,
            "heads": number(text, "num_attention_heads", 8),
            "layers": number(text, "num_hidden_layers", 12),
            "mlp_ratio": number(text, "intermediate_size", 2048) / text_width,
        },
        "quick_gelu": bool(quick),
    }


def _hugging_face_facts(folder: Path) -> tuple[bool | None, dict[str, Any]]:
    """(whether by QuickGELU, preprocessing) of the configs in a folder of Hugging Face's."""
    quick = None
    if (folder / HF_CONFIG).is_file():
        config = read_json(folder / HF_CONFIG)
        towers = [config.get(key) for key in ("text_config", "vision_config")]
        # Theirs is quick_gelu where a config does not say.
        found = {
            tower.get("hidden_act", "quick_gelu") if isinstance(tower, dict) else "quick_gelu"
            for tower in towers
        }
        if not found <= {"quick_gelu", "gelu"} or len(found) > 1:
            shown = ", ".join(sorted(f"{each!s:.20}" for each in found))
            raise ValueError(f"{folder / HF_CONFIG}: hidden_act is {shown}; quick_gelu or gelu is read")
        quick = found == {"quick_gelu"}
    preprocessing: dict[str, Any] = {}
    if (folder / HF_PREPROCESSING).is_file():
        config = read_json(folder / HF_PREPROCESSING)
        known = {
            "mean": config.get("image_mean"),
            "std": config.get("image_std"),
            "interpolation": RESAMPLING.get(config.get("resample", -1)),
        }
        preprocessing = {name: value for name, value in known.items() if value is not None}
    return quick, _only_preprocessing(preprocessing)


# ---- open_clip's table of published weights


def _published(tag: str, architecture: str) -> dict[str, Any]:
    from open_clip.pretrained import get_pretrained_cfg

    return _only_preprocessing(get_pretrained_cfg(architecture, tag))


def _only_preprocessing(config: Any) -> dict[str, Any]:
    found = config if isinstance(config, dict) else {}
    return {name: found[name] for name in PREPROCESSING if name in found}


@cache
def _known_sums() -> dict[str, dict[str, Any]]:
    """The sha256 sums that the addresses of published weights name (whole, or their first 8 digits)."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    sums = {}
    for architecture, tag in list_pretrained():
        config: dict[str, Any] = get_pretrained_cfg(architecture, tag)
        if match := re.search(r"/([0-9a-f]{64})/|-([0-9a-f]{8})\.pth?$", config.get("url", "")):
            sums[match[1] or match[2]] = config
    return sums


def _by_sum(path: Path) -> dict[str, Any] | None:
    total = fingerprint(path)
    return _known_sums().get(total) or _known_sums().get(total[:8])

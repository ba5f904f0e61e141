"""From the spec of a CLIP (see `clip2gan.clip`) to open_clip's model.

Files are read as data only, and every mistake ends in one line.
"""

import difflib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clip2gan.clip_config import check_config, read_json
from clip2gan.clip_files import (
    HF_CONFIG,
    QUICK,
    ClipFile,
    agreed_preprocessing,
    hugging_face_config,
    read_clip_file,
    read_shapes,
)
from clip2gan.messages import one_line
from stylegan2.faults import is_out_of_memory
from stylegan2.files import check_weights

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP as open_clip has it.

    Attributes:
        model: in float32, on the CPU.
        tokenizer: texts to tokens.
        preprocess_config: keys of open_clip's PreprocessCfg.
        config: the arguments that the model was made with (embed_dim, vision_cfg, text_cfg, quick_gelu, ...).
    """

    model: Any
    tokenizer: Callable[..., Tensor]
    preprocess_config: Mapping[str, Any]
    config: Mapping[str, Any]


def load_clip(spec: str) -> LoadedClip:
    """The model that a spec names. Raises as `ClipEncoder.load` does."""
    source = clip_source(spec)
    if source.startswith(LOCAL_DIR):
        folder = Path(source.removeprefix(LOCAL_DIR))
        if (folder / HF_CONFIG).is_file() and not (folder / CONFIG_NAME).is_file():
            return _load_hugging_face(folder, spec)
        _check_local_dir(folder)
        return _create(source, None, spec)
    if source.startswith(HF_HUB):
        _check_hub_config(source, spec)
        return _create(source, None, spec, fetched=True)
    architecture, weights = _architecture_and_weights(source)
    if _is_published(architecture, weights):
        return _create(
            architecture, weights, spec, _published_quick_gelu(architecture, weights), fetched=True
        )
    return _load_file(architecture, read_clip_file(Path(weights), architecture), spec)


def clip_source(spec: str) -> str:
    """`spec` itself, or for the name of a model that comes with the package the spec of its CLIP."""
    from clip2gan.bundle.locate import bundled_models, clip_of

    return clip_of(spec) if spec in bundled_models() else spec


def _create(
    name: str,
    pretrained: str | None,
    spec: str,
    quick_gelu: bool = False,
    *,
    fetched: bool = False,
    preprocessing: Mapping[str, Any] | None = None,
) -> LoadedClip:
    """A model with weights that open_clip reads itself."""
    import open_clip

    with _one_line_errors(spec, fetched):
        model: Any = open_clip.create_model(
            name,
            pretrained=pretrained,
            force_quick_gelu=quick_gelu,
            force_preprocess_cfg=dict(preprocessing) if preprocessing else None,
            require_pretrained=True,
            weights_only=True,
        )
        config: Any = open_clip.get_model_config(name)
        # transformers would ask on the terminal whether to run the code that comes with a tokenizer.
        from_hub: dict[str, Any] = {}
        if config["text_cfg"].get("hf_tokenizer_name"):
            from_hub["trust_remote_code"] = False
        tokenizer: Any = open_clip.get_tokenizer(name, **from_hub)
    if quick_gelu:
        config = {**config, "quick_gelu": True}
    return LoadedClip(model, tokenizer, model.visual.preprocess_cfg, config)


def _create_from_state(
    config: Mapping[str, Any], file: ClipFile, preprocessing: Mapping[str, Any], spec: str
) -> LoadedClip:
    """A model with weights that were read here; they are of CLIP's original form, with OpenAI's tokens."""
    import open_clip
    from open_clip.transform import PreprocessCfg

    assert file.state is not None
    with _one_line_errors(spec, fetched=False):
        model: Any = open_clip.CLIP(**config)
    check_weights(model, file.state, str(file.path))
    model.load_state_dict({name: tensor.float() for name, tensor in file.state.items()})
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    whole = {**asdict(PreprocessCfg()), **preprocessing, "size": model.visual.image_size}
    return LoadedClip(model, tokenizer, whole, config)


def _load_file(architecture: str, file: ClipFile, spec: str) -> LoadedClip:
    """An architecture with the weights of a file, by the activation that they were trained with."""
    import open_clip

    known: Any = open_clip.get_model_config(architecture)
    named_quick = bool(known.get("quick_gelu"))
    quick = named_quick if file.quick_gelu is None else file.quick_gelu
    preprocessing, doubts = dict(file.preprocessing), []
    if named_quick and not quick:
        plain = architecture.removesuffix(QUICK)
        if plain == architecture:
            raise ValueError(f"{file.path}: trained with GELU, while {architecture} computes QuickGELU")
        doubts.append(f"it was trained with GELU, so it is read as {plain}")
        architecture = plain
    elif file.quick_gelu is None and f"{architecture}{QUICK}" in open_clip.list_models():
        doubts.append(
            f"it does not say which activation it was trained with, and {architecture} computes GELU; "
            "weights of OpenAI, MetaCLIP and DFN need QuickGELU: for those, "
            f"give {architecture}{QUICK}:{file.path}"
        )
    if not preprocessing:
        agreed = agreed_preprocessing(architecture)
        if agreed is None:
            doubts.append(f"published weights of {architecture} differ in preprocessing; OpenAI's is taken")
        preprocessing = agreed or {}
    if file.state is not None:
        loaded = _create_from_state({**known, "quick_gelu": quick}, file, preprocessing, spec)
    else:
        more = quick and not named_quick
        loaded = _create(architecture, str(file.path), spec, more, preprocessing=preprocessing)
    for doubt in doubts:
        log.warning("%s: %s", file.path, doubt)
    return loaded


def _load_hugging_face(folder: Path, spec: str) -> LoadedClip:
    """A CLIP in the layout of Hugging Face's transformers: config.json, model.safetensors."""
    weights = next((folder / name for name in HF_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{folder}: no weights in this CLIP folder; put {HF_WEIGHTS[0]} there")
    config = hugging_face_config(folder / HF_CONFIG)
    file = read_clip_file(weights, spec)
    numbers = sum(math.prod(shape) for shape in file.shapes.values())
    check_config(config, numbers, str(folder / HF_CONFIG))
    if file.state is None:
        raise ValueError(f"{weights}: not the weights of Hugging Face's CLIPModel")
    return _create_from_state(config, file, file.preprocessing, spec)


def _architecture_and_weights(spec: str) -> tuple[str, str]:
    """Split ARCH, ARCH:PRETRAINED or ARCH:FILE into names that open_clip knows or a file that is there."""
    import open_clip
    from open_clip.pretrained import is_pretrained_cfg, list_pretrained_tags_by_model

    architecture, _, weights = spec.partition(":")
    architecture = architecture.replace("/", "-")  # OpenAI's own way of writing ViT-B/32
    known = {name.lower(): name for name in open_clip.list_models()}
    if architecture not in known.values():
        close = [known[name] for name in difflib.get_close_matches(architecture.lower(), known, cutoff=0.5)]
        hint = f"did you mean {' or '.join(close)}?" if close else "open_clip.list_models() names them all"
        raise ValueError(f"unknown CLIP {spec!r}: open_clip has no architecture {architecture!r}; {hint}")

    tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none are published"
    choices = f"give {architecture}:NAME ({tags}) or {architecture}:FILE"
    if not weights:
        raise ValueError(f"CLIP {spec!r} names no pretrained weights, and random ones are useless; {choices}")
    if is_pretrained_cfg(architecture, weights):
        return architecture, weights
    file = Path(weights)
    if file.is_file():
        return architecture, weights
    if file.suffix in WEIGHT_SUFFIXES or os.sep in weights:
        raise FileNotFoundError(f"{weights}: no such file of CLIP weights (in {spec!r})")
    raise ValueError(f"unknown pretrained weights {weights!r} for CLIP {architecture}; {choices}")


def _check_local_dir(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of a CLIP model; check the path, or get it again")
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"{folder}: no {CONFIG_NAME} in it, so not a CLIP in open_clip's format; get it again"
        )
    weights = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pth"))
    if not weights:
        raise FileNotFoundError(f"{folder}: no weights in this CLIP folder; put {WEIGHTS_NAME} there")
    config = read_json(folder / CONFIG_NAME).get("model_cfg")
    for path in weights:
        shapes, _ = read_shapes(path)
        if isinstance(config, dict):
            numbers = sum(math.prod(shape) for shape in shapes.values())
            check_config(config, numbers, str(folder / CONFIG_NAME))


def _check_hub_config(source: str, spec: str) -> None:
    import open_clip

    with _one_line_errors(spec, fetched=True):
        config = open_clip.get_model_config(source)
    if isinstance(config, dict):
        check_config(config, None, f"{source}: {CONFIG_NAME}")


def _is_published(name: str, pretrained: str) -> bool:
    from open_clip.pretrained import is_pretrained_cfg

    return is_pretrained_cfg(name, pretrained)


def _published_quick_gelu(name: str, pretrained: str) -> bool:
    """OpenAI's weights need their approximation of GELU even under the architecture's plain name."""
    from open_clip.pretrained import get_pretrained_cfg

    return bool(get_pretrained_cfg(name, pretrained).get("quick_gelu"))


@contextmanager
def _one_line_errors(spec: str, fetched: bool) -> Iterator[None]:
    """Turn whatever open_clip raises while loading into one line that names the model and the remedy."""
    # open_clip logs on the root logger, and the first such line would set up logging for the whole process.
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    except Exception as error:  # open_clip, the Hub's client and the file formats raise many kinds
        if is_out_of_memory(error):
            raise
        if fetched:
            remedy = (
                "check name and network, or give downloaded weights: local-dir:FOLDER with their config, "
                "or ARCH:FILE (OpenAI's own .pt; other files of its weights as ARCH-quickgelu:FILE)"
            )
            raise OSError(f"cannot fetch CLIP {spec!r} ({one_line(error)}); {remedy}") from error
        raise ValueError(f"cannot load CLIP {spec!r}: {one_line(error)}") from error
    finally:
        logging.getLogger().removeHandler(handler)

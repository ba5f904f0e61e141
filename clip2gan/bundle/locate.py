"""Where models are: those that come with the package, folders, and the Hugging Face Hub."""

import difflib
from pathlib import Path

from clip2gan.bundle.config import CLIP, CONFIG, BundleConfig, read_config
from clip2gan.messages import one_line

HF_HUB = "hf-hub:"
FETCHED = ["*.json", "*.safetensors", "*.md", "LICENSE"]
BUNDLED = Path(__file__).parents[1] / "bundles"


def bundled_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED.glob(f"*/{CONFIG}"))}


def locate_bundle(model: str | Path) -> Path:
    """The folder of a model: "avatars" (or another that comes with the package), PATH, hf-hub:ORG/NAME.

    Raises ValueError for a name that is nothing of these, OSError when the Hub does not give it.
    """
    model, bundled = str(model), bundled_models()
    if model.startswith(HF_HUB):
        return _download(model)
    if model in bundled:
        return bundled[model]
    path = Path(model)
    if (path / CONFIG).is_file() and not (path / "bundle" / CONFIG).is_file():
        return path
    if (path / "bundle" / CONFIG).is_file():
        raise ValueError(f"{model} is a training's folder; its model is {path / 'bundle'}")
    if path.is_dir():
        raise ValueError(
            f"{model}: no {CONFIG} in this folder, so it is not a clip2gan model; give another folder"
        )
    if path.exists():
        raise ValueError(
            f"{model} is a file; a clip2gan model is a folder with a {CONFIG}. "
            f"If it is a generator, `clip2gan train-mapper --generator {model}` makes a model for it, and "
            f"`clip2gan sample --generator {model}` shows its pictures"
        )
    close = difflib.get_close_matches(model, bundled, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"give {_choice([*bundled, 'a folder', 'hf-hub:ORG/NAME'])}"
    )
    raise ValueError(f"unknown model {model!r}; {hint}")


def clip_of(model: str | Path) -> str:
    """The spec of a model's CLIP, for `ClipEncoder.load`. Raises as `locate_bundle` and `read_config` do."""
    folder = locate_bundle(model)
    clip = read_config(folder).clip
    return f"local-dir:{folder / CLIP}" if clip == CLIP else clip


def choose_mapper(config: BundleConfig, mapper: str | None, source: str) -> str | None:
    """`mapper` if the bundle has it, its first one for None; None for a bundle that needs none.

    Raises ValueError naming those there are.
    """
    kinds = list(config.mappers)
    if mapper is None:
        return kinds[0] if kinds else None
    if not kinds:
        raise ValueError(f"{source} has no mapper {mapper!r}: its generator takes texts itself; leave it out")
    if mapper not in kinds:
        raise ValueError(f"{source} has no mapper {mapper!r}; choose {_choice(kinds)}")
    return mapper


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = model.removeprefix(HF_HUB).partition("@")
    try:
        folder = snapshot_download(repository, revision=revision or None, allow_patterns=FETCHED)
    except Exception as error:  # the Hub's client raises many kinds, from many libraries
        raise OSError(
            f"cannot fetch {model} ({one_line(error)}); check the name and the network, or give the "
            "folder of a model"
        ) from error
    if not (Path(folder) / CONFIG).is_file():
        raise ValueError(f"{model}: no {CONFIG} in this repository, so it is not a clip2gan model")
    return Path(folder)


def _choice(options: list[str]) -> str:
    return " or ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)

"""Bundles: folders that hold a whole model (generator, CLIP, mappers, gap) and tell what it is made of.

    config.json             what is in the folder, for whom it may be used, and the sha256 of each file
    generator.safetensors
    clip/                   in open_clip's local-dir format; absent when config.json names an open_clip model
    mapper-<kind>.safetensors   none where the generator itself takes CLIP's embeddings ("mappers": {})
    gap.safetensors
    encoder.safetensors     the fast start of inversion; optional
    README.md               the model card

Nothing in a bundle is code, and none is ever run.
"""

import difflib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from clip2gan.clip import ClipEncoder
    from clip2gan.editing.encoder import LatentEncoder
    from clip2gan.gap import Gap
    from clip2gan.mappers import Mapper
    from stylegan2 import Generator

FORMAT_VERSION = 1
CONFIG = "config.json"
GENERATOR = "generator.safetensors"
GAP = "gap.safetensors"
ENCODER = "encoder.safetensors"
CLIP = "clip"
CARD = "README.md"
HF_HUB = "hf-hub:"
LOCAL_DIR = "local-dir:"
BUNDLED = Path(__file__).parent / "bundles"
_KEYS = {"format_version": int, "generator": str, "clip": str, "mappers": dict, "gap": str, "files": dict}


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """What the weights do not say themselves.

    Attributes:
        name: shown by `clip2gan models` and in the model card.
        description: one or two sentences.
        alignment: how pictures must be framed before they are edited: "none" or "ffhq".
        licences: part (generator, clip, mapper, data) -> its licence and to whom it is owed.
        figures: measured results, each with "what", "value" and the "command" that measured it.
    """

    name: str
    description: str = ""
    alignment: str = "none"
    licences: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A model in memory; `mapper` is the one asked for, `fingerprint` the sha256 of all the files' sums."""

    path: Path
    config: dict[str, Any]
    fingerprint: str
    generator: "Generator"
    clip: "ClipEncoder"
    mappers: "dict[str, Mapper]"
    gap: "Gap"
    encoder: "LatentEncoder | None" = None


def bundled_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED.glob(f"*/{CONFIG}"))}


def locate_bundle(model: str) -> Path:
    """The folder of a model: "avatars" (or another that comes with the package), PATH, hf-hub:ORG/NAME.

    Raises ValueError for a name that is nothing of these, OSError when the Hub does not give it.
    """
    if model.startswith(HF_HUB):
        return _download(model)
    bundled = bundled_models()
    if model in bundled:
        return bundled[model]
    path = Path(model)
    if (path / CONFIG).is_file() and not (path / "bundle" / CONFIG).is_file():
        return path
    if (path / "bundle" / CONFIG).is_file():
        raise ValueError(f"{model} is a training's folder; its model is {path / 'bundle'}")
    if path.is_dir():
        raise ValueError(f"{model}: no {CONFIG} in this folder, so it is not a clip2gan model")
    if path.exists():
        raise ValueError(f"{model} is a file; a clip2gan model is a folder with a {CONFIG}")
    close = difflib.get_close_matches(model, bundled, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"give {_choice([*bundled, 'a folder', 'hf-hub:ORG/NAME'])}"
    )
    raise ValueError(f"unknown model {model!r}; {hint}")


def read_config(folder: Path) -> dict[str, Any]:
    """A bundle's config.json, checked for its version and the presence and type of every key.

    Raises ValueError with the key and the remedy.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); get the model again") from error
    if not isinstance(config, dict) or "format_version" not in config:
        raise ValueError(f"{path}: no 'format_version' in it, so this is not a clip2gan model")
    version = config["format_version"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {version!r}; this clip2gan reads version {FORMAT_VERSION}: "
            "update clip2gan or get the model in its format"
        )
    for key, kind in _KEYS.items():
        if not isinstance(config.get(key), kind):
            found = f"is {config[key]!r}" if key in config else "is missing"
            raise ValueError(f"{path}: {key!r} {found}; expected a {kind.__name__}. Get the model again")
    encoder = [config["encoder"]] if "encoder" in config else []
    for name in [config["generator"], config["gap"], *config["mappers"].values(), *encoder]:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{path}: {name!r} is not the name of a file in this folder")
    return config


def choose_mapper(config: Mapping[str, Any], mapper: str | None, source: str) -> str | None:
    """`mapper` if the bundle has it, its first one for None; None for a bundle that needs none.

    Raises ValueError naming those there are.
    """
    kinds = list(config["mappers"])
    if mapper is None:
        return kinds[0] if kinds else None
    if not kinds:
        raise ValueError(f"{source} has no mapper {mapper!r}: its generator takes texts itself; leave it out")
    if mapper not in kinds:
        raise ValueError(f"{source} has no mapper {mapper!r}; choose {_choice(kinds)}")
    return mapper


def bundle_fingerprint(config: Mapping[str, Any]) -> str:
    """The sha256 (hex) over the names and sums of a bundle's files."""
    return hashlib.sha256(json.dumps(config["files"], sort_keys=True).encode()).hexdigest()


def load_bundle(model: str, device: "str | torch.device" = "cpu", mapper: str | None = None) -> Bundle:
    """Load a model and check that its parts are whole and fit each other.

    Args:
        model: "avatars", a folder, or hf-hub:ORG/NAME.
        device: where to compute.
        mapper: the kind to load; None takes the bundle's first.

    Raises:
        ValueError: an unknown model or mapper; a part that is damaged, or made for other parts.
        FileNotFoundError: a part is missing.
        OSError: the model has to be fetched and cannot be.
    """
    from clip2gan.clip import ClipEncoder
    from clip2gan.editing.encoder import load_encoder
    from clip2gan.gap import load_gap
    from clip2gan.mappers import load_mapper
    from stylegan2 import load_generator

    folder = locate_bundle(model)
    config = read_config(folder)
    kind = choose_mapper(config, mapper, model)
    embedded = config["clip"] == CLIP
    generator = load_generator(folder / config["generator"], device)
    if kind is None and not generator.config.c_dim:
        raise ValueError(
            f"{folder / CONFIG}: 'mappers' is empty, and the generator takes no texts; get the model again"
        )
    mapper_file = folder / (config["generator"] if kind is None else config["mappers"][kind])
    bundle = Bundle(
        path=folder,
        config=config,
        fingerprint=bundle_fingerprint(config),
        generator=generator,
        clip=ClipEncoder.load(f"{LOCAL_DIR}{folder / CLIP}" if embedded else config["clip"], device),
        mappers=own_mapping(generator) if kind is None else {kind: load_mapper(mapper_file, device)},
        gap=load_gap(folder / config["gap"], device),
        encoder=load_encoder(folder / config["encoder"], device) if "encoder" in config else None,
    )
    _check_fit(bundle, mapper_file)
    unused = {name for other, name in config["mappers"].items() if other != kind}
    check_files(folder, {name: total for name, total in config["files"].items() if name not in unused})
    if config.get("clip_fingerprint") not in (None, bundle.clip.fingerprint()):
        raise ValueError(
            f"{folder / CONFIG}: CLIP {config['clip']!r} is not the one this model was trained with"
        )
    return bundle


def write_bundle(
    path: str | Path,
    generator: "Generator",
    clip: "ClipEncoder",
    mappers: "Mapping[str, Mapper]",
    gap: "Gap",
    *,
    info: BundleInfo,
    half: bool = False,
    encoder: "LatentEncoder | None" = None,
) -> None:
    """Write a bundle whole, then move it to `path`, in the place of one that is there.

    Args:
        path: the folder.
        generator: frozen; stored with its configuration.
        clip: stored as files when it was loaded from files, else by the name that open_clip knows it by.
        mappers: kind -> mapper; the first one is the default. None for a generator trained on CLIP's texts.
        gap: stored beside them.
        info: name, licences and measured figures.
        half: store the weights of generator, mappers and encoder in 16 bit.
        encoder: stored beside them, where there is one.

    Raises:
        ValueError: a mapper does not fit the generator or the CLIP.
        FileExistsError: something else than a bundle is at `path`.
    """
    from clip2gan.editing.encoder import save_encoder
    from clip2gan.gap import save_gap
    from clip2gan.mappers import save_mapper
    from stylegan2 import save_generator
    from stylegan2.files import fingerprint

    if not mappers and not generator.config.c_dim:
        raise ValueError("a generator that takes no texts itself needs a mapper")
    path = Path(path)
    with _replaced_folder(path) as folder:
        save_generator(deepcopy(generator).half() if half else generator, folder / GENERATOR)
        files = {kind: f"mapper-{kind}.safetensors" for kind in mappers}
        for kind, mapper in mappers.items():
            save_mapper(deepcopy(mapper).half() if half else mapper, folder / files[kind])
        save_gap(gap, folder / GAP)
        if encoder is not None:
            save_encoder(encoder, folder / ENCODER, half)
        clip_name = _write_clip(clip, folder / CLIP)
        config = {
            "format_version": FORMAT_VERSION,
            **asdict(info),
            "generator": GENERATOR,
            "clip": clip_name,
            "clip_fingerprint": clip.fingerprint(),
            "mappers": files,
            "gap": GAP,
            **({} if encoder is None else {"encoder": ENCODER}),
            "files": {
                file.relative_to(folder).as_posix(): fingerprint(file)
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        }
        _write_config(folder, config)
        for kind, mapper in (mappers or own_mapping(generator)).items():
            whole = Bundle(path, config, "", generator, clip, {kind: mapper}, gap, encoder)
            _check_fit(whole, Path(files.get(kind, GENERATOR)))


def add_encoder(source: Path, encoder: str | Path, path: str | Path) -> None:
    """Write the bundle at `source`, with an encoder's file added or replaced, to `path` (which may be it).

    Raises:
        ValueError: the encoder was trained for a generator with other latents.
        FileExistsError: something else than a bundle is at `path`.
    """
    from safetensors import safe_open

    from clip2gan.editing.encoder import load_encoder
    from stylegan2.files import fingerprint

    config = read_config(source)
    with safe_open(source / config["generator"], framework="pt") as file:
        w_dim = file.get_slice("mapping.w_avg").get_shape()[0]
    _check_encoder(load_encoder(encoder).config.w_dim, w_dim, encoder)
    with _replaced_folder(Path(path)) as folder:
        for name in config["files"]:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        shutil.copyfile(encoder, folder / ENCODER)
        config["encoder"] = ENCODER
        config["files"] = dict(sorted({**config["files"], ENCODER: fingerprint(encoder)}.items()))
        _write_config(folder, config)


@contextmanager
def _replaced_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of the bundle at `path` when all went well."""
    if path.exists() and not _holds_only_parts(path):
        raise FileExistsError(f"{path}: exists and holds other things than a model; choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        if path.exists():
            path.replace(Path(temporary) / "old")
        folder.replace(path)


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    """config.json, and the model card that follows from it."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(model_card(config), encoding="utf-8")


def model_card(config: Mapping[str, Any]) -> str:
    """The README.md of a bundle, from its config.json."""
    clip = "clip/" if config["clip"] == CLIP else f"`{config['clip']}`"
    lines = [
        "---",
        "library_name: clip2gan",
        "tags: [clip2gan, stylegan2, text-to-image]",
        "---",
        "",
        f"# {config['name']}",
        "",
        config["description"],
        "",
        "```",
        f'clip2gan generate --model {config["name"]} --text "..."',
        "```",
        "",
        "| part | file | licence and attribution |",
        "| --- | --- | --- |",
    ]
    licences = config["licences"]
    parts = {"generator": config["generator"], "clip": clip, "mapper": ", ".join(config["mappers"].values())}
    if "encoder" in config:
        parts["encoder"] = config["encoder"]
    if not config["mappers"]:
        parts["mapper"] = "none: the generator takes CLIP's embeddings"
    lines += [f"| {part} | {file} | {licences.get(part, 'not stated')} |" for part, file in parts.items()]
    lines += [f"| {part} | | {text} |" for part, text in licences.items() if part not in parts]
    if config["figures"]:
        lines += ["", "## Measured", "", "| what | value | command |", "| --- | --- | --- |"]
        lines += [f"| {row['what']} | {row['value']} | `{row['command']}` |" for row in config["figures"]]
    return "\n".join(lines) + "\n"


def own_mapping(generator: "Generator") -> "dict[str, Mapper]":
    """What stands for the mapper of a generator that takes CLIP's embeddings itself."""
    from clip2gan.mappers.own import OwnMapping

    mapper = OwnMapping(generator)
    return {mapper.kind: mapper}


def _holds_only_parts(path: Path) -> bool:
    parts = {CONFIG, GENERATOR, GAP, ENCODER, CLIP, CARD}
    return path.is_dir() and all(
        file.name in parts or file.match("mapper-*.safetensors") for file in path.iterdir()
    )


def _write_clip(clip: "ClipEncoder", folder: Path) -> str:
    """Store a CLIP that came from files in `folder`; the name that stands for it in the bundle."""
    import torch

    from clip2gan.clip import CONFIG_NAME, WEIGHTS_NAME, avatars_source, save_local_dir

    source = avatars_source() if clip.spec == "avatars" else clip.spec
    if source.startswith(LOCAL_DIR):
        folder.mkdir()
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            shutil.copyfile(Path(source.removeprefix(LOCAL_DIR)) / name, folder / name)
        return CLIP
    architecture, _, weights = source.partition(":")
    if not source.startswith(HF_HUB) and Path(weights).is_file():
        from open_clip import get_model_config

        save_local_dir(
            clip.model,
            get_model_config(architecture) or {},
            clip.preprocess_config,
            folder,
            dtype=torch.float32,
        )
        return CLIP
    return source


def _check_fit(bundle: Bundle, mapper_file: Path) -> None:
    generator, clip = bundle.generator.config, bundle.clip
    for mapper in bundle.mappers.values():
        pairs = {
            "embed_dim": (mapper.config.embed_dim, clip.embed_dim, "CLIP"),
            "num_ws": (mapper.config.num_ws, generator.num_ws, "generator"),
            "w_dim": (mapper.config.w_dim, generator.w_dim, "generator"),
        }
        for key, (own, other, part) in pairs.items():
            if own != other:
                raise ValueError(
                    f"{mapper_file}: this mapper has {key} {own}, the {part} {other}; "
                    "it was trained for another one"
                )
    if bundle.encoder is not None:
        _check_encoder(bundle.encoder.config.w_dim, generator.w_dim, bundle.path / ENCODER)


def _check_encoder(own: int, generators: int, source: str | Path) -> None:
    if own != generators:
        raise ValueError(
            f"{source}: this encoder has w_dim {own}, the generator {generators}; "
            "it was trained for another one"
        )


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Compare files with their sha256. Raises FileNotFoundError or ValueError with the first one wrong."""
    from stylegan2.files import fingerprint

    for name, total in files.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; the model is not whole, get it again")
        if fingerprint(folder / name) != total:
            raise ValueError(
                f"{folder / name}: its sha256 is not the one in {CONFIG}: the file is damaged "
                "or was changed; get the model again"
            )


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = model.removeprefix(HF_HUB).partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=["*.json", "*.safetensors", "*.md"]
        )
    except Exception as error:  # the Hub's client raises many kinds, from many libraries
        reason = " ".join(str(error).split())[:200]
        raise OSError(
            f"cannot fetch {model} ({reason}); check the name and the network, or give the folder of a model"
        ) from error
    if not (Path(folder) / CONFIG).is_file():
        raise ValueError(f"{model}: no {CONFIG} in this repository, so it is not a clip2gan model")
    return Path(folder)


def _choice(options: list[str]) -> str:
    return " or ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)

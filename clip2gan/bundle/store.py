"""Bundles read into memory, checked, and written whole."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from clip2gan import __version__
from clip2gan.bundle.card import model_card
from clip2gan.bundle.config import CLIP, CONFIG, LICENSE, BundleConfig, PackagedGenerator, read_config
from clip2gan.bundle.locate import BUNDLED, HF_HUB, choose_mapper, locate_bundle
from clip2gan.domain import Domain
from stylegan2.locks import lock_file
from stylegan2.names import file_inside
from stylegan2.notes import NOTE

if TYPE_CHECKING:
    import torch

    from clip2gan.bundle.sums import Sums
    from clip2gan.clip import ClipEncoder
    from clip2gan.editing.encoder import LatentEncoder
    from clip2gan.gap import Gap
    from clip2gan.mappers import Mapper
    from stylegan2 import Generator

log = logging.getLogger(__name__)
GENERATOR = "generator.safetensors"
GAP = "gap.safetensors"
ENCODER = "encoder.safetensors"
CARD = "README.md"
LOCAL_DIR = "local-dir:"


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """What the weights do not say themselves.

    Attributes:
        name: shown by `clip2gan models` and in the model card.
        description: one or two sentences.
        domain: what belongs to the domain; None: one of this name, of which nothing else is known.
        licences: part (generator, clip, mapper, data) -> its licence and to whom it is owed.
        figures: measured results, each with "what", "value" and the "command" that measured it.
        license_text: the terms of the bundle's files, its LICENSE; None: it has none of its own.
    """

    name: str
    description: str = ""
    domain: Domain | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Mapping[str, str], ...] = ()
    license_text: str | None = None


@dataclass(frozen=True)
class Bundle:
    """A model in memory; `mappers` has the one asked for, `fingerprint` is of all the files' sums."""

    path: Path
    config: BundleConfig
    fingerprint: str
    generator: "Generator"
    clip: "ClipEncoder"
    mappers: "dict[str, Mapper]"
    gap: "Gap"
    encoder: "LatentEncoder | None" = None


def load_bundle(model: str | Path, device: "str | torch.device" = "cpu", mapper: str | None = None) -> Bundle:
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
    from clip2gan.bundle.sums import Sums
    from clip2gan.clip import ClipEncoder
    from clip2gan.editing.encoder import load_encoder
    from clip2gan.gap import load_gap, with_settings
    from clip2gan.mappers import load_mapper
    from stylegan2 import load_generator

    folder = locate_bundle(model)
    config = read_config(folder)
    kind = choose_mapper(config, mapper, str(model))
    file = lambda name: file_inside(folder, name)  # noqa: E731
    check_places(folder, config)
    generator_file = locate_generator_part(folder, config)
    terms = terms_of(folder, config)
    generator = load_generator(generator_file, device, tell_licence=terms is None)
    if terms is not None:
        log.warning("%s: %s", model, terms, extra=NOTE)
    if kind is None and not generator.config.c_dim:
        raise ValueError(
            f"{folder / CONFIG}: 'mappers' is empty, and the generator takes no texts; get the model again"
        )
    mapper_file = generator_file if kind is None else file(config.mappers[kind])
    bundle = Bundle(
        path=folder,
        config=config,
        fingerprint=config.fingerprint(),
        generator=generator,
        clip=ClipEncoder.load(f"{LOCAL_DIR}{folder / CLIP}" if config.clip == CLIP else config.clip, device),
        mappers=own_mapping(generator) if kind is None else {kind: load_mapper(mapper_file, device)},
        gap=with_settings(load_gap(file(config.gap), device), config.domain.gap),
        encoder=None if config.encoder is None else load_encoder(file(config.encoder), device),
    )
    _check_fit(bundle, mapper_file)
    unused = {name for other, name in config.mappers.items() if other != kind}
    sums = Sums()
    needed = {name: total for name, total in config.files.items() if name not in unused}
    check_files(folder, needed, sums.sum_of)
    _check_clip(bundle, sums)
    sums.save()
    return bundle


def terms_of(folder: Path, config: BundleConfig) -> str | None:
    """A line on the terms of its own that a bundle has, and their file; None for one without."""
    if LICENSE not in config.files:
        return None
    told = next((config.licences[part] for part in ("mapper", "generator") if part in config.licences), None)
    return f"{told}; see {folder / LICENSE}" if told else f"under the terms of {folder / LICENSE}"


def _check_clip(bundle: Bundle, sums: "Sums") -> None:
    """Raise ValueError if its CLIP is not the one that the bundle was made with.

    The weights of a CLIP in the bundle's own files, whose sums are right, are compared once.
    """
    from clip2gan.clip import WEIGHTS_NAME

    config = bundle.config
    if config.clip_fingerprint is None:
        return
    own = {name: total for name, total in config.files.items() if name.startswith(f"{CLIP}/")}
    versions = f"clip2gan {__version__}, open_clip {version('open_clip_torch')}"
    fact = f"CLIP {json.dumps(own, sort_keys=True)} is {config.clip_fingerprint} ({versions})"
    is_checked = config.clip == CLIP and f"{CLIP}/{WEIGHTS_NAME}" in own
    if is_checked and sums.knows(fact):
        return
    if not bundle.clip.has_fingerprint(config.clip_fingerprint):
        raise ValueError(
            f"{bundle.path / CONFIG}: CLIP {config.clip!r} is not the one this model was trained with"
        )
    if is_checked:
        sums.learn(fact)


def locate_generator_part(folder: Path, config: BundleConfig) -> Path:
    """The generator's safetensors file: in the bundle's folder, or read from the package that carries it.

    Raises ValueError where the package is not at hand.
    """
    from clip2gan.packaged import locate_packaged

    if not isinstance(config.generator, PackagedGenerator):
        return file_inside(folder, config.generator)
    try:
        return locate_packaged(config.generator)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error


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
        generator: frozen; stored with its configuration, or as a reference where a package carries it.
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
    from clip2gan.packaged import package_of
    from stylegan2 import save_generator
    from stylegan2.files import fingerprint

    if not mappers and not generator.config.c_dim:
        raise ValueError("a generator that takes no texts itself needs a mapper")
    path = Path(path)
    with _replaced_folder(path) as folder:
        package = package_of(generator)
        if package is None:
            save_generator(deepcopy(generator).half() if half else generator, folder / GENERATOR)
        files = {kind: f"mapper-{kind}.safetensors" for kind in mappers}
        for kind, mapper in mappers.items():
            save_mapper(deepcopy(mapper).half() if half else mapper, folder / files[kind])
        save_gap(gap, folder / GAP)
        if encoder is not None:
            save_encoder(encoder, folder / ENCODER, half)
        clip_name = _write_clip(clip, folder / CLIP)
        if info.license_text is not None:
            (folder / LICENSE).write_text(info.license_text, encoding="utf-8")
        config = BundleConfig(
            name=info.name,
            description=info.description,
            domain=info.domain or Domain(name=info.name),
            generator=package or GENERATOR,
            clip=clip_name,
            clip_fingerprint=clip.fingerprint(),
            mappers=files,
            gap=GAP,
            encoder=None if encoder is None else ENCODER,
            licences=info.licences,
            figures=info.figures,
            files={
                file.relative_to(folder).as_posix(): fingerprint(file)
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        )
        _write_config(folder, config, path)
        for kind, mapper in (mappers or own_mapping(generator)).items():
            whole = Bundle(path, config, "", generator, clip, {kind: mapper}, gap, encoder)
            _check_fit(whole, Path(files.get(kind, GENERATOR)))


def add_encoder(source: Path, encoder: str | Path, path: str | Path, name: str | None = None) -> None:
    """Write the bundle at `source`, with an encoder's file added or replaced, to `path` (which may be it).

    `name` is that of the new bundle; None keeps it.

    Raises:
        ValueError: the encoder was trained for a generator with other latents.
        FileExistsError: something else than a bundle is at `path`.
    """
    from safetensors import safe_open

    from clip2gan.editing.encoder import load_encoder
    from stylegan2.files import fingerprint

    config = read_config(source)
    check_places(source, config)
    with safe_open(locate_generator_part(source, config), framework="pt") as file:
        w_dim = file.get_slice("mapping.w_avg").get_shape()[0]
    _check_encoder(load_encoder(encoder).config.w_dim, w_dim, encoder)
    with _replaced_folder(Path(path)) as folder:
        for file_name in config.files:
            copy = file_inside(folder, file_name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file_inside(source, file_name), copy)
        shutil.copyfile(encoder, folder / ENCODER)
        files = dict(sorted({**config.files, ENCODER: fingerprint(encoder)}.items()))
        changed = dataclasses.replace(config, name=name or config.name, encoder=ENCODER, files=files)
        _write_config(folder, changed, Path(path))


@contextmanager
def _replaced_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of the bundle at `path` when all went well."""
    from stylegan2.atomic import atomic_folder, sweep_file

    with lock_file(path):
        sweep_file(path)
        check_place(path)
        with atomic_folder(path) as folder:
            yield folder


def _write_config(folder: Path, config: BundleConfig, path: Path) -> None:
    """config.json, and the model card that follows from it, in `folder`, which will be `path`."""
    (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    model = path.name if path.parent.resolve() == BUNDLED.resolve() else "."
    (folder / CARD).write_text(model_card(config, model), encoding="utf-8")


def own_mapping(generator: "Generator") -> "dict[str, Mapper]":
    """What stands for the mapper of a generator that takes CLIP's embeddings itself."""
    from clip2gan.mappers.own import OwnMapping

    mapper = OwnMapping(generator)
    return {mapper.kind: mapper}


def check_place(path: Path) -> None:
    """Raise FileExistsError where something else than a bundle is in its place."""
    if path.exists() and not _holds_only_parts(path):
        raise FileExistsError(
            f"{path}: exists and holds other things than a model; move them away, or choose another folder"
        )


def _holds_only_parts(path: Path) -> bool:
    parts = {CONFIG, GENERATOR, GAP, ENCODER, CLIP, CARD, LICENSE}
    return path.is_dir() and all(
        file.name in parts or file.match("mapper-*.safetensors") for file in path.iterdir()
    )


def _write_clip(clip: "ClipEncoder", folder: Path) -> str:
    """Store a CLIP that came from files in `folder`; the name that stands for it in the bundle."""
    import torch

    from clip2gan.clip import CONFIG_NAME, WEIGHTS_NAME, clip_source, save_local_dir

    source = clip_source(clip.spec)
    _, _, weights = source.partition(":")
    files = [Path(source.removeprefix(LOCAL_DIR)) / name for name in (CONFIG_NAME, WEIGHTS_NAME)]
    if source.startswith(LOCAL_DIR) and all(file.is_file() for file in files):
        folder.mkdir()
        for file in files:
            shutil.copyfile(file, folder / file.name)
        return CLIP
    if source.startswith(LOCAL_DIR) or (not source.startswith(HF_HUB) and Path(weights).is_file()):
        save_local_dir(clip.model, clip.config or {}, clip.preprocess_config, folder, dtype=torch.float32)
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


def check_places(folder: Path, config: BundleConfig) -> None:
    """Raise ValueError where a file of the bundle is a link out of its folder."""
    for name in [*config.part_files, *config.files]:
        file_inside(folder, name)
    if config.clip == CLIP:
        for name in (folder / CLIP).iterdir() if (folder / CLIP).is_dir() else ():
            file_inside(folder, f"{CLIP}/{name.name}")


def check_files(folder: Path, files: Mapping[str, str], sum_of: Callable[[Path], str] | None = None) -> None:
    """Compare files with their sha256. Raises FileNotFoundError or ValueError with the first one wrong.

    Every file is read, unless `sum_of` knows its sum (see `Sums`).
    """
    from stylegan2.files import fingerprint

    sum_of = sum_of or fingerprint
    for name, total in files.items():
        path = file_inside(folder, name)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; the model is not whole, get it again")
        if sum_of(path) != total:
            raise ValueError(
                f"{path}: its sha256 is not the one in {CONFIG}: the file is damaged "
                "or was changed; get the model again"
            )

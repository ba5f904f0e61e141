"""Bundles put together from what several trainings left."""

from pathlib import Path

import click

from clip2gan.bundle import Bundle, load_bundle, locate_bundle, read_config
from clip2gan.data.samples import weights_fingerprint
from clip2gan.mappers import Mapper


def join_bundles(sources: tuple[str, ...]) -> tuple[Bundle, dict[str, Mapper]]:
    """The first bundle, and the mappers of all, by kind and in their order.

    Raises ValueError if one has another generator or CLIP, to which its mapper would not fit.
    """
    bundle, *others = [loaded for source in sources for loaded in _load_all(source)]
    mappers = dict(bundle.mappers)
    for other in others:
        _check_parts(bundle, other)
        mappers |= other.mappers
    return bundle, mappers


def tell_size(out: Path, most: int) -> None:
    """Print how large a bundle is. Raises click.ClickException if it has more than `most` bytes."""
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    click.echo(f"wrote {out}: {size / 1e6:.1f} MB")
    if size > most:
        raise click.ClickException(f"{out} is larger than {most / 1e6:.0f} MB; make its parts smaller")


def _load_all(source: str) -> list[Bundle]:
    """A bundle once for each of its mappers."""
    return [load_bundle(source, mapper=kind) for kind in read_config(locate_bundle(source)).mappers]


def _check_parts(bundle: Bundle, other: Bundle) -> None:
    if weights_fingerprint(bundle.generator) != weights_fingerprint(other.generator):
        raise ValueError(f"{other.path}: its generator is not that of {bundle.path}; train both with one")
    if bundle.clip.fingerprint() != other.clip.fingerprint():
        raise ValueError(f"{other.path}: its CLIP is not that of {bundle.path}; train both with one")

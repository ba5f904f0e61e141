"""Generators by name: a bundle's, a package's, a checkpoint's file, or its https address.

Nothing here imports CLIP.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from clip2gan.bundle import CONFIG, bundled_models, locate_bundle, read_config
from clip2gan.bundle.locate import HF_HUB
from clip2gan.bundle.store import locate_generator_part
from clip2gan.packaged import check_package, locate_packaged, packaged_generators

if TYPE_CHECKING:
    import torch

    from stylegan2 import Generator
    from stylegan2.checkpoints.download import Progress


def check_generator(source: str | Path) -> None:
    """Raise ValueError, before torch is imported, for what names no generator."""
    if str(source) in packaged_generators():
        check_package(packaged_generators()[str(source)])
    elif not (is_bundle(source) or "://" in str(source) or Path(source).exists()):
        names = ", ".join(sorted({*bundled_models(), *packaged_generators()}))
        raise ValueError(
            f"{source}: no such file; give a StyleGAN2 checkpoint, its https address, or {names}"
        )


def locate_generator(
    source: str | Path, sha256: str | None = None, *, progress: "Progress" = lambda chunks, total: chunks
) -> Path:
    """The file of a generator, fetched first if need be.

    Args:
        source: the name, folder or hf-hub:ORG/NAME of a bundle; the name of a generator that a package
            carries (see `clip2gan.packaged`); an https address; or a file.
        sha256: of the file, in hex; another file is refused.
        progress: wraps the chunks of a download as they arrive; told how many there will be, if known.

    Raises:
        ValueError: no generator of this name, or another sha256.
        OSError: it has to be fetched and cannot be.
    """
    from stylegan2.checkpoints import local_file

    check_generator(source)
    if str(source) in packaged_generators():
        source = locate_packaged(packaged_generators()[str(source)])
    elif is_bundle(source):
        folder = locate_bundle(str(source))
        source = locate_generator_part(folder, read_config(folder))
    return local_file(source, sha256, progress=progress)


def load_named_generator(source: str | Path, device: "str | torch.device" = "cpu") -> "Generator":
    """The generator that `locate_generator` finds: frozen, float32, in eval mode, on `device`.

    Raises as `locate_generator` and `stylegan2.load_generator` do.

    >>> load_named_generator("avatars").config.img_resolution
    64
    """
    from stylegan2 import load_generator

    return load_generator(locate_generator(source), device)


def is_bundle(source: str | Path) -> bool:
    """Whether this names a whole model, by its name, folder or hf-hub:ORG/NAME."""
    text = str(source)
    return text in bundled_models() or text.startswith(HF_HUB) or (Path(source) / CONFIG).is_file()


def find_licence(source: str | Path, generator: "Generator") -> str | None:
    """The licence of a generator's weights: of its file or else its bundle; None where neither says."""
    if generator.licence is None and is_bundle(source):
        return read_config(locate_bundle(str(source))).licences.get("generator")
    return generator.licence

"""Bundles: folders that hold a whole model (generator, CLIP, mappers, gap) and tell what it is made of.

    config.json             what is in the folder, for whom it may be used, and the sha256 of each file
    generator.safetensors   absent when config.json names the package that carries the generator
    clip/                   in open_clip's local-dir format; absent when config.json names an open_clip model
    mapper-<kind>.safetensors   none where the generator itself takes CLIP's embeddings ("mappers": {})
    gap.safetensors
    encoder.safetensors     the fast start of inversion; optional
    README.md               the model card

Nothing in a bundle is code, and none is ever run.
"""

from clip2gan.bundle.card import model_card
from clip2gan.bundle.config import CONFIG, BundleConfig, PackagedGenerator, read_config
from clip2gan.bundle.locate import BUNDLED, bundled_models, choose_mapper, locate_bundle
from clip2gan.bundle.store import (
    Bundle,
    BundleInfo,
    add_encoder,
    check_files,
    check_place,
    load_bundle,
    own_mapping,
    write_bundle,
)

__all__ = [
    "BUNDLED",
    "CONFIG",
    "Bundle",
    "BundleConfig",
    "BundleInfo",
    "PackagedGenerator",
    "add_encoder",
    "bundled_models",
    "check_files",
    "check_place",
    "choose_mapper",
    "load_bundle",
    "locate_bundle",
    "model_card",
    "own_mapping",
    "read_config",
    "write_bundle",
]

"""Any StyleGAN2 checkpoint: recognised by its content, and read without running anything in it."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stylegan2.checkpoints import nvidia, rosinality, safetensors, tensorflow
from stylegan2.checkpoints.arrays import NAMES, Storages
from stylegan2.checkpoints.checkpoint import Checkpoint, Network
from stylegan2.checkpoints.containers import map_file, read_root
from stylegan2.checkpoints.pickles import CheckpointError, Value, describe
from stylegan2.files import check_weights
from stylegan2.generator import Generator

__all__ = ["Checkpoint", "CheckpointError", "inspect", "load_generator", "read"]

FORMATS = (nvidia, tensorflow, rosinality)
ALLOWED = NAMES.union(*(reader.NAMES for reader in FORMATS))
log = logging.getLogger(__name__)


def load_generator(
    path: str | Path, device: str | torch.device = "cpu", *, network: Network = "G_ema"
) -> Generator:
    """A StyleGAN2 generator from a file of any known format: frozen, float32, in eval mode, on `device`.

    Args:
        path: safetensors of ours, an NVIDIA .pkl (PyTorch or TensorFlow), or a .pt of rosinality's kind.
        device: where to put it.
        network: "G_ema", the averaged weights, or "G", those that were trained last.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: (a ValueError) the file is not a StyleGAN2 generator, or damaged, or asks for code.
    """
    checkpoint, generator = _read(Path(path), network)
    for message in (
        checkpoint.licence and f"licence of the weights: {checkpoint.licence}",
        *checkpoint.notes,
    ):
        if message:
            log.warning("%s: %s", path, message)
    generator.load_state_dict(
        {name: tensor.to(torch.float32) for name, tensor in checkpoint.tensors.items()}, assign=True
    )
    generator.licence = checkpoint.licence
    return generator.eval().requires_grad_(False).to(device)


def inspect(path: str | Path, *, network: Network = "G_ema") -> dict[str, Any]:
    """What a file holds, as plain data; raises what `load_generator` raises."""
    checkpoint, generator = _read(Path(path), network)
    config = generator.config
    return {
        "format": checkpoint.format,
        **asdict(config),
        "num_ws": config.num_ws,
        "widths": {resolution: config.channels(resolution) for resolution in config.block_resolutions},
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "code_inside": checkpoint.has_code,
        "licence": checkpoint.licence,
        "notes": list(checkpoint.notes),
    }


def read(path: Path, network: Network = "G_ema") -> Checkpoint:
    """A file's tensors and configuration. Raises FileNotFoundError or CheckpointError."""
    return _read(path, network)[0]


def refuse_other_content(head: bytes) -> None:
    """Raise CheckpointError for what often arrives in the place of a checkpoint; `head` is how it begins."""
    text = head[:512].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise CheckpointError(
            "a web page, saved in the place of the file (a login or quota page?); fetch the file itself"
        )
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError("a Git LFS pointer, not the file it stands for; run git lfs pull")
    if head.startswith((b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"Rar!")):
        raise CheckpointError("a compressed archive; unpack it and give the checkpoint in it")


def _read(path: Path, network: Network) -> tuple[Checkpoint, Generator]:
    """A checkpoint, and the generator it fits, still without weights (on the meta device)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        checkpoint = _recognised(path, network)
        with torch.device("meta"):
            generator = Generator(checkpoint.config)
    except ValueError as error:
        message = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: {message}") from error
    check_weights(generator, checkpoint.tensors, str(path))
    return checkpoint, generator


def _recognised(path: Path, network: Network) -> Checkpoint:
    data = map_file(path)
    head = bytes(data[:512])
    refuse_other_content(head)
    if safetensors.recognise(head):
        return safetensors.read(path)
    if not head.startswith((b"\x80", b"PK\x03\x04")):
        raise CheckpointError("none of the formats known here (safetensors, NVIDIA .pkl, rosinality .pt)")
    root, parts = read_root(data, ALLOWED)
    for reader in FORMATS:
        if reader.recognise(root):
            return reader.read(root, Storages(parts, len(data)), network)
    raise CheckpointError(f"holds {_summary(root)}; not a StyleGAN2 generator")


def _summary(root: Value) -> str:
    if isinstance(root, dict):
        keys = ", ".join(str(key)[:40] if isinstance(key, str) else describe(key) for key in list(root)[:5])
        return f"a dict of {ascii(keys):.120}"
    return describe(root)

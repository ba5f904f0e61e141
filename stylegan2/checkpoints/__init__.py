"""Any StyleGAN2 checkpoint: recognised by its content, and read without running anything in it."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from stylegan2.checkpoints import (
    mobilestylegan,
    nvidia,
    openvino,
    rosinality,
    safetensors,
    state_dict,
    tensorflow,
)
from stylegan2.checkpoints.arrays import NAMES, Storages
from stylegan2.checkpoints.checkpoint import Checkpoint, Network, mean_latent
from stylegan2.checkpoints.containers import HEAD, check_head, map_file, read_root
from stylegan2.checkpoints.download import Progress, check_sum, fetch, is_address, verify_sum
from stylegan2.checkpoints.foreign import check_tool
from stylegan2.checkpoints.pickles import CheckpointError, Value, describe
from stylegan2.files import WithoutData, check_weights
from stylegan2.generator import Generator, as_rgb
from stylegan2.notes import NOTE

__all__ = ["Checkpoint", "CheckpointError", "inspect", "load_generator", "local_file", "read_generator"]

FORMATS = (nvidia, tensorflow, state_dict, mobilestylegan, rosinality)
ALLOWED = NAMES.union(*(reader.NAMES for reader in FORMATS))
log = logging.getLogger(__name__)


def load_generator(
    path_or_url: str | Path,
    device: str | torch.device = "cpu",
    *,
    network: Network = "G_ema",
    sha256: str | None = None,
    tell_licence: bool = True,
) -> Generator:
    """A StyleGAN2 generator from a file of any known format: frozen, float32, in eval mode, on `device`.

    Its pictures are RGB; those of a grey generator have three equal channels (`read_generator` leaves one).

    Args:
        path_or_url: safetensors of ours, an NVIDIA .pkl (PyTorch or TensorFlow), a .pt of rosinality's
            kind, a state_dict of NVIDIA's names as .pt or safetensors, or a .ckpt of MobileStyleGAN.pytorch;
            the https address of one, which is fetched once and
            kept (see `download.fetch`); or the folder of MobileStyleGAN in OpenVINO's form.
        device: where to put it.
        network: "G_ema", the averaged weights, or "G", those that were trained last.
        sha256: of the file, in hex; another file is refused.
        tell_licence: log the licence of the weights, where the file has one.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: (a ValueError) the file is not a StyleGAN2 generator of RGB or grey pictures, or
            damaged, or asks for code.
        OSError: the address does not give the file.
    """
    path = local_file(path_or_url, sha256)
    generator, notes = read_generator(path, network)
    try:
        generator = as_rgb(generator)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if generator.licence is not None and tell_licence:
        log.warning("%s: licence of the weights: %s", path, generator.licence, extra=NOTE)
    for message in notes:
        log.warning("%s: %s", path, message)
    return generator.to(device)


def read_generator(path: Path, network: Network = "G_ema") -> tuple[Generator, tuple[str, ...]]:
    """A file's generator on the CPU, and what a user should know about it; see `load_generator`."""
    checkpoint, generator = _read(path, network)
    generator.load_state_dict(
        {name: tensor.to(torch.float32) for name, tensor in checkpoint.tensors.items()}, assign=True
    )
    if checkpoint.averaged_latents:
        generator.mapping.w_avg = mean_latent(generator.mapping, checkpoint.averaged_latents)
    generator.licence = checkpoint.licence
    return generator.eval().requires_grad_(False), checkpoint.notes


def inspect(
    path_or_url: str | Path, *, network: Network = "G_ema", sha256: str | None = None
) -> dict[str, Any]:
    """What a file holds, as plain data; takes and raises what `load_generator` does."""
    checkpoint, generator = _read(local_file(path_or_url, sha256), network)
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


def local_file(
    path_or_url: str | Path, sha256: str | None = None, *, progress: Progress = lambda chunks, total: chunks
) -> Path:
    """The file itself, or where the cache has what is at an address. Raises as `load_generator` does."""
    if isinstance(path_or_url, str) and is_address(path_or_url):
        return fetch(path_or_url, sha256, progress=progress)
    path = Path(path_or_url)
    if path.is_dir() and (path / openvino.SYNTHESIS).is_file():
        path = path / openvino.SYNTHESIS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path, or get it again")
    if sha256 is not None:
        verify_sum(path, check_sum(sha256), str(path))
    return path


def _read(path: Path, network: Network) -> tuple[Checkpoint, Generator]:
    """A checkpoint, and the generator it fits, still without weights."""
    try:
        checkpoint = _recognised(path, network)
        with WithoutData():
            generator = Generator(checkpoint.config)
        if checkpoint.averaged_latents:
            placeholder = {"mapping.w_avg": torch.zeros(checkpoint.config.w_dim)}
            checkpoint = replace(checkpoint, tensors={**checkpoint.tensors, **placeholder})
        check_weights(generator, checkpoint.tensors, str(path))
    except ValueError as error:
        message = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: {message}") from error
    return checkpoint, generator


def _recognised(path: Path, network: Network) -> Checkpoint:
    data = map_file(path)
    if openvino.recognise(bytes(data[:HEAD])):
        return openvino.read(path)
    if check_head(bytes(data[:HEAD])) == "safetensors":
        return safetensors.read(path, network)
    root, parts = read_root(data, ALLOWED)
    check_tool(root)
    for reader in FORMATS:
        if reader.recognise(root):
            return reader.read(root, Storages(parts, len(data)), network)
    raise CheckpointError(f"holds {_summary(root)}; not a StyleGAN2 generator")


def _summary(root: Value) -> str:
    if isinstance(root, dict):
        keys = ", ".join(str(key)[:40] if isinstance(key, str) else describe(key) for key in list(root)[:5])
        return f"a dict of {keys!a:.120}"
    return describe(root)

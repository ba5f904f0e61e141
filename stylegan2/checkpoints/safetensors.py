"""Our own files: tensors under their names, the configuration as JSON in the header."""

from pathlib import Path

from stylegan2.checkpoints.checkpoint import Checkpoint
from stylegan2.checkpoints.pickles import CheckpointError
from stylegan2.files import load_tensors
from stylegan2.generator import GeneratorConfig


def read(path: Path) -> Checkpoint:
    """The generator that `save_generator` wrote; 16-bit weights become float32.

    Raises CheckpointError when the file is not whole or not a generator.
    """
    tensors, header = load_tensors(path)
    licence = header.pop("licence", None)
    if licence is not None and not isinstance(licence, str):
        raise CheckpointError("its header does not describe a StyleGAN2 generator (licence is not a text)")
    try:
        config = GeneratorConfig(**header)
    except TypeError as error:
        raise CheckpointError(f"its header does not describe a StyleGAN2 generator ({error})") from error
    return Checkpoint("safetensors", config, tensors, licence)

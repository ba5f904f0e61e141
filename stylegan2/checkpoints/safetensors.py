"""Our own files: tensors under their names, the configuration as JSON in the header.

Without that, the state_dict of a generator, whose names and shapes suffice.
"""

from pathlib import Path

from stylegan2.checkpoints import rosinality, state_dict
from stylegan2.checkpoints.checkpoint import Checkpoint, Network, Tensors
from stylegan2.checkpoints.foreign import check_names
from stylegan2.checkpoints.pickles import CheckpointError
from stylegan2.config import GeneratorConfig
from stylegan2.files import load_tensors


def read(path: Path, network: Network) -> Checkpoint:
    """The generator that `save_generator` wrote; 16-bit weights become float32.

    Raises CheckpointError when the file is not whole or not a generator.
    """
    tensors, header = load_tensors(path)
    if not header:
        check_names(tensors)
        for reader in (state_dict, rosinality):
            if reader.recognise(tensors):
                return reader.read(tensors, Tensors(), network)
        names = ", ".join(ascii(name)[1:-1] for name in list(tensors)[:5])
        raise CheckpointError(f"no StyleGAN2 generator in it (but {names:.120})")
    licence = header.pop("licence", None)
    if licence is not None and not isinstance(licence, str):
        raise CheckpointError(
            "its header does not describe a StyleGAN2 generator (licence is not a text); get it again"
        )
    try:
        config = GeneratorConfig(**header)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"its header does not describe a StyleGAN2 generator ({error}); get it again"
        ) from error
    return Checkpoint("safetensors", config, tensors, licence)

"""FID and KID, by torch-fidelity, where its Inception network is at hand."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from stylegan2.files import check_finite

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # of torch-fidelity's releases


def missing_part() -> str | None:
    """What FID and KID need and is not there, as one line; None if all is."""
    if find_spec("torch_fidelity") is None:
        return "pip install 'clip2gan[eval]'"
    if not _weights().is_file():
        return f"put torch-fidelity's {WEIGHTS} into {_weights().parent}"
    return None


def inception_distances(
    pictures: Sequence[Image.Image], real: Sequence[Image.Image], device: torch.device
) -> dict[str, float]:
    """The Frechet (Heusel et al. 2017) and kernel (Binkowski et al. 2018) distance of two sets of pictures.

    Few pictures give a large FID: compare equal numbers only. All pictures are RGB and of one size.

    Raises ValueError when the network's file holds more than tensors, and so might run code, or
    weights that are not finite.
    """
    import torch_fidelity

    try:
        # torch-fidelity itself would run what is in the file.
        weights = torch.load(_weights(), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged data can raise almost anything
        raise ValueError(f"{_weights()}: not a file of plain weights; fetch it anew") from error
    check_finite(weights, _weights())
    found = torch_fidelity.calculate_metrics(
        input1=_Pictures(pictures),
        input2=_Pictures(real),
        feature_extractor_weights_path=str(_weights()),
        cuda=device.type == "cuda",
        fid=True,
        kid=True,
        kid_subset_size=min(1000, len(pictures), len(real)),
        cache=False,
        verbose=False,
    )
    return {
        "fid": float(found["frechet_inception_distance"]),
        "kid": float(found["kernel_inception_distance_mean"]),
    }


def _weights() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


class _Pictures(Dataset):
    """Pictures as uint8 tensors [3, H, W]."""

    def __init__(self, pictures: Sequence[Image.Image]):
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self._pictures[index])).permute(2, 0, 1)

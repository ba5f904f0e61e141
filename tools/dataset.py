"""Reading what `make_avatars` wrote: pictures, attributes and captions."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2gan.data.pictures import open_pictures
from clip2gan.domains.avatars import vocabulary as avatars


@dataclass(frozen=True)
class Avatars:
    """Rendered avatars: images uint8 [N, 3, R, R], and the record of each in `dataset.json`."""

    images: Tensor
    records: list[dict[str, Any]]

    def labels(self) -> tuple[Tensor, Tensor]:
        """Indices of the values, int64 [N, groups], and whether each can be seen, bool [N, groups]."""
        groups = avatars.groups()
        attributes = [record["attributes"] for record in self.records]
        values = [[group.values.index(a[name]) for name, group in groups.items()] for a in attributes]
        return torch.tensor(values), torch.tensor([list(avatars.visible(a).values()) for a in attributes])


def read_avatars(path: str | Path) -> Avatars:
    """Read a zip of `make_avatars`.

    Raises FileNotFoundError, or ValueError when the file is not such a zip or a picture of it is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; draw it with: python -m tools.make_avatars --out {path}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read("dataset.json"))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a zip of make_avatars ({error}); draw it again") from error
    pictures = open_pictures(path, about["size"])
    records = about["pictures"]
    if pictures.names != [record["file"] for record in records]:
        raise ValueError(f"{path}: its pictures are not those of its dataset.json; draw it again")
    return Avatars(pictures.batch(range(len(pictures))), records)

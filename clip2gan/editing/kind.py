"""Whether a picture is of the kind that a model makes, judged by what is usual among its own pictures.

The mapper turns CLIP's embedding of a picture into a picture again. For one of the model's kind the two are
alike; a star that is given to a model of faces comes back as a face. How alike is usual differs between
models, so it is measured on samples: once for each model, and kept in the user's cache.
"""

import contextlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from clip2gan.editing.inversion import psnr
from clip2gan.editing.notices import OtherKind, PoorInversion
from clip2gan.losses import feature_distance
from stylegan2.atomic import atomic_path, sweep_file
from stylegan2.checkpoints.download import cache_folder

if TYPE_CHECKING:
    from clip2gan.model import Model

SAMPLES = 16
SPREAD = 3.5  # standard deviations of the logarithm of distances, beyond which one is not usual
ROOM = 2.0  # times the largest distance of a sample that is usual in any case


@dataclass(frozen=True)
class Usual:
    """What is usual among a model's own pictures.

    Attributes:
        distance: the largest usual distance of CLIP's image features between a picture and the mapper's.
        encoder_psnr: how well the encoder gives samples back [dB]; None without an encoder.
    """

    distance: float
    encoder_psnr: float | None = None


@torch.no_grad()
def judge_kind(model: "Model", picture: Image.Image) -> OtherKind | None:
    """A notice if a picture is unlike all that the model makes."""
    distance = mapped_distance(model, model.to_target(picture), model.prompt(picture).embedding)
    usual = model.usual.distance
    return OtherKind(distance, usual) if distance > usual else None


def judge_inversion(model: "Model", source: str, fidelity: float) -> PoorInversion | None:
    """A notice if latents found by optimisation or by the encoder give a picture back poorly [dB]."""
    if source == "clip" or fidelity >= model.domain.editing.least_psnr:
        return None
    return PoorInversion(source, fidelity, model.usual.encoder_psnr if source == "encoder" else None)


@torch.no_grad()
def mapped_distance(model: "Model", image: Tensor, e: Tensor) -> float:
    """The distance of CLIP's image features between an image [1, 3, R, R] and what the mapper makes of it.

    `e` [1, D] is its embedding. See `feature_distance`.
    """
    mapped = model.draw_ws(model.mapper(model.gap.from_image(e)))
    features = (model.clip.image_features(each) for each in (image, mapped))
    return float(feature_distance(*features))


def find_usual(model: "Model") -> Usual:
    """What `measure_usual` says of a model, from the user's cache where it is there."""
    name = f"{model.bundle.fingerprint[:32]}-{model.mapper_kind}.json"
    path = cache_folder().with_name("clip2gan") / "usual" / name
    sweep_file(path)
    with contextlib.suppress(OSError, ValueError, TypeError):  # not there, or damaged: measured again
        usual = Usual(**json.loads(path.read_text(encoding="utf-8")))
        if math.isfinite(usual.distance):
            return usual
    usual = measure_usual(model)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, and nothing else
        _write(path, usual)
    return usual


@torch.no_grad()
def measure_usual(model: "Model", num: int = SAMPLES) -> Usual:
    """Draw `num` samples and look how well mapper and encoder give them back.

    Distances spread like a log-normal distribution, so a few samples tell how far it reaches.
    """
    random = torch.Generator().manual_seed(0)
    distances, decibels = [], []
    for _ in range(num):
        image = model.draw_ws(model.random_ws(1, random))
        distances.append(mapped_distance(model, image, model.clip.encode_images(image)))
        if model.encoder is not None:
            encoded = model.broadcast(model.encoder(image))
            again = model.draw_ws(encoded)
            decibels.append(float(psnr(again, image)))
    logarithms = torch.tensor(distances).clamp(min=1e-6).log()
    reach = float((logarithms.mean() + SPREAD * logarithms.std()).exp())
    return Usual(
        distance=max(reach, ROOM * max(distances)),
        encoder_psnr=sum(decibels) / num if decibels else None,
    )


def _write(path: Path, usual: Usual) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(asdict(usual)) + "\n", encoding="utf-8")

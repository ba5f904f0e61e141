"""All four trainings: two processes do what one does, and a kill at any moment changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylegan2.files import load_tensors

KILLED_AT = {"mapper": 4, "encoder": 9, "gan": 14, "captioned": 3}  # checkpoints, each in another phase
LAST = "checkpoints/00000020.safetensors"


def train(training: str, folder: Path, *killed_at: int) -> None:
    root = Path(__file__).parents[1]
    words = [sys.executable, root / "tests" / "trainings.py", training, folder, *killed_at]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def figures(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def check_killed(folder: Path, step: int) -> None:
    whole, killed = (load_tensors(folder / name / LAST) for name in ("one", f"killed-{step}"))
    assert whole[0].keys() == killed[0].keys()
    for name, value in whole[0].items():
        assert torch.equal(value, killed[0][name]), name
    assert figures(folder / f"killed-{step}") == figures(folder / "one")


QUICK = "gan"  # the others take a minute each


@pytest.mark.parametrize(
    "training", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KILLED_AT]
)
def test_two_processes_compute_what_one_does_and_a_kill_changes_nothing(
    training: str, tmp_path: Path
) -> None:
    """After 20 steps: every network, the averaged ones too, and all figures.

    To rounding with two processes; bit for bit after kill -9.
    """
    train(training, tmp_path, KILLED_AT[training])
    one, two = (load_tensors(tmp_path / name / LAST)[0] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for network in {name.split("/")[0] for name in one}:
        own = [name for name in one if name.startswith(f"{network}/")]
        whole, shared = (torch.cat([state[name].double().flatten() for name in own]) for state in (one, two))
        assert (whole - shared).norm() <= 1e-5 * whole.norm(), network
    assert figures(tmp_path / "one") != []
    for alone, together in zip(figures(tmp_path / "one"), figures(tmp_path / "two"), strict=True):
        assert together == pytest.approx(alone, rel=1e-5)
    check_killed(tmp_path, KILLED_AT[training])


@pytest.mark.slow
@pytest.mark.parametrize("training", KILLED_AT)
def test_a_kill_at_any_moment_changes_nothing(training: str, tmp_path: Path) -> None:
    steps = (1, 5, 6, 8, 12, 17)
    train(training, tmp_path, *steps)
    for step in steps:
        check_killed(tmp_path, step)

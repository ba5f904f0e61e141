"""Two commands, one output: nothing is lost or mixed; `python tests/two_at_once.py` tries it more often."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="all processes are forks of one")
def test_two_at_once_neither_lose_nor_mix_an_output(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    words = [sys.executable, root / "tests" / "two_at_once.py", tmp_path / "two", "--rounds", "36"]
    done = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("36 rounds")
    assert last.endswith(", 0 outputs lost or mixed")

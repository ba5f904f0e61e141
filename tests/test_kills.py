"""Kills of long commands change nothing; `python tests/kills.py` does many more of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="all processes are forks of one")
def test_kills_change_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    words = [sys.executable, root / "tests" / "kills.py", tmp_path / "kills", "--kills", "42"]
    done = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("42 kills")
    assert last.endswith("0 results differ, 0 files half-written, 0 temporary files left after the next run")

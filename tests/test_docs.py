"""The pages of the documentation whose commands are run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"^<!-- run by tests/test_docs.py -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PYTHON = re.compile(r"^<!-- run by tests/test_docs.py -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/editing.md", marks=pytest.mark.slow)])
def test_python_examples_run_as_written(page: str, tmp_path: Path) -> None:
    (example,) = PYTHON.findall((ROOT / page).read_text(encoding="utf-8"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, env=environment, check=True)
    with Image.open(tmp_path / "edited.png") as edited:
        assert edited.size == (64, 64)


@pytest.mark.slow
def test_train_from_captions_runs_as_written(tmp_path: Path) -> None:
    """All but the installation, which the tests have behind them, in an empty folder."""
    pytest.importorskip("python_avatars")
    pytest.importorskip("resvg_py")
    page = (ROOT / "docs" / "train-from-captions.md").read_text(encoding="utf-8")
    blocks = MARKED.findall(page)
    assert len(blocks) == 2
    commands = re.sub(r"^pip install .*\n", "", "".join(blocks), flags=re.MULTILINE)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, start in (("python", ""), ("clip2gan", "-m clip2gan")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n')
        (programs / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    paths = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-euxc", commands], cwd=work, env={**os.environ, **paths}, check=True)
    assert (work / "out").is_dir()
    for name in ("text-gan", "flickr-gan"):
        assert (work / "runs" / name / "bundle" / "config.json").is_file()

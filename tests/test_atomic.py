"""What a kill leaves of files that were being written goes at the next start, and nothing else does."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from clip2gan.bundle import BundleInfo, read_config, write_bundle
from clip2gan.bundle.sums import Sums
from clip2gan.data.prepare import Preparation, prepare
from stylegan2 import atomic
from stylegan2.atomic import atomic_folder, atomic_path, sweep_file, sweep_folder
from stylegan2.runs import RunFolder

ROOT = Path(__file__).parents[1]
DIE = """
import os, signal, sys
from pathlib import Path
from stylegan2 import atomic
with getattr(atomic, sys.argv[1])(sys.argv[2]) as temporary:
    (temporary / "part" if temporary.is_dir() else temporary).write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""
# Of two renamings, die before the second.
DIE_BETWEEN = """
import os, signal, sys
from pathlib import Path
from stylegan2.atomic import atomic_folder
renamed = []
def watch(event, words):
    if event == "os.rename":
        renamed.append(words)
        if len(renamed) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
with atomic_folder(sys.argv[1]) as folder:
    (folder / "version").write_text("new")
"""
# After the first result it waits, with processes that have more to do, or nothing.
PREPARE = """
import multiprocessing, sys
from pathlib import Path
from clip2gan.data import prepare
prepare.CHUNK = 1
def wait_for_ever(results, total):
    next(results)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    input()
prepare.prepare(sys.argv[1], Path(sys.argv[2]), prepare.Preparation(resolution=8), None, 2, wait_for_ever)
"""
USERS = (
    ".notes.txt",
    ".x-abcdefgh.png",  # what versions before left; it could be anybody's
    ".x-abcdefgh.clip2gan-partial",
    "x-abcdefgh.clip2gan-part.png",
    ".x-abc.clip2gan-part.png",
    ".x.clip2gan-part",
)


def die(script: str, *words: object) -> None:
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def die_writing(*paths: Path) -> None:
    for path in paths:
        die(DIE, "atomic_path", path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_kill_leaves_of_a_file_is_swept_and_nothing_else(tmp_path):
    for name in USERS:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".x-12345678.clip2gan-part.png").symlink_to(tmp_path / ".notes.txt")
    before = names(tmp_path)
    die_writing(tmp_path / "x.png", tmp_path / "y.png", tmp_path / "xy.png")
    assert len(names(tmp_path)) == len(before) + 3
    sweep_file(tmp_path / "x.png")
    left = set(names(tmp_path)) - set(before)
    assert sorted(name.split("-")[0] for name in left) == [".xy", ".y"]
    sweep_folder(tmp_path)
    assert names(tmp_path) == before
    assert all((tmp_path / name).read_text() == "mine" for name in USERS)


def test_what_is_still_written_stays(tmp_path):
    with atomic_path(tmp_path / "x.png") as temporary, atomic_folder(tmp_path / "model") as folder:
        (folder / "config.json").touch()
        temporary.write_text("mine")
        for sweep in (sweep_file, sweep_folder):
            sweep(tmp_path / "x.png")
            sweep(tmp_path / "model")
        sweep_folder(tmp_path, deep=True)
    assert names(tmp_path) == ["model", "x.png"]
    assert names(tmp_path / "model") == ["config.json"]


def test_where_nothing_can_be_locked_age_tells(tmp_path, monkeypatch):
    def refuse(path: Path) -> None:
        raise OSError(95, "Operation not supported")

    die_writing(tmp_path / "x.png", tmp_path / "y.png")
    old, new = (next(tmp_path.glob(f".{letter}-*")) for letter in "xy")
    long_ago = time.time() - atomic.LONG_AGO - 10
    os.utime(old, (long_ago, long_ago))
    monkeypatch.setattr(atomic, "hold", refuse)
    sweep_folder(tmp_path)
    assert names(tmp_path) == [new.name]
    with atomic_path(tmp_path / "z.png") as temporary:
        temporary.write_text("works all the same")
    assert (tmp_path / "z.png").exists()


def test_an_interruption_between_the_renamings_of_a_folder_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("old")
    rename = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if Path(target) == path and self.parent.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as folder:
        (folder / "a").write_text("new")
    assert (path / "a").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "version").write_text("old")

    def fail() -> None:
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "version").write_text("new")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert (tmp_path / "model" / "version").read_text() == "old"
    die(DIE, "atomic_folder", tmp_path / "model")
    assert len(names(tmp_path)) == 2
    sweep_file(tmp_path / "model")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "version").read_text() == "old"


@pytest.mark.parametrize("sweep", [sweep_file, lambda path: sweep_folder(path.parent)])
def test_a_kill_between_the_renamings_of_a_folder_loses_nothing(sweep: Callable[[Path], None], tmp_path):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "version").write_text("old")
    die(DIE_BETWEEN, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    sweep(tmp_path / "model")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "version").read_text() == "new"


def test_a_training_sweeps_its_folder_as_it_starts(tmp_path):
    out = tmp_path / "run"
    run = RunFolder.open(out, {})
    run.save(1, {"x": torch.zeros(1)}, {})
    run.close()
    die_writing(out / "checkpoints" / "00000002.safetensors", out / "samples" / "1.png", out / "log.jsonl")
    die(DIE, "atomic_folder", out / "bundle")
    whole = {"run", "checkpoints", "samples", "config.json", "00000001.safetensors", ".clip2gan-lock"}
    assert len(list(out.rglob(".*"))) == 4
    run = RunFolder.open(out, {})
    assert {path.name for path in tmp_path.rglob("*")} == whole
    assert (found := run.latest()) is not None
    assert found[0] == 1


def test_commands_sweep_where_they_write(run, tiny_bundle, picture, tmp_path):
    out, file = tmp_path / "out", tmp_path / "one.png"
    words = ("generate", "--model", tiny_bundle, "--text", "x", "--device", "cpu", "--force", "--out")
    die_writing(out / "000-x-seed0.png", out / "grid.png", file, tmp_path / "another.png")
    assert run(*words, out)[0] == 0
    assert names(out) == ["000-x-seed0.png"]
    assert len(list(tmp_path.glob(".one-*"))) == 1
    assert run(*words, file)[0] == 0
    assert [path.name.split("-")[0] for path in tmp_path.glob(".*")] == [".another"]


def test_preparations_and_bundles_sweep_too(tiny, tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "pictures" / f"{index}.png")
    target, model = tmp_path / "x.zip", tmp_path / "model"
    die_writing(target, tmp_path / "x.zip.part" / "0123456789abcdef.zip")
    prepare(tmp_path / "pictures", target, Preparation(resolution=8))
    assert names(tmp_path) == ["pictures", "x.zip"]
    die(DIE, "atomic_folder", model)
    bundle = tiny.bundle
    info = BundleInfo(name="x")
    write_bundle(model, bundle.generator, bundle.clip, bundle.mappers, bundle.gap, info=info)
    assert names(tmp_path) == ["model", "pictures", "x.zip"]
    assert read_config(model).name == "x"


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes of others as Linux does")
def test_the_processes_of_a_preparation_end_with_it(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(6):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "pictures" / f"{index}.png")
    words = [sys.executable, "-c", PREPARE, tmp_path / "pictures", tmp_path / "x.zip"]
    pipe = subprocess.PIPE
    with subprocess.Popen([str(w) for w in words], stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        workers = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()
    ended = [bool(select.select([worker], [], [], 60)[0]) for worker in workers]
    for worker, is_over in zip(workers, ended, strict=True):
        if not is_over:
            signal.pidfd_send_signal(worker, signal.SIGKILL)
        os.close(worker)
    assert ended == [True] * 2


def test_the_cache_of_sums_is_swept(tmp_path):
    path = tmp_path / "sums.json"
    die_writing(path)
    sums = Sums(path)
    sums.save()
    assert list(tmp_path.iterdir()) == []

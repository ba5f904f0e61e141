"""Two processes and one output: the second is told so. A lock ends with its process, however that ends."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from clip2gan.bundle import BundleInfo, write_bundle
from clip2gan.clip import save_local_dir
from clip2gan.data.prepare import Preparation, prepare
from stylegan2 import locks, save_generator
from stylegan2.locks import BusyError, lock_file, lock_folder
from stylegan2.runs import RunFolder

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from stylegan2 import locks
with getattr(locks, sys.argv[1])(sys.argv[2]):
    print("held", flush=True)
    input()
"""
# A worker's process is a fork of the training's: it must not keep the lock when that is killed.
TRAIN = """
import os, sys, time, torch
from torch.utils.data import DataLoader
from stylegan2.runs import RunFolder
run = RunFolder.open(sys.argv[1], {"lr": 0.1})
class Slow(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        if index == 1:
            print(os.getpid(), flush=True)
        if index > 1:
            time.sleep(600)
        return index
for number in DataLoader(Slow(), num_workers=1, batch_size=None, multiprocessing_context="fork"):
    pass
"""


def start(script: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@contextmanager
def another_process(kind: Callable, path: Path) -> Iterator[None]:
    """While this is in force, another process holds a lock of this kind."""
    with start(HOLD, kind.__name__, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("\n")
    assert process.returncode == 0


def busy(path: object) -> str:
    return f"another process works in {path}; wait until it has ended, or choose another place"


def test_a_second_process_is_told_and_one_process_may_claim_again(tmp_path):
    out = tmp_path / "new" / "out"
    with another_process(lock_folder, out):
        with pytest.raises(BusyError) as error:
            lock_folder(out)
        assert str(error.value) == busy(out)
    assert list(tmp_path.iterdir()) == []  # it had made the folders, and nothing came into them
    with lock_folder(out), lock_folder(tmp_path / "new" / ".." / "new" / "out"):
        (out / "result").touch()
    assert [path.name for path in out.iterdir()] == ["result"]
    with another_process(lock_folder, out):
        pass


def test_other_outputs_in_the_same_folder_are_free(tmp_path):
    with another_process(lock_file, tmp_path / "a.png"):
        with lock_file(tmp_path / "b.png"), lock_file(tmp_path / "a.jpg"), lock_folder(tmp_path):
            pass
        with pytest.raises(BusyError, match=r"a\.png"):
            lock_file(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_the_file_system_takes_is_locked_too(tmp_path):
    out = tmp_path / f"{'n' * 251}.png"
    with another_process(lock_file, out), pytest.raises(BusyError):
        lock_file(out)


def test_a_file_of_the_user_is_never_taken_for_a_lock(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with lock_folder(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_where_the_file_system_has_no_locks_nothing_fails_and_nothing_is_left(number, tmp_path, monkeypatch):
    def refuse(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    run = RunFolder.open(tmp_path / "run", {})
    run.save(1, {"x": torch.zeros(1)}, {})
    run.close()
    names = sorted(path.name for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert names == ["00000001.safetensors", "config.json"]


def test_where_nothing_can_be_written_the_command_tells_why(run, tiny_bundle, tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"  # which stops even root
    code, _, err = run("generate", "--model", tiny_bundle, "--text", "x", "--out", out)
    assert code == 1
    assert f"{tmp_path / 'file'} is a file, so {out} cannot be a folder; choose another place" in err


def test_a_run_folder_is_free_when_its_run_is_closed_or_forgotten(tmp_path):
    run = RunFolder.open(tmp_path / "run", {"lr": 0.1})
    again = RunFolder.open(tmp_path / "run", {"lr": 0.1})
    hidden = [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert hidden == [".clip2gan-lock"]
    run.close()
    run.close()
    assert (tmp_path / "run" / ".clip2gan-lock").exists()
    del again
    with another_process(lock_folder, tmp_path / "run"), pytest.raises(BusyError):
        RunFolder.open(tmp_path / "run", {"lr": 0.1})
    assert not (tmp_path / "run" / ".clip2gan-lock").exists()


def test_settings_that_are_refused_leave_no_lock(tmp_path):
    RunFolder.open(tmp_path / "run", {"lr": 0.1})
    with pytest.raises(ValueError, match="begun with other settings"):
        RunFolder.open(tmp_path / "run", {"lr": 0.2})
    assert not (tmp_path / "run" / ".clip2gan-lock").exists()


def test_a_training_that_was_killed_is_gone_on_with_at_once_though_its_workers_live(tmp_path):
    training = start(TRAIN, tmp_path / "run")
    assert training.stdout is not None
    worker = int(training.stdout.readline())
    with pytest.raises(BusyError):
        RunFolder.open(tmp_path / "run", {"lr": 0.1})
    os.kill(worker, signal.SIGSTOP)  # so that it cannot see that its parent has gone
    try:
        training.kill()
        training.wait()
        RunFolder.open(tmp_path / "run", {"lr": 0.1})
    finally:
        os.kill(worker, signal.SIGKILL)
        training.stdout.close()


def _try_to_claim(path: Path, results: multiprocessing.Queue) -> None:
    try:
        lock_folder(path)
        results.put("free")
    except BusyError:
        results.put("busy")


def test_a_forked_process_neither_has_nor_removes_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with lock_folder(tmp_path / "out"):
        process = context.Process(target=_try_to_claim, args=(tmp_path / "out", results))
        process.start()
        assert results.get(timeout=60) == "busy"
        process.join()
        loader = DataLoader(TensorDataset(torch.tensor([7])), num_workers=1, multiprocessing_context="fork")
        assert len(list(loader)) == 1
        with pytest.raises(AssertionError), another_process(lock_folder, tmp_path / "out"):
            pass
    assert not (tmp_path / "out").exists()


FOLDER, FILE = lock_folder, lock_file


def commands(bundle: Path, picture: Path, generator: Path) -> dict[str, tuple[list, Callable, str]]:
    """Arguments of every command with an output, and what another process holds of it."""
    model = ["--model", bundle, "--device", "cpu"]
    train = ["--device", "cpu", "--data", picture.parent / "pictures"]
    clip = ["--clip", f"local-dir:{bundle / 'clip'}"]
    text = ["generate", *model, "--text", "x"]
    edit = ["edit", *model, "--image", picture, "--attr", "x", "--source", "clip"]
    sample = ["sample", "--device", "cpu", "--generator", generator]
    return {
        "generate": ([*text, "--out", "out"], FOLDER, "out"),
        "generate one": ([*text, "--out", "x.png"], FILE, "x.png"),
        "generate --grid": ([*text, "--num", "2", "--grid", "--out", "x.png"], FILE, "x.png"),
        "edit": ([*edit, "--out", "out"], FOLDER, "out"),
        "edit --sheet": ([*edit, "--sheet", "--out", "x.png"], FILE, "x-sheet.png"),
        "edit --video": ([*edit, "--out", "out", "--video", "x.gif"], FILE, "x.gif"),
        "invert": (["invert", *model, "--image", picture, "--out", "x.npz"], FILE, "x.npz"),
        "sample": ([*sample, "--out", "out"], FOLDER, "out"),
        "sample --video": ([*sample, "--seeds", "0-1", "--video", "x.gif"], FILE, "x.gif"),
        "evaluate": (["evaluate", *model, "--out", "report.json"], FILE, "report.png"),
        "convert": (["convert", generator, "x.safetensors"], FILE, "x.safetensors"),
        "prepare": (["prepare", picture.parent / "pictures", "x.zip"], FILE, "x.zip"),
        "train-mapper": (
            ["train-mapper", *train, *clip, "--generator", generator, "--samples", "4", "--out", "out"],
            FOLDER,
            "out",
        ),
        "train-encoder": (["train-encoder", *model, "--steps", "1", "--out", "out"], FOLDER, "out"),
        "train-gan": (["train-gan", *train, "--resolution", "8", "--out", "out"], FOLDER, "out"),
        "train-gan --condition clip": (
            ["train-gan", *train, "--resolution", "8", "--condition", "clip", *clip, "--out", "out"],
            FOLDER,
            "out",
        ),
    }


NAMES = list(commands(Path(), Path("x.png"), Path()))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_refuses_an_output_that_another_process_works_in(
    name, run, tiny, tiny_bundle, picture, tmp_path, monkeypatch
):
    (picture.parent / "pictures").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(picture.parent / "pictures" / f"{index}.png")
        (picture.parent / "pictures" / f"{index}.txt").write_text("x")
    save_generator(tiny.generator, tmp_path / "generator.safetensors")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    words, kind, out = commands(tiny_bundle, picture, tmp_path / "generator.safetensors")[name]
    with another_process(kind, Path(out).absolute()):
        before = sorted(Path().rglob("*"))
        code, _, err = run(*words)
        assert err.splitlines()[-1] == f"Error: {busy(out)}"
        assert code == 1
        assert sorted(Path().rglob("*")) == before
    assert list(Path().iterdir()) == []


def test_the_library_refuses_too(tiny, tiny_bundle, tiny_clip, picture, tmp_path):
    model = tiny.bundle
    calls: dict[str, tuple[Callable, Callable[[Path], object]]] = {
        "zip": (lock_file, lambda out: prepare(picture.parent, out, Preparation(resolution=8))),
        "bundle": (
            lock_file,
            lambda out: write_bundle(
                out, model.generator, model.clip, model.mappers, model.gap, info=BundleInfo(name="x")
            ),
        ),
        "clip": (lock_folder, lambda out: save_local_dir(tiny_clip.model, {}, {}, out)),
    }
    for name, (kind, call) in calls.items():
        with another_process(kind, tmp_path / name):
            with pytest.raises(BusyError, match=f"another process works in {tmp_path / name};"):
                call(tmp_path / name)
            assert not [path for path in tmp_path.iterdir() if path.name == f"{name}.part"]

"""Building the kernels, and each way in which that fails: pictures come all the same, and one line tells."""

import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from stylegan2 import ops
from stylegan2.ops import build, registered

FAKE_NVCC = """#!/bin/sh
case "$*" in
  *--version*) echo "Cuda compilation tools, release 12.4, V12.4.1" ;;
  *--dryrun*) echo "#\\$ TOP={toolkit}/bin/.." ;;
  *) echo compiling >> {log}; {compile} ;;
esac
"""
BROKEN = 'echo "ops.cu(3): fatal error: cuda_fp16.h: No such file"; exit 1'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, no compiler, and CPU tensors that are taken for those of a GPU."""
    for name in ("CUDA_PATH", "LOCAL_RANK", "STYLEGAN2_OPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STYLEGAN2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(
        ops, "uses_kernels", lambda x: registered.kernels(torch.device("cuda", 0)) is not None
    )
    build.kernels.cache_clear()
    yield tmp_path / "cache"
    build.kernels.cache_clear()


@pytest.fixture
def nvcc(tmp_path: Path) -> Callable[[str], Path]:
    """Install a compiler that does as told; returns the file that grows at each compilation."""

    def install(compile_command: str) -> Path:
        log, path = tmp_path / "log", tmp_path / "cuda" / "bin" / "nvcc"
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toolkit").mkdir(exist_ok=True)
        path.write_text(FAKE_NVCC.format(toolkit=tmp_path / "toolkit", log=log, compile=compile_command))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return log

    return install


def told(run: Callable, tiny_bundle: Path, out: Path) -> str:
    """What `generate` says on stderr; it must work."""
    code, _, err = run("generate", "--text", "x", "--model", tiny_bundle, "--device", "cpu", "--out", out)
    assert code == 0
    assert out.stat().st_size > 0
    lines = [line for line in err.splitlines() if line.startswith("stylegan2: no custom CUDA ops: ")]
    assert len(lines) == 1
    assert lines[0].endswith("; going on with PyTorch's own, slower")
    return lines[0]


def test_without_a_compiler(cache, run, tiny_bundle, tmp_path):
    assert f"no nvcc at {tmp_path / 'cuda/bin/nvcc'}; install the CUDA toolkit or set CUDA_HOME" in told(
        run, tiny_bundle, tmp_path / "x.png"
    )
    assert not cache.exists()


def test_with_a_broken_compiler(cache, nvcc, run, tiny_bundle, tmp_path):
    log = nvcc(BROKEN)
    message = told(run, tiny_bundle, tmp_path / "x.png")
    (failure,) = cache.glob("*/failure.txt")
    assert "nvcc failed: ops.cu(3): fatal error: cuda_fp16.h: No such file" in message
    assert f"(delete {failure} to try again)" in message

    build.kernels.cache_clear()  # as in another process: the failure is remembered
    assert told(run, tiny_bundle, tmp_path / "y.png") == message
    assert log.read_text().count("compiling") == 1

    failure.unlink()
    with pytest.raises(build.BuildError):
        build.build("90")
    assert log.read_text().count("compiling") == 2


def test_with_a_compiler_that_does_not_run(cache, nvcc, run, tiny_bundle, tmp_path):
    nvcc("true")
    (tmp_path / "cuda/bin/nvcc").write_bytes(b"\x7fELF no program")
    assert "nvcc does not run" in told(run, tiny_bundle, tmp_path / "x.png")


def test_with_a_compiler_that_makes_rubbish(cache, nvcc, run, tiny_bundle, tmp_path):
    nvcc('while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"')
    assert f"delete {cache}" in told(run, tiny_bundle, tmp_path / "x.png")


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("how", ["old", "ownerless"])
def test_with_a_stale_lock(how, cache, nvcc, run, tiny_bundle, tmp_path):
    log = nvcc("true")
    folder = build.library_folder(build.find_compiler(), "90")
    folder.mkdir(parents=True)
    lock = folder / "lock"
    lock.touch()
    if how == "old":
        long_ago = time.time() - 2 * build.LOCK_SECONDS
        os.utime(lock, (long_ago, long_ago))
    else:
        lock.write_text(f"{socket.gethostname()} {dead_process()}")
    assert f"{lock} was left by a build that was killed; delete it" in told(
        run, tiny_bundle, tmp_path / "x.png"
    )
    assert not log.exists()


def test_a_build_that_hangs_is_not_waited_for_for_ever(cache, nvcc, monkeypatch):
    nvcc("true")
    monkeypatch.setattr(build, "LOCK_SECONDS", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")  # another rank builds, but none has begun
    with pytest.raises(
        build.BuildError, match=r"no build has ended in 0 s; delete .*lock if none is running"
    ):
        build.build("90")


def test_with_a_cache_that_cannot_be_written(cache, nvcc, run, tiny_bundle, tmp_path):
    nvcc("true")
    cache.write_text("a file where the folder should be")  # which stops even root
    assert "cannot be written" in (message := told(run, tiny_bundle, tmp_path / "x.png"))
    assert "set STYLEGAN2_CACHE to a folder that can" in message


def test_the_key_names_all_that_a_library_depends_on(cache, nvcc, monkeypatch):
    nvcc("true")
    compiler = build.find_compiler()
    folders = {build.library_folder(compiler, "90"), build.library_folder(compiler, "80")}
    folders.add(build.library_folder(build.Compiler(compiler.nvcc, compiler.toolkit, "13.0.1"), "90"))
    monkeypatch.setattr(torch, "__version__", "9.9")
    folders.add(build.library_folder(compiler, "90"))
    assert len(folders) == 4


def test_doctor_tells_of_the_ops(cache, nvcc, run, tiny_bundle, tmp_path):
    assert "none: no nvcc at" in run("doctor")[1]
    nvcc("true")
    (cache / "sm90-0").mkdir(parents=True)
    (cache / "sm90-0" / "lock").touch()
    out = run("doctor")[1]
    assert f"CUDA 12.4.1 in {tmp_path / 'toolkit'}" in out
    assert f"{cache / 'sm90-0' / 'lock'}: delete it if no build is running" in out


def test_ops_can_be_chosen_on_the_command_line(run, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN2_OPS", "auto")  # so that it is put back
    arguments = ["generate", "--text", "x", "--model", tiny_bundle, "--device", "cpu", "--out"]
    code, _, err = run(*arguments, tmp_path / "x.png", "--ops", "cuda")
    assert code == 1
    assert "Error: no CUDA kernels for torch.float32 on cpu, and --ops (STYLEGAN2_OPS) asks for them" in err
    assert run(*arguments, tmp_path / "x.png", "--ops", "torch")[0] == 0


def test_precision_can_be_chosen_on_the_command_line(run, tiny_bundle, tmp_path):
    arguments = ["generate", "--text", "x", "--model", tiny_bundle, "--device", "cpu", "--out"]
    assert run(*arguments, tmp_path / "x.png", "--precision", "bf16")[0] == 0
    code, _, err = run(*arguments, tmp_path / "y.png", "--precision", "fp16")
    assert code == 1
    assert "Error: fp16 needs a GPU; on a CPU choose bf16 or fp32" in err

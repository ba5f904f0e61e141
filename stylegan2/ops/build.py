"""Building csrc/ for this machine's GPU: once, at the first use of a CUDA tensor, and never at import.

Each library lies in a folder of the cache named after all that it depends on: the sources, PyTorch, the CUDA
compiler and the GPU's architecture. A build that fails leaves its reason there, and is not tried again until
that file is deleted. One process builds, the first rank of each machine; the others wait.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from stylegan2.atomic import atomic_path, sweep_file
from stylegan2.ops.kernels import Kernels

SOURCES = Path(__file__).parent / "csrc"
BUILD_SECONDS = 300  # a compiler that takes longer is stopped
LOCK_SECONDS = 330  # so a lock that is older was left by a build that was killed


class BuildError(Exception):
    """Why there are no kernels, in one line with the remedy."""


@dataclass(frozen=True)
class Compiler:
    """The CUDA compiler: how it is called, its toolkit's folder (not a wrapper's), and its release."""

    nvcc: str
    toolkit: str
    release: str


def find_compiler() -> Compiler:
    """nvcc of CUDA_HOME, PATH or /usr/local/cuda. Raises BuildError where there is none that runs."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [str(Path(home) / "bin" / "nvcc")] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next(filter(None, map(shutil.which, places)), None)
    if nvcc is None:
        raise BuildError(f"no nvcc at {' or '.join(places)}; install the CUDA toolkit or set CUDA_HOME")
    version = _run([nvcc, "--version"])
    release = re.search(r"release [\d.]+, V([\d.]+)", version)
    if release is None:
        raise BuildError(f"{nvcc} --version tells no release; install the CUDA toolkit or set CUDA_HOME")
    # A dry run names the folder that the real compiler works from, behind any link or wrapper.
    top = re.search(r"^#\$ TOP=(.+)$", _run([nvcc, "--dryrun", "-x", "cu", os.devnull]), re.MULTILINE)
    toolkit = os.path.realpath(top[1].strip() if top else Path(nvcc).resolve().parent.parent)
    return Compiler(nvcc, toolkit, release[1])


def cache_folder() -> Path:
    """Where libraries are kept: STYLEGAN2_CACHE, or stylegan2 in the user's cache."""
    if folder := os.environ.get("STYLEGAN2_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylegan2"


def library_folder(compiler: Compiler, arch: str) -> Path:
    """The folder of the library for GPUs of compute capability `arch` ("90")."""
    digest = hashlib.sha256(f"{torch.__version__} {compiler.release} {arch}".encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return cache_folder() / f"sm{arch}-{digest.hexdigest()[:16]}"


def compile_library(compiler: Compiler, archs: list[str], path: Path) -> None:
    """Compile csrc/ for these compute capabilities. Raises BuildError."""
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    options = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC"]
    with atomic_path(path) as temporary:
        _run([compiler.nvcc, *options, *targets, "-o", str(temporary), str(SOURCES / "ops.cu")])


def build(arch: str) -> Kernels:
    """The kernels for GPUs of compute capability `arch`, compiled unless they are in the cache.

    Raises BuildError.
    """
    compiler = find_compiler()
    folder = library_folder(compiler, arch)
    library, failure, lock = folder / "ops.so", folder / "failure.txt", folder / "lock"
    if not library.exists() and not failure.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _compile_once(compiler, arch, library, failure, lock)
        except OSError as error:
            raise BuildError(
                f"{folder} cannot be written ({error.strerror}); set STYLEGAN2_CACHE to a folder that can"
            ) from error
    if failure.exists():
        raise BuildError(f"{failure.read_text()} (delete {failure} to try again)")
    try:
        return Kernels(library)
    except OSError as error:
        raise BuildError(f"{error}; delete {folder}") from error


def _compile_once(compiler: Compiler, arch: str, library: Path, failure: Path, lock: Path) -> None:
    """Leave either `library` or `failure`; while another process is at it, wait."""
    deadline = time.monotonic() + LOCK_SECONDS
    waits = False
    first_rank = os.environ.get("LOCAL_RANK", "0") == "0"
    while not library.exists() and not failure.exists():
        if first_rank:
            with contextlib.suppress(FileExistsError):
                with lock.open("x") as file:
                    file.write(f"{socket.gethostname()} {os.getpid()}")
                break
        if _is_stale(lock):
            raise BuildError(f"{lock} was left by a build that was killed; delete it")
        if time.monotonic() > deadline:
            raise BuildError(f"no build has ended in {LOCK_SECONDS} s; delete {lock} if none is running")
        if not waits:
            _tell(f"another process compiles the CUDA ops; waiting for it ({lock})")
            waits = True
        time.sleep(0.2)
    else:
        return
    try:
        _tell(f"compiling the CUDA ops for sm_{arch}, once, in about 10 s")
        sweep_file(library)  # what a build that was killed has left
        compile_library(compiler, [arch], library)
    except BuildError as error:
        failure.write_text(str(error))
    finally:
        lock.unlink()


def status() -> dict[str, str]:
    """What `clip2gan doctor` tells of the custom operations; builds nothing."""
    facts = {"cache": str(cache_folder())}
    try:
        compiler = find_compiler()
    except BuildError as error:
        return {"compiler": f"none: {error}", **facts, "kernels": "none; PyTorch's own operations are used"}
    facts = {"compiler": f"{compiler.nvcc}, CUDA {compiler.release} in {compiler.toolkit}", **facts}
    for lock in sorted(cache_folder().glob("*/lock")):
        facts["lock"] = f"{lock}: delete it if no build is running"
    if not torch.cuda.is_available():
        return {**facts, "kernels": "not needed: there is no CUDA device"}
    major, minor = torch.cuda.get_device_capability()
    folder = library_folder(compiler, f"{major}{minor}")
    if (folder / "failure.txt").exists():
        kernels = f"none: {(folder / 'failure.txt').read_text()} (delete {folder} to try again)"
    elif (folder / "ops.so").exists():
        kernels = str(folder / "ops.so")
    else:
        kernels = f"compiled at first use, into {folder}"
    return {**facts, "kernels": kernels}


def _is_stale(lock: Path) -> bool:
    """Whether the process that made the lock cannot be at work any more."""
    try:
        if time.time() - lock.stat().st_mtime > LOCK_SECONDS:
            return True
        host, _, process = lock.read_text().partition(" ")
        if host == socket.gethostname() and process.isdecimal() and os.name == "posix":
            os.kill(int(process), 0)  # sends nothing; fails where there is no such process
    except ProcessLookupError:
        return True
    except OSError:  # the lock is gone, or the process belongs to somebody else
        return False
    return False


@functools.cache
def kernels(arch: str) -> Kernels | None:
    """`build(arch)`, or None, having told why on stderr: once a process."""
    try:
        return build(arch)
    except BuildError as error:
        _tell(f"no custom CUDA ops: {error}; going on with PyTorch's own, slower")
        return None


def _run(command: list[str]) -> str:
    """The command's output. Raises BuildError with the first line that tells of an error."""
    try:
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} does not run ({error})") from error
    if result.returncode:
        lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
        telling = next((line for line in lines if re.search("error|fatal|cannot|not found", line)), None)
        reason = telling or (lines[-1] if lines else f"exit code {result.returncode}")
        raise BuildError(f"{command[0]} failed: {reason[:300]}")
    return result.stdout


def _tell(message: str) -> None:
    print(f"stylegan2: {' '.join(message.split())}", file=sys.stderr, flush=True)

"""Give hostile files to everything that reads files, and see that each is read, or refused in one line.

    python tests/fuzz_inputs.py --num 20000            all readers, so many inputs altogether; prints a table
    python tests/fuzz_inputs.py --num 500 clip bundle  the readers whose names have these words in them
    python tests/fuzz_inputs.py --show "clip: folder" 123    one input, in this process

The readers and their inputs are in hostile_inputs.py. They run in a process of their own; where that dies, it
is one more failure, and a new one goes on. Counted are

    traceback    another error than ValueError or OSError, or the process died
    unclear      a message of several lines, or one that names no file of the input
    outside      files opened, made or removed outside of the input's folder; processes, sockets, foreign code
    slow         more than 5 s of the processor
    large        more memory than 300 MB and 8 bytes a pixel on top of what the process had
"""

import argparse
import gc
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (TESTS, TESTS.parent) if str(path) not in sys.path]

SECONDS = 5
BYTES, BYTES_A_PIXEL = 300 << 20, 8
ADDRESS_SPACE = 3 << 30  # above which the system itself refuses
STUCK = 180  # seconds without a new input, after which a process is ended
LONGEST_MESSAGE = 1500
WHOLE = "whole"  # the progress of a process that reads an undamaged input first
KINDS = ("traceback", "unclear", "outside", "slow", "large")

# Audit events (of Python) that no reader of data has a use for.
FORBIDDEN = (
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "subprocess.",
        "pty.",
        "socket.",
        "urllib.",
        "ftplib.",
    ),
    *(
        "ctypes.dlopen",
        "pickle.find_class",
        "webbrowser.",
        "signal.pthread_kill",
        "os.kill",
        "builtins.input",
    ),
)
# Events with a path that is changed; in the input's folder they are allowed.
CHANGING = (
    "os.remove",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.chmod",
    "shutil.",
)
# Where the interpreter, its packages and ours lie: these are read when something is imported late.
OWN = tuple(
    {str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())}
    | {str(Path(path).resolve()) for path in site.getsitepackages()}
    | {str(TESTS.parent), "/proc", "/sys", "/dev/null", "/dev/urandom", "/usr/share/zoneinfo", "/etc/ssl"}
)


class TooSlow(BaseException):
    pass


@dataclass
class Watch:
    """What a reader does outside of its input's folder, while `on`."""

    folder: Path
    on: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            changes = bool(re.search("[wax+]", mode or "")) or bool(
                (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            self._check_path(event, path, changes)
        elif event.startswith(CHANGING):
            within = (
                args[-1] if isinstance(args[-1], int) and args[-1] >= 0 and event != "os.truncate" else None
            )
            for path in args[:2]:
                if within is not None and isinstance(path, str):  # rmtree names files within open folders
                    path = os.path.join(os.readlink(f"/proc/self/fd/{within}"), path)  # noqa: PLW2901
                self._check_path(event, path, True)
        elif event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {str(args)[:100]}")
        elif event == "exec" and isinstance(args[0], CodeType):
            name = args[0].co_filename
            if not name.startswith(("<", *OWN)):
                self.seen.append(f"exec {name}")

    def _check_path(self, event: str, path: Any, changes: bool) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor
        where = os.path.realpath(os.fsdecode(path))
        if (
            where.startswith(str(self.folder))
            or (not changes and where.startswith(OWN))
            or where == os.devnull
        ):
            return
        self.seen.append(f"{event} {where[:200]}")


Job = tuple[str, int, int]
"""A reader's name, and the first and the last but one of its seeds."""


def run_jobs(jobs: Sequence[Job], progress: Path) -> Iterator[dict[str, Any]]:
    """The verdict on each input: {"reader", "seed", "result", and of each failure what happened}."""
    import hostile_inputs

    with tempfile.TemporaryDirectory() as top:
        folder = Path(top).resolve() / "in"
        use_caches_in(folder / "caches")
        watch = Watch(folder)
        sys.addaudithook(watch)
        signal.signal(signal.SIGPROF, raise_too_slow)
        for name, first, stop in jobs:
            progress.write_text(f"{name}\n{WHOLE}")
            reader = hostile_inputs.READERS[name]()
            prepare(reader, folder)
            limit = status("VmSize") + ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            for seed in range(first, stop):
                progress.write_text(f"{name}\n{seed}")
                empty(folder)
                path = reader.write(random.Random(f"{name} {seed}"), folder)
                yield {"reader": name, "seed": seed, **judge(reader, path, watch)}


def judge(reader: Any, path: Path, watch: Watch) -> dict[str, Any]:
    """What happened while one input was read."""
    found: dict[str, Any] = {"result": "accepted"}
    gc.collect()
    before = reset_peak()
    watch.seen.clear()
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    watch.on = True
    try:
        reader.read(path)
    except (ValueError, OSError) as error:
        found["result"] = "refused"
        message = message_of(error)
        if "\n" in message or len(message) > LONGEST_MESSAGE or not names_input(message, path, watch.folder):
            found["unclear"] = f"{type(error).__name__}: {message[:300]!r}"
    except TooSlow:
        found["result"] = "refused"
    except BaseException as error:
        found["result"] = "refused"
        place = traceback.extract_tb(error.__traceback__)[-1]
        found["traceback"] = f"{type(error).__name__}: {str(error)[:200]!r} ({place.filename}:{place.lineno})"
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - started
    grown = status("VmHWM") - before
    if seconds > SECONDS:
        found["slow"] = f"{seconds:.1f} s"
    if grown > BYTES and grown > BYTES + BYTES_A_PIXEL * reader.pixels(path):
        found["large"] = f"{grown >> 20} MB"
    if watch.seen:
        found["outside"] = "; ".join(watch.seen[:3])
    return found


def message_of(error: Exception) -> str:
    """What the command line would say."""
    from clip2gan.cli import describe

    return describe(error)


def names_input(message: str, path: Path, folder: Path) -> bool:
    return str(path) in message or str(folder) in message or path.name in message


def prepare(reader: Any, folder: Path) -> None:
    """Read a whole input, so that what is imported late is imported now."""
    for _ in range(2):
        empty(folder)
        reader.read(reader.write(None, folder))
    gc.collect()
    gc.freeze()  # what was imported is not looked through again before each input


def use_caches_in(folder: Path) -> None:
    os.environ |= {
        "XDG_CACHE_HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "TORCH_HOME": str(folder / "torch"),
    }


def empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"{name}:\s+(\d+) kB", text)
    assert match is not None
    return int(match[1]) << 10


def reset_peak() -> int:
    """Forget the peak of the memory in use; what is in use now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def raise_too_slow(*_: object) -> None:
    raise TooSlow


# ---- the process that starts the others


@dataclass
class Outcome:
    """How many inputs of each reader were refused, accepted, and failed in which way; a line a failure."""

    counts: dict[str, Counter[str]]
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, seed: int, verdict: dict[str, str]) -> None:
        counts = self.counts[name]
        counts.update(["inputs", verdict["result"], *(kind for kind in KINDS if kind in verdict)])
        self.failures += [f"{name} {seed}: {kind}: {verdict[kind]}" for kind in KINDS if kind in verdict]


def run(jobs: Sequence[Job], tell: Callable[[str], object] = lambda line: None) -> Outcome:
    """Run jobs in a process, and in another one from the next input on where that ends early."""
    outcome = Outcome({name: Counter() for name, _, _ in jobs})
    left = list(jobs)
    while left:
        with tempfile.TemporaryDirectory() as folder:
            progress = Path(folder, "progress")
            reason = None
            for verdict in run_child(left, progress):
                if isinstance(verdict, str):
                    reason = verdict
                    continue
                known = len(outcome.failures)
                outcome.add(verdict["reader"], verdict["seed"], verdict)
                for line in outcome.failures[known:]:
                    tell(line)
            if reason is None:
                return outcome
            name, seed = progress.read_text().split("\n") if progress.is_file() else ("", WHOLE)
            if seed == WHOLE:
                raise RuntimeError(f"{name}: an undamaged input is not read: {reason}")
            outcome.add(name, int(seed), {"result": "refused", "traceback": f"the process ended: {reason}"})
            tell(outcome.failures[-1])
        index = [job[0] for job in left].index(name)
        left = [(name, int(seed) + 1, left[index][2]), *left[index + 1 :]]
    return outcome


def run_child(jobs: Sequence[Job], progress: Path) -> Iterator[dict[str, Any] | str]:
    """The verdicts of a process; at last why it ended before the last one, if it did."""
    command = [sys.executable, __file__, "--child", json.dumps(jobs), str(progress)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONFAULTHANDLER": "1"}
    output = progress.with_name("out")
    with output.open("w") as out, output.with_suffix(".err").open("w") as err, output.open() as read:
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
        reason = None
        started, rest = time.time(), ""
        while True:
            ended = process.poll() is not None
            *lines, rest = (rest + read.read()).split("\n")
            yield from map(json.loads, lines)
            if ended:
                break
            last = progress.stat().st_mtime if progress.is_file() else started + 4 * STUCK
            if time.time() - last > STUCK:
                process.kill()
                process.wait()
                reason = f"no new input for {STUCK} s"
            time.sleep(0.1)
    if reason or process.returncode:
        yield reason or f"code {process.returncode}, {output.with_suffix('.err').read_text()[-500:]!r}"


def child(jobs: list[Job], progress: Path) -> None:
    logging.disable()
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no verdict
    for verdict in run_jobs(jobs, progress):
        out.write(json.dumps(verdict) + "\n")
        out.flush()


def table(rows: dict[str, Counter[str]]) -> str:
    """Markdown."""
    columns = ("inputs", "refused", "accepted", *KINDS)
    rows = {**rows, "**all**": sum(rows.values(), Counter())}
    lines = [f"| reader | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(str(row[each]) for each in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


def share_out(names: Sequence[str], num: int, first: int) -> list[Job]:
    """`num` inputs, as many for each reader."""
    shares = [num // len(names) + (number < num % len(names)) for number in range(len(names))]
    return [(name, first, first + share) for name, share in zip(names, shares, strict=True)]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]), Path(sys.argv[3]))
        return
    import hostile_inputs

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("readers", nargs="*", help="Words in the names of readers; all without any.")
    parser.add_argument("--num", type=int, default=1000, help="Inputs altogether.")
    parser.add_argument("--first", type=int, default=0, help="Seed of each reader's first input.")
    parser.add_argument("--show", nargs=2, metavar=("READER", "SEED"), help="Read one input, here.")
    options = parser.parse_args()
    if options.show:
        show(options.show[0], int(options.show[1]))
        return
    jobs = share_out(hostile_inputs.names(options.readers), options.num, options.first)
    outcome = run(jobs, lambda line: print(line, flush=True))
    print(table(outcome.counts))
    sys.exit(bool(outcome.failures))


def show(name: str, seed: int) -> None:
    """Read one input with its traceback; the input stays."""
    import hostile_inputs

    reader = hostile_inputs.READERS[name]()
    folder = Path(tempfile.mkdtemp()).resolve()
    path = reader.write(random.Random(f"{name} {seed}"), folder)
    print(path)
    print(reader.read(path))


if __name__ == "__main__":
    main()

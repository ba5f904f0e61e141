"""Kill every long command with SIGKILL, again and again, and see that nothing is lost: a script.

    nice python tests/kills.py FOLDER --kills 300 --seed 0 [--only NAME]

Each command of long_commands.py runs once undisturbed. Then it is killed, one to three times in a row, at a
random moment or at a chosen one of a file's life: before it is opened, renamed or removed, after that, or in
the middle of being written. Right after a kill every file that has its final name must be whole. Then the
same command runs to its end, and must leave what the undisturbed run left, bit for bit, and nothing else:
no temporary files, neither beside the results nor in the folders of caches and temporary files.

Left out of the comparison are times (in log.jsonl and measured constants) and TensorBoard's files, whose
names hold the time. All processes are forks of this one, because importing torch takes longer than a run.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  here, once for all processes
import open_clip  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
from long_commands import COMMANDS, LongCommand, make_small, write_material
from PIL import Image

import clip2gan.cli.edit
import clip2gan.cli.evaluate
import clip2gan.cli.generate
import clip2gan.cli.invert
import clip2gan.cli.sample
import clip2gan.editing.output
import clip2gan.editing.session
import clip2gan.evaluation.report
import clip2gan.training.gan  # noqa: F401
from stylegan2.files import load_tensors

PHASES = ("before", "middle", "after")
NOT_COMPARED = ("tensorboard",)
OUTPUT = "output.txt"  # of a command, for whoever looks for the cause
TIMES = ("seconds", "memory_gb")  # figures that no two runs share
LONGEST = 300.0  # seconds for a run


# The life of files, as the interpreter tells of it


@dataclass
class Watcher:
    """Counts what a process does to files below a folder; kills it at event `number`, if that is given.

    The events are Python's own (see the table of audit events): a file is opened to be written, renamed or
    removed, or a folder made or removed. Of a rename, "middle" leaves half of the file, as when the process
    had died while it wrote; of an appending, half a line.
    """

    folder: Path
    number: int | None = None
    phase: str = "before"
    count: int = 0
    is_over: bool = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.is_over:
            self.is_over = False  # to kill is an event too
            os.kill(os.getpid(), signal.SIGKILL)
        path = self._path(event, args)
        if path is None:
            return
        self.count += 1
        if self.count != self.number:
            return
        if self.phase == "after":
            self.is_over = True
            return
        if self.phase == "middle":
            self._cut(event, args, path)
        os.kill(os.getpid(), signal.SIGKILL)

    def _path(self, event: str, args: tuple[Any, ...]) -> Path | None:
        """The file that the event changes."""
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return None
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return None
        if not isinstance(args[0], (str, os.PathLike)):
            return None
        path = Path(os.path.abspath(args[0]))
        return path if self.folder in path.parents and not set(NOT_COMPARED) & set(path.parts) else None

    def _cut(self, event: str, args: tuple[Any, ...], path: Path) -> None:
        if event == "os.rename" and path.is_file():
            os.truncate(path, path.stat().st_size // 2)
        elif event == "open" and args[1] == "a" and path.suffix == ".jsonl":
            self.count = -1  # this opening is an event too
            with path.open("a") as file:
                file.write('{"step": 1, "seco')


# Runs


@dataclass(frozen=True)
class Place:
    """Where a command runs: what it writes is in out/, cache/ and tmp/, and what it says in `output`."""

    folder: Path
    output: str = OUTPUT

    def make(self) -> "Place":
        for name in ("out", "cache", "tmp"):
            (self.folder / name).mkdir(parents=True)
        return self

    def start(self, command: LongCommand, watcher: Watcher | None = None, again: bool = False) -> int:
        """A process that runs the command; its id."""
        sys.stdout.flush()
        if process := os.fork():
            return process
        code: Any = 70
        try:
            os.setpgid(0, 0)
            with (self.folder / self.output).open("ab", buffering=0) as output:
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
            os.chdir(self.folder)
            os.environ.update(
                XDG_CACHE_HOME=str(self.folder / "cache"), TMPDIR=str(self.folder / "tmp"), COLUMNS="80"
            )
            tempfile.tempdir = None
            if watcher is not None:
                sys.addaudithook(watcher)
            command.main([*command.words, *(command.again if again else ())])
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
        finally:
            if watcher is not None and watcher.number is None:
                (self.folder / "events").write_text(str(watcher.count))
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def tree(self) -> dict[str, str]:
        """What is there: each file's digest, by path; a folder's is empty."""
        found = {}
        for name in ("out", "cache", "tmp"):
            for path in sorted((self.folder / name).rglob("*")):
                parts = path.relative_to(self.folder).parts
                if not set(NOT_COMPARED) & set(parts):
                    found["/".join(parts)] = "" if path.is_dir() else digest(path)
        return found

    def temporary(self) -> list[str]:
        """Temporary files and folders."""
        paths = [path for name in ("out", "cache", "tmp") for path in (self.folder / name).rglob("*")]
        return [str(path) for path in paths if is_temporary(path) or path.parent.name == "tmp"]

    def half_written(self) -> list[str]:
        """Files with a final name that are not whole."""
        return [
            str(path)
            for path in sorted((self.folder / "out").rglob("*"))
            if path.is_file()
            and not any(is_temporary(part) for part in (path, *path.parents))
            and not set(NOT_COMPARED) & set(path.parts)
            and not is_whole(path)
        ]


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".")


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end."""
    try:
        match path.suffix:
            case ".safetensors":
                load_tensors(path)
            case ".png" | ".jpg" | ".gif":
                with Image.open(path) as picture:
                    picture.load()
            case ".zip":
                with zipfile.ZipFile(path) as archive:
                    return archive.testzip() is None
            case ".json":
                json.loads(path.read_text())
            case ".jsonl":  # appended to: the next run drops a line that is cut
                for line in path.read_text().splitlines()[:-1]:
                    json.loads(line)
            case ".md" | ".csv" | ".txt":
                return path.read_text().endswith("\n")
            case _:
                return False
    except Exception:
        return False
    return True


def digest(path: Path) -> str:
    """Of the bytes of a file, without the times in it."""
    content = path.read_bytes()
    if path.name == "log.jsonl":
        figures = [_without_times(json.loads(line)) for line in content.splitlines()]
        content = json.dumps(figures).encode()
    elif path.name in ("config.json", "report.json"):
        content = json.dumps(_without_times(json.loads(content))).encode()
    elif path.name == "report.md":
        lines = content.decode().splitlines()
        content = "\n".join(line for line in lines if not any(name in line for name in TIMES)).encode()
    elif path.name == "sums.json":  # of the cache: it holds times and inodes
        return "sums"
    return sha256(content).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(each) for name, each in value.items() if name not in TIMES}
    return value


def wait(process: int, seconds: float = LONGEST) -> int | None:
    """The code that a process ends with, negative for a signal; None if it still runs after so long."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        left = until - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(0.005, left))


def kill(process: int) -> None:
    """kill -9, of the process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


# Trials


@dataclass
class Undisturbed:
    """What a run does that nobody kills."""

    tree: dict[str, str]
    events: int
    seconds: float


@dataclass
class Tally:
    """What came of the kills of a command."""

    kills: int = 0
    differ: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    left_by_kills: int = 0


def undisturbed(command: LongCommand, folder: Path) -> Undisturbed:
    """Run a command, twice, to see that it repeats itself; the `folder` of the first run stays."""
    runs, second = [], folder.with_name(f"{folder.name}-second")
    for path in (folder, second):
        place = Place(path).make()
        started = time.monotonic()
        code = wait(place.start(command, Watcher(place.folder)))
        if code != 0:
            sys.exit(f"{command.name}: ended with {code}: see {place.folder / OUTPUT}")
        seconds = time.monotonic() - started
        runs.append(Undisturbed(place.tree(), int((place.folder / "events").read_text()), seconds))
        if place.temporary():
            sys.exit(f"{command.name}: leaves {place.temporary()}")
    if changes := differences(runs[0].tree, runs[1].tree):
        sys.exit(f"{command.name} does not repeat itself: {changes}")
    shutil.rmtree(second)
    return runs[0]


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    names = sorted(expected.keys() | found.keys())
    return [name for name in names if expected.get(name) != found.get(name)]


def trial(
    command: LongCommand, folder: Path, reference: Undisturbed, dice: random.Random, tally: Tally, most: int
) -> None:
    """Kill a command up to three times in a row, at most `most`, then let it end."""
    place = Place(folder).make()
    notes = []
    for number in range(dice.randint(1, min(3, most))):
        watcher, moment = None, LONGEST
        if dice.random() < 0.6:
            watcher = Watcher(place.folder, dice.randint(1, reference.events), dice.choice(PHASES))
            notes.append(f"event {watcher.number} {watcher.phase}")
        else:
            moment = dice.uniform(0, reference.seconds)
            notes.append(f"{moment:.3f} s")
        process = place.start(command, watcher, again=number > 0)
        code = wait(process, moment)
        if code is None:
            kill(process)
            code = wait(process)
        if code != -signal.SIGKILL:  # it was over before
            if code != 0:
                tally.differ.append(f"{folder} ended with {code} after {notes}")
            continue
        kill(process)  # what it started
        tally.kills += 1
        tally.half_written += [f"{path} after {notes}" for path in place.half_written()]
        tally.left_by_kills += len(place.temporary())
    process = place.start(command, again=True)
    code = wait(process)
    kill(process)
    if code != 0:
        tally.differ.append(f"{folder} ended with {code} after {notes}")
        return
    found = place.tree()
    left = place.temporary()
    changes = [
        name
        for name in differences(reference.tree, found)
        if not any(is_temporary(part) for part in (Path(name), *Path(name).parents))
    ]
    if changes:
        tally.differ.append(f"{folder}: {changes[:5]} after {notes}")
    tally.temporary += [f"{path} after {notes}" for path in left]
    if not changes and not left:
        shutil.rmtree(folder)


def run_trials(
    commands: list[LongCommand], folder: Path, kills: int, seed: int, tell: Callable[[str], object] = print
) -> dict[str, Tally]:
    """Kill each command `kills` times; what came of it, by name. The folders of failures stay."""
    make_small()
    write_material(folder / "material")
    with quiet_home(folder):
        if any("material/gan" in word for command in commands for word in command.words):
            make_gan(folder)
        tallies = {}
        for command in commands:
            place = folder / command.name.replace(" ", "-")
            reference = undisturbed(command, place)
            tally, dice = Tally(), random.Random(f"{seed} {command.name}")
            number = 0
            while tally.kills < kills and number < 5 * kills:
                number += 1
                trial(
                    command,
                    folder / f"{place.name}-{number:04d}",
                    reference,
                    dice,
                    tally,
                    kills - tally.kills,
                )
            tallies[command.name] = tally
            tell(
                f"{command.name:27} {reference.seconds:5.1f} s {reference.events:4d} events "
                f"{tally.kills:4d} kills {len(tally.differ):4d} differ "
                f"{len(tally.half_written):4d} half-written {len(tally.temporary):4d} temporary left "
                f"(of {tally.left_by_kills} that kills left)"
            )
            for line in [*tally.differ, *tally.half_written, *tally.temporary[:5]]:
                tell(f"    {line}")
    return tallies


@contextlib.contextmanager
def quiet_home(folder: Path) -> Iterator[None]:
    """Nothing is read from, or written to, the home of whoever runs this."""
    old = {name: os.environ.get(name) for name in ("HOME", "TF_CPP_MIN_LOG_LEVEL")}
    (folder / "home").mkdir()
    os.environ.update(HOME=str(folder / "home"), TF_CPP_MIN_LOG_LEVEL="3")
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def make_gan(folder: Path) -> None:
    """A checkpoint of train-gan, from which the captioned GAN starts."""
    gan = next(command for command in COMMANDS if command.name == "train-gan")
    place = Place(folder / "gan").make()
    if code := wait(place.start(gan)):
        sys.exit(f"train-gan ended with {code}: see {place.folder / OUTPUT}")
    newest = max((place.folder / "out/run/checkpoints").glob("*.safetensors"))
    shutil.copyfile(newest, folder / "material/gan.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="a new folder for everything")
    parser.add_argument("--kills", type=int, default=300, help="over all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a command whose name holds this")
    options = parser.parse_args()
    commands = [command for command in COMMANDS if (options.only or "") in command.name]
    started = time.monotonic()
    each = -(-options.kills // len(commands))
    tallies = run_trials(
        commands, options.folder.resolve(), each, options.seed, lambda line: print(line, flush=True)
    ).values()
    differ, half, left = (
        sum(len(getattr(tally, name)) for tally in tallies)
        for name in ("differ", "half_written", "temporary")
    )
    print(
        f"{sum(tally.kills for tally in tallies)} kills in {time.monotonic() - started:.0f} s: {differ} "
        f"results differ, {half} files half-written, {left} temporary files left after the next run"
    )
    sys.exit(bool(differ or half or left))


if __name__ == "__main__":
    main()

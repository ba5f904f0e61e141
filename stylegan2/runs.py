"""Run folders: what a training writes, and how the same command goes on after it was killed.

    config.json     the settings, fixed for the life of the run
    log.jsonl       one JSON object a log step
    checkpoints/    00001000.safetensors, ...: written whole, then renamed; the newest two are kept
    samples/        preview pictures
    tensorboard/    the figures of log.jsonl, when tensorboard is installed

Every random number of step n comes from `step_generator(seed, n)`, so a run that goes on from a checkpoint
draws what an uninterrupted run would have drawn.
"""

import hashlib
import json
import logging
import math
import time
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stylegan2.atomic import atomic_path, sweep_folder
from stylegan2.faults import name_write_errors
from stylegan2.files import is_finite, load_tensors, save_tensors
from stylegan2.locks import lock_folder
from stylegan2.names import check_utf8_path
from stylegan2.processes import is_first_process
from stylegan2.seeds import fill_twister

CHECKPOINTS_KEPT = 2
# Changes where a step computes something else than before, or a checkpoint holds something else.
RUN_FORMAT = 2

logger = logging.getLogger(__name__)


class RunFolder:
    """One training's folder. Make it with `RunFolder.open`."""

    def __init__(self, path: Path):
        self.path = path
        self.samples = path / "samples"
        self._log_file = path / "log.jsonl"
        self._digest = _settings_digest(path / "config.json")
        self._start = time.monotonic() - self._seconds_logged()
        self._release: Callable[[], object] = lambda: None

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any]) -> "RunFolder":
        """Create the folder, or go on in it when its settings are the same.

        Of processes that share a training, the first one locks the folder until `close`, or until its run
        folders are forgotten. What a kill has left of files that were being written is removed.

        Raises ValueError when `path` is a file, holds something else, was begun with other settings, or is
        not UTF-8, and BusyError when another training works in it.
        """
        path = Path(path)
        check_utf8_path(path)
        lock = lock_folder(path) if is_first_process() else None
        try:
            claim_folder(path, {"run_format": RUN_FORMAT, **config}, "a training's folder")
            if lock is not None:
                sweep_folder(path, deep=True)
            for folder in ("checkpoints", "samples"):
                (path / folder).mkdir(exist_ok=True)
            run = cls(path)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        if lock is not None:
            run._release = weakref.finalize(run, lock.release)
        return run

    def close(self) -> None:
        """Let other processes work in the folder. This one is to write no more."""
        self._release()

    def save(self, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Write checkpoint `step` and drop all but the newest two.

        Raises ValueError for numbers that are not finite, OSError where it cannot be written; the checkpoints
        before stay.
        """
        bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
        if bad:
            raise ValueError(
                f"step {step}: {bad[0]} is not finite, so there is no checkpoint of it; "
                "begin another run with a lower learning rate"
            )
        save_tensors(self.checkpoint(step), tensors, {"step": step, "run": self._digest, **extra})
        self._drop_older(step)

    def latest(self, drop_later: bool = True) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest usable checkpoint as (step, tensors, extra), or None; later log lines are dropped.

        Of several processes only one may drop them. Raises OSError where one cannot be read, which
        says nothing of what it holds.
        """
        found = None
        damaged: list[str] = []
        for path in reversed(self._checkpoints()):
            try:
                found = self._read_checkpoint(path)
                break
            except ValueError as error:  # the one before still serves
                damaged.append(str(error))
        step = -1 if found is None else found[0]
        if drop_later:
            for message in damaged:
                logger.warning("%s (the training goes on from step %d)", message, max(step, 0))
            self._truncate_log(step)
            self._drop_older(step)  # which a kill left, after the newest was written
        return found

    def _drop_older(self, step: int) -> None:
        """Remove the checkpoints up to `step` but the newest two; later ones were passed over as damaged."""
        last = self.checkpoint(step)
        for old in [path for path in self._checkpoints() if path <= last][:-CHECKPOINTS_KEPT]:
            old.unlink()

    def _read_checkpoint(self, path: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
        """A checkpoint's step, tensors and what was saved besides. Raises ValueError if it is not usable."""
        tensors, extra = load_tensors(path)
        step = extra.pop("step", None)
        if not isinstance(step, int) or self.checkpoint(step) != path:
            raise ValueError(f"{path}: not the checkpoint that its name says; it is left out")
        if extra.pop("run", self._digest) != self._digest:
            raise ValueError(f"{path}: the checkpoint of another run; it is left out")
        return step, tensors, extra

    @property
    def newest(self) -> Path | None:
        """The file of the newest checkpoint, readable or not."""
        files = self._checkpoints()
        return files[-1] if files else None

    def log(self, step: int, **figures: float) -> None:
        """Append one line of figures to log.jsonl (and to TensorBoard)."""
        line = {"step": step, "seconds": round(time.monotonic() - self._start, 1)}
        line.update({name: float(f"{float(value):.6g}") for name, value in figures.items()})
        with name_write_errors(self._log_file), self._log_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    @cached_property
    def _writer(self) -> Any | None:
        return _tensorboard_writer(self.path / "tensorboard")

    def checkpoint(self, step: int) -> Path:
        """The file of a step's checkpoint."""
        return self.path / "checkpoints" / f"{step:08d}.safetensors"

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("[0-9]*.safetensors"))

    def _log_lines(self) -> list[dict[str, Any]]:
        """The lines of the log that are whole; a kill may have cut the last one short."""
        if not self._log_file.is_file():
            return []
        lines = []
        for text in self._log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and all(_is_number(line.get(name)) for name in ("step", "seconds")):
                lines.append(line)
        return lines

    def _truncate_log(self, step: int) -> None:
        kept = [line for line in self._log_lines() if line["step"] <= step]
        if self._log_file.is_file():
            with atomic_path(self._log_file) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._start = time.monotonic() - self._seconds_logged()

    @property
    def seconds(self) -> float:
        """How long this run has been trained, over all its starts."""
        return time.monotonic() - self._start

    def _seconds_logged(self) -> float:
        lines = self._log_lines()
        return lines[-1]["seconds"] if lines else 0.0


def claim_folder(path: Path, settings: Mapping[str, Any], what: str) -> None:
    """Create the folder with `settings` in its config.json, or go on in it when they are the same.

    Raises ValueError when `path` is a file, was begun with other settings, or is something else than `what`
    ("a training's folder").
    """
    config_file = path / "config.json"
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; --out must name a folder")
    if config_file.is_file():
        _check_same(_read_settings(config_file, what), settings, path)
    elif path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise ValueError(f"{path} is not empty and not {what}; choose another --out")
    else:
        with atomic_path(config_file) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")


def pack(**parts: nn.Module | Optimizer) -> dict[str, Tensor]:
    """Flat tensors of modules ("G/mapping.fc0.weight") and optimizers ("opt/0/exp_avg")."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors.update({f"{name}/{key}": value for key, value in part.state_dict().items()})
        else:
            for index, state in part.state_dict()["state"].items():
                tensors.update(
                    {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
                )
    return tensors


def unpack(tensors: Mapping[str, Tensor], **parts: nn.Module | Optimizer) -> None:
    """Put back, in place, what `pack` took out. Raises ValueError when a module's names do not match."""
    for name, part in parts.items():
        prefix = f"{name}/"
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if isinstance(part, nn.Module):
            try:
                part.load_state_dict(own)
            except RuntimeError as error:
                raise ValueError(
                    f"checkpoint does not fit {name}: {str(error).splitlines()[-1].strip():.200}"
                ) from error
        else:
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in own.items():
                index, field = key.split("/")
                state.setdefault(int(index), {})[field] = value
            part.load_state_dict({**part.state_dict(), "state": state})


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator of a step: the same for the same (seed, step), independent between steps."""
    # Neighbouring seeds give related streams in some generators; a large odd multiplier spreads them.
    spread = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 1) % 2**63
    random = torch.Generator().manual_seed(spread)
    if seed >= 2**32:  # of which the generator would use no more
        fill_twister(random, (seed, step))
    return random


def _read_settings(path: Path, what: str) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: damaged, so what this folder was begun with is not known ({error}); put the file back, "
            "or choose another --out"
        ) from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not that of {what}; choose another --out")
    return settings


def _settings_digest(config_file: Path) -> str:
    """What tells the checkpoints of a run from those of one with other settings."""
    if not config_file.is_file():
        return ""
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    found, wanted = (settings.get("run_format", 1) for settings in (old, new))
    if "run_format" in new and found != wanted:
        raise ValueError(
            f"{path} was begun by another version of clip2gan (run format {found}, this one has {wanted}); "
            "go on with that version, or choose another --out"
        )
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if different:
        changes = ", ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in different)
        raise ValueError(
            f"{path} was begun with other settings ({changes}); use the same ones or another --out"
        )


def _tensorboard_writer(path: Path) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path))

"""The one training loop: whatever is trained, it is resumed, averaged, checked, logged and saved here.

A training describes itself as a `Task`: the parts that a checkpoint holds, and one phase after the other. A
phase's `step` yields the updates of a step, each an optimizer and the loss it follows; `Trainer` does the
rest, with any number of processes:

    for each step
        for each update   losses -> gradients -> their mean over all processes -> finite? -> optimizer
        averaged weights
        every so often    a log line, a preview, a checkpoint

Progress is counted in steps, everywhere. All randomness of a step comes from the seed and its number, so a
run that was stopped, at whatever moment, goes on to the very weights it would have had.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stylegan2.faults import is_out_of_memory
from stylegan2.processes import Processes
from stylegan2.progress import progress_bar
from stylegan2.runs import RunFolder, pack, step_generator, unpack
from stylegan2.training.schedule import ema_keep, ema_update

MOST_SKIPPED = 32  # steps in a row whose values are not finite; or half of a run, if that is less
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", *DTYPES)

logger = logging.getLogger(__name__)

Terms = Mapping[str, tuple[float, Tensor]]
"""The terms of a loss: name -> (weight, value), each value the mean over a part of the batch."""


@dataclass(frozen=True)
class Step:
    """A step that is to be done.

    Attributes:
        number: from 0, over the whole training.
        index: likewise, within its phase.
        random: a CPU generator for all its random numbers, the same on every process.
    """

    number: int
    index: int
    random: torch.Generator


@dataclass(frozen=True, kw_only=True)
class Update:
    """One move of an optimizer.

    Attributes:
        losses: turn -> the terms of this process's share in that turn; called with autocast on.
        rates: a learning rate for each of the optimizer's parameter groups.
        turns: in which a batch is worked through, to save memory; their mean counts.
        precision: of the forward passes, "fp32", "bf16" or "fp16".
        clip_norm: longest gradient that is followed in full.
        remedy: the setting to lower where values are not finite.
    """

    optimizer: Optimizer
    losses: Callable[[int], Terms]
    rates: Sequence[float]
    turns: int = 1
    precision: str = "fp32"
    clip_norm: float = math.inf
    remedy: str = "lr"


Updates = Generator[Update, None, None]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some steps that all do the same.

    Attributes:
        steps: how many.
        step: yields a step's updates. It is resumed when an update was made; when the values were not
            finite, it is closed and the rest of the step left out.
        averages: (model, its averaged copy) that move with each step.
        ema: how much of the averaged weights a step keeps at most.
        begin: is called before the first step.
        log_every: steps between log lines.
    """

    steps: int
    step: Callable[[Step], Updates]
    averages: Sequence[tuple[nn.Module, nn.Module]] = ()
    ema: float = 0.0
    begin: Callable[[], None] = lambda: None
    log_every: int = 50


@dataclass(kw_only=True)
class Task:
    """What is trained.

    Attributes:
        parts: the networks and optimizers that a checkpoint holds.
        phases: one after the other.
        preview: writes pictures of what step (so many are done) has brought, and returns figures for the log.
        preview_every: steps between previews; each phase ends with one too.
        saved: is called after a checkpoint, with the number of steps done; again where a finished training
            is begun again.
        state: what else a checkpoint holds: JSON values.
    """

    parts: Mapping[str, nn.Module | Optimizer]
    phases: Sequence[Phase]
    preview: Callable[[int], Mapping[str, float]]
    preview_every: int
    saved: Callable[[int], None] = lambda done: None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


class Trainer:
    """Does the steps of a task, from the newest checkpoint of its run folder on."""

    def __init__(
        self, task: Task, run: RunFolder, processes: Processes, seed: int, checkpoint_seconds: float = 60
    ):
        """
        Args:
            task: what is trained.
            run: the run's folder, into which the first process writes.
            processes: that share the work.
            seed: of all random numbers.
            checkpoint_seconds: at most this much work is lost by a kill.
        """
        self.task, self.run, self.processes, self.seed = task, run, processes, seed
        self.checkpoint_seconds = checkpoint_seconds
        kind = processes.device.type
        # Small gradients would vanish in fp16 without a scale.
        self._scaler = torch.amp.GradScaler(kind, enabled=kind in ("cpu", "cuda"))
        self._unscaled = torch.amp.GradScaler(kind, enabled=False)
        self._figures: dict[str, tuple[float, int]] = {}  # sums and counts since the last log line
        self._skipped = self._in_a_row = 0

    def train(self, progress: Callable[[range], Iterable[int]] | None = None) -> None:
        """Do the steps that are left; `progress` wraps their range.

        Raises:
            ValueError: losses or gradients were not finite for many steps in a row, or a weight is not; no
                checkpoint has it.
            OSError: a file cannot be written.
        """
        task, total = self.task, self.task.steps
        first = self._resume()
        if first == total and self.processes.is_first:
            task.saved(total)  # a kill may have come between the last checkpoint and what follows from it
        saved = time.monotonic()
        for number in (progress or self._bar)(range(first, total)):
            phase, start = self._phase_of(number)
            if number == start:
                phase.begin()
                self._figures.clear()
            rates = self._step(phase, Step(number, number - start, step_generator(self.seed, number)))
            done, ends = number + 1, number + 1 == start + phase.steps
            if not self.processes.is_first:
                continue
            shown: Mapping[str, float] = {}
            if done % task.preview_every == 0 or ends:
                shown = task.preview(done)
            if shown or ends or done % phase.log_every == 0:
                self._log(done, shown, rates)
            if ends or time.monotonic() - saved > self.checkpoint_seconds:
                self._save(done)
                saved = time.monotonic()
        if self._skipped and self.processes.is_first and first < total:
            logger.warning("%d of %d steps were left out: their values were not finite", self._skipped, total)

    def _bar(self, steps: range) -> Iterable[int]:
        return progress_bar(steps, "training", steps.stop, steps.start, self.processes.is_first)

    def _phase_of(self, number: int) -> tuple[Phase, int]:
        """The phase of a step, and the number of the phase's first step."""
        start = 0
        for phase in self.task.phases:
            if number < start + phase.steps:
                return phase, start
            start += phase.steps
        raise IndexError(number)

    def _step(self, phase: Phase, step: Step) -> Sequence[float]:
        """Do a step; returns the learning rates of its first update."""
        torch.manual_seed(step.random.initial_seed())  # for what draws from torch's own generator, as dropout
        rates: Sequence[float] = ()
        updates = phase.step(step)
        try:
            for update in updates:
                rates = rates or update.rates
                self._note(self._update(update))
        except _NotFiniteError as error:
            self._skip(step, error)
            return rates
        finally:
            updates.close()
        self._in_a_row = 0
        for model, average in phase.averages:
            ema_update(average, model, ema_keep(phase.ema, step.number))
        return rates

    def _update(self, update: Update) -> dict[str, float]:
        """Move by the mean gradients of all processes; returns the terms' values.

        Raises _NotFiniteError where these or the gradients are not finite; then nothing has moved.
        """
        optimizer, device = update.optimizer, self.processes.device
        dtype = DTYPES.get(update.precision)
        scaler = self._scaler if update.precision == "fp16" else self._unscaled
        optimizer.zero_grad(set_to_none=True)
        values: dict[str, Tensor] = {}
        for turn in range(update.turns):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                terms = update.losses(turn)
            loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
            scaler.scale(loss / update.turns).backward()
            for name, (_, value) in terms.items():
                values[name] = values.get(name, 0.0) + value.detach().float() / update.turns

        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        # Explicitly, as DistributedDataParallel knows no second derivatives.
        means = self.processes.average([*values.values(), *gradients])
        for gradient, mean in zip(gradients, means[len(values) :], strict=True):
            gradient.copy_(mean)
        scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm(gradients)
        *numbers, length = torch.stack([*means[: len(values)], norm.to(device)]).tolist()
        figures = dict(zip(values, numbers, strict=True))
        bad = [name for name, value in figures.items() if not math.isfinite(value)]
        finite = not bad and math.isfinite(length)
        is_scaled = scaler.get_scale() > 1
        if finite:
            if length > update.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, update.clip_norm, norm)
            for group, rate in zip(optimizer.param_groups, update.rates, strict=True):
                group["lr"] = rate
            scaler.step(optimizer)
        scaler.update()  # lowers the scale where a gradient is not finite
        optimizer.zero_grad(set_to_none=True)
        if not finite:
            what = f"the loss {', '.join(bad)}" if bad else f"the gradient of {' + '.join(values)}"
            raise _NotFiniteError(what, update.remedy, figures, by_scale=is_scaled and not bad)
        return figures

    def _skip(self, step: Step, error: "_NotFiniteError") -> None:
        """Count a step that was left out. Raises ValueError where there are many in a row."""
        if error.by_scale:  # the next step has a smaller scale
            self._note(error.figures)
            return
        self._skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= min(MOST_SKIPPED, -(-self.task.steps // 2)):
            raise ValueError(
                f"step {step.number + 1}: {error.what} is not finite; begin another run with a lower "
                f"{error.remedy} (after {self._in_a_row} such steps in a row)"
            )

    def _note(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            total, count = self._figures.get(name, (0.0, 0))
            self._figures[name] = total + value, count + 1

    def _log(self, done: int, shown: Mapping[str, float], rates: Sequence[float]) -> None:
        figures = {name: total / count for name, (total, count) in self._figures.items()}
        self._figures.clear()
        counts = {"skipped": self._skipped} if self._skipped else {}
        self.run.log(done, **figures, **shown, **counts, lr=rates[0])

    def _save(self, done: int) -> None:
        state = {
            **self.task.state,
            "scaler": self._scaler.state_dict(),
            "figures": self._figures,
            "skipped": [self._skipped, self._in_a_row],
        }
        self.run.save(done, pack(**self.task.parts), state)
        self.task.saved(done)

    def _resume(self) -> int:
        """Take up the newest checkpoint; returns how many steps are done."""
        found = self.run.latest(drop_later=self.processes.is_first)
        self.processes.wait()  # until all have read it, as the first will remove it
        if found is None:
            return 0
        done, tensors, state = found
        try:
            unpack(tensors, **self.task.parts)
            self._scaler.load_state_dict(state.pop("scaler"))
            self._figures = {name: (total, count) for name, (total, count) in state.pop("figures").items()}
            self._skipped, self._in_a_row = state.pop("skipped")
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):  # which says nothing of the file
                raise
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{self.run.checkpoint(done)}: not a checkpoint of this training ({reason}); remove it, and "
                "the training goes on from the one before"
            ) from error
        self.task.state.update(state)
        return done


class _NotFiniteError(Exception):
    """What is not finite in an update, what to lower, and whether the scale of fp16 may be the cause."""

    def __init__(self, what: str, remedy: str, figures: Mapping[str, float], by_scale: bool):
        super().__init__(what)
        self.what, self.remedy, self.figures, self.by_scale = what, remedy, figures, by_scale

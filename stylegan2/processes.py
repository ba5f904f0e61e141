"""Several processes on one training, under `torchrun` or `accelerate launch`; one process needs neither.

Random numbers belong to the rows of a batch: all processes draw the same ones for the whole batch and compute
with their own rows of it, so that many processes do what one would do, up to rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor


class Processes:
    """The processes of this training, and which of them this is.

    Attributes:
        index: this one's number, from 0; the first one writes.
        count: how many there are.
        device: where this one computes.
    """

    def __init__(self, device: torch.device):
        from accelerate import PartialState

        self._state = PartialState(cpu=device.type == "cpu")
        self.index, self.count = self._state.process_index, self._state.num_processes
        self.device = cast(torch.device, self._state.device) if self.count > 1 else device

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def first_before_others(self) -> AbstractContextManager[None]:
        """What is done here the first process does alone, and then the others."""
        return self._state.main_process_first()

    def wait(self) -> None:
        """Until all are here."""
        with _lost():
            self._state.wait_for_everyone()

    def rows(self, sizes: Sequence[int], turn: int = 0, turns: int = 1) -> Tensor:
        """This process's rows of a batch that is made of parts of these sizes.

        They are every k-th of each part, where k is the number of processes times that of the `turns` in
        which each of them works through its share.

        Raises ValueError where a part cannot be shared evenly.
        """
        shares = self.count * turns
        if any(size % shares for size in sizes):
            parts = " + ".join(map(str, sizes))
            who = f"{self.count} processes" if turns == 1 else f"{self.count} x {turns} (accumulate)"
            raise ValueError(f"a batch of {parts} cannot be shared by {who}; take a multiple of {shares}")
        whole = torch.arange(sum(sizes)).split(list(sizes))
        return torch.cat([part[self.index * turns + turn :: shares] for part in whole])

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean over all processes of each tensor (floating point, on one device)."""
        if self.count == 1 or not tensors:
            return list(tensors)
        # One message for all of them: a network has hundreds.
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with _lost():
            torch.distributed.all_reduce(flat)
        parts = (flat / self.count).split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def gather(self, rows: Tensor) -> Tensor:
        """The whole batch [N, ...], in its own order, of which each process has its `rows` [N / count, ...].

        For losses that compare the pictures of a batch. The gradient is that of this process's rows, `count`
        times, so that after `average` it is the gradient of the whole batch's loss.
        """
        if self.count == 1:
            return rows
        with _lost():
            return cast(Tensor, _Gather.apply(rows, self.index, self.count))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: int, count: int) -> Tensor:
        ctx.index, ctx.count = index, count
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(count)]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)  # process i has every count-th row, from row i

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient[ctx.index :: ctx.count] * ctx.count, None, None


def is_first_process() -> bool:
    """Whether this process is the first of those that share a training; a single one is."""
    shares = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not shares or torch.distributed.get_rank() == 0


class RowNoise:
    """Noise of a synthesis network, R -> [N, 1, R, R], for rows that have a seed each (`draw_seeds`).

    A row's noise is the same whatever other rows are computed beside it, and by which process.
    """

    def __init__(self, seeds: Tensor, device: torch.device):
        self._device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]

    def __call__(self, resolution: int) -> Tensor:
        shape = (1, 1, resolution, resolution)
        return torch.cat([torch.randn(shape, generator=g, device=self._device) for g in self._generators])


def draw_seeds(rows: int, random: torch.Generator) -> Tensor:
    """A seed for each row of a batch, int64 [rows], by a CPU generator."""
    return torch.randint(2**62, (rows,), generator=random)


@contextmanager
def _lost() -> Iterator[None]:
    """Say in one line what it means when the others do not answer."""
    try:
        yield
    except RuntimeError as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(
            f"the training processes lost contact, as when one of them has ended ({cause}); "
            "run the same command again to go on from the last checkpoint"
        ) from error

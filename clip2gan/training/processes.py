"""Several processes on one training, under `torchrun` or `accelerate launch`; one process needs neither."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import torch
from torch import Tensor


class Processes:
    """The processes of this training, and which of them this is.

    All draw the same random numbers for a whole batch and compute with their own rows of it, so that many
    processes do what one would do, up to rounding.

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
        """The mean over all processes of each tensor."""
        if self.count == 1:
            return list(tensors)
        from accelerate.utils import reduce

        with _lost():
            return [cast(Tensor, reduce(tensor, "mean")) for tensor in tensors]


@contextmanager
def _lost() -> Iterator[None]:
    """Say in one line what it means when the others do not answer."""
    try:
        yield
    except RuntimeError as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(
            "the processes of this training do not find together any more, as when one of them has ended "
            f"({cause}); run the same command again to go on from the last checkpoint"
        ) from error

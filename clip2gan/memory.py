"""The most memory that a piece of work takes."""

import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures from its making on: on a GPU what PyTorch allocates, else what the process has in memory.

    Linux can forget an earlier peak of the process; elsewhere the figure is the process's since its start.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif CLEAR.exists():
            CLEAR.write_text("5")  # the code for: reset the peak

    def gigabytes(self) -> float:
        """The peak so far [GB]."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e9
        if STATUS.exists():
            lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
            return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

"""Batches that fit in memory: measured, not guessed."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from clip2gan.memory import PeakMemory
from stylegan2.files import atomic_path


def largest_part(
    trial: Callable[[int], None],
    batch: int,
    gigabytes: float,
    later: int,
    device: torch.device,
    record: Path,
    multiple: int = 1,
    agree: Callable[[float], float] = lambda gigabytes: gigabytes,
) -> int:
    """The largest part of a batch whose trial step stays below a limit; the parts of a batch are equal.

    Args:
        trial: computes a step with a part of this many pictures.
        batch: pictures of a whole one.
        gigabytes: the limit, 1e9 bytes each.
        later: bytes that a real step will need besides (an optimizer's moments).
        device: where.
        record: a JSON file that keeps the choice, so that a run goes on with the same parts as long as the
            limit is the same.
        multiple: of which a part is one.
        agree: makes the same of all processes' measures, where several share a batch.

    Raises ValueError when the smallest part is above the limit already.
    """
    kept = _read_choice(record, gigabytes)
    if kept is not None and batch % kept == 0 and kept % multiple == 0:
        return kept
    sizes = [size for size in range(1, batch + 1) if batch % size == 0 and size % multiple == 0]
    sizes = [size for size in sizes if size > 1 or batch == 1]
    peaks: dict[int, float] = {}
    chosen = 0
    for size in sizes:
        if len(peaks) > 1:  # a straight line through the last two tells whether the next one will do
            (smaller, low), (larger, high) = list(peaks.items())[-2:]
            if high + (high - low) / (larger - smaller) * (size - larger) > gigabytes:
                break
        memory = PeakMemory(device)
        trial(size)
        peaks[size] = agree(memory.gigabytes() + later / 1e9)
        if peaks[size] > gigabytes:
            break
        chosen = size
    if not chosen:
        needed = peaks[sizes[0]]
        raise ValueError(
            f"{sizes[0]} pictures at once need {needed:.1f} GB, --max-memory is {gigabytes:g} GB; "
            "give more, a lower --resolution or a smaller CLIP"
        )
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps({"part": chosen, "gigabytes": peaks, "limit": gigabytes}) + "\n")
    return chosen


def _read_choice(record: Path, gigabytes: float) -> int | None:
    """The part that was chosen for this limit; None where none was, or the file is damaged."""
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    part = kept.get("part") if isinstance(kept, dict) and kept.get("limit") == gigabytes else None
    return part if isinstance(part, int) and part > 0 else None

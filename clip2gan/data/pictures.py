"""Pictures from a folder, a zip or tar shards, as uint8 tensors of one size."""

import hashlib
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate, pairwise, tee
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clip2gan.data.files import Files, open_files
from clip2gan.images import decode
from clip2gan.images.formats import summarise_left_out, why_not_picture
from stylegan2.faults import is_out_of_memory
from stylegan2.files import atomic_path
from stylegan2.progress import progress_bar

SKIPPED = "skipped.txt"
MEMORY_LIMIT = 4 << 30  # bytes of decoded pictures that are kept
WORKERS = min(8, os.cpu_count() or 1)
EXAMPLES = 5  # of pictures, in a message

Indices = Tensor | Sequence[int]

log = logging.getLogger(__name__)


class Pictures:
    """Pictures of one size, in the order of their sorted names.

    Attributes:
        names: the pictures' names relative to their source, one per index.
        resolution: R, pixels along a side.
        skipped: name -> reason, for the pictures that could not be read.
        fingerprint: of their names and of the files' sizes and times of change (in a zip: checksums), in hex.
    """

    def __init__(self, files: Files, resolution: int, memory_limit: int = MEMORY_LIMIT):
        """Decode all pictures if they fit in `memory_limit` bytes, else look at heads and decode on use."""
        names = files.pictures
        self.resolution = resolution
        self.skipped: dict[str, str] = {}
        self._dataset = PictureDataset(files, names, resolution)
        fits = len(names) * 3 * resolution**2 <= memory_limit
        self._pixels = torch.empty(len(names) if fits else 0, 3, resolution, resolution, dtype=torch.uint8)
        notes: dict[str, str] = {}

        def check(index: int) -> tuple[str, str | None]:
            """The picture's signature, and why it cannot be read."""
            name = names[index]
            try:
                if not fits:
                    return files.signature(name), why_not_picture(name, files.head(name))
                pixels, note = self._dataset.read(name)
                self._pixels[index] = pixels
                if note:
                    notes[name] = note
                return files.signature(name), None
            except Exception as error:  # decoders raise almost anything on a broken file
                if is_out_of_memory(error):  # which says nothing of the file
                    raise
                return "", why_unreadable(error)

        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(check, range(len(names)))
            checked = list(progress_bar(found, "reading pictures", len(names)))

        good = [index for index, (_, reason) in enumerate(checked) if reason is None]
        self.names = self._dataset.names = [names[index] for index in good]
        contents = "\n".join(f"{checked[index][0]} {names[index]}" for index in good)
        self.fingerprint = hashlib.sha256(contents.encode(errors="surrogateescape")).hexdigest()
        self._skip({names[i]: reason for i, (_, reason) in enumerate(checked) if reason is not None})
        if notes:
            log.warning("%s: %d pictures: %s", files.source, len(notes), _examples(notes))
        if fits and self.skipped:
            self._pixels = self._pixels[good]

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Indices) -> Tensor:
        """The pictures at `indices` as uint8 [N, 3, R, R], RGB."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        if len(self._pixels) or not len(indices):
            return self._pixels[indices] if len(indices) else self._collate([])[0]
        with ThreadPoolExecutor(WORKERS) as pool:
            return self._taken(self._collate(list(pool.map(self._dataset.__getitem__, indices.tolist()))))

    def stream(self, batches: Iterable[Sequence[int]], workers: int = WORKERS) -> Iterator[Tensor]:
        """What `batch` gives for each of `batches`, read ahead by `workers` processes from now on.

        Raises ValueError where one of these dies, as for lack of memory.
        """
        if len(self._pixels) or workers == 0:
            return map(self.batch, batches)
        loader = DataLoader(
            self._dataset,
            batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of lists serves
            num_workers=workers,
            collate_fn=self._collate,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # the loader draws a number, which is none of the training's
        )
        return self._drain(iter(loader))

    def _drain(self, found: "Iterator[_Batch]") -> Iterator[Tensor]:
        try:
            yield from map(self._taken, found)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"a process that reads pictures ended ({reason}); is memory short?") from error

    def read_ahead(self, upcoming: Iterable[Indices], workers: int = WORKERS) -> "ReadAhead":
        """These pictures, whose coming batches are decoded while the ones before are worked on."""
        return ReadAhead(self, upcoming, workers)

    @property
    def _collate(self) -> "Callable[[list[_Item]], _Batch]":
        return partial(_collate, resolution=self.resolution)

    def summary(self) -> str:
        """How many there are, and a part of their fingerprint."""
        return f"{len(self)} pictures, fingerprint {self.fingerprint[:16]}"

    def _taken(self, found: "_Batch") -> Tensor:
        pixels, failed = found
        for name, reason in failed.items():
            if name not in self.skipped:
                log.warning("skipped %s: %s", name, reason)
        self._skip(failed)
        return pixels

    def _skip(self, failed: dict[str, str]) -> None:
        self.skipped.update(failed)
        self._dataset.failed |= failed.keys()


_Item = tuple[Tensor, dict[str, str]]  # a picture, and the names and reasons of those that could not be read
_Batch = tuple[Tensor, dict[str, str]]


class PictureDataset(Dataset[_Item]):
    """Pictures as uint8 [3, R, R], decoded on use, in this process or in those of a DataLoader.

    One that turns out to be broken only then gives its place to the next one that is not.
    """

    def __init__(self, files: Files, names: Sequence[str], resolution: int):
        self.files = files
        self.names = names
        self.resolution = resolution
        self.failed: set[str] = set()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> _Item:
        failed: dict[str, str] = {}
        for step in range(len(self)):
            name = self.names[(index + step) % len(self)]
            if name in self.failed:
                continue
            try:
                return self.read(name)[0], failed
            except Exception as error:  # decoders raise almost anything on a broken file
                if is_out_of_memory(error):
                    raise
                failed[name] = why_unreadable(error)
                self.failed.add(name)
        raise ValueError(f"{self.files.source}: no readable picture is left")

    def read(self, name: str) -> tuple[Tensor, str]:
        """A picture, and what is to be said of it, if anything. Raises what reading and decoding raise."""
        notes: list[str] = []
        picture = fit_square(decode(self.files.read(name), notes.append), self.resolution)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1), "; ".join(notes)


class ReadAhead:
    """Pictures whose next batches are known: they are decoded while the step before is computed.

    It is asked like `Pictures`: `batch` takes what was announced, in its order, from the processes that read
    ahead, and decodes anything else on the spot. So a training's result depends on what it asks for alone.

    Example:
        >>> pictures = open_pictures("photos", 256)                          # doctest: +SKIP
        >>> ahead = ReadAhead(pictures, (draw(step) for step in range(start, steps)))  # doctest: +SKIP
        >>> images = ahead.batch(draw(start))                                # doctest: +SKIP
    """

    def __init__(self, pictures: "Pictures | Mixed", upcoming: Iterable[Indices], workers: int = WORKERS):
        self.pictures = pictures
        self._announced: deque[list[int]] = deque()
        self._batches = pictures.stream(self._announce(upcoming), workers)

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Indices) -> Tensor:
        """The pictures at `indices` as uint8 [N, 3, R, R], RGB."""
        wanted = torch.as_tensor(indices).tolist()
        if not self._announced or self._announced[0] != wanted:
            return self.pictures.batch(wanted)
        self._announced.popleft()
        return next(self._batches)

    def _announce(self, upcoming: Iterable[Indices]) -> Iterator[list[int]]:
        for each in upcoming:
            indices = torch.as_tensor(each).tolist()
            self._announced.append(indices)
            yield indices


class Mixed:
    """Pictures of several sources, one source after the other."""

    def __init__(self, sources: Sequence[Pictures]):
        self.sources = sources
        self._bounds = [0, *accumulate(len(source) for source in sources)]

    def __len__(self) -> int:
        return self._bounds[-1]

    @property
    def names(self) -> list[str]:
        return [name for source in self.sources for name in source.names]

    def batch(self, indices: Indices) -> Tensor:
        """The pictures at `indices` as uint8 [N, 3, R, R], RGB."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        parts = [source.batch(self._share(number, indices)) for number, source in enumerate(self.sources)]
        return self._gather(indices, parts)

    def stream(self, batches: Iterable[Sequence[int]], workers: int = WORKERS) -> Iterator[Tensor]:
        """As `Pictures.stream`; the processes are shared by the sources."""
        all_indices, *copies = tee((torch.as_tensor(batch) for batch in batches), len(self.sources) + 1)
        each = max(1, workers // max(1, len(self.sources))) if workers else 0
        streams = [
            source.stream(map(partial(self._share, number), copy), each)
            for number, (source, copy) in enumerate(zip(self.sources, copies, strict=True))
        ]
        return (self._gather(indices, parts) for indices, *parts in zip(all_indices, *streams, strict=True))

    def read_ahead(self, upcoming: Iterable[Indices], workers: int = WORKERS) -> ReadAhead:
        """As `Pictures.read_ahead`."""
        return ReadAhead(self, upcoming, workers)

    def _share(self, number: int, indices: Tensor) -> list[int]:
        """Which of a source's own pictures are among these."""
        own, start = self._owned(indices)[number]
        return (indices[own] - start).tolist()

    def _gather(self, indices: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """One batch of each source's pictures."""
        batch = torch.empty(len(indices), *parts[0].shape[1:], dtype=torch.uint8)
        for (own, _), part in zip(self._owned(indices), parts, strict=True):
            batch[own] = part
        return batch

    def _owned(self, indices: Tensor) -> list[tuple[Tensor, int]]:
        """Of each source, whether a picture is one of its own [N], and the index of its first one."""
        return [((indices >= start) & (indices < stop), start) for start, stop in pairwise(self._bounds)]


def open_pictures(source: str | Path, resolution: int, memory_limit: int = MEMORY_LIMIT) -> Pictures:
    """Open the pictures of a folder (with its subfolders), of a zip, or of tar shards (see `open_files`).

    Pictures of another shape are cropped at the centre to a square and resampled (Lanczos) to `resolution`.
    Files that are no pictures are left out, and named in a warning unless captions and labels lie in such.
    Pictures that cannot be read are skipped, and named in a warning and in `Pictures.skipped`.

    Raises:
        FileNotFoundError: nothing is at `source`.
        ValueError: `source` is none of these, or no readable picture is in it.
    """
    files = open_files(source)
    if not files.pictures:
        raise ValueError(f"{source}: no pictures in it{what_else(files)}")
    if files.left_out:
        log.warning("%s: left out as no pictures: %s", source, summarise_left_out(files.left_out, EXAMPLES))
    pictures = Pictures(files, resolution, memory_limit)
    if pictures.skipped:
        total = len(files.pictures)
        summary = f"{len(pictures.skipped)} of {total} pictures cannot be read: {_examples(pictures.skipped)}"
        if not len(pictures):
            raise ValueError(f"{source}: {summary}")
        log.warning("%s: skipped; %s", source, summary)
    return pictures


def open_mixed(sources: Sequence[str | Path], resolution: int) -> Mixed:
    """`open_pictures` of each of several sources."""
    return Mixed([open_pictures(source, resolution) for source in sources])


def what_else(files: Files) -> str:
    """What is in a source without pictures: the end of a message, empty where nothing is."""
    found = [f"it has {summarise_left_out(files.names)}"] if files.names else []
    found += [f"{files.hidden} hidden files or folders are left out"] if files.hidden else []
    return f"; {', and '.join(found)}" if found else ""


def list_skipped(sources: Sequence[Pictures], folder: Path) -> None:
    """Write to `folder`/skipped.txt which pictures of these sources cannot be read, if any, and why.

    Bytes of names that are no UTF-8 are written as escapes.
    """
    lines = [f"{name}\t{reason}\n" for source in sources for name, reason in source.skipped.items()]
    if lines:
        with atomic_path(folder / SKIPPED) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def fit_square(picture: Image.Image, resolution: int) -> Image.Image:
    """The centred square of `picture`, antialiased to `resolution` pixels a side; untouched if it fits."""
    if picture.size == (resolution, resolution):
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


def why_unreadable(error: Exception) -> str:
    """One line for a picture that cannot be read."""
    return " ".join(str(error).split()) or type(error).__name__


def _collate(items: list[_Item], resolution: int) -> _Batch:
    failed = {name: reason for _, each in items for name, reason in each.items()}
    if not items:
        return torch.empty(0, 3, resolution, resolution, dtype=torch.uint8), failed
    return torch.stack([pixels for pixels, _ in items]), failed


def _begin_worker(_: int) -> None:
    """An interruption is the training's to handle; the processes that read for it end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _examples(reasons: Mapping[str, str]) -> str:
    first = [f"{name} ({reason})" for name, reason in list(reasons.items())[:EXAMPLES]]
    return ", ".join(first) + (f" and {len(reasons) - EXAMPLES} more" if len(reasons) > EXAMPLES else "")

"""Pictures from a folder, a zip or tar shards, as uint8 tensors of one size."""

import hashlib
import io
import logging
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from clip2gan.data.files import open_files
from stylegan2.files import atomic_path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
SKIPPED = "skipped.txt"
MEMORY_LIMIT = 4 << 30  # bytes of decoded pictures that are kept

log = logging.getLogger(__name__)


class Pictures:
    """Pictures of one size, in the order of their sorted names.

    Attributes:
        names: the pictures' names relative to their source, one per index.
        resolution: R, pixels along a side.
        skipped: name -> reason, for the pictures that could not be read.
        fingerprint: of their names and contents, in hex.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], bytes],
        resolution: int,
        memory_limit: int = MEMORY_LIMIT,
    ):
        """Decode all pictures if they fit in `memory_limit` bytes, else check headers and decode on use."""
        self.resolution = resolution
        self.skipped: dict[str, str] = {}
        self._read = read
        fits = len(names) * 3 * resolution**2 <= memory_limit
        self._pixels = torch.empty(len(names) if fits else 0, 3, resolution, resolution, dtype=torch.uint8)

        checksums = [0] * len(names)

        def check(index: int) -> str | None:
            try:
                data = read(names[index])
                checksums[index] = zlib.crc32(data)
                if fits:
                    self._pixels[index] = self._decode(data)
                else:
                    Image.open(io.BytesIO(data)).close()
            except Exception as error:  # decoders raise almost anything on a broken file
                return why_unreadable(error)
            return None

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(check, range(len(names)))
            reasons = list(tqdm(found, "reading pictures", len(names), leave=False, disable=None, delay=1))

        good = [index for index, reason in enumerate(reasons) if reason is None]
        self.names = [names[index] for index in good]
        contents = "\n".join(f"{checksums[index]:08x} {names[index]}" for index in good)
        self.fingerprint = hashlib.sha256(contents.encode()).hexdigest()
        self.skipped = {names[i]: reason for i, reason in enumerate(reasons) if reason is not None}
        if fits and self.skipped:
            self._pixels = self._pixels[good]

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The pictures at `indices` as uint8 [N, 3, R, R], RGB."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        if len(self._pixels):
            return self._pixels[indices]
        return torch.stack([self._decode_or_next(int(index)) for index in indices])

    def summary(self) -> str:
        """How many there are, and a part of their fingerprint."""
        return f"{len(self)} pictures, fingerprint {self.fingerprint[:16]}"

    def _decode(self, data: bytes) -> Tensor:
        picture = fit_square(decode(data), self.resolution)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def _decode_or_next(self, index: int) -> Tensor:
        """A picture that turns out to be broken only when it is decoded gives its place to the next one."""
        for step in range(len(self)):
            name = self.names[(index + step) % len(self)]
            if name in self.skipped:
                continue
            try:
                return self._decode(self._read(name))
            except Exception as error:  # decoders raise almost anything on a broken file
                self.skipped[name] = why_unreadable(error)
                log.warning("skipped %s: %s", name, self.skipped[name])
        raise ValueError("no readable picture is left")


def open_pictures(source: str | Path, resolution: int, memory_limit: int = MEMORY_LIMIT) -> Pictures:
    """Open the pictures of a folder (with its subfolders), of a zip, or of tar shards (see `open_files`).

    Pictures of another shape are cropped at the centre to a square and resampled (Lanczos) to `resolution`.
    Files without a picture's suffix, captions and labels among them, are not looked at. Pictures that cannot
    be read are skipped, and named in a warning and in `Pictures.skipped`.

    Raises:
        FileNotFoundError: nothing is at `source`.
        ValueError: `source` is none of these, or no readable picture is in it.
    """
    files = open_files(source)
    names = sorted(name for name in files.names if is_picture(name))
    if not names:
        raise ValueError(f"{source}: no pictures in it (looked for {', '.join(sorted(SUFFIXES))})")
    pictures = Pictures(names, files.read, resolution, memory_limit)
    if pictures.skipped:
        first = [f"{name} ({reason})" for name, reason in list(pictures.skipped.items())[:5]]
        more = f" and {len(pictures.skipped) - 5} more" if len(pictures.skipped) > 5 else ""
        summary = f"{len(pictures.skipped)} of {len(names)} pictures cannot be read: {', '.join(first)}{more}"
        if not len(pictures):
            raise ValueError(f"{source}: {summary}")
        log.warning("%s: skipped; %s", source, summary)
    return pictures


def list_skipped(sources: Sequence[Pictures], folder: Path) -> None:
    """Write to `folder`/skipped.txt which pictures of these sources cannot be read, if any, and why."""
    lines = [f"{name}\t{reason}\n" for source in sources for name, reason in source.skipped.items()]
    if lines:
        with atomic_path(folder / SKIPPED) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


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

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The pictures at `indices` as uint8 [N, 3, R, R], RGB."""
        if len(self.sources) == 1:
            return self.sources[0].batch(indices)
        found = []
        for index in torch.as_tensor(indices).tolist():
            source = bisect_right(self._bounds, index) - 1
            found.append(self.sources[source].batch([index - self._bounds[source]]))
        return torch.cat(found)


def open_mixed(sources: Sequence[str | Path], resolution: int) -> Mixed:
    """`open_pictures` of each of several sources."""
    return Mixed([open_pictures(source, resolution) for source in sources])


def decode(data: bytes) -> Image.Image:
    """One encoded picture as RGB: turned as its EXIF tag says, transparency laid on white."""
    with Image.open(io.BytesIO(data)) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I;16"):  # 16-bit grey: Pillow's conversion would clip it at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        return picture.convert("RGB")


def fit_square(picture: Image.Image, resolution: int) -> Image.Image:
    """The centred square of `picture`, antialiased to `resolution` pixels a side; untouched if it fits."""
    if picture.size == (resolution, resolution):
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


def is_picture(name: str) -> bool:
    """Whether a file of this name is a picture to be read, and not a hidden one."""
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in SUFFIXES and not hidden


def why_unreadable(error: Exception) -> str:
    """One line for a picture that cannot be read; Pillow's own text names a BytesIO object."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    return " ".join(str(error).split()) or type(error).__name__

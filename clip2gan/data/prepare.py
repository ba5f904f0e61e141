"""Pictures with captions, in whatever layout people have them, into one zip to train on.

The zip holds the pictures as PNG of one size, dataset.json with that size and their captions (the format of
`captions.py`), and, where a CLIP is given, embeddings.safetensors. Work that is done lies in a folder beside
the zip until the zip is whole, so that a stopped preparation goes on where it was.
"""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from safetensors.torch import save

from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import EMBEDDINGS
from clip2gan.data.captions import DATASET, Captions, read_captions
from clip2gan.data.files import Files, open_files
from clip2gan.data.pictures import fit_square, open_pictures, what_else, why_unreadable
from clip2gan.data.samples import embed_pictures, embed_texts
from clip2gan.images import decode
from clip2gan.images.formats import HEIC_REMEDY, HEIC_SUFFIXES, suffix_of
from stylegan2.atomic import atomic_path, sweep_file, sweep_folder
from stylegan2.faults import is_out_of_memory
from stylegan2.locks import lock_file

Resize = Literal["crop", "pad", "squash"]
CHUNK = 256  # pictures that a process converts at a time, and that a stopped preparation loses at most
PICTURES_PER_FOLDER = 1000
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold; a real one would change the bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Settings of a preparation.

    Attributes:
        resolution: pixels a side.
        resize: how a picture becomes a square: "crop" takes the middle, "pad" lays it on white, "squash"
            stretches it.
        any_script: keep captions in other scripts than Latin.
        only_captioned: leave out pictures without a caption.
        allow_missing: continue when most of the pictures that a caption table names are missing.
    """

    resolution: int = 64
    resize: Resize = "crop"
    any_script: bool = False
    only_captioned: bool = False
    allow_missing: bool = False


@dataclass
class Prepared:
    """What came of it: how many pictures and captions, and what was left out, reason -> examples."""

    pictures: int
    captions: int
    uncaptioned: int
    skipped: Captions = field(default_factory=Captions)


Chunk = tuple[str, Preparation, list[str], Path]
"""The source, the settings, the names of its pictures, and the folder of the work."""


def prepare(
    source: str | Path,
    target: Path,
    settings: Preparation,
    clip: ClipEncoder | None = None,
    processes: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Prepared:
    """Write the zip `target` of the pictures and captions at `source` (see `open_files`).

    Args:
        source: a folder, a zip, a tar or shards.
        target: the zip; it appears whole or not at all.
        settings: how.
        clip: embeds pictures and captions, which are stored with them.
        processes: that convert pictures.
        progress: wraps the chunks of pictures.

    Raises ValueError when no picture can be used, BusyError where another process prepares the same zip, and
    what `open_files` raises.
    """
    with lock_file(target):
        sweep_file(target)
        return _prepare(source, target, settings, clip, processes, progress)


def _prepare(
    source: str | Path,
    target: Path,
    settings: Preparation,
    clip: ClipEncoder | None,
    processes: int,
    progress: Callable[[Iterable, int], Iterable],
) -> Prepared:
    files = open_files(source)
    captions = read_captions(files, settings.any_script, settings.allow_missing)
    names = files.pictures
    if settings.only_captioned:
        names = [name for name in names if name in captions.of]
    if not names:
        what = " with captions" if files.pictures else what_else(files)
        raise ValueError(f"{source}: no pictures in it{what}")
    for name in files.left_out:
        heic = suffix_of(name) in HEIC_SUFFIXES
        captions.skip(f"HEIC pictures ({HEIC_REMEDY})" if heic else "files that are no pictures", name)
    work = _work_folder(target, files, settings, names)
    chunks = [(str(source), settings, names[i : i + CHUNK], work) for i in range(0, len(names), CHUNK)]
    if processes > 1 and len(chunks) > 1:
        with _in_processes(chunks, processes) as results:
            done = list(progress(results, len(chunks)))
    else:
        done = list(progress(map(_convert, chunks), len(chunks)))

    kept: list[str] = []
    for (_, _, part, _), failed in zip(chunks, done, strict=True):
        for name, reason in failed.items():
            captions.skip("pictures that cannot be read", f"{name} ({reason})")
        kept += [name for name in part if name not in failed]
    if not kept:
        shutil.rmtree(work)
        raise ValueError(f"{source}: none of {len(names)} pictures can be read: {captions.summary()[-1]}")
    texts = [captions.of.get(name, []) for name in kept]
    parts = [_chunk_file(work, part) for _, _, part, _ in chunks]
    stored = _assemble(target, work, parts, kept, texts, settings.resolution, clip)
    shutil.rmtree(work)
    log.info("%s: %d bytes", target, stored)
    return Prepared(len(kept), sum(map(len, texts)), sum(not each for each in texts), captions)


@contextlib.contextmanager
def _in_processes(chunks: Sequence[Chunk], processes: int) -> Iterator[Iterator[dict[str, str]]]:
    """The results of `_convert` from several processes, in order.

    An interruption is for this process alone: the others would print where it met them. They end with it.
    Raises OSError where one of them is killed, as the system does when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(chunks)), context, _end_with_parent)
    try:
        with _ignoring_interrupts():  # which the processes that begin now inherit
            results = pool.map(_convert, chunks)
        yield results
    except BrokenProcessPool as error:
        raise OSError(
            "a process that converts pictures was killed, perhaps because memory ran out; give --processes 1 "
            "and run the same command again to go on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end when the one that began it is killed; else it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def to_square(picture: Image.Image, resolution: int, resize: Resize) -> Image.Image:
    """`picture` at `resolution` x `resolution`, antialiased."""
    if resize == "crop":
        return fit_square(picture, resolution)
    size = (resolution, resolution)
    if resize == "squash":
        return picture.resize(size, Image.Resampling.LANCZOS)
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="white")


def _work_folder(target: Path, files: Files, settings: Preparation, names: list[str]) -> Path:
    """The folder of the work that is done; emptied if it was of another source or other settings."""
    folder = target.with_name(f"{target.name}.part")
    plan = {
        **asdict(settings),
        "source": files.source,
        "names": _digest("\n".join(names)),
    }
    plan_file = folder / "plan.json"
    if _read_json(plan_file) != plan:
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_path(plan_file) as temporary:
            temporary.write_text(json.dumps(plan), encoding="utf-8")
    sweep_folder(folder, deep=True)
    return folder


def _chunk_file(work: Path, names: list[str]) -> Path:
    return work / f"{_digest(names[0])[:16]}.zip"


def _digest(names: str) -> str:
    """Of file names, which on Linux need not be UTF-8."""
    return sha256(names.encode(errors="surrogateescape")).hexdigest()


def _read_json(path: Path) -> Any:
    """What is in a file of the work that is done; None where it is damaged or not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _read_done(path: Path, failures: Path) -> dict[str, str] | None:
    """Which pictures of a chunk failed; None where the chunk is not done, or its files are damaged."""
    failed = _read_json(failures)
    try:
        with zipfile.ZipFile(path) as archive:
            is_whole = archive.testzip() is None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return None
    return failed if is_whole and isinstance(failed, dict) else None


def _convert(chunk: Chunk) -> dict[str, str]:
    """Write a chunk's pictures to a zip of their own, unless it is there; which failed, and why."""
    source, settings, names, work = chunk
    path = _chunk_file(work, names)
    failures = path.with_suffix(".json")
    if (done := _read_done(path, failures)) is not None:
        return done
    files = _opened(source)
    failed: dict[str, str] = {}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for number, name in enumerate(names):
            try:
                picture = to_square(decode(files.read(name)), settings.resolution, settings.resize)
            except Exception as error:  # decoders raise almost anything on a broken file
                if is_out_of_memory(error):  # which says nothing of the file
                    raise
                failed[name] = why_unreadable(error)
                continue
            png = io.BytesIO()
            picture.save(png, "PNG")
            archive.writestr(f"{number:04d}.png", png.getvalue())
    with atomic_path(failures) as temporary:
        temporary.write_text(json.dumps(failed), encoding="utf-8")
    return failed


@cache
def _opened(source: str) -> Files:
    """A process opens its source once."""
    return open_files(source)


def _assemble(
    target: Path,
    work: Path,
    chunks: list[Path],
    names: list[str],
    captions: list[list[str]],
    resolution: int,
    clip: ClipEncoder | None,
) -> int:
    """Put the chunks' pictures, the captions and the embeddings into the zip; its size in bytes."""
    pictures_only = work / "pictures.zip"
    records = []
    with atomic_path(pictures_only) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for chunk in chunks:
            with zipfile.ZipFile(chunk) as part:
                for member in sorted(part.namelist()):
                    index = len(records)
                    file = f"{index // PICTURES_PER_FOLDER:05d}/img{index:08d}.png"
                    archive.writestr(zipfile.ZipInfo(file, DATE), part.read(member))
                    texts = [{"text": text} for text in captions[index]]
                    records.append({"file": file, "name": names[index], "captions": texts})
    about: dict[str, object] = {"resolution": resolution, "pictures": records}
    embeddings = None
    if clip is not None:
        about["clip"] = clip.fingerprint()
        pictures = open_pictures(pictures_only, resolution)
        images = embed_pictures(pictures, clip, work / "image-embeddings")
        flat = [text for texts in captions for text in texts]
        texts = embed_texts(flat, clip, work / "text-embeddings") if flat else images[:0]
        embeddings = save({"images": images.to(torch.float16), "texts": texts.to(torch.float16)})
    with atomic_path(target) as temporary:
        shutil.copyfile(pictures_only, temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            info = zipfile.ZipInfo(DATASET, DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            content = json.dumps(about, ensure_ascii=False, separators=(",", ":"))
            # A byte of a name that is no UTF-8 becomes an escape of JSON.
            archive.writestr(info, content.encode(errors="backslashreplace"))
            if embeddings is not None:
                archive.writestr(zipfile.ZipInfo(EMBEDDINGS, DATE), embeddings)
    return os.path.getsize(target)

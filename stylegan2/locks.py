"""Locks of what is written: they end with their process, however it ends.

A lock is an empty hidden file, beside the file or inside the folder that it stands for, which its holder
keeps locked by the operating system and removes in the end. One that is left behind by a kill is free: the
next process takes it over.

Where the file system has no such locks, or the place cannot be written to, nothing is held: a lock never
makes a command fail that would have worked without it.
"""

import contextlib
import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

log = logging.getLogger(__name__)
LOCK = ".clip2gan-lock"  # how the names of lock files end
LONGEST_NAME = 200  # bytes; file systems take 255, and the lock's own letters are to fit too
TRIES = 10  # of making a folder that another process removes


class BusyError(OSError):
    """Another process works in the same output."""


class HeldFile:
    """An open file that this process has locked, and no process that is forked from it."""

    def __init__(self, handle: int):
        """Take over an open file's descriptor, not locked yet."""
        self.handle = handle
        _held_files.add(self)

    def lock(self, wait: bool) -> bool:
        """Lock the file; False if another process has it. Raises OSError where there are no such locks."""
        return _lock(self.handle, wait)

    def is_at(self, path: Path) -> bool:
        """Whether the file is (still) the one at `path`."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self.handle))
        except FileNotFoundError:
            return False

    @property
    def is_open(self) -> bool:
        return self in _held_files

    def close(self) -> None:
        """Unlock it. In a forked process nothing happens."""
        if self.is_open:
            _held_files.discard(self)
            os.close(self.handle)


def hold(path: Path) -> HeldFile | None:
    """Lock a file or folder that is there; None where another process has it.

    Raises OSError where it cannot be locked; on Windows always, because a locked file could not be renamed.
    """
    if sys.platform == "win32":
        raise OSError(f"{path} could not be renamed")
    held = HeldFile(os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR))
    try:
        if held.lock(wait=False):
            return held
    except OSError:
        held.close()
        raise
    held.close()
    return None


@contextlib.contextmanager
def file_lock(path: Path, waits: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold `path` as a lock, as the only process, waiting for others: for what several processes share.

    Args:
        path: a file that nothing else uses; afterwards it is not there any more.
        waits: called once where another process holds it.
    """
    try:
        held = _open_locked(path, waits)
    except OSError as error:
        log.debug("%s cannot be locked: %s", path, error)
        yield
        return
    try:
        yield
    finally:
        _remove(path, held)


def lock_folder(path: str | Path) -> "OutputLock":
    """Claim a folder for this process until the lock is released or the process ends; it is made if need be.

    Raises BusyError where another process has claimed it. One process may claim a folder many times.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out, lock_folder(out):
        ...     _ = (Path(out) / "result.txt").write_text("nobody else writes here")
    """
    folder = Path(os.path.realpath(path))
    return _claim(Path(path), folder / LOCK)


def lock_file(path: str | Path) -> "OutputLock":
    """Claim a file, or a folder that is replaced whole, as `lock_folder` does; files beside it stay free."""
    path = Path(path)
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else _digest(path.name)
    return _claim(path, Path(os.path.realpath(path.parent)) / f".{name}{LOCK}")


class OutputLock:
    """A claim to an output, until `release` or the end of a with statement."""

    def __init__(self, output: "_Output"):
        self._output: _Output | None = output

    def release(self) -> None:
        """Give it up; a second time does nothing."""
        output, self._output = self._output, None
        if output is None:
            return
        with _guard:
            output.claims -= 1
            # In a process forked from the one that claimed it, it is not listed.
            if output.claims or _outputs.get(output.file) is not output:
                return
            del _outputs[output.file]
            if output.held is not None:
                _remove(output.file, output.held)
            _remove_empty(output.made)

    def __enter__(self) -> "OutputLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()


@dataclass(eq=False)
class _Output:
    """An output that this process has claimed.

    Attributes:
        file: the lock's file.
        held: that file, open; None where it cannot be locked.
        made: folders that were made for it, the innermost first: removed with it if they are empty.
        claims: how many claims of this process there are.
    """

    file: Path
    held: HeldFile | None
    made: list[Path]
    claims: int = 0


_guard = threading.RLock()  # a collection of garbage may release a claim in the middle of another
_outputs: dict[Path, _Output] = {}
_held_files: set[HeldFile] = set()


def _claim(out: Path, file: Path) -> OutputLock:
    with _guard:
        output = _outputs.get(file)
        if output is not None:
            output.claims += 1
            if _outputs.get(file) is output:  # not released in this moment
                return OutputLock(output)
        output = _outputs[file] = _open_output(out, file)
        output.claims += 1
        return OutputLock(output)


def _open_output(out: Path, file: Path) -> _Output:
    made = [folder for folder in file.parents if not os.path.exists(folder)]
    try:
        return _Output(file, _open_in_folder(file), made)
    except BlockingIOError as error:
        _remove_empty(made)
        raise BusyError(
            f"another process works in {out}; wait until it has ended, or choose another place"
        ) from error
    except OSError as error:
        _remove_empty(made)
        log.debug("%s cannot be locked: %s", out, error)
        return _Output(file, None, [])


def _open_in_folder(file: Path) -> HeldFile:
    for _ in range(TRIES):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whoever made the folder may remove it again in this moment.
        with contextlib.suppress(FileNotFoundError):
            return _open_locked(file)
    raise FileNotFoundError(f"{file.parent} keeps being removed by another process")


def _open_locked(path: Path, waits: Callable[[], object] | None = None) -> HeldFile:
    """The file at `path`, made if need be, and locked.

    Raises BlockingIOError where another process has it, unless told to wait, and OSError where it cannot be
    locked.
    """
    while True:
        held = HeldFile(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
        try:
            is_ours = held.lock(wait=False)
        except OSError:  # there are no locks here
            _remove(path, held)
            raise
        try:
            if not is_ours:
                if waits is None:
                    raise BlockingIOError(f"{path} is locked")
                waits()
                held.lock(wait=True)
            if held.is_at(path):
                return held
        except BaseException:
            held.close()
            raise
        held.close()  # who held it has removed it, and the next one may have made another


def _remove(path: Path, held: HeldFile) -> None:
    """Remove a lock's file, and unlock it."""
    if not held.is_open:
        return
    with contextlib.suppress(OSError):  # a folder that was moved or made read-only
        if held.is_at(path):
            if sys.platform == "win32":  # where no open file can be removed
                held.close()
            path.unlink()
    held.close()


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()


if sys.platform == "win32":

    def _lock(handle: int, wait: bool) -> bool:
        while True:
            try:
                os.lseek(handle, 0, os.SEEK_SET)
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except PermissionError:
                if not wait:
                    return False
                time.sleep(0.1)
            else:
                return True

else:

    def _lock(handle: int, wait: bool) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _drop_in_child() -> None:
    """A forked process shares the locks, and would keep them after this one's end: it lets go of them."""
    global _guard  # noqa: PLW0603  another thread may have held it
    _guard = threading.RLock()
    _outputs.clear()
    for held in _held_files:
        os.close(held.handle)
    _held_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)

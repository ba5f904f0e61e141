"""What the operating system refuses, told in one line: the file, the cause and a remedy."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "delete some of your files, or write to another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write to another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change the permissions, or choose another place",
    errno.EPERM: "change the permissions, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of this path is a file; choose another place",
    errno.EEXIST: "choose another name, or move what is there away",
    errno.EISDIR: "this is a folder; name a file",
    errno.ENOENT: "check the path",
    errno.ELOOP: "its links lead in a circle; check the path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs, or do less at once",
    errno.EIO: "check the disk",
}
# Of writing, wherever they come from: who reads is told otherwise.
_ONLY_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "bad allocation",
)


class WriteError(OSError):
    """A file cannot be written. Its message names the file, the cause and a remedy."""

    def __str__(self) -> str:
        return str(self.args[0])  # an OSError with a filename would put its own words together


def explain(error: OSError) -> str:
    """The cause and a remedy: "No space left on device; free some space, or write to another disk"."""
    cause = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None and error.filename is not None:
        remedy = "check the path and the disk"
    return f"{cause}; {remedy}" if remedy else cause


def write_error(path: str | Path, error: OSError) -> WriteError:
    """`error`, met while `path` was written, as one that names this file and a remedy.

    >>> print(write_error("a.png", OSError(errno.ENOSPC, "No space left on device", "/tmp/x")))
    a.png: cannot be written (No space left on device); free some space, or write to another disk
    """
    cause = error.strerror or str(error)
    remedy = REMEDIES.get(error.errno or 0, "check the path and the disk")
    told = WriteError(f"{path}: cannot be written ({cause}); {remedy}")
    told.errno, told.filename = error.errno, str(path)
    return told


def check_name_length(path: Path) -> None:
    """Raise OSError, with the file and a remedy, for a name that is too long for its file system."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise write_error(path, error) from error


@contextlib.contextmanager
def name_write_errors(path: Path) -> Iterator[None]:
    """Have errors of writing `path`, by way of a temporary file beside it or not, name this file.

    Those of reading other files meanwhile stay as they are.
    """
    try:
        yield
    except WriteError as error:
        if error.errno is not None and _is_temporary(error.filename, path):  # of a file in a folder
            raise write_error(path, OSError(error.errno, os.strerror(error.errno))) from error
        raise
    except OSError as error:
        if error.errno is None or not error.strerror:  # it has its words already
            raise
        if error.errno in _ONLY_WRITING or _is_about(path, error):
            raise write_error(path, error) from error
        raise


def _is_about(path: Path, error: OSError) -> bool:
    """Whether an error names the file, a folder above it, or a temporary file beside it (or no file)."""
    names = [name for name in (error.filename, error.filename2) if name is not None]
    for name in names:
        if not isinstance(name, (str, bytes, os.PathLike)):
            continue
        found = Path(os.fsdecode(name))
        if found == path or found in path.parents or _is_temporary(found, path):
            return True
    return not names and error.errno == errno.EIO


def _is_temporary(name: str | Path, path: Path) -> bool:
    """Whether this is, or is in, a temporary file or folder beside `path`."""
    found = Path(name)
    return any(part.name.startswith(".") and part.parent == path.parent for part in (found, *found.parents))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by Python, by PyTorch on whatever device, or by the system."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)

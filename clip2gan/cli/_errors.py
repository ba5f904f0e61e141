"""Errors in words for the user: one line with what it is about, the cause and a remedy."""

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from clip2gan.messages import one_line
from stylegan2.faults import explain, is_out_of_memory

INTERRUPTED = 130  # the exit code of what Ctrl-C ended, by convention
GOES_ON = ("prepare", "train-mapper", "train-gan", "train-encoder")  # when the same command is run again
_LESS_MEMORY = {
    "train-mapper": "give a smaller --batch, or the same in parts: --accumulate 2",
    "train-encoder": "give a smaller --batch",
    "train-gan": "give a smaller --batch or --resolution; with --condition clip, --max-memory GB",
    "invert": "give --batch 1, or a model of a lower resolution",
    "evaluate": "give a smaller --num or --max-real",
    "prepare": "give --processes 1, or a lower --resolution",
    "convert": "read it on a machine with more memory",
}
_LESS_MEMORY_ELSEWHERE = "choose a smaller batch or resolution, or close other programs"


def describe(error: BaseException, command: str | None = None) -> str:
    """What went wrong: the message of our own errors, the class too for a surprise.

    Args:
        error: what ended the command.
        command: its name.
    """
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        kept = "interrupted; what was finished is kept, nothing is half-written"
        return f"{kept}; run the same command again to go on" if command in GOES_ON else kept
    if is_out_of_memory(error):
        return _out_of_memory(error, command)
    if isinstance(error, OSError) and error.strerror:
        return _describe_os_error(error)
    if isinstance(error, (ValueError, OSError)) and str(error):
        return str(error)
    if isinstance(error, RecursionError):
        return "a file is nested too deeply; get it again (--traceback shows which one it is)"
    if "InvalidCxxCompiler" in str(error):
        return "--compile needs a C++ compiler and finds none; install g++, or leave it out"
    return f"{type(error).__name__}: {one_line(error)} (--traceback shows where)"


def _out_of_memory(error: BaseException, command: str | None) -> str:
    is_device = any(name in str(error) for name in ("CUDA", "MPS", "HIP"))
    remedy = _LESS_MEMORY.get(command or "", _LESS_MEMORY_ELSEWHERE)
    if is_device:
        return f"the device is out of memory; {remedy}, or --device cpu"
    return f"out of memory; {remedy}"


def _describe_os_error(error: OSError) -> str:
    if error.filename is not None:
        file = error.filename if error.filename2 is None else error.filename2
        return (
            f"{os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else file}: {explain(error)}"
        )
    if is_of_output(error):
        if error.errno == errno.EPIPE:
            return (
                "standard output: its reader ended before this command did; what was finished is kept. "
                "Write to a file instead (> FILE)"
            )
        return f"standard output: {explain(error)}"
    if "temporary directory" in (error.strerror or ""):
        return f"{error.strerror}; set TMPDIR to a folder that can be written"
    return explain(error)


def is_of_output(error: OSError) -> bool:
    """Whether an error comes from printing, whose errors name no file."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(
        frame.f_code.co_name == "echo" and frame.f_globals.get("__name__") == "click.utils"
        for frame, _ in frames
    )


def drop_output() -> None:
    """Send what is still to be printed nowhere: the interpreter would try again as it ends, and complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def reserve_streams() -> None:
    """Open what was closed of standard input, output and error, so that no file gets their numbers.

    A library that prints would write into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def escape_streams() -> None:
    """Show what the terminal's encoding cannot express as escapes: file names need not be UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def command_name(words: Sequence[str]) -> str | None:
    """The subcommand among the arguments."""
    return next((word for word in words if not word.startswith("-")), None)

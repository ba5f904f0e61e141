"""Texts of other programs within our own messages."""

import errno

LONGEST = 300
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "bad allocation",
)


def one_line(error: object) -> str:
    """Another's message on one line: whole where it is short, else its first sentences or words."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) <= LONGEST:
        return text
    end = text[:LONGEST].rfind(". ")
    return (
        text[: end + 1] if end > 40 else f"{text[: LONGEST - 3].rpartition(' ')[0] or text[: LONGEST - 3]}..."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by Python, by PyTorch on whatever device, or by the system."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)

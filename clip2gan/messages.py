"""Texts of other programs within our own messages."""

LONGEST = 300


def one_line(error: object) -> str:
    """Another's message on one line: whole where it is short, else its first sentences or words."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) <= LONGEST:
        return text
    end = text[:LONGEST].rfind(". ")
    return (
        text[: end + 1] if end > 40 else f"{text[: LONGEST - 3].rpartition(' ')[0] or text[: LONGEST - 3]}..."
    )

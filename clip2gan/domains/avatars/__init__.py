"""Cartoon faces with ten attribute groups, whose truth is known because they are drawn from it."""

from clip2gan.domains.avatars.judge import Judge


def load_judge() -> Judge:
    """The trained judge of these attributes."""
    return Judge.load()

"""People in portraits, framed like FFHQ: attributes that were labelled by eye and spread to more samples."""

from clip2gan.domains.faces.judge import Judge


def load_judge() -> Judge:
    """The trained judge of these attributes."""
    return Judge.load()

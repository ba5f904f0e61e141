"""What a user should know about an edit that worked: values, which a command prints as warnings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    """Something worth knowing; `str` of it is one sentence."""


@dataclass(frozen=True)
class NotFramed(Notice):
    """The picture is not framed as the model's pictures are; `reason` is empty where nobody looked."""

    reason: str = ""

    def __str__(self) -> str:
        if not self.reason:
            return "this model expects faces framed as in FFHQ; --align frames them"
        return f"not framed as this model expects faces ({self.reason}); --align frames them"


@dataclass(frozen=True)
class NoStoredLatents(Notice):
    """None of the latents in the file `name` are this picture's; `source` found them instead."""

    name: str
    source: str

    def __str__(self) -> str:
        return f"{self.name} has no latents of it; they are found by --source {self.source}"


@dataclass(frozen=True)
class OtherKind(Notice):
    """The picture is unlike those that the model makes.

    Attributes:
        distance: between it and what the mapper makes of it, see `editing.kind`.
        usual: the largest that is usual among the model's own pictures.
    """

    distance: float
    usual: float

    def __str__(self) -> str:
        return (
            "this does not look like the pictures that the model makes, so expect little likeness "
            f"(it differs by {self.distance:.2f} from what CLIP and the mapper make of it; "
            f"up to {self.usual:.2f} is usual)"
        )


@dataclass(frozen=True)
class PoorInversion(Notice):
    """The latents found give the picture back poorly.

    Attributes:
        source: "invert" or "encoder".
        psnr: of this picture [dB].
        usual: the encoder's for the model's own pictures [dB].
    """

    source: str
    psnr: float
    usual: float | None = None

    def __str__(self) -> str:
        found = f"comes back at {self.psnr:.1f} dB only"
        if self.usual is None:
            return f"{found}; more --steps, or --tune, may bring it closer"
        return (
            f"{found} (the encoder gives the model's own pictures back at {self.usual:.1f} dB); "
            "--source invert is more accurate"
        )


@dataclass(frozen=True)
class NotReached(Notice):
    """No strength was found at which CLIP agrees.

    Attributes:
        attribute: its text.
        sign: 1 if it was to be added, -1 if it was to be taken away.
        clearness: what it came to.
        agrees: what would have been enough.
    """

    attribute: str
    sign: int
    clearness: float
    agrees: float

    def __str__(self) -> str:
        sign, state = ("", "there") if self.sign > 0 else ("-", "gone")
        return (
            f"{self.attribute!r} is not clearly {state} (CLIP {self.clearness:.2f}; {self.agrees:g} would "
            f'do); to go further, set a strength, as in --attr "{sign}{self.attribute}:3"'
        )


@dataclass(frozen=True)
class SaysNothing(Notice):
    """CLIP tells the model's pictures apart by a text no better than by chance, see `editing.contrast`.

    Attributes:
        text: the text.
        groups: what the texts that the model knows are about.
        examples: some of them, for a model whose groups are not known.
    """

    text: str
    groups: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        knows = f"words about {', '.join(self.groups)}"
        if not self.groups:
            knows = f"texts such as {', '.join(repr(each) for each in self.examples)}"
        return (
            f"{shorten(self.text)!r} means hardly anything to this model's CLIP, so the picture may show "
            f"anything; it knows {knows}"
        )


def shorten(text: str, limit: int = 60) -> str:
    """A text in one line of at most so many characters.

    >>> shorten("a long, long tale", 12)
    'a long, l...'
    """
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."

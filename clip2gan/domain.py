"""What belongs to a domain of pictures and to a model of it, rather than to the method: data, not code.

Every model carries its `Domain` in its config.json; `train-mapper` measures the numbers at its end (see
`training.calibration`). The defaults here are for a model of which nothing was measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Alignment = Literal["none", "ffhq"]
MOST_TEXTS = 10_000
LONGEST_TEXT = 2_000  # characters; CLIP reads less


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """How hard to look for a picture's latents; see `editing.inversion.invert`.

    Attributes:
        steps: of Adam at most; a picture that has converged stops before.
        lr: its first step size, in units of w's standard deviation. It halves whenever progress is slow.
        tolerance: part of the loss that some steps must gain, or else progress is slow.
        perceptual: weight of the distance of CLIP's image features.
        pull: weight of the squared distance to the mapper's estimate, which keeps the latents editable.
        pull_average: weight of the squared distance to w_avg, likewise.
    """

    steps: int = 100
    lr: float = 0.1
    tolerance: float = 0.02
    perceptual: float = 0.5
    pull: float = 0.01
    pull_average: float = 0.001

    def __post_init__(self):
        _check_range(self, 0, 100_000, "steps")
        _check_range(self, 1e-6, 100.0, "lr")
        _check_range(self, 0, 1, "tolerance")
        _check_range(self, 0, 1e6, "perceptual", "pull", "pull_average")


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How a copy of the generator is tuned to one picture; see `editing.inversion.tune`.

    Attributes:
        steps: of Adam.
        lr: its step size.
        perceptual: weight of the distance of CLIP's image features.
        locality: weight of the pictures' change at other latents, towards which the pivot is led a little.
        seed: of those latents.
    """

    steps: int = 100
    lr: float = 1e-3
    perceptual: float = 0.5
    locality: float = 0.3
    seed: int = 0

    def __post_init__(self):
        _check_range(self, 0, 100_000, "steps")
        _check_range(self, 1e-9, 1.0, "lr")
        _check_range(self, 0, 1e6, "perceptual", "locality")


@dataclass(frozen=True, kw_only=True)
class EditThresholds:
    """When an edit has reached its aim, and what it must leave as it was.

    Attributes:
        agrees: the clearness (see `directions.ReferenceBank.clearness`) at which a text counts as shown.
        identity: the least likeness (a cosine) in all that was not named.
        localities: how much likeness to the picture counts beside the text, in the order in which they are
            tried until CLIP agrees (see `directions.ReferenceBank.towards`).
        least_psnr: dB; a picture that inversion brings back worse is hardly one of the model's kind.
    """

    agrees: float = 0.9
    identity: float = 0.9
    localities: tuple[float, ...] = (0.4, 0.7)
    least_psnr: float = 14.0

    def __post_init__(self):
        _check_range(self, 0, 10, "agrees")
        _check_range(self, -1, 1, "identity")
        _check_range(self, 0, 100, "least_psnr")
        if not 1 <= len(self.localities) <= 10 or not all(0 <= each <= 10 for each in self.localities):
            raise ValueError(f"localities must be 1 to 10 numbers from 0 to 10, got {self.localities}")


@dataclass(frozen=True, kw_only=True)
class GapSettings:
    """Settings of the gap `posterior` in place of those that its file carries; None keeps the file's.

    Attributes:
        sharpness, edit_sharpness: factors of cosines; see `gap.Posterior`.
        guidance, edit_guidance: see there.
    """

    sharpness: float | None = None
    guidance: float | None = None
    edit_sharpness: float | None = None
    edit_guidance: float | None = None

    def __post_init__(self):
        _check_range(self, 0, 1e5, "sharpness", "edit_sharpness")
        _check_range(self, 0, 100, "guidance", "edit_guidance")


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain of pictures, and what was measured on a model of it.

    Attributes:
        name: such as "cats".
        neutral: a text that says no more than what all its pictures show, such as "a cat".
        prompts: plain texts that together name all that may be asked for; none: those of
            `data.samples.plain_prompts`, about no domain.
        alignment: how pictures must be framed before they are edited.
        vocabulary: attribute -> value -> the texts that say it, where the domain's attributes are known.
        judge: the package in `clip2gan.domains` that sees these attributes in pictures, if one does.
        inversion, tuning, editing, gap: constants of the model.
        references: pictures drawn for comparison in an edit, where the gap remembers none.
        measured: what calibration measured, by name.
    """

    name: str = "pictures"
    neutral: str = "a picture"
    prompts: tuple[str, ...] = ()
    alignment: Alignment = "none"
    vocabulary: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    judge: str | None = None
    inversion: InversionConfig = field(default_factory=InversionConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    editing: EditThresholds = field(default_factory=EditThresholds)
    gap: GapSettings = field(default_factory=GapSettings)
    references: int = 512
    measured: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        texts = [*self.prompts, *self.attribute_texts]
        if len(texts) > MOST_TEXTS:
            raise ValueError(f"{len(texts):,} prompts and attributes; at most {MOST_TEXTS:,} are read")
        for text in (self.name, self.neutral, *texts):
            if not text.strip() or len(text) > LONGEST_TEXT:
                raise ValueError(f"the text {text!r:.40} is empty, or longer than {LONGEST_TEXT} characters")
        if self.judge is not None and not self.judge.isidentifier():
            raise ValueError(f"judge {self.judge!r:.40} is not the name of a package")
        _check_range(self, 8, 100_000, "references")

    @property
    def attribute_texts(self) -> list[str]:
        """All texts of the vocabulary, in its order."""
        return [text for values in self.vocabulary.values() for texts in values.values() for text in texts]


def _check_range(settings: object, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value!r:.40}")

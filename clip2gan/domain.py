"""What belongs to a domain of pictures and to a model of it, rather than to the method: data, not code.

Every model carries its `Domain` in its config.json; `train-mapper` measures the numbers at its end (see
`training.calibration`). The defaults here are for a model of which nothing was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from clip2gan.defaults import LPIPS
from stylegan2.settings import LARGEST_SEED, check_limits, setting

Alignment = Literal["none", "ffhq"]
MOST_TEXTS = 10_000
MOST_WEIGHT = 1e6
LONGEST_TEXT = 2_000  # characters; CLIP reads less


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """How hard to look for a picture's latents; see `editing.inversion.invert`."""

    steps: int = setting(
        100,
        "Most optimisation steps per picture (it stops once it has converged); 0 takes the starting point.",
        least=0,
        most=100_000,
    )
    lr: float = setting(
        0.1,
        "First step size of Adam, in units of w's standard deviation; it halves whenever progress is slow.",
        least=1e-6,
        most=100,
    )
    tolerance: float = setting(
        0.02, "Part of the loss that some steps must gain, or else progress is slow.", least=0, most=1
    )
    perceptual: float = setting(0.5, "Weight of the distance of features.", least=0, most=MOST_WEIGHT)
    features: str = setting("clip", "Network for the perceptual distance.", choices=("clip", *LPIPS))
    pull: float = setting(
        0.01,
        "Weight of the squared distance to the mapper's estimate, which keeps the latents editable.",
        least=0,
        most=MOST_WEIGHT,
    )
    pull_average: float = setting(
        0.001, "Weight of the squared distance to w_avg, likewise.", least=0, most=MOST_WEIGHT
    )

    def __post_init__(self):
        check_limits(self)


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How a copy of the generator is tuned to one picture; see `editing.inversion.tune`."""

    steps: int = setting(100, "Steps of Adam.", least=0, most=100_000)
    lr: float = setting(1e-3, "Step size of Adam.", least=1e-9, most=1)
    perceptual: float = setting(0.5, "Weight of the distance of features.", least=0, most=MOST_WEIGHT)
    features: str = setting("clip", "Network for the perceptual distance.", choices=("clip", *LPIPS))
    locality: float = setting(
        0.3,
        "Weight of the pictures' change at other latents, towards which the pivot is led a little.",
        least=0,
        most=MOST_WEIGHT,
    )
    seed: int = setting(0, "Random seed of those latents.", least=0, most=LARGEST_SEED)

    def __post_init__(self):
        check_limits(self)


@dataclass(frozen=True, kw_only=True)
class EditThresholds:
    """When an edit has reached its aim, and what it must leave as it was.

    Attributes:
        localities: how much likeness to the picture counts beside the text, in the order in which they are
            tried until CLIP agrees (see `directions.ReferenceBank.towards`).
    """

    agrees: float = setting(
        0.9,
        "Clearness at which a text counts as shown, see `directions.ReferenceBank.clearness`.",
        least=0,
        most=10,
    )
    identity: float = setting(0.9, "Least likeness (a cosine) in all that was not named.", least=-1, most=1)
    localities: tuple[float, ...] = (0.4, 0.7)
    least_psnr: float = setting(
        14.0,
        "dB; a picture that inversion brings back worse is hardly one of the model's kind.",
        least=0,
        most=100,
    )

    def __post_init__(self):
        check_limits(self)
        if not 1 <= len(self.localities) <= 10 or not all(0 <= each <= 10 for each in self.localities):
            raise ValueError(f"localities must be 1 to 10 numbers from 0 to 10, got {self.localities}")


@dataclass(frozen=True, kw_only=True)
class GapSettings:
    """Settings of the gap `posterior` (see `gap.Posterior`) in place of those that its file carries.

    None keeps the file's.
    """

    sharpness: float | None = setting(None, "Factor of cosines.", least=0, most=1e5)
    guidance: float | None = setting(None, "How clearly texts are said.", least=0, most=100)
    edit_sharpness: float | None = setting(None, "Factor of cosines, in an edit.", least=0, most=1e5)
    edit_guidance: float | None = setting(None, "How clearly texts are said, in an edit.", least=0, most=100)

    def __post_init__(self):
        check_limits(self)


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
        use: advice on use for the model card, a sentence each.
        inversion, tuning, editing, gap: constants of the model.
        measured: what calibration measured, by name.
    """

    name: str = "pictures"
    neutral: str = "a picture"
    prompts: tuple[str, ...] = ()
    alignment: Alignment = "none"
    vocabulary: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    judge: str | None = None
    use: tuple[str, ...] = ()
    inversion: InversionConfig = field(default_factory=InversionConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    editing: EditThresholds = field(default_factory=EditThresholds)
    gap: GapSettings = field(default_factory=GapSettings)
    references: int = setting(
        512,
        "Pictures drawn for comparison in an edit, where the gap remembers none.",
        least=8,
        most=100_000,
    )
    least_contrast: float | None = setting(
        None, "Contrast below which a text says nothing, see `editing.contrast`.", least=0, most=2
    )
    measured: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        texts = [*self.prompts, *self.attribute_texts, *self.use]
        if len(texts) > MOST_TEXTS:
            raise ValueError(f"{len(texts):,} prompts and attributes; at most {MOST_TEXTS:,} are read")
        for text in (self.name, self.neutral, *texts):
            if not text.strip() or len(text) > LONGEST_TEXT:
                raise ValueError(f"the text {text!r:.40} is empty, or longer than {LONGEST_TEXT} characters")
        if self.judge is not None and not self.judge.isidentifier():
            raise ValueError(f"judge {self.judge!r:.40} is not the name of a package")
        check_limits(self)

    def tuning_like(self, inversion: InversionConfig | None) -> TuningConfig:
        """The settings of tuning, with the features of an inversion that compares by others than usual."""
        if inversion is None or inversion.features == self.inversion.features:
            return self.tuning
        return replace(self.tuning, features=inversion.features)

    @property
    def attribute_texts(self) -> list[str]:
        """All texts of the vocabulary, in its order."""
        return [text for values in self.vocabulary.values() for texts in values.values() for text in texts]

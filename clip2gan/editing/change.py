"""An edit of latents: from texts to strengths, from strengths to latents, and what it came to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from torch import Tensor

from clip2gan.domain import EditThresholds
from clip2gan.editing.directions import Course, Method, Parts, relevance, restricted_to
from clip2gan.editing.strength import (
    Strength,
    Trial,
    Trials,
    Want,
    least_strengths,
    wants_of,
)
from clip2gan.losses import feature_distance

if TYPE_CHECKING:
    from clip2gan.model import Model


@dataclass(frozen=True)
class Directions:
    """How texts become changes of latents; see `clip2gan.editing.directions`.

    Attributes:
        neutral: the text that attributes are added to; None: the model's.
        method: "neighbours", "clip", "mapped" or "raw".
        keep: texts whose own directions are left out.
        threshold: style channels that move CLIP less than this part of the most effective one stay.
    """

    neutral: str | None = None
    method: Method = "neighbours"
    keep: tuple[str, ...] = ()
    threshold: float = 0.0


@dataclass(frozen=True)
class Origin:
    """Latents, drawn and seen by CLIP once: where all edits of a picture start.

    Attributes:
        ws: [1, num_ws, w_dim].
        image: [1, 3, R, R], their picture.
        e: [1, D], its embedding.
        features: its image features, see `ClipEncoder.image_features`.
    """

    ws: Tensor
    image: Tensor
    e: Tensor
    features: list[Tensor]


@dataclass(frozen=True)
class Change:
    """An edit of latents, and what it came to.

    Attributes:
        ws: [1, num_ws, w_dim].
        image: [1, 3, R, R] in about [-1, 1], their picture.
        strengths: attribute -> strength.
        clearness: attribute -> how clearly CLIP finds it: 1 as in pictures that show it, 0 as in all.
        gains: attribute -> how much clearer it became.
        identity: cosine of CLIP's embeddings before and after, in all but what was named.
        perceptual: distance of CLIP's image features before and after, in the form of LPIPS.
        moved: how far ws went, as a root mean square in standard deviations of latents.
        from_average: how far they are from w_avg, likewise.
        course: where other strengths lead.
        reference: the strength of the picture to move towards.
        agrees: the clearness at which an attribute counts as reached.
    """

    ws: Tensor = field(repr=False)
    image: Tensor = field(repr=False, compare=False)
    strengths: dict[str, float]
    clearness: dict[str, float]
    gains: dict[str, float]
    identity: float
    perceptual: float
    moved: float
    from_average: float
    course: Course = field(repr=False, compare=False)
    reference: float = 1.0
    agrees: float = EditThresholds.agrees

    @property
    def reached(self) -> dict[str, bool]:
        """attribute -> whether CLIP finds it now (or its absence, where it was to go)."""
        return {text: value >= self.agrees for text, value in self.clearness.items()}

    @torch.no_grad()
    def at(self, factor: float) -> Tensor:
        """ws [1, num_ws, w_dim] at a part of all strengths, from 0 (none) to 1 (those of this change)."""
        if factor == 0:
            return self.course.ws
        if factor == 1:
            return self.ws
        values = torch.tensor([[self.strengths[text] for text in self.course.texts]])
        return self.course(factor * values, factor * self.reference)

    def figures(self) -> dict[str, Any]:
        """All but the latents, rounded, as it is reported."""
        return {
            "strengths": {text: round(value, 3) for text, value in self.strengths.items()},
            "clip": {text: round(value, 3) for text, value in self.clearness.items()},
            "clip_gain": {text: round(value, 3) for text, value in self.gains.items()},
            "reached": self.reached,
            "identity": round(self.identity, 4),
            "perceptual": round(self.perceptual, 4),
            "moved": round(self.moved, 3),
            "from_average": round(self.from_average, 3),
        }


@torch.no_grad()
def draw_origin(model: "Model", ws: Tensor) -> Origin:
    """Draw latents ws [1, num_ws, w_dim] for edits of them."""
    image = model.draw_ws(ws)
    features, e = model.clip.features_and_embeddings(image)
    return Origin(ws, image, e, features)


@torch.no_grad()
def make_change(
    model: "Model",
    origin: Origin,
    attributes: Mapping[str, Strength],
    how: Directions | None = None,
    *,
    strength: float | Literal["auto"] = 1.0,
    reference: Image.Image | None = None,
) -> Change:
    """Change latents by words.

    Args:
        model: draws and looks.
        origin: see `draw_origin`.
        attributes: text -> strength, see `wants_of`.
        how: from texts to directions.
        strength: multiplies all strengths, that of the reference too; "auto" looks for the least that CLIP
            agrees to.
        reference: a picture to move towards as well.

    Raises ValueError for an empty text, a strength that is none, or an unknown direction.
    """
    thresholds = model.domain.editing
    how, wants = how or Directions(), wants_of(attributes, strength)
    searching = any(want.search for want in wants.values())
    localities = (
        thresholds.localities if searching and how.method == "neighbours" else thresholds.localities[:1]
    )
    factor = 1.0 if strength == "auto" else float(strength)
    tried: list[tuple[Trials, Trial]] = []
    for locality in localities:
        course = make_course(model, origin, wants, how, reference=reference, locality=locality)
        trials = start_trials(model, origin, course, wants, factor)
        tried.append((trials, least_strengths(trials, wants, thresholds=thresholds)))
        found = zip(wants.values(), tried[-1][1].clearness, strict=True)
        if all(clear >= thresholds.agrees for want, clear in found if want.search):
            break
    return measure_change(model, origin, *max(tried, key=lambda one: one[1].shown(thresholds.agrees)))


@torch.no_grad()
def make_sweep(
    model: "Model",
    origin: Origin,
    attributes: Mapping[str, float],
    factors: Iterable[float],
    how: Directions | None = None,
    *,
    reference: Image.Image | None = None,
) -> list[Change]:
    """The changes at each of `factors` times the strengths, along one course; otherwise as `make_change`."""
    wants = wants_of(attributes)
    course = make_course(model, origin, wants, how or Directions(), reference=reference)
    changes = []
    for factor in factors:
        trials = start_trials(model, origin, course, wants, factor)
        trial = trials([factor * want.strength for want in wants.values()])
        changes.append(measure_change(model, origin, trials, trial))
    return changes


@torch.no_grad()
def make_course(
    model: "Model",
    origin: Origin,
    texts: Iterable[str],
    how: Directions,
    *,
    reference: Image.Image | None = None,
    locality: float | None = None,
) -> Course:
    """Where strengths of texts, and of the reference, lead from an origin.

    `locality` is that of `ReferenceBank.towards`; None takes the first of the model's.
    """
    embeddings = {text: model.prompt(text).embedding for text in texts}
    bank = model.reference_bank
    restrict = None
    if how.threshold > 0 and embeddings:
        masks = [
            relevance(
                model.generator,
                model.clip,
                bank.towards(origin.e[0], text[0]),
                lambda random: model.random_ws(1, random),
            )
            for text in embeddings.values()
        ]
        kept = [torch.stack(layer).amax(0) >= how.threshold for layer in zip(*masks, strict=True)]
        restrict = restricted_to(model.generator, kept)
    return Course(
        Parts(
            lambda e: model.mapper(model.gap.from_image(e)),
            lambda e: model.gap.map_text(e, model.mapper),
            bank,
        ),
        origin.ws,
        origin.e,
        embeddings,
        model.prompt(how.neutral or model.domain.neutral).embedding,
        method=how.method,
        locality=model.domain.editing.localities[0] if locality is None else locality,
        keep=[model.prompt(text).embedding for text in how.keep],
        reference=None if reference is None else model.prompt(reference).embedding,
        restrict=restrict,
    )


def start_trials(
    model: "Model", origin: Origin, course: Course, wants: Mapping[str, Want], reference: float = 1.0
) -> Trials:
    """Trials along a course; of the origin's own picture nothing is drawn again."""

    def draw(ws: Tensor) -> tuple[Tensor, Tensor]:
        image = model.draw_ws(ws)
        return image, model.clip.encode_images(image)

    signs = [want.sign for want in wants.values()]
    return Trials(course, signs, model.reference_bank, draw, before=origin.image, reference=reference)


@torch.no_grad()
def measure_change(model: "Model", origin: Origin, trials: Trials, trial: Trial) -> Change:
    """What the picture of a trial came to."""
    course = trials.course
    ws = trials.ws(trial.strengths)
    before = trials.clearness(origin.e)
    spread = lambda shift: float((shift / model.mapper.w_std).square().mean().sqrt())  # noqa: E731
    return Change(
        ws=ws,
        image=trial.image,
        strengths=dict(zip(course.texts, trial.strengths, strict=True)),
        clearness=dict(zip(course.texts, trial.clearness, strict=True)),
        gains={
            text: now - then for text, now, then in zip(course.texts, trial.clearness, before, strict=True)
        },
        identity=trial.identity,
        perceptual=float(feature_distance(origin.features, model.clip.image_features(trial.image))),
        moved=spread(ws - origin.ws),
        from_average=spread(ws - model.w_avg),
        course=course,
        reference=trials.reference,
        agrees=model.domain.editing.agrees,
    )

"""How strong an edit should be: the least at which CLIP agrees, while the rest stays as it was."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.domain import EditThresholds
from clip2gan.editing.directions import Course, ReferenceBank

FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)
MORE_STEPS = 3  # of the ladder, that are tried where the first clear enough is too unlike

Strength = float | Literal["auto", "-auto"]
Draw = Callable[[Tensor], tuple[Tensor, Tensor]]
"""ws [1, num_ws, w_dim] -> their image [1, 3, R, R] and its embedding [1, D]."""


@dataclass(frozen=True)
class Want:
    """What is wanted of an attribute.

    Attributes:
        strength: the strength itself, or the unit that the searched one is a multiple of.
        sign: 1 if the picture is to show it, -1 if it is not to.
        search: whether the strength is to be found.
    """

    strength: float
    sign: int
    search: bool = False


@dataclass(frozen=True)
class Trial:
    """A picture at certain strengths, and what CLIP sees in it.

    Attributes:
        strengths: of the course's texts, in order.
        image: [1, 3, R, R], about [-1, 1].
        e: [1, D], its embedding.
        clearness: of each text, see `ReferenceBank.clearness`.
        identity: see `identity`.
    """

    strengths: tuple[float, ...]
    image: Tensor = field(repr=False)
    e: Tensor = field(repr=False)
    clearness: tuple[float, ...]
    identity: float

    def shown(self, agrees: float) -> float:
        """What it shows of all attributes together; more than is enough of one counts nothing."""
        return sum(min(value, agrees) for value in self.clearness)


def wants_of(attributes: Mapping[str, Strength], strength: float | Literal["auto"] = 1.0) -> dict[str, Want]:
    """Attributes and their strengths as a user gives them.

    Args:
        attributes: text -> strength; "auto" looks for it, "-auto" for that of taking away.
        strength: multiplies the numbers among them; "auto" looks for all.

    >>> wants_of({"smiling": "auto"})
    {'smiling': Want(strength=1.0, sign=1, search=True)}
    >>> wants_of({"glasses": -1.0}, strength=2.0)
    {'glasses': Want(strength=-2.0, sign=-1, search=False)}

    Raises ValueError for a strength that is neither a finite number nor one of these words.
    """
    wants = {}
    for text, value in attributes.items():
        if value in ("auto", "-auto"):
            sign = 1 if value == "auto" else -1
            wants[text] = Want(float(sign), sign, search=True)
            continue
        number = _number(value, text)
        if strength == "auto":
            wants[text] = Want(number, sign_of(number), search=True)
        else:
            factor = _number(strength, "strength")
            wants[text] = Want(factor * number, sign_of(factor) * sign_of(number))
    return wants


def identity(e: Tensor, before: Tensor, named: Tensor) -> Tensor:
    """The cosines [N] of e [N, D] and `before` [D] without the directions [K, D] that were to change."""
    rest = torch.cat([before[None], e])
    if len(named):
        basis = torch.linalg.qr(named.T).Q.T
        rest = rest - (rest @ basis.T) @ basis
    rest = F.normalize(rest, dim=1)
    return rest[1:] @ rest[0]


class Trials:
    """Pictures of a course at different strengths, each drawn once."""

    def __init__(
        self,
        course: Course,
        signs: Sequence[int],
        bank: ReferenceBank,
        draw: Draw,
        *,
        before: Tensor | None = None,
        reference: float = 1.0,
    ):
        """Draw nothing yet.

        Args:
            course: where strengths lead.
            signs: what is wanted of each text, see `Want`.
            bank: to compare with.
            draw: draws ws and embeds the image.
            before: [1, 3, R, R], the image at strengths of zero, where it is known.
            reference: the strength of the course's reference picture.
        """
        self.course, self.reference = course, reference
        self._signs, self._bank, self._draw = signs, bank, draw
        self._seen: dict[tuple[float, ...], Trial] = {}
        if before is not None and not course.has_reference:
            nothing = (0.0,) * len(course.texts)
            self._seen[nothing] = self._judge(nothing, before, course.e)

    def __call__(self, strengths: Sequence[float]) -> Trial:
        """The picture at these strengths of the course's texts."""
        key = tuple(value + 0.0 for value in strengths)  # -0.0 is 0.0
        if key not in self._seen:
            self._seen[key] = self._judge(key, *self._draw(self.ws(key)))
        return self._seen[key]

    def ws(self, strengths: Sequence[float]) -> Tensor:
        """[1, num_ws, w_dim]."""
        return self.course(torch.tensor([list(strengths)]), self.reference)

    def clearness(self, e: Tensor) -> tuple[float, ...]:
        """How clearly an embedding [1, D] shows each text (or its absence), see `ReferenceBank.clearness`."""
        pairs = zip(self.course.e_texts, self._signs, strict=True)
        return tuple(float(self._bank.clearness(e, text, sign)) for text, sign in pairs)

    def _judge(self, strengths: tuple[float, ...], image: Tensor, e: Tensor) -> Trial:
        same = float(identity(e, self.course.e[0], self.course.named))
        return Trial(strengths, image, e, self.clearness(e), same)


def least_strengths(
    trials: Trials,
    wants: Mapping[str, Want],
    *,
    thresholds: EditThresholds | None = None,
    factors: Sequence[float] = FACTORS,
) -> Trial:
    """For each searched attribute in turn, the picture of least strength at which CLIP agrees.

    The strength is 0 or one of `factors` times the wanted one, the least at which the clearness is
    `thresholds.agrees` or more; never one whose `identity` is under `thresholds.identity`. Where none is
    enough it is the clearest that is admissible, and where none is admissible, 0. Of several attributes the
    later ones blur the earlier ones, so that there is a second round where CLIP does not agree to all of them
    in the end; the better of both counts.

    Clearness rises with the strength, if not for ever, and identity falls. So the ladder of factors is halved
    rather than climbed: some four pictures in place of one for each factor.
    """
    thresholds = thresholds or EditThresholds()
    units = [want.strength for want in wants.values()]
    strengths = [0.0 if want.search else want.strength for want in wants.values()]
    searched = [index for index, want in enumerate(wants.values()) if want.search]
    rounds: list[Trial] = []
    for _ in range(2 if len(searched) > 1 else 1):
        trial = trials(strengths)
        for index in searched:
            ladder = [
                [*strengths[:index], units[index] * factor, *strengths[index + 1 :]]
                for factor in (0.0, *factors)
            ]
            trial = _least(trials, ladder, index, thresholds)
            strengths = list(trial.strengths)
        rounds.append(trial)
        if all(trial.clearness[index] >= thresholds.agrees for index in searched):
            break
    return max(rounds, key=lambda trial: trial.shown(thresholds.agrees))


def _least(
    trials: Trials, ladder: Sequence[Sequence[float]], index: int, thresholds: EditThresholds
) -> Trial:
    """The trial at the lowest step of a ladder where text `index` is clear enough, or else the clearest."""

    last = len(ladder) - 1
    seen = {0}

    def clear(step: int) -> float:
        seen.add(step)
        return trials(ladder[step]).clearness[index]

    def admissible(step: int) -> bool:
        return step == 0 or trials(ladder[step]).identity >= thresholds.identity

    def enough(step: int) -> bool:
        return clear(step) >= thresholds.agrees and admissible(step)

    if enough(0):
        return trials(ladder[0])
    low, high = 0, last + 1  # `low` is not clear enough; `high` is, or is beyond the clearest
    while high - low > 1:
        middle = (low + high) // 2
        if clear(middle) >= thresholds.agrees or (low > 0 and clear(middle) < clear(low)):
            high = middle
        else:
            low = middle
    # On the way from one look to another a picture can be like neither, so a few more steps are tried.
    for step in range(high, min(high + MORE_STEPS, last) + 1):
        if enough(step):
            return trials(ladder[step])
    best = max((step for step in seen if admissible(step)), key=clear)
    while nearby := [
        step
        for step in (best - 1, best + 1)
        if 0 <= step <= last and admissible(step) and clear(step) > clear(best)
    ]:
        best = nearby[0]
    while best > 0 and enough(best) and enough(best - 1):
        best -= 1
    return trials(ladder[best])


def sign_of(strength: float) -> int:
    """1 for an attribute that is added, -1 for one that is taken away."""
    return 1 if strength >= 0 else -1


def _number(value: object, name: str) -> float:
    if isinstance(value, (int, float)) and abs(value) < float("inf"):
        return float(value)
    raise ValueError(f"the strength of {name!r} must be a finite number or 'auto', got {value!r}")

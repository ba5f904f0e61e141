"""How strong an edit should be: the least that CLIP agrees to, while the rest stays; and what it came to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.domain import EditThresholds
from clip2gan.editing.directions import Course, Memory

FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)

Embed = Callable[[Tensor], Tensor]  # ws [N, num_ws, w_dim] -> embeddings [N, D] of their pictures


@dataclass(frozen=True)
class Choice:
    """The strengths that were found.

    Attributes:
        strengths: attribute -> strength.
        agrees: attribute -> whether CLIP finds it in the picture.
        clearness: attribute -> how clearly the picture shows it in the end, see `Memory.clearness`.
        shown: what the picture shows of all attributes together; more than is enough of one counts nothing.
    """

    strengths: Mapping[str, float]
    agrees: Mapping[str, bool]
    clearness: Mapping[str, float]
    shown: float


def identity(e: Tensor, before: Tensor, named: Tensor) -> Tensor:
    """The cosines [N] of e [N, D] and `before` [D] without the directions [K, D] that were to change."""
    rest = torch.cat([before[None], e])
    if len(named):
        basis = torch.linalg.qr(named.T).Q.T
        rest = rest - (rest @ basis.T) @ basis
    rest = F.normalize(rest, dim=1)
    return rest[1:] @ rest[0]


def least_strengths(
    course: Course,
    wanted: Mapping[str, float],
    memory: Memory,
    embed: Embed,
    *,
    thresholds: EditThresholds | None = None,
    factors: Sequence[float] = FACTORS,
) -> Choice:
    """For each attribute in turn, the least strength at which CLIP agrees.

    The strength is 0 or one of `factors` times the wanted one, the least at which the clearness is
    `thresholds.agrees` or more; never one whose `identity` is under `thresholds.identity`. Where none is
    enough it is the clearest that is admissible, and where none is admissible, 0. Of several attributes the
    later ones blur the earlier ones, so that there is a second round where CLIP does not agree to all of them
    in the end; the better of both counts.
    """
    thresholds = thresholds or EditThresholds()
    names = list(course.texts)
    signs = [sign_of(wanted[name]) for name in names]
    strengths, clear = torch.zeros(len(names)), list[float]()
    choices: list[Choice] = []
    for _ in range(2 if len(names) > 1 else 1):
        for index, name in enumerate(names):
            tried = strengths.repeat(len(factors) + 1, 1)
            tried[0, index] = 0
            tried[1:, index] = wanted[name] * torch.tensor(factors)
            e = embed(course(tried))
            found = [memory.clearness(e, *each).tolist() for each in zip(course.e_texts, signs, strict=True)]
            same = identity(e, course.e[0], course.named).tolist()
            admissible = [i for i in range(len(tried)) if same[i] >= thresholds.identity] or [0]
            enough = [i for i in admissible if found[index][i] >= thresholds.agrees]
            best = enough[0] if enough else max(admissible, key=found[index].__getitem__)
            strengths, clear = tried[best], [row[best] for row in found]
        choices.append(
            Choice(
                dict(zip(names, strengths.tolist(), strict=True)),
                {name: value >= thresholds.agrees for name, value in zip(names, clear, strict=True)},
                dict(zip(names, clear, strict=True)),
                sum(min(value, thresholds.agrees) for value in clear),
            )
        )
        if all(choices[-1].agrees.values()):
            break
    return max(choices, key=lambda choice: choice.shown)


def sign_of(strength: float) -> int:
    """1 for an attribute that is added, -1 for one that is taken away."""
    return 1 if strength >= 0 else -1

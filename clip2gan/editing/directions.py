"""Where words lead a picture: directions in latent space, kept off what is to stay.

    neighbours  map e + Δe and subtract what e is mapped to, where Δe leads from the remembered pictures that
                are like this one to those of them that the text describes (the default)
    clip        the same with the pure difference of CLIP's texts, Δe = text - neutral
    mapped      M(text) - M(neutral) in W+
    raw         M(text) itself, as CLIP2GAN (Wang et al., 2022) adds it; it holds the average face as well

`neighbours` knows what a text's opposite is (the pictures that it does not describe), so that taking away is
no mere change of sign, and it has a unit: 1 is where the embedding says the text as clearly as pictures do
that show it.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan2.seeds import seed_generator

if TYPE_CHECKING:
    from clip2gan.clip import ClipEncoder
    from stylegan2 import Generator

Method = Literal["neighbours", "clip", "mapped", "raw"]

LOCALITY = 0.4  # how much likeness to the picture counts beside the text, see `ReferenceBank.towards`
LONGEST_STEP = 6.0  # times Δe; what needs more is not to be had that way
SMALLEST = 0.1  # singular values of a style layer, relative to its largest, that a change of w may use
LEAST_STEP = 0.25  # of the way from the mean picture to one that shows the text, where nothing is missing


@dataclass(frozen=True)
class ReferenceBank:
    """Embeddings of pictures to compare with.

    Attributes:
        embeddings: [M, D], of unit length.
        sharpness: CLIP's logit scale: softmax(sharpness * cosine) is its posterior of pictures given a text.
    """

    embeddings: Tensor
    sharpness: float

    def towards(self, e: Tensor, e_text: Tensor, sign: int = 1, locality: float = LOCALITY) -> Tensor:
        """Δe [D]: from the pictures like e [D] to those of them that a text [D] describes (or does not: -1).

        The difference of two means, with weights softmax(sharpness * locality * cos(., e)) times CLIP's
        posterior given the text, and without it. What the text does not name is alike in both, and cancels.
        """
        like = locality * self.sharpness * (self.embeddings @ e)
        scores = self.embeddings @ e_text
        if sign > 0:
            named = like + self.sharpness * scores
        else:
            named = like.masked_fill(scores > scores.mean(), -torch.inf)
        return (named.softmax(0) - like.softmax(0)) @ self.embeddings

    def level(self, e_text: Tensor, sign: int = 1) -> float:
        """The mean cosine with a text [D] of the pictures that it describes, by CLIP's posterior.

        With sign -1 of those that it does not describe: that fit it less than the average.
        """
        scores = self.embeddings @ e_text
        if sign > 0:
            return float((self.sharpness * scores).softmax(0) @ scores)
        return float(scores[scores <= scores.mean()].mean())

    def clearness(self, e: Tensor, e_text: Tensor, sign: int = 1) -> Tensor:
        """How clearly embeddings e [N, D] show a text [D] (or its absence): [N].

        1 is the `level`, 0 an average picture.
        """
        usual = self.mean(e_text)
        way = self.level(e_text, sign) - usual
        return (e @ e_text - usual) / (way if abs(way) > 1e-6 else sign * 1e-6)

    def mean(self, e_text: Tensor) -> float:
        """The cosine with a text [D] of an average picture."""
        return float((self.embeddings @ e_text).mean())

    def step(self, e: Tensor, e_text: Tensor, sign: int = 1, locality: float = LOCALITY) -> Tensor:
        """`towards`, so long that e [D] comes to the text's `level`, and never shorter than `LEAST_STEP`."""
        delta = self.towards(e, e_text, sign, locality)
        level, usual = self.level(e_text, sign), self.mean(e_text)
        start = float(e @ e_text)
        goal = start + sign * max(sign * (level - start), LEAST_STEP * sign * (level - usual))
        rate = sign * float(delta @ e_text)
        if rate < 1e-6:  # the text is nothing that these pictures differ in
            return delta
        length = 1.0
        for _ in range(20):  # nearly linear, so this converges fast
            reached = float(F.normalize(e + length * delta, dim=0) @ e_text)
            length = min(max(length + sign * (goal - reached) / rate, 0.0), LONGEST_STEP)
        return length * delta


@dataclass(frozen=True)
class Parts:
    """What directions are computed with: M for embeddings of pictures, M for those of texts, the bank."""

    map_image: Callable[[Tensor], Tensor]
    map_text: Callable[[Tensor], Tensor]
    bank: ReferenceBank


class Course:
    """Where strengths lead one picture.

    Attributes:
        texts: what they are strengths of, in order.
        ws: [1, num_ws, w_dim], the picture's latents.
        e: [1, D], its embedding.
        e_texts: [K, D].
        named: directions [K, D] of unit length in embedding space, along which change is wanted.
    """

    def __init__(
        self,
        parts: Parts,
        ws: Tensor,
        e: Tensor,
        texts: Mapping[str, Tensor],
        neutral: Tensor,
        *,
        method: Method = "neighbours",
        locality: float = LOCALITY,
        keep: Sequence[Tensor] = (),
        reference: Tensor | None = None,
        restrict: Callable[[Tensor], Tensor] | None = None,
    ):
        """Prepare the directions.

        Args:
            parts: mapper and bank.
            ws: [1, num_ws, w_dim].
            e: [1, D], embedding of its picture.
            texts: name -> embedding [1, D].
            neutral: [1, D], the text that attributes are added to.
            method: see the module.
            locality: see `ReferenceBank.towards`.
            keep: embeddings [1, D] of texts whose directions are taken out of all others.
            reference: [1, D], embedding of a picture to move towards as well.
            restrict: applied to the difference [N, num_ws, w_dim] that is added to ws (see `relevance`).

        Raises ValueError for an unknown method.
        """
        if method not in ("neighbours", "clip", "mapped", "raw"):
            raise ValueError(f"unknown direction {method!r}; choose neighbours, clip, mapped or raw")
        self.texts, self.ws, self.e, self.method = list(texts), ws, e, method
        self._parts, self._restrict, self._reference = parts, restrict, reference
        self.e_texts = torch.cat([*texts.values()]) if texts else e[:0]
        bank = parts.bank
        steps = {
            sign: [bank.step(e[0], text[0], sign, locality) for text in texts.values()] for sign in (1, -1)
        }
        self.named = F.normalize(_stack(steps[1], e), dim=1)
        if method == "clip":
            deltas = [F.normalize(text - neutral, dim=1)[0] for text in texts.values()]
            steps = {1: deltas, -1: [-delta for delta in deltas]}
        self._kept = [bank.towards(e[0], text[0], 1, locality) for text in keep]
        basis = _orthonormal(_stack(self._kept, e))
        self._steps = {sign: _without(_stack(rows, e), basis) for sign, rows in steps.items()}
        self._kept_ws = _orthonormal(self._shift(0.2 * basis).flatten(1)) if len(basis) else None
        if method in ("mapped", "raw") and texts:
            origin = parts.map_text(neutral) if method == "mapped" else torch.zeros_like(ws)
            self._mapped = torch.cat([parts.map_text(text) for text in texts.values()]) - origin

    @property
    def has_reference(self) -> bool:
        """Whether it moves towards a picture as well."""
        return self._reference is not None

    def __call__(self, strengths: Tensor, reference: float = 1.0) -> Tensor:
        """Strengths [N, K], and that of the reference -> ws [N, num_ws, w_dim]; 0 gives the picture's own."""
        strengths = strengths.to(self.ws)
        if self.method in ("mapped", "raw"):
            moved = strengths.new_zeros(len(strengths), *self.ws.shape[1:])
            if self.texts:
                moved = torch.einsum("nk,klw->nlw", strengths, self._mapped)
            if self._reference is not None:
                moved = moved + self._shift(reference * (self._reference - self.e))
        else:
            deltas = strengths.relu() @ self._steps[1] + (-strengths).relu() @ self._steps[-1]
            if self._reference is not None:
                deltas = deltas + reference * (self._reference - self.e)
            moved = self._shift(deltas) * (deltas.abs().amax(1) > 0)[:, None, None]
        if self._kept_ws is not None:
            moved = _without(moved.flatten(1), self._kept_ws).view_as(moved)
        if self._restrict is not None:
            moved = self._restrict(moved)
        return self.ws + moved

    def _shift(self, deltas: Tensor) -> Tensor:
        """M(e + Δe) - M(e) for deltas [N, D]: [N, num_ws, w_dim]."""
        mapped = self._parts.map_image(torch.cat([self.e, F.normalize(self.e + deltas, dim=1)]))
        return mapped[1:] - mapped[:1]


def relevance(
    generator: "Generator",
    clip: "ClipEncoder",
    delta: Tensor,
    draw: Callable[[torch.Generator], Tensor],
    samples: int = 24,
    seed: int = 0,
) -> list[Tensor]:
    """How much each style channel moves CLIP along delta [D]: for each of num_ws latents [channels], 0 to 1.

    It is measured on random latents [1, num_ws, w_dim] of `draw`: |mean of d(e . delta) / d(style)| times the
    channel's standard deviation, relative to the largest of all. StyleCLIP (Patashnik et al. 2021, section 6)
    moves each channel and looks; the gradient says the same for small moves, in one pass for all channels.
    """
    random = seed_generator(seed)
    direction = F.normalize(delta, dim=0)
    # A network that asks for gradients of its weights runs layer by layer, so that the styles can be seen.
    generator = deepcopy(generator).requires_grad_(True)
    layers = generator.synthesis.style_layers()
    values: list[list[Tensor]] = [[] for _ in layers]
    slopes: list[list[Tensor]] = [[] for _ in layers]
    for _ in range(samples):
        ws = draw(random)
        seen: dict[nn.Module, Tensor] = {}

        def see(affine: nn.Module, _inputs: object, style: Tensor, seen: dict = seen) -> None:
            seen[affine] = style

        hooks = [affine.register_forward_hook(see) for affines in layers for affine in affines]
        with torch.enable_grad():
            image = generator.synthesis(ws, noise_mode="const")
            score = (clip.encode_images(image) @ direction).sum()
            styles = [[seen[affine] for affine in affines] for affines in layers]
            flat = [style for row in styles for style in row]
            gradients = iter(torch.autograd.grad(score, flat))
        for hook in hooks:
            hook.remove()
        for index, row in enumerate(styles):
            values[index].append(torch.cat([style.detach()[0] for style in row]))
            slopes[index].append(torch.cat([next(gradients)[0] for _ in row]))
    found = [
        torch.stack(slope).mean(0).abs() * torch.stack(value).std(0)
        for slope, value in zip(slopes, values, strict=True)
    ]
    largest = max(float(row.max()) for row in found)
    return [row / max(largest, 1e-12) for row in found]


def restricted_to(generator: "Generator", masks: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of latents [N, num_ws, w_dim] to the nearest that leaves masked style channels (0) alone.

    Styles are affine in w, so the change of w with the wanted change of styles is a least-squares problem for
    each layer; directions of w that hardly move a style are left out of it.
    """
    projections = []
    for affines, mask in zip(generator.synthesis.style_layers(), masks, strict=True):
        weight = torch.cat([affine.weight * affine.weight_gain for affine in affines])
        projections.append(torch.linalg.pinv(weight, rtol=SMALLEST) @ (mask.to(weight)[:, None] * weight))
    together = torch.stack(projections)
    return lambda moved: torch.einsum("lvw,nlw->nlv", together, moved)


def _stack(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(rows)) if rows else like[:0]


def _orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis [K', D] of the span of rows [K, D]."""
    if not len(rows):
        return rows
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[sizes > 1e-4 * sizes.max().clamp(min=1e-12)]


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows [N, D] less their part in the span of an orthonormal basis [K, D]."""
    return rows - (rows @ basis.T) @ basis if len(basis) else rows

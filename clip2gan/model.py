"""A model: CLIP, gap, mapper and generator, assembled into what a user wants to do.

generate    text    -> CLIP text -> gap -> mapper -> ws -> truncation -> synthesis
vary        picture -> CLIP image -------> mapper -> ws -> truncation -> synthesis
edit        picture -> ws by inversion or encoder, or CLIP image -> mapper
            ws + M(e + strength * change of e) - M(e) -> synthesis; see editing.directions
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip2gan import __version__
from clip2gan.bundle import Bundle, load_bundle
from clip2gan.data.pictures import fit_square
from clip2gan.data.samples import draw_samples, shards
from clip2gan.defaults import TRUNCATION
from clip2gan.devices import resolve_device
from clip2gan.domain import EditThresholds, InversionConfig, TuningConfig
from clip2gan.editing.directions import (
    LOCALITY,
    Course,
    Memory,
    Method,
    Parts,
    relevance,
    restricted_to,
)
from clip2gan.editing.inversion import invert, psnr, tune
from clip2gan.editing.strength import Choice, identity, least_strengths, sign_of
from clip2gan.images import to_picture
from clip2gan.losses import feature_distance
from clip2gan.mappers.own import OwnMapping
from stylegan2.checkpoints.download import cache_folder
from stylegan2.generator import set_precision, truncate
from stylegan2.runs import step_generator

Source = Literal["invert", "encoder", "clip"]

BATCH_PIXELS = 2**18  # pixels of the pictures that are in memory at once


def load(
    model: str = "avatars",
    device: str = "auto",
    mapper: str | None = None,
    precision: str = "auto",
    compiled: bool = False,
) -> "Model":
    """Load a model.

    Args:
        model: "avatars", a bundle's folder, or hf-hub:ORG/NAME.
        device: "auto" (the fastest there is), "cpu", "cuda" or "mps".
        mapper: the kind of mapper; None takes the model's first.
        precision: what the generator computes in: "fp32", "bf16", "fp16", or "auto", which is float32 unless
            the device is a GPU and the generator was trained with 16 bits.
        compiled: run the synthesis network through torch.compile, with CUDA graphs on a GPU. The first
            picture takes half a minute more; it needs a C++ compiler.

    Raises:
        ValueError: an unknown model, mapper, device or precision, or a damaged file.
        FileNotFoundError: a part of the model is missing.
        OSError: the model has to be fetched and cannot be.
    """
    return Model(load_bundle(model, resolve_device(device), mapper), model, precision, compiled)


@dataclass(frozen=True)
class Prompt:
    """What a picture is drawn from.

    Attributes:
        embedding: [1, D], unit length.
        is_text: whether it is a text's embedding, or a picture's.
        center: [1, num_ws, w_dim] or [w_dim], where truncation pulls to.
    """

    embedding: Tensor
    is_text: bool
    center: Tensor


@dataclass(frozen=True)
class Directions:
    """How texts become changes of latents; see `clip2gan.editing.directions`.

    Attributes:
        neutral: the text that attributes are added to; None: the domain's.
        method: "neighbours", "clip", "mapped" or "raw".
        keep: texts whose own directions are left out.
        threshold: style channels that move CLIP less than this part of the most effective one stay.
    """

    neutral: str | None = None
    method: Method = "neighbours"
    keep: tuple[str, ...] = ()
    threshold: float = 0.0


@dataclass(frozen=True)
class Change:
    """An edit of latents, and what it came to.

    Attributes:
        ws: [1, num_ws, w_dim].
        strengths: attribute -> strength.
        clearness: attribute -> how clearly CLIP finds it: 1 as in pictures that show it, 0 as in all.
        gains: attribute -> how much clearer it became.
        identity: cosine of CLIP's embeddings before and after, in all but what was named.
        perceptual: distance of CLIP's image features before and after, in the form of LPIPS.
        moved: how far ws went, as a root mean square in standard deviations of latents.
        from_average: how far they are from w_avg, likewise.
        course: where other strengths lead.
        reference: the strength of the picture to move towards.
        agrees: the clearness that counts as shown.
    """

    ws: Tensor
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


class Model:
    """A model that draws and edits.

    Pictures are computed one by one, with their own random numbers, so that a picture's bytes never depend
    on the others that were asked for.
    """

    def __init__(self, bundle: Bundle, name: str, precision: str = "auto", compiled: bool = False):
        set_precision(bundle.generator, precision)
        if compiled:
            bundle.generator.synthesis.compile(mode="reduce-overhead")
        self.name, self.precision = name, precision
        self.bundle, self.domain = bundle, bundle.config.domain
        self.generator, self.clip, self.gap = bundle.generator, bundle.clip, bundle.gap
        self.mapper_kind, self.mapper = next(iter(bundle.mappers.items()))
        if isinstance(self.mapper, OwnMapping):
            self.mapper.fit_spread(self.clip.encode_texts([self.domain.neutral]))
        self.encoder = bundle.encoder
        self.resolution = self.generator.config.img_resolution
        self.w_avg = self.generator.mapping.w_avg
        self.device = self.w_avg.device

    def provenance(self) -> dict[str, Any]:
        """What a picture of this model owes itself to: model, mapper, device and versions."""
        return {
            "model": self.name,
            "fingerprint": self.bundle.fingerprint,
            "mapper": self.mapper_kind,
            "gap": self.gap.kind,
            "device": self.device.type,
            "precision": self.precision,
            "versions": {
                "clip2gan": __version__,
                "torch": torch.__version__,
                "open_clip": version("open_clip_torch"),
            },
        }

    def generate(
        self,
        texts: str | Sequence[str],
        num: int = 1,
        seed: int = 0,
        *,
        truncation: float = TRUNCATION,
        rerank: int = 1,
        style: Tensor | None = None,
    ) -> list[Image.Image]:
        """`num` pictures of each text, text by text.

        Args:
            texts: one or several; what is beyond CLIP's context is cut.
            num: pictures of each text; picture i uses seed + i.
            seed: of the first picture.
            truncation: psi; 1 leaves the latents as they are, 0 gives the average picture (of the text, where
                the gap draws different ones).
            rerank: candidates for each picture, of which CLIP picks the one nearest to the text.
            style: ws [1, num_ws, w_dim] that give the fine layers (see `style`).

        Raises ValueError for an empty text.
        """
        prompts = [self.prompt(text) for text in ([texts] if isinstance(texts, str) else texts)]
        seeds = range(seed, seed + num)
        return [
            self.draw(prompt, each, truncation=truncation, rerank=rerank, style=style)
            for prompt in prompts
            for each in seeds
        ]

    def vary(
        self,
        image: Image.Image,
        num: int = 1,
        seed: int = 0,
        *,
        truncation: float = TRUNCATION,
        rerank: int = 1,
        style: Tensor | None = None,
    ) -> list[Image.Image]:
        """Pictures that CLIP sees like `image`; arguments as those of `generate`."""
        prompt = self.prompt(image)
        return [
            self.draw(prompt, each, truncation=truncation, rerank=rerank, style=style)
            for each in range(seed, seed + num)
        ]

    @torch.no_grad()
    def prompt(self, source: str | Image.Image) -> Prompt:
        """Embed a text or a picture. Raises ValueError for an empty text."""
        if isinstance(source, str):
            if not source.strip():
                raise ValueError("the text is empty; say what the picture shows")
            return self.embedded(self.clip.encode_texts([source]), is_text=True)
        return self.embedded(self.clip.encode_images([source]), is_text=False)

    @torch.no_grad()
    def embedded(self, embedding: Tensor, is_text: bool) -> Prompt:
        """A prompt of a unit embedding [1, D].

        Truncation pulls to the middle of a text's own pictures, where they differ around one. The mean latent
        of all pictures, to which it pulls otherwise, would take away what the text names (as the mean of all
        classes does in conditional generators: Sauer et al. 2022, StyleGAN-XL).
        """
        center = self.w_avg
        if self.takes_texts or (is_text and self.gap.is_random):
            center = self.mapper(self.gap.center(embedding) if is_text else self.gap.from_image(embedding))
        return Prompt(embedding, is_text, center)

    @torch.no_grad()
    def draw(
        self,
        prompt: Prompt,
        seed: int = 0,
        *,
        truncation: float = TRUNCATION,
        rerank: int = 1,
        style: Tensor | None = None,
    ) -> Image.Image:
        """One picture of a prompt; arguments as those of `generate`."""
        candidates = []
        for index in range(rerank):
            ws = truncate(self._sample(prompt, candidate_seed(seed, index)), prompt.center, truncation)
            if style is not None:
                coarse = self.generator.num_ws // 2
                ws = torch.cat([ws[:, :coarse], style[:, coarse:]], dim=1)
            candidates.append(self.synthesize(ws))
        if rerank == 1:
            return candidates[0]
        scores = [float((self.prompt(image).embedding * prompt.embedding).sum()) for image in candidates]
        return candidates[scores.index(max(scores))]

    @torch.no_grad()
    def style(self, source: int | Image.Image, truncation: float = TRUNCATION) -> Tensor:
        """ws [1, num_ws, w_dim] of a seed's random latent or of a picture, to take fine layers from."""
        if isinstance(source, int):
            return self.random_ws(1, torch.Generator().manual_seed(source), truncation)
        return truncate(self.estimate(source), self.w_avg, truncation)

    @torch.no_grad()
    def random_ws(self, num: int, random: torch.Generator, truncation: float = 1.0) -> Tensor:
        """ws [num, num_ws, w_dim] of random latents; one that takes texts is told the neutral one."""
        z = torch.randn(num, self.generator.config.z_dim, generator=random).to(self.device)
        if not self.takes_texts:
            c = self.generator.draw_labels(num, random)
            return self.generator.mapping(z, c, truncation_psi=truncation)
        c = self.clip.encode_texts([self.domain.neutral])
        return truncate(self.generator.mapping(z, c.expand(num, -1)), self.mapper(c), truncation)

    @torch.no_grad()
    def synthesize(self, ws: Tensor) -> Image.Image:
        """The picture of ws [1, num_ws, w_dim]."""
        return to_picture(self.generator.synthesis(ws, noise_mode="const"))

    def invert(
        self,
        image: Image.Image,
        config: InversionConfig | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> Tensor:
        """ws [1, num_ws, w_dim] whose picture is `image`, cropped to a square at its centre.

        Starts from the mapper's estimate, or from the encoder's where the model has one and it is nearer; see
        `editing.inversion`. `progress` wraps the steps.
        """
        return self.invert_all([image], config, progress)

    def invert_all(
        self,
        images: Sequence[Image.Image],
        config: InversionConfig | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> Tensor:
        """ws [N, num_ws, w_dim] of several pictures at once; otherwise as `invert`."""
        targets = torch.cat([to_tensor(self.fit(image), self.device) for image in images])
        with torch.no_grad():
            anchor = torch.cat([self.estimate(image) for image in images])
            starts = [anchor]
            if self.encoder is not None:
                starts.append(self._broadcast(self.encoder(targets)))
        return invert(
            self.generator,
            self.clip,
            targets,
            starts,
            anchor=anchor,
            w_std=self.mapper.w_std,
            config=config or self.domain.inversion,
            progress=progress,
        )

    @torch.no_grad()
    def encode(self, image: Image.Image) -> Tensor:
        """ws [1, num_ws, w_dim] that the model's encoder makes of a picture, in one pass.

        Raises ValueError if the model has no encoder.
        """
        if self.encoder is None:
            raise ValueError(
                f"the model {self.name} has no encoder; "
                f"`clip2gan train-encoder --model {self.name}` makes one"
            )
        return self._broadcast(self.encoder(to_tensor(self.fit(image), self.device)))

    def latents(self, image: Image.Image, source: Source = "invert") -> Tensor:
        """ws [1, num_ws, w_dim] of a picture: by optimisation, by the encoder, or of its CLIP embedding."""
        find = {"invert": self.invert, "encoder": self.encode, "clip": self.estimate}
        return find[source](image)

    def tuned(
        self,
        image: Image.Image,
        ws: Tensor,
        config: TuningConfig | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> "Model":
        """This model with a generator that is tuned to give `image` back at ws (pivotal tuning)."""
        target = to_tensor(self.fit(image), self.device)
        generator = tune(
            self.generator,
            self.clip,
            target,
            ws,
            self._draw_one,
            config=config or self.domain.tuning,
            progress=progress,
        )
        return Model(replace(self.bundle, generator=generator), self.name, self.precision)

    @torch.no_grad()
    def error(self, image: Image.Image, ws: Tensor) -> float:
        """The mean absolute difference on [-1, 1] between `image` and the picture of ws."""
        target = to_tensor(self.fit(image), self.device)
        return float((self.generator.synthesis(ws, noise_mode="const") - target).abs().mean())

    @torch.no_grad()
    def psnr(self, image: Image.Image, ws: Tensor) -> float:
        """The peak signal-to-noise ratio [dB] between `image` and the picture of ws."""
        target = to_tensor(self.fit(image), self.device)
        return float(psnr(self.generator.synthesis(ws, noise_mode="const"), target))

    @torch.no_grad()
    def estimate(self, image: Image.Image) -> Tensor:
        """ws [1, num_ws, w_dim] that the mapper makes of a picture's CLIP embedding."""
        return self.mapper(self.gap.from_image(self.prompt(image).embedding))

    def fit(self, image: Image.Image) -> Image.Image:
        """`image` as the generator would draw it: the square at its centre, at the generator's resolution."""
        return fit_square(image, self.resolution)

    def edit(
        self,
        image: Image.Image | Tensor,
        attributes: Mapping[str, float],
        *,
        source: Source = "invert",
        neutral: str | None = None,
        strength: float | Literal["auto"] = 1.0,
        reference: Image.Image | None = None,
        direction: Method = "neighbours",
        keep: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> Image.Image:
        """`image` with attributes added (positive strengths) or taken away (negative ones).

        Args:
            image: a picture, or its ws [1, num_ws, w_dim].
            attributes: text -> strength; 1 makes it as clear as pictures are that show it.
            source: how a picture's ws are found: "invert", "encoder", or "clip" for the mapped image
                embedding.
            neutral: the text that attributes are added to; None: the domain's.
            strength: multiplies all of them; "auto" looks for the least that CLIP agrees to.
            reference: a picture to move towards as well, by strength * (M(reference) - M(image)).
            direction: how a text becomes a change of latents, see `editing.directions`. With "raw" and source
                "clip" this is CLIP2GAN's z + strength * M(attribute) (Wang et al., 2022).
            keep: texts whose own directions are left out.
            threshold: style channels that move CLIP less than this part of the most effective one stay.

        Raises ValueError for an empty text, an unknown direction, or a model without the encoder asked for.
        """
        ws = image if isinstance(image, Tensor) else self.latents(image, source)
        how = Directions(neutral=neutral, method=direction, keep=tuple(keep), threshold=threshold)
        return self.synthesize(self.change(ws, attributes, how, strength=strength, reference=reference).ws)

    @torch.no_grad()
    def change(
        self,
        ws: Tensor,
        attributes: Mapping[str, float],
        how: "Directions | None" = None,
        *,
        strength: float | Literal["auto"] = 1.0,
        reference: Image.Image | None = None,
    ) -> "Change":
        """What `edit` does, on latents ws [1, num_ws, w_dim], and what it came to."""
        how = how or Directions()
        if strength != "auto":
            strengths = {text: strength * value for text, value in attributes.items()}
            signs = {text: sign_of(value) * sign_of(strength) for text, value in attributes.items()}
            course = self.course(ws, attributes, how, reference=reference)
            return self.outcome(course, strengths, signs, strength)
        tried: list[tuple[Course, Choice]] = []
        thresholds = self.domain.editing
        localities = thresholds.localities
        for locality in localities if how.method == "neighbours" else localities[:1]:
            course = self.course(ws, attributes, how, reference=reference, locality=locality)
            tried.append(
                (course, least_strengths(course, attributes, self.memory, self._embed, thresholds=thresholds))
            )
            if all(tried[-1][1].agrees.values()):
                break
        course, choice = max(tried, key=lambda one: one[1].shown)
        return self.outcome(
            course, choice.strengths, {text: sign_of(value) for text, value in attributes.items()}
        )

    @torch.no_grad()
    def course(
        self,
        ws: Tensor,
        texts: Iterable[str],
        how: "Directions | None" = None,
        *,
        reference: Image.Image | None = None,
        locality: float = LOCALITY,
    ) -> Course:
        """Where strengths of texts, and of the reference, lead from ws [1, num_ws, w_dim]."""
        how = how or Directions()
        embeddings = {text: self.prompt(text).embedding for text in texts}
        e = self._embed(ws)
        restrict = None
        if how.threshold > 0 and embeddings:
            masks = [
                relevance(self.generator, self.clip, self.memory.towards(e[0], text[0]), self._draw_one)
                for text in embeddings.values()
            ]
            kept = [torch.stack(layer).amax(0) >= how.threshold for layer in zip(*masks, strict=True)]
            restrict = restricted_to(self.generator, kept)
        return Course(
            Parts(
                lambda e: self.mapper(self.gap.from_image(e)),
                lambda e: self.gap.map_text(e, self.mapper),
                self.memory,
            ),
            ws,
            e,
            embeddings,
            self.prompt(how.neutral or self.domain.neutral).embedding,
            method=how.method,
            locality=locality,
            keep=[self.prompt(text).embedding for text in how.keep],
            reference=None if reference is None else self.prompt(reference).embedding,
            restrict=restrict,
        )

    @torch.no_grad()
    def outcome(
        self,
        course: Course,
        strengths: Mapping[str, float],
        signs: Mapping[str, int],
        reference: float = 1.0,
    ) -> "Change":
        """The change that `strengths` of the course's texts and of its reference make, and its figures.

        `signs` tell what is wanted of each text: 1 that the picture shows it, -1 that it does not. Strengths
        do not tell where one is 0.
        """
        values = torch.tensor([[strengths[text] for text in course.texts]])
        ws = course(values, reference)
        before, after = (self.generator.synthesis(each, noise_mode="const") for each in (course.ws, ws))
        e = self.clip.encode_images(after)
        clearness = {
            text: [float(self.memory.clearness(one, row, signs[text])) for one in (course.e, e)]
            for text, row in zip(course.texts, course.e_texts, strict=True)
        }
        spread = lambda shift: float((shift / self.mapper.w_std).square().mean().sqrt())  # noqa: E731
        return Change(
            ws=ws,
            strengths=dict(strengths),
            clearness={text: after for text, (_, after) in clearness.items()},
            gains={text: after - before for text, (before, after) in clearness.items()},
            identity=float(identity(e, course.e[0], course.named)),
            perceptual=float(
                feature_distance(self.clip.image_features(before), self.clip.image_features(after))
            ),
            moved=spread(ws - course.ws),
            from_average=spread(ws - self.w_avg),
            course=course,
            reference=reference,
            agrees=self.domain.editing.agrees,
        )

    @cached_property
    def memory(self) -> Memory:
        """Pictures to compare with: those that the gap remembers, or else samples of the generator.

        Samples are drawn on first use and kept in the user's cache.
        """
        remembered = getattr(self.gap, "memory", None)
        if remembered is None:
            count = self.domain.references
            folder = cache_folder().with_name("clip2gan") / "samples" / self.bundle.fingerprint[:16]
            if self.takes_texts:
                made_from = {"model": self.bundle.fingerprint, "text": self.domain.neutral}
                remembered = shards(folder, count, made_from, self._embed_random, "drawing samples")
                remembered = remembered["embeddings"]
            else:
                remembered = draw_samples(self.generator, self.clip, count, 0, folder).embeddings
        return Memory(remembered.to(self.w_avg), self.clip.logit_scale)

    @torch.no_grad()
    def _embed(self, ws: Tensor) -> Tensor:
        """Embeddings [N, D] of the pictures of ws [N, num_ws, w_dim]."""
        return torch.cat(
            [
                self.clip.encode_images(self.generator.synthesis(part, noise_mode="const"))
                for part in ws.split(max(1, BATCH_PIXELS // self.resolution**2))
            ]
        )

    def _embed_random(self, start: int, stop: int) -> dict[str, Tensor]:
        """Embeddings [stop - start, D] of random pictures."""
        return {"embeddings": self._embed(self.random_ws(stop - start, step_generator(0, -1 - start)))}

    def _draw_one(self, random: torch.Generator) -> Tensor:
        """ws [1, num_ws, w_dim] of a random latent."""
        return self.random_ws(1, random)

    def _broadcast(self, w: Tensor) -> Tensor:
        return w[:, None].repeat(1, self.generator.num_ws, 1)

    @property
    def takes_texts(self) -> bool:
        """Whether the generator takes CLIP's embeddings itself, without a mapper."""
        return isinstance(self.mapper, OwnMapping)

    def _sample(self, prompt: Prompt, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        e = prompt.embedding
        if prompt.is_text:
            e = self.gap.to_image(e, 1, generator)[:, 0]
            if self.gap.is_random and not self.mapper.is_random:  # the answers differ already
                return self.mapper(e)
        else:
            e = self.gap.from_image(e)
        return self.mapper.sample(e, 1, generator)[:, 0]


def candidate_seed(seed: int, index: int) -> int:
    """The seed of a picture's candidate: its own for the first, so that more candidates only add to it."""
    if index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:7])


def to_tensor(image: Image.Image, device: str | torch.device = "cpu") -> Tensor:
    """An RGB picture as [1, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).to(device)
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1

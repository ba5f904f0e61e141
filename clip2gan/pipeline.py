"""Clip2Gan: CLIP, gap, mapper and generator, assembled into what a user wants to do.

generate    text    -> CLIP text -> gap -> mapper -> ws -> truncation -> synthesis
vary        picture -> CLIP image -------> mapper -> ws -> truncation -> synthesis
edit        picture -> ws by inversion, or CLIP image -> mapper
            ws + strength * (M(attribute) - M(neutral)) -> synthesis
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clip2gan import __version__
from clip2gan.bundle import Bundle, load_bundle
from clip2gan.data.pictures import fit_square
from clip2gan.defaults import NEUTRAL, TRUNCATION
from clip2gan.devices import resolve_device
from clip2gan.editing.attributes import AUTO_STRENGTHS, least_strength
from clip2gan.editing.inversion import InversionConfig, invert
from clip2gan.mappers.own import OwnMapping
from stylegan2.generator import set_precision, truncate

Source = Literal["invert", "clip"]


def load(
    model: str = "avatars",
    device: str = "auto",
    mapper: str | None = None,
    precision: str = "auto",
    compiled: bool = False,
) -> "Clip2Gan":
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
    return Clip2Gan(load_bundle(model, resolve_device(device), mapper), model, precision, compiled)


@dataclass(frozen=True)
class Prompt:
    """What a picture is drawn from: a unit CLIP embedding [1, D], and whether it is a text's."""

    embedding: Tensor
    is_text: bool


class Clip2Gan:
    """A model that draws and edits.

    Pictures are computed one by one, with their own random numbers, so that a picture's bytes never depend
    on the others that were asked for.
    """

    def __init__(self, bundle: Bundle, name: str, precision: str = "auto", compiled: bool = False):
        set_precision(bundle.generator, precision)
        if compiled:
            bundle.generator.synthesis.compile(mode="reduce-overhead")
        self.name, self.precision = name, precision
        self.bundle = bundle
        self.generator, self.clip, self.gap = bundle.generator, bundle.clip, bundle.gap
        self.mapper_kind, self.mapper = next(iter(bundle.mappers.items()))
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
            truncation: psi; 1 leaves the latents as they are, 0 gives the average picture.
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
            return Prompt(self.clip.encode_texts([source]), is_text=True)
        return Prompt(self.clip.encode_images([source]), is_text=False)

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
        center = self._center(prompt)
        for index in range(rerank):
            ws = truncate(self._sample(prompt, candidate_seed(seed, index)), center, truncation)
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
        """ws [num, num_ws, w_dim] of random latents; a generator that takes texts is told NEUTRAL."""
        z = torch.randn(num, self.generator.config.z_dim, generator=random).to(self.device)
        if not self.takes_texts:
            c = self.generator.draw_labels(num, random)
            return self.generator.mapping(z, c, truncation_psi=truncation)
        c = self.clip.encode_texts([NEUTRAL])
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

        Starts from the mapper's estimate; see `editing.inversion`. `progress` wraps the steps.
        """
        target = to_tensor(self.fit(image), self.device)
        start = self.estimate(image)
        return invert(
            self.generator, self.clip, target, start, config=config or InversionConfig(), progress=progress
        )

    @torch.no_grad()
    def error(self, image: Image.Image, ws: Tensor) -> float:
        """The mean absolute difference on [-1, 1] between `image` and the picture of ws."""
        target = to_tensor(self.fit(image), self.device)
        return float((self.generator.synthesis(ws, noise_mode="const") - target).abs().mean())

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
        neutral: str = NEUTRAL,
        strength: float | Literal["auto"] = 1.0,
        reference: Image.Image | None = None,
    ) -> Image.Image:
        """`image` with attributes added (positive strengths) or taken away (negative ones).

        Args:
            image: a picture, or its ws [1, num_ws, w_dim].
            attributes: text -> strength.
            source: how a picture's ws are found: "invert", or "clip" for the mapped image embedding, with
                which this is z + strength * (M(attribute) - M(neutral)) of CLIP2GAN (Wang et al., 2022).
            neutral: the text whose mapping is taken from an attribute's.
            strength: multiplies all of them; "auto" looks for each one's least sufficient strength.
            reference: a picture to move towards as well, by strength * (M(reference) - M(image)).

        Raises ValueError for an empty text.
        """
        if isinstance(image, Tensor):
            ws = image
        else:
            ws = self.invert(image) if source == "invert" else self.estimate(image)
        if strength == "auto":
            attributes, strength = self.auto_strengths(ws, attributes, neutral=neutral), 1.0
        moved = combine(self.directions(attributes, neutral), attributes)
        if reference is not None:
            moved = moved + self.estimate(reference) - self.estimate(self.synthesize(ws))
        return self.synthesize(ws + strength * moved)

    @torch.no_grad()
    def directions(self, texts: Iterable[str], neutral: str = NEUTRAL) -> dict[str, Tensor]:
        """M(text) - M(neutral), [1, num_ws, w_dim], for each text.

        M is the gap's `map_text`, in which all that the text does not name is average.
        """
        texts = list(texts)
        embeddings = torch.cat([self.prompt(text).embedding for text in (neutral, *texts)])
        origin, *mapped = self.gap.map_text(embeddings, self.mapper).split(1)
        return {text: ws - origin for text, ws in zip(texts, mapped, strict=True)}

    @torch.no_grad()
    def auto_strengths(
        self, ws: Tensor, attributes: Mapping[str, float], *, neutral: str = NEUTRAL
    ) -> dict[str, float]:
        """For each attribute in turn, the least strength that gains nearly all that CLIP can see of it.

        The gain is how far the picture's embedding moves along CLIP text(attribute) - CLIP text(neutral).
        The result keeps the signs and the proportions of `attributes`.
        """
        deltas = self.directions(attributes, neutral)
        origin = self.prompt(neutral).embedding
        strengths: dict[str, float] = {}
        for text, wanted in attributes.items():
            base = ws + combine(deltas, strengths)
            step = wanted * deltas[text]
            towards = F.normalize(self.prompt(text).embedding - origin, dim=-1) * (1 if wanted >= 0 else -1)
            scores = {
                factor: float((self.prompt(self.synthesize(base + factor * step)).embedding * towards).sum())
                for factor in (0.0, *AUTO_STRENGTHS)
            }
            strengths[text] = wanted * least_strength(scores)
        return strengths

    @property
    def takes_texts(self) -> bool:
        """Whether the generator takes CLIP's embeddings itself, without a mapper."""
        return isinstance(self.mapper, OwnMapping)

    def _center(self, prompt: Prompt) -> Tensor:
        """Where truncation pulls to: the mean latent, or, where the generator takes texts, the text's own.

        That of each class is the better one for conditional generators (Sauer et al. 2022, StyleGAN-XL).
        """
        if not self.takes_texts:
            return self.w_avg
        e = prompt.embedding
        return self.mapper(self.gap.center(e) if prompt.is_text else self.gap.from_image(e))

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


def combine(deltas: Mapping[str, Tensor], strengths: Mapping[str, float]) -> Tensor | float:
    """The sum of strength x delta over `strengths`."""
    return sum((value * deltas[text] for text, value in strengths.items()), 0.0)


def to_picture(image: Tensor) -> Image.Image:
    """[1, 3, R, R] in [-1, 1] as an RGB picture; values outside are clipped."""
    pixels = ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def to_tensor(image: Image.Image, device: str | torch.device = "cpu") -> Tensor:
    """An RGB picture as [1, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).to(device)
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1

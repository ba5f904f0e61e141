"""A model: CLIP, gap, mapper and generator, assembled into what a user wants to do.

generate    text    -> CLIP text -> gap -> mapper -> ws -> truncation -> synthesis
vary        picture -> CLIP image -------> mapper -> ws -> truncation -> synthesis
edit        picture -> ws by inversion or encoder, or CLIP image -> mapper
            ws + M(e + strength * change of e) - M(e) -> synthesis; see editing.directions
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip2gan import __version__
from clip2gan.bundle import Bundle, load_bundle
from clip2gan.data.pictures import fit_square
from clip2gan.defaults import MODEL, TRUNCATION
from clip2gan.devices import resolve_device
from clip2gan.domain import InversionConfig, TuningConfig
from clip2gan.drawing import Drawing, Prompt, candidate_seed, check_text
from clip2gan.editing.change import Change, Directions, draw_origin, make_change
from clip2gan.editing.directions import Method, ReferenceBank
from clip2gan.editing.inversion import invert, psnr, tune
from clip2gan.editing.kind import Usual, find_usual
from clip2gan.editing.references import reference_bank
from clip2gan.editing.strength import Strength
from clip2gan.images import to_picture, to_srgb
from clip2gan.mappers.own import OwnMapping
from clip2gan.perceptual import load_features
from clip2gan.sampling import seed_latents, seed_random
from stylegan2.generator import set_precision, truncate
from stylegan2.seeds import seed_generator
from stylegan2.settings import check_seed

Source = Literal["invert", "encoder", "clip"]


def load(
    model: str | Path = MODEL,
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
    return Model(load_bundle(model, resolve_device(device), mapper), str(model), precision, compiled)


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
        self._features = cache(lambda kind: load_features(kind, self.clip))
        self.device = self.w_avg.device

    def provenance(self) -> dict[str, Any]:
        """Provenance: model, mapper, device and versions."""
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
        sources = [texts] if isinstance(texts, str) else texts
        drawn = self.draw_all(sources, num, seed, truncation=truncation, rerank=rerank, style=style)
        return [drawing.image for drawing in drawn]

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
        drawn = self.draw_all([image], num, seed, truncation=truncation, rerank=rerank, style=style)
        return [drawing.image for drawing in drawn]

    def draw_all(
        self,
        sources: Sequence[str | Image.Image],
        num: int = 1,
        seed: int = 0,
        *,
        truncation: float = TRUNCATION,
        rerank: int = 1,
        style: Tensor | None = None,
    ) -> Iterator[Drawing]:
        """Draw `num` pictures of each text, or variations of each picture, one after the other.

        A source is embedded once; other arguments are those of `generate`. Raises ValueError for an empty
        text and for seeds that are out of range, before anything is drawn.
        """
        check_seed(seed, num)
        for source in sources:
            if isinstance(source, str):
                check_text(source)
        return (
            Drawing(source, each, self.draw(prompt, each, truncation=truncation, rerank=rerank, style=style))
            for source in sources
            for prompt in [self.prompt(source)]
            for each in range(seed, seed + num)
        )

    @torch.no_grad()
    def prompt(self, source: str | Image.Image) -> Prompt:
        """Embed a text or a picture. Raises ValueError for an empty text."""
        if isinstance(source, str):
            check_text(source)
            return self.prompt_from_embedding(self.clip.encode_texts([source]), is_text=True)
        return self.prompt_from_embedding(self.clip.encode_images([source]), is_text=False)

    @torch.no_grad()
    def prompt_from_embedding(self, embedding: Tensor, is_text: bool) -> Prompt:
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
        """ws [1, num_ws, w_dim] of a picture, or of a seed as `sample` draws it, for its fine layers."""
        if not isinstance(source, int):
            return truncate(self.estimate(source), self.w_avg, truncation)
        if not self.takes_texts:
            return seed_latents(self.generator, source, truncation=truncation).ws
        z = torch.from_numpy(seed_random(source).randn(1, self.generator.config.z_dim))
        return self._map_neutral(z.to(self.device, torch.float32), truncation)

    @torch.no_grad()
    def random_ws(self, num: int, random: torch.Generator, truncation: float = 1.0) -> Tensor:
        """ws [num, num_ws, w_dim] of random latents; one that takes texts is told the neutral one."""
        z = torch.randn(num, self.generator.config.z_dim, generator=random).to(self.device)
        if not self.takes_texts:
            c = self.generator.draw_labels(num, random)
            return self.generator.mapping(z, c, truncation_psi=truncation)
        return self._map_neutral(z, truncation)

    def _map_neutral(self, z: Tensor, truncation: float) -> Tensor:
        c = self.clip.encode_texts([self.domain.neutral])
        return truncate(self.generator.mapping(z, c.expand(len(z), -1)), self.mapper(c), truncation)

    @torch.no_grad()
    def synthesize(self, ws: Tensor) -> Image.Image:
        """The picture of ws [1, num_ws, w_dim]."""
        return to_picture(self.draw_ws(ws))

    @torch.no_grad()
    def draw_ws(self, ws: Tensor) -> Tensor:
        """The images [N, 3, R, R] in about [-1, 1] of ws [N, num_ws, w_dim]."""
        return self.generator.synthesis(ws, noise_mode="const")

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
        targets = torch.cat([self.to_target(image) for image in images])
        with torch.no_grad():
            anchor = torch.cat([self.estimate(image) for image in images])
            starts = [anchor]
            if self.encoder is not None:
                starts.append(self.broadcast(self.encoder(targets)))
        config = config or self.domain.inversion
        return invert(
            self.generator,
            self._features(config.features),
            targets,
            starts,
            anchor=anchor,
            w_std=self.mapper.w_std,
            config=config,
            progress=progress,
        )

    @torch.no_grad()
    def encode(self, image: Image.Image) -> Tensor:
        """ws [1, num_ws, w_dim] that the model's encoder makes of a picture, in one pass.

        Raises ValueError if the model has no encoder.
        """
        self.check_source("encoder")
        assert self.encoder is not None
        return self.broadcast(self.encoder(self.to_target(image)))

    def latents(self, image: Image.Image, source: Source = "invert") -> Tensor:
        """ws [1, num_ws, w_dim] of a picture: by optimisation, by the encoder, or of its CLIP embedding."""
        find = {"invert": self.invert, "encoder": self.encode, "clip": self.estimate}
        return find[source](image)

    def check_source(self, source: Source) -> None:
        """Raise ValueError if this model has no encoder, and `source` is "encoder"."""
        if source == "encoder" and self.encoder is None:
            raise ValueError(
                f"the model {self.name} has no encoder; "
                f"`clip2gan train-encoder --model {self.name}` makes one"
            )

    def tune(
        self,
        image: Image.Image,
        ws: Tensor,
        config: TuningConfig | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> "Model":
        """This model with a generator that is tuned to give `image` back at ws (pivotal tuning)."""
        config = config or self.domain.tuning
        generator = tune(
            self.generator,
            self._features(config.features),
            self.to_target(image),
            ws,
            lambda random: self.random_ws(1, random),
            config=config,
            progress=progress,
        )
        return Model(replace(self.bundle, generator=generator), self.name, self.precision)

    def error(self, image: Image.Image, ws: Tensor) -> float:
        """The mean absolute difference on [-1, 1] between `image` and the picture of ws."""
        return float((self.draw_ws(ws) - self.to_target(image)).abs().mean())

    def psnr(self, image: Image.Image, ws: Tensor) -> float:
        """The peak signal-to-noise ratio [dB] between `image` and the picture of ws."""
        return float(psnr(self.draw_ws(ws), self.to_target(image)))

    @torch.no_grad()
    def estimate(self, image: Image.Image) -> Tensor:
        """ws [1, num_ws, w_dim] that the mapper makes of a picture's CLIP embedding."""
        return self.mapper(self.gap.from_image(self.prompt(image).embedding))

    def fit(self, image: Image.Image) -> Image.Image:
        """`image` as the generator would draw it: the square at its centre, at the generator's resolution."""
        return fit_square(to_srgb(image), self.resolution)

    def to_target(self, image: Image.Image) -> Tensor:
        """`image` as the generator's output would be: [1, 3, R, R] in [-1, 1], see `fit`."""
        return to_tensor(self.fit(image), self.device)

    def edit(
        self,
        image: Image.Image | Tensor,
        attributes: Mapping[str, Strength],
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
            attributes: text -> strength; 1 makes it as clear as pictures are that show it, "auto" looks for
                the least that CLIP agrees to ("-auto" for taking away).
            source: how a picture's ws are found: "invert", "encoder", or "clip" for the mapped image
                embedding.
            neutral: the text that attributes are added to; None: the model's.
            strength: multiplies all of them; "auto" looks for each.
            reference: a picture to move towards as well, by strength * (M(reference) - M(image)).
            direction: how a text becomes a change of latents, see `editing.directions`. With "raw" and source
                "clip" this is CLIP2GAN's z + strength * M(attribute) (Wang et al., 2022).
            keep: texts whose own directions are left out.
            threshold: style channels that move CLIP less than this part of the most effective one stay.

        Raises ValueError for an empty text, an unknown direction, or a model without the encoder asked for.
        """
        ws = image if isinstance(image, Tensor) else self.latents(image, source)
        how = Directions(neutral=neutral, method=direction, keep=tuple(keep), threshold=threshold)
        return to_picture(self.change(ws, attributes, how, strength=strength, reference=reference).image)

    def change(
        self,
        ws: Tensor,
        attributes: Mapping[str, Strength],
        how: Directions | None = None,
        *,
        strength: float | Literal["auto"] = 1.0,
        reference: Image.Image | None = None,
    ) -> Change:
        """What `edit` does, on latents ws [1, num_ws, w_dim], and what it came to."""
        origin = draw_origin(self, ws)
        return make_change(self, origin, attributes, how, strength=strength, reference=reference)

    @cached_property
    def usual(self) -> Usual:
        """What is usual among its own pictures, see `editing.kind`."""
        return find_usual(self)

    @property
    def expects_aligned(self) -> bool:
        """Whether its pictures are framed as FFHQ's faces are."""
        return self.domain.alignment == "ffhq"

    @cached_property
    def reference_bank(self) -> ReferenceBank:
        """Pictures to compare with: those that the gap remembers, or else samples of the generator.

        See `editing.references`.
        """
        return reference_bank(self)

    def broadcast(self, w: Tensor) -> Tensor:
        """w [N, w_dim] for all layers: ws [N, num_ws, w_dim]."""
        return w[:, None].repeat(1, self.generator.num_ws, 1)

    @property
    def takes_texts(self) -> bool:
        """Whether the generator takes CLIP's embeddings itself, without a mapper."""
        return isinstance(self.mapper, OwnMapping)

    def _sample(self, prompt: Prompt, seed: int) -> Tensor:
        generator = seed_generator(seed)
        e = prompt.embedding
        if prompt.is_text:
            e = self.gap.to_image(e, 1, generator)[:, 0]
            if self.gap.is_random and not self.mapper.is_random:  # the answers differ already
                return self.mapper(e)
        else:
            e = self.gap.from_image(e)
        return self.mapper.sample(e, 1, generator)[:, 0]


def to_tensor(image: Image.Image, device: str | torch.device = "cpu") -> Tensor:
    """An RGB picture as [1, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).to(device)
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1

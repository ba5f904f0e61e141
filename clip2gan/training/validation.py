"""How good a mapper is, measured now and then while it is trained: on pictures held out, and on prompts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from PIL import Image
from torch import Tensor

from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import Pictures
from clip2gan.data.samples import to_floats
from clip2gan.devices import pictures_at_once
from clip2gan.evaluation.metrics import clip_score, r_precision
from clip2gan.gap import Gap
from clip2gan.images import contact_sheet, to_picture
from clip2gan.mappers import Mapper
from clip2gan.training.settings import SAMPLED, MapperTraining
from stylegan2 import Generator
from stylegan2.runs import step_generator
from stylegan2.training.preview import PREVIEW_SIDE

PREVIEW_PROMPTS, PREVIEW_SEEDS = 12, 4
SCORE = "valid_cosine"  # the best mapper has most of it

logger = logging.getLogger(__name__)


def held_out(config: MapperTraining, source: Pictures) -> int:
    """How many of a source's pictures, the last ones, are held out: at most a tenth."""
    return min(config.validation // len(config.data), len(source) // 10)


@dataclass
class Validation:
    """What a mapper is measured by.

    Attributes:
        ws: [K, num_ws, w_dim] of drawn pictures that are held out.
        prompts: that are drawn as a preview.
    """

    config: MapperTraining
    generator: Generator
    clip: ClipEncoder
    pictures: Sequence[Pictures]
    gap: Gap
    ws: Tensor
    prompts: Sequence[str]

    @classmethod
    @torch.no_grad()
    def draw(
        cls,
        config: MapperTraining,
        generator: Generator,
        clip: ClipEncoder,
        pictures: Sequence[Pictures],
        gap: Gap,
        prompts: Sequence[str],
    ) -> "Validation":
        """Hold out pictures, by the seed, and choose from the prompts."""
        random = step_generator(config.seed, -(2**42))  # of no step
        count = config.validation // len(config.data) if SAMPLED in config.data else 0
        z = torch.randn(count, generator.config.z_dim, generator=random)
        c = generator.draw_labels(count, random)
        ws = generator.mapping(z.to(clip.device), None if c is None else c.to(clip.device))
        chosen = prompts[:: -(-len(prompts) // PREVIEW_PROMPTS)]
        return cls(config, generator, clip, pictures, gap, ws, chosen)

    @torch.no_grad()
    def reconstruction(self, mapper: Mapper) -> dict[str, float]:
        """How near the held-out pictures are to what the mapper makes of them; nothing if there are none.

        valid_l1: mean absolute difference on [-1, 1]; valid_cosine: of CLIP's embeddings.
        """
        errors, cosines = [], []
        size = pictures_at_once(self.generator.config.img_resolution, self.clip.device)
        sources = [
            self.generator.synthesis(part, noise_mode="const") for part in self.ws.split(size) if len(part)
        ]
        for source in self.pictures:
            last = torch.arange(len(source) - held_out(self.config, source), len(source))
            sources += [to_floats(source.batch(part)) for part in last.split(size) if len(part)]
        for real in sources:
            images = real.to(self.clip.device)
            embeddings = self.clip.encode_images(images)
            mapped = self.generator.synthesis(mapper(self.gap.from_image(embeddings)), noise_mode="const")
            errors.append((mapped - images).abs().mean((1, 2, 3)))
            cosines.append((self.clip.encode_images(mapped) * embeddings).sum(1))
        if not errors:
            return {}
        return {"valid_l1": torch.cat(errors).mean().item(), SCORE: torch.cat(cosines).mean().item()}

    @torch.no_grad()
    def preview(self, mapper: Mapper) -> tuple[Image.Image, dict[str, float]]:
        """A sheet with a row for each prompt and a column for each seed from 0, and what CLIP says of it.

        text_cosine: of a prompt and its pictures; text_top1: the share of pictures nearest to their prompt;
        text_rank: the share of other prompts that are less near to a picture than its own, 0.5 by chance.
        """
        e_texts = self.clip.encode_texts(self.prompts)
        images = []
        for e_text, seed in product(e_texts.split(1), range(PREVIEW_SEEDS)):
            random = torch.Generator().manual_seed(seed)
            ws = mapper.sample(self.gap.to_image(e_text, 1, random)[:, 0], 1, random)[:, 0]
            images.append(to_picture(self.generator.synthesis(ws, noise_mode="const")))
        seen = self.clip.encode_images(images)
        own = torch.arange(len(e_texts), device=seen.device).repeat_interleave(PREVIEW_SEEDS)
        figures = {
            "text_cosine": clip_score(seen, e_texts[own]),
            "text_top1": r_precision(seen, e_texts, own),
            "text_rank": _rank(seen @ e_texts.T, own),
        }
        return contact_sheet(images, PREVIEW_SEEDS, most=PREVIEW_SIDE), figures

    def warn_if_deaf(self, text_rank: float) -> bool:
        """Warn when previews are hardly nearer to their own prompts than chance (two deviations) has it.

        Pictures of one prompt are much alike, so a prompt counts once. Returns whether it did.
        """
        choices = len(self.prompts)
        if choices < 2:
            return False
        deviation = ((choices + 1) / (12 * (choices - 1)) / choices) ** 0.5  # of a mean of uniform ranks
        deaf = text_rank <= 0.5 + 2 * deviation
        if deaf:
            logger.warning(
                "texts hardly steer this model: a preview is nearer to its own prompt than to "
                f"{text_rank:.0%} of the others, and 50% would be chance; are CLIP, generator and prompts "
                "of one domain?"
            )
        return deaf


def _rank(cosines: Tensor, own: Tensor) -> float:
    """The mean share of other texts that are less near, for pictures in rows and their own texts [N].

    Texts that are equally near count half.
    """
    if cosines.shape[1] < 2:
        return 1.0
    mine = cosines.gather(1, own[:, None])
    less, equal = (cosines < mine).sum(1), (cosines == mine).sum(1) - 1
    return ((less + equal / 2) / (cosines.shape[1] - 1)).mean().item()

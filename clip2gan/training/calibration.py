"""Calibration: the constants of a domain that depend on the model, measured on its own samples.

    gap         the sharpness and guidance whose pictures are nearest to their texts, while those of a text
                still differ `VARIETY` times as much as any of the generator's
    inversion   the step size and the fewest steps that come near the best error on samples
    texts       how far CLIP tells pictures apart by texts that it does not know
    editing     how clearly CLIP finds texts in pictures drawn for them, and how alike unrelated pictures are

It stops when its time is over; what was not measured by then stays as it was.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.clip import ClipEncoder
from clip2gan.data.samples import Samples
from clip2gan.domain import Domain, EditThresholds, GapSettings, InversionConfig
from clip2gan.editing.contrast import measure_least_contrast
from clip2gan.editing.directions import ReferenceBank
from clip2gan.editing.inversion import invert, psnr
from clip2gan.evaluation.metrics import clip_score, diversity
from clip2gan.gap import Gap, Posterior
from clip2gan.mappers import Mapper
from clip2gan.perceptual import load_features
from stylegan2 import Generator
from stylegan2.runs import step_generator

VARIETY = 0.75  # of the generator's, that the pictures of a text keep at least
TEXTS, DRAWS = 16, 4  # pictures by which a gap is judged
SHARPNESSES, GUIDANCES = (1.0, 0.5, 2.0), (1.5, 1.0, 2.0, 2.5)  # the first ones are those without calibration
RATES, STEPS = (0.1, 0.05, 0.2), (20, 40, 80, 160)
INVERTED = 4  # samples
ENOUGH = 1.03  # times the best error, at which fewer steps are as good; as they are at less than
ONE_LEVEL = 2 / 255  # of difference on [-1, 1]: a step of 8 bits, which nobody sees
LEAST_AGREES, MOST_AGREES = 0.5, 0.9
ALIKE = 0.85  # from unrelated pictures (0) to the same one (1): what an edit leaves of all that is not named
CLOSER = 3.0  # dB that an inversion is better than an unrelated picture of the model


@dataclasses.dataclass(frozen=True)
class Parts:
    """What is measured.

    Attributes:
        generator, clip, mapper, gap: of the model.
        samples: latents and embeddings of pictures of the generator.
    """

    generator: Generator
    clip: ClipEncoder
    mapper: Mapper
    gap: Gap
    samples: Samples

    @torch.no_grad()
    def draw(self, ws: Tensor) -> Tensor:
        """The pictures [N, 3, R, R] of ws [N, num_ws, w_dim], one by one."""
        rows = [self.generator.synthesis(row, noise_mode="const") for row in ws.split(1)]
        return torch.cat(rows)

    @torch.no_grad()
    def embed(self, ws: Tensor) -> Tensor:
        """Embeddings [N, D] of the pictures of ws [N, num_ws, w_dim], one by one."""
        return torch.cat([self.clip.encode_images(self.draw(row)) for row in ws.split(1)])


def calibrate(parts: Parts, domain: Domain, prompts: Sequence[str], seconds: float, seed: int = 0) -> Domain:
    """The domain with the constants that were measured, and what was measured in `Domain.measured`.

    Args:
        parts: the model.
        domain: as it was so far.
        prompts: plain texts about the domain; those of its vocabulary are taken first.
        seconds: how long it may take.
        seed: of all random numbers.
    """
    started = time.monotonic()
    texts = _spaced(domain.attribute_texts or prompts, TEXTS)
    e_texts = parts.clip.encode_texts(texts)
    gap, figures = parts.gap, dict[str, float]()
    if isinstance(gap, Posterior):
        # What comes after it is quicker.
        settings, found = _calibrate_gap(parts, gap, e_texts, started + 0.6 * seconds, seed)
        domain = dataclasses.replace(domain, gap=settings)
        figures |= found
    thresholds, found = _calibrate_edits(parts, domain.editing, e_texts, seed)
    figures |= found
    inversion, found = _calibrate_inversion(parts, domain.inversion, started + seconds, seed)
    figures |= found | {"seconds": time.monotonic() - started}
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items() if abs(value) < math.inf}
    return dataclasses.replace(
        domain,
        editing=thresholds,
        inversion=inversion,
        least_contrast=measure_least_contrast(parts.clip, getattr(gap, "memory", None), domain),
        measured=rounded,
    )


def _calibrate_gap(
    parts: Parts, gap: Posterior, e_texts: Tensor, stop: float, seed: int
) -> tuple[GapSettings, dict[str, float]]:
    """The clearest settings that keep `VARIETY`; where none do, those that keep the most."""
    usual = _differences(parts.samples.embeddings[: len(e_texts) * DRAWS].to(e_texts), e_texts)
    tried: list[tuple[bool, float, Posterior, float, float]] = []
    for factor, guidance in product(SHARPNESSES, GUIDANCES):
        if tried and time.monotonic() > stop:
            break
        other = dataclasses.replace(
            gap,
            sharpness=factor * gap.sharpness,
            edit_sharpness=factor * gap.edit_sharpness,
            guidance=guidance,
        )
        random = step_generator(seed, -(2**43))
        with torch.no_grad():
            e = other.to_image(e_texts, DRAWS, random).flatten(0, 1)
            found = parts.embed(parts.mapper(e)).unflatten(0, (len(e_texts), DRAWS))
        own = e_texts.repeat_interleave(DRAWS, 0)
        score = clip_score(found.flatten(0, 1), own)
        variety = _differences(found, e_texts) / max(usual, 1e-9)
        keeps = variety >= VARIETY
        tried.append((keeps, score if keeps else variety, other, score, variety))
    _, _, best, score, variety = max(tried, key=lambda one: one[:2])
    settings = GapSettings(
        sharpness=best.sharpness,
        guidance=best.guidance,
        edit_sharpness=best.edit_sharpness,
        edit_guidance=best.edit_guidance,
    )
    return settings, {"gap_clip_score": score, "gap_variety": variety, "gap_settings_tried": len(tried)}


def _differences(e: Tensor, e_texts: Tensor) -> float:
    """How pictures [T, K, D], or [N, D] of no text, differ in all that their text does not name."""
    if e.ndim == 2:
        e = e[: len(e) // DRAWS * DRAWS].unflatten(0, (-1, DRAWS))
    directions = F.normalize(e_texts[: len(e)] - e_texts.mean(0), dim=-1)[:, None]
    rest = e - (e * directions).sum(-1, keepdim=True) * directions
    return diversity(F.normalize(rest, dim=-1))


@torch.no_grad()
def _calibrate_edits(
    parts: Parts, thresholds: EditThresholds, e_texts: Tensor, seed: int
) -> tuple[EditThresholds, dict[str, float]]:
    """How clear the model's own pictures of texts are, and how alike its unrelated pictures are."""
    random = step_generator(seed, -(2**43) - 1)
    embeddings = parts.samples.embeddings.to(e_texts)
    memory = ReferenceBank(embeddings[:4096], parts.clip.logit_scale)
    shown = []
    for text in e_texts:
        e = parts.gap.to_image(text[None], 2, random)[0]
        shown.append(memory.clearness(parts.embed(parts.mapper(e)), text).median())
    clearness = torch.stack(shown).median().item()
    order = torch.randperm(len(embeddings), generator=random)
    half = len(order) // 2
    unrelated = (embeddings[order[:half]] * embeddings[order[half : 2 * half]]).sum(1).mean().item()
    w = parts.samples.w[order[:8]].to(e_texts)[:, None].expand(-1, parts.generator.num_ws, -1)
    images = parts.draw(w)
    count = len(images) // 2
    apart = psnr(images[:count], images[count : 2 * count]).mean().item() if count else 0.0
    changed = dataclasses.replace(
        thresholds,
        agrees=min(max(clearness, LEAST_AGREES), MOST_AGREES),
        identity=unrelated + ALIKE * (1 - unrelated),
        least_psnr=min(max(apart + CLOSER, 0.0), 100.0),
    )
    return changed, {"edit_clearness": clearness, "unrelated_cosine": unrelated, "unrelated_psnr": apart}


def _calibrate_inversion(
    parts: Parts, config: InversionConfig, stop: float, seed: int
) -> tuple[InversionConfig, dict[str, float]]:
    """The rate of least error after some steps, then the fewest steps that are `ENOUGH`."""
    w = parts.samples.w[-INVERTED:].to(parts.clip.device)
    targets = parts.draw(w[:, None].expand(-1, parts.generator.num_ws, -1)).clamp(-1, 1)
    with torch.no_grad():
        anchor = parts.mapper(parts.gap.from_image(parts.clip.encode_images(targets)))

    features = load_features(config.features, parts.clip)

    def error(rate: float, steps: int) -> float:
        tried = dataclasses.replace(config, lr=rate, steps=steps)
        ws = invert(
            parts.generator,
            features,
            targets,
            [anchor],
            anchor=anchor,
            w_std=parts.mapper.w_std,
            config=tried,
        )
        return (parts.draw(ws) - targets).abs().mean().item()

    errors: dict[tuple[float, int], float] = {}
    candidates = [(rate, STEPS[1]) for rate in RATES]
    for candidate in candidates:
        if time.monotonic() > stop:
            break
        errors[candidate] = error(*candidate)
    if not errors:
        return config, {}
    (rate, _), _ = min(errors.items(), key=lambda item: item[1])
    for steps in STEPS:
        if (rate, steps) not in errors and time.monotonic() < stop:
            errors[rate, steps] = error(rate, steps)
    course = {steps: found for (tried, steps), found in sorted(errors.items()) if tried == rate}
    best = min(course.values())
    steps = next(steps for steps, found in course.items() if found <= max(ENOUGH * best, ONE_LEVEL))
    figures = {f"inversion_l1_after_{steps}": found for steps, found in course.items()}
    return dataclasses.replace(config, lr=rate, steps=steps), figures


def _spaced(texts: Sequence[str], count: int) -> list[str]:
    return list(texts[:: -(-len(texts) // count)])

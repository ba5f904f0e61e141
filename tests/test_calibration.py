"""What a training measures on samples of its model."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from conftest import make_generator

from clip2gan.clip import ClipEncoder
from clip2gan.data.samples import Samples
from clip2gan.domain import Domain
from clip2gan.gap import EDIT_SHARPNESS, POSTERIOR_SHARPNESS, Posterior, cosine_spread, fit_gap
from clip2gan.mappers import new_mapper
from clip2gan.training.calibration import STEPS, Parts, calibrate
from tools import measure_avatars, recalibrate

PROMPTS = ["a red circle", "a blue square", "a star", "a flag", "something small"]


def make_parts(clip: ClipEncoder) -> Parts:
    generator = make_generator()
    torch.manual_seed(1)
    settings = {"embed_dim": clip.embed_dim, "num_ws": generator.num_ws, "w_dim": 8, "layers": 3, "width": 16}
    mapper = new_mapper("mlp", settings).eval().requires_grad_(False)
    w = generator.mapping(torch.randn(96, 8))[:, 0]
    ws = w[:, None].expand(-1, generator.num_ws, -1)
    e = clip.encode_images(generator.synthesis(ws, noise_mode="const"))
    mapper.fit_statistics(e, w)
    gap = fit_gap("posterior", e, clip.encode_texts(PROMPTS), clip.logit_scale)
    return Parts(generator, clip, mapper, gap, Samples(w, e))


def test_a_domain_is_measured_and_says_so(tiny_clip: ClipEncoder) -> None:
    parts = make_parts(tiny_clip)
    before = Domain(name="shapes", prompts=tuple(PROMPTS))
    after = calibrate(parts, before, PROMPTS, seconds=600)
    assert (after.name, after.prompts, after.neutral) == ("shapes", before.prompts, before.neutral)
    assert isinstance(parts.gap, Posterior)
    assert after.gap.sharpness is not None
    assert 0.5 <= after.gap.sharpness / parts.gap.sharpness <= 2
    assert after.inversion.steps in STEPS
    assert 0.5 <= after.editing.agrees <= 0.9
    measured = after.measured
    assert measured["unrelated_cosine"] < after.editing.identity < 1
    assert measured["unrelated_psnr"] < after.editing.least_psnr
    assert {"gap_clip_score", "gap_variety", "edit_clearness", "seconds"} <= set(measured)


def test_without_time_the_domain_stays_usable(tiny_clip: ClipEncoder) -> None:
    after = calibrate(make_parts(tiny_clip), Domain(name="x"), PROMPTS, seconds=0)
    assert after.inversion == Domain().inversion
    assert after.measured["gap_settings_tried"] == 1


def test_a_clip_of_another_scale_and_spread_gets_other_values() -> None:
    """Of LAION's scale, its pictures in a narrow cone: as sharp in units of the spread."""
    random = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(20, 64, generator=random), dim=1)
    center = F.normalize(torch.randn(64, generator=random), dim=0)
    wide, narrow = (
        F.normalize(center + size * torch.randn(500, 64, generator=random), dim=1) for size in (0.3, 0.03)
    )
    gaps = [fit_gap("posterior", e, texts, scale) for e, scale in ((wide, 25.0), (narrow, 100.0))]
    for gap, e in zip(gaps, (wide, narrow), strict=True):
        assert isinstance(gap, Posterior)
        assert gap.sharpness * cosine_spread(e, texts) == pytest.approx(POSTERIOR_SHARPNESS)
        assert gap.edit_sharpness * cosine_spread(e, texts) == pytest.approx(EDIT_SHARPNESS)
    assert gaps[1].sharpness > 3 * gaps[0].sharpness  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_avatars_calibrated_anew_are_as_good(tmp_path: Path) -> None:
    """All constants that were tuned by hand are forgotten; a fifth of the prompts judge."""
    out = tmp_path / "anew"
    arguments = ["--model", "avatars", "--samples", "6144", "--seconds", "120", "--out", str(out)]
    done = CliRunner().invoke(recalibrate.main, arguments)
    assert done.exit_code == 0, done.output
    figures = []
    for model in ("avatars", str(out)):
        file = tmp_path / "figures.json"
        measure = ["--model", model, "--quick", "--no-edits", "--json", str(file)]
        done = CliRunner().invoke(
            measure_avatars.main, [*measure, "--renders", str(tmp_path / "renders.zip")]
        )
        assert done.exit_code == 0, done.output
        figures.append(json.loads(file.read_text())["figures"])
    before, after = figures
    assert after["text_to_picture"] > before["text_to_picture"] - 0.03
    assert after["ceiling"] > before["ceiling"] - 0.02

"""Forget all constants that a model was given, and measure them anew, as the end of train-mapper does.

    python -m tools.recalibrate --model avatars --out runs/recalibrated

What remains is what was trained; the texts and the vocabulary of the domain stay. The result is a bundle of
the same parts with a gap fitted anew, so `tools.measure_avatars --model runs/recalibrated` tells how far
calibration alone comes.
"""

import dataclasses
import json
from pathlib import Path

import click
import torch

from clip2gan.bundle import BundleInfo, load_bundle, write_bundle
from clip2gan.data.samples import draw_samples, plain_prompts
from clip2gan.domain import EditThresholds, GapSettings, InversionConfig, TuningConfig
from clip2gan.gap import fit_gap
from clip2gan.training.calibration import Parts, calibrate


@click.command(help=__doc__)
@click.option("--model", required=True, help="A bundle: its name or folder.")
@click.option("--samples", type=click.IntRange(64), default=12288, show_default=True, help="To measure on.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=180.0, show_default=True, help="For calibration."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the new bundle.")
def main(model: str, samples: int, seconds: float, seed: int, out: Path) -> None:
    bundle = load_bundle(model)
    _, mapper = next(iter(bundle.mappers.items()))
    known = dataclasses.replace(
        bundle.config.domain,
        inversion=InversionConfig(),
        tuning=TuningConfig(),
        editing=EditThresholds(),
        gap=GapSettings(),
        measured={},
    )
    prompts = plain_prompts(None, known)
    with torch.no_grad():
        drawn = draw_samples(bundle.generator, bundle.clip, samples, seed, out.with_name(f"{out.name}-cache"))
        texts = bundle.clip.encode_texts(list(prompts))
    gap = fit_gap("posterior", drawn.embeddings, texts, bundle.clip.logit_scale)
    parts = Parts(bundle.generator, bundle.clip, mapper, gap, drawn)
    domain = calibrate(parts, known, prompts, seconds, seed)
    info = BundleInfo(
        name=out.name,
        domain=domain,
        description=f"{model}, calibrated anew.",
        licences=bundle.config.licences,
    )
    write_bundle(out, bundle.generator, bundle.clip, bundle.mappers, gap, info=info, encoder=bundle.encoder)
    for part in ("inversion", "editing", "gap", "measured"):
        value = getattr(domain, part)
        plain = dict(value) if part == "measured" else dataclasses.asdict(value)
        click.echo(f"{part}: {json.dumps(plain)}")
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()

"""`clip2gan train-encoder`: the fast start of inversion."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import blame, device_option, model_option, resolve_device
from clip2gan.cli._options import (
    configure,
    parse_assignments,
    preset_option,
    run_options,
    setting_options,
)
from clip2gan.cli._runs import open_run, show_settings, tell_if_finished
from clip2gan.defaults import SMALL
from clip2gan.devices import resolve_precision
from clip2gan.training.encoder_presets import PRESETS

EXAMPLE = """
Example:

    clip2gan train-encoder --model runs/mapper/bundle --data sampled --data pictures.zip --out runs/encoder

    clip2gan edit --model runs/encoder/bundle --source encoder --image photo.png --attr red --out new.png

The same command goes on where it was stopped; under torchrun or accelerate launch, processes share a batch.
The folder holds config.json, log.jsonl, checkpoints/, samples/ (pictures, and what comes back), and in the
end encoder.safetensors and bundle/: the model, with the encoder.
"""


@click.command(epilog=EXAMPLE)
@model_option
@preset_option(PRESETS, f"Settings to start from: small or large.  [default: small up to {SMALL} px]")
@setting_options(PRESETS, "data", "steps", "batch", "lr", "precision", "perceptual")
@run_options
@device_option
@setting_options(PRESETS, "seed")
def command(
    *,
    model: str,
    preset: str | None,
    given: Mapping[str, Any],
    assignments: tuple[str, ...],
    dry_run: bool,
    out: Path,
    device: str,
) -> None:
    """Train an encoder from pictures to latents on the generator's own samples."""
    from clip2gan.bundle import add_encoder, check_place, load_bundle, locate_bundle

    with blame("--model"):
        folder = locate_bundle(model)
    assigned = parse_assignments(assignments)
    config = configure(PRESETS[preset or "small"], given, assigned)

    from clip2gan.data.pictures import list_skipped, open_pictures
    from clip2gan.data.samples import weights_fingerprint
    from clip2gan.perceptual import load_features
    from clip2gan.training.encoder import RESULT, train_encoder, untrained_encoder
    from clip2gan.training.settings import SAMPLED
    from stylegan2.processes import Processes

    processes = Processes(resolve_device(device))
    where = processes.device
    bundle = load_bundle(str(folder), where)
    resolution = bundle.generator.config.img_resolution
    if preset is None and resolution > SMALL:
        config = configure(PRESETS["large"], given, assigned)
    config = replace(config, precision=resolve_precision(config.precision, where))
    pictures = [open_pictures(source, resolution) for source in config.data if source != SAMPLED]
    with blame("--set"):
        encoder = untrained_encoder(config, bundle.generator)
    settings = {
        "model": model,
        "generator_sha256": weights_fingerprint(bundle.generator),
        "clip_sha256": bundle.clip.fingerprint(),
        "pictures": [source.summary() for source in pictures],
        **config.flat(),
    }
    show_settings(settings, "an encoder", encoder, processes)
    with blame("--batch"):
        processes.rows(config.shares(config.batch))  # can they be shared?
    if dry_run:
        return
    features = load_features(config.perceptual, bundle.clip)
    run = open_run(out, settings, processes)
    tell_if_finished(run, config.steps, "give more --steps and another --out", processes)
    check_place(out / "bundle")
    if processes.is_first:
        list_skipped(pictures, out)
    train_encoder(config, bundle.generator, bundle.clip, pictures, run, features=features)
    if processes.is_first:
        add_encoder(folder, out / RESULT, out / "bundle", out.name or None)
        click.echo(f"wrote {out / 'bundle'}")

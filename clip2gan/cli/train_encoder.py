"""`clip2gan train-encoder`: the fast start of inversion."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import Finite, blame, device_option, resolve_device, seed_option
from clip2gan.defaults import SMALL
from clip2gan.devices import PRECISIONS, resolve_precision

if TYPE_CHECKING:
    from clip2gan.training.encoder import EncoderTraining

AVATARS = "avatars"
EXAMPLE = """
Example:

    clip2gan train-encoder --model runs/mapper/bundle --data sampled --data pictures.zip --out runs/encoder

    clip2gan edit --model runs/encoder/bundle --source encoder --image face.png --attr smiling --out new.png

The same command goes on where it was stopped; under torchrun or accelerate launch, processes share a batch.
The folder holds config.json, log.jsonl, checkpoints/, samples/ (pictures, and what comes back), and in the
end encoder.safetensors and bundle/: the model, with the encoder.
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--model",
    default=AVATARS,
    show_default=True,
    metavar="NAME|FOLDER|hf-hub:ORG/NAME",
    help="The model to make an encoder for.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="sampled|DIR|ZIP|SHARDS",
    help="Pictures to learn from: drawn from the generator, or given; several are mixed.  [default: sampled]",
)
@click.option("--preset", help="Settings to start from: small or large.  [default: by size]")
@click.option("--steps", type=click.IntRange(1), help="Training steps.")
@click.option("--batch", type=click.IntRange(1), help="Pictures in a step.")
@click.option("--lr", type=Finite(0, min_open=True), help="Learning rate.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of forward passes; auto: 16 bit where the device is quick in it.  [default: auto]",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any setting that --dry-run shows."
)
@click.option("--dry-run", is_flag=True, help="Print the settings and stop.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@device_option
@seed_option
def command(
    *,
    model: str,
    data: tuple[str, ...],
    preset: str | None,
    steps: int | None,
    batch: int | None,
    lr: float | None,
    precision: str | None,
    assignments: tuple[str, ...],
    dry_run: bool,
    out: Path,
    device: str,
    seed: int,
) -> None:
    """Train an encoder from pictures to latents on the generator's own samples."""
    from clip2gan.bundle import add_encoder, load_bundle, locate_bundle

    with blame("--model"):
        folder = locate_bundle(model)
    options = {
        "data": data or None,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "precision": precision,
        "seed": seed,
    }
    config = _configuration(preset or "small", options, assignments)

    from clip2gan.data.pictures import open_pictures
    from clip2gan.data.samples import weights_fingerprint
    from clip2gan.training.encoder import RESULT, SAMPLED, train_encoder, untrained_encoder
    from stylegan2.processes import Processes
    from stylegan2.runs import RunFolder

    processes = Processes(resolve_device(device))
    where = processes.device
    bundle = load_bundle(str(folder), where)
    resolution = bundle.generator.config.img_resolution
    if preset is None:
        config = _configuration("small" if resolution <= SMALL else "large", options, assignments)
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
    tell = click.echo if processes.is_first else lambda line: None
    for name, value in settings.items():
        tell(f"{name}: {value}")
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    tell(f"an encoder of {parameters:,} parameters, trained on {processes.count} x {where}")
    with blame("--batch"):
        processes.rows(config.shares(config.batch))  # can they be shared?
    if dry_run:
        return
    with processes.first_before_others():
        run = RunFolder.open(out, settings)
    train_encoder(config, bundle.generator, bundle.clip, pictures, run)
    if processes.is_first:
        add_encoder(folder, out / RESULT, out / "bundle", out.name or None)
        click.echo(f"wrote {out / 'bundle'}")


def _configuration(preset: str, options: dict[str, Any], assignments: tuple[str, ...]) -> "EncoderTraining":
    """The preset, changed by the options that were given and by --set."""
    from clip2gan.settings import override, parse_assignment
    from clip2gan.training.encoder import PRESETS

    if preset not in PRESETS:
        message = f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}"
        raise click.BadParameter(message, param_hint="'--preset'")
    config = override(PRESETS[preset], {name: value for name, value in options.items() if value is not None})
    with blame("--set"):
        return override(config, dict(parse_assignment(text) for text in assignments))

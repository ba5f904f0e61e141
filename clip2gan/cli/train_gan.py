"""`clip2gan train-gan`: a StyleGAN2 from pictures, or from pictures and their captions."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import click

from clip2gan.cli._common import (
    EXISTING_FILE,
    Finite,
    blame,
    device_option,
    resolve_device,
    seed_option,
)

EXAMPLE = """
Examples:

    clip2gan train-gan --data pictures.zip --out runs/gan

    clip2gan train-gan --data pictures.zip --condition clip --clip ViT-B-32:laion2b_s34b_b79k --out runs/gan

The same command goes on where it was stopped. The folder holds config.json, log.jsonl, checkpoints/, samples/
and generator.safetensors, which train-mapper and --generator take; with --condition clip also bundle/, which
every --model takes: its generator is given texts without a mapper.
"""

# The presets' shapes and phases; every option below overrides its part.
PRESETS = {
    # Small pictures on two CPU cores: most is learned by an autoencoder.
    "small": {
        "latent": 128,
        "channel_base": 2048,
        "channel_max": 128,
        "mapping_layers": 8,
        "batch": 8,
        "autoencoder_images": 200_000,
        "mapping_steps": 12_000,
        "adversarial_images": 8_000,
        "adversarial_lr": 5e-4,
        "autoencoder_weight": 10.0,
        "noise": False,
        "style_mixing": 0.5,
        "r1_gamma": 1.0,
    },
    # Config F of the StyleGAN2 paper: adversarial training alone, for large collections and GPUs.
    "stylegan2": {
        "latent": 512,
        "channel_base": 32768,
        "channel_max": 512,
        "mapping_layers": 8,
        "batch": 32,
        "autoencoder_images": 0,
        "mapping_steps": 0,
        "adversarial_images": 25_000_000,
        "adversarial_lr": 2e-3,
        "autoencoder_weight": 0.0,
        "noise": True,
        "style_mixing": 0.9,
        "r1_gamma": 10.0,
    },
}


def _power_of_two(_ctx: click.Context, _parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None and (value < 8 or value & (value - 1)):
        below = 1 << (max(value, 8).bit_length() - 1)
        remedy = f"{below} or {2 * below}" if value > 8 else "8 or more"
        raise click.BadParameter(f"{value} is not a power of two; take {remedy}")
    return value


def _focus(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        left, top, right, bottom, weight = (float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not five numbers LEFT,TOP,RIGHT,BOTTOM,WEIGHT") from error
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1 and 0 < weight < 1e6):
        raise click.BadParameter(f"{text!r} is no box within 0 to 1 with a weight above 0")
    return left, top, right, bottom, weight


@click.command(epilog=EXAMPLE)
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="DIR|ZIP|SHARDS",
    help="Pictures: a folder, a zip, a tar or shards (pics-{0000..0009}.tar); several are mixed.",
)
@click.option(
    "--condition",
    type=click.Choice(["none", "clip"]),
    default="none",
    show_default=True,
    help="What the generator is told besides its random latent: nothing, or a text in CLIP's words.",
)
@click.option(
    "--preset",
    type=click.Choice([*PRESETS, "finetune"]),
    help="Settings to start from; finetune goes with --condition clip and --init.  [default: finetune "
    "with these, else small up to 128 px and stylegan2 above]",
)
@click.option(
    "--resolution",
    type=int,
    callback=_power_of_two,
    help="Pixels along a side; a power of two.  [default: that of --init or of the pictures, or 64]",
)
@click.option("--batch", type=click.IntRange(1), help="Pictures a step.")
@click.option(
    "--autoencoder-images", type=click.IntRange(0), help="Length of the autoencoder phase, in pictures."
)
@click.option("--mapping-steps", type=click.IntRange(0), help="Steps of the mapping phase.")
@click.option(
    "--adversarial-images", type=click.IntRange(0), help="Length of the adversarial phase, in pictures."
)
@click.option(
    "--adversarial-lr", type=Finite(0, min_open=True), help="Learning rate of the adversarial phase."
)
@click.option("--r1-gamma", type=Finite(0), help="Weight of the gradient penalty.")
@click.option(
    "--perceptual",
    metavar="CLIP",
    help="Compare reconstructions by this CLIP's image tower too: ARCH:PRETRAINED, local-dir:DIR, MODEL.",
)
@click.option("--perceptual-weight", type=Finite(0), help="Weight of that.  [default: 6 with --perceptual]")
@click.option(
    "--init",
    type=EXISTING_FILE,
    help="Start from the averaged networks of this file, a checkpoint of a run of the same shape; where its "
    "mapping network is fitted anew, that may be of another depth.",
)
@click.option("--steps", type=click.IntRange(0), help="Adversarial steps, with --condition clip.")
@click.option(
    "--clip",
    "clip_spec",
    metavar="ARCH[:PRETRAINED|:FILE]|hf-hub:ID|local-dir:DIR|MODEL",
    help="The CLIP of --condition clip, which needs one.",
)
@click.option("--clip-weight", type=Finite(0), help="Weight of the guidance by CLIP; 0 leaves it out.")
@click.option(
    "--max-memory",
    type=Finite(0, min_open=True),
    metavar="GB",
    help="With --condition clip: compute batches in as large parts as stay below it.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="With --condition clip: any setting that --dry-run shows.",
)
@click.option(
    "--focus",
    metavar="LEFT,TOP,RIGHT,BOTTOM,WEIGHT",
    callback=_focus,
    help="A box, in shares of a side, that reconstructions must get right: it counts WEIGHT times as much.",
)
@click.option(
    "--half/--no-half",
    default=None,
    help="Compute in 16 bit where it is safe.  [default: half on GPUs, and on CPUs that have bfloat16]",
)
@click.option("--dry-run", is_flag=True, help="Print the settings and stop.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@device_option
@seed_option
def command(
    data: tuple[str, ...],
    condition: str,
    preset: str | None,
    resolution: int | None,
    batch: int | None,
    autoencoder_images: int | None,
    mapping_steps: int | None,
    adversarial_images: int | None,
    adversarial_lr: float | None,
    r1_gamma: float | None,
    perceptual: str | None,
    perceptual_weight: float | None,
    init: Path | None,
    steps: int | None,
    clip_spec: str | None,
    clip_weight: float | None,
    max_memory: float | None,
    assignments: tuple[str, ...],
    focus: tuple[float, ...] | None,
    half: bool | None,
    dry_run: bool,
    out: Path,
    device: str,
    seed: int,
) -> None:
    """Train a StyleGAN2 on pictures: alone, or with captions, so that it draws what a text says."""
    unconditional = {
        "--autoencoder-images": autoencoder_images,
        "--adversarial-images": adversarial_images,
        "--perceptual": perceptual,
        "--perceptual-weight": perceptual_weight,
        "--focus": focus,
    }
    conditional = {
        "--steps": steps,
        "--clip-weight": clip_weight,
        "--max-memory": max_memory,
        "--set": assignments or None,
    }
    from stylegan2.layers import is_quick_in_half

    stray = conditional if condition == "none" else unconditional
    if given := [name for name, value in stray.items() if value is not None]:
        raise click.UsageError(f"{given[0]} has no meaning with --condition {condition}; leave it out")
    if preset == "finetune" and (condition == "none" or init is None):
        raise click.UsageError("--preset finetune goes with --condition clip and --init")
    if half is None:
        half = is_quick_in_half(resolve_device(device))
    if condition == "clip":
        from clip2gan.cli import _conditional

        options = {
            "batch": batch,
            "steps": steps,
            "mapping_steps": mapping_steps,
            "lr": adversarial_lr,
            "r1_gamma": r1_gamma,
            "clip_weight": clip_weight,
            "half": half,
            "seed": seed,
        }
        _conditional.train(
            data=data,
            preset=preset,
            resolution=resolution,
            options=options,
            assignments=assignments,
            init=init,
            clip_spec=clip_spec,
            max_memory=max_memory,
            dry_run=dry_run,
            out=out,
            device=device,
        )
        return

    from clip2gan.cli._conditional import own_resolution, preset_for, warn_of_shrinking
    from clip2gan.clip import ClipEncoder
    from clip2gan.data.captioned import picture_sides
    from clip2gan.data.pictures import open_mixed
    from clip2gan.losses import perceptual_distance
    from clip2gan.training.start import resolution_of_state
    from stylegan2 import GeneratorConfig
    from stylegan2.files import fingerprint, load_tensors
    from stylegan2.processes import Processes
    from stylegan2.runs import RunFolder
    from stylegan2.training import TrainingConfig, train
    from stylegan2.training.gan import check_shares
    from stylegan2.training.losses import Focus

    with blame("--data"):
        sides = picture_sides(data)
    with blame("--init"):
        initial = load_tensors(init)[0] if init else None
        own = own_resolution(sides) if initial is None else resolution_of_state(initial)
    resolution = own if resolution is None else resolution
    chosen = PRESETS[preset or preset_for(resolution)]
    try:
        shape = GeneratorConfig(
            z_dim=chosen["latent"],
            w_dim=chosen["latent"],
            img_resolution=resolution,
            channel_base=chosen["channel_base"],
            channel_max=chosen["channel_max"],
            mapping_layers=chosen["mapping_layers"],
        )
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--resolution'") from error
    config = TrainingConfig(
        generator=shape,
        seed=seed,
        batch=chosen["batch"],
        autoencoder_images=chosen["autoencoder_images"],
        focus=None if focus is None else Focus((focus[0], focus[1], focus[2], focus[3]), focus[4]),
        mapping_steps=chosen["mapping_steps"],
        adversarial_images=chosen["adversarial_images"],
        adversarial_lr=chosen["adversarial_lr"],
        autoencoder_weight=chosen["autoencoder_weight"],
        perceptual_weight=6.0 if perceptual else 0.0,
        noise=chosen["noise"],
        style_mixing=chosen["style_mixing"],
        r1_gamma=chosen["r1_gamma"],
        half=half,
    )
    overrides = {
        "batch": batch,
        "autoencoder_images": autoencoder_images,
        "mapping_steps": mapping_steps,
        "adversarial_images": adversarial_images,
        "adversarial_lr": adversarial_lr,
        "r1_gamma": r1_gamma,
        "perceptual_weight": perceptual_weight,
    }
    config = replace(config, **{name: value for name, value in overrides.items() if value is not None})
    settings = {
        "command": "train-gan",
        "condition": condition,
        "data": [Path(source).name for source in data],
        "perceptual": perceptual,
    }
    settings["init"] = init and fingerprint(init)
    settings.update(asdict(config))
    processes = Processes(resolve_device(device))
    where = processes.device
    if processes.is_first:
        click.echo(json.dumps(settings, indent=2), err=True)
        warn_of_shrinking(sides, resolution)
    with blame("--batch"):
        check_shares(config.batch, processes)
    if dry_run:
        return
    clip = ClipEncoder.load(perceptual, where) if perceptual else None
    with blame("--data"):
        pictures = open_mixed(data, resolution)
    with processes.first_before_others():
        run = RunFolder.open(out, settings)
    train(
        config,
        pictures,
        run,
        where,
        perceptual=perceptual_distance(clip) if clip else None,
        initial=initial,
    )
    if processes.is_first:
        click.echo(f"wrote {run.path / 'generator.safetensors'}")

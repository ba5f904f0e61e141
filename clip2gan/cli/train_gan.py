"""`clip2gan train-gan`: a StyleGAN2 from pictures, or from pictures and their captions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import EXISTING_FILE, Finite, allow_missing_option, device_option, resolve_device
from clip2gan.cli._gan import GanRequest
from clip2gan.cli._options import (
    own_settings,
    parse_assignments,
    preset_option,
    run_options,
    setting_options,
)
from clip2gan.defaults import LPIPS, SMALL
from clip2gan.training import gan_presets
from clip2gan.training.settings import GanTraining
from stylegan2.training.config import PRESETS, Focus, TrainingConfig

EXAMPLE = """
Examples:

    clip2gan train-gan --data pictures.zip --out runs/gan

    clip2gan train-gan --data pictures.zip --condition clip --clip ViT-B-32:laion2b_s34b_b79k --out runs/gan

The same command goes on where it was stopped. The folder holds config.json, log.jsonl, checkpoints/, samples/
and generator.safetensors, which train-mapper and --generator take; with --condition clip also bundle/, which
every --model takes: its generator is given texts without a mapper.
"""


class FocusBox(click.ParamType):
    """Five numbers: a box, and a weight."""

    name = "focus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Focus:
        try:
            left, top, right, bottom, weight = (float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not five numbers LEFT,TOP,RIGHT,BOTTOM,WEIGHT", param, ctx)
        try:
            return Focus((left, top, right, bottom), weight)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _power_of_two(_ctx: click.Context, _parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None and (value < 8 or value & (value - 1)):
        below = 1 << (max(value, 8).bit_length() - 1)
        remedy = f"{below} or {2 * below}" if value > 8 else "8 or more"
        raise click.BadParameter(f"{value} is not a power of two; take {remedy}")
    return value


PERCEPTUAL_HELP = (
    "Compare reconstructions by this CLIP's image tower too: ARCH:PRETRAINED, local-dir:DIR, MODEL; or by "
    f"one of {', '.join(LPIPS)}."
)


@click.command(epilog=EXAMPLE)
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="DIR|ZIP|SHARDS",
    help="Images: a folder, a zip, a tar or shards (pics-{0000..0009}.tar); several sources are mixed.",
)
@click.option(
    "--condition",
    type=click.Choice(["none", "clip"]),
    default="none",
    show_default=True,
    help="What the generator is given besides its random latent: nothing, or CLIP's embedding of a text.",
)
@preset_option(
    gan_presets.PRESETS,
    "Settings to start from: small, stylegan2, or finetune, which goes with --condition clip and --init.  "
    f"[default: finetune with these, else small up to {SMALL} px and stylegan2 above]",
)
@click.option(
    "--resolution",
    type=int,
    callback=_power_of_two,
    help="Pixels along a side; a power of two.  [default: that of --init or of the images, or 64]",
)
@setting_options(
    PRESETS,
    *("batch", "autoencoder_images", "mapping_steps", "adversarial_images", "adversarial_lr", "r1_gamma"),
)
@click.option(
    "--perceptual",
    metavar="CLIP|NETWORK",
    help=PERCEPTUAL_HELP,
)
@setting_options(
    PRESETS,
    *("perceptual_weight", "focus"),
    defaults={"perceptual_weight": "6 with --perceptual"},
    types={"focus": FocusBox()},
)
@click.option(
    "--init",
    type=EXISTING_FILE,
    help="Start from the averaged networks of this file, a checkpoint of a run of the same shape; where its "
    "mapping network is fitted anew, that may be of another depth.",
)
@click.option(
    "--clip",
    "clip_spec",
    metavar="ARCH[:PRETRAINED|:FILE]|hf-hub:ID|local-dir:DIR|MODEL",
    help="The CLIP of --condition clip, which needs one.",
)
@setting_options(gan_presets.PRESETS, "steps", "clip_weight")
@click.option(
    "--max-memory",
    type=Finite(0, min_open=True),
    metavar="GB",
    help="With --condition clip: compute batches in as large parts as stay below it.",
)
@allow_missing_option
@setting_options(PRESETS, "half", defaults={"half": "half on GPUs, and on CPUs that have bfloat16"})
@run_options
@device_option
@setting_options(PRESETS, "seed")
def command(
    *,
    data: tuple[str, ...],
    condition: str,
    preset: str | None,
    resolution: int | None,
    perceptual: str | None,
    init: Path | None,
    clip_spec: str | None,
    max_memory: float | None,
    allow_missing: bool,
    given: Mapping[str, Any],
    assignments: tuple[str, ...],
    dry_run: bool,
    out: Path,
    device: str,
) -> None:
    """Train a StyleGAN2 on pictures: alone, or with captions, so that it draws what a text says."""
    from stylegan2.layers import is_quick_in_half

    is_clip = condition == "clip"
    if is_clip and "adversarial_lr" in given:
        given = {**given, "lr": given["adversarial_lr"]}
    settings = own_settings(GanTraining if is_clip else TrainingConfig, given)
    only_captioned = {
        "--clip": clip_spec,
        "--max-memory": max_memory,
        "--allow-missing": allow_missing or None,
    }
    strangers = {"--perceptual": perceptual} if is_clip else only_captioned
    stray = [f"--{name.replace('_', '-')}" for name in given.keys() - settings.keys() - {"adversarial_lr"}]
    stray += [name for name, value in strangers.items() if value is not None]
    if stray:
        raise click.UsageError(f"{min(stray)} has no meaning with --condition {condition}; leave it out")
    if preset == "finetune" and not (is_clip and init):
        raise click.UsageError("--preset finetune goes with --condition clip and --init")
    request = GanRequest(
        data=data,
        preset=preset,
        resolution=resolution,
        settings={"half": is_quick_in_half(resolve_device(device)), **settings},
        assigned=parse_assignments(assignments),
        init=init,
        dry_run=dry_run,
        out=out,
        device=resolve_device(device),
    )
    if is_clip:
        from clip2gan.cli._conditional import train_captioned

        train_captioned(request, clip_spec, max_memory, allow_missing)
    else:
        from clip2gan.cli._unconditional import train_plain

        train_plain(request, perceptual)

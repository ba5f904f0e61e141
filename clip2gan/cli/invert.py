"""`clip2gan invert`: the latent codes that give pictures back."""

from itertools import islice
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import (
    EXISTING,
    Report,
    check_outputs,
    compile_option,
    device_option,
    force_option,
    input_pictures,
    is_file_name,
    json_option,
    load_model,
    mapper_option,
    model_option,
    name_left_out,
    precision_option,
    progress,
    readable,
    seed_option,
    steps_option,
    with_steps,
)


@click.command("invert")
@click.option("--image", type=EXISTING, required=True, metavar="FILE|FOLDER", help="What to give back.")
@click.option(
    "--source",
    type=click.Choice(["invert", "encoder"]),
    default="invert",
    show_default=True,
    help="By optimisation, or by the model's encoder in one pass.",
)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Pictures at once.")
@click.option(
    "--tune",
    is_flag=True,
    help="Also a generator tuned to the picture (one file): NAME-generator.safetensors.",
)
@steps_option
@model_option
@mapper_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.safetensors",
    help='Where to write "ws" [N, num_ws, w_dim], with the pictures\' names and fingerprints in the header.',
)
@device_option
@precision_option
@compile_option
@seed_option
@force_option
@json_option
def command(
    *,
    image: Path,
    source: str,
    batch: int,
    tune: bool,
    steps: int | None,
    model: str,
    mapper: str | None,
    out: Path,
    device: str,
    precision: str,
    compiled: bool,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Find the latent codes in W+ that give a picture, or those of a folder, back.

    \b
    clip2gan invert --image face.png --out face.safetensors
    """
    if not is_file_name(out, ".safetensors"):
        raise click.BadParameter(f"{out}: give it a name that ends in .safetensors", param_hint="'--out'")
    paths = input_pictures(image)
    tuned_file = out.with_name(f"{out.stem}-generator.safetensors")
    check_outputs([out, *([tuned_file] if tune else [])], force)
    if tune and image.is_dir():
        raise click.BadParameter("a generator is tuned to one picture; give a file", param_hint="'--image'")

    inverter = load_model(model, device, mapper, precision, compiled)
    import torch

    from clip2gan.editing.inversion import picture_fingerprint, save_latents
    from stylegan2 import save_generator

    if source == "encoder" and inverter.encoder is None:
        remedy = f"`clip2gan train-encoder --model {model}` makes one"
        raise click.BadParameter(f"the model {model} has no encoder; {remedy}", param_hint="'--source'")
    config = with_steps(inverter.domain.inversion, steps)
    torch.manual_seed(seed)
    settings = {"source": source, "steps": config.steps if source == "invert" else None, "seed": seed}
    report = Report("invert", {**inverter.provenance(), **settings}, as_json)
    if image.is_dir():
        name_left_out(image, paths)
    parts: list[torch.Tensor] = []
    fingerprints: list[str] = []
    figures: dict[str, Any] = {"images": [], "l1": [], "psnr": []}
    pictures = readable(paths, report)
    while read := list(islice(pictures, batch)):  # photos are large: no more than a batch is in memory
        if source == "encoder":
            found = torch.cat([inverter.encode(picture) for _, picture in read])
        else:
            start = len(fingerprints)
            description = f"pictures {start + 1} to {start + len(read)} of {len(paths)}"
            found = inverter.invert_all(
                [picture for _, picture in read],
                config,
                lambda steps, text=description: progress(steps, text),
            )
        parts.append(found)
        for (path, picture), row in zip(read, found.split(1), strict=True):
            fingerprints.append(picture_fingerprint(inverter.fit(picture)))
            figures["images"].append(path.name)
            figures["l1"].append(round(inverter.error(picture, row), 4))
            figures["psnr"].append(round(inverter.psnr(picture, row), 2))
        if tune:
            (_, picture), ws = read[0], found[:1]
            tuned = inverter.tuned(picture, ws, progress=lambda steps: progress(steps, "tuning"))
            figures["psnr_tuned"] = round(tuned.psnr(picture, ws), 2)
            save_generator(tuned.generator, tuned_file)
            report.wrote(tuned_file, psnr=figures["psnr_tuned"])
    if not parts:
        report.close()
    save_latents(
        out,
        torch.cat(parts),
        fingerprints,
        {"command": "invert", **figures, **settings, **inverter.provenance()},
    )
    if not as_json:
        for name, decibels in zip(figures["images"], figures["psnr"], strict=True):
            click.echo(f"  {name}: {decibels:.1f} dB")
    report.wrote(out, **figures)
    report.close()

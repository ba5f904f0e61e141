"""`clip2gan invert`: the latent codes that give pictures back."""

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
    precision_option,
    progress,
    readable,
    seed_option,
    steps_option,
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
    steps: int,
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

    from clip2gan.editing.inversion import InversionConfig, picture_fingerprint, save_latents
    from stylegan2 import save_generator

    if source == "encoder" and inverter.encoder is None:
        remedy = f"`clip2gan train-encoder --model {model}` makes one"
        raise click.BadParameter(f"the model {model} has no encoder; {remedy}", param_hint="'--source'")
    torch.manual_seed(seed)
    settings = {"source": source, "steps": steps if source == "invert" else None, "seed": seed}
    report = Report("invert", {**inverter.provenance(), **settings}, as_json)
    read = list(readable(paths, report))
    parts: list[torch.Tensor] = []
    for start in range(0, len(read), batch):
        pictures = [picture for _, picture in read[start : start + batch]]
        if source == "encoder":
            parts += [inverter.encode(picture) for picture in pictures]
            continue
        description = f"pictures {start + 1} to {start + len(pictures)} of {len(read)}"
        config = InversionConfig(steps=steps)
        parts.append(
            inverter.invert_all(pictures, config, lambda steps, text=description: progress(steps, text))
        )
    if not read:
        report.close()
    ws = torch.cat(parts)
    names = [path.name for path, _ in read]
    rows = list(zip((picture for _, picture in read), ws.split(1), strict=True))
    figures: dict[str, Any] = {
        "images": names,
        "l1": [round(inverter.error(picture, row), 4) for picture, row in rows],
        "psnr": [round(inverter.psnr(picture, row), 2) for picture, row in rows],
    }
    if tune:
        tuned = inverter.tuned(*rows[0], progress=lambda steps: progress(steps, "tuning"))
        figures["psnr_tuned"] = round(tuned.psnr(*rows[0]), 2)
        save_generator(tuned.generator, tuned_file)
        report.wrote(tuned_file, psnr=figures["psnr_tuned"])
    fingerprints = [picture_fingerprint(inverter.fit(picture)) for picture, _ in rows]
    save_latents(out, ws, fingerprints, {"command": "invert", **figures, **settings, **inverter.provenance()})
    if not as_json:
        for name, decibels in zip(names, figures["psnr"], strict=True):
            click.echo(f"  {name}: {decibels:.1f} dB")
    report.wrote(out, **figures)
    report.close()

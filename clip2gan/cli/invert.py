"""`clip2gan invert`: the latent codes that give pictures back."""

from pathlib import Path

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
@steps_option
@model_option
@mapper_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.safetensors",
    help='Where to write "ws" [N, num_ws, w_dim], with the pictures\' names in the header.',
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
    check_outputs([out], force)

    inverter = load_model(model, device, mapper, precision, compiled)
    import torch

    from clip2gan.editing.inversion import InversionConfig
    from stylegan2.files import save_tensors

    torch.manual_seed(seed)
    settings = {"steps": steps, "seed": seed}
    report = Report("invert", {**inverter.provenance(), **settings}, as_json)
    rows, names, errors = [], [], []
    for path, picture in readable(paths, report):
        ws = inverter.invert(
            picture, InversionConfig(steps=steps), lambda steps, path=path: progress(steps, path.name)
        )
        rows.append(ws)
        names.append(path.name)
        errors.append(round(inverter.error(picture, ws), 4))
    if not rows:
        report.close()
    config = {"command": "invert", "images": names, "l1": errors, **settings, **inverter.provenance()}
    save_tensors(out, {"ws": torch.cat(rows)}, config)
    report.wrote(out, images=names, l1=errors)
    report.close()

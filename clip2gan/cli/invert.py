"""`clip2gan invert`: the latent codes that give pictures back."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from clip2gan.cli._common import (
    EXISTING,
    Report,
    blame,
    claim_outputs,
    input_pictures,
    is_file_name,
    name_left_out,
    progress,
    readable,
    report_options,
    seed_option,
    warn,
)
from clip2gan.cli._model import (
    ModelOptions,
    change_inversion,
    model_options,
    perceptual_option,
    steps_option,
)

if TYPE_CHECKING:
    from clip2gan.editing.session import Inverted


@click.command("invert")
@click.option("--image", type=EXISTING, required=True, metavar="FILE|FOLDER", help="Picture(s) to invert.")
@click.option(
    "--source",
    type=click.Choice(["invert", "encoder"]),
    default="invert",
    show_default=True,
    help="By optimisation (closest), or by the model's encoder (fast).",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Pictures to optimise together.  [default: by their size and the device, 8 at most]",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Also tune a copy of the generator to the picture: NAME-generator.safetensors (one picture only).",
)
@steps_option
@perceptual_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.safetensors|.npz",
    help='File for the latents, "ws" [N, num_ws, w_dim]; its header names the pictures. A .npz is what '
    "NVIDIA's projector writes, without names.",
)
@seed_option
@model_options
@report_options
def command(
    *,
    image: Path,
    source: Literal["invert", "encoder"],
    batch: int | None,
    tune: bool,
    steps: int | None,
    perceptual: str | None,
    out: Path,
    seed: int,
    using: ModelOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Find the latent codes in W+ that reproduce a picture, or each picture of a folder.

    \b
    clip2gan invert --image portrait.png --out portrait.safetensors
    clip2gan invert --model runs/cats/bundle --image cats/ --out cats.safetensors
    """
    if not (is_file_name(out, ".safetensors") or is_file_name(out, ".npz")):
        raise click.BadParameter(
            f"{out}: give it a name that ends in .safetensors (or .npz, as NVIDIA's projector writes it)",
            param_hint="'--out'",
        )
    paths = input_pictures(image)
    tuned_file = out.with_name(f"{out.stem}-generator.safetensors")
    claim_outputs([out, *([tuned_file] if tune else [])], force)
    if tune and image.is_dir():
        raise click.BadParameter("a generator is tuned to one picture; give a file", param_hint="'--image'")

    inverter = using.load()
    import torch

    from clip2gan.devices import pictures_at_once
    from clip2gan.editing.inversion import save_latents
    from clip2gan.editing.latents import write_nvidia_latents
    from clip2gan.editing.session import invert_pictures
    from clip2gan.images import read_picture
    from stylegan2 import save_generator
    from stylegan2.seeds import seed_torch

    with blame("--source"):
        inverter.check_source(source)
    config = change_inversion(inverter.domain.inversion, steps, perceptual)
    batch = batch or min(8, pictures_at_once(inverter.resolution, inverter.device, learning=True))
    seed_torch(seed)
    how = {"steps": config.steps, "perceptual": config.features} if source == "invert" else {"steps": None}
    settings = {"source": source, **how, "seed": seed}
    report = Report("invert", {**inverter.provenance(), **settings}, as_json)
    if image.is_dir():
        name_left_out(image, paths)
    found: list[Inverted] = []
    figures: dict[str, Any] = {"images": [], "l1": [], "psnr": []}
    pictures = readable(paths, report, read_picture)
    while read := list(islice(pictures, batch)):  # photos are large: no more than a batch is in memory
        what = f"pictures {len(found) + 1} to {len(found) + len(read)} of {len(paths)}"
        inverted = invert_pictures(
            inverter,
            [picture for _, picture in read],
            source,
            config,
            lambda steps, text=what: progress(steps, text),
        )
        for (path, picture), one in zip(read, inverted, strict=True):
            figures["images"].append(path.name)
            figures["l1"].append(round(one.l1, 4))
            figures["psnr"].append(round(one.psnr, 2))
            for notice in one.notices:
                warn(f"{path.name}: {notice}")
            report.tell([f"{path.name}: {one.psnr:.1f} dB"])
            if tune:
                tuning, show = inverter.domain.tuning_like(config), lambda steps: progress(steps, "tuning")
                tuned = inverter.tune(picture, one.ws, tuning, show)
                figures["psnr_tuned"] = round(tuned.psnr(picture, one.ws), 2)
                save_generator(tuned.generator, tuned_file)
                report.wrote(tuned_file, psnr=figures["psnr_tuned"])
        found += inverted
    if not found:
        report.close()
    ws = torch.cat([one.ws for one in found])
    if out.suffix.lower() == ".npz":
        write_nvidia_latents(out, ws)
    else:
        made_with = {"command": "invert", **figures, **settings, **inverter.provenance()}
        save_latents(out, ws, [one.fingerprint for one in found], made_with)
    report.wrote(out, **figures)
    report.close()

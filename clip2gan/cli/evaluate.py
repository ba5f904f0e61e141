"""`clip2gan evaluate`: models measured by the same prompts and pictures, side by side."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clip2gan.cli._common import (
    EXISTING,
    EXISTING_FILE,
    Finite,
    blame,
    check_outputs,
    device_option,
    force_option,
    load_model,
    progress,
    resolve_device,
    seed_option,
)
from clip2gan.defaults import TRUNCATION

if TYPE_CHECKING:
    from PIL import Image

    from clip2gan.pipeline import Clip2Gan

SHEET_PICTURE = 96  # pixels
EXAMPLE = """
Example:

    clip2gan evaluate --model runs/flow/bundle --against runs/mlp/bundle --real pictures.zip --out report.json

A model's other mappers are MODEL:MAPPER, as avatars:flow. Beside report.json come report.md, the table, and
report.png, a sheet with a row for each prompt.
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--model", default="avatars", show_default=True, metavar="MODEL[:MAPPER]", help="What is measured."
)
@click.option("--against", multiple=True, metavar="MODEL[:MAPPER]", help="Beside which others (repeatable).")
@click.option(
    "--prompts", type=EXISTING_FILE, metavar="FILE", help="One text a line.  [default: 100 about faces]"
)
@click.option(
    "--attributes", type=EXISTING_FILE, metavar="FILE", help="Texts to edit by.  [default: about faces]"
)
@click.option("--real", type=EXISTING, metavar="FOLDER|ZIP", help="Pictures that no model was trained on.")
@click.option(
    "--max-real", type=click.IntRange(2), default=500, show_default=True, help="Take so many of them at most."
)
@click.option(
    "--clip", metavar="CLIP", help="The CLIP that judges, as in train-mapper.  [default: each model's own]"
)
@click.option("--num", type=click.IntRange(2), default=4, show_default=True, help="Pictures of each text.")
@click.option(
    "--truncation", type=Finite(0, 2), default=TRUNCATION, show_default=True, help="As in generate."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write the figures, the table and a sheet of pictures.",
)
@device_option
@seed_option
@force_option
def command(
    *,
    model: str,
    against: tuple[str, ...],
    prompts: Path | None,
    attributes: Path | None,
    real: Path | None,
    max_real: int,
    clip: str | None,
    num: int,
    truncation: float,
    out: Path | None,
    device: str,
    seed: int,
    force: bool,
) -> None:
    """Measure models: how well pictures follow texts, how they vary, what mapping and editing keep."""
    if out is not None and out.suffix != ".json":
        raise click.BadParameter(f"{out}: name it {out.with_suffix('.json').name}", param_hint="'--out'")
    names = [model, *against]
    if len(set(names)) < len(names):
        raise click.BadParameter("the same model twice", param_hint="'--against'")
    with blame("--prompts"):
        texts = read_texts(prompts, "prompts.json")
    with blame("--attributes"):
        edits = read_texts(attributes, "edits.json")
    if out is not None:
        check_outputs([out, out.with_suffix(".md"), out.with_suffix(".png")], force)

    from clip2gan.clip import ClipEncoder
    from clip2gan.evaluation.report import Protocol, evaluate, markdown, sheet

    loaded = _load(model, device)
    pictures = [] if real is None else _real_pictures(real, loaded.resolution, max_real)
    protocol = Protocol(texts, num=num, truncation=truncation, attributes=edits, real=pictures, seed=seed)
    judge = ClipEncoder.load(clip, resolve_device(device)) if clip else None
    evaluations = {}
    for name in names:
        loaded = loaded if name == model else _load(name, device)
        evaluations[name] = evaluate(loaded, protocol, judge, lambda jobs, name=name: progress(jobs, name))
    figures = {name: evaluation.figures for name, evaluation in evaluations.items()}
    table = markdown(figures)
    click.echo(table)
    if out is not None:
        from clip2gan.images import write_png
        from stylegan2.files import atomic_path

        settings = {
            "clip": clip or "each model's own",
            "prompts": len(texts),
            "num": num,
            "truncation": truncation,
            "real": len(pictures),
            "seed": seed,
        }
        report = json.dumps({**settings, "figures": figures}, indent=2)
        for path, text in ((out, report), (out.with_suffix(".md"), table)):
            with atomic_path(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        picture = sheet(list(evaluations.values()), SHEET_PICTURE)
        write_png(out.with_suffix(".png"), picture, {"command": "evaluate", "models": names, **settings})
        click.echo(f"wrote {out}, {out.with_suffix('.md')} and {out.with_suffix('.png')}")


def read_texts(path: Path | None, default: str) -> list[str]:
    """The lines of a text file, or the texts of the package's own list `default`.

    Raises ValueError when there is none.
    """
    if path is None:
        from importlib import resources

        own = resources.files("clip2gan.evaluation") / default
        return [entry["text"] for entry in json.loads(own.read_text(encoding="utf-8"))]
    from clip2gan.data.samples import plain_prompts

    return plain_prompts(path)


def _load(name: str, device: str) -> "Clip2Gan":
    """A model and its mapper, of MODEL[:MAPPER]; the colon of "hf-hub:ORG/NAME" is not one of these."""
    folder, colon, mapper = name.rpartition(":")
    if not colon or folder == "hf-hub" or Path(name).exists():
        return load_model(name, device, None)
    return load_model(folder, device, mapper)


def _real_pictures(source: Path, resolution: int, count: int) -> "list[Image.Image]":
    from PIL import Image

    from clip2gan.data.pictures import open_pictures

    pictures = open_pictures(source, resolution)
    pixels = pictures.batch(range(min(count, len(pictures)))).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]

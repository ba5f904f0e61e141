"""`clip2gan edit`: change a picture by words."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import (
    EXISTING,
    EXISTING_FILE,
    Report,
    blame,
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
from clip2gan.defaults import NEUTRAL


class Strength(click.ParamType):
    """A finite number, or the word auto."""

    name = "auto|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "auto":
            return "auto"
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'auto'.", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


@click.command("edit")
@click.option("--image", type=EXISTING, required=True, metavar="FILE|FOLDER", help="What to change.")
@click.option(
    "--attr",
    "attributes",
    multiple=True,
    metavar="TEXT[:STRENGTH]",
    help='What to add: "smiling", "smiling:1.5"; "-glasses" takes away (repeatable).',
)
@click.option("--ref-image", type=EXISTING_FILE, metavar="FILE", help="Move towards this picture.")
@click.option(
    "--source",
    type=click.Choice(["invert", "clip"]),
    default="invert",
    show_default=True,
    help="Where the picture's latents come from: found by optimisation, or mapped from its CLIP embedding "
    "(quick, but another person).",
)
@click.option(
    "--strength",
    type=Strength(),
    default=1.0,
    show_default=True,
    help="Multiplies every strength; auto looks for the least that CLIP is content with.",
)
@click.option("--neutral", default=NEUTRAL, show_default=True, help="The text that attributes are added to.")
@click.option("--sweep", metavar="A:B:N", help="A strip of N pictures, with strengths from A to B.")
@click.option("--sheet", is_flag=True, help="Also before, after and their difference: NAME-sheet.png.")
@steps_option
@model_option
@mapper_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/edited"),
    show_default=True,
    metavar="FILE.png|FOLDER",
    help="Where to write; in a folder, pictures keep their names.",
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
    attributes: tuple[str, ...],
    ref_image: Path | None,
    source: str,
    strength: float | str,
    neutral: str,
    sweep: str | None,
    sheet: bool,
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
    """Change a picture, or all pictures of a folder, by words.

    \b
    clip2gan edit --image face.png --attr sad --attr "-sunglasses" --out edited.png
    clip2gan edit --image face.png --attr smiling --sweep -1:2:7 --out strip.png
    """
    from clip2gan.editing.attributes import parse_attributes, parse_sweep
    from clip2gan.images import contact_sheet, difference, read_picture, write_png

    with blame("--attr"):
        wanted = parse_attributes(attributes)
    with blame("--sweep"):
        strengths = parse_sweep(sweep) if sweep is not None else []
    if not wanted and ref_image is None:
        raise click.UsageError("say what to change: --attr TEXT or --ref-image FILE", _context())
    if strengths and (sheet or strength != 1.0):
        message = "--sweep sets the strengths and makes a strip; leave --strength and --sheet out"
        raise click.UsageError(message, _context())
    if strength == "auto" and not wanted:
        raise click.BadParameter("auto needs an --attr", param_hint="'--strength'")
    if not neutral.strip():
        raise click.BadParameter("the text is empty", param_hint="'--neutral'")
    paths = input_pictures(image)
    outputs = _plan(paths, out, folder=image.is_dir())
    sheets = {path: _sheet_path(output) for path, output in outputs.items()} if sheet else {}
    check_outputs([*outputs.values(), *sheets.values()], force)
    reference = read_picture(ref_image) if ref_image is not None else None

    editor = load_model(model, device, mapper, precision, compiled)
    from clip2gan.editing.inversion import InversionConfig

    settings = {
        "source": source,
        "steps": steps if source == "invert" else None,
        "neutral": neutral,
        "ref_image": ref_image.name if ref_image is not None else None,
        "strength": strengths or strength,
        "seed": seed,
    }
    report = Report("edit", {**editor.provenance(), **settings, "attributes": wanted}, as_json)
    for path, picture in readable(paths, report):
        if source == "invert":
            ws = editor.invert(
                picture, InversionConfig(steps=steps), lambda steps, path=path: progress(steps, path.name)
            )
        else:
            ws = editor.estimate(picture)
        chosen = wanted
        if strength == "auto":
            chosen = editor.auto_strengths(ws, wanted, neutral=neutral)
        factors = strengths or [1.0 if strength == "auto" else float(strength)]
        edits = [
            editor.edit(ws, chosen, neutral=neutral, strength=factor, reference=reference)
            for factor in factors
        ]
        facts = {"image": path.name, "attributes": chosen}
        metadata = {"command": "edit", **settings, **facts, **editor.provenance()}
        write_png(outputs[path], contact_sheet(edits, len(edits)), metadata)
        report.wrote(outputs[path], **facts)
        if path in sheets:
            before = editor.fit(picture)
            write_png(
                sheets[path], contact_sheet([before, edits[0], difference(before, edits[0])], 3), metadata
            )
            report.wrote(sheets[path], **facts)
    report.close()


def _plan(paths: Sequence[Path], out: Path, folder: bool) -> dict[Path, Path]:
    """Where each picture's edit goes: FILE.png itself for one file, else OUT/STEM.png."""
    if is_file_name(out):
        if folder:
            raise click.BadParameter(f"{out}: a folder of pictures needs a folder", param_hint="'--out'")
        return {paths[0]: out}
    outputs = {path: out / f"{path.stem}.png" for path in paths}
    taken: dict[Path, Path] = {}
    for path, output in outputs.items():
        if output in taken:
            message = f"{taken[output].name} and {path.name} would both become {output}; rename one"
            raise click.BadParameter(message, param_hint="'--image'")
        taken[output] = path
    return outputs


def _sheet_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}-sheet.png")


def _context() -> click.Context:
    return click.get_current_context()

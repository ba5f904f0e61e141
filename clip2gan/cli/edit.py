"""`clip2gan edit`: change a picture by words."""

from pathlib import Path
from typing import Any, Literal

import click

from clip2gan.cli._common import (
    EXISTING,
    EXISTING_FILE,
    Finite,
    Report,
    blame,
    compile_option,
    device_option,
    force_option,
    input_pictures,
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
from clip2gan.cli._edits import (
    EditFiles,
    EditRequest,
    Strength,
    check_faces,
    check_texts,
    edit_picture,
    read_changes,
    read_points,
)


@click.command("edit")
@click.option("--image", type=EXISTING, required=True, metavar="FILE|FOLDER", help="Picture(s) to edit.")
@click.option(
    "--attr",
    "attributes",
    multiple=True,
    metavar="TEXT[:STRENGTH]",
    help='What to add, such as "smiling" or "smiling:1.5"; "-glasses" takes away (repeatable).',
)
@click.option("--ref-image", type=EXISTING_FILE, metavar="FILE", help="Move towards this picture.")
@click.option(
    "--source",
    type=click.Choice(["invert", "encoder", "clip"]),
    default="invert",
    show_default=True,
    help="How the picture's latents are found: by optimisation (closest), by the model's encoder (fast), or "
    "from its CLIP embedding (fast; similar, not the same).",
)
@click.option(
    "--strength",
    type=Strength(),
    help="Multiplies all strengths. At 1 the attribute is as clear as in pictures that show it; auto finds "
    "the weakest edit that CLIP recognises.  [default: auto, or 1 if an --attr sets a strength]",
)
@click.option(
    "--direction",
    type=click.Choice(["neighbours", "clip", "mapped", "raw"]),
    default="neighbours",
    show_default=True,
    help="How a text becomes a change: towards similar pictures that it describes; by the difference of "
    "CLIP's texts; M(text) - M(neutral); or M(text) alone, as in the paper.",
)
@click.option("--neutral", help="Text that attributes are measured against.  [default: the model's]")
@click.option("--keep", multiple=True, metavar="TEXT", help="What must not change (repeatable).")
@click.option(
    "--threshold",
    type=Finite(0, 1),
    default=0.0,
    show_default=True,
    help="Leave alone style channels with less than this share of the largest effect on CLIP.",
)
@click.option("--tune", is_flag=True, help="Tune a copy of the generator to each picture for more likeness.")
@click.option(
    "--latents",
    type=EXISTING_FILE,
    metavar="FILE.safetensors",
    help="Use latents saved by `clip2gan invert`.",
)
@click.option("--align", is_flag=True, help="Find faces and crop them the way FFHQ does.")
@click.option("--face", type=click.IntRange(1), help="Edit only the Nth face from the left.  [default: all]")
@click.option(
    "--points",
    metavar="X,Y,...",
    help="Eyes, nose and mouth corners of the face (left before right), instead of detecting it.",
)
@click.option(
    "--landmark-model", type=EXISTING_FILE, metavar="FILE.task", help="MediaPipe's face landmarker model."
)
@click.option("--paste-back", is_flag=True, help="Paste the edited faces back into the photo.")
@click.option("--sweep", metavar="A:B:N", help="Make a strip of N pictures with strengths from A to B.")
@click.option(
    "--sheet", is_flag=True, help="Also write NAME-sheet.png: before, after, difference and figures."
)
@click.option(
    "--video",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.gif|FILE.mp4",
    help="Also write a video of the edit, there and back.",
)
@steps_option
@model_option
@mapper_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/edited"),
    show_default=True,
    metavar="FILE.png|FOLDER",
    help="Where to write. A folder keeps the pictures' names; figures.csv holds their figures.",
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
    source: Literal["invert", "encoder", "clip"],
    strength: float | Literal["auto"] | None,
    direction: Literal["neighbours", "clip", "mapped", "raw"],
    neutral: str | None,
    keep: tuple[str, ...],
    threshold: float,
    tune: bool,
    latents: Path | None,
    align: bool,
    face: int | None,
    points: str | None,
    landmark_model: Path | None,
    paste_back: bool,
    sweep: str | None,
    sheet: bool,
    video: Path | None,
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
    """Change a picture, or all pictures of a folder, by words.

    \b
    clip2gan edit --image portrait.png --attr sad --attr "-sunglasses" --out edited.png
    clip2gan edit --model runs/cats/bundle --image cat.png --attr "long fur" --sweep -1:2:7 --out strip.png
    clip2gan edit --model runs/cars/bundle --image cars/ --attr red --sheet --out red-cars/
    clip2gan edit --model FFHQ --image photo.jpg --attr smiling --align --paste-back --out smiling.png
    """
    single = sheet or video is not None or strength is not None
    wanted, factors, strength = read_changes(attributes, sweep, strength, single, ref_image is not None)
    check_texts(neutral, keep)
    check_faces(image, align, face, points, landmark_model, paste_back)
    paths = input_pictures(image)
    files = EditFiles(paths, out, folder=image.is_dir(), sheet=sheet, video=video, force=force)
    given = read_points(points, paths[0])
    if align and given is None:
        from clip2gan.editing.faces import check_detector

        with blame("--align"):
            check_detector(landmark_model)

    editor = load_model(model, device, mapper, precision, compiled)
    from clip2gan.editing.inversion import load_latents
    from clip2gan.editing.output import write_table
    from clip2gan.editing.session import EditSession, InversionOptions
    from clip2gan.images import read_photo, read_picture

    with blame("--source"):
        editor.check_source(source)
    if image.is_dir():
        name_left_out(image, paths)
    stored = None
    if latents is not None:
        with blame("--latents"):
            stored = load_latents(latents, editor.generator, editor.bundle.fingerprint)
    inversion = with_steps(editor.domain.inversion, steps)
    stored_name = "" if latents is None else latents.name
    options = InversionOptions(source, inversion, tune, stored, stored_name)
    reference = None if ref_image is None else read_picture(ref_image)
    request = EditRequest(
        wanted, strength, factors, reference, direction, neutral, keep, threshold, paste_back
    )
    settings = {
        "source": source,
        "steps": inversion.steps if source == "invert" else None,
        "latents": latents.name if latents is not None else None,
        "direction": direction,
        "neutral": neutral or editor.domain.neutral,
        "keep": list(keep) or None,
        "threshold": threshold or None,
        "tune": tune or None,
        "align": align or points or None,
        "face": face,
        "landmark_model": landmark_model.name if landmark_model is not None else None,
        "paste_back": paste_back or None,
        "ref_image": ref_image.name if ref_image is not None else None,
        "strength": factors or strength,
        "seed": seed,
    }
    report = Report("edit", {**editor.provenance(), **settings, "attributes": wanted}, as_json)
    metadata = {"command": "edit", **settings, "attributes": wanted, **editor.provenance()}
    rows: list[dict[str, Any]] = []
    pictures = readable(paths, report, read_photo)
    try:
        for path, photo in progress(pictures, "pictures", len(paths)) if len(paths) > 1 else pictures:
            try:
                session = EditSession(
                    editor,
                    photo.picture,
                    align="ffhq" if align else None,
                    face=face,
                    points=given,
                    landmark_model=landmark_model,
                    inversion=options,
                    progress=progress,
                )
                rows += edit_picture(session, photo, path, request, files, metadata, report)
            except (ValueError, OSError, click.ClickException) as error:
                if len(paths) == 1:
                    raise ValueError(f"{path}: {error}") from error
                report.skipped(path, f"{path}: {error}")
    finally:  # what was done before an interruption has its figures too
        if files.table is not None and rows:
            write_table(files.table, rows)
            report.wrote(files.table)
    report.close()

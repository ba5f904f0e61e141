"""`clip2gan edit`: change a picture by words."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    EXISTING,
    Report,
    input_pictures,
    name_left_out,
    progress,
    readable,
    report_options,
    seed_option,
)
from clip2gan.cli._edit_options import (
    ChangeOptions,
    FaceOptions,
    StartOptions,
    change_options,
    face_options,
    start_options,
)
from clip2gan.cli._edits import EditRequest, edit_picture
from clip2gan.cli._model import ModelOptions, model_options, warn_of_texts
from clip2gan.cli._outputs import EditFiles
from stylegan2.faults import WriteError

if TYPE_CHECKING:
    from torch import Tensor

    from clip2gan.domain import InversionConfig
    from clip2gan.images import Photo
    from clip2gan.model import Model


@click.command("edit")
@click.option("--image", type=EXISTING, metavar="FILE|FOLDER", help="Picture(s) to edit.")
@change_options
@start_options
@face_options
@click.option(
    "--sheet", is_flag=True, help="Also write NAME-sheet.png: before, after, difference and figures."
)
@click.option(
    "--video",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.gif|FILE.mp4",
    help="Also write a video of the edit, there and back.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/edited"),
    show_default=True,
    metavar="FILE.png|FOLDER",
    help="Where to write. A folder keeps the pictures' names; figures.csv holds their figures.",
)
@seed_option
@model_options
@report_options
def command(
    *,
    image: Path | None,
    change: ChangeOptions,
    start: StartOptions,
    framing: FaceOptions,
    sheet: bool,
    video: Path | None,
    out: Path,
    seed: int,
    using: ModelOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Change a picture, or all pictures of a folder, by words.

    \b
    clip2gan edit --image portrait.png --attr sad --attr "-sunglasses" --out edited.png
    clip2gan edit --model runs/cats/bundle --image cat.png --attr "long fur" --sweep -1:2:7 --out strip.png
    clip2gan edit --model runs/cars/bundle --image cars/ --attr red --sheet --out red-cars/
    clip2gan edit --model FFHQ --latents projected_w.npz --attr smiling --out smiling.png
    clip2gan edit --model FFHQ --image photo.jpg --attr smiling --align --paste-back --out smiling.png
    """
    wanted, factors, strength = change.parse(is_single=sheet or video is not None)
    start.check(image is not None)
    framing.check(image)
    places = partial(EditFiles, out=out, sheet=sheet, video=video, force=force)
    paths = [] if image is None else input_pictures(image)
    files = None if image is None else places(paths, folder=image.is_dir())
    points = framing.read_points(paths[0]) if paths else None

    editor = using.load()
    from clip2gan.editing.output import write_table
    from clip2gan.editing.session import EditSession
    from clip2gan.images import read_photo, read_picture

    warn_of_texts(editor, wanted)
    options, latents = start.read(editor)
    inversion = options.config or editor.domain.inversion
    if image is None and latents is not None:
        options_of = start.pictures(options, latents)
        paths = list(options_of)
    else:
        options_of = start.assign(options, latents, paths)
    files = files or places(paths, folder=len(paths) > 1)
    if image is not None and image.is_dir():
        name_left_out(image, paths)
    request = EditRequest(
        wanted,
        strength,
        factors,
        None if change.ref_image is None else read_picture(change.ref_image),
        change.direction,
        change.neutral,
        change.keep,
        change.threshold,
        framing.paste_back,
    )
    settings = {
        **_settings(change, start, framing, inversion),
        "neutral": change.neutral or editor.domain.neutral,
        "strength": factors or strength,
        "seed": seed,
    }
    report = Report("edit", {**editor.provenance(), **settings, "attributes": wanted}, as_json)
    metadata = {"command": "edit", **settings, "attributes": wanted, **editor.provenance()}
    rows: list[dict[str, Any]] = []
    pictures = readable(
        paths, report, read_photo if image else lambda path: _draw(editor, options_of[path].given)
    )
    try:
        for path, photo in progress(pictures, "pictures", len(paths)) if len(paths) > 1 else pictures:
            try:
                session = EditSession(
                    editor,
                    photo.picture,
                    align="ffhq" if framing.align else None,
                    face=framing.face,
                    points=points,
                    landmark_model=framing.landmark_model,
                    inversion=options_of[path],
                    progress=progress,
                )
                rows += edit_picture(session, photo, path, request, files, metadata, report)
            except WriteError:  # of no picture alone
                raise
            except (ValueError, OSError, click.ClickException) as error:
                if len(paths) == 1:
                    raise ValueError(f"{path}: {error}") from error
                report.skipped(path, f"{path}: {error}")
    finally:  # what was done before an interruption has its figures too
        if files.table is not None and rows:
            write_table(files.table, rows)
            report.wrote(files.table)
    report.close()


def _settings(
    change: ChangeOptions, start: StartOptions, framing: FaceOptions, inversion: "InversionConfig"
) -> dict[str, Any]:
    """What is kept of the options."""
    inverts = start.source == "invert"
    return {
        "source": start.source,
        "steps": inversion.steps if inverts else None,
        "perceptual": inversion.features if inverts else None,
        "latents": _name(start.latents),
        "index": start.index,
        "direction": change.direction,
        "keep": list(change.keep) or None,
        "threshold": change.threshold or None,
        "tune": start.tune or None,
        "align": framing.align or framing.points or None,
        "face": framing.face,
        "landmark_model": _name(framing.landmark_model),
        "paste_back": framing.paste_back or None,
        "ref_image": _name(change.ref_image),
    }


def _draw(editor: "Model", ws: "Tensor | None") -> "Photo":
    """The picture of latents, as if it had been read."""
    from clip2gan.images import Photo

    assert ws is not None
    picture = editor.synthesize(ws)
    return Photo(picture, picture)


def _name(file: Path | None) -> str | None:
    return None if file is None else file.name

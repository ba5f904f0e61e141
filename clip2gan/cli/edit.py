"""`clip2gan edit`: change a picture by words."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from clip2gan.cli._common import (
    EXISTING,
    EXISTING_FILE,
    Finite,
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
    name_left_out,
    precision_option,
    progress,
    readable,
    seed_option,
    steps_option,
    warn,
    with_steps,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from clip2gan.editing.alignment import Square
    from clip2gan.model import Change

TABLE = "figures.csv"


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
    type=click.Choice(["invert", "encoder", "clip"]),
    default="invert",
    show_default=True,
    help="Where the picture's latents come from: found by optimisation, from the model's encoder (quick), or "
    "mapped from its CLIP embedding (quick, but another person).",
)
@click.option(
    "--strength",
    type=Strength(),
    help="Multiplies every strength; 1 is as clear as pictures are that show the attribute, auto looks for "
    "the least that CLIP agrees to.  [default: auto, or 1 where an --attr sets a strength]",
)
@click.option(
    "--direction",
    type=click.Choice(["neighbours", "clip", "mapped", "raw"]),
    default="neighbours",
    show_default=True,
    help="How a text becomes a change: towards pictures like this one that it describes; by the difference "
    "of CLIP's texts; M(text) - M(neutral); or M(text) itself, as in the paper.",
)
@click.option("--neutral", help="The text that attributes are added to.  [default: the model's]")
@click.option("--keep", multiple=True, metavar="TEXT", help="What is not to change (repeatable).")
@click.option(
    "--threshold",
    type=Finite(0, 1),
    default=0.0,
    show_default=True,
    help="Leave style channels alone that move CLIP less than this part of the most effective one.",
)
@click.option("--tune", is_flag=True, help="Tune a copy of the generator to the picture: closer likeness.")
@click.option(
    "--latents",
    type=EXISTING_FILE,
    metavar="FILE.safetensors",
    help="Take the latents of `clip2gan invert` for the pictures it has.",
)
@click.option("--align", is_flag=True, help="Find the faces and cut them out as FFHQ does.")
@click.option("--face", type=click.IntRange(1), help="Only the Nth face from the left.  [default: all]")
@click.option(
    "--points",
    metavar="X,Y,...",
    help="The face's eyes, nose and mouth corners (left before right), in place of finding it.",
)
@click.option(
    "--landmark-model", type=EXISTING_FILE, metavar="FILE.task", help="MediaPipe's face landmarker."
)
@click.option("--paste-back", is_flag=True, help="Put the edited faces back into the photo.")
@click.option("--sweep", metavar="A:B:N", help="A strip of N pictures, with strengths from A to B.")
@click.option("--sheet", is_flag=True, help="Also before, after, difference and figures: NAME-sheet.png.")
@click.option(
    "--video",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.gif|FILE.mp4",
    help="Also from none to full and back.",
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
    help="Where to write; in a folder pictures keep their names, and figures.csv holds their figures.",
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
    clip2gan edit --image face.png --attr sad --attr "-sunglasses" --out edited.png
    clip2gan edit --image face.png --attr smiling --sweep -1:2:7 --out strip.png
    clip2gan edit --model FFHQ --image photo.jpg --attr smiling --align --paste-back --out photo-smiling.png
    """
    from clip2gan.editing.attributes import parse_attributes, parse_sweep

    with blame("--attr"):
        wanted = parse_attributes(attributes)
    with blame("--sweep"):
        strengths = parse_sweep(sweep) if sweep is not None else []
    if not wanted and ref_image is None:
        raise click.UsageError("say what to change: --attr TEXT or --ref-image FILE", _context())
    if strengths and (sheet or video is not None or strength is not None):
        message = "--sweep sets the strengths and makes a strip; leave --strength, --sheet and --video out"
        raise click.UsageError(message, _context())
    if strength == "auto" and not wanted:
        raise click.BadParameter("auto needs an --attr", param_hint="'--strength'")
    for option, texts in (("--neutral", () if neutral is None else (neutral,)), ("--keep", keep)):
        if not all(text.strip() for text in texts):
            raise click.BadParameter("the text is empty", param_hint=f"'{option}'")
    if (face is not None or landmark_model is not None or paste_back) and not (align or points):
        raise click.UsageError("--face, --landmark-model and --paste-back belong to --align", _context())
    if points is not None and (face is not None or landmark_model is not None):
        message = "--points give one face, so nothing is looked for; leave --face and --landmark-model out"
        raise click.UsageError(message, _context())
    if points is not None and image.is_dir():
        raise click.BadParameter("the points are of one photo; give a file", param_hint="'--image'")
    if strength is None:
        given = any(abs(value) != 1 for value in wanted.values()) or any(":" in each for each in attributes)
        strength = "auto" if wanted and not given and not strengths else 1.0
    paths = input_pictures(image)
    outputs = _plan(paths, out, folder=image.is_dir())
    sheets = {path: _beside(output, "-sheet") for path, output in outputs.items()} if sheet else {}
    table = out / TABLE if image.is_dir() else None
    taken: dict[Path, str] = {}  # what is written -> what it is, so that nothing is written twice
    with blame("--image"):
        _claim(taken, ((output, path.name) for path, output in outputs.items()))
        _claim(taken, ((place, f"the sheet of {path.name}") for path, place in sheets.items()))
    check_outputs([*taken, *([table] if table else []), *([video] if video else [])], force)
    if video is not None:
        if len(paths) > 1:
            raise click.BadParameter("a video is of one picture; give a file", param_hint="'--image'")
        from clip2gan.video import check_video

        with blame("--video"):
            check_video(video)
    finder = _face_finder(paths[0], align, face, points, landmark_model)

    editor = load_model(model, device, mapper, precision, compiled)
    from clip2gan.editing.alignment import crop_face
    from clip2gan.editing.inversion import load_latents, picture_fingerprint
    from clip2gan.editing.output import (
        FRAMES,
        FRAMES_PER_SECOND,
        edit_sheet,
        figure_lines,
        there_and_back,
        write_table,
    )
    from clip2gan.editing.strength import sign_of
    from clip2gan.images import contact_sheet, read_picture, write_png
    from clip2gan.model import Directions
    from clip2gan.video import write_video

    if source == "encoder" and editor.encoder is None:
        remedy = f"`clip2gan train-encoder --model {model}` makes one"
        raise click.BadParameter(f"the model {model} has no encoder; {remedy}", param_hint="'--source'")
    wants_framing = editor.domain.alignment == "ffhq" and finder is None
    if image.is_dir():
        name_left_out(image, paths)
    reference = read_picture(ref_image) if ref_image is not None else None
    stored = {}
    if latents is not None:
        with blame("--latents"):
            stored = load_latents(latents, editor.generator, editor.bundle.fingerprint)
    neutral, thresholds = neutral or editor.domain.neutral, editor.domain.editing
    inversion = with_steps(editor.domain.inversion, steps)
    how = Directions(neutral, direction, keep, threshold)
    settings = {
        "source": source,
        "steps": inversion.steps if source == "invert" else None,
        "latents": latents.name if latents is not None else None,
        "direction": direction,
        "neutral": neutral,
        "keep": list(keep) or None,
        "threshold": threshold or None,
        "tune": tune or None,
        "align": align or points or None,
        "face": face,
        "landmark_model": landmark_model.name if landmark_model is not None else None,
        "paste_back": paste_back or None,
        "ref_image": ref_image.name if ref_image is not None else None,
        "strength": strengths or strength,
        "seed": seed,
    }
    report = Report("edit", {**editor.provenance(), **settings, "attributes": wanted}, as_json)
    rows: list[dict[str, Any]] = []

    def edit_face(picture: "Image.Image", square: "Square | None", name: str) -> _Face:
        """One face, or a whole picture that is taken as it is."""
        ws, origin = stored.get(picture_fingerprint(editor.fit(picture))), "latents"
        if ws is None:
            origin = source
            if latents is not None:
                warn(f"{name}: {latents.name} has no latents of it; they are found by --source {source}")
            if source == "invert":
                ws = editor.invert(picture, inversion, lambda steps: progress(steps, name))
            else:
                ws = editor.latents(picture, source)
        model = (
            editor.tuned(picture, ws, progress=lambda steps: progress(steps, "tuning")) if tune else editor
        )
        fidelity = model.psnr(picture, ws)
        if origin != "clip" and fidelity < thresholds.least_psnr:
            warn(f"{name}: comes back at {fidelity:.1f} dB only; it may be no picture of this model's kind")
        if strengths:
            course = model.course(ws, wanted, how, reference=reference)
            signs = {text: sign_of(value) for text, value in wanted.items()}
            parts = [{text: factor * value for text, value in wanted.items()} for factor in strengths]
            changes = [
                model.outcome(course, part, signs, factor)
                for part, factor in zip(parts, strengths, strict=True)
            ]
        else:
            changes = [model.change(ws, wanted, how, strength=strength, reference=reference)]
        if strength == "auto":
            _warn_not_reached(name, wanted, changes[0])
        figures = [{"image": name, "psnr": round(fidelity, 2), **change.figures()} for change in changes]
        if reference is not None:
            for row, change in zip(figures, changes, strict=True):
                row["reference"] = round(change.reference, 3)
        return _Face(square, picture, origin, changes, figures, model.synthesize)

    def edit_faces(picture: "Image.Image", path: Path) -> list[_Face]:
        """All faces of a photo, after a look at where they will be written; or the whole picture."""
        squares = finder(picture) if finder is not None else [None]
        if not paste_back:
            places = [outputs[path], *([sheets[path]] if sheet else [])]
            more = [_of_face(place, number) for place in places for number in range(1, len(squares))]
            _claim(taken, ((file, f"a face of {path.name}") for file in more))
            check_outputs(more, force)
        if wants_framing:
            _warn_unaligned(picture, path.name)
        names = [f"{path.name}, face {number}" for number in range(1, len(squares) + 1)]
        return [
            edit_face(
                picture if square is None else crop_face(picture, square, editor.resolution),
                square,
                path.name if len(squares) == 1 else name,
            )
            for square, name in zip(squares, names, strict=True)
        ]

    pictures = readable(paths, report)
    try:
        for path, picture in progress(pictures, "pictures", len(paths)) if len(paths) > 1 else pictures:
            try:
                faces = edit_faces(picture, path)
            except (ValueError, OSError, click.ClickException) as error:
                if len(paths) == 1:
                    raise ValueError(f"{path}: {error}") from error
                report.skipped(path, f"{path}: {error}")
                continue
            if paste_back:
                strip = [
                    _into_photo(picture, faces, [face.changes[number].ws for face in faces])
                    for number in range(len(strengths or [1]))
                ]
                results = [(picture, strip, faces)]
            else:
                strips = [[face.draw(change.ws) for change in face.changes] for face in faces]
                results = [(face.picture, strip, [face]) for face, strip in zip(faces, strips, strict=True)]
            for number, (before, images, shown) in enumerate(results):
                figures = [row for face in shown for row in face.figures]
                metadata = {"command": "edit", **settings, "image": path.name, "attributes": wanted}
                metadata |= {"figures": figures, **editor.provenance()}
                origins = {face.source for face in shown}
                if "latents" in origins:
                    metadata["source"] = ", ".join(sorted(origins))
                    metadata["steps"] = metadata["steps"] if "invert" in origins else None
                if len(figures) == 1:
                    metadata["attributes"] = figures[0]["strengths"]
                target = _of_face(outputs[path], number)
                write_png(target, contact_sheet(images, len(images)), metadata)
                rows += figures
                lines = [line for each in figures for line in figure_lines(each)]
                if not as_json:
                    for line in lines:
                        click.echo(f"  {line}")
                report.wrote(target, image=path.name, attributes=metadata["attributes"], figures=figures)
                if sheet:
                    place = _of_face(sheets[path], number)
                    first = before if paste_back else editor.fit(before)
                    write_png(place, edit_sheet(first, images[0], lines), metadata)
                    report.wrote(place, image=path.name)
            if video is not None:
                factors = progress([step / (FRAMES - 1) for step in range(FRAMES)], "video")
                frames = there_and_back(_frames(picture, faces, factors, paste_back))
                write_video(video, frames, FRAMES_PER_SECOND)
                report.wrote(video, image=path.name)
    finally:  # what was done before an interruption has its figures too
        if table is not None and rows:
            write_table(table, rows)
            report.wrote(table)
    report.close()


@dataclass(frozen=True)
class _Face:
    """One face, or a whole picture, and its edit: one change, or those of a sweep.

    Attributes:
        square: where it is in the photo; None for a whole picture.
        picture: what was edited.
        source: where its latents come from.
        changes: what became of them.
        figures: of each change.
        draw: the picture of ws.
    """

    square: "Square | None"
    picture: "Image.Image"
    source: str
    changes: "list[Change]"
    figures: list[dict[str, Any]]
    draw: "Callable[[Tensor], Image.Image]"

    @cached_property
    def before(self) -> "Image.Image":
        """The picture of the latents that were found."""
        return self.draw(self.changes[0].course.ws)


def _into_photo(
    photo: "Image.Image", faces: Sequence[_Face], latents: "Sequence[Tensor]", scale: float = 1.0
) -> "Image.Image":
    """The photo with faces of these latents; `scale` is its size relative to that they were found at."""
    from clip2gan.editing.alignment import paste_face

    for face, ws in zip(faces, latents, strict=True):
        assert face.square is not None
        photo = paste_face(photo, face.square.scaled(scale), face.before, face.draw(ws))
    return photo


def _frames(
    photo: "Image.Image", faces: Sequence[_Face], factors: Iterable[float], paste_back: bool
) -> "list[Image.Image]":
    """The first face, or the photo with all of them, at parts of the strengths."""
    from clip2gan.editing.output import LARGEST_FRAME

    if not paste_back:
        return [faces[0].draw(faces[0].changes[0].at(factor)) for factor in factors]
    scale = min(1.0, LARGEST_FRAME / max(photo.size))
    small = photo.resize((round(photo.width * scale), round(photo.height * scale)))
    return [
        _into_photo(small, faces, [face.changes[0].at(factor) for face in faces], scale) for factor in factors
    ]


def _warn_not_reached(name: str, wanted: Mapping[str, float], change: "Change") -> None:
    """Say so where no strength was found that CLIP agrees to."""
    for text, reached in change.reached.items():
        if wanted[text] and not reached:
            sign, state = ("", "there") if wanted[text] > 0 else ("-", "gone")
            clearness = f"CLIP {change.clearness[text]:.2f}; {change.agrees:g} would do"
            warn(
                f"{name}: {text!r} is not clearly {state} ({clearness}); "
                f'to go further, set a strength, as in --attr "{sign}{text}:3"'
            )


def _face_finder(
    path: Path, align: bool, face: int | None, points: str | None, model: Path | None
) -> "Callable[[Image.Image], list[Square]] | None":
    """What finds the squares of a photo's faces; None where pictures are taken as they are."""
    if points is not None:
        from clip2gan.editing.alignment import Landmarks, face_square
        from clip2gan.images import read_picture

        photo = read_picture(path)
        with blame("--points"):
            numbers = _numbers(points)
            pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
            given = Landmarks.of(pairs)
            for x, y in pairs:
                if not (0 <= x <= photo.width and 0 <= y <= photo.height):
                    size = f"{photo.width}x{photo.height}"
                    raise ValueError(f"{x:g},{y:g} is outside of {path.name}, which has {size} pixels")
        return lambda photo: [face_square(given)]
    if not align:
        return None
    from clip2gan.editing.faces import check_detector

    with blame("--align"):
        check_detector(model)

    def find(photo: "Image.Image") -> "list[Square]":
        from clip2gan.editing.alignment import face_square
        from clip2gan.editing.faces import find_faces

        found = find_faces(photo, model)
        if not found:
            raise ValueError("no face found; give its five points (--points), or leave --align out")
        if face is not None:
            if face > len(found):
                raise ValueError(f"has {len(found)} faces, so there is no face {face}")
            found = [found[face - 1]]
        return [face_square(each) for each in found]

    return find


def _warn_unaligned(picture: "Image.Image", name: str) -> None:
    """Say so if a picture does not look framed as FFHQ's, as far as this can be found out."""
    from clip2gan.editing.alignment import looks_unaligned
    from clip2gan.editing.faces import find_faces

    try:
        faces = find_faces(picture)
    except ValueError:
        warn(f"{name}: this model expects faces framed as in FFHQ; --align frames them")
        return
    reason = looks_unaligned(picture, faces[0]) if len(faces) == 1 else f"it shows {len(faces)} faces"
    if reason:
        warn(f"{name}: not framed as this model expects faces ({reason}); --align frames them")


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 10:
        raise ValueError(f"{text!r} is not ten numbers X,Y,X,Y,...: eyes, nose, mouth corners")
    return numbers


def _plan(paths: Sequence[Path], out: Path, folder: bool) -> dict[Path, Path]:
    """Where each picture's edit goes: FILE.png itself for one file, else OUT/STEM.png."""
    if is_file_name(out):
        if folder:
            raise click.BadParameter(f"{out}: a folder of pictures needs a folder", param_hint="'--out'")
        return {paths[0]: out}
    return {path: out / f"{path.stem}.png" for path in paths}


def _claim(taken: dict[Path, str], files: Iterable[tuple[Path, str]]) -> None:
    """Add files and what they are to those that are `taken`. Raises ValueError where one would be twice."""
    for file, what in files:
        if file in taken:
            raise ValueError(f"{taken[file]} and {what} would both become {file}; rename one")
        taken[file] = what


def _of_face(output: Path, number: int) -> Path:
    """The file of a picture's face: that of the picture for the first (number 0)."""
    return output if number == 0 else _beside(output, f"-face{number + 1}")


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.stem}{ending}.png")


def _context() -> click.Context:
    return click.get_current_context()

"""`clip2gan edit`: change a picture by words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    precision_option,
    progress,
    readable,
    seed_option,
    steps_option,
    warn,
)
from clip2gan.defaults import NEUTRAL

if TYPE_CHECKING:
    from PIL import Image

    from clip2gan.editing.alignment import Square

TABLE = "figures.csv"
LEAST_PSNR = 14.0  # dB; a picture that comes back worse is hardly one of the model's kind


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
@click.option("--neutral", default=NEUTRAL, show_default=True, help="The text that attributes are added to.")
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
    neutral: str,
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
    for option, texts in (("--neutral", (neutral,)), ("--keep", keep)):
        if not all(text.strip() for text in texts):
            raise click.BadParameter("the text is empty", param_hint=f"'{option}'")
    if (face is not None or landmark_model is not None or paste_back) and not (align or points):
        raise click.UsageError("--face, --landmark-model and --paste-back belong to --align", _context())
    if strength is None:
        given = any(abs(value) != 1 for value in wanted.values()) or any(":" in each for each in attributes)
        strength = "auto" if wanted and not given and not strengths else 1.0
    paths = input_pictures(image)
    outputs = _plan(paths, out, folder=image.is_dir())
    sheets = {path: _beside(output, "-sheet") for path, output in outputs.items()} if sheet else {}
    table = out / TABLE if image.is_dir() else None
    more = [*([table] if table else []), *([video] if video else [])]
    check_outputs([*outputs.values(), *sheets.values(), *more], force)
    if video is not None:
        if len(paths) > 1:
            raise click.BadParameter("a video is of one picture; give a file", param_hint="'--image'")
        from clip2gan.editing.output import check_video

        with blame("--video"):
            check_video(video)
    finder = _face_finder(align, face, points, landmark_model)

    editor = load_model(model, device, mapper, precision, compiled)
    from clip2gan.editing.inversion import InversionConfig, load_latents
    from clip2gan.editing.output import FRAMES, edit_sheet, figure_lines, write_table, write_video
    from clip2gan.images import contact_sheet, read_picture, write_png
    from clip2gan.pipeline import Directions

    if source == "encoder" and editor.encoder is None:
        remedy = f"`clip2gan train-encoder --model {model}` makes one"
        raise click.BadParameter(f"the model {model} has no encoder; {remedy}", param_hint="'--source'")
    wants_framing = editor.bundle.config.get("alignment") == "ffhq" and finder is None
    if image.is_dir():
        _name_left_out(image, paths)
    reference = read_picture(ref_image) if ref_image is not None else None
    stored = load_latents(latents, editor.generator) if latents is not None else {}
    how = Directions(neutral, direction, keep, threshold)
    settings = {
        "source": source,
        "steps": steps if source == "invert" else None,
        "direction": direction,
        "neutral": neutral,
        "keep": list(keep) or None,
        "threshold": threshold or None,
        "tune": tune or None,
        "align": align or points or None,
        "ref_image": ref_image.name if ref_image is not None else None,
        "strength": strengths or strength,
        "seed": seed,
    }
    report = Report("edit", {**editor.provenance(), **settings, "attributes": wanted}, as_json)
    rows: list[dict[str, Any]] = []

    def edit_face(picture: "Image.Image", name: str) -> "_Edited":
        """One face, or a whole picture that is taken as it is."""
        found = stored.get(picture_fingerprint(editor.fit(picture)))
        if found is not None:
            ws = found
        elif source == "invert":
            config = InversionConfig(steps=steps)
            ws = editor.invert(picture, config, lambda steps: progress(steps, name))
        else:
            ws = editor.latents(picture, source)
        model = (
            editor.tuned(picture, ws, progress=lambda steps: progress(steps, "tuning")) if tune else editor
        )
        fidelity = model.psnr(picture, ws)
        if source != "clip" and fidelity < LEAST_PSNR:
            warn(f"{name}: comes back at {fidelity:.1f} dB only; it may be no picture of this model's kind")
        change = model.change(ws, wanted, how, strength=1.0 if strengths else strength, reference=reference)
        figures = {"image": name, "psnr": round(fidelity, 2), **change.figures()}

        def at(factor: float) -> "Image.Image":
            if factor == 0:
                return model.synthesize(ws)
            if factor == 1:
                return model.synthesize(change.ws)
            part = {text: factor * value for text, value in change.strengths.items()}
            towards = factor * (1.0 if strength == "auto" else strength)
            course = model.course(ws, wanted, how, reference=reference, scale=towards)
            return model.synthesize(model.outcome(course, part).ws)

        return _Edited(figures, at)

    for path, picture in readable(paths, report):
        try:
            squares = finder(picture) if finder is not None else [None]
        except ValueError as error:
            if len(paths) == 1:
                raise ValueError(f"{path}: {error}") from error
            report.skipped(path, f"{path}: {error}")
            continue
        from clip2gan.editing.alignment import crop_face, paste_face
        from clip2gan.editing.inversion import picture_fingerprint

        if wants_framing:
            _warn_unaligned(picture, path.name)
        faces = []
        for number, square in enumerate(squares, 1):
            name = path.name if len(squares) == 1 else f"{path.name}, face {number}"
            cut = picture if square is None else crop_face(picture, square, editor.resolution)
            faces.append((square, cut, edit_face(cut, name)))

        def whole(factor: float, faces=faces, picture=picture) -> "list[Image.Image]":
            """The pictures at a part of the strengths: the faces, or the photo with all of them."""
            shown = [edited.at(factor) for _, _, edited in faces]
            if not paste_back:
                return shown
            photo = picture
            for (square, _, edited), after in zip(faces, shown, strict=True):
                photo = paste_face(photo, square, edited.at(0.0), after)
            return [photo]

        results = [whole(factor) for factor in strengths or [1.0]]
        figures = [edited.figures for _, _, edited in faces]
        metadata = {"command": "edit", **settings, "image": path.name, "attributes": wanted}
        metadata |= {"figures": figures, **editor.provenance()}
        if len(figures) == 1:
            metadata["attributes"] = figures[0]["strengths"]
        rows += figures
        for number, images in enumerate(zip(*results, strict=True)):
            target = outputs[path] if number == 0 else _beside(outputs[path], f"-face{number + 1}")
            write_png(target, contact_sheet(images, len(images)), metadata)
            facts = figures if paste_back else figures[number : number + 1]
            if not as_json:
                for line in [line for each in facts for line in figure_lines(each)]:
                    click.echo(f"  {line}")
            report.wrote(target, image=path.name, attributes=metadata["attributes"], figures=facts)
            if sheet:
                before = picture if paste_back else faces[number][1]
                if not paste_back:
                    before = editor.fit(before)
                lines = [line for each in facts for line in figure_lines(each)]
                place = sheets[path] if number == 0 else _beside(sheets[path], f"-face{number + 1}")
                write_png(place, edit_sheet(before, images[0], lines), metadata)
                report.wrote(place, image=path.name)
        if video is not None:
            write_video(video, [whole(step / (FRAMES - 1))[0] for step in progress(range(FRAMES), "video")])
            report.wrote(video, image=path.name)
    if table is not None:
        write_table(table, rows)
        report.wrote(table)
    report.close()


@dataclass(frozen=True)
class _Edited:
    """One face's figures, and its picture at a part of the chosen strengths (0: none, 1: all)."""

    figures: dict[str, Any]
    at: "Callable[[float], Image.Image]"


def _face_finder(
    align: bool, face: int | None, points: str | None, model: Path | None
) -> "Callable[[Image.Image], list[Square]] | None":
    """What finds the squares of a photo's faces; None where pictures are taken as they are."""
    if points is not None:
        from clip2gan.editing.alignment import Landmarks, face_square

        with blame("--points"):
            numbers = _numbers(points)
            given = Landmarks.of(list(zip(numbers[::2], numbers[1::2], strict=True)))
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


def _name_left_out(folder: Path, paths: Sequence[Path]) -> None:
    """Name the files of a folder that are no pictures by their names."""
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path not in paths and not path.name.startswith(".")
    )
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        warn(f"left out what is no picture: {', '.join(others[:5])}{more}")


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
    outputs = {path: out / f"{path.stem}.png" for path in paths}
    taken: dict[Path, Path] = {}
    for path, output in outputs.items():
        if output in taken:
            message = f"{taken[output].name} and {path.name} would both become {output}; rename one"
            raise click.BadParameter(message, param_hint="'--image'")
        taken[output] = path
    return outputs


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.stem}{ending}.png")


def _context() -> click.Context:
    return click.get_current_context()

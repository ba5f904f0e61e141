"""`clip2gan sample`: pictures of a generator by seed, without CLIP."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    Report,
    blame,
    claim_outputs,
    device_option,
    fetch_progress,
    is_file_name,
    progress,
    report_options,
    resolve_device,
    sha256_option,
    truncation_option,
    warn,
)
from clip2gan.cli._model import compile_option, precision_option
from clip2gan.cli._options import grouped
from clip2gan.defaults import MODEL

if TYPE_CHECKING:
    from clip2gan.sampling import Cell, Sampler
    from stylegan2 import Generator

GRID = "grid.png"
FRAMES_PER_SECOND = 24
LARGEST_GIF = 512  # pixels a side


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """The options of mixed styles."""

    style_seeds: str | None
    style_layers: str | None

    def columns(self) -> list[int]:
        """The seeds of styles, each once. Raises click.BadParameter, or click.UsageError without them."""
        from clip2gan import sampling

        if self.style_seeds is None:
            if self.style_layers is not None:
                raise click.UsageError("--style-layers goes with --style-seeds", click.get_current_context())
            return []
        with blame("--style-seeds"):
            return list(dict.fromkeys(sampling.parse_seeds(self.style_seeds)))


@dataclass(frozen=True, kw_only=True)
class Film:
    """The options of the video."""

    video: Path | None
    frames: int

    def check(self, seeds: "Sequence[int]") -> None:
        """Raise click.BadParameter where the video could not be made."""
        from clip2gan.video import check_video

        if self.video is None:
            return
        with blame("--video"):
            check_video(self.video)
            if len(seeds) < 2:
                raise ValueError("a video goes from seed to seed; give at least two --seeds")


mixing_options = grouped(
    "mixing",
    Mixing,
    click.option(
        "--style-seeds",
        metavar="0-35,50",
        help="Mix styles: a sheet with a row for each of --seeds, and a column for each of these.",
    ),
    click.option(
        "--style-layers", metavar="8-15", help="Layers taken from --style-seeds.  [default: the finer half]"
    ),
)
film_options = grouped(
    "film",
    Film,
    click.option(
        "--video",
        type=click.Path(path_type=Path),
        metavar="FILE.mp4|FILE.gif",
        help="A loop through the seeds; without --out and --grid that alone. "
        f"GIFs: {LARGEST_GIF} px at most.",
    ),
    click.option(
        "--frames",
        type=click.IntRange(1, 10_000),
        default=2 * FRAMES_PER_SECOND,
        show_default=True,
        help=f"Frames of the video from one seed to the next, at {FRAMES_PER_SECOND} a second.",
    ),
)


@click.command("sample")
@click.option(
    "--generator",
    "source",
    default=MODEL,
    show_default=True,
    metavar="NAME|FILE|URL",
    help="The generator: a name, any checkpoint that `clip2gan convert` reads, or its https address.",
)
@sha256_option
@click.option("--seeds", default="0", show_default=True, metavar="0-35,50", help="Seeds, a picture each.")
@click.option("--class", "label", type=int, help="Class, of a conditional generator.  [default: by seed]")
@truncation_option
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "none"]),
    default="const",
    show_default=True,
    help="The generator's stored noise, or none.",
)
@click.option(
    "--grid", is_flag=True, help=f"Also one sheet of all pictures: FOLDER/{GRID}, or just FILE.png."
)
@mixing_options
@film_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.png|FOLDER",
    help="Where to write; a file takes one picture, or the sheet.  [default: out]",
)
@device_option
@precision_option
@compile_option
@report_options
def command(
    *,
    source: str,
    sha256: str | None,
    seeds: str,
    label: int | None,
    truncation: float,
    noise_mode: Any,
    grid: bool,
    mixing: Mixing,
    film: Film,
    out: Path | None,
    device: str,
    precision: str,
    compiled: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Draw pictures of a generator by seed. A seed's picture does not depend on the others.

    \b
    clip2gan sample --generator avatars --seeds 0-15 --grid
    clip2gan sample --seeds 0-3 --style-seeds 10-14 --out mix.png
    clip2gan sample --seeds 0-3 --video walk.mp4
    """
    from clip2gan.generators import check_generator, find_licence

    with blame("--generator"):
        check_generator(source)
    from clip2gan import sampling

    with blame("--seeds"):
        rows = sampling.parse_seeds(seeds)
    columns = mixing.columns()
    with blame("--style-seeds"):
        if len(rows) * len(columns) > sampling.MOST_SEEDS:
            raise ValueError(f"more than {sampling.MOST_SEEDS:,} mixtures; ask for fewer at once")
    film.check(rows)
    only_film = film.video is not None and out is None and not grid and not columns
    cells = [] if only_film else sampling.plan_cells(list(dict.fromkeys(rows)), columns)
    place = out or Path("out")
    outputs = _plan_outputs(cells, place, grid or bool(columns), label)
    folder = None if only_film or is_file_name(place) else place
    claim_outputs([*outputs.all(), *([film.video] if film.video else [])], force, folder)

    from clip2gan import __version__
    from stylegan2.files import fingerprint
    from stylegan2.generator import set_precision

    path, generator = _load_generator(source, sha256, device)
    with blame("--precision"):
        set_precision(generator, precision)
    with blame("--style-layers"):
        layers = sampling.parse_layers(mixing.style_layers, generator.num_ws) if columns else []
    with blame("--class"):
        sampler = sampling.Sampler(generator, truncation, label, noise_mode, layers)
    if compiled:
        generator.synthesis.compile(mode="reduce-overhead")
    settings = {
        "generator": source,
        "licence": find_licence(source, generator),
        "fingerprint": fingerprint(path),
        "truncation": truncation,
        "class": label,
        "noise_mode": noise_mode,
        "style_layers": layers or None,
        "device": resolve_device(device).type,
        "precision": precision,
        "versions": {"clip2gan": __version__, "torch": version("torch")},
    }
    report = Report("sample", settings, as_json)
    _draw_pictures(sampler, cells, outputs, settings, report)
    if film.video is not None:
        _draw_video(sampler, rows, film.frames, film.video)
        report.wrote(film.video, seeds=rows)
    report.close()


def _load_generator(source: str, sha256: str | None, device: str) -> "tuple[Path, Generator]":
    """The file of a generator, and the generator of pictures in it."""
    from clip2gan.generators import locate_generator
    from clip2gan.sampling import check_channels
    from stylegan2.checkpoints import read_generator

    where = resolve_device(device)
    with blame("--generator"):
        path = locate_generator(source, sha256, progress=fetch_progress)
    generator, notes = read_generator(path)  # its licence is among what the command prints anyway
    for note in notes:
        warn(f"{path}: {note}")
    with blame("--generator"):
        check_channels(generator)
    return path, generator.to(where)


@dataclass(frozen=True)
class Outputs:
    """The files of pictures, by their place in the sheet, and of the sheet itself."""

    pictures: "dict[Cell, Path]"
    sheet: Path | None

    def all(self) -> list[Path]:
        return [*self.pictures.values(), *([self.sheet] if self.sheet else [])]


def _plan_outputs(cells: "Sequence[Cell]", out: Path, grid: bool, label: int | None) -> Outputs:
    if not cells:
        return Outputs({}, None)
    if is_file_name(out):
        if grid:
            return Outputs({}, out)
        if len(cells) > 1:
            message = f"{out} takes one picture, {len(cells)} are asked for; give a folder, or --grid"
            raise click.BadParameter(message, param_hint="'--out'")
        return Outputs({cells[0]: out}, None)
    kind = "" if label is None else f"-class{label}"
    paths = {}
    for cell in cells:
        style = "" if cell.style_seed is None else f"-style{cell.style_seed:04d}"
        paths[cell] = out / f"seed{cell.seed:04d}{style}{kind}.png"
    return Outputs(paths, out / GRID if grid else None)


def _draw_pictures(
    sampler: "Sampler", cells: "Sequence[Cell]", outputs: Outputs, settings: dict[str, Any], report: Report
) -> None:
    from clip2gan.images import Sheet, write_png
    from clip2gan.sampling import sheet_cell

    sheet = None
    if outputs.sheet is not None:
        rows, columns = (1 + max(getattr(cell, side) for cell in cells) for side in ("row", "column"))
        side = sheet_cell(rows * columns, sampler.generator.config.img_resolution)
        sheet = Sheet(rows, columns, (side, side))
    for cell in progress(cells, "pictures", len(cells)):
        picture = sampler.draw_cell(cell)
        facts: dict[str, Any] = {"seed": cell.seed}
        if cell.style_seed is not None:
            facts["style_seed"] = cell.style_seed
        if cell in outputs.pictures:
            own = {**settings, **facts, "class": sampler.latents(cell.seed).label}
            write_png(outputs.pictures[cell], picture, {"command": "sample", **own})
            report.wrote(outputs.pictures[cell], **facts)
        if sheet is not None:
            sheet.paste(picture, cell.row, cell.column)
    if sheet is not None and outputs.sheet is not None:
        styles = list(dict.fromkeys(cell.style_seed for cell in cells if cell.style_seed is not None))
        facts = {"seeds": list(dict.fromkeys(cell.seed for cell in cells if cell.row or not styles))}
        if styles:
            facts["style_seeds"] = styles
        write_png(outputs.sheet, sheet.image, {"command": "sample", **settings, **facts})
        report.wrote(outputs.sheet, **facts)


def _draw_video(sampler: "Sampler", seeds: "Sequence[int]", frames: int, video: Path) -> None:
    from clip2gan.video import write_video

    side = sampler.generator.config.img_resolution
    if video.suffix.lower() == ".gif":
        side = min(side, LARGEST_GIF)
    shown = progress(sampler.draw_walk(seeds, frames), "frames", len(seeds) * frames)
    write_video(video, (picture.resize((side, side)) for picture in shown), FRAMES_PER_SECOND)

"""`clip2gan generate`: pictures from texts, or variations of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    EXISTING_FILE,
    Report,
    blame,
    check_seeds,
    claim_outputs,
    is_file_name,
    progress,
    report_options,
    seed_option,
    truncation_option,
    warn,
)
from clip2gan.cli._model import ModelOptions, model_options, warn_of_texts

if TYPE_CHECKING:
    from PIL import Image

    from clip2gan.model import Model

GRID = "grid.png"


@click.command("generate")
@click.option(
    "--text", "texts", multiple=True, metavar="TEXT", help="Text that describes the picture (repeatable)."
)
@click.option("--prompts", type=EXISTING_FILE, metavar="FILE", help="File with one text per line.")
@click.option("--image", type=EXISTING_FILE, metavar="FILE", help="Make variations of this picture.")
@click.option(
    "--num", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Pictures per text."
)
@truncation_option
@click.option(
    "--rerank",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Generate N candidates per picture and keep the one closest to the text.",
)
@click.option(
    "--style-from",
    metavar="SEED|IMAGE",
    help="Take colours and textures (the fine layers) from a seed or a picture.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    metavar="FILE.png|FOLDER",
    help="Where to write; a file holds one picture.",
)
@click.option(
    "--grid",
    is_flag=True,
    help=f"Also write one sheet of all pictures, FOLDER/{GRID}; with FILE.png, only that.",
)
@seed_option
@model_options
@report_options
def command(
    *,
    texts: tuple[str, ...],
    prompts: Path | None,
    image: Path | None,
    num: int,
    truncation: float,
    rerank: int,
    style_from: str | None,
    out: Path,
    grid: bool,
    seed: int,
    using: ModelOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Make pictures from texts, or variations of a picture.

    \b
    clip2gan generate --text "a cheerful person with sunglasses" --num 4 --out out/
    clip2gan generate --model runs/cats/bundle --text "a ginger kitten" --num 4 --grid --out kittens/
    clip2gan generate --image portrait.png --num 4
    """
    if bool(texts) + (prompts is not None) + (image is not None) != 1:
        raise click.UsageError("give either --text, --prompts or --image", click.get_current_context())
    check_seeds(seed, num)
    sources = _read_sources(texts, prompts, image)
    sheet = (out if is_file_name(out) else out / GRID) if grid else None
    places = _plan(sources, num, seed, out, grid)
    files = [place for place in places if place] + ([sheet] if sheet else [])
    claim_outputs(files, force, folder=None if is_file_name(out) else out)
    style_source = _read_style(style_from)

    generator = using.load()
    for source in sources:
        _warn_of(generator, source)
    settings = {"truncation": truncation, "rerank": rerank, "style_from": style_from}
    report = Report("generate", {**generator.provenance(), **settings, "seed": seed, "num": num}, as_json)
    metadata = {"command": "generate", **settings, **generator.provenance()}
    style = None if style_source is None else generator.style(style_source, truncation)
    drawings = generator.draw_all(
        [source.content for source in sources], num, seed, truncation=truncation, rerank=rerank, style=style
    )
    images = []
    labels = [source for source in sources for _ in range(num)]
    each = zip(drawings, labels, places, strict=True)
    for drawing, source, place in progress(each, "pictures", len(places)):
        if place is not None:
            facts = {source.key: source.label, "seed": drawing.seed}
            _write(place, drawing.image, metadata | facts, report, facts)
        if sheet is not None:  # else none is kept: many large ones would fill the memory
            images.append(drawing.image)
    if sheet is not None:
        from clip2gan.images import contact_sheet

        seeds = list(range(seed, seed + num)) * len(sources)
        facts = {"labels": [source.label for source in labels], "seeds": seeds}
        columns = num if len(sources) > 1 else max(1, round(num**0.5))
        _write(sheet, contact_sheet(images, columns), metadata | facts, report, facts)
    report.close()


@dataclass(frozen=True)
class Source:
    """What pictures are made of: a text or a picture, which of both ("text" or "image"), and its name."""

    content: "str | Image.Image"
    key: str
    label: str

    @property
    def slug(self) -> str:
        """Its part of a file's name."""
        from clip2gan.images import slug

        return slug(Path(self.label).stem if self.key == "image" else self.label)


def _read_sources(texts: Sequence[str], prompts: Path | None, image: Path | None) -> list[Source]:
    """What to make pictures of."""
    if image is not None:
        from clip2gan.images import read_picture

        return [Source(read_picture(image), "image", image.name)]
    option = "--text" if prompts is None else "--prompts"
    from clip2gan.data.lines import check_text, read_texts

    with blame(option):
        if prompts is not None:
            texts = read_texts(prompts)
        for text in texts:
            if not text.strip():
                raise ValueError("the text is empty; say what the picture shows")
            check_text(text)
    return [Source(text, "text", text) for text in texts]


def _plan(sources: Sequence[Source], num: int, seed: int, out: Path, grid: bool) -> list[Path | None]:
    """The files that pictures go to, in order; None where only the sheet is written."""
    total = len(sources) * num
    if is_file_name(out):
        if grid:
            return [None] * total
        if total > 1:
            message = f"{out} takes one picture, {total} are asked for; give a folder, or --grid"
            raise click.BadParameter(message, param_hint="'--out'")
        return [out]
    names = [f"{source.slug}-seed{each}" for source in sources for each in range(seed, seed + num)]
    return [out / f"{number:03d}-{name}.png" for number, name in enumerate(names)]


def _read_style(style_from: str | None) -> "int | Image.Image | None":
    if style_from is None:
        return None
    if style_from.isdecimal():
        seed = int(style_from[:20])  # more digits are no seed either, and slow to read
        check_seeds(seed, option="--style-from")
        return seed
    from clip2gan.images import read_picture

    if not Path(style_from).is_file():
        message = f"{style_from!r} is neither a seed nor a picture's file"
        raise click.BadParameter(message, param_hint="'--style-from'")
    return read_picture(style_from)


def _warn_of(generator: "Model", source: Source) -> None:
    """Say so if a text cannot be heard, or a picture is not of the model's kind."""
    if isinstance(source.content, str):
        warn_of_texts(generator, [source.content])
        return
    from clip2gan.editing.kind import judge_kind

    if notice := judge_kind(generator, source.content):
        warn(f"{source.label}: {notice}")


def _write(
    path: Path, picture: "Image.Image", metadata: dict[str, Any], report: Report, facts: dict[str, Any]
) -> None:
    from clip2gan.images import write_png

    write_png(path, picture, metadata)
    report.wrote(path, **facts)

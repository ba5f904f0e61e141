"""`clip2gan generate`: pictures from texts, or variations of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    EXISTING_FILE,
    Finite,
    Report,
    blame,
    check_outputs,
    compile_option,
    device_option,
    force_option,
    is_file_name,
    json_option,
    load_model,
    mapper_option,
    model_option,
    precision_option,
    progress,
    seed_option,
    warn,
)
from clip2gan.defaults import TRUNCATION

if TYPE_CHECKING:
    from PIL import Image

    from clip2gan.model import Model

GRID = "grid.png"


@click.command("generate")
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="What the picture shows (repeatable).")
@click.option("--prompts", type=EXISTING_FILE, metavar="FILE", help="A file with one text a line.")
@click.option("--image", type=EXISTING_FILE, metavar="FILE", help="Variations of this picture.")
@click.option(
    "--num", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Pictures of each text."
)
@click.option(
    "--truncation",
    type=Finite(0, 2),
    default=TRUNCATION,
    show_default=True,
    help="Below 1: plainer and safer pictures; 0 is the average one of the text.",
)
@click.option(
    "--rerank",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Draw so many candidates for each picture and keep the one CLIP likes best.",
)
@click.option("--style-from", metavar="SEED|IMAGE", help="Take the fine layers from another latent.")
@model_option
@mapper_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    metavar="FILE.png|FOLDER",
    help="Where to write; a file takes one picture.",
)
@click.option(
    "--grid", is_flag=True, help=f"Also one sheet of all pictures: FOLDER/{GRID}, or just FILE.png."
)
@device_option
@precision_option
@compile_option
@seed_option
@force_option
@json_option
def command(
    *,
    texts: tuple[str, ...],
    prompts: Path | None,
    image: Path | None,
    num: int,
    truncation: float,
    rerank: int,
    style_from: str | None,
    model: str,
    mapper: str | None,
    out: Path,
    grid: bool,
    device: str,
    precision: str,
    compiled: bool,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Make pictures from texts, or variations of a picture.

    \b
    clip2gan generate --text "a smiling face with sunglasses" --num 4 --out out/
    clip2gan generate --image face.png --num 4
    """
    if bool(texts) + (prompts is not None) + (image is not None) != 1:
        raise click.UsageError("give either --text, --prompts or --image", click.get_current_context())
    sources = _sources(texts, prompts, image)
    jobs = _plan(sources, num, seed, out, grid)
    sheet = (out if is_file_name(out) else out / GRID) if grid else None
    check_outputs([job.path for job in jobs if job.path] + ([sheet] if sheet else []), force)
    style_source = _style_source(style_from)

    generator = load_model(model, device, mapper, precision, compiled)
    settings = {"truncation": truncation, "rerank": rerank, "style_from": style_from}
    report = Report("generate", {**generator.provenance(), **settings, "seed": seed, "num": num}, as_json)
    style = None if style_source is None else generator.style(style_source, truncation)
    pictures = []
    prompt = None
    for job in progress(jobs, "pictures", len(jobs)):
        if job.seed == seed:  # the first picture of this text
            if isinstance(job.source, str):
                _warn_if_cut(generator, job.source)
            prompt = generator.prompt(job.source)
        assert prompt is not None
        picture = generator.draw(prompt, job.seed, truncation=truncation, rerank=rerank, style=style)
        facts = {job.key: job.label, "seed": job.seed}
        if job.path is not None:
            metadata = {"command": "generate", **facts, **settings, **generator.provenance()}
            _write(job.path, picture, metadata, report, facts)
        pictures.append(picture)
    if sheet is not None:
        from clip2gan.images import contact_sheet

        facts = {"labels": [job.label for job in jobs], "seeds": [job.seed for job in jobs]}
        metadata = {"command": "generate", **facts, **settings, **generator.provenance()}
        columns = num if len(sources) > 1 else max(1, round(num**0.5))
        _write(sheet, contact_sheet(pictures, columns), metadata, report, facts)
    report.close()


@dataclass(frozen=True)
class Job:
    """One picture to make: of what (`key`, "text" or "image", says which), from which seed, and where to."""

    source: "str | Image.Image"
    key: str
    label: str
    seed: int
    path: Path | None


def _sources(
    texts: Sequence[str], prompts: Path | None, image: Path | None
) -> "list[tuple[str | Image.Image, str, str]]":
    """What to make pictures of: (source, key, label)."""
    if image is not None:
        from clip2gan.images import read_picture

        return [(read_picture(image), "image", image.name)]
    option = "--text" if prompts is None else "--prompts"
    with blame(option):
        if prompts is not None:
            texts = _read_prompts(prompts)
        for text in texts:
            if not text.strip():
                raise ValueError("the text is empty; say what the picture shows")
            text.encode()  # an argument that is not valid UTF-8 arrives with surrogates
    return [(text, "text", text) for text in texts]


def _read_prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8; give one text a line") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path} has no text in it; give one text a line")
    return texts


def _plan(
    sources: "Sequence[tuple[str | Image.Image, str, str]]", num: int, seed: int, out: Path, grid: bool
) -> list[Job]:
    """The pictures in order, with the files they go to (none when only the sheet is written)."""
    from clip2gan.images import slug

    single = is_file_name(out)
    if single and not grid and len(sources) * num > 1:
        message = f"{out} takes one picture, {len(sources) * num} are asked for; give a folder, or --grid"
        raise click.BadParameter(message, param_hint="'--out'")
    jobs = []
    for source, key, label in sources:
        for each in range(seed, seed + num):
            name = slug(Path(label).stem if key == "image" else label)
            folder_path = out / f"{len(jobs):03d}-{name}-seed{each}.png"
            path = (None if grid else out) if single else folder_path
            jobs.append(Job(source, key, label, each, path))
    return jobs


def _style_source(style_from: str | None) -> "int | Image.Image | None":
    if style_from is None:
        return None
    if style_from.isdecimal():
        seed = int(style_from)
        if seed >= 2**32:
            raise click.BadParameter(f"the seed {seed} is too large", param_hint="'--style-from'")
        return seed
    from clip2gan.images import read_picture

    if not Path(style_from).is_file():
        message = f"{style_from!r} is neither a seed nor a picture's file"
        raise click.BadParameter(message, param_hint="'--style-from'")
    return read_picture(style_from)


def _warn_if_cut(generator: "Model", text: str) -> None:
    if generator.clip.is_cut(text):
        start = " ".join(text.split())[:40]
        warn(f"CLIP reads {generator.clip.context_length} tokens; the end of '{start}...' is cut off")


def _write(
    path: Path, picture: "Image.Image", metadata: dict[str, Any], report: Report, facts: dict[str, Any]
) -> None:
    from clip2gan.images import write_png

    write_png(path, picture, metadata)
    report.wrote(path, **facts)

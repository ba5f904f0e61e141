"""`clip2gan evaluate`: models measured by the same prompts and pictures, side by side."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
@click.option(
    "--judge",
    type=click.Choice(["auto", "avatars", "none"]),
    default="auto",
    show_default=True,
    help="What sees the attributes of avatars; auto: where the first model has the avatars' CLIP.",
)
@click.option(
    "--lpips",
    type=click.Choice(["lpips-vgg", "lpips-alex", "lpips-squeeze"]),
    help="Also measure by this network, which is fetched.",
)
@click.option("--identity", metavar="FILE.onnx", help="Also measure faces by a recogniser like ArcFace's.")
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
    judge: str,
    lpips: str | None,
    identity: str | None,
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
        drawn = read_texts(prompts, "prompts.json")
    with blame("--attributes"):
        edits = read_texts(attributes, "edits.json")
    if out is not None:
        check_outputs([out, out.with_suffix(".md"), out.with_suffix(".png")], force)

    from clip2gan.clip import ClipEncoder
    from clip2gan.evaluation.inception import missing_part
    from clip2gan.evaluation.judge import Judge
    from clip2gan.evaluation.report import Attribute, Instruments, Protocol, evaluate, markdown, sheet
    from clip2gan.perceptual import identity_distance, lpips_distance

    loaded = _load(model, device)
    pictures = [] if real is None else _real_pictures(real, loaded.resolution, max_real)
    protocol = Protocol(
        [entry["text"] for entry in drawn],
        claims=[entry["claims"] for entry in drawn if "claims" in entry],
        num=num,
        truncation=truncation,
        attributes=[Attribute(entry["text"], entry.get("group"), entry.get("value")) for entry in edits],
        real=pictures,
        seed=seed,
    )
    where = resolve_device(device)
    if judge == "auto":
        judge = "avatars" if is_avatars(loaded) else "none"
    without = missing_part()
    instruments = Instruments(
        clip=ClipEncoder.load(clip, where) if clip else None,
        judge=Judge.load() if judge == "avatars" else None,
        lpips=lpips_distance(lpips, where) if lpips else None,
        identity=identity_distance(identity, where) if identity else None,
        inception=without is None,
    )
    if real is not None and without is not None:
        click.echo(f"FID and KID are left out; for them {without}", err=True)
    evaluations = {}
    for name in names:
        loaded = loaded if name == model else _load(name, device)
        bar = partial(progress, desc=name)
        evaluations[name] = evaluate(loaded, protocol, instruments, bar)
    figures = {name: evaluation.figures for name, evaluation in evaluations.items()}
    table = markdown(figures)
    click.echo(table)
    if out is not None:
        from clip2gan.images import write_png
        from stylegan2.files import atomic_path

        settings = {
            "clip": clip or "each model's own",
            "judge": judge,
            "lpips": lpips,
            "identity": identity,
            "prompts": len(drawn),
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


def read_texts(path: Path | None, default: str) -> "list[dict[str, Any]]":
    """{"text": ...} of each line of a file, or the package's own list `default`, which says what they mean.

    Raises ValueError when there is none.
    """
    if path is None:
        from importlib import resources

        own = resources.files("clip2gan.evaluation") / default
        return json.loads(own.read_text(encoding="utf-8"))
    from clip2gan.data.samples import plain_prompts

    return [{"text": text} for text in plain_prompts(path)]


def is_avatars(model: "Clip2Gan") -> bool:
    """Whether a model draws avatars, as far as its CLIP tells."""
    from clip2gan.clip import ClipEncoder

    return model.clip.fingerprint() == ClipEncoder.load("avatars").fingerprint()


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

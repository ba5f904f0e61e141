"""Draw the pictures of the README and the docs with the embedded model.

    python -m tools.make_sheets --renders data/avatars-measure.zip

writes to docs/images: samples.png (64 random latents), prompts.png (16 texts, 4 seeds each) and edits.png (8
held-out drawings, each with an attribute from none to strong). Nothing is picked by hand: the seeds are
the first ones, and so are the drawings.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import torch
from PIL import Image

import clip2gan
from clip2gan.images import contact_sheet, label, write_png
from clip2gan.model import Model
from tools.dataset import read_avatars

PROMPTS = (
    "a cheerful person with long red hair and sunglasses",
    "an old man with a grey beard and glasses",
    "a sad girl in a blue hoodie",
    "a bald guy with a moustache",
    "someone winking, pink hair",
    "a shocked woman with a bun",
    "a person in a suit on a green background",
    "curly blond hair and a tongue sticking out",
    "a man wearing a woolly hat",
    "black bob, eyes closed",
    "a dark-skinned person in a yellow t-shirt",
    "a pale face with wavy black hair",
    "a serious portrait with spectacles",
    "shades and a ginger beard",
    "a grinning woman against a pink wall",
    "brown hair, red sweatshirt, wide open eyes",
)
EDITS = (
    "smiling",
    "sunglasses",
    "long red hair",
    "a beard",
    "bald",
    "a suit",
    "closed eyes",
    "a blue background",
)
STRENGTHS = (0.5, 1.0, 1.5)
SEEDS = 4
LABEL_WIDTH = 200


def prompt_sheet(model: Model) -> Image.Image:
    """The texts in two columns, each beside its pictures."""
    rows = [labelled(text, model.generate(text, num=SEEDS)) for text in PROMPTS]
    return contact_sheet(rows, 2)


def sample_sheet(model: Model) -> Image.Image:
    """64 random latents, without truncation."""
    ws = model.random_ws(64, torch.Generator().manual_seed(0))
    return contact_sheet([model.synthesize(each) for each in ws.split(1)], 16)


def edit_sheet(model: Model, pictures: Sequence[Image.Image]) -> Image.Image:
    """Each picture, its inversion, and the inversion with an attribute at growing strengths."""
    rows = []
    for text, picture in zip(EDITS, pictures, strict=False):
        ws = model.invert(picture)
        edited = [model.edit(ws, {text: strength}) for strength in STRENGTHS]
        rows.append(labelled(text, [picture, model.synthesize(ws), *edited]))
    return contact_sheet(rows, 2)


def labelled(text: str, pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, with the text before them."""
    strip = contact_sheet(pictures, len(pictures))
    row = Image.new("RGB", (LABEL_WIDTH + strip.width, strip.height), "white")
    row.paste(label(text, LABEL_WIDTH, strip.height), (0, 0))
    row.paste(strip, (LABEL_WIDTH, 0))
    return row


@click.command(help=__doc__)
@click.option("--model", default="avatars", show_default=True, help="avatars, or a bundle's folder.")
@click.option(
    "--renders",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("data/avatars-measure.zip"),
    show_default=True,
    help="Held-out drawings to edit, made by tools.make_avatars.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("docs/images"),
    show_default=True,
    help="The folder.",
)
def main(model: str, renders: Path, out: Path) -> None:
    loaded = clip2gan.load(model)
    images = read_avatars(renders).images[: len(EDITS)]
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    sheets = {
        "samples": sample_sheet(loaded),
        "prompts": prompt_sheet(loaded),
        "edits": edit_sheet(loaded, pictures),
    }
    for name, sheet in sheets.items():
        write_png(
            out / f"{name}.png", sheet, {"command": "python -m tools.make_sheets", **loaded.provenance()}
        )
        click.echo(f"wrote {out / name}.png")


if __name__ == "__main__":
    main()

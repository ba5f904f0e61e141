"""Draw the sheets of docs/editing.md: edits of held-out drawings, the first ones and those that failed.

    python -m tools.make_edit_sheet --measured docs/edits.json

Each row has the drawing, its inversion, the edit and the difference, with the strength that `auto` chose.
Nothing is picked by hand: editing.png has the first edits that tools.measure_edits measures,
editing-failed.png the first of those whose attribute its judge did not find.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from PIL import Image

import clip2gan
from clip2gan.images import contact_sheet, difference, write_png
from clip2gan.model import Model
from tools.make_sheets import labelled
from tools.measure_avatars import Edit, choose_edits, first, read_edits, read_renders
from tools.measure_edits import pictures_of

ROWS = 12
MEASURED = 100  # edits, as in tools.measure_edits


def sheet(model: Model, pictures: Sequence[Image.Image], edits: Sequence[Edit]) -> Image.Image:
    """Two columns of rows: words, drawing, inversion, edit, difference."""
    rows = []
    for picture, edit, ws in zip(pictures, edits, model.invert_all(pictures).split(1), strict=True):
        change = model.change(ws, {edit.text: 1.0}, strength="auto")
        before, after = model.synthesize(ws), model.synthesize(change.ws)
        words = f"{edit.text} {change.strengths[edit.text]:+.2f}, CLIP {change.clearness[edit.text]:.2f}"
        rows.append(labelled(words, [picture, before, after, difference(before, after)]))
    return contact_sheet(rows, 2)


@click.command(help=__doc__)
@click.option("--model", default="avatars", show_default=True, help="avatars, or a bundle's folder.")
@click.option(
    "--measured",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("docs/edits.json"),
    show_default=True,
    help="The figures of tools.measure_edits.",
)
@click.option(
    "--renders",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("data/avatars-measure.zip"),
    show_default=True,
    help="Held-out renders; drawn if missing.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images"), show_default=True)
def main(model: str, measured: Path, renders: Path, out: Path) -> None:
    loaded = clip2gan.load(model, device="cpu")
    chosen = first(read_renders(renders, 1000), MEASURED)
    pictures, edits = pictures_of(chosen), choose_edits(chosen, read_edits())
    failed = json.loads(measured.read_text(encoding="utf-8"))["edits"]["auto"]["failed"][:ROWS]
    for name, rows in (("editing", list(range(ROWS))), ("editing-failed", failed)):
        image = sheet(loaded, [pictures[row] for row in rows], [edits[row] for row in rows])
        metadata = {"command": "python -m tools.make_edit_sheet", **loaded.provenance()}
        write_png(out / f"{name}.png", image, metadata)
        click.echo(f"wrote {out / name}.png")


if __name__ == "__main__":
    main()

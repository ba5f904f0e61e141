"""Contact sheets of samples, each picture with its seed, to be labelled by eye (`labelled/GUIDE.md`).

    python -m tools.faces.sheets --samples data/faces --seeds 0-799 --out sheets
    python -m tools.faces.sheets --samples data/faces --spread runs/spread --value glasses=sunglasses \
        --value hat=hat --labels tools/faces/labelled/train_a.csv --out sheets-rare

The second form is for values that are rare: of the samples without labels it takes, for each --value, those
that the probes think likeliest and those of which they are least sure.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clip2gan.data.drawn import open_sample
from clip2gan.domains.faces.vocabulary import groups
from stylegan2.files import atomic_path, load_tensors
from tools.draw_samples import SeedRange
from tools.faces.labels import read_labels

COLUMNS, ROWS = 8, 5
SIDE = 180  # pixels of a picture


def draw_sheet(folder: Path, seeds: Sequence[int]) -> Image.Image:
    """One sheet of up to 40 pictures, row by row."""
    rows = -(-len(seeds) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE))
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for index, seed in enumerate(seeds):
        left, top = index % COLUMNS * SIDE, index // COLUMNS * SIDE
        sheet.paste(open_sample(folder, seed, SIDE), (left, top))
        canvas.rectangle((left, top, left + 11 * len(str(seed)) + 3, top + 21), fill="black")
        canvas.text((left + 2, top), str(seed), fill="yellow", font=font)
    return sheet


def find_candidates(
    seeds: Sequence[int], probability: Tensor, known: Mapping[int, object], num: int
) -> list[int]:
    """Samples without labels: half of `num` the likeliest, half those whose probability is next to 1/2."""
    free = torch.tensor([seed not in known for seed in seeds])
    likeliest = torch.where(free, probability, -1.0).argsort(descending=True)[: num // 2].tolist()
    free[likeliest] = False
    unsure = torch.where(free, -(probability - 0.5).abs(), -1.0).argsort(descending=True)[: num - num // 2]
    return [seeds[i] for i in (*likeliest, *unsure.tolist())]


class ValueOfGroup(click.ParamType):
    """GROUP=VALUE of the vocabulary."""

    name = "GROUP=VALUE"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        group, _, name = value.partition("=")
        if group not in groups() or name not in groups()[group].values:
            known = "; ".join(f"{group}: {', '.join(each.values)}" for group, each in groups().items())
            self.fail(f"{value!r} is no value of a group; there are {known}", param, ctx)
        return group, groups()[group].values.index(name)


EXISTING = click.Path(exists=True, path_type=Path)


@click.command(help=__doc__)
@click.option("--samples", type=EXISTING, required=True, help="Folder of draw_samples.")
@click.option("--seeds", type=SeedRange(), help="Samples to show, such as 0-799.")
@click.option("--spread", type=EXISTING, help="Folder of tools.faces.spread, to look for rare values.")
@click.option("--value", "values", type=ValueOfGroup(), multiple=True, help="What to look for; repeatable.")
@click.option("--labels", type=EXISTING, multiple=True, help="CSV of what is labelled already; repeatable.")
@click.option(
    "--num", type=click.IntRange(2), default=40, show_default=True, help="Samples for each --value."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the sheets.")
def main(
    *,
    samples: Path,
    seeds: range | None,
    spread: Path | None,
    values: tuple[tuple[str, int], ...],
    labels: tuple[Path, ...],
    num: int,
    out: Path,
) -> None:
    if (seeds is None) == (spread is None) or bool(values) != (spread is not None):
        raise click.UsageError("give --seeds, or --spread and at least one --value")
    try:
        known = read_labels(labels)
        if spread is None:
            shown = [seed for seed in seeds or () if seed not in known]
        else:
            said = load_tensors(spread / "probabilities.safetensors")[0]
            numbers = said["seed"].tolist()
            found = [find_candidates(numbers, said[group][:, index], known, num) for group, index in values]
            shown = sorted({seed for part in found for seed in part})
        out.mkdir(parents=True, exist_ok=True)
        size = COLUMNS * ROWS
        for start in range(0, len(shown), size):
            part = shown[start : start + size]
            with atomic_path(out / f"{part[0]:08d}.png") as temporary:
                draw_sheet(samples, part).save(temporary, "PNG")
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(shown)} pictures on {-(-len(shown) // size)} sheets are in {out}")


if __name__ == "__main__":
    main()

"""Compare the search for an edit's strength with drawing every strength of the ladder.

    python -m tools.compare_search --num 100

The edits are those of tools.measure_edits: held-out drawings, inverted once, one attribute each. Printed are
how often both choose the same strength, how many pictures (rows of ws) each draws for an attribute that is
reached, the drawing of the inverted latents included, and what the judge finds in the results.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import clip2gan
from clip2gan.domains.avatars.judge import Judge
from clip2gan.editing.change import (
    Change,
    Directions,
    draw_origin,
    make_change,
    make_course,
    measure_change,
    start_trials,
)
from clip2gan.editing.strength import FACTORS, Trial, Trials, wants_of
from clip2gan.model import Model
from tools.measure_avatars import choose_edits, first, read_edits, read_renders
from tools.measure_edits import BATCH, edits_of, pictures_of


@torch.no_grad()
def climb(model: Model, ws: Tensor, text: str) -> Change:
    """The least strength of the ladder that is clear enough, found by drawing all of them."""
    origin, wants, thresholds = draw_origin(model, ws), wants_of({text: "auto"}), model.domain.editing
    tried: list[tuple[Trials, Trial]] = []
    for locality in thresholds.localities:
        course = make_course(model, origin, wants, Directions(), locality=locality)
        trials = start_trials(model, origin, course, wants)
        seen = [trials([factor]) for factor in (0.0, *FACTORS)]
        admissible = [trial for trial in seen if trial.identity >= thresholds.identity] or seen[:1]
        enough = [trial for trial in admissible if trial.clearness[0] >= thresholds.agrees]
        tried.append((trials, enough[0] if enough else max(admissible, key=lambda one: one.clearness)))
        if enough:
            break
    best = max(tried, key=lambda one: one[1].shown(thresholds.agrees))
    return measure_change(model, origin, *best)


def search(model: Model, ws: Tensor, text: str) -> Change:
    """What an edit does."""
    return make_change(model, draw_origin(model, ws), {text: "auto"})


@contextmanager
def counting(model: Model) -> Iterator[list[int]]:
    """The rows of ws that are drawn meanwhile, call by call."""
    rows: list[int] = []
    hook = model.generator.synthesis.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        hook.remove()


@click.command(help=__doc__)
@click.option("--model", default="avatars", show_default=True, help="avatars, or a bundle's folder.")
@click.option("--num", type=click.IntRange(1, 1000), default=100, show_default=True, help="Edits.")
@click.option(
    "--renders",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("data/avatars-measure.zip"),
    show_default=True,
    help="Held-out renders; drawn if missing.",
)
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write all here.")
def main(*, model: str, num: int, renders: Path, out: Path | None) -> None:
    loaded, judge = clip2gan.load(model, device="cpu"), Judge.load()
    chosen = first(read_renders(renders, 1000), num)
    edits = choose_edits(chosen, read_edits())
    pictures = pictures_of(chosen)
    found = torch.cat([loaded.invert_all(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)])
    result: dict[str, Any] = {}
    changes: dict[str, list[Change]] = {}
    for name, find in (("ladder", climb), ("search", search)):
        changes[name], drawn = [], []
        for ws, edit in zip(found.split(1), edits, strict=True):
            with counting(loaded) as rows:
                changes[name].append(find(loaded, ws, edit.text))
            if changes[name][-1].reached[edit.text]:
                drawn.append(sum(rows))
        latents = torch.cat([change.ws for change in changes[name]])
        seen = edits_of(loaded, judge, chosen, found, edits, lambda *_, latents=latents: latents)
        result[name] = {
            "reached": len(drawn),
            "rows": sum(drawn) / max(1, len(drawn)),
            "most_rows": max(drawn, default=0),
            "target": seen["target"],
            "kept": seen["kept"],
            "kept_inversion": seen["kept_inversion"],
        }
        click.echo(f"{name}: {json.dumps(result[name])}")
    pairs = zip(changes["ladder"], changes["search"], strict=True)
    same = sum(a.strengths == b.strengths for a, b in pairs)
    click.echo(f"the same strength in {same} of {len(edits)} edits")
    if out is not None:
        out.write_text(
            json.dumps({"model": model, "same": same, **result}, indent=1) + "\n", encoding="utf-8"
        )
        click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()

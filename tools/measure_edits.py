"""Measure edits and inversion of the avatars model, beside StyleCLIP's latent optimisation.

    python -m tools.measure_edits --json edits.json

Held-out drawings are inverted and edited, one attribute each, and the judge looks at what came out (it has
seen neither the generator's pictures nor CLIP's, and chooses nothing). The drawings, the attributes and their
words are those of tools.measure_avatars. StyleCLIP's optimisation gets the same generator, CLIP, latents and
words. Seconds are those of the processor for one picture; run it with OMP_NUM_THREADS=1 to compare them.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image
from torch import Tensor

import clip2gan
from clip2gan.domains.avatars.judge import Judge
from clip2gan.domains.avatars.vocabulary import matches
from clip2gan.model import Directions, Model
from tools.dataset import Avatars
from tools.measure_avatars import (
    Edit,
    choose_edits,
    first,
    kept_shares,
    mean,
    read_edits,
    read_renders,
    stack,
    to_unit,
    truths,
    unnamed_kept,
)
from tools.styleclip import StyleClip, optimise

Editor = Callable[[Tensor, Sequence[str]], Tensor]  # ws [N, num_ws, w_dim], a text for each -> ws

TIMED = 5  # pictures that are inverted one by one, for the time
BATCH = 20


def pictures_of(renders: Avatars) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in renders.images]


def inversions(model: Model, judge: Judge, renders: Avatars, how: str) -> tuple[Tensor, dict[str, float]]:
    """The latents of all renders, and how well they give them back; how: invert, encoder or clip."""
    pictures = pictures_of(renders)
    alone = pictures[:TIMED]
    start = time.process_time()
    for picture in alone:
        model.latents(picture, how)  # type: ignore[arg-type]
    seconds = (time.process_time() - start) / len(alone)
    if how == "invert":
        batches = [pictures[first : first + BATCH] for first in range(0, len(pictures), BATCH)]
        found = torch.cat([model.invert_all(batch) for batch in batches])
    else:
        found = torch.cat([model.latents(picture, how) for picture in pictures])  # type: ignore[arg-type]
    rows = found.split(1)
    seen = judge.see(stack(model.synthesize(ws) for ws in rows))
    share = mean(list(kept_shares(judge, truths(renders), seen).values()))
    decibels = mean(model.psnr(picture, ws) for picture, ws in zip(pictures, rows, strict=True))
    return found, {"attributes kept": share, "PSNR": decibels, "seconds": seconds}


def edits_of(
    model: Model, judge: Judge, renders: Avatars, ws: Tensor, edits: Sequence[Edit], editor: Editor
) -> dict[str, Any]:
    """Edit the renders' latents; shares of targets that appear and of other attributes that stay, seconds."""
    start = time.process_time()
    changed = editor(ws[: len(edits)], [edit.text for edit in edits])
    seconds = (time.process_time() - start) / len(edits)
    made = [model.synthesize(row) for row in changed.split(1)]
    ws = ws[: len(made)]
    original = judge.see(to_unit(renders.images[: len(made)]))
    start = judge.see(stack(model.synthesize(row) for row in ws.split(1)))
    end = judge.see(stack(made))
    hits = [matches({edit.group: [edit.value]}, seen) for edit, seen in zip(edits, end, strict=True)]
    groups: dict[str, list[bool]] = defaultdict(list)
    for edit, hit in zip(edits, hits, strict=True):
        groups[edit.group].append(hit)
    named = [edit.group for edit in edits]
    return {
        "target": mean(hits),
        "kept": mean(unnamed_kept(original, end, named)),
        "kept_inversion": mean(unnamed_kept(start, end, named)),
        "seconds": seconds,
        "edits": len(made),
        "target_by_group": {group: mean(found) for group, found in groups.items()},
        "missed": [f"{e.text} ({e.group})" for e, hit in zip(edits, hits, strict=True) if not hit],
        "failed": [row for row, hit in enumerate(hits) if not hit],
    }


def our(model: Model, how: Directions, strength: Any) -> Editor:
    def edit(ws: Tensor, texts: Sequence[str]) -> Tensor:
        rows = zip(ws.split(1), texts, strict=True)
        return torch.cat([model.change(row, {text: 1.0}, how, strength=strength).ws for row, text in rows])

    return edit


def styleclip(model: Model, config: StyleClip) -> Editor:
    def edit(ws: Tensor, texts: Sequence[str]) -> Tensor:
        parts = [
            optimise(model.generator, model.clip, ws[i : i + BATCH], texts[i : i + BATCH], config)
            for i in range(0, len(ws), BATCH)
        ]
        return torch.cat(parts)

    return edit


def table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    if title == "inversion":
        lines = ["| inversion | attributes kept | PSNR | seconds |", "|---|---|---|---|"]
        return "\n".join(
            lines
            + [
                f"| {name} | {row['attributes kept']:.1%} | {row['PSNR']:.1f} dB | {row['seconds']:.2f} |"
                for name, row in rows.items()
            ]
        )
    lines = [
        "| edits | number | target reached | others kept | on its inversion | seconds |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(
        lines
        + [
            f"| {name} | {row['edits']} | {row['target']:.1%} | {row['kept']:.1%} "
            f"| {row['kept_inversion']:.1%} | {row['seconds']:.2f} |"
            for name, row in rows.items()
        ]
    )


@click.command(help=__doc__)
@click.option("--model", default="avatars", show_default=True, help="avatars, or a bundle's folder.")
@click.option("--num", type=click.IntRange(1, 1000), default=100, show_default=True, help="Edits.")
@click.option(
    "--baseline", type=click.IntRange(0), default=40, show_default=True, help="Of them, for StyleCLIP."
)
@click.option(
    "--renders",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("data/avatars-measure.zip"),
    show_default=True,
    help="Held-out renders; drawn if missing.",
)
@click.option("--only", type=click.Choice(["encoder"]), help="Only what the encoder does.")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write all here.")
def main(*, model: str, num: int, baseline: int, renders: Path, only: str | None, out: Path | None) -> None:
    loaded, judge = clip2gan.load(model, device="cpu"), Judge.load()
    chosen = first(read_renders(renders, 1000), num)
    edits = choose_edits(chosen, read_edits())
    loaded.reference_bank  # noqa: B018  made once, on first use
    inverted: dict[str, dict[str, Any]] = {}
    edited: dict[str, dict[str, Any]] = {}

    def record(name: str, ws: Tensor, edits: Sequence[Edit], editor: Editor) -> None:
        edited[name] = edits_of(loaded, judge, chosen, ws, edits, editor)
        figures = ("target", "kept", "kept_inversion", "seconds")
        click.echo(f"{name}: {json.dumps({key: edited[name][key] for key in figures})}")

    if loaded.encoder is not None:
        ws, inverted["encoder"] = inversions(loaded, judge, chosen, "encoder")
        record("encoder, auto", ws, edits, our(loaded, Directions(), "auto"))
    if only is None:
        ws, inverted["optimisation"] = inversions(loaded, judge, chosen, "invert")
        click.echo(json.dumps(inverted))
        record("auto", ws, edits, our(loaded, Directions(), "auto"))
        record("strength 1", ws, edits, our(loaded, Directions(), 1.0))
        record("mapped, strength 1", ws, edits, our(loaded, Directions(method="mapped"), 1.0))
        few = edits[:baseline]
        if few:
            record(f"auto, the first {len(few)}", ws, few, our(loaded, Directions(), "auto"))
            for strength in (0.5, 0.7):
                ours = our(loaded, Directions(), strength)
                record(f"strength {strength}, the first {len(few)}", ws, few, ours)
            for l2 in (0.008, 0.001):
                config = StyleClip(l2=l2)
                record(f"StyleCLIP, L2 {l2}, the first {len(few)}", ws, few, styleclip(loaded, config))
        _, inverted["mapper's estimate"] = inversions(loaded, judge, chosen, "clip")
    click.echo(table("inversion", inverted))
    click.echo(table("edits", edited))
    if out is not None:
        result = {"model": model, "inversion": inverted, "edits": edited}
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()

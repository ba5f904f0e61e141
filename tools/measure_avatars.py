"""Measure the avatars model: how much of what was asked for the judge finds in its pictures.

    python -m tools.measure_avatars --model avatars --json measured.json

The judge was trained on renders that neither the generator nor CLIP has seen, and judges only here.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import clip2gan
from clip2gan.bundle import locate_bundle, read_config
from clip2gan.domains.avatars import vocabulary as avatars
from clip2gan.domains.avatars.judge import RESOLUTION, Judge, judge_images, judge_size, verdicts
from clip2gan.domains.avatars.vocabulary import matches
from clip2gan.evaluation.attributes import Verdicts, kept_shares
from clip2gan.evaluation.judge import judged_prompts
from clip2gan.model import Model, to_tensor
from tools import zero_shot
from tools.captions import open_grammar
from tools.dataset import Avatars, read_avatars
from tools.make_avatars import make_pictures, write_zip

RENDER_SEED = 9  # of no training set
TRUNCATION = 0.7
SURE = 0.9
SEEDS_PER_PROMPT = 4

TIMER = """
import os, subprocess, sys, time
start = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(time.monotonic() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass
class Measured:
    """The figures in the order they were found (shares from 0 to 1, or the unit in the name), and details."""

    figures: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure, what it means, and the least and the wished-for value."""

    figure: str
    what: str
    least: float | None = None
    aim: float | None = None


ROWS = (
    Row("clip_zero_shot", "CLIP's zero-shot accuracy, mean over groups where visible", 0.92, 0.98),
    Row("text_to_picture", "text to picture: named attributes present", 0.65, 0.92),
    Row("ceiling", "render -> CLIP -> mapper -> picture: attributes kept", 0.70, 0.95),
    Row("inversion", "attributes kept by inversion"),
    Row("edit_target", "edit: the named attribute appears", 0.65, 0.92),
    Row("edit_kept_original", "edit: the others stay as judged on the original", 0.70, 0.92),
    Row("edit_kept_inversion", "edit: the others stay as judged on its inversion", 0.85, 0.95),
    Row("edit_clip_target", "edit --source clip: the named attribute appears"),
    Row("edit_clip_kept_original", "edit --source clip: the others stay as on the original"),
    Row("edit_clip_kept_inversion", "edit --source clip: the others stay as on the mapped picture"),
    Row("generator_sure", "samples the judge is sure of, over the same of renders", 0.80, 0.97),
    Row("generator_values", "share of all values that occur in the samples", 1.0, 1.0),
    Row("generate_seconds", "`generate --text`, second run [s]", 15, 6),
    Row("generate_peak_gb", "`generate --text`, peak memory [GB]", 1.4, 1.0),
)


def clip_zero_shot(model: Model, renders: Avatars) -> dict[str, float]:
    """For each group, the share of renders (where it is visible) whose value CLIP names right."""
    parts = [model.clip.encode_images(to_unit(part).to(model.device)) for part in renders.images.split(100)]
    return zero_shot.accuracy(
        open_grammar("avatars"), torch.cat(parts), truths(renders), model.clip.encode_texts
    )


def text_to_picture(
    model: Model, judge: Judge, prompts: Sequence[Mapping[str, Any]]
) -> tuple[float, dict[str, Any]]:
    """The share of a prompt's named attributes that its pictures show, mean over prompts and seeds."""
    shares = []
    by_group: dict[str, list[bool]] = defaultdict(list)
    misses = []
    for prompt in bar(prompts, "text to picture"):
        pictures = model.generate(prompt["text"], num=SEEDS_PER_PROMPT, truncation=TRUNCATION)
        right = []
        for seen in judge.see(stack(pictures)):
            for group, values in prompt["claims"].items():
                right.append(matches({group: values}, seen))
                by_group[group].append(right[-1])
        shares.append(mean(right))
        if shares[-1] < 0.5:
            misses.append(prompt["text"])
    return mean(shares), {
        "by_group": {group: mean(found) for group, found in by_group.items()},
        "misses": misses,
    }


@torch.no_grad()
def ceiling(model: Model, judge: Judge, renders: Avatars) -> dict[str, float]:
    """For each group, the share of renders that keep its value through CLIP's image tower and the mapper."""
    pictures = []
    for part in renders.images.split(100):
        embeddings = model.clip.encode_images(to_unit(part).to(model.device))
        pictures.append(
            model.generator.synthesis(
                model.mapper(model.gap.from_image(embeddings)), noise_mode="const"
            ).cpu()
        )
    return kept_shares(judge, truths(renders), judge.see(torch.cat(pictures)))


@dataclass(frozen=True)
class Edit:
    """What is to be done to a picture: the attribute's words, and the value of a group that should appear."""

    text: str
    group: str
    value: str


def choose_edits(renders: Avatars, edits: Sequence[Mapping[str, str]], seed: int = 0) -> list[Edit]:
    """For each render, by chance: a group that can be seen, another value than it has, and words for it."""
    rng = np.random.default_rng(seed)
    chosen = []
    for attributes in truths(renders):
        seen = [group for group, shown in avatars.visible(attributes).items() if shown]
        group = seen[int(rng.integers(len(seen)))]
        others = [value for value in avatars.groups()[group].values if value != attributes[group]]
        value = others[int(rng.integers(len(others)))]
        texts = [edit["text"] for edit in edits if (edit["group"], edit["value"]) == (group, value)]
        chosen.append(Edit(texts[int(rng.integers(len(texts)))], group, value))
    return chosen


def measure_edits(
    model: Model, judge: Judge, renders: Avatars, edits: Sequence[Edit], source: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Edit each render at the strength that CLIP finds sufficient; `source` is invert or clip.

    Returns the shares of edits whose target appears, of unnamed attributes that stay as judged on the
    original and as judged on its inversion, and of attributes that the inversion kept.
    """
    inverted, edited = [], []
    for image, edit in bar(list(zip(renders.images, edits, strict=True)), f"edit, source {source}"):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        ws = model.invert(picture) if source == "invert" else model.estimate(picture)
        inverted.append(model.synthesize(ws))
        edited.append(model.edit(ws, {edit.text: 1.0}, strength="auto"))
    original, start, end = (
        judge.see(images) for images in (to_unit(renders.images), stack(inverted), stack(edited))
    )
    hits = [matches({edit.group: [edit.value]}, seen) for edit, seen in zip(edits, end, strict=True)]
    targets: dict[str, list[bool]] = defaultdict(list)
    for edit, hit in zip(edits, hits, strict=True):
        targets[edit.group].append(hit)
    named = [edit.group for edit in edits]
    figures = {
        "target": mean(hits),
        "kept_original": mean(unnamed_kept(original, end, named)),
        "kept_inversion": mean(unnamed_kept(start, end, named)),
        "inversion": mean(list(kept_shares(judge, truths(renders), start).values())),
    }
    details = {
        "target_by_group": {group: mean(found) for group, found in targets.items()},
        "edits_missed": [f"{e.text} ({e.group})" for e, hit in zip(edits, hits, strict=True) if not hit],
    }
    return figures, details


def unnamed_kept(before: Verdicts, after: Verdicts, named: Sequence[str]) -> list[bool]:
    """For every group but the named one that can be seen both before and after: whether its value stayed."""
    stayed = []
    for old, new, group in zip(before, after, named, strict=True):
        seen_before, seen_after = avatars.visible(old), avatars.visible(new)
        stayed += [
            old[other] == new[other]
            for other in avatars.groups()
            if other != group and seen_before[other] and seen_after[other]
        ]
    return stayed


@torch.no_grad()
def sample_pictures(model: Model, num: int, batch: int = 100) -> Tensor:
    """`num` pictures of random z without truncation, as uint8 [num, 3, 64, 64]."""
    random = torch.Generator().manual_seed(0)
    pictures = []
    for start in bar(range(0, num, batch), "samples"):
        ws = model.random_ws(min(batch, num - start), random)
        images = judge_size(model.generator.synthesis(ws, noise_mode="const").cpu())
        pictures.append(((images + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(pictures)


def sure_shares(probabilities: Mapping[str, Tensor]) -> dict[str, float]:
    """For each group, the share of pictures whose value the judge is sure of, where its verdict shows it."""
    shown = [avatars.visible(verdict) for verdict in verdicts(dict(probabilities))]
    return {
        group: mean([p > SURE for p, seen in zip(ps.amax(dim=1).tolist(), shown, strict=True) if seen[group]])
        for group, ps in probabilities.items()
    }


def missing_values(found: Verdicts) -> list[str]:
    """The values that no picture shows, as "group: value"."""
    occurring = {
        (group, value)
        for attributes in found
        for group, value in attributes.items()
        if avatars.visible(attributes)[group]
    }
    return [
        f"{name}: {value}"
        for name, group in avatars.groups().items()
        for value in group.values
        if (name, value) not in occurring
    ]


def generate_cost(model: str) -> tuple[float, float]:
    """Seconds and peak memory [GB] of the command `generate --text`, in a process of its own, second run."""
    with tempfile.TemporaryDirectory() as folder:
        _timed_generate(model, f"{folder}/first.png")
        return _timed_generate(model, f"{folder}/second.png")


def _timed_generate(model: str, out: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "clip2gan", "generate", "--model", model]
    command += ["--text", "a smiling face with sunglasses", "--out", out]
    # A small process in between: a child's peak counts what its parent held when it was started.
    result = subprocess.run(
        [sys.executable, "-c", TIMER, *command], check=False, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"`clip2gan generate --model {model}` failed: {result.stderr.strip()}")
    seconds, peak = map(float, result.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return seconds, peak * unit / 1e9


def truths(renders: Avatars) -> Verdicts:
    """The attributes that the renders were drawn from."""
    return [record["attributes"] for record in renders.records]


def to_unit(images: Tensor) -> Tensor:
    """uint8 pictures to [-1, 1]."""
    return images.float() / 127.5 - 1


def stack(pictures: Iterable[Image.Image]) -> Tensor:
    """PIL pictures to [N, 3, R, R] in [-1, 1]."""
    return torch.cat([to_tensor(picture) for picture in pictures])


def mean(values: Iterable[float]) -> float:
    """The mean, or NaN of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def bar(items: Iterable, description: str) -> Iterable:
    """A progress bar, on a terminal only."""
    return tqdm(items, desc=description, leave=False, disable=None)


def read_renders(path: Path, num: int) -> Avatars:
    """The first `num` renders at `path`, which is drawn if it is missing."""
    if not path.exists():
        click.echo(f"drawing {num} avatars to {path}", err=True)
        pictures = make_pictures(num, RENDER_SEED, RESOLUTION, 0, multiprocessing.cpu_count())
        about = {"domain": "avatars", "seed": RENDER_SEED, "size": RESOLUTION}
        write_zip(path, bar(pictures, "renders"), about)
    return first(read_avatars(path), num)


def first(renders: Avatars, num: int) -> Avatars:
    return Avatars(renders.images[:num], renders.records[:num])


def read_edits() -> list[dict[str, str]]:
    """The texts of the avatars' vocabulary, each with its group and value."""
    vocabulary = read_config(locate_bundle("avatars")).domain.vocabulary
    return [
        {"text": text, "group": group, "value": value}
        for group, values in vocabulary.items()
        for value, texts in values.items()
        for text in texts
    ]


def measure(
    name: str, mapper: str | None, renders: Avatars, judge: Judge, *, quick: bool, edits: bool
) -> Measured:
    """All figures of the model `name`; of its mapper alone, and without edits, where `edits` is False."""
    model = clip2gan.load(name, device="cpu", mapper=mapper)
    measured = Measured()
    figures, details = measured.figures, measured.details
    prompts = judged_prompts("avatars")[:: 5 if quick else 1]

    figures["text_to_picture"], details["text_to_picture"] = text_to_picture(model, judge, prompts)
    by_group = ceiling(model, judge, renders)
    figures["ceiling"] = mean(by_group.values())
    details["ceiling"] = by_group

    if not edits:
        return measured

    by_group = clip_zero_shot(model, renders)
    figures["clip_zero_shot"] = mean(by_group.values())
    details["clip_zero_shot"] = by_group
    edited = first(renders, 10 if quick else 100)
    chosen = choose_edits(edited, read_edits())
    for source, prefix in (("invert", "edit"), ("clip", "edit_clip")):
        found, details[prefix] = measure_edits(model, judge, edited, chosen, source)
        if source == "invert":
            figures["inversion"] = found["inversion"]
        figures |= {f"{prefix}_{key}": share for key, share in found.items() if key != "inversion"}

    samples = judge_images(judge, to_unit(sample_pictures(model, 1000 if quick else 10000)))
    real = sure_shares(judge_images(judge, to_unit(renders.images)))
    sure = sure_shares(samples)
    missing = missing_values(verdicts(samples))
    num_values = sum(len(group.values) for group in avatars.groups().values())
    figures["generator_sure"] = mean(sure.values()) / mean(real.values())
    figures["generator_values"] = 1 - len(missing) / num_values
    details["generator"] = {"sure": sure, "sure_of_renders": real, "missing": missing}
    figures["generate_seconds"], figures["generate_peak_gb"] = generate_cost(name)
    return measured


def as_text(figure: str, value: float) -> str:
    """A figure's value as the tables show it: shares in percent."""
    return f"{value:.2f}" if figure in ("generate_seconds", "generate_peak_gb") else f"{value:.1%}"


def table(figures: Mapping[str, float]) -> str:
    """The figures as a Markdown table."""
    lines = ["| what | measured | at least | aim |", "|---|---|---|---|"]
    for row in ROWS:
        if row.figure in figures:
            cells = [
                "" if x is None else as_text(row.figure, x) for x in (figures[row.figure], row.least, row.aim)
            ]
            lines.append(f"| {row.what} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--model", default="avatars", show_default=True, help="avatars, or a bundle's folder.")
@click.option("--mapper", help="The kind of mapper.  [default: the model's first]")
@click.option(
    "--renders",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("data/avatars-measure.zip"),
    show_default=True,
    help="Held-out renders; drawn if missing.",
)
@click.option("--quick", is_flag=True, help="A fifth of the prompts, a tenth of the rest: a rough picture.")
@click.option("--no-edits", is_flag=True, help="Only texts and renders through the mapper: some minutes.")
@click.option(
    "--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures here."
)
def main(
    *, model: str, mapper: str | None, renders: Path, quick: bool, no_edits: bool, out: Path | None
) -> None:
    try:
        pictures = read_renders(renders, 1000)
        chosen = first(pictures, 200) if quick else pictures
        measured = measure(model, mapper, chosen, Judge.load(), quick=quick, edits=not no_edits)
    except (OSError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(measured.figures))
    if out is not None:
        result = {"model": model, "quick": quick, "figures": measured.figures, "details": measured.details}
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()

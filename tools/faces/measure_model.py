"""Measure a model of faces by the judge: texts, samples that go through CLIP and back, variety, edits.

    python -m tools.faces.measure_model --model faces --samples data/faces --json runs/measured.json

Each share is given as the judge sees it (raw), and divided: for each value, what the judge finds is divided
by its hit rate on labels by eye of samples that it did not see (`judge.json`), at most 1, for it misses as
much of what is there. The samples are the hand-labelled ones of seeds 1200 to 1399, which neither CLIP nor
the judge has learnt from, nor a mapper of `train-mapper --set samples_first=1400`. The prompts are those of
`clip2gan/domains/faces/prompts.json`.

--pictures DIR keeps the drawn pictures on sheets, to be looked at.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from clip2gan.data.drawn import DrawnSamples, read_drawn
from clip2gan.domains.faces.judge import RESOLUTION, WEIGHTS, Judge
from clip2gan.domains.faces.vocabulary import groups, visible
from clip2gan.evaluation.attributes import variety
from clip2gan.evaluation.judge import judged_prompts
from clip2gan.images import to_picture
from clip2gan.images.sheets import contact_sheet
from clip2gan.model import Model
from clip2gan.sampling import Sampler
from stylegan2.files import atomic_path
from tools.faces.labels import LABELLED, attributes_of, label_values, read_labels

HELD_OUT = range(1200, 1400)  # seeds; see make_data's --without
LABELS = LABELLED / "train_b.csv"
TRUNCATION = 0.7
SEEDS_PER_PROMPT = 4
SMALL = 128  # pixels, as the pictures that the judge learnt from
EDIT_SEED = 0
FIRST_SAMPLE_SEED = 1_000_000  # of the generator's own pictures, for variety
EDITS = Path(__file__).with_name("edits.json")

Attributes = Mapping[str, str]
HitRates = Mapping[str, Mapping[str, float]]


@dataclass
class Tally:
    """How often each value was found of how often it should be: (group, value) -> [found, tries]."""

    counts: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0.0, 0.0])
    )

    def add(self, group: str, value: str, found: bool, weight: float = 1.0) -> None:
        counts = self.counts[group, value]
        counts[0] += weight * found
        counts[1] += weight

    def raw(self) -> float:
        """The share that was found."""
        return sum(found for found, _ in self.counts.values()) / sum(n for _, n in self.counts.values())

    def divided(self, hit_rates: HitRates) -> float:
        """The share, each value's divided by the judge's hit rate, at most 1."""
        total = sum(n for _, n in self.counts.values())
        return sum(n * self._value(*key, hit_rates) for key, (_, n) in self.counts.items()) / total

    def by_group(self, hit_rates: HitRates) -> dict[str, list[float]]:
        """For each group the raw and the divided share."""
        names = sorted({group for group, _ in self.counts}, key=list(groups()).index)
        parts = {name: Tally({k: c for k, c in self.counts.items() if k[0] == name}) for name in names}
        return {name: [part.raw(), part.divided(hit_rates)] for name, part in parts.items()}

    def by_value(self) -> dict[str, list[float]]:
        """For each value the raw share, and of how many."""
        return {f"{g}={v}": [found / n, n] for (g, v), (found, n) in sorted(self.counts.items()) if n}

    def _value(self, group: str, value: str, hit_rates: HitRates) -> float:
        found, tries = self.counts[group, value]
        return min(1.0, found / tries / max(hit_rates.get(group, {}).get(value, 1.0), 1e-9)) if tries else 0.0


def read_hit_rates() -> dict[str, dict[str, float]]:
    """The judge's hit rate for each group and value."""
    # Groups that are measured rather than labelled have none, and are counted as they are seen.
    figures = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    return {name: row["hit_rate"] for name, row in figures.items()}


def shrink(picture: Image.Image) -> Image.Image:
    return picture.resize((SMALL, SMALL), Image.Resampling.LANCZOS)


def look(judge: Judge, pictures: Sequence[Image.Image]) -> list[dict[str, str]]:
    """What the judge sees in small pictures."""
    side = (RESOLUTION, RESOLUTION)
    pixels = np.stack([np.asarray(each.resize(side, Image.Resampling.LANCZOS)) for each in pictures])
    return judge.see(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)


def sees(attributes: Attributes, group: str, values: Sequence[str]) -> bool:
    """Whether the judge sees one of the values, and the group at all."""
    return visible(attributes)[group] and attributes[group] in values


def measure_texts(
    model: Model, judge: Judge, prompts: Sequence[Mapping[str, Any]], sheets: Path | None
) -> tuple[Tally, float, list[str]]:
    """Named attributes that are shown, variety of the unnamed ones, and the texts that failed."""
    tally, seen, missed = Tally(), [], []
    for number, prompt in enumerate(progress(prompts, "texts")):
        drawn = model.generate(prompt["text"], num=SEEDS_PER_PROMPT, truncation=TRUNCATION)
        pictures = [shrink(picture) for picture in drawn]
        seen.append(look(judge, pictures))
        found = []
        for attributes in seen[-1]:
            for group, values in prompt["claims"].items():
                found.append(sees(attributes, group, values))
                # One of several values that would do: the one that is seen, or else a share of each.
                tried = [attributes[group]] if found[-1] else values
                for value in tried:
                    tally.add(group, value, found[-1], 1 / len(tried))
        if sum(found) / len(found) < 0.6:
            missed.append(f"{prompt['text']} ({sum(found)} of {len(found)})")
        if sheets is not None:
            save_row(sheets / f"text-{number:03d}.png", pictures)
    sampler = Sampler(model.generator, truncation=TRUNCATION)
    seeds = range(FIRST_SAMPLE_SEED, FIRST_SAMPLE_SEED + 2 * len(prompts))
    samples = look(
        judge, [shrink(sampler.draw(sampler.latents(seed).ws)) for seed in progress(seeds, "samples")]
    )
    claims = [prompt["claims"] for prompt in prompts]
    return tally, variety(judge, claims, seen, samples), missed


def measure_kept(
    model: Model, judge: Judge, truths: Sequence[Attributes], drawn: DrawnSamples, sheets: Path | None
) -> Tally:
    """Attributes of samples, by eye, that are shown by what CLIP and the mapper make of their pictures."""
    tally = Tally()
    pictures = []
    for row, truth in enumerate(progress(truths, "samples and back")):
        image = drawn.pixels(slice(row, row + 1)).float().to(model.device) / 127.5 - 1
        pictures.append(shrink(model.vary(to_picture(image), truncation=1.0)[0]))
        count(tally, truth, look(judge, pictures[-1:])[0])
    if sheets is not None:
        save_row(sheets / "kept.png", pictures, 20)
    return tally


@dataclass(frozen=True)
class Edit:
    """The attribute's words, and the value of a group that should appear."""

    text: str
    group: str
    value: str


def choose_edits(truths: Sequence[Attributes], edits: Sequence[Edit], seed: int = EDIT_SEED) -> list[Edit]:
    """For each sample, by chance: a group that can be seen, another value than it has, and words for it."""
    rng = np.random.default_rng(seed)
    chosen = []
    for truth in truths:
        free = [edit for edit in edits if visible(truth)[edit.group] and truth[edit.group] != edit.value]
        names = sorted({edit.group for edit in free})
        group = names[int(rng.integers(len(names)))]
        values = sorted({edit.value for edit in free if edit.group == group})
        value = values[int(rng.integers(len(values)))]
        texts = [edit for edit in free if (edit.group, edit.value) == (group, value)]
        chosen.append(texts[int(rng.integers(len(texts)))])
    return chosen


def measure_edits(
    model: Model,
    judge: Judge,
    truths: Sequence[Attributes],
    ws: Tensor,
    edits: Sequence[Edit],
    sheets: Path | None,
) -> tuple[Tally, Tally]:
    """Edits of samples from their own latents: what was asked for appears, and what was there is kept."""
    reached, kept = Tally(), Tally()
    pictures = []
    for truth, row, edit in zip(truths, ws.split(1), progress(edits, "edits"), strict=True):
        latents = row[:, None].expand(-1, model.generator.num_ws, -1).contiguous().to(model.device)
        changed = model.change(latents, {edit.text: 1.0}, strength="auto").ws
        before, after = (shrink(model.synthesize(each)) for each in (latents, changed))
        pictures += [before, after]
        attributes = look(judge, [after])[0]
        reached.add(edit.group, edit.value, sees(attributes, edit.group, [edit.value]))
        others = {group: value for group, value in truth.items() if group != edit.group}
        count(kept, others, attributes, shown=visible(truth))
    if sheets is not None:
        save_row(sheets / "edits.png", pictures, 20)
    return reached, kept


def count(
    tally: Tally, truth: Attributes, attributes: Attributes, shown: Mapping[str, bool] | None = None
) -> None:
    """Add every attribute of `truth` that can be seen in the picture it was told of."""
    shown = visible(truth) if shown is None else shown
    for group, value in truth.items():
        if shown[group]:
            tally.add(group, value, sees(attributes, group, [value]))


def save_row(path: Path, pictures: Sequence[Image.Image], columns: int = SEEDS_PER_PROMPT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, columns).save(path)


def progress(items: Iterable[Any], what: str) -> Iterator[Any]:
    return iter(tqdm(items, desc=what, disable=None))


def read_truths(drawn: DrawnSamples, labels: Path = LABELS) -> list[dict[str, str]]:
    """What the samples show, by eye."""
    values = label_values(read_labels([labels]), drawn.seeds)
    return [attributes_of(values, row) for row in range(len(drawn.seeds))]


def summarise(tally: Tally, hit_rates: HitRates) -> dict[str, Any]:
    return {
        "raw": tally.raw(),
        "divided": tally.divided(hit_rates),
        "by_group": tally.by_group(hit_rates),
        "by_value": tally.by_value(),
    }


def as_table(measured: Mapping[str, Any]) -> str:
    """The shares as a Markdown table."""
    lines = ["| | raw | divided |", "|---|---|---|"]
    for name, row in measured.items():
        if isinstance(row, dict) and "raw" in row:
            lines.append(f"| {name} | {row['raw']:.1%} | {row['divided']:.1%} |")
    return "\n".join([*lines, f"| variety | {measured['variety']['value']:.2f} | |"])


@click.command(help=__doc__)
@click.option("--model", "name", default="faces", show_default=True, help="faces, or a bundle's folder.")
@click.option("--mapper", help="The kind of mapper.  [default: the model's first]")
@click.option(
    "--samples", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of draw_samples."
)
@click.option("--edits", "num_edits", type=click.IntRange(0, 200), default=100, show_default=True)
@click.option("--prompts", "num_prompts", type=click.IntRange(1), help="Only the first ones.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where the figures are written.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder for sheets of what was drawn.")
def main(
    *,
    name: str,
    mapper: str | None,
    samples: Path,
    num_edits: int,
    num_prompts: int | None,
    json_file: Path | None,
    pictures: Path | None,
) -> None:
    try:
        model, judge = clip2gan.load(name, mapper=mapper), Judge.load()
        drawn = read_drawn(samples, HELD_OUT)
        truths, hit_rates = read_truths(drawn), read_hit_rates()
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    texts, free, missed = measure_texts(model, judge, judged_prompts("faces")[:num_prompts], pictures)
    options = "" if mapper is None else f" --mapper {mapper}"
    options += "" if num_prompts is None else f" --prompts {num_prompts}"
    measured: dict[str, Any] = {
        "command": f"python -m tools.faces.measure_model --model {name} --samples data/faces{options}",
        "texts": {**summarise(texts, hit_rates), "missed": missed},
        "variety": {"value": free},
        "kept": summarise(measure_kept(model, judge, truths, drawn, pictures), hit_rates),
    }
    if num_edits:
        words = [Edit(**entry) for entry in json.loads(EDITS.read_text(encoding="utf-8"))]
        chosen = choose_edits(truths[:num_edits], words)
        reached, kept = measure_edits(model, judge, truths[:num_edits], drawn.w[:num_edits], chosen, pictures)
        measured["edits reached"] = summarise(reached, hit_rates)
        measured["edits, others kept"] = summarise(kept, hit_rates)
    click.echo(as_table(measured))
    if json_file is not None:
        with atomic_path(json_file) as temporary:
            temporary.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Train the faces' judge on samples that nothing else sees, and measure it on labels by eye of others.

    python -m tools.draw_samples --generator faces --seeds 10240-16895 --truncation 0.6:1.0 --out data/faces
    python -m tools.faces.measure --samples data/faces --out data/faces-measured
    python -m tools.faces.train_judge --samples data/faces --measured data/faces-measured --out runs/judge

Of the labelled samples every third, by seed, is kept for the test. The others' labels are spread to all
samples but these, by probes; the judge, a classifier of pictures alone, learns from both. Its hit rate is the
share of held-out labels of a value that it finds. The same command goes on where it was stopped.
"""

import json
from pathlib import Path

import click
import torch
from torch import Tensor

from clip2gan.data.samples import to_floats
from clip2gan.domains.faces.judge import WEIGHTS, Judge
from clip2gan.domains.faces.vocabulary import groups
from clip2gan.domains.judges import judge_images
from stylegan2.files import atomic_path
from stylegan2.runs import RunFolder
from tools.faces.classifier import train_classifier
from tools.faces.labels import JUDGE_LABELS, read_labels
from tools.faces.probes import fit_probes
from tools.faces.samples import FIRST_JUDGE_SEED
from tools.faces.spread import Known, compare, digests, gather, make_targets

LAST_SEED = 1 << 40
TEST_EVERY = 3


def is_test(known: Known) -> Tensor:
    """The labelled samples that are kept for the test: bool [N]."""
    labelled = torch.stack([values >= 0 for values in known.labelled.values()]).any(0)
    return labelled & (torch.tensor(known.samples.seeds) % TEST_EVERY == 0)


def train(known: Known, run: RunFolder, steps: int) -> Judge:
    """A judge that has learnt from all samples but those of the test."""
    test = is_test(known)
    labelled = {name: values.masked_fill(test, -1) for name, values in known.labelled.items()}
    targets = make_targets(known, labelled, fit_probes(known.features, labelled))
    torch.manual_seed(0)
    judge = Judge()
    train_classifier(
        judge, known.pixels[~test], {name: t[~test] for name, t in targets.items()}, run, steps=steps
    )
    return judge


def measure(judge: Judge, known: Known) -> dict[str, dict]:
    """For each labelled group: balanced accuracy, and of each value the hit rate, precision and labels."""
    test = is_test(known)
    said = judge_images(judge, to_floats(known.pixels[test]))  # as `Judge.see` looks
    figures = {}
    for name, values in known.labelled.items():
        found = compare(name, said[name].argmax(1), values[test])
        counts = torch.bincount(values[test][values[test] >= 0], minlength=len(groups()[name].values))
        figures[name] = {
            "accuracy": found.accuracy,
            "hit_rate": found.recall,
            "precision": found.precision,
            "labels": dict(zip(groups()[name].values, counts.tolist(), strict=True)),
        }
    return figures


def as_table(figures: dict[str, dict]) -> str:
    """The figures as a Markdown table, in percent."""
    lines = ["| group | balanced accuracy | hit rate of each value (labels) |", "|---|---|---|"]
    for name, row in figures.items():
        each = [f"{value} {rate:.0%} ({row['labels'][value]})" for value, rate in row["hit_rate"].items()]
        lines.append(f"| {name} | {row['accuracy']:.1%} | {', '.join(each)} |")
    return "\n".join(lines)


EXISTING = click.Path(exists=True, path_type=Path)


@click.command(help=__doc__)
@click.option("--samples", type=EXISTING, required=True, help="Folder of draw_samples.")
@click.option("--measured", type=EXISTING, required=True, help="Folder of tools.faces.measure.")
@click.option(
    "--labels", type=EXISTING, multiple=True, default=JUDGE_LABELS, help="CSV of labels; repeatable."
)
@click.option("--steps", type=click.IntRange(1), default=1300, show_default=True, help="Training steps.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run folder.")
@click.option(
    "--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="Where the judge is written."
)
def main(
    *, samples: Path, measured: Path, labels: tuple[Path, ...], steps: int, out: Path, weights: Path
) -> None:
    try:
        known = gather(samples, measured, range(FIRST_JUDGE_SEED, LAST_SEED), read_labels(labels))
        settings = {"command": "faces.train_judge", "steps": steps, **digests(labels, known.samples)}
        run = RunFolder.open(out, settings)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    judge = train(known, run, steps)
    judge.save(weights)
    figures = measure(Judge.load(weights), known)
    with atomic_path(weights.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    click.echo(as_table(figures))
    click.echo(f"wrote {weights}")


if __name__ == "__main__":
    main()

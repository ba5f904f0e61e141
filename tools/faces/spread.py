"""Spread labels by eye to all samples: probes in W and a classifier of pictures, which correct each other.

    python -m tools.faces.spread --samples data/faces --measured data/faces-measured --seeds 0-8959 \
        --steps 0 --out runs/spread

For each fold of the labels, by seed: probes learn from the other folds' labels and speak of every sample; a
classifier of pictures learns from what they say, and from those labels; both together (the mean of their
logarithms) are compared with the fold's labels. What is said of a sample without labels is the mean of all
folds. A classifier's training goes on where it was stopped.

OUT gets report.json (figures on labels that were not seen), attributes.json (seed -> what is known of it) and
probabilities.safetensors. A sample is taken for a value where its probability is so high that, by held-out
labels, precision and balanced accuracy reach --accuracy; of a sample with a label that label is taken.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from clip2gan.data.drawn import DrawnSamples, read_drawn
from clip2gan.domains.faces.judge import RESOLUTION, Judge
from clip2gan.domains.faces.vocabulary import groups
from stylegan2.atomic import atomic_path, sweep_folder
from stylegan2.files import fingerprint, save_tensors
from stylegan2.locks import lock_folder
from stylegan2.runs import RunFolder
from tools.draw_samples import SeedRange
from tools.faces.classifier import classify, train_classifier
from tools.faces.labels import TRAIN_LABELS, Labels, attributes_of, label_values, read_labels
from tools.faces.measure import measured_values, read_measured
from tools.faces.probes import fit_probes, make_features

THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)

Probabilities = dict[str, Tensor]
"""For each labelled group, of each sample: [N, values]."""


@dataclass(frozen=True)
class Known:
    """What is known before anything is spread.

    Attributes:
        samples: all of them.
        labelled: group -> index of the value by eye, int64 [N], -1 where there is none.
        looked_at: bool [N], the samples with labels by eye, whether these make a value or not.
        measured: likewise, of the groups that are measured.
        features: for the probes.
        pixels: for the classifier, uint8 [N, 3, R, R].
    """

    samples: DrawnSamples
    labelled: dict[str, Tensor]
    looked_at: Tensor
    measured: dict[str, Tensor]
    features: dict
    pixels: Tensor


def gather(samples_folder: Path, measured_folder: Path, seeds: range, labels: Labels) -> Known:
    """Read what is known of the samples of these seeds.

    Raises FileNotFoundError or ValueError where samples, measures or labels are missing.
    """
    samples = read_drawn(samples_folder, seeds)
    measures = read_measured(measured_folder, samples.seeds)
    pixels = samples.pixels(size=RESOLUTION)
    known = Known(
        samples=samples,
        labelled=label_values(labels, samples.seeds),
        looked_at=torch.tensor([seed in labels for seed in samples.seeds]),
        measured=measured_values(measures),
        features=make_features(samples.w, measures, pixels),
        pixels=pixels,
    )
    if not any((values >= 0).any() for values in known.labelled.values()):
        raise ValueError(f"no label is of a sample of seeds {seeds.start} to {seeds.stop - 1}")
    return known


def digests(labels: Sequence[Path], samples: DrawnSamples) -> dict[str, str]:
    """What a run was made from, so that other labels or samples are another run."""
    both = "".join(sorted(fingerprint(path) for path in labels))
    return {"labels": hashlib.sha256(both.encode()).hexdigest(), "samples": samples.fingerprint()}


def spread(known: Known, seen: Tensor, run: RunFolder, steps: int) -> tuple[Probabilities, Probabilities]:
    """What probes, and what a classifier of pictures, say of every sample; without steps, probes alone.

    Args:
        known: of the samples.
        seen: bool [N], the samples whose labels may be learnt from.
        run: the classifier's folder.
        steps: of its training.
    """
    labelled = {name: torch.where(seen, values, -1) for name, values in known.labelled.items()}
    of_probes = fit_probes(known.features, labelled)
    if steps == 0:
        return of_probes, of_probes
    targets = {}
    for name, group in groups().items():
        num = len(group.values)
        values = known.measured[name] if group.is_measured else labelled[name]
        sure = _one_hot(values, num)
        targets[name] = (
            sure if group.is_measured else torch.where(values[:, None] >= 0, sure, of_probes[name])
        )
    torch.manual_seed(0)
    judge = Judge()
    train_classifier(judge, known.pixels, targets, run, steps=steps)
    of_pictures = {name: p for name, p in classify(judge, known.pixels).items() if name in labelled}
    return of_probes, of_pictures


def make_targets(known: Known, labelled: Mapping[str, Tensor], of_probes: Probabilities) -> Probabilities:
    """What a classifier shall say of every sample: labels and measures, else what the probes say.

    Args:
        known: of the samples.
        labelled: the labels that may be learnt from, as in `known`.
        of_probes: of the labelled groups.
    """
    targets = {}
    for name, group in groups().items():
        values = known.measured[name] if group.is_measured else labelled[name]
        sure = _one_hot(values, len(group.values))
        targets[name] = (
            sure if group.is_measured else torch.where(values[:, None] >= 0, sure, of_probes[name])
        )
    return targets


def combine(*said: Probabilities) -> Probabilities:
    """The mean of logarithms, made probabilities again."""
    return {
        name: torch.stack([each[name].clamp(min=1e-6).log() for each in said]).mean(0).softmax(dim=1)
        for name in said[0]
    }


@dataclass(frozen=True)
class Figures:
    """How what is said of held-out labels agrees with them.

    Attributes:
        accuracy: balanced, that is the mean over values of `recall`; from 0 to 1, as all shares.
        recall: of each value, the share of its labels that are found, where anything is said.
        precision: of each value, the share of what is taken for it that is labelled so.
        coverage: the share of labels of which anything is said.
    """

    accuracy: float
    recall: dict[str, float]
    precision: dict[str, float]
    coverage: float


def compare(group: str, said: Tensor, values: Tensor) -> Figures:
    """Compare what is said with labels.

    Args:
        group: its name.
        said: indices of values [N], -1 where nothing is said.
        values: the labels' indices [N], -1 where there is none.
    """
    among = values >= 0
    taken = among & (said >= 0)
    recall, precision = {}, {}
    for index, value in enumerate(groups()[group].values):
        right = (taken & (said == index) & (values == index)).sum().item()
        if (among & (values == index)).any():
            recall[value] = right / max((taken & (values == index)).sum().item(), 1)
        if found := (taken & (said == index)).sum().item():
            precision[value] = right / found
    mean = sum(recall.values()) / len(recall) if recall else float("nan")
    return Figures(mean, recall, precision, (taken.sum() / among.sum()).item())


def find_thresholds(group: str, probabilities: Tensor, values: Tensor, accuracy: float) -> list[float]:
    """For each value the least probability that is sure enough, by held-out labels.

    Sure enough is where the share `accuracy` of what is taken for the value is labelled so (or the largest
    share that can be had; one wrong sample is added, so that few labels prove little). Then all are raised
    together until balanced accuracy too, of what is taken, reaches `accuracy`.

    Args:
        group: its name.
        probabilities: [N, values].
        values: the labels' indices [N], -1 where there is none.
        accuracy: from 0 to 1.
    """
    sure, said = probabilities.max(dim=1)
    precise = []
    for index in range(probabilities.shape[1]):
        taken = [(values >= 0) & (said == index) & (sure >= threshold) for threshold in THRESHOLDS]
        shares = [((each & (values == index)).sum() / (each.sum() + 1)).item() for each in taken]
        enough = [threshold for threshold, share in zip(THRESHOLDS, shares, strict=True) if share >= accuracy]
        precise.append(enough[0] if enough else THRESHOLDS[shares.index(max(shares))])
    ladder = [[max(threshold, each) for each in precise] for threshold in THRESHOLDS]
    figures = [compare(group, take(probabilities, thresholds), values) for thresholds in ladder]
    best = max(range(len(ladder)), key=lambda i: (min(figures[i].accuracy, accuracy), figures[i].coverage))
    return ladder[best]


def take(probabilities: Tensor, thresholds: Sequence[float]) -> Tensor:
    """The likeliest value of each sample where it reaches its threshold, else -1: [N]."""
    sure, said = probabilities.max(dim=1)
    return torch.where(sure >= torch.tensor(thresholds)[said], said, -1)


def known_attributes(
    known: Known, probabilities: Probabilities, thresholds: Mapping[str, Sequence[float]]
) -> dict[int, dict[str, str]]:
    """What is known of each seed: the labels by eye, else what was measured or said surely enough.

    Of a sample with labels nothing else is said in a labelled group: hair between short and long is neither.
    """
    values = dict(known.measured)
    for name, said in probabilities.items():
        values[name] = torch.where(known.looked_at, known.labelled[name], take(said, thresholds[name]))
    ordered = {name: values[name] for name in groups()}
    return {seed: attributes_of(ordered, row) for row, seed in enumerate(known.samples.seeds)}


def _one_hot(values: Tensor, num: int) -> Tensor:
    """Rows of zeros where the value is -1."""
    return torch.nn.functional.one_hot(values.clamp(min=0), num).float() * (values >= 0)[:, None]


def spread_by_folds(
    known: Known, out: Path, folds: int, steps: int, known_from: Mapping[str, str]
) -> tuple[dict[str, Probabilities], Probabilities]:
    """Spread once a fold.

    Returns:
        What is said of each sample's own fold ("probes", "pictures", "both"), and the mean over all folds.
    """
    fold_of = torch.tensor(known.samples.seeds) % folds
    held_out: dict[str, Probabilities] = {}
    both_of = []
    for fold in range(folds):
        settings = {"command": "faces.spread", "fold": fold, "steps": steps, **known_from}
        run = RunFolder.open(out / f"fold-{fold}", settings)
        of_probes, of_pictures = spread(known, fold_of != fold, run, steps)
        both = combine(of_probes, of_pictures)
        both_of.append(both)
        for kind, said in (("probes", of_probes), ("pictures", of_pictures), ("both", both)):
            result = held_out.setdefault(kind, {name: torch.zeros_like(p) for name, p in said.items()})
            for name, p in said.items():
                result[name][fold_of == fold] = p[fold_of == fold]
    return held_out, combine(*both_of)


def make_report(known: Known, held_out: Mapping[str, Probabilities], accuracy: float) -> dict[str, dict]:
    """For each labelled group: accuracies, threshold, and figures and coverage with it."""
    report = {}
    for name, values in known.labelled.items():
        both = held_out["both"][name]
        thresholds = find_thresholds(name, both, values, accuracy)
        sure = compare(name, take(both, thresholds), values)
        report[name] = {
            "labels": int((values >= 0).sum()),
            **{kind: compare(name, said[name].argmax(1), values).accuracy for kind, said in held_out.items()},
            "thresholds": thresholds,
            "accuracy": sure.accuracy,
            "coverage": sure.coverage,
            "recall": sure.recall,
            "precision": sure.precision,
        }
    return report


def as_table(report: Mapping[str, Mapping]) -> str:
    """The report as a Markdown table, in percent."""
    lines = [
        "| group | labels | probes | pictures | both | sure ones | coverage | recall/precision of these |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in report.items():
        shares = [f"{row[key]:.1%}" for key in ("probes", "pictures", "both", "accuracy", "coverage")]
        each = ", ".join(
            f"{value} {row['recall'].get(value, 0):.0%}/{p:.0%}" for value, p in row["precision"].items()
        )
        lines.append(f"| {' | '.join([name, str(row['labels']), *shares, each])} |")
    return "\n".join(lines)


EXISTING = click.Path(exists=True, path_type=Path)


@click.command(help=__doc__)
@click.option("--samples", type=EXISTING, required=True, help="Folder of draw_samples.")
@click.option("--measured", type=EXISTING, required=True, help="Folder of tools.faces.measure.")
@click.option(
    "--labels",
    type=EXISTING,
    multiple=True,
    default=TRAIN_LABELS,
    help="CSV of labels; repeatable.  [default: those of labelled/ that are not the judge's]",
)
@click.option("--seeds", type=SeedRange(), required=True, help="Samples that are spoken of, such as 0-10239.")
@click.option("--folds", type=click.IntRange(2), default=3, show_default=True, help="Folds of the labels.")
@click.option(
    "--steps",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Of each classifier; 0: probes alone.",
)
@click.option(
    "--accuracy",
    type=click.FloatRange(0, 1),
    default=0.85,
    show_default=True,
    help="Share that must be right.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the result.")
def main(
    *,
    samples: Path,
    measured: Path,
    labels: tuple[Path, ...],
    seeds: range,
    folds: int,
    steps: int,
    accuracy: float,
    out: Path,
) -> None:
    try:
        click.get_current_context().with_resource(lock_folder(out))
        sweep_folder(out)
        known = gather(samples, measured, seeds, read_labels(labels))
        held_out, said = spread_by_folds(known, out, folds, steps, digests(labels, known.samples))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    report = make_report(known, held_out, accuracy)
    attributes = known_attributes(known, said, {name: row["thresholds"] for name, row in report.items()})
    for name, value in (("report.json", report), ("attributes.json", attributes)):
        with atomic_path(out / name) as temporary:
            temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    tensors = {name: p.contiguous() for name, p in said.items()}
    save_tensors(
        out / "probabilities.safetensors", {"seed": torch.tensor(known.samples.seeds), **tensors}, {}
    )
    click.echo(as_table(report))


if __name__ == "__main__":
    main()

"""Compare remedies for the modality gap on trained mappers, by CLIP itself.

    python -m tools.compare_gaps --run runs/mapper --captions data/avatars-test.zip
    python -m tools.compare_gaps --run runs/mapper --grid     # the sharpness in units of CLIP's logit scale

The columns:

    score   mean cosine of a text and of the pictures made of it, embedded again
    top 1   how often such a picture is nearer to its own text than to all others
    varies  how much the pictures of a text differ: mean of 1 - cosine, embedded again
    near    mean cosine of what the mapper is given and the nearest embedding of a picture
    gap     distance of the mean of what the mapper is given for texts from the mean of pictures' embeddings
    true    with --captions: mean cosine of what is given for a caption to its own picture's embedding
    rank    with --captions: median rank of that picture among all of them, by that cosine
    own     with --captions: mean cosine of a caption's own picture and the one made of the caption, embedded
    closed  with --captions: (own - own of none) / (own of the ceiling - own of none)
    named   with --judge: share of what the texts name that the judge sees

The ceiling is what the mapper makes of the embeddings of the captions' own pictures, where there is no gap.
A caption says less than its picture, so that no remedy comes near it; and one that guesses the rest at
random comes less near than one that takes the middle of it. `own` is of the first 200 pairs, by the same
seeds in all rows. Pictures are truncated as `generate` does it: towards the middle of a text's own answers
where a remedy's answers are random (knn, posterior); towards the mean latent of all pictures else, and for
the ceiling.

Remedies that act in training (collapse, c3) are compared on the runs that were trained with them. The judge
knows attribute labels: its column is for the record, settings are chosen by the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from clip2gan.data.samples import plain_prompts, to_floats
from clip2gan.domains.avatars.judge import Judge
from clip2gan.evaluation.attributes import Claims, named_share
from clip2gan.evaluation.judge import judged_prompts
from clip2gan.evaluation.report import stack
from clip2gan.gap import Collapse, Gap, NoGap, Posterior, fit_gap
from clip2gan.mappers.mlp import MlpMapper
from clip2gan.model import Model, load
from stylegan2.files import load_tensors
from tools.dataset import read_avatars

PROMPTS = Path(__file__).with_name("gap_prompts.txt")
AT_INFERENCE = ("none", "shift", "whiten", "memory", "knn", "posterior")
CAPTIONS, DRAWN = 1000, 200


def remedies(own: Gap, images: Tensor, texts: Tensor, logit_scale: float, *, grid: bool) -> dict[str, Gap]:
    """The remedies to compare on a mapper that was trained with `own`, by names that tell their settings."""
    if isinstance(own, Collapse):
        return {own.kind: own}
    if not grid:
        return {kind: fit_gap(kind, images, texts, logit_scale) for kind in AT_INFERENCE}
    posterior = fit_gap("posterior", images, texts, logit_scale)
    assert isinstance(posterior, Posterior)
    return {
        f"posterior sharpness {sharpness} guidance {guidance}": dataclasses.replace(
            posterior, sharpness=sharpness * logit_scale, guidance=guidance
        )
        for sharpness, guidance in product((1.2, 1.6, 2.0, 2.4, 3.0, 4.0), (0.0, 1.25, 1.5, 2.0, 2.5))
    }


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pictures' embeddings and those of a caption of each [N, D]."""

    images: Tensor
    texts: Tensor


@torch.no_grad()
def measure(
    model: Model,
    gap: Gap,
    texts: Sequence[str],
    images: Tensor,
    *,
    claims: Sequence[Claims],
    judge: Judge | None,
    pairs: Pairs | None,
    num: int,
    truncation: float,
) -> dict[str, float]:
    """The columns of the module's docstring, of `num` pictures a text; `images` are pictures' embeddings."""
    e_text = model.clip.encode_texts(list(texts))
    model.gap = gap
    given, pictures = [], []
    for text, seed in product(texts, range(num)):
        prompt = model.prompt(text)
        given.append(gap.to_image(prompt.embedding, 1, torch.Generator().manual_seed(seed))[:, 0])
        pictures.append(model.draw(prompt, seed, truncation=truncation))
    images_again = stack(pictures)
    e_again = torch.cat([model.clip.encode_images(part) for part in images_again.split(64)])

    cosines = e_again @ e_text.T
    own = torch.arange(len(texts), device=cosines.device).repeat_interleave(num)
    of_a_text = e_again.unflatten(0, (len(texts), num))
    differences = 1 - of_a_text @ of_a_text.transpose(1, 2)
    e_given, known = torch.cat(given), gap.from_image(images)
    figures = {
        "score": cosines.gather(1, own[:, None]).mean().item(),
        "top 1": (cosines.argmax(1) == own).float().mean().item(),
        "varies": differences.sum((1, 2)).mean().item() / (num * (num - 1)),
        "near": (e_given @ known.T).amax(1).mean().item(),
        "gap": (e_given.mean(0) - known.mean(0)).norm().item(),
    }
    if pairs is not None:
        answers = gap.to_image(pairs.texts, 1, torch.Generator().manual_seed(0))[:, 0]
        similar = answers @ gap.from_image(pairs.images).T
        true = similar.diagonal()
        figures["true"] = true.mean().item()
        figures["rank"] = (similar > true[:, None]).sum(1).add(1).median().item()
    if judge is not None:
        seen = judge.see(images_again)
        figures["named"] = named_share(
            judge, claims, [seen[start : start + num] for start in range(0, len(seen), num)]
        )
    return figures


@torch.no_grad()
def own_cosine(model: Model, gap: Gap, pairs: Pairs, *, truncation: float, ceiling: bool = False) -> float:
    """Mean cosine of pictures drawn of captions to the captions' own pictures, embedded.

    `ceiling`: drawn of the embeddings of these pictures instead.
    """
    model.gap = gap
    sources = (pairs.images if ceiling else pairs.texts)[:DRAWN].split(1)
    pictures = [
        model.draw(model.prompt_from_embedding(source, is_text=not ceiling), seed, truncation=truncation)
        for seed, source in enumerate(sources)
    ]
    e_again = torch.cat([model.clip.encode_images(part) for part in stack(pictures).split(64)])
    return (e_again * pairs.images[:DRAWN]).sum(1).mean().item()


def own_bounds(model: Model, pairs: Pairs, truncation: float) -> tuple[float, float]:
    """`own` with no remedy at all, and of the ceiling; the model has the gap it was trained with."""
    ceiling = own_cosine(model, model.gap, pairs, truncation=truncation, ceiling=True)
    return own_cosine(model, NoGap(), pairs, truncation=truncation), ceiling


def read_pairs(path: Path, model: Model) -> Pairs:
    """The first of the drawn avatars with the first caption of each."""
    found = read_avatars(path)
    parts = to_floats(found.images[:CAPTIONS]).split(100)
    images = torch.cat([model.clip.encode_images(part) for part in parts])
    captions = [record["captions"][0]["text"] for record in found.records[:CAPTIONS]]
    return Pairs(images, model.clip.encode_texts(captions))


@click.command(help=__doc__)
@click.option(
    "--run",
    "runs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    multiple=True,
    help="The run folder of a finished train-mapper (repeatable).",
)
@click.option("--prompts", default=PROMPTS, show_default=True, type=click.Path(path_type=Path))
@click.option("--captions", type=click.Path(path_type=Path), help="A zip of make_avatars.")
@click.option("--judge", "by_judge", is_flag=True, help="Draw evaluate's prompts, and judge what they name.")
@click.option("--grid", is_flag=True, help="Settings of the posterior instead.")
@click.option("--num", default=4, show_default=True, type=click.IntRange(2), help="Pictures a text.")
@click.option("--truncation", default=0.7, show_default=True)
@click.option("--sigma", type=float, help="Noise of an mlp mapper's samples.  [default: the mapper's]")
def main(
    *,
    runs: Sequence[Path],
    prompts: Path,
    captions: Path | None,
    by_judge: bool,
    grid: bool,
    num: int,
    truncation: float,
    sigma: float | None,
) -> None:
    entries: list[dict[str, Any]] = [{"text": text} for text in plain_prompts(prompts)]
    if by_judge or prompts is None:
        entries = judged_prompts("avatars")
    judge = Judge.load() if by_judge else None
    for run in runs:
        model = load(str(run / "bundle"))
        if sigma is not None:
            if not isinstance(model.mapper, MlpMapper):
                raise click.UsageError("--sigma is for an mlp mapper")
            model.mapper.config = dataclasses.replace(model.mapper.config, sample_sigma=sigma)
        shards = sorted((run / "cache" / "sampled").glob("*.safetensors"))
        images = torch.cat([load_tensors(shard)[0]["embeddings"] for shard in shards]).to(model.device)
        texts = model.clip.encode_texts(plain_prompts(domain=model.domain))
        click.echo(f"\n{run}")
        pairs = None if captions is None else read_pairs(captions, model)
        own = model.gap
        bounds = None if pairs is None else own_bounds(model, pairs, truncation)
        columns: list[str] = []
        for name, gap in remedies(own, images, texts, model.clip.logit_scale, grid=grid).items():
            figures = measure(
                model,
                gap,
                [entry["text"] for entry in entries],
                images,
                claims=[entry.get("claims", {}) for entry in entries],
                judge=judge,
                pairs=pairs,
                num=num,
                truncation=truncation,
            )
            if pairs is not None and bounds is not None:
                none, ceiling = bounds
                figures["own"] = own_cosine(model, gap, pairs, truncation=truncation)
                figures["closed"] = (figures["own"] - none) / (ceiling - none)
            if not columns:
                columns = list(figures)
                click.echo(f"| remedy | {' | '.join(columns)} |\n|" + "---|" * (len(columns) + 1))
            tell_row(name, columns, figures)
        if bounds is not None:
            tell_row("ceiling", columns, {"own": bounds[1], "closed": 1.0})


def tell_row(name: str, columns: Sequence[str], figures: Mapping[str, float]) -> None:
    """A row of the table, with a dash for what there is not."""
    cells = (f"{figures[column]:.3f}" if column in figures else "-" for column in columns)
    click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

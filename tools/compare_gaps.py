"""Compare remedies for the modality gap on a trained mapper, by CLIP itself.

    python -m tools.compare_gaps --run runs/mapper

The columns:

    score   mean cosine of a text and of the pictures made of it, embedded again
    top 1   how often such a picture is nearer to its own text than to all others
    varies  how much the pictures of a text differ: mean of 1 - cosine, embedded again
    near    mean cosine of what the mapper is given and the nearest embedding of a picture

No attribute labels have a part in this.
"""

import dataclasses
from itertools import product
from pathlib import Path

import click
import torch
from torch import Tensor

from clip2gan.data.samples import plain_prompts
from clip2gan.gap import Gap, Knn, Posterior, fit_gap
from clip2gan.mappers.mlp import MlpMapper
from clip2gan.pipeline import Clip2Gan, load
from stylegan2.files import load_tensors
from stylegan2.generator import truncate

PROMPTS = Path(__file__).with_name("gap_prompts.txt")


def remedies(images: Tensor, texts: Tensor) -> dict[str, Gap]:
    """The remedies to compare, by a name that tells their settings."""
    found = {kind: fit_gap(kind, images, texts) for kind in ("none", "shift", "knn")}
    knn, posterior = found["knn"], fit_gap("posterior", images, texts)
    assert isinstance(knn, Knn)
    assert isinstance(posterior, Posterior)
    found["knn nearest 200"] = dataclasses.replace(knn, nearest=200)
    for sharpness, guidance in product((25, 40, 60, 100), (0.0, 1.25, 1.5, 2.0, 2.5)):
        changed = dataclasses.replace(posterior, sharpness=sharpness, guidance=guidance)
        found[f"posterior sharpness {sharpness} guidance {guidance}"] = changed
    return found


@torch.no_grad()
def measure(
    model: Clip2Gan, gap: Gap, texts: list[str], images: Tensor, *, num: int, truncation: float
) -> dict[str, float]:
    """The columns of the module's docstring, of `num` pictures a text; `images` are pictures' embeddings."""
    e_text = model.clip.encode_texts(texts)
    given, ws = [], []
    for e, seed in product(e_text.split(1), range(num)):
        random = torch.Generator().manual_seed(seed)
        given.append(gap.to_image(e, 1, random)[:, 0])
        ws.append(model.mapper.sample(given[-1], 1, random)[:, 0])
    truncated = truncate(torch.cat(ws), model.w_avg, truncation)
    pictures = (model.generator.synthesis(part) for part in truncated.split(32))
    e_again = torch.cat([model.clip.encode_images(part) for part in pictures])

    cosines = e_again @ e_text.T
    own = torch.arange(len(texts), device=cosines.device).repeat_interleave(num)
    of_a_text = e_again.unflatten(0, (len(texts), num))
    differences = 1 - of_a_text @ of_a_text.transpose(1, 2)
    return {
        "score": cosines.gather(1, own[:, None]).mean().item(),
        "top 1": (cosines.argmax(1) == own).float().mean().item(),
        "varies": differences.sum((1, 2)).mean().item() / (num * (num - 1)),
        "near": (torch.cat(given) @ images.T).amax(1).mean().item(),
    }


@click.command()
@click.option(
    "--run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The run folder of a finished train-mapper.",
)
@click.option("--prompts", default=PROMPTS, show_default=True, type=click.Path(path_type=Path))
@click.option("--num", default=4, show_default=True, type=click.IntRange(2), help="Pictures a text.")
@click.option("--truncation", default=0.7, show_default=True)
@click.option("--sigma", type=float, help="Noise of an mlp mapper's samples.  [default: the mapper's]")
def main(run: Path, prompts: Path, num: int, truncation: float, sigma: float | None) -> None:
    """Print a line for each remedy."""
    model = load(str(run / "bundle"))
    if sigma is not None:
        if not isinstance(model.mapper, MlpMapper):
            raise click.UsageError("--sigma is for an mlp mapper")
        model.mapper.config = dataclasses.replace(model.mapper.config, sample_sigma=sigma)
    shards = sorted((run / "cache" / "sampled").glob("*.safetensors"))
    images = torch.cat([load_tensors(shard)[0]["embeddings"] for shard in shards]).to(model.device)
    texts = plain_prompts(prompts)
    for row, (name, gap) in enumerate(remedies(images, model.clip.encode_texts(plain_prompts())).items()):
        figures = measure(model, gap, texts, images, num=num, truncation=truncation)
        if row == 0:
            click.echo(f"{'remedy':38}" + "".join(f"{column:>8}" for column in figures))
        click.echo(f"{name:38}" + "".join(f"{value:8.3f}" for value in figures.values()))


if __name__ == "__main__":
    main()

"""clip2latent's own prior, trained on the pairs of a run of ours, beside a model of ours.

    python -m tools.compare_clip2latent --peer ../clip2latent --run runs/mapper --cpu-seconds 900

The peer is a copy of its repository, and its prior needs

    pip install --no-deps dalle2-pytorch==0.2.38
    pip install coca-pytorch einops einops-exts hydra-core kornia resize-right webdataset x-clip
    pip install rotary-embedding-torch vector-quantize-pytorch

What else dalle2-pytorch asks for is not used here; an empty module stands in for youtokentome, which it
imports.

It gets its own small configuration (a causal transformer of depth 6, batches of 512, AdamW at 1e-4 with a
weight decay of 0.01, unit noise of the embedding's length, z-scored W), the same pairs of latent and
embedding, and the same CPU time. It samples as its demonstration does: 4 steps, guidance 2. Texts, seeds,
truncation, generator, CLIP and judge are the same for both.
"""

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
from torch import Tensor

from clip2gan.domains.avatars.judge import Judge
from clip2gan.evaluation.attributes import named_share
from clip2gan.evaluation.judge import judged_prompts
from clip2gan.evaluation.metrics import clip_score, diversity
from clip2gan.evaluation.report import stack
from clip2gan.model import Model, load
from stylegan2.files import load_tensors
from stylegan2.generator import truncate

SEEDS = 4
BATCH, WEIGHT_DECAY, GUIDANCE, SKIP = 512, 0.01, 2.0, 250
EMA = 0.999  # its own 0.9999 is for a thousand times as many steps


def train_peer(w: Tensor, e: Tensor, lr: float, noise: float, seconds: float) -> tuple[Any, int]:
    """The peer's prior after `seconds` of CPU time on latents [N, w_dim] and embeddings [N, D]; its steps."""
    sys.modules.setdefault("youtokentome", ModuleType("youtokentome"))  # imported there, and never used
    data, latent_prior, train_utils, dalle2 = (
        import_module(name)
        for name in (
            "clip2latent.data",
            "clip2latent.latent_prior",
            "clip2latent.train_utils",
            "dalle2_pytorch",
        )
    )
    torch.manual_seed(0)
    stats = train_utils.make_data_stats(w)
    network = dalle2.DiffusionPriorNetwork(dim=w.shape[1], num_timesteps=1000, depth=6, dim_head=64, heads=8)
    prior = latent_prior.LatentPrior(
        network,
        num_latents=1,
        latent_repeats=(1,),
        latent_stats=stats,
        image_embed_dim=w.shape[1],
        timesteps=1000,
        cond_drop_prob=0.2,
        image_embed_scale=1.0,
        text_embed_scale=1.0,
        beta_schedule="cosine",
        predict_x_start=True,
    )
    average = deepcopy(prior)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    start, step = time.process_time(), 0
    while time.process_time() - start < seconds:
        rows = torch.randint(len(w), (BATCH,))
        prior.train()
        loss = prior(data.add_noise(e[rows].clone(), noise), train_utils.normalise_data(w[rows], *stats))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keep = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), prior.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)
        step += 1
        if step % 100 == 0:
            click.echo(f"step {step}, loss {loss.item():.4f}, {time.process_time() - start:.0f} s", err=True)
    average.eval()
    average.set_timestep_skip(SKIP)
    return average, step


@torch.no_grad()
def measure(model: Model, draw: Callable[[str, int], Any]) -> dict[str, float]:
    """Figures of `draw(text, seed)`, a picture, on the prompts of `clip2gan evaluate`."""
    entries = judged_prompts("avatars")
    draw(entries[0]["text"], 0)  # warm
    start = time.process_time()
    pictures = [[draw(entry["text"], seed) for seed in range(SEEDS)] for entry in entries]
    seconds = (time.process_time() - start) / len(entries) / SEEDS
    e_pictures = torch.stack([model.clip.encode_images(row) for row in pictures])
    e_texts = model.clip.encode_texts([entry["text"] for entry in entries])
    judge = Judge.load()
    return {
        "named": named_share(
            judge, [entry["claims"] for entry in entries], [judge.see(stack(row)) for row in pictures]
        ),
        "clip_score": clip_score(e_pictures.flatten(0, 1), e_texts.repeat_interleave(SEEDS, 0)),
        "diversity": diversity(e_pictures),
        "seconds": seconds,
    }


@click.command(help=__doc__)
@click.option("--peer", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--run", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--cpu-seconds", default=900.0, show_default=True)
@click.option("--lr", default=1e-4, show_default=True, help="The peer's learning rate.")
@click.option("--noise", default=1.0, show_default=True, help="The peer's noise.")
@click.option("--truncation", default=0.7, show_default=True)
def main(*, peer: Path, run: Path, cpu_seconds: float, lr: float, noise: float, truncation: float) -> None:
    sys.path.insert(0, str(peer))
    model = load(str(run / "bundle"), device="cpu")
    shards = [load_tensors(path)[0] for path in sorted((run / "cache" / "sampled").glob("*.safetensors"))]
    w, e = (torch.cat([shard[name] for shard in shards]) for name in ("w", "embeddings"))
    prior, steps = train_peer(w, e, lr, noise, cpu_seconds)
    count = sum(parameter.numel() for parameter in prior.parameters())
    click.echo(
        f"the peer's prior: {count:,} parameters, {steps} steps of {BATCH} in {cpu_seconds:.0f} s of CPU"
    )

    def draw_peer(text: str, seed: int) -> Any:
        torch.manual_seed(seed)
        embedding = model.prompt(text).embedding
        latent = prior.sample(embedding.clone(), cond_scale=GUIDANCE, show_progress=False)
        ws = latent.expand(-1, model.generator.num_ws, -1)
        return model.synthesize(truncate(ws, model.w_avg, truncation))

    def draw_ours(text: str, seed: int) -> Any:
        return model.draw(model.prompt(text), seed, truncation=truncation)

    rows = {"clip2latent": measure(model, draw_peer), f"ours ({run.name})": measure(model, draw_ours)}
    click.echo("| | " + " | ".join(next(iter(rows.values()))) + " |\n|---|---|---|---|---|")
    for name, figures in rows.items():
        click.echo(f"| {name} | " + " | ".join(f"{value:.3f}" for value in figures.values()) + " |")


if __name__ == "__main__":
    main()

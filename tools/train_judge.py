"""Train the judge on rendered avatars; run it again with the same --out to go on where it stopped.

python -m tools.make_avatars --num 8000 --seed 7 --captions 0 --out data/avatars-judge.zip
python -m tools.make_avatars --num 1500 --seed 8 --captions 0 --out data/avatars-judge-test.zip
python -m tools.train_judge --out runs/judge
"""

from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.devices import resolve_precision
from clip2gan.domains.avatars.judge import WEIGHTS, Judge, judge_images
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder
from stylegan2.training.engine import Phase, Step, Task, Terms, Trainer, Update, Updates
from stylegan2.training.schedule import rate_factor
from tools.dataset import Avatars, read_avatars

MEASURE_EVERY = 250
CHECKPOINT_SECONDS = 60.0


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 pictures [N, 3, R, R] to [-1, 1], each a little moved, scaled, blurred, recoloured and noised.

    So that the judge reads pictures of a generator as it reads renders: up to 2 pixels of shift, 3% of scale,
    4% of colour gain, 0.06 of offset and noise.
    """
    num, _, resolution, _ = images.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(num, *shape, generator=generator) * (high - low) + low

    pixels = images.float() / 127.5 - 1
    place = torch.zeros(num, 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = uniform(0.97, 1.03)
    place[:, :, 2] = uniform(-4 / resolution, 4 / resolution, 2)  # in half widths: 2 pixels
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = torch.lerp(pixels, blurred, uniform(-0.3, 0.7, 1, 1, 1).clamp(min=0))
    pixels = pixels * uniform(0.96, 1.04, 3, 1, 1) + uniform(-0.06, 0.06, 3, 1, 1)
    noise = torch.randn(pixels.shape, generator=generator)
    return pixels + noise * uniform(0.0, 0.06, 1, 1, 1)


def judge_loss(judge: Judge, images: Tensor, labels: Tensor, shown: Tensor) -> Tensor:
    """Cross-entropy summed over the groups, where they can be seen, per picture."""
    total = torch.zeros(())
    for index, scores in enumerate(judge.logits(images).values()):
        losses = F.cross_entropy(scores.float(), labels[:, index], reduction="none")
        total = total + (losses * shown[:, index]).mean()
    return total


def accuracies(judge: Judge, avatars: Avatars) -> dict[str, float]:
    """The share of pictures judged right where the group can be seen, for each group."""
    labels, shown = avatars.labels()
    probabilities = judge_images(judge.eval(), avatars.images.float() / 127.5 - 1)
    right = torch.stack([p.argmax(dim=1) for p in probabilities.values()], dim=1) == labels
    return {group: right[shown[:, i], i].float().mean().item() for i, group in enumerate(probabilities)}


def train(
    avatars: Avatars, held_out: Avatars, run: RunFolder, steps: int, batch: int, lr: float, seed: int
) -> Judge:
    """Train a judge, or go on with the one of the run's folder; accuracies on `held_out` go into its log."""
    labels, shown = avatars.labels()
    torch.manual_seed(seed)
    judge = Judge()
    precision = resolve_precision("auto", torch.device("cpu"))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.01)

    def step(now: Step) -> Updates:
        chosen = torch.randint(len(labels), (batch,), generator=now.random)
        images = augment(avatars.images[chosen], now.random)

        def losses(turn: int) -> Terms:
            return {"loss": (1.0, judge_loss(judge.train(), images, labels[chosen], shown[chosen]))}

        yield Update(
            optimizer=optimizer,
            losses=losses,
            rates=[lr * rate_factor(now.index, steps, ramp=100, end=0.01)],
            precision=precision,
        )

    def measure(done: int) -> dict[str, float]:
        figures = accuracies(judge, held_out)
        return {"accuracy": sum(figures.values()) / len(figures)}

    task = Task(
        parts={"judge": judge, "optimizer": optimizer},
        phases=[Phase(steps=steps, step=step)],
        preview=measure,
        preview_every=MEASURE_EVERY,
    )
    Trainer(task, run, Processes(torch.device("cpu")), seed, CHECKPOINT_SECONDS).train()
    return judge


@click.command(help=__doc__)
@click.option("--data", default="data/avatars-judge.zip", show_default=True, help="Zip of make_avatars.")
@click.option("--test", default="data/avatars-judge-test.zip", show_default=True, help="Held-out renders.")
@click.option("--steps", type=click.IntRange(min=1), default=1500, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=2e-3, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run folder.")
@click.option(
    "--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="Where the judge is written."
)
def main(
    *, data: str, test: str, steps: int, batch: int, lr: float, seed: int, out: Path, weights: Path
) -> None:
    try:
        avatars, held_out = read_avatars(data), read_avatars(test)
        settings = {"data": data, "test": test, "steps": steps, "batch": batch, "lr": lr, "seed": seed}
        run = RunFolder.open(out, settings)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    judge = train(avatars, held_out, run, steps, batch, lr, seed)
    judge.save(weights)
    figures = accuracies(Judge.load(weights), held_out)
    for group, accuracy in figures.items():
        click.echo(f"{group:15} {accuracy:7.2%}")
    click.echo(f"{'mean':15} {sum(figures.values()) / len(figures):7.2%}")
    click.echo(f"wrote {weights}")


if __name__ == "__main__":
    main()

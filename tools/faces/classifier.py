"""Training a classifier of pictures on targets that need not be sure."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.domains.judges import AttributeJudge
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder
from stylegan2.training.engine import Phase, Step, Task, Terms, Trainer, Update, Updates
from stylegan2.training.schedule import rate_factor
from tools.train_judge import augment

Targets = Mapping[str, Tensor]
"""For each group a distribution over its values for each picture, [N, values]; zeros leave a picture out."""


def train_classifier(
    classifier: AttributeJudge,
    pixels: Tensor,
    targets: Targets,
    run: RunFolder,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
) -> None:
    """Train a classifier, or go on with the one of the run's folder; it ends in eval mode.

    Rare values weigh more, by the square root of how rare they are. Pictures are mirrored by chance.

    Args:
        classifier: of pictures of these pixels' size.
        pixels: uint8 [N, 3, R, R].
        targets: of every group of the classifier.
        run: the run's folder.
        steps: of the training.
        batch: pictures a step.
        lr: highest learning rate.
        seed: of all random numbers.
    """
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr, weight_decay=0.02)
    weights = {name: _weights(target) for name, target in targets.items()}

    def step(now: Step) -> Updates:
        chosen = torch.randint(len(pixels), (batch,), generator=now.random)
        mirrored = torch.rand(batch, 1, 1, 1, generator=now.random) < 0.5
        images = augment(pixels[chosen], now.random)
        images = torch.where(mirrored, images.flip(3), images).to(memory_format=torch.channels_last)

        def losses(turn: int) -> Terms:
            total = torch.zeros(())
            for name, scores in classifier.train().logits(images).items():
                wanted = targets[name][chosen] * weights[name]
                total = total - (F.log_softmax(scores, dim=1) * wanted).sum(1).mean()
            return {"loss": (1.0, total)}

        rate = rate_factor(now.index, steps, ramp=min(100, steps // 10 + 1), end=0.01)
        yield Update(optimizer=optimizer, losses=losses, rates=[lr * rate], clip_norm=10.0)

    task = Task(
        parts={"classifier": classifier, "optimizer": optimizer},
        phases=[Phase(steps=steps, step=step)],
        preview=lambda done: {},
        preview_every=steps,
    )
    Trainer(task, run, Processes(torch.device("cpu")), seed).train()
    classifier.eval()


@torch.no_grad()
def classify(classifier: AttributeJudge, pixels: Tensor, batch: int = 250) -> dict[str, Tensor]:
    """The probabilities of each group's values, mean over the pictures and their mirror images.

    Args:
        classifier: in eval mode.
        pixels: uint8 [N, 3, R, R].
        batch: pictures at a time.
    """
    parts = []
    for part in pixels.split(batch):
        images = part.float() / 127.5 - 1
        straight, mirrored = classifier(images), classifier(images.flip(3))
        parts.append({name: (straight[name] + mirrored[name]) / 2 for name in straight})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _weights(target: Tensor) -> Tensor:
    """Of each value, [values], with a mean of 1 over the pictures."""
    shares = target.sum(0) / target.sum().clamp(min=1e-9)
    weights = shares.clamp(min=1e-3).rsqrt()
    return weights / (weights * shares).sum().clamp(min=1e-9)

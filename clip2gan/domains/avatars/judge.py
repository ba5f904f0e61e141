"""The avatars' judge, used only to measure, never to train or to choose.

It is trained by `tools.train_judge` on renders that nothing else has seen.
"""

from pathlib import Path

from torch import Tensor

from clip2gan.domains import judges
from clip2gan.domains.avatars import vocabulary
from clip2gan.domains.judges import AttributeJudge, fit, judge_images, load_judge

__all__ = ["RESOLUTION", "WEIGHTS", "Judge", "judge_images", "judge_size", "verdicts"]

RESOLUTION = 64
WEIGHTS = Path(__file__).with_name("judge.safetensors")


class Judge(AttributeJudge):
    """Pictures [N, 3, 64, 64] in [-1, 1] to probabilities, {group: [N, values]}."""

    def __init__(self, width: int = 32):
        super().__init__(vocabulary, RESOLUTION, width)

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Judge":
        """The trained judge, of this repository when `path` is None, in eval mode and without gradients.

        Raises FileNotFoundError or ValueError when the file cannot serve.
        """
        return load_judge(cls, path or WEIGHTS)


def judge_size(images: Tensor) -> Tensor:
    """Pictures as a viewer would see them, at the judge's resolution."""
    return fit(images, RESOLUTION)


def verdicts(probabilities: dict[str, Tensor]) -> list[vocabulary.Attributes]:
    """The most probable value of each group, for each picture."""
    return judges.verdicts(vocabulary, probabilities)

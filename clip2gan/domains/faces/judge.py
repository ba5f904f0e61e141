"""The faces' judge, used only to measure, never to train or to choose.

It is trained by `tools.faces.train_judge` on samples that nothing else has seen.
"""

from pathlib import Path

from clip2gan.domains.faces import vocabulary
from clip2gan.domains.judges import AttributeJudge, load_judge

RESOLUTION = 96
WEIGHTS = Path(__file__).with_name("judge.safetensors")


class Judge(AttributeJudge):
    """Pictures [N, 3, 96, 96] in [-1, 1] to probabilities, {group: [N, values]}."""

    def __init__(self, width: int = 32):
        super().__init__(vocabulary, RESOLUTION, width)

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Judge":
        """The trained judge, of this repository when `path` is None, in eval mode and without gradients.

        Raises FileNotFoundError or ValueError when the file cannot serve.
        """
        return load_judge(cls, path or WEIGHTS)

"""The judge: a small classifier of avatars' attributes, used only to measure, never to train or to choose.

It is trained by `tools.train_judge` on renders that nothing else has seen.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2gan.domains.avatars import vocabulary as avatars
from stylegan2.files import WithoutData, check_weights, load_tensors, load_weights, save_tensors
from stylegan2.settings import check_size

RESOLUTION = 64
WEIGHTS = Path(__file__).with_name("judge.safetensors")


class Judge(nn.Module):
    """Pictures [N, 3, 64, 64] in [-1, 1] to the probabilities of each group's values, {group: [N, values]}.

    Faces sit at the same place in all avatars, so the last features keep their positions (no pooling).
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        self.sizes = {name: len(group.values) for name, group in avatars.groups().items()}
        self.features = nn.Sequential(
            nn.PixelUnshuffle(2),  # keeps every pixel of eyes and mouth at a quarter of the positions
            *_block(12, width),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 2 * width),
            *_block(2 * width, 3 * width, stride=2),
            *_block(3 * width, 3 * width),
            nn.Conv2d(3 * width, width, 1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(width * 8 * 8, 4 * width),
            nn.ReLU(),
        )
        self.heads = nn.Linear(4 * width, sum(self.sizes.values()))

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Judge":
        """The trained judge, of this repository when `path` is None, in eval mode and without gradients.

        Raises FileNotFoundError or ValueError when the file cannot serve.
        """
        path = Path(path or WEIGHTS)
        tensors, config = load_tensors(path)
        width = config.get("width", 32)
        try:
            check_size("width", width, 1, 1024)
        except ValueError as error:
            raise ValueError(f"{path}: does not hold a judge ({error})") from error
        with WithoutData():
            shape = cls(width)
        check_weights(shape, tensors, str(path))
        judge = cls(width)
        load_weights(judge, tensors, str(path))
        return judge.eval().requires_grad_(False)

    def save(self, path: str | Path) -> None:
        """Write the weights in 16 bit."""
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in self.state_dict().items()}
        save_tensors(path, tensors, {"width": self.width, "groups": self.sizes})

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the attribute groups."""
        return tuple(self.sizes)

    def see(self, images: Tensor) -> list[avatars.Attributes]:
        """The verdicts on pictures [N, 3, R, R] in [-1, 1], of any size."""
        return verdicts(judge_images(self, judge_size(images)))

    def visible(self, attributes: avatars.Attributes) -> dict[str, bool]:
        """Whether each group can be seen in a picture with these attributes."""
        return avatars.visible(attributes)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """The unnormalised scores of each group's values, {group: [N, values]}.

        Raises ValueError if the pictures are not [N, 3, 64, 64].
        """
        if images.shape[1:] != (3, RESOLUTION, RESOLUTION):
            raise ValueError(f"the judge takes pictures [N, 3, 64, 64], not {list(images.shape)}")
        scores = self.heads(self.features(images))
        return dict(zip(self.sizes, scores.split(list(self.sizes.values()), dim=1), strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {group: scores.softmax(dim=1) for group, scores in self.logits(images).items()}


def judge_size(images: Tensor) -> Tensor:
    """Pictures as a viewer would see them, at the judge's resolution."""
    images = images.clamp(-1, 1)
    return F.adaptive_avg_pool2d(images, RESOLUTION) if images.shape[-1] != RESOLUTION else images


def verdicts(probabilities: dict[str, Tensor]) -> list[avatars.Attributes]:
    """The most probable value of each group, for each picture."""
    indices = {group: p.argmax(dim=1).tolist() for group, p in probabilities.items()}
    num = len(next(iter(indices.values())))
    return [
        {name: group.values[indices[name][i]] for name, group in avatars.groups().items()} for i in range(num)
    ]


def judge_images(judge: Judge, images: Tensor, batch: int = 250) -> dict[str, Tensor]:
    """`judge(images)` in batches, without gradients."""
    with torch.no_grad():
        parts = [judge(part) for part in images.split(batch)]
    return {group: torch.cat([part[group] for part in parts]) for group in parts[0]}


def _block(in_channels: int, out_channels: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()

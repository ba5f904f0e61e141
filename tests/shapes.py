"""A domain without faces: shapes of four forms, six colours, two sizes, three backgrounds, with captions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from clip2gan.clip import save_local_dir
from clip2gan.model import to_tensor

SIZE = 32
FORMS = ("circle", "square", "triangle", "star")
COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 140, 60),
    "blue": (40, 80, 200),
    "yellow": (240, 200, 40),
    "black": (25, 25, 25),
    "purple": (130, 50, 160),
}
BACKGROUNDS = {"white": (250, 250, 250), "grey": (150, 150, 150), "pink": (250, 180, 200)}
SIZES = {"small": 0.24, "large": 0.42}

CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESSING = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


@dataclass(frozen=True)
class Shape:
    """What a picture shows."""

    form: str
    colour: str
    size: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.form} on a {self.background} background"

    def draw(self, chance: random.Random) -> Image.Image:
        """A picture of it, somewhere near the middle."""
        big = 4 * SIZE
        image = Image.new("RGB", (big, big), BACKGROUNDS[self.background])
        x, y = (big * chance.uniform(0.44, 0.56) for _ in range(2))
        radius = big * SIZES[self.size] * chance.uniform(0.92, 1.08)
        pen, colour = ImageDraw.Draw(image), COLOURS[self.colour]
        if self.form == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        elif self.form == "square":
            side = radius * 0.88
            pen.rectangle((x - side, y - side, x + side, y + side), fill=colour)
        elif self.form == "triangle":
            pen.regular_polygon((x, y, radius), 3, fill=colour)
        else:
            pen.polygon(_star(x, y, radius), fill=colour)
        return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    turns = torch.arange(10) * torch.pi / 5
    lengths = torch.tensor([radius, radius * 0.42] * 5)
    return list(zip((x + lengths * turns.sin()).tolist(), (y - lengths * turns.cos()).tolist(), strict=True))


def shapes(count: int, seed: int = 0) -> Iterator[tuple[Shape, Image.Image]]:
    """Pictures and what they show, by a seed."""
    chance = random.Random(seed)
    for _ in range(count):
        shape = Shape(*(chance.choice(list(kinds)) for kinds in (FORMS, COLOURS, SIZES, BACKGROUNDS)))
        yield shape, shape.draw(chance)


def write_shapes(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of PNG files with captions.txt beside them, as Flickr8k has it."""
    folder.mkdir(parents=True)
    lines = ["image,caption"]
    for index, (shape, image) in enumerate(shapes(count, seed)):
        image.save(folder / f"{index:04d}.png")
        lines.append(f"{index:04d}.png,{shape.caption}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return folder


def train_shapes_clip(folder: Path, steps: int = 400, batch: int = 64) -> Path:
    """A small CLIP that knows these shapes, in a local-dir folder: the foreign CLIP that a user brings."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP_CONFIG)
    tokenize = open_clip.SimpleTokenizer(context_length=CLIP_CONFIG["text_cfg"]["context_length"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    known = list(shapes(4096, seed=1))
    images = torch.cat([to_tensor(image) for _, image in known])
    texts = tokenize([shape.caption for shape, _ in known])
    names = [shape.caption for shape, _ in known]
    for step in range(steps):
        rows = torch.randperm(len(known))[:batch].tolist()
        # Rows of one caption are all right, so each caption is there once.
        rows = list({names[row]: row for row in rows}.values())
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        e_images = F.normalize(model.encode_image(images[rows]), dim=-1)
        e_texts = F.normalize(model.encode_text(texts[rows]), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * e_images @ e_texts.T
        own = torch.arange(len(rows))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_local_dir(model.eval(), CLIP_CONFIG, PREPROCESSING, folder, dtype=torch.float32)
    return folder

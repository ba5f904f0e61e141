"""The commands that take long, on tiny models, for the harness that kills them (see kills.py)."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from conftest import make_bundle, make_clip, make_generator
from PIL import Image

from clip2gan import cli
from clip2gan.clip import ClipEncoder
from clip2gan.data import drawn, prepare, samples
from clip2gan.editing.encoder import save_encoder
from clip2gan.training import mapper, validation
from clip2gan.training.encoder import EncoderTraining, untrained_encoder
from stylegan2 import save_generator
from stylegan2.training import engine
from tools import draw_samples, make_avatars, train_clip

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class LongCommand:
    """A command that can be killed.

    Attributes:
        name: for people.
        words: its arguments, relative to a folder beside which the material lies; it writes to out/.
        again: what the same command is given besides, after a kill.
        main: runs them.
    """

    name: str
    words: tuple[str, ...]
    again: tuple[str, ...] = ()
    main: Callable[[list[str]], Any] = cli.main


def _tool(command: click.Command) -> Callable[[list[str]], Any]:
    return lambda words: command.main(words, standalone_mode=True)


def _train_mapper(kind: str, steps: int, settings: Iterable[str], *more: str) -> LongCommand:
    words = (
        *("train-mapper", "--generator", "../material/generator.safetensors"),
        *("--clip", "local-dir:../material/clip", "--mapper", kind, "--samples", "16", "--device", "cpu"),
        *("--data", "sampled", "--data", "../material/pictures", "--precision", "fp32"),
        *("--prompts", "../material/prompts.txt", "--out", "out/run", *more),
    )
    assignments = [f"mapper_settings.{setting}" for setting in settings]
    assignments += [f"warmup_steps={8 - steps}", "warmup_batch=8"]
    return LongCommand(f"train-mapper {kind}", (*words, *_set(assignments)))


def _set(assignments: Iterable[str]) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


SHAPE = [
    f"generator.{name}={value}"
    for name, value in {
        **{"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2},
    }.items()
]
TRAIN_GAN = (
    "train-gan",
    "--data",
    "../material/pictures",
    "--device",
    "cpu",
    "--no-half",
    "--out",
    "out/run",
)
MODEL = ("--model", "../material/model", "--device", "cpu")
FORCE = ("--force",)

COMMANDS = [
    LongCommand(
        "prepare",
        (
            *("prepare", "../material/pictures", "out/pictures.zip", "--resolution", "32"),
            *("--processes", "1", "--clip", "local-dir:../material/clip", "--device", "cpu"),
        ),
        FORCE,
    ),
    LongCommand(
        "train-gan",
        (
            *(*TRAIN_GAN, "--resolution", "16", "--preset", "small", "--batch", "8", "--mapping-steps", "3"),
            *("--autoencoder-images", "32", "--adversarial-images", "40", *_set(SHAPE)),
        ),
    ),
    LongCommand(
        "train-gan --condition clip",
        (
            *(*TRAIN_GAN, "--condition", "clip", "--clip", "local-dir:../material/clip", "--batch", "8"),
            *("--init", "../material/gan.safetensors", "--steps", "4", "--mapping-steps", "3"),
        ),
    ),
    _train_mapper("mlp", 4, ["width=16", "layers=3"], "--steps", "4", "--batch", "8"),
    _train_mapper("flow", 0, ["width=16", "steps=2", "condition=8"]),
    _train_mapper("diffusion", 0, ["width=16", "blocks=1", "sampling_steps=2"]),
    LongCommand(
        "train-encoder",
        (
            *("train-encoder", *MODEL, "--steps", "6", "--batch", "8", "--out", "out/run"),
            *("--precision", "fp32", *_set(["channel_base=256", "channel_max=16"])),
        ),
    ),
    LongCommand(
        "sample",
        (
            *("sample", "--generator", "../material/generator.safetensors", "--seeds", "0-9", "--grid"),
            *("--device", "cpu", "--out", "out/pictures", "--video", "out/walk.gif", "--frames", "2"),
        ),
        FORCE,
    ),
    LongCommand(
        "generate",
        (
            *("generate", *MODEL, "--text", "a face", "--text", "a hat", "--num", "6", "--grid"),
            *("--out", "out/pictures"),
        ),
        FORCE,
    ),
    LongCommand(
        "invert",
        (
            *("invert", *MODEL, "--image", "../material/photos", "--steps", "6"),
            *("--batch", "2", "--out", "out/latents.safetensors"),
        ),
        FORCE,
    ),
    LongCommand(
        "edit",
        (
            *("edit", *MODEL, "--image", "../material/photos", "--steps", "3", "--attr", "a hat"),
            *("--sheet", "--out", "out/edited"),
        ),
        FORCE,
    ),
    LongCommand(
        "evaluate",
        (
            *("evaluate", *MODEL, "--prompts", "../material/prompts.txt"),
            *("--attributes", "../material/prompts.txt", "--num", "3", "--out", "out/report.json"),
        ),
        FORCE,
    ),
    LongCommand(
        "tools.draw_samples",
        (
            *("--generator", "../material/generator.safetensors", "--seeds", "0-23", "--size", "16"),
            *("--truncation", "0.6:1.0", "--out", "out/samples"),
        ),
        main=_tool(draw_samples.main),
    ),
    LongCommand(
        "tools.train_clip",
        (
            *("--data", "../material/avatars.zip", "--out", "out/run", "--export", "out/clip"),
            *("--images", "24", "--batch", "4", "--model", "../material/clip.json", "--device", "cpu"),
            *("--no-bf16", "--save-seconds", "0"),
        ),
        main=_tool(train_clip.main),
    ),
]


def make_small() -> None:
    """Have parts of the work, and the time between checkpoints, as small as the tiny models."""
    torch.set_num_threads(1)
    prepare.CHUNK = samples.SHARD = drawn.SHARD = 4
    mapper.PREVIEWS, validation.PREVIEW_PROMPTS = 4, 2
    mapper.CALIBRATION_SHARE = 0.0  # what is calibrated follows the time that it takes
    train_clip.VOCABULARY_SAMPLE = 200
    begin: Callable[..., None] = engine.Trainer.__init__

    def save_each_step(self: engine.Trainer, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.checkpoint_seconds = 0.0

    engine.Trainer.__init__ = save_each_step


def write_material(folder: Path) -> ClipEncoder:
    """What the commands read; all but gan.safetensors, which is a checkpoint of train-gan."""
    folder.mkdir(parents=True)
    clip = make_clip(folder / "clip")
    make_bundle(folder / "model", clip)
    generator = make_generator()
    save_generator(generator, folder / "generator.safetensors")
    for name, size in (("pictures", 32), ("photos", 40)):
        (folder / name).mkdir()
        for index in range(16 if name == "pictures" else 3):
            pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((size, size)).save(folder / name / f"{index:02d}.png")
            if name == "pictures":
                (folder / name / f"{index:02d}.txt").write_text(f"picture number {index}\nthe {index}th")
    (folder / "prompts.txt").write_text("a face\na hat\na grey picture\n")
    (folder / "clip.json").write_text(json.dumps(TINY_CLIP))
    encoder = untrained_encoder(EncoderTraining(channel_base=256, channel_max=16), generator)
    save_encoder(encoder, folder / "encoder.safetensors", False)
    drawn = make_avatars.make_pictures(8, seed=5, size=16, num_captions=0, processes=1)
    make_avatars.write_zip(folder / "avatars.zip", drawn, {"domain": "avatars"})
    return clip

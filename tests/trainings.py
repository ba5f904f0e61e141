"""The four trainings on tiny models, in processes that share a batch or are killed: a script for tests.

    python tests/trainings.py TRAINING FOLDER STEP...

It leaves FOLDER/one, a run of one process; FOLDER/two, of two processes; and FOLDER/killed-STEP, a run that
was killed after its checkpoint of that step, and then went on. All processes are forks of one.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_clip, make_generator
from PIL import Image

from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import open_captioned
from clip2gan.data.pictures import open_pictures
from clip2gan.gap import Noise
from clip2gan.settings import override
from clip2gan.training import mapper, validation
from clip2gan.training.encoder import EncoderTraining, train_encoder
from clip2gan.training.gan import settings_of, train_conditional
from clip2gan.training.gan_presets import GanTraining
from clip2gan.training.mapper import train_mapper
from clip2gan.training.presets import LossWeights, MapperTraining
from clip2gan.training.start import Start
from stylegan2 import GeneratorConfig
from stylegan2.discriminator import Encoder
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder
from stylegan2.training import TrainingConfig, train

STEPS = 20
CPU = torch.device("cpu")


def open_run(out: Path, settings: Mapping[str, Any]) -> RunFolder:
    with Processes(CPU).first_before_others():
        return RunFolder.open(out, settings)


def a_clip(folder: Path) -> ClipEncoder:
    return make_clip(folder / f"clip-{os.getpid()}")


def train_a_mapper(folder: Path, out: Path, seconds: float) -> None:
    weights = dict.fromkeys(("pixel_l1", "perceptual", "cosine", "identity", "latent", "adversarial"), 1.0)
    config = MapperTraining(
        mapper_settings={"layers": 3, "width": 16},
        samples=24,
        gap="knn",
        noise=Noise("unit", 0.1),
        data=("sampled", "pictures"),
        weights=LossWeights(**weights, pixel_l2=1.0, diversity=0.1),
        warmup_steps=6,
        warmup_batch=8,
        steps=STEPS - 6,
        batch=8,
    )
    run = open_run(out, config.flat())
    pictures = [open_pictures(folder / "pictures", 32)]
    train_mapper(
        config,
        make_generator(),
        a_clip(folder),
        pictures,
        run,
        checkpoint_seconds=seconds,
    )


def train_an_encoder(folder: Path, out: Path, seconds: float) -> None:
    config = EncoderTraining(
        channel_base=256, channel_max=16, steps=STEPS, batch=8, data=("sampled", "pictures")
    )
    run = open_run(out, config.flat())
    pictures = [open_pictures(folder / "pictures", 32)]
    train_encoder(
        config,
        make_generator(),
        a_clip(folder),
        pictures,
        run,
        checkpoint_seconds=seconds,
    )


def train_a_gan(folder: Path, out: Path, seconds: float) -> None:
    shape = GeneratorConfig(
        z_dim=8, w_dim=8, img_resolution=16, channel_base=64, channel_max=8, mapping_layers=2
    )
    config = TrainingConfig(
        generator=shape,
        batch=8,
        autoencoder_images=8 * 4,
        mapping_steps=4,
        adversarial_images=8 * (STEPS - 8),
        autoencoder_weight=1.0,
        r1_interval=2,
        half=False,
    )
    run = open_run(out, {})
    train(config, open_pictures(folder / "pictures", 16), run, CPU, checkpoint_seconds=seconds)


def train_a_captioned_gan(folder: Path, out: Path, seconds: float) -> None:
    config = GanTraining(
        steps=STEPS - 6,
        mapping_steps=6,
        batch=8,
        r1_interval=2,
        augment_images=40,
        style_mixing=0.5,
        anchor=0.5,
        clip_share=0.5,
        half=False,
    )
    generator, clip = make_generator(), a_clip(folder)
    shape = override(generator.config, {"c_dim": clip.embed_dim})
    torch.manual_seed(2)
    start = Start(shape, generator, Encoder(generator.config), new_mapping=True)
    run = open_run(out, settings_of(config, shape))
    data = open_captioned([str(folder / "pictures")], 32).embed(clip, run.path / "cache")
    train_conditional(config, start, data, clip, run, checkpoint_seconds=seconds)


TRAININGS: dict[str, Callable[[Path, Path, float], None]] = {
    "mapper": train_a_mapper,
    "encoder": train_an_encoder,
    "gan": train_a_gan,
    "captioned": train_a_captioned_gan,
}


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{index}.png")
        if index < 6:
            (folder / f"{index}.txt").write_text(f"picture number {index}\nthe {index}th")


def fork(work: Callable[[], None], **environment: str) -> int:
    """A process that does the work; returns its id."""
    if process := os.fork():
        return process
    code = 1
    try:
        os.environ.update(environment)
        work()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(*processes: int) -> None:
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    if any(codes):
        sys.exit(f"ended with {codes}")


def share(training: Callable[[Path, Path, float], None], folder: Path) -> None:
    """Two processes."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = str(found.getsockname()[1])
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}

    def work() -> None:
        training(folder, folder / "two", 60)

    wait(*(fork(work, RANK=rank, LOCAL_RANK=rank, **group) for rank in ("0", "1")))


def kill(training: Callable[[Path, Path, float], None], folder: Path, step: int) -> None:
    """Kill a run when it has the checkpoint of this step, at whatever it does then, and run it again."""
    out = folder / f"killed-{step}"
    process = fork(lambda: training(folder, out, 0))  # a checkpoint at each step
    while not any(int(path.stem) >= step for path in (out / "checkpoints").glob("[0-9]*.safetensors")):
        if os.waitpid(process, os.WNOHANG)[0]:
            sys.exit("ended before it was killed")
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    wait(fork(lambda: training(folder, out, 60)))


def main(name: str, path: str, *steps: str) -> None:
    folder, training = Path(path), TRAININGS[name]
    torch.set_num_threads(1)
    mapper.PREVIEWS, validation.PREVIEW_PROMPTS = 2, 2
    write_pictures(folder / "pictures")
    wait(fork(lambda: training(folder, folder / "one", 60)))
    share(training, folder)
    for step in steps:
        kill(training, folder, int(step))


if __name__ == "__main__":
    import accelerate  # noqa: F401  once, for all processes
    import torch.utils.tensorboard

    main(*sys.argv[1:])

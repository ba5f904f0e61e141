"""Draw many samples of a generator: small pictures, and their latents.

    python -m tools.draw_samples --generator avatars --seeds 0-7999 --truncation 0.6:1.0 --out data/samples

OUT holds

    config.json                     what was drawn from, and how
    pictures/00003/00003141.jpg     the picture of seed 3141, antialiased to --size
    latents/00003072.safetensors    of seeds 3072 to 3327: "seed" [N], "w" [N, w_dim] of the pictures,
                                    "truncation" [N], and "label" [N] of a generator with classes

Sample i depends on seed i alone. Every file appears whole: after a kill the same command goes on, and other
--seeds add to what is there. Several processes can fill one folder if their ranges meet at multiples of 256.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clip2gan.generators import locate_generator
from clip2gan.sampling import LARGEST_SEED, SeedLatents, draw_picture, seed_latents, seed_random
from stylegan2 import Generator, load_generator
from stylegan2.files import atomic_path, fingerprint, load_tensors, save_tensors
from stylegan2.generator import set_precision
from stylegan2.runs import claim_folder

SHARD = 256  # seeds of a file of latents
PICTURES_PER_FOLDER = 1000
QUALITY = 95  # of the JPEGs


@dataclass(frozen=True)
class Sampler:
    """Draws the samples of `generator` into `folder`; truncation is uniform in a range, by seed."""

    generator: Generator
    folder: Path
    size: int
    truncation: tuple[float, float]

    def picture_path(self, seed: int) -> Path:
        return self.folder / "pictures" / f"{seed // PICTURES_PER_FOLDER:05d}" / f"{seed:08d}.jpg"

    def draw_shard(self, seeds: range) -> Iterator[bool]:
        """Make what is missing of these seeds of one shard; yields whether each picture was drawn now."""
        path = self.folder / "latents" / f"{seeds.start // SHARD * SHARD:08d}.safetensors"
        known = _read_seeds(path)
        if known.issuperset(seeds) and all(self.picture_path(seed).is_file() for seed in seeds):
            yield from (False for _ in seeds)
            return
        rows = []
        for seed in sorted(known.union(seeds)):
            latents, psi = self._latents(seed)
            rows.append((latents, psi))
            is_new = not self.picture_path(seed).is_file()
            if is_new:
                self._draw(latents)
            if seed in seeds:
                yield is_new
        save_tensors(path, _stack(rows), {})

    def _latents(self, seed: int) -> tuple[SeedLatents, float]:
        low, high = self.truncation
        psi = low if low == high else seed_random(seed, stream=1).uniform(low, high)
        return seed_latents(self.generator, seed, truncation=psi), psi

    def _draw(self, latents: SeedLatents) -> None:
        picture = draw_picture(self.generator, latents.ws)
        if self.size < picture.width:
            picture = picture.resize((self.size, self.size), Image.Resampling.LANCZOS)
        with atomic_path(self.picture_path(latents.seed)) as temporary:
            picture.save(temporary, format="JPEG", quality=QUALITY, subsampling=0)


def _stack(rows: list[tuple[SeedLatents, float]]) -> dict[str, Tensor]:
    tensors = {
        "seed": torch.tensor([latents.seed for latents, _ in rows]),
        "truncation": torch.tensor([psi for _, psi in rows]),
        "w": torch.cat([latents.ws[:, 0] for latents, _ in rows]),
    }
    labels = [latents.label for latents, _ in rows if latents.label is not None]
    return {**tensors, "label": torch.tensor(labels)} if labels else tensors


def _read_seeds(path: Path) -> set[int]:
    try:
        return set(load_tensors(path)[0]["seed"].tolist())
    except (FileNotFoundError, ValueError):  # not made yet, or damaged: made again
        return set()


def split_shards(seeds: range) -> Iterator[range]:
    """A range of seeds, cut at the multiples of SHARD.

    >>> list(split_shards(range(200, 600)))
    [range(200, 256), range(256, 512), range(512, 600)]
    """
    start = seeds.start
    while start < seeds.stop:
        stop = min((start // SHARD + 1) * SHARD, seeds.stop)
        yield range(start, stop)
        start = stop


class SeedRange(click.ParamType):
    """A-B, both included."""

    name = "A-B"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        first, _, last = value.partition("-")
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= LARGEST_SEED):
            self.fail(f"{value!r} is no range of seeds; give one such as 0-7999", param, ctx)
        return range(int(first), int(last) + 1)


class PsiRange(click.ParamType):
    """X, or LOW:HIGH."""

    name = "X|LOW:HIGH"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        low, colon, high = value.partition(":")
        try:
            psi = float(low), float(high if colon else low)
        except ValueError:
            psi = (1.0, 0.0)
        if not 0 <= psi[0] <= psi[1] <= 2:
            self.fail(f"{value!r} is no truncation from 0 to 2; give one such as 0.7 or 0.6:1.0", param, ctx)
        return psi


@click.command()
@click.option("--generator", "source", required=True, metavar="NAME|FILE|URL", help="What is sampled.")
@click.option("--seeds", type=SeedRange(), required=True, help="Seeds of the samples, such as 0-7999.")
@click.option("--truncation", type=PsiRange(), default="1.0", show_default=True, help="Psi, or its range.")
@click.option(
    "--size", type=click.IntRange(8), default=128, show_default=True, help="Pixels a side, at most."
)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder.")
def main(
    *,
    source: str,
    seeds: range,
    truncation: tuple[float, float],
    size: int,
    precision: str,
    device: str,
    out: Path,
) -> None:
    """Draw samples of a generator into OUT: small pictures, and their latents.

    After a kill the same command goes on; other --seeds add to what is there.
    """
    try:
        path = locate_generator(source)
        generator = load_generator(path, device)
        set_precision(generator, precision)
        settings = {
            "samples_of": fingerprint(path),
            "size": size,
            "truncation": truncation,
            "precision": precision,
            "device": torch.device(device).type,
        }
        claim_folder(out, settings, "a folder of samples")
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sampler = Sampler(generator, out, size, truncation)
    shards = (sampler.draw_shard(part) for part in split_shards(seeds))
    for count in _with_progress(shards, len(seeds)):
        click.echo(count)
    click.echo(f"{len(seeds)} samples are in {out}")


def _with_progress(shards: Iterable[Iterator[bool]], total: int) -> Iterator[str]:
    """Run the shards with a bar on a terminal; yields a line on each shard of which something was drawn."""
    start, done, drawn = time.monotonic(), 0, 0
    with tqdm(total=total, unit="sample", disable=None) as bar:
        for shard in shards:
            before = drawn
            for is_new in shard:
                done, drawn = done + 1, drawn + is_new
                bar.update()
            if drawn > before:
                seconds = (time.monotonic() - start) / drawn
                left = seconds * (total - done) / 60
                yield f"{done} of {total} samples, {seconds:.3f} s each, {left:.0f} minutes left"


if __name__ == "__main__":
    main()

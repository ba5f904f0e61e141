"""Draw many samples of a generator: small pictures, and their latents.

    python -m tools.draw_samples --generator avatars --seeds 0-7999 --truncation 0.6:1.0 --out data/samples

OUT is a folder of `clip2gan.data.drawn`, which `clip2gan train-mapper --samples-from OUT` takes. Sample i
depends on seed i alone. Every file appears whole: after a kill the same command goes on, and other --seeds
add to what is there. Several processes can fill one folder if their ranges meet at multiples of 256.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import torch
from tqdm import tqdm

from clip2gan.data.drawn import Drawer, split_shards
from clip2gan.generators import locate_generator
from clip2gan.sampling import LARGEST_SEED
from stylegan2 import load_generator
from stylegan2.atomic import sweep_folder
from stylegan2.files import fingerprint
from stylegan2.generator import set_precision
from stylegan2.locks import lock_folder
from stylegan2.runs import claim_folder


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
        click.get_current_context().with_resource(lock_folder(out))
        claim_folder(out, settings, "a folder of samples")
        sweep_folder(out, deep=True)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    drawer = Drawer(generator, out, size, truncation)
    shards = (drawer.draw_shard(part) for part in split_shards(seeds))
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

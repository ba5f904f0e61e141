"""Draw the avatars domain into a zip of PNGs with `dataset.json`: attributes, parts, captions.

    python -m tools.make_avatars --num 20000 --seed 0 --size 64 --out data/avatars.zip

Picture i and its captions depend on (seed, i) alone, and the same arguments write the same bytes.
"""

import io
import json
import multiprocessing
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from stylegan2.files import atomic_path
from tools import domain
from tools.captions import open_grammar

PICTURES_PER_FOLDER = 1000
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold; a real date would change the bytes


def picture_name(index: int) -> str:
    """The name of picture `index` in the zip, such as 00003/img00003141.png."""
    return f"{index // PICTURES_PER_FOLDER:05d}/img{index:08d}.png"


def make_record(index: int, seed: int, num_captions: int) -> dict:
    """What `dataset.json` says of picture `index`: file, attributes, parts, captions."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
    attributes = domain.sample_attributes(rng)
    parts = domain.choose_parts(attributes, rng)
    words = np.random.default_rng(np.random.SeedSequence((seed, index, 1)))
    caption = open_grammar("avatars").caption
    texts = [caption(attributes, words) for _ in range(num_captions)]
    return {
        "file": picture_name(index),
        "attributes": attributes,
        "parts": parts,
        "captions": [{"text": text.text, "claims": text.claims} for text in texts],
    }


def make_picture(index: int, seed: int, size: int, num_captions: int) -> tuple[bytes, dict]:
    """Picture `index` as PNG bytes, and its record."""
    record = make_record(index, seed, num_captions)
    buffer = io.BytesIO()
    domain.render(record["attributes"], record["parts"], size).save(buffer, "PNG")
    return buffer.getvalue(), record


def make_pictures(
    num: int, seed: int, size: int, num_captions: int, processes: int
) -> Iterator[tuple[bytes, dict]]:
    """The pictures 0 ... num-1 in order, drawn by several processes."""
    draw = partial(make_picture, seed=seed, size=size, num_captions=num_captions)
    if processes == 1:
        yield from map(draw, range(num))
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(draw, range(num), chunksize=16)


def write_zip(path: Path, pictures: Iterable[tuple[bytes, dict]], about: dict) -> None:
    """Write pictures and, at the end, `dataset.json` ({**about, "pictures": [records]}), atomically."""
    records = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for png, record in pictures:
            archive.writestr(zipfile.ZipInfo(record["file"], ZIP_DATE), png)
            records.append(record)
        info = zipfile.ZipInfo("dataset.json", ZIP_DATE)
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, json.dumps({**about, "pictures": records}, separators=(",", ":")))


@click.command(help=__doc__)
@click.option(
    "--num", type=click.IntRange(min=1), default=20000, show_default=True, help="How many pictures."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--size", type=click.IntRange(min=1), default=64, show_default=True, help="Pixels a side.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The zip to write."
)
@click.option("--captions", "num_captions", type=click.IntRange(min=0), default=4, show_default=True)
@click.option("--processes", type=click.IntRange(min=1), default=multiprocessing.cpu_count, help="All cores.")
@click.option("--force", is_flag=True, help="Overwrite --out.")
def main(
    *, num: int, seed: int, size: int, out: Path, num_captions: int, processes: int, force: bool
) -> None:
    if out.exists() and not force:
        raise click.ClickException(f"{out} exists; add --force to overwrite it")
    pictures = make_pictures(num, seed, size, num_captions, processes)
    about = {"domain": "avatars", "seed": seed, "size": size}
    # disable=None: a bar on a terminal only
    write_zip(out, tqdm(pictures, total=num, unit="picture", disable=None), about)
    click.echo(f"wrote {num} pictures to {out}")


if __name__ == "__main__":
    main()

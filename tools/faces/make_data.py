"""Put samples and what is known of them into a zip for `tools.train_clip`.

    python -m tools.faces.make_data --samples data/faces --attributes runs/spread/attributes.json \
        --seeds 0-10239 --without 1200-1399 --out data/faces.zip
    python -m tools.faces.make_data --samples data/faces --attributes runs/spread/attributes.json \
        --seeds 1200-1399 --out data/faces-test.zip

The pictures are the files of the folder; dataset.json has the attributes of each. Samples of the judge
are refused.
"""

import json
import zipfile
from pathlib import Path

import click

from clip2gan.data.drawn import picture_path
from stylegan2.files import atomic_path
from tools.draw_samples import SeedRange
from tools.faces.samples import FIRST_JUDGE_SEED
from tools.make_avatars import ZIP_DATE

EXISTING = click.Path(exists=True, path_type=Path)


@click.command(help=__doc__)
@click.option("--samples", type=EXISTING, required=True, help="Folder of draw_samples.")
@click.option("--attributes", type=EXISTING, required=True, help="attributes.json of tools.faces.spread.")
@click.option("--seeds", type=SeedRange(), required=True, help="Samples to take, such as 0-10239.")
@click.option("--without", type=SeedRange(), help="Samples to leave out, such as 1200-1399.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The zip to write."
)
def main(*, samples: Path, attributes: Path, seeds: range, without: range | None, out: Path) -> None:
    if seeds.stop > FIRST_JUDGE_SEED:
        raise click.ClickException(f"samples from seed {FIRST_JUDGE_SEED} on are the judge's alone")
    try:
        known = {
            int(seed): shown for seed, shown in json.loads(attributes.read_text(encoding="utf-8")).items()
        }
        chosen = [seed for seed in sorted(known) if seed in seeds and seed not in (without or ())]
        if not chosen:
            raise ValueError(f"{attributes} knows none of the seeds {seeds.start} to {seeds.stop - 1}")
        write_zip(out, samples, {seed: known[seed] for seed in chosen})
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {len(chosen)} pictures to {out}")


def write_zip(out: Path, samples: Path, known: dict[int, dict[str, str]]) -> None:
    """Write the pictures of these seeds and, at the end, dataset.json, atomically."""
    records = []
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for seed, attributes in known.items():
            path = picture_path(samples, seed)
            name = f"{path.parent.name}/{path.name}"
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), path.read_bytes())
            records.append({"file": name, "seed": seed, "attributes": attributes})
        info = zipfile.ZipInfo("dataset.json", ZIP_DATE)
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, json.dumps({"domain": "faces", "pictures": records}, separators=(",", ":")))


if __name__ == "__main__":
    main()

"""Put the faces model together from what the trainings left.

    python -m tools.faces.build_bundle --mapper runs/mlp/bundle --mapper runs/flow/bundle \
        --mapper runs/diffusion/bundle --measured runs/measured.json --out clip2gan/bundles/faces

takes bundles that `clip2gan train-mapper` wrote, and stores their weights in 16 bit. The first gives CLIP,
gap, the default mapper, and what calibration measured; the others, of the same generator and CLIP, add
mappers.
The generator is not stored: config.json names the package that carries it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clip2gan.bundle import BUNDLED, BundleInfo, write_bundle
from clip2gan.domain import Domain
from clip2gan.editing.contrast import measure_least_contrast
from clip2gan.settings import from_plain
from tools.bundles import join_bundles, tell_size

DOMAIN = Path(__file__).with_name("domain.json")
LICENSE_TEXT = Path(__file__).with_name("bundle_license.txt")
PROMPTS = Path(__file__).with_name("prompts.txt")
CALIBRATED = ("inversion", "tuning", "editing", "gap", "references", "measured")
MOST_BYTES = 45_000_000
DESCRIPTION = (
    "Portraits of people at 1024x1024 from words. The generator is MobileStyleGAN of FFHQ, which the package "
    "random-face carries; CLIP and mappers were trained by clip2gan's own commands on its samples, of which "
    "some thousands were labelled by eye. Its CLIP knows portraits only. docs/faces.md tells how it was made."
)
TRAINED = (
    "trained on outputs of a generator distilled from NVIDIA's FFHQ weights (NVIDIA Source Code License, "
    "non-commercial; FFHQ is CC BY-NC-SA 4.0): for non-commercial research use; we claim no more"
)
ROWS = {
    "texts": "text to picture: named attributes present (100 prompts, 4 pictures each)",
    "variety": "variety of what a text does not name, beside the generator's",
    "kept": "sample -> CLIP -> mapper -> picture: attributes kept",
    "edits reached": "edit: the named attribute appears",
    "edits, others kept": "edit: the others stay",
}


def read_figures(path: Path) -> tuple[dict[str, str], ...]:
    """The rows of a file of `tools.faces.measure_model`, for the model card."""
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        {"what": what, "value": as_text(measured[name]), "command": measured["command"]}
        for name, what in ROWS.items()
        if name in measured
    )


def as_text(row: Mapping[str, Any]) -> str:
    if "raw" not in row:
        return f"{row['value']:.2f}"
    return f"{row['raw']:.1%}; divided by the judge's hit rate {row['divided']:.1%}"


@click.command(help=__doc__)
@click.option("--mapper", "sources", multiple=True, required=True, help="A bundle to take (repeatable).")
@click.option(
    "--measured",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Figures for the model card.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=BUNDLED / "faces",
    help="Where to write.  [default: in place]",
)
def main(*, sources: tuple[str, ...], measured: Path | None, out: Path) -> None:
    try:
        bundle, mappers = join_bundles(sources)
        facts = json.loads(DOMAIN.read_text(encoding="utf-8"))
        own = from_plain(Domain, facts)
        prompts = tuple(PROMPTS.read_text(encoding="utf-8").splitlines())
        calibrated = bundle.config.domain
        memory = getattr(bundle.gap, "memory", None)
        info = BundleInfo(
            name="faces",
            description=DESCRIPTION,
            domain=replace(
                own,
                prompts=prompts,
                least_contrast=measure_least_contrast(bundle.clip, memory, own),
                **{name: getattr(calibrated, name) for name in CALIBRATED},
            ),
            licences={
                "generator": bundle.generator.licence or "",
                **{part: TRAINED for part in ("clip", "mapper")},
            },
            figures=read_figures(measured) if measured else (),
            license_text=LICENSE_TEXT.read_text(encoding="utf-8"),
        )
        write_bundle(
            out,
            bundle.generator,
            bundle.clip,
            mappers,
            bundle.gap,
            info=info,
            half=True,
            encoder=bundle.encoder,
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    tell_size(out, MOST_BYTES)


if __name__ == "__main__":
    main()

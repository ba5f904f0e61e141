"""Build the embedded avatars model from what the trainings left.

    python -m tools.build_avatars --mapper runs/mapper/bundle --mapper runs/flow/bundle --measured FILE

takes the bundles that `clip2gan train-mapper` wrote, stores the weights in 16 bit, and writes the model card
with the licences and, where given, the figures of `tools.measure_avatars`. The first bundle gives generator,
CLIP, gap and the default mapper; the others, of the same generator and CLIP, add their mappers.
With --encoder it adds one of `clip2gan train-encoder`; otherwise that of the first bundle, if any, is kept.
With --gan it also keeps that run's generator and encoder in tools/avatars_gan.safetensors, from which
`clip2gan train-gan --init` goes on.
"""

import json
from pathlib import Path
from typing import Any

import click

from clip2gan.bundle import (
    BUNDLED,
    BundleInfo,
    read_config,
    write_bundle,
)
from clip2gan.editing.encoder import load_encoder
from stylegan2.files import save_tensors
from stylegan2.runs import RunFolder
from stylegan2.training import averaged_networks
from tools.bundles import join_bundles, tell_size
from tools.measure_avatars import ROWS, as_text

GAN_STATE = Path(__file__).with_name("avatars_gan.safetensors")
MOST_BYTES = 40_000_000
DRAWINGS = "Avataaars by Pablo Stanley, free for personal and commercial use; drawn with python-avatars (MIT)"
DESCRIPTION = (
    "A small model of cartoon faces at 64x64, trained by clip2gan's own commands on drawings whose "
    "attributes are known exactly. Its CLIP knows this domain only. docs/avatars.md tells how it was made."
)
LICENCES = {
    part: f"MIT, trained on drawings: {DRAWINGS}" for part in ("generator", "clip", "mapper", "encoder")
}


def read_figures(path: Path) -> tuple[dict[str, str], ...]:
    """The rows of a file of `tools.measure_avatars`, for the model card."""
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    command = "python -m tools.measure_avatars --model avatars" + (" --quick" if measured["quick"] else "")
    figures = measured["figures"]
    return tuple(
        {"what": row.what, "value": as_text(row.figure, figures[row.figure]), "command": command}
        for row in ROWS
        if row.figure in figures
    )


@click.command(help=__doc__)
@click.option(
    "--mapper",
    "sources",
    multiple=True,
    default=["runs/mapper/bundle"],
    show_default=True,
    help="A bundle to take (repeatable).",
)
@click.option(
    "--measured",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Figures for the model card.",
)
@click.option(
    "--encoder",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An encoder.safetensors to take.",
)
@click.option(
    "--gan",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The generator's run, to keep its state.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=BUNDLED / "avatars",
    help="Where to write.  [default: in place]",
)
def main(
    *, sources: tuple[str, ...], measured: Path | None, encoder: Path | None, gan: Path | None, out: Path
) -> None:
    try:
        bundle, mappers = join_bundles(sources)
        info = BundleInfo(
            name="avatars",
            description=DESCRIPTION,
            domain=read_config(BUNDLED / "avatars").domain,
            licences=LICENCES,
            figures=read_figures(measured) if measured else (),
        )
        taken = bundle.encoder if encoder is None else load_encoder(encoder)
        write_bundle(
            out, bundle.generator, bundle.clip, mappers, bundle.gap, info=info, half=True, encoder=taken
        )
        if gan is not None:
            config = json.loads((gan / "config.json").read_text(encoding="utf-8"))
            checkpoint = RunFolder.open(gan, config).latest()
            if checkpoint is None:
                raise ValueError(f"{gan} has no checkpoint")
            save_tensors(GAN_STATE, averaged_networks(checkpoint[1]), config)
            click.echo(f"wrote {GAN_STATE}")
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    tell_size(out, MOST_BYTES)


if __name__ == "__main__":
    main()

"""`clip2gan prepare`: pictures with captions, as people have them, into the training format."""

from pathlib import Path

import click

from clip2gan.cli._common import (
    allow_missing_option,
    claim_outputs,
    device_option,
    force_option,
    progress,
    resolve_device,
)

EXAMPLE = """
Examples:

    clip2gan prepare Flickr8k/ flickr.zip --resolution 128 --clip ViT-B-32:laion2b_s34b_b79k

    clip2gan prepare "shards/pics-{0000..0009}.tar" pics.zip

SRC is a folder, a zip, a tar or webdataset's shards. Captions are looked for in captions.txt or a CSV as
Flickr8k and Flickr30k ship them, in a .txt or .json beside each picture or in another folder
(MM-CelebA-HQ), in .jsonl, and in dataset.json. A stopped preparation goes on where it was.
"""


@click.command(epilog=EXAMPLE)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST.zip", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--resolution", type=click.IntRange(8, 4096), default=64, show_default=True, help="Pixels a side."
)
@click.option(
    "--resize",
    type=click.Choice(["crop", "pad", "squash"]),
    default="crop",
    show_default=True,
    help="How a picture becomes a square: its middle, all of it on white, or all of it stretched.",
)
@click.option(
    "--clip",
    "clip_spec",
    default="none",
    show_default=True,
    metavar="ARCH[:PRETRAINED|:FILE]|hf-hub:ID|local-dir:DIR|MODEL|none",
    help="Store this CLIP's embeddings of pictures and captions too; a training with it starts faster.",
)
@click.option("--only-captioned", is_flag=True, help="Leave out pictures without a caption.")
@click.option("--any-script", is_flag=True, help="Keep captions in other scripts than Latin.")
@allow_missing_option
@click.option(
    "--processes", type=click.IntRange(1), help="Processes that convert pictures.  [default: all cores]"
)
@device_option
@force_option
def command(
    *,
    source: str,
    target: Path,
    resolution: int,
    resize: str,
    clip_spec: str,
    only_captioned: bool,
    any_script: bool,
    allow_missing: bool,
    processes: int | None,
    device: str,
    force: bool,
) -> None:
    """Turn pictures, with captions if there are any, into one zip to train on."""
    import os

    if target.suffix.lower() != ".zip":
        raise click.BadParameter(
            f"{target}: name it {target.with_suffix('.zip').name}", param_hint="'DST.zip'"
        )
    if target.is_file() and not force:
        raise click.ClickException(f"{target} exists already; give --force to overwrite, or another DST.zip")
    claim_outputs([target], force)

    from clip2gan.clip import ClipEncoder
    from clip2gan.data.prepare import Preparation, prepare

    where = resolve_device(device)
    clip = None if clip_spec == "none" else ClipEncoder.load(clip_spec, where)
    settings = Preparation(
        resolution=resolution,
        resize=resize,  # type: ignore[arg-type]  # click has checked it
        any_script=any_script,
        allow_missing=allow_missing,
        only_captioned=only_captioned,
    )
    done = prepare(
        source,
        target,
        settings,
        clip,
        processes or os.cpu_count() or 1,
        lambda chunks, total: progress(chunks, "pictures [x256]", total),
    )
    for line in [*done.skipped.how_matched(), *done.skipped.notes]:
        click.echo(line, err=True)
    for line in done.skipped.summary():
        click.echo(f"skipped {line}", err=True)
    without = f", {done.uncaptioned} pictures without" if done.uncaptioned else ""
    click.echo(f"wrote {target}: {done.pictures} pictures, {done.captions} captions{without}")

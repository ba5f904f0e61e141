"""`clip2gan convert`: any StyleGAN2 checkpoint into a file of another form, or just what it holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    blame,
    claim_outputs,
    fetch_progress,
    force_option,
    json_option,
    sha256_option,
)

if TYPE_CHECKING:
    from stylegan2 import Generator

EPILOG = """
Examples:

    clip2gan convert ffhq.pkl ffhq.safetensors

    clip2gan convert ffhq.pkl ffhq.pt

    clip2gan convert ffhq.pkl ffhq.onnx

    clip2gan convert --inspect stylegan2-church.pt

Reads NVIDIA's .pkl (PyTorch and TensorFlow), rosinality's .pt with e4e's and pSp's, and safetensors of ours.
A .pt is written in rosinality's layout, for tools that read nothing else; it is a pickle that holds only
tensors. An .onnx takes latents "ws" [N, num_ws, w_dim] and gives "pictures" [N, 3, R, R]; writing it needs
pip install 'clip2gan[onnx]'. Nothing in a file is run. docs/checkpoints.md tells what is read and written,
and what is refused and why.
"""
SUFFIXES = (".safetensors", ".pt", ".onnx")


@click.command("convert", epilog=EPILOG)
@click.argument("source", metavar="SRC")
@click.argument(
    "target",
    metavar="[DST.safetensors|.pt|.onnx]",
    required=False,
    type=click.Path(path_type=Path),
)
@click.option("--inspect", "only_inspect", is_flag=True, help="Tell what SRC holds and write nothing.")
@click.option(
    "--network",
    type=click.Choice(["G_ema", "G"]),
    default="G_ema",
    show_default=True,
    help="The averaged weights, or those that were trained last.",
)
@sha256_option
@force_option
@json_option
def command(
    *,
    source: str,
    target: Path | None,
    only_inspect: bool,
    network: Any,
    sha256: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Read the generator of a StyleGAN2 checkpoint (a file or an https address); write it in another form."""
    if only_inspect == (target is not None):
        raise click.UsageError("give SRC and DST.safetensors, or --inspect SRC", click.get_current_context())
    if target is not None:
        _check_target(target, force)
    from stylegan2.checkpoints import inspect, local_file, read_generator

    path = local_file(source, sha256, progress=fetch_progress)
    facts = {"source": source, **inspect(path, network=network)}
    if target is not None:
        generator, _ = read_generator(path, network)  # `facts` have its licence and notes
        with blame("SRC"):
            facts["notes"] += _write(generator, target)
        facts["written"] = str(target)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _print(facts)


def _check_target(target: Path, force: bool) -> None:
    """Refuse, before anything is read or fetched, a file that could not be written."""
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        message = f"{target}: the name must end in .safetensors, .pt or .onnx"
        raise click.BadParameter(message, param_hint="'DST'")
    if suffix == ".onnx":
        from stylegan2.checkpoints.export import check_onnx

        check_onnx()
    claim_outputs([target], force)


def _write(generator: "Generator", target: Path) -> list[str]:
    """Write the form that the suffix names; returns notes on it."""
    from stylegan2 import save_generator
    from stylegan2.checkpoints.export import save_onnx, save_rosinality

    suffix = target.suffix.lower()
    if suffix == ".pt":
        notes = save_rosinality(generator, target)
        return [*notes, "a .pt is a pickle; prefer .safetensors wherever it can be read"]
    if suffix == ".onnx":
        save_onnx(generator, target)
    else:
        save_generator(generator, target)
    return []


def _print(facts: dict[str, Any]) -> None:
    half = facts["num_fp16_res"]
    rows = {
        "format": facts["format"],
        "resolution": f"{facts['img_resolution']} px, {facts['img_channels']} channels",
        "architecture": f"{facts['architecture']}, mapping of {facts['mapping_layers']} layers",
        "latents": f"z {facts['z_dim']}, w {facts['w_dim']}, num_ws {facts['num_ws']}",
        "labels": facts["c_dim"] or "none",
        "widths": ", ".join(f"{resolution}: {width}" for resolution, width in facts["widths"].items()),
        "parameters": f"{facts['parameters']:,}",
        "16 bit": f"the {half} highest resolutions, on CUDA" if half else "no",
        "clamp": facts["conv_clamp"] or "none",
        "code inside": "yes; it was not run" if facts["code_inside"] else "no",
        "licence": facts["licence"] or "not stated in the file",
    }
    click.echo(facts["source"])
    for label, value in rows.items():
        click.echo(f"  {label:12}  {value}")
    for note in facts["notes"]:
        click.echo(f"  note: {note}")
    if "written" in facts:
        click.echo(f"wrote {facts['written']}")

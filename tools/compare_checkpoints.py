"""The same weights through the original code and ours: the table in docs/checkpoints.md.

python -m tools.compare_checkpoints --stylegan3 DIR --stylegan2-ada DIR --rosinality DIR --docs FILE.md

The folders are copies of the original repositories, outside of this one; none of their code is in it. Their
own code draws random weights, writes the checkpoint and makes the pictures (`tools.original_pictures`); ours
reads the checkpoint and makes the same pictures. TensorFlow's files are laid out by `tools.checkpoint_files`,
and what they are compared with is the stylegan3 repository's converter.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from safetensors.torch import load_file

from stylegan2 import GeneratorConfig, load_generator
from stylegan2.files import atomic_path
from tools import checkpoint_files

START, END = "<!-- python -m tools.compare_checkpoints -->\n", "<!-- end -->"
CHECKED = {
    "ws": "w, truncation 0.7 in 4 layers",
    "image const": "pictures, noise const",
    "image none": "noise none",
    "image mixed": "style mixing",
}
SMALL = GeneratorConfig(z_dim=32, w_dim=32, img_resolution=64, channel_base=1024, channel_max=32)
TENSORFLOW = {
    "skip, 64 px": SMALL,
    "skip, 128 px, labels, clamp 256": GeneratorConfig(
        **{**vars(SMALL), "img_resolution": 128, "c_dim": 5, "mapping_layers": 2, "conv_clamp": 256}
    ),
    "orig, 32 px": GeneratorConfig(**{**vars(SMALL), "img_resolution": 32, "architecture": "orig"}),
    "resnet, 32 px": GeneratorConfig(**{**vars(SMALL), "img_resolution": 32, "architecture": "resnet"}),
}


@dataclass(frozen=True)
class Row:
    """differences: what was checked -> max abs difference over the standard deviation of the original's."""

    format: str
    variant: str
    differences: dict[str, float]


def compare(kind: str, source: Path, label: str) -> list[Row]:
    """All variants of one original."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if kind == "tensorflow":
            for name, config in TENSORFLOW.items():
                content = checkpoint_files.tensorflow(
                    checkpoint_files.make(config), conv_clamp=config.conv_clamp
                )
                (out / f"{name}.pkl").write_bytes(content)
        command = [sys.executable, "-m", "tools.original_pictures", kind, str(source), str(out)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        for path in sorted(out.glob("*.expected.safetensors")):
            variant = path.name.removesuffix(".expected.safetensors")
            checkpoint = next(
                out / f"{variant}{end}" for end in (".pkl", ".pt") if (out / f"{variant}{end}").exists()
            )
            rows.append(Row(label, variant, differences(checkpoint, load_file(path))))
    return rows


@torch.no_grad()
def differences(checkpoint: Path, expected: dict[str, torch.Tensor]) -> dict[str, float]:
    generator = load_generator(checkpoint)
    ws = expected["ws"]
    actual = {
        "ws": generator.mapping(expected["z"], expected.get("c"), truncation_psi=0.7, truncation_cutoff=4),
        "image const": generator.synthesis(ws, noise_mode="const"),
        "image none": generator.synthesis(ws, noise_mode="none"),
        "image mixed": generator.synthesis(expected["mixed"], noise_mode="const"),
    }
    return {
        label: float((actual[name] - expected[name]).abs().max() / expected[name].std())
        for name, label in CHECKED.items()
    }


def table(rows: list[Row]) -> str:
    lines = ["| format | variant | " + " | ".join(CHECKED.values()) + " |", "|---" * (2 + len(CHECKED)) + "|"]
    for row in rows:
        figures = " | ".join(f"{row.differences[label]:.0e}" for label in CHECKED.values())
        lines.append(f"| {row.format} | {row.variant} | {figures} |")
    return "\n".join(lines) + "\n"


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--stylegan3", type=FOLDER, help="A copy of NVlabs/stylegan3.")
@click.option("--stylegan2-ada", "ada", type=FOLDER, help="A copy of NVlabs/stylegan2-ada-pytorch.")
@click.option("--rosinality", type=FOLDER, help="A copy of rosinality/stylegan2-pytorch.")
@click.option("--docs", type=click.Path(exists=True, path_type=Path), help="Put the table into this file.")
@click.option("--limit", default=1e-4, show_default=True, help="Fail when a difference is larger.")
def main(
    stylegan3: Path | None, ada: Path | None, rosinality: Path | None, docs: Path | None, limit: float
) -> None:
    """Compare our pictures with those of the originals, for the same checkpoints."""
    jobs = [
        ("stylegan2-ada", ada, "NVIDIA .pkl, stylegan2-ada-pytorch"),
        ("stylegan3", stylegan3, "NVIDIA .pkl, stylegan3"),
        ("tensorflow", stylegan3, "TensorFlow .pkl"),
        ("rosinality", rosinality, "rosinality .pt"),
    ]
    rows = [row for kind, source, label in jobs if source for row in compare(kind, source.resolve(), label)]
    text = table(rows)
    click.echo(text, nl=False)
    if docs is not None:
        before, _, rest = docs.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        with atomic_path(docs) as temporary:
            temporary.write_text(f"{before}{START}{text}{END}{after}", encoding="utf-8")
    worst = max(value for row in rows for value in row.differences.values())
    if worst > limit:
        raise click.ClickException(f"the largest difference is {worst:.1e}, more than {limit:.0e}")


if __name__ == "__main__":
    main()

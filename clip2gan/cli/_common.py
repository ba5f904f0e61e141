"""What the commands share: options, checks before anything is computed, progress, reports."""

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clip2gan.cli._errors import describe
from clip2gan.defaults import MODEL, TRUNCATION
from stylegan2.faults import explain
from stylegan2.settings import LARGEST_SEED, check_seed

if TYPE_CHECKING:
    import torch


T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Finite(click.FloatRange):
    """A number in a range; NaN, which compares with nothing, is refused too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)


def _set_ops(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["STYLEGAN2_OPS"] = value  # see stylegan2.ops


_where_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Device to compute on; auto takes the fastest available.",
)
_ops_option = click.option(
    "--ops",
    type=click.Choice(["auto", "cuda", "torch"]),
    expose_value=False,
    callback=_set_ops,
    help="Custom CUDA operations: auto uses them if they compile, cuda requires them, torch does without."
    "  [default: auto]",
)


def device_option(function: F) -> F:
    """`--device`, and what goes with it: `--ops`."""
    return _where_option(_ops_option(function))


truncation_option = click.option(
    "--truncation",
    type=Finite(0, 2),
    default=TRUNCATION,
    show_default=True,
    help="Below 1, images are more typical and vary less; at 0 all are the average.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=0,
    show_default=True,
    help="Random seed.",
)
allow_missing_option = click.option(
    "--allow-missing",
    is_flag=True,
    help="Continue when most of the pictures that a caption table names are missing.",
)
force_option = click.option("--force", is_flag=True, help="Overwrite existing files.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def report_options(function: F) -> F:
    """`--force` and `--json`, of the commands that report what they write."""
    return force_option(json_option(function))


sha256_option = click.option(
    "--sha256", metavar="HEX", help="Expected sha256 of the checkpoint; any other file is refused."
)
model_option = click.option(
    "--model",
    default=MODEL,
    show_default=True,
    metavar="NAME|FOLDER|hf-hub:ORG/NAME",
    help="Model to use; `clip2gan models` lists the installed ones.",
)


@contextlib.contextmanager
def blame(option: str) -> Iterator[None]:
    """Turn what the library says of a wrong value, or of no file, into a bad argument of this option."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        told = describe(error) if isinstance(error, OSError) else str(error)
        raise click.BadParameter(told, param_hint=f"'{option}'") from error


def resolve_device(name: str) -> "torch.device":
    """The device of `--device`; a bad argument when this machine does not have it."""
    from clip2gan import devices

    with blame("--device"):
        return devices.resolve_device(name)


def check_seeds(seed: int, num: int = 1, option: str = "--seed") -> None:
    """A bad argument for a seed which, or the last of `num` from which on, is out of range."""
    with blame(option):
        check_seed(seed, num)


def require_clip(spec: str | None) -> str:
    """The spec of `--clip`; a usage error that names good choices where none was given."""
    if spec in (None, "none"):
        raise click.UsageError(
            "a CLIP is needed; give --clip ViT-B-32:laion2b_s34b_b79k (fast) or "
            "--clip ViT-B-16:laion2b_s34b_b88k (better)"
        )
    return spec  # type: ignore[return-value]  # not None


def is_file_name(out: Path, suffix: str = ".png") -> bool:
    """Whether `--out` names a file with this suffix, rather than a folder.

    Raises click.BadParameter for the suffix of a kind of picture that is not written.
    """
    if out.is_dir():
        return False
    if out.suffix.lower() != suffix == ".png" and _names_picture(out):
        message = f"{out}: pictures are written as PNG; name it {out.with_suffix('.png').name}"
        raise click.BadParameter(message, param_hint="'--out'")
    return out.suffix.lower() == suffix


def _names_picture(out: Path) -> bool:
    from clip2gan.images.formats import HEIC_SUFFIXES, picture_suffixes

    return out.suffix.lower() in picture_suffixes() | HEIC_SUFFIXES


def claim_outputs(paths: Sequence[Path], force: bool, folder: Path | None = None) -> None:
    """Let no other process write these files until this command ends, and check them (`check_outputs`).

    Args:
        paths: the files.
        force: whether they may be there already.
        folder: where files belong together: one that is claimed as a whole, instead of each file in it.

    Raises BusyError where another process works there. What a kill left of writing these is removed.
    """
    from stylegan2.atomic import sweep_file, sweep_folder
    from stylegan2.locks import lock_file, lock_folder

    claim = click.get_current_context().with_resource
    if folder is not None:
        claim(lock_folder(folder))
        sweep_folder(folder)
    for path in paths:
        if path.parent != folder:
            claim(lock_file(path))
            sweep_file(path)
    check_outputs(paths, force)


def check_outputs(paths: Sequence[Path], force: bool) -> None:
    """Refuse, before anything is computed, what could not be written in the end; nothing is left behind."""
    from stylegan2.names import check_utf8_path

    for path in paths:
        if path.is_dir():
            raise click.ClickException(f"{path} is a folder; choose another place")
        if path.suffix.lower() == ".safetensors":
            with blame("--out"):
                check_utf8_path(path)
    taken = [path for path in paths if path.exists()]
    if taken and not force:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise click.ClickException(
            f"{taken[0]} exists already{more}; give --force to overwrite, or choose another place"
        )
    for folder in {path.parent for path in paths}:
        _check_writable(folder)


def _check_writable(folder: Path) -> None:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        told = f"{existing} is a file, so {folder} cannot be a folder"
        if existing == folder:
            told = f"{folder} is a file, not a folder"
        raise click.ClickException(f"{told}; choose another place")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise click.ClickException(
            f"cannot write to {existing}: {explain(error)}, or choose another place"
        ) from error


def input_pictures(image: Path) -> list[Path]:
    """The pictures of an `--image FILE|FOLDER`. A single file is read here already, to fail early."""
    from clip2gan.images import picture_files, read_picture

    if not image.is_dir():
        read_picture(image)
        return [image]
    with blame("--image"):
        return picture_files(image)


def name_left_out(folder: Path, paths: Sequence[Path]) -> None:
    """Name the files of a folder that are no pictures."""
    from clip2gan.images.formats import HEIC_REMEDY, HEIC_SUFFIXES, suffix_of

    others = sorted(
        path.name
        for path in folder.iterdir()
        if not path.is_dir() and path not in paths and not path.name.startswith(".")
    )
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        heic = any(suffix_of(name) in HEIC_SUFFIXES for name in others)
        remedy = f" (.heic: {HEIC_REMEDY})" if heic else ""
        warn(f"left out what is no picture: {', '.join(others[:5])}{more}{remedy}")


def readable(paths: Sequence[Path], report: "Report", read: Callable[[Path], T]) -> Iterator[tuple[Path, T]]:
    """Read pictures one by one; of several, those that cannot be read are left out and reported."""
    for path in paths:
        try:
            picture = read(path)
        except (ValueError, OSError) as error:
            if len(paths) == 1:
                raise
            report.skipped(path, str(error))
        else:
            yield path, picture


def progress(iterable: Iterable[T], desc: str, total: int | None = None) -> Iterable[T]:
    """A progress bar on stderr, on a terminal only, for what takes more than two seconds."""
    if not sys.stderr.isatty():
        return iterable
    from tqdm import tqdm

    return tqdm(iterable, desc=desc, total=total, delay=2, leave=False)


def fetch_progress(chunks: Iterable[bytes], total: int | None) -> Iterable[bytes]:
    """A progress bar for a checkpoint's download, in the chunks (MiB) it arrives in."""
    return progress(chunks, "fetching [MiB]", total)


def warn(message: str) -> None:
    """One line on stderr; the command goes on."""
    click.echo(f"Warning: {' '.join(message.split())}", err=True)


class Report:
    """Tells what was decided and what was written: lines for a reader, or one JSON object at the end."""

    def __init__(self, command: str, settings: Mapping[str, Any], as_json: bool):
        self.result: dict[str, Any] = {"command": command, **settings, "files": [], "skipped": []}
        self._as_json = as_json
        if not as_json:
            shown = {name: value for name, value in settings.items() if value is not None}
            shown.pop("versions", None)
            shown["fingerprint"] = shown["fingerprint"][:12]
            click.echo(", ".join(f"{name} {value}" for name, value in shown.items()))

    def wrote(self, path: Path, **facts: Any) -> None:
        """Tell of a file that is whole now."""
        self.result["files"].append({"path": str(path), **facts})
        if not self._as_json:
            click.echo(f"wrote {path}")

    def tell(self, lines: Iterable[str]) -> None:
        """Print lines for a reader, indented."""
        if not self._as_json:
            for line in lines:
                click.echo(f"  {line}")

    def skipped(self, path: Path, reason: str) -> None:
        """Tell of an input that could not be used."""
        self.result["skipped"].append({"path": str(path), "reason": reason})
        warn(f"skipped {reason}")

    def close(self) -> None:
        """Print the JSON, if that is what is wanted. Raises click.ClickException if anything was skipped."""
        if self._as_json:
            click.echo(json.dumps(self.result, indent=2))
        if self.result["skipped"]:
            raise click.ClickException(
                f"{len(self.result['skipped'])} pictures were skipped; the rest is done"
            )

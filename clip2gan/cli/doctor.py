"""`clip2gan doctor`: what this machine can do."""

import json
import os
import platform
import shutil
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import json_option
from clip2gan.messages import one_line

# distribution -> the module that must import
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip_torch": "open_clip",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "pillow": "PIL",
    "numpy": "numpy",
}


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """Check what this machine supports: devices, custom ops, compilers, weights, and clip2gan itself."""
    facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    facts["packages"], problems = _packages()
    if "torch" not in problems:
        facts["devices"] = _devices()
        facts["custom ops"] = _custom_ops()
    facts["compilers"] = _compilers()
    facts["weights"], model_problems = _weights()
    problems |= model_problems
    best = next((name for name in ("cuda", "mps", "cpu") if facts.get("devices", {}).get(name)), None)
    facts["ready"] = not problems
    facts["verdict"] = (
        f"ready: generate and edit run on {best}"
        if not problems
        else "not ready: " + "; ".join(f"{name}: {reason}" for name, reason in problems.items())
    )
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _print(facts)
    if problems:
        ctx.exit(1)


def _packages() -> tuple[dict[str, str], dict[str, str]]:
    """(distribution -> version, distribution -> why it cannot be used)."""
    from clip2gan import __version__

    versions, problems = {"clip2gan": __version__}, {}
    for name, module in REQUIRED.items():
        try:
            versions[name] = version(name)
            import_module(module)
        except PackageNotFoundError:
            problems[name] = f"not installed; pip install {name}"
        except Exception as error:  # a broken installation can raise anything
            problems[name] = f"does not import ({one_line(error)}); install it again"
    return versions, problems


def _devices() -> dict[str, str | None]:
    """Device -> what it is, or None where there is none."""
    import torch

    cuda = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        cuda = f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GB"
    return {
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "cuda": cuda,
        "mps": "Apple GPU" if torch.backends.mps.is_available() else None,
    }


def _custom_ops() -> dict[str, str]:
    """What there is of the custom CUDA operations, without which all works as well."""
    from stylegan2.ops import build, setting

    try:
        return {"setting": setting(), **build.status()}
    except ValueError as error:
        return {"setting": str(error), **build.status()}


def _compilers() -> dict[str, str | None]:
    """What could compile; nothing of it is needed."""
    return {
        "c++": next(filter(None, map(shutil.which, ("c++", "g++", "clang++", "cl"))), None),
        "nvcc": shutil.which("nvcc"),
        "ninja": shutil.which("ninja"),
    }


def _weights() -> tuple[dict[str, str], dict[str, str]]:
    """(where weights are -> how much there is, model -> what is wrong with it)."""
    from clip2gan.bundle import bundled_models, check_files, read_config
    from clip2gan.packaged import find_problem, packaged_generators

    found, problems = {}, {}
    for name, path in bundled_models().items():
        try:
            check_files(path, read_config(path).files)
        except (ValueError, OSError) as error:
            problems[name] = str(error)
        else:
            found[name] = f"{path}, whole"
    for name, source in packaged_generators().items():
        found[f"generator {name}"] = find_problem(source) or (
            f"{source.package} {source.version}, installed; {source.licence}"
        )
    if not bundled_models():
        problems["model"] = "none comes with this installation; give --model a folder or hf-hub:ORG/NAME"
    cache = Path(
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    )
    repositories = sorted(path.name for path in cache.expanduser().glob("models--*"))
    names = [name.removeprefix("models--").replace("--", "/") for name in repositories]
    found["Hugging Face cache"] = ", ".join(names) or "empty"
    return found, problems


def _print(facts: dict[str, Any]) -> None:
    click.echo(f"Python {facts['python']} on {facts['system']}")
    for title in ("packages", "devices", "custom ops", "compilers", "weights"):
        click.echo(f"{title}:")
        rows = facts.get(title, {})
        width = max(map(len, rows), default=0)
        for label, value in rows.items():
            click.echo(f"  {label:{width}}  {value or 'none'}")
    click.echo(facts["verdict"])

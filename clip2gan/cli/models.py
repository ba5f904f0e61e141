"""`clip2gan models`: what is at hand, with licences."""

import json
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import json_option


@click.command("models")
@json_option
def command(*, as_json: bool) -> None:
    """List the models that come with the package: their parts, licences and measured figures."""
    from clip2gan.bundle import bundled_models

    models = [_facts(name, path) for name, path in bundled_models().items()]
    if as_json:
        click.echo(json.dumps(models, indent=2))
        return
    if not models:
        click.echo("No model comes with this installation; give --model a folder or hf-hub:ORG/NAME.")
    for facts in models:
        click.echo(f"{facts['name']}: {facts['description']}")
        rows = {
            "folder": facts["path"],
            "size": f"{facts['megabytes']} MB",
            "fingerprint": facts["fingerprint"],
            "mappers": ", ".join(facts["mappers"]),
            "CLIP": facts["clip"],
            "alignment": facts["alignment"],
            **{f"licence of {part}": text for part, text in facts["licences"].items()},
            **{row["what"]: row["value"] for row in facts["figures"]},
        }
        width = max(map(len, rows))
        for label, value in rows.items():
            click.echo(f"  {label:{width}}  {value}")


def _facts(name: str, path: Path) -> dict[str, Any]:
    from clip2gan.bundle import read_config

    config = read_config(path)
    size = sum((path / file).stat().st_size for file in config.files if (path / file).is_file())
    return {
        "name": name,
        "description": config.description,
        "path": str(path),
        "megabytes": round(size / 1e6, 1),
        "fingerprint": config.fingerprint(),
        "mappers": list(config.mappers),
        "clip": "its own" if config.clip == "clip" else config.clip,
        "alignment": config.domain.alignment,
        "licences": dict(config.licences),
        "figures": list(config.figures),
    }

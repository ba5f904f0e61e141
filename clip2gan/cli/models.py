"""`clip2gan models`: what is at hand, with licences."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import json_option

if TYPE_CHECKING:
    from clip2gan.bundle import PackagedGenerator


@click.command("models")
@json_option
def command(*, as_json: bool) -> None:
    """List what is at hand, with licences: models, and generators that other packages carry."""
    from clip2gan.bundle import bundled_models
    from clip2gan.packaged import packaged_generators

    models = [_facts(name, path) for name, path in bundled_models().items()]
    carried = [_package_facts(name, source) for name, source in packaged_generators().items()]
    if as_json:
        click.echo(json.dumps([*models, *carried], indent=2))
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
            **({} if facts["terms"] is None else {"terms": facts["terms"]}),
            **{f"licence of {part}": text for part, text in facts["licences"].items()},
            **{row["what"]: row["value"] for row in facts["figures"]},
        }
        _print_rows(rows)
    for facts in carried:
        click.echo(f"{facts['name']}: a generator by itself, for --generator")
        _print_rows({label: facts[label] for label in ("package", "state", "licence")})


def _print_rows(rows: dict[str, Any]) -> None:
    width = max(map(len, rows))
    for label, value in rows.items():
        click.echo(f"  {label:{width}}  {value}")


def _facts(name: str, path: Path) -> dict[str, Any]:
    from clip2gan.bundle import read_config
    from clip2gan.bundle.store import terms_of

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
        "terms": terms_of(path, config),
        "licences": dict(config.licences),
        "figures": list(config.figures),
    }


def _package_facts(name: str, source: "PackagedGenerator") -> dict[str, Any]:
    from clip2gan.packaged import find_problem

    return {
        "name": name,
        "package": f"{source.package} {source.version}",
        "state": find_problem(source) or "installed",
        "licence": source.licence,
    }

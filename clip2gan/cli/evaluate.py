"""`clip2gan evaluate`: models measured by the same prompts and pictures, side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    EXISTING_FILE,
    blame,
    check_seeds,
    claim_outputs,
    device_option,
    progress,
    report_options,
    seed_option,
    truncation_option,
    warn,
)
from clip2gan.cli._evaluation import (
    InstrumentOptions,
    check_model,
    different_texts,
    instrument_options,
    judge_of,
    load,
    real_pictures,
    tell_left_out,
    texts_to_draw,
    texts_to_edit,
)
from clip2gan.defaults import MODEL

if TYPE_CHECKING:
    from clip2gan.evaluation.report import Evaluation, Instruments, Protocol
    from clip2gan.model import Model

SHEET_PICTURE = 96  # pixels
EXAMPLE = """
Example:

    clip2gan evaluate --model runs/flow/bundle --against runs/mlp/bundle --real pictures.zip --out report.json

A model's other mappers are MODEL:MAPPER, as runs/flow/bundle:mlp. report.json has the figures and all that
they were measured with; beside it come report.md, the table, and report.png, a sheet with a row a prompt.
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--model", default=MODEL, show_default=True, metavar="MODEL[:MAPPER]", help="The model to measure."
)
@click.option(
    "--against",
    multiple=True,
    metavar="MODEL[:MAPPER]",
    help="Another model to compare it with (repeatable).",
)
@click.option(
    "--prompts",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Texts to draw, one a line.  [default: the domain's]",
)
@click.option(
    "--attributes",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Texts to edit by, one a line.  [default: the domain's]",
)
@click.option("--real", metavar="DIR|ZIP|SHARDS", help="Pictures that no model was trained on; at least 2.")
@click.option(
    "--max-real", type=click.IntRange(2), default=500, show_default=True, help="Most real pictures to use."
)
@instrument_options
@click.option("--num", type=click.IntRange(2), default=4, show_default=True, help="Pictures of each text.")
@truncation_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write the figures, the table and a sheet of pictures.",
)
@device_option
@seed_option
@report_options
def command(
    *,
    model: str,
    against: tuple[str, ...],
    prompts: Path | None,
    attributes: Path | None,
    real: str | None,
    max_real: int,
    measuring: InstrumentOptions,
    num: int,
    truncation: float,
    out: Path | None,
    device: str,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Measure models: how well pictures follow texts, how they vary, what mapping and editing keep."""
    if out is not None and out.suffix != ".json":
        raise click.BadParameter(f"{out}: name it {out.with_suffix('.json').name}", param_hint="'--out'")
    check_seeds(seed, num)
    names = [model, *against]
    if len(set(names)) < len(names):
        raise click.BadParameter("the same model twice", param_hint="'--against'")
    if out is not None:
        claim_outputs([out, out.with_suffix(".md"), out.with_suffix(".png")], force)
    domains = {name: check_model(name, "--model" if name == model else "--against").domain for name in names}
    judges = {name: judge_of(measuring.judge, domain) for name, domain in domains.items()}
    with blame("--prompts"):
        drawn = different_texts(texts_to_draw(prompts, domains[model], judges[model]), prompts)
    with blame("--attributes"):
        edits = different_texts(texts_to_edit(attributes, domains[model]), attributes)

    from clip2gan.evaluation.report import Attribute, Protocol

    loaded = load(model, device)
    # Read at each model's own resolution, so that no picture is resampled twice.
    pictures_at = cache(lambda resolution: [] if real is None else real_pictures(real, resolution, max_real))
    protocol = Protocol(
        [entry["text"] for entry in drawn],
        claims=[entry["claims"] for entry in drawn if "claims" in entry],
        num=num,
        truncation=truncation,
        attributes=[Attribute(entry["text"], entry.get("group"), entry.get("value")) for entry in edits],
        real=pictures_at(loaded.resolution),
        seed=seed,
    )
    instruments = measuring.load(judges[model], device)
    tell_left_out(instruments, prompts, attributes, real is not None)
    settings = {
        "prompts": list(protocol.prompts),
        "attributes": [attribute.text for attribute in protocol.attributes],
        "real": real,
        "real_pictures": len(protocol.real),
        "max_real": max_real if real else None,
        "clip": measuring.clip or "each model's own",
        "judge": judges[model] or "none",
        "lpips": measuring.lpips,
        "identity": measuring.identity,
        "num": num,
        "truncation": truncation,
        "seed": seed,
        "seeds": list(range(seed, seed + num)),
    }
    tell = (lambda line: None) if as_json else click.echo
    shown = {"prompts": _source(drawn, prompts), "attributes": _source(edits, attributes), "seeds": None}
    tell(_line(settings, shown))
    measured = _Measured({}, {})
    for name in names:
        loaded = loaded if name == model else load(name, device)
        tell(f"{name}: {measured.describe(name, loaded, instruments, judges[name])}")
        own = replace(protocol, real=pictures_at(loaded.resolution))
        fitting = instruments if judges[name] == judges[model] else replace(instruments, judge=None)
        measured.evaluate(name, loaded, own, fitting)
    tell(measured.table())
    result = {"command": "evaluate", **settings, **measured.figures()}
    files = [] if out is None else measured.write(out, result, protocol.prompts)
    if files:
        tell(f"wrote {files[0]}, {files[1]} and {files[2]}")
    if as_json:
        click.echo(json.dumps({**result, "files": files}, indent=2))


@dataclass(frozen=True)
class _Measured:
    """What is known of each model by name: what it is, and how it did."""

    models: dict[str, dict[str, Any]]
    evaluations: "dict[str, Evaluation]"

    def describe(self, name: str, model: "Model", instruments: "Instruments", judge: str | None) -> str:
        """Note what a model is and what measures it; returns that in one line."""
        seeing = instruments.clip or model.clip
        about = {
            **model.provenance(),
            "clip": seeing.spec,
            "clip_sha256": seeing.fingerprint(),
            "judge": judge or "none",
        }
        clips = {one["clip_sha256"] for one in self.models.values()}
        if len(clips) == 1 and about["clip_sha256"] not in clips:
            warn("the models have different CLIPs, whose figures do not compare; name one by --clip")
        self.models[name] = about
        hidden = {"model": None, "clip_sha256": None, "versions": None}
        return _line(about, {"fingerprint": about["fingerprint"][:12], **hidden})

    def evaluate(self, name: str, model: "Model", protocol: "Protocol", instruments: "Instruments") -> None:
        from clip2gan.evaluation.report import evaluate

        self.evaluations[name] = evaluate(model, protocol, instruments, partial(progress, desc=name))

    def table(self) -> str:
        from clip2gan.evaluation.report import markdown

        return markdown(self.evaluations)

    def figures(self) -> dict[str, Any]:
        """Of all models, for the report."""
        figures = {name: one.figures for name, one in self.evaluations.items()}
        return {"models": self.models, "figures": figures}

    def write(self, out: Path, result: Mapping[str, Any], prompts: Sequence[str]) -> list[str]:
        """Write the report, the table and a sheet of pictures; returns the files."""
        from clip2gan.evaluation.report import sheet
        from clip2gan.images import write_png
        from stylegan2.files import atomic_path

        paths = [out, out.with_suffix(".md"), out.with_suffix(".png")]
        for path, text in zip(paths, (json.dumps(result, indent=2), self.table()), strict=False):
            with atomic_path(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        made = {name: value for name, value in result.items() if name != "figures"}
        write_png(paths[2], sheet(self.evaluations, prompts, SHEET_PICTURE), made)
        return [str(path) for path in paths]


def _source(entries: list[dict[str, Any]], path: Path | None) -> str:
    return f"{len(entries)} of {path}" if path else f"{len(entries)} by default"


def _line(settings: Mapping[str, Any], shown: Mapping[str, str | None]) -> str:
    """Settings in one line; some are `shown` in other words, or not at all (None)."""
    words = {**settings, **shown}
    return ", ".join(f"{name} {value}" for name, value in words.items() if value is not None)

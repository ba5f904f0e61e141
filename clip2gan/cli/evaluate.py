"""`clip2gan evaluate`: models measured by the same prompts and pictures, side by side."""

import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    EXISTING_FILE,
    Finite,
    blame,
    check_outputs,
    device_option,
    force_option,
    json_option,
    load_model,
    progress,
    resolve_device,
    seed_option,
    warn,
)
from clip2gan.defaults import TRUNCATION

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from clip2gan.bundle import BundleConfig
    from clip2gan.domain import Domain
    from clip2gan.evaluation.report import Instruments
    from clip2gan.model import Model

SHEET_PICTURE = 96  # pixels
EXAMPLE = """
Example:

    clip2gan evaluate --model runs/flow/bundle --against runs/mlp/bundle --real pictures.zip --out report.json

A model's other mappers are MODEL:MAPPER, as avatars:flow. report.json has the figures and all that they were
measured with; beside it come report.md, the table, and report.png, a sheet with a row for each prompt.
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--model", default="avatars", show_default=True, metavar="MODEL[:MAPPER]", help="The model to measure."
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
@click.option(
    "--clip", metavar="CLIP", help="The CLIP that compares pictures and texts.  [default: each model's own]"
)
@click.option(
    "--judge",
    default="auto",
    show_default=True,
    metavar="auto|none|NAME",
    help="What sees attributes in pictures; auto: the judge that each model's domain names, if any.",
)
@click.option(
    "--lpips",
    type=click.Choice(["lpips-vgg", "lpips-alex", "lpips-squeeze"]),
    help="Also measure by this network, which is fetched.",
)
@click.option("--identity", metavar="FILE.onnx", help="Also measure faces by a recogniser like ArcFace's.")
@click.option("--num", type=click.IntRange(2), default=4, show_default=True, help="Pictures of each text.")
@click.option(
    "--truncation", type=Finite(0, 2), default=TRUNCATION, show_default=True, help="As in generate."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write the figures, the table and a sheet of pictures.",
)
@device_option
@seed_option
@force_option
@json_option
def command(
    *,
    model: str,
    against: tuple[str, ...],
    prompts: Path | None,
    attributes: Path | None,
    real: str | None,
    max_real: int,
    clip: str | None,
    judge: str,
    lpips: str | None,
    identity: str | None,
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
    names = [model, *against]
    if len(set(names)) < len(names):
        raise click.BadParameter("the same model twice", param_hint="'--against'")
    if out is not None:
        check_outputs([out, out.with_suffix(".md"), out.with_suffix(".png")], force)
    domains = {name: _check_model(name, "--model" if name == model else "--against").domain for name in names}
    judges = {name: _judge_of(judge, domain) for name, domain in domains.items()}
    with blame("--prompts"):
        drawn = _different(_texts_to_draw(prompts, domains[model], judges[model]), prompts)
    with blame("--attributes"):
        edits = _different(_texts_to_edit(attributes, domains[model]), attributes)

    from dataclasses import replace

    from clip2gan.evaluation.report import Attribute, Evaluation, Protocol, evaluate, markdown, sheet
    from clip2gan.images import write_png
    from stylegan2.files import atomic_path

    loaded = _load(model, device)
    # Read at each model's own resolution, so that no picture is resampled twice.
    pictures_at = cache(lambda resolution: [] if real is None else _real_pictures(real, resolution, max_real))
    protocol = Protocol(
        [entry["text"] for entry in drawn],
        claims=[entry["claims"] for entry in drawn if "claims" in entry],
        num=num,
        truncation=truncation,
        attributes=[Attribute(entry["text"], entry.get("group"), entry.get("value")) for entry in edits],
        real=pictures_at(loaded.resolution),
        seed=seed,
    )
    instruments = _instruments(clip, judges[model], lpips, identity, resolve_device(device))
    _tell_left_out(instruments, prompts, attributes, real is not None)
    settings = {
        "prompts": list(protocol.prompts),
        "attributes": [attribute.text for attribute in protocol.attributes],
        "real": real,
        "real_pictures": len(protocol.real),
        "max_real": max_real if real else None,
        "clip": clip or "each model's own",
        "judge": judges[model] or "none",
        "lpips": lpips,
        "identity": identity,
        "num": num,
        "truncation": truncation,
        "seed": seed,
        "seeds": list(range(seed, seed + num)),
    }
    tell = (lambda line: None) if as_json else click.echo
    tell(
        _line(
            settings,
            prompts=_source(drawn, prompts),
            attributes=_source(edits, attributes),
            seeds=None,
        )
    )
    models: dict[str, dict[str, Any]] = {}
    evaluations: dict[str, Evaluation] = {}
    for name in names:
        loaded = loaded if name == model else _load(name, device)
        seeing = instruments.clip or loaded.clip
        about = {
            **loaded.provenance(),
            "clip": seeing.spec,
            "clip_sha256": seeing.fingerprint(),
            "judge": judges[name] or "none",
        }
        clips = {one["clip_sha256"] for one in models.values()}
        if len(clips) == 1 and about["clip_sha256"] not in clips:
            warn("the models have different CLIPs, whose figures do not compare; name one by --clip")
        models[name] = about
        short = about["fingerprint"][:12]
        tell(f"{name}: {_line(about, fingerprint=short, model=None, clip_sha256=None, versions=None)}")
        protocol = replace(protocol, real=pictures_at(loaded.resolution))
        measuring = instruments if judges[name] == judges[model] else replace(instruments, judge=None)
        evaluations[name] = evaluate(loaded, protocol, measuring, partial(progress, desc=name))
    table = markdown(evaluations)
    tell(table)
    made = {"command": "evaluate", **settings, "models": models}
    result = {**made, "figures": {name: one.figures for name, one in evaluations.items()}}
    files = []
    if out is not None:
        for path, text in ((out, json.dumps(result, indent=2)), (out.with_suffix(".md"), table)):
            with atomic_path(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        write_png(out.with_suffix(".png"), sheet(evaluations, protocol.prompts, SHEET_PICTURE), made)
        files = [str(out), str(out.with_suffix(".md")), str(out.with_suffix(".png"))]
        tell(f"wrote {files[0]}, {files[1]} and {files[2]}")
    if as_json:
        click.echo(json.dumps({**result, "files": files}, indent=2))


def _judge_of(judge: str, domain: "Domain") -> str | None:
    """The name of the judge of `--judge` for models of this domain."""
    from clip2gan.evaluation.judge import known_judges

    name = domain.judge if judge == "auto" else judge
    if name in (None, "none"):
        return None
    if name not in known_judges():
        if judge == "auto":
            return None  # of a domain that another version knows
        choices = ", ".join(known_judges())
        raise click.BadParameter(f"no judge {name!r}; choose auto, none or {choices}", param_hint="'--judge'")
    if domain.judge != name:
        warn(f"the judge {name} knows another domain than {domain.name}; its figures may mean nothing")
    return name


def _texts_to_draw(path: Path | None, domain: "Domain", judge: str | None) -> "list[dict[str, Any]]":
    """{"text": ...} of each line of a file; else the judge's own, with their claims, or the domain's.

    Raises ValueError when there is none.
    """
    from clip2gan.data.samples import plain_prompts
    from clip2gan.evaluation.judge import judged_prompts

    if path is None and judge is not None:
        return judged_prompts(judge)
    if path is None and not domain.prompts:
        warn(
            f"the domain {domain.name} has no texts; plain ones about nothing in particular are drawn "
            "(--prompts gives others)"
        )
    return [{"text": text} for text in plain_prompts(path, domain)]


def _texts_to_edit(path: Path | None, domain: "Domain") -> "list[dict[str, Any]]":
    """{"text": ...} of each line of a file; else the domain's vocabulary or its prompts."""
    from clip2gan.data.samples import plain_prompts

    if path is None and domain.vocabulary:
        return [
            {"text": text, "group": group, "value": value}
            for group, values in domain.vocabulary.items()
            for value, texts in values.items()
            for text in texts
        ]
    return [{"text": text} for text in plain_prompts(path, domain)]


def _different(entries: list[dict[str, Any]], source: Path | None) -> list[dict[str, Any]]:
    """Each text once: a picture is compared with all texts but its own."""
    different = {entry["text"]: entry for entry in entries}
    if len(different) < len(entries):
        warn(f"{source}: of its {len(entries)} texts {len(different)} are different; each counts once")
    return list(different.values())


def _split(name: str) -> tuple[str, str | None]:
    """Model and mapper of MODEL[:MAPPER]; the colon of "hf-hub:ORG/NAME" is not one of these."""
    model, colon, mapper = name.rpartition(":")
    if not colon or model == "hf-hub" or Path(name).exists():
        return name, None
    return model, mapper


def _check_model(name: str, option: str) -> "BundleConfig":
    """A model's config; click.BadParameter of this option where there is no such model or mapper."""
    from clip2gan.bundle import choose_mapper, locate_bundle, read_config

    model, mapper = _split(name)
    with blame(option):
        folder = locate_bundle(model)
    config = read_config(folder)
    with blame(option):
        choose_mapper(config, mapper, model)
    return config


def _load(name: str, device: str) -> "Model":
    model, mapper = _split(name)
    return load_model(model, device, mapper)


def _real_pictures(source: str, resolution: int, count: int) -> "list[Image.Image]":
    """The first pictures of a folder, zip or shards; click.BadParameter where there are fewer than 2."""
    from PIL import Image

    from clip2gan.data.pictures import open_pictures

    with blame("--real"):
        try:
            pictures = open_pictures(source, resolution)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
        if len(pictures) < 2:
            raise ValueError(f"{source}: there is 1 picture in it; at least 2 are needed")
    pixels = pictures.batch(range(min(count, len(pictures)))).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _instruments(
    clip: str | None, judge: str | None, lpips: str | None, identity: str | None, where: "torch.device"
) -> "Instruments":
    from clip2gan.clip import ClipEncoder
    from clip2gan.evaluation.inception import missing_part
    from clip2gan.evaluation.judge import load_judge
    from clip2gan.evaluation.report import Instruments
    from clip2gan.perceptual import identity_distance, lpips_distance

    with blame("--clip"):
        encoder = ClipEncoder.load(clip, where) if clip else None
    try:
        distance = lpips_distance(lpips, where) if lpips else None
    except OSError as error:  # its remedy is an option of the trainings
        raise OSError(str(error).replace("choose --perceptual clip", "leave --lpips out")) from error
    return Instruments(
        clip=encoder,
        judge=load_judge(judge) if judge is not None else None,
        lpips=distance,
        identity=identity_distance(identity, where) if identity else None,
        inception=missing_part() is None,
    )


def _tell_left_out(
    instruments: "Instruments", prompts: Path | None, attributes: Path | None, has_real: bool
) -> None:
    """Say which figures will be missing, and why."""
    from clip2gan.evaluation.inception import missing_part

    if has_real and not instruments.inception:
        click.echo(f"FID and KID are left out; for them {missing_part()}", err=True)
    if instruments.judge is None:
        return
    reason = "the judge knows only of its domain's own texts what they say"
    if prompts is not None:
        click.echo(f"named and variety are left out for the texts of {prompts}: {reason}", err=True)
    if attributes is not None and has_real:
        click.echo(f"edit_target and edit_others are left out for those of {attributes}: {reason}", err=True)


def _source(entries: list[dict[str, Any]], path: Path | None) -> str:
    return f"{len(entries)} of {path or 'the domain'}"


def _line(settings: Mapping[str, Any], **shown: str | None) -> str:
    """Settings in one line; some are `shown` in other words, or not at all (None)."""
    words = {**settings, **shown}
    return ", ".join(f"{name} {value}" for name, value in words.items() if value is not None)

"""`clip2gan train-mapper`: the bridge from CLIP's embeddings to a generator's latents."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    blame,
    device_option,
    fetch_progress,
    require_clip,
    resolve_device,
    sha256_option,
    warn,
)
from clip2gan.cli._options import (
    configure,
    parse_assignments,
    preset_option,
    run_options,
    setting_options,
)
from clip2gan.cli._runs import open_run, show_settings, tell_if_finished
from clip2gan.defaults import MODEL, SMALL
from clip2gan.devices import resolve_precision
from clip2gan.generators import check_generator, is_bundle, locate_generator
from clip2gan.noise import C3_NOISE
from clip2gan.training.presets import PRESETS, default_preset
from clip2gan.training.settings import SAMPLED

if TYPE_CHECKING:
    from clip2gan.domain import Domain
    from clip2gan.training.settings import MapperTraining
    from stylegan2.processes import Processes

EXAMPLE = """
Example:

    clip2gan train-mapper --generator runs/gan/generator.safetensors --clip ViT-B-16:laion2b_s34b_b88k
    --data sampled --data pictures.zip --out runs/mapper

The same command goes on where it was stopped; under torchrun or accelerate launch, processes share a batch.
The folder holds config.json, log.jsonl, checkpoints/ (with best.safetensors), samples/ (previews), cache/
(embeddings) and in the end bundle/, which every --model takes. No captions are used.
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--generator",
    "generator_source",
    default=MODEL,
    show_default=True,
    metavar="NAME|FILE|URL",
    help="The frozen StyleGAN2: a model's name, any checkpoint that `clip2gan convert` reads, or its https "
    "address.",
)
@sha256_option
@click.option(
    "--clip",
    "clip_spec",
    metavar="ARCH[:PRETRAINED|:FILE]|hf-hub:ID|local-dir:DIR|MODEL",
    help="The frozen CLIP.  [default: that of the model whose generator is taken; else it must be given]",
)
@preset_option(
    PRESETS,
    "Settings to start from: small or large, small-flow, ..., or a paper's: clip2gan, clip-flow, "
    "clip2latent.  [default: by kind of mapper and size of generator]",
)
@setting_options(
    PRESETS,
    *("mapper", "data", "steps", "batch", "lr", "accumulate", "schedule", "precision", "perceptual"),
    *("identity", "gap", "samples", "samples_from", "prompts"),
    defaults={"mapper": "mlp, or the preset's", "prompts": "the domain's"},
)
@run_options
@device_option
@setting_options(PRESETS, "seed")
def command(
    *,
    generator_source: str,
    sha256: str | None,
    clip_spec: str | None,
    preset: str | None,
    given: Mapping[str, Any],
    assignments: tuple[str, ...],
    dry_run: bool,
    out: Path,
    device: str,
) -> None:
    """Train a mapper on pictures alone, by reconstruction through the frozen generator."""
    with blame("--generator"):
        check_generator(generator_source)
    if clip_spec is None and is_bundle(generator_source):
        clip_spec = generator_source
    clip_spec = require_clip(clip_spec)
    assigned = parse_assignments(assignments)
    config = _configuration(preset or default_preset(given.get("mapper", "mlp"), SMALL), given, assigned)

    from clip2gan.bundle import bundled_models, read_config
    from clip2gan.bundle.locate import clip_of
    from clip2gan.clip import ClipEncoder
    from clip2gan.data.drawn import open_drawn
    from clip2gan.data.pictures import list_skipped, open_pictures
    from clip2gan.data.samples import weights_fingerprint
    from clip2gan.training.mapper import train_mapper, untrained_mapper
    from clip2gan.training.objective import Networks
    from stylegan2 import load_generator
    from stylegan2.processes import Processes

    processes = Processes(resolve_device(device))
    where = processes.device
    with blame("--prompts"):
        domain = _domain(generator_source, out.name, config.prompts)
    with blame("--generator"):
        generator_file = locate_generator(generator_source, sha256, progress=fetch_progress)
    generator = load_generator(generator_file, where)
    with blame("--clip"):
        spec = clip_of(clip_spec) if is_bundle(clip_spec) and clip_spec not in bundled_models() else clip_spec
        clip = ClipEncoder.load(spec, where)
    resolution = generator.config.img_resolution
    if preset is None:
        config = _configuration(default_preset(config.mapper, resolution), given, assigned)
    config = replace(config, precision=resolve_precision(config.precision, where))
    with blame("--data"):
        pictures = [open_pictures(source, resolution) for source in config.data if source != SAMPLED]
    drawn = {}
    if config.samples_from is not None:
        with blame("--samples-from"):
            drawn["samples_from_sha256"] = open_drawn(
                config.samples_from, generator, config.samples, config.samples_first
            ).fingerprint()
    with blame("--set"):
        mapper = untrained_mapper(config, generator, clip)
    settings = {
        "generator": generator_source,
        "generator_sha256": weights_fingerprint(generator),
        "clip": clip_spec,
        "clip_sha256": clip.fingerprint(),
        "pictures": [source.summary() for source in pictures],
        **drawn,
        **_digests({"prompts": config.prompts, "identity": config.identity}),
        **config.flat(),
    }
    show_settings(settings, "a mapper", mapper, processes)
    _check_shares(config, processes)
    if dry_run:
        return
    networks = Networks.load(config, where)
    run = open_run(out, settings, processes)
    remedy = "give more --steps and another --out"
    tell_if_finished(run, config.warmup_steps + config.steps, remedy, processes)
    if processes.is_first:
        list_skipped(pictures, out)
        _warn_without_prompts(domain)
    bundle = train_mapper(config, generator, clip, pictures, run, domain=domain, networks=networks)
    if processes.is_first:
        for figure in read_config(bundle).figures:
            click.echo(f"{figure['what']}: {figure['value']}")
        click.echo(f"wrote {bundle}")


def _check_shares(config: "MapperTraining", processes: "Processes") -> None:
    """Raise click.BadParameter for a batch that the processes cannot share."""
    for option, sizes, steps in (
        ("--set warmup_batch", [config.warmup_batch], config.warmup_steps),
        ("--batch", config.parts(), config.steps),
    ):
        if steps:
            with blame(option):
                processes.rows(sizes, 0, config.accumulate)


def _warn_without_prompts(domain: "Domain") -> None:
    if not domain.prompts:
        warn(
            "this domain has no texts, so general ones are used for the gap and the previews; --prompts FILE "
            "(a few dozen short texts about your pictures, one a line) does better"
        )


def _digests(files: dict[str, str | None]) -> dict[str, str]:
    """Of the contents of files that a run was given, so that another content is another setting."""
    from stylegan2.files import fingerprint

    return {f"{name}_sha256": fingerprint(file) for name, file in files.items() if file is not None}


def _domain(generator_source: str, name: str, prompts: str | None) -> "Domain":
    """That of the model whose generator it is, or a new one of this name; with the prompts of a file."""
    from clip2gan.bundle import locate_bundle, read_config
    from clip2gan.data.samples import plain_prompts
    from clip2gan.domain import Domain, GapSettings

    domain = Domain(name=name or "pictures")
    if is_bundle(generator_source):
        domain = replace(read_config(locate_bundle(generator_source)).domain, gap=GapSettings())
    return domain if prompts is None else replace(domain, prompts=tuple(plain_prompts(prompts)))


def _configuration(preset: str, given: Mapping[str, Any], assigned: Mapping[str, Any]) -> "MapperTraining":
    """The preset, changed by the options that were given and by --set."""
    from clip2gan import gap, mappers
    from clip2gan.settings import check_settings

    base = PRESETS[preset]
    options = dict(given)
    if base.steps == 0:  # the mapper learns from cached pairs alone
        options = {
            f"warmup_{name}" if name in ("steps", "batch", "lr") else name: value
            for name, value in given.items()
        }
    chosen = {**options, **assigned}
    for kind in ("mapper", "gap"):  # settings are those of the preset's own kind
        if chosen.get(kind) not in (None, getattr(base, kind)):
            options[f"{kind}_settings"] = {}
    if chosen.get("gap") == gap.C3.kind:
        options["noise"] = C3_NOISE
    config = configure(base, options, assigned)
    for name, kinds in (("mapper", mappers.KINDS), ("gap", gap.KINDS)):
        if getattr(config, name) not in kinds:
            message = f"unknown {name} {getattr(config, name)!r}; choose from {', '.join(kinds)}"
            raise click.BadParameter(message, param_hint=f"'--{name}'")
    with blame("--set"):
        check_settings(gap.KINDS[config.gap], config.gap_settings, f"gap {config.gap!r}")
    return config

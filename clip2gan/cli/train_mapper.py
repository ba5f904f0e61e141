"""`clip2gan train-mapper`: the bridge from CLIP's embeddings to a generator's latents."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clip2gan.cli._common import (
    Finite,
    blame,
    device_option,
    fetch_progress,
    require_clip,
    resolve_device,
    seed_option,
    sha256_option,
    warn,
)
from clip2gan.defaults import SMALL
from clip2gan.devices import PRECISIONS, resolve_precision
from clip2gan.generators import check_generator, is_bundle, locate_generator

if TYPE_CHECKING:
    from clip2gan.domain import Domain
    from clip2gan.training.presets import MapperTraining

AVATARS = "avatars"
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
    default=AVATARS,
    show_default=True,
    metavar="avatars|FILE|URL",
    help="The frozen StyleGAN2: any checkpoint that `clip2gan convert` reads, or its https address.",
)
@sha256_option
@click.option(
    "--clip",
    "clip_spec",
    metavar="ARCH[:PRETRAINED|:FILE]|hf-hub:ID|local-dir:DIR|MODEL",
    help="The frozen CLIP.  [default: that of the model whose generator is taken; else it must be given]",
)
@click.option(
    "--mapper",
    "kind",
    metavar="mlp|flow|diffusion",
    help="Kind of the mapper.  [default: the preset's, or mlp]",
)
@click.option(
    "--data",
    multiple=True,
    metavar="sampled|DIR|ZIP|SHARDS",
    help="What is reconstructed: pictures drawn from the generator, or given; several are mixed.  "
    "[default: sampled]",
)
@click.option(
    "--preset",
    metavar="NAME",
    help="Settings to start from: small or large, small-flow, ..., or a paper's: clip2gan, clip-flow, "
    "clip2latent.  [default: by kind of mapper and size of generator]",
)
@click.option(
    "--steps",
    type=click.IntRange(0),
    help="Steps through the generator; of flow and diffusion, which have none, on cached pairs.",
)
@click.option("--batch", type=click.IntRange(1), help="Pictures, or pairs, in a step.")
@click.option("--lr", type=Finite(0, min_open=True), help="Learning rate.")
@click.option("--accumulate", type=click.IntRange(1), help="Parts to compute a batch in, to save memory.")
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), help="How the learning rate changes.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of forward passes; auto: 16 bit where the device is quick in it.  [default: auto]",
)
@click.option(
    "--perceptual",
    type=click.Choice(["clip", "lpips-vgg", "lpips-alex", "lpips-squeeze"]),
    help="Network of the perceptual term; those of LPIPS are fetched.",
)
@click.option(
    "--identity",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE.onnx",
    help="A face recogniser like ArcFace's, for the identity term.",
)
@click.option(
    "--gap",
    help="Remedy for the modality gap: none, shift, collapse, c3, whiten, memory, knn or posterior.",
)
@click.option("--samples", type=click.IntRange(1), help="Pairs of latent and embedding to draw beforehand.")
@click.option(
    "--prompts",
    type=click.Path(),
    help="Plain texts about the domain, one a line.  [default: the domain's]",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any setting that --dry-run shows."
)
@click.option("--dry-run", is_flag=True, help="Print the settings and stop.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@device_option
@seed_option
def command(
    *,
    generator_source: str,
    sha256: str | None,
    clip_spec: str | None,
    kind: str | None,
    data: tuple[str, ...],
    preset: str | None,
    steps: int | None,
    batch: int | None,
    lr: float | None,
    accumulate: int | None,
    schedule: str | None,
    precision: str | None,
    perceptual: str | None,
    identity: str | None,
    gap: str | None,
    samples: int | None,
    prompts: str | None,
    assignments: tuple[str, ...],
    dry_run: bool,
    out: Path,
    device: str,
    seed: int,
) -> None:
    """Train a mapper on pictures alone, by reconstruction through the frozen generator."""
    with blame("--generator"):
        check_generator(generator_source)
    from clip2gan.training.presets import default_preset

    options = {
        "mapper": kind,
        "data": data or None,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "accumulate": accumulate,
        "schedule": schedule,
        "precision": precision,
        "perceptual": perceptual,
        "identity": identity,
        "gap": gap,
        "samples": samples,
        "prompts": prompts,
        "seed": seed,
    }
    if clip_spec is None and is_bundle(generator_source):
        clip_spec = generator_source
    clip_spec = require_clip(clip_spec)
    config = _configuration(preset or default_preset(kind or "mlp", SMALL), options, assignments)

    from clip2gan.bundle import bundled_models, read_config
    from clip2gan.bundle.locate import clip_of
    from clip2gan.clip import ClipEncoder
    from clip2gan.data.pictures import list_skipped, open_pictures
    from clip2gan.data.samples import weights_fingerprint
    from clip2gan.training.mapper import train_mapper, untrained_mapper
    from clip2gan.training.objective import Networks
    from clip2gan.training.presets import SAMPLED
    from stylegan2 import load_generator
    from stylegan2.processes import Processes
    from stylegan2.runs import RunFolder

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
        config = _configuration(default_preset(config.mapper, resolution), options, assignments)
    config = replace(config, precision=resolve_precision(config.precision, where))
    with blame("--data"):
        pictures = [open_pictures(source, resolution) for source in config.data if source != SAMPLED]
    with blame("--set"):
        mapper = untrained_mapper(config, generator, clip)
    settings = {
        "generator": generator_source,
        "generator_sha256": weights_fingerprint(generator),
        "clip": clip_spec,
        "clip_sha256": clip.fingerprint(),
        "pictures": [source.summary() for source in pictures],
        **_digests({"prompts": config.prompts, "identity": config.identity}),
        **config.flat(),
    }
    tell = click.echo if processes.is_first else lambda line: None
    for name, value in settings.items():
        tell(f"{name}: {value}")
    parameters = sum(parameter.numel() for parameter in mapper.parameters())
    tell(f"a mapper of {parameters:,} parameters, trained on {processes.count} x {where}")
    for option, sizes, steps_of in (
        ("--set warmup_batch", [config.warmup_batch], config.warmup_steps),
        ("--batch", config.parts(), config.steps),
    ):
        if steps_of:
            with blame(option):
                processes.rows(sizes, 0, config.accumulate)  # can they be shared?
    if dry_run:
        return
    networks = Networks.load(config, where)
    with processes.first_before_others():
        run = RunFolder.open(out, settings)
    if processes.is_first:
        list_skipped(pictures, out)
    if processes.is_first and not domain.prompts:
        warn(
            "this domain has no texts; plain ones about nothing in particular serve for the gap and the "
            "previews; --prompts FILE (a few dozen short texts, one a line) does better"
        )
    bundle = train_mapper(config, generator, clip, pictures, run, domain=domain, networks=networks)
    if processes.is_first:
        for figure in read_config(bundle).figures:
            click.echo(f"{figure['what']}: {figure['value']}")
        click.echo(f"wrote {bundle}")


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


def _configuration(preset: str, options: dict[str, Any], assignments: tuple[str, ...]) -> "MapperTraining":
    """The preset, changed by the options that were given and by --set."""
    from clip2gan import gap, mappers
    from clip2gan.settings import check_settings, override, parse_assignment
    from clip2gan.training.presets import PRESETS

    if preset not in PRESETS:
        message = f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}"
        raise click.BadParameter(message, param_hint="'--preset'")
    base = PRESETS[preset]
    given = {name: value for name, value in options.items() if value is not None}
    if base.steps == 0:  # the mapper learns from cached pairs alone
        given = {
            f"warmup_{name}" if name in ("steps", "batch", "lr") else name: given[name] for name in given
        }
    with blame("--set"):
        assigned = dict(parse_assignment(text) for text in assignments)
    for kind in ("mapper", "gap"):  # settings are those of the preset's own kind
        if (assigned | given).get(kind) not in (None, getattr(base, kind)):
            given[f"{kind}_settings"] = {}
    if (assigned | given).get("gap") == gap.C3.kind:
        given["noise"] = gap.C3_NOISE
    with blame("--steps"):
        config = override(base, given)
    with blame("--set"):
        config = override(config, assigned)
    for name, kinds in (("mapper", mappers.KINDS), ("gap", gap.KINDS)):
        chosen = getattr(config, name)
        if chosen not in kinds:
            message = f"unknown {name} {chosen!r}; choose from {', '.join(kinds)}"
            raise click.BadParameter(message, param_hint=f"'--{name}'")
    with blame("--set"):
        check_settings(gap.KINDS[config.gap], config.gap_settings, f"gap {config.gap!r}")
    return config

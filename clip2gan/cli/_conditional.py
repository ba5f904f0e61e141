"""`clip2gan train-gan --condition clip`: a StyleGAN2 from pictures and their captions."""

from dataclasses import replace

import click

from clip2gan.cli._common import blame, require_clip
from clip2gan.cli._gan import GanRequest, own_resolution, preset_for, warn_of_shrinking
from clip2gan.cli._options import configure
from clip2gan.cli._runs import open_run, tell_if_finished
from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import open_captioned, picture_sides
from clip2gan.data.pictures import MEMORY_LIMIT, list_skipped
from clip2gan.training.gan import settings_of, train_conditional
from clip2gan.training.gan_presets import PRESETS
from clip2gan.training.settings import GanTraining
from clip2gan.training.start import MAPPING_WIDTH, Start, from_file, from_scratch
from stylegan2.files import fingerprint
from stylegan2.processes import Processes
from stylegan2.training.gan import check_shares

ANEW = "start another run from it: --init {checkpoint} --mapping-steps 0 --steps N --out FOLDER"
PICTURES_SHARE = 0.25  # of --max-memory, that decoded pictures may take


def train_captioned(
    request: GanRequest, clip_spec: str | None, max_memory: float | None, allow_missing: bool
) -> None:
    """Train a CLIP-guided conditional GAN, its batches in parts that stay below `max_memory` GB."""
    clip_spec = require_clip(clip_spec)
    processes = Processes(request.device)
    with blame("--clip"):
        clip = ClipEncoder.load(clip_spec, processes.device)
    with blame("--data"):
        sides = picture_sides(request.data)
    resolution = own_resolution(sides) if request.resolution is None else request.resolution
    preset = request.preset or (preset_for(resolution) if request.init is None else "finetune")
    config = configure(PRESETS[preset], request.settings, request.assigned)
    if request.init is None:
        with blame("--resolution"):
            start = from_scratch(resolution, clip.embed_dim, small=preset == "small")
    else:
        config, start = _read_start(request, config, clip)
    size = start.shape.img_resolution
    memory_limit = MEMORY_LIMIT
    if max_memory is not None:
        memory_limit = min(memory_limit, round(PICTURES_SHARE * max_memory * 1e9))
    with blame("--data"):
        opened = open_captioned(request.data, size, memory_limit, allow_missing)
    settings = {
        "command": "train-gan",
        "condition": "clip",
        "data": list(request.data),
        "pictures": [source.summary() for source in opened.pictures],
        "clip": clip_spec,
        "clip_sha256": clip.fingerprint(),
        "init": request.init and fingerprint(request.init),
        **settings_of(config, start.shape),
    }
    tell = click.echo if processes.is_first else lambda line: None
    for name, value in settings.items():
        tell(f"{name}: {value}")
    if max_memory is not None:
        tell(f"max_memory: {max_memory:g} GB")
    if processes.is_first:
        warn_of_shrinking(sides, size)
    with blame("--batch"):
        check_shares(config.batch, processes)
    if request.dry_run:
        return
    run = open_run(request.out, settings, processes)
    tell_if_finished(run, config.total_steps, ANEW, processes)
    if processes.is_first:
        list_skipped(opened.pictures, run.path)
    captioned = opened.embed(clip, run.path / "cache", processes)
    without = int((captioned.counts == 0).sum())
    tell(
        f"{len(captioned)} pictures with {len(captioned.texts)} captions ({without} with none) "
        f"on {processes.count} x {processes.device}"
    )
    tell(f"wrote {train_conditional(config, start, captioned, clip, run, max_memory=max_memory)}")


def _read_start(request: GanRequest, config: GanTraining, clip: ClipEncoder) -> tuple[GanTraining, Start]:
    """What `--init` holds; without an encoder there is no mapping phase."""
    assert request.init is not None
    with blame("--init"):
        start = from_file(
            request.init, request.resolution, clip.embed_dim, config.mapping_steps > 0, MAPPING_WIDTH
        )
    if start.encoder is None and config.mapping_steps > 0:
        start = from_file(request.init, request.resolution, clip.embed_dim)
        config = replace(config, mapping_steps=0, anchor=0.0)
        click.echo(f"{request.init} has no encoder, so there is no mapping phase", err=True)
    return config, start

"""`clip2gan train-gan --condition clip`: the part of the command that the unconditional training has not."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import blame, require_clip, resolve_device, warn
from clip2gan.defaults import SMALL

DEFAULT_RESOLUTION = 64  # of pictures of many sizes
PICTURES_SHARE = 0.25  # of --max-memory, that decoded pictures may take


def train(
    *,
    data: Sequence[str],
    preset: str | None,
    resolution: int | None,
    options: Mapping[str, Any],
    assignments: Sequence[str],
    init: Path | None,
    clip_spec: str | None,
    max_memory: float | None,
    dry_run: bool,
    out: Path,
    device: str,
) -> None:
    """Train the CLIP-guided conditional GAN; `options` are its settings, None where not given."""
    from clip2gan.settings import override, parse_assignment
    from clip2gan.training.gan import settings_of, train_conditional
    from clip2gan.training.gan_presets import PRESETS

    clip_spec = require_clip(clip_spec)
    from clip2gan.clip import ClipEncoder
    from clip2gan.data.captioned import open_captioned, picture_sides
    from clip2gan.data.pictures import MEMORY_LIMIT
    from clip2gan.training.start import MAPPING_WIDTH, from_file, from_scratch
    from stylegan2.files import fingerprint
    from stylegan2.processes import Processes
    from stylegan2.runs import RunFolder
    from stylegan2.training.gan import check_shares

    processes = Processes(resolve_device(device))
    with blame("--clip"):
        clip = ClipEncoder.load(clip_spec, processes.device)
    with blame("--data"):
        sides = picture_sides(data)
    from_pictures = own_resolution(sides) if resolution is None else resolution
    preset = preset or (preset_for(from_pictures) if init is None else "finetune")
    config = override(PRESETS[preset], {name: value for name, value in options.items() if value is not None})
    with blame("--set"):
        config = override(config, dict(parse_assignment(text) for text in assignments))
    if init is None:
        with blame("--resolution"):
            start = from_scratch(from_pictures, clip.embed_dim, small=preset == "small")
    else:
        with blame("--init"):
            start = from_file(init, resolution, clip.embed_dim, config.mapping_steps > 0, MAPPING_WIDTH)
        if start.encoder is None and config.mapping_steps > 0:
            start = from_file(init, resolution, clip.embed_dim)
            config = replace(config, mapping_steps=0, anchor=0.0)
            click.echo(f"{init} has no encoder, so there is no mapping phase", err=True)
    size = start.shape.img_resolution
    memory_limit = MEMORY_LIMIT
    if max_memory is not None:
        memory_limit = min(memory_limit, round(PICTURES_SHARE * max_memory * 1e9))
    with blame("--data"):
        opened = open_captioned(data, size, memory_limit)
    settings = {
        "command": "train-gan",
        "condition": "clip",
        "data": list(data),
        "pictures": [source.summary() for source in opened.pictures],
        "clip": clip_spec,
        "clip_sha256": clip.fingerprint(),
        "init": init and fingerprint(init),
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
    if dry_run:
        return
    with processes.first_before_others():
        run = RunFolder.open(out, settings)
    captioned = opened.embed(clip, run.path / "cache", processes)
    without = int((captioned.counts == 0).sum())
    tell(
        f"{len(captioned)} pictures with {len(captioned.texts)} captions ({without} with none) "
        f"on {processes.count} x {processes.device}"
    )
    bundle = train_conditional(
        config,
        start,
        captioned,
        clip,
        run,
        max_memory=max_memory,
    )
    tell(f"wrote {bundle}")


def preset_for(resolution: int) -> str:
    """The preset of a training from scratch at this resolution."""
    return "small" if resolution <= SMALL else "stylegan2"


def own_resolution(sides: Set[int]) -> int:
    """What to train at from scratch: the pictures' own size, or the power of two below, where they agree."""
    return 1 << (max(8, *sides).bit_length() - 1) if len(sides) == 1 else DEFAULT_RESOLUTION


def warn_of_shrinking(sides: Set[int], resolution: int) -> None:
    """Tell where the generator is smaller than the pictures."""
    if max(sides, default=0) > resolution:
        warn(
            f"pictures of up to {max(sides)} px are shrunk to {resolution} px; --resolution sets another size"
        )

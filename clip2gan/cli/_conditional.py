"""`clip2gan train-gan --condition clip`: the part of the command that the unconditional training has not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clip2gan.cli._common import blame, progress, resolve_device

AVATARS = "avatars"


def train(
    *,
    data: Sequence[str],
    preset: str,
    resolution: int | None,
    options: Mapping[str, Any],
    assignments: Sequence[str],
    init: Path | None,
    clip_spec: str,
    max_memory: float | None,
    dry_run: bool,
    out: Path,
    device: str,
) -> None:
    """Train the CLIP-guided conditional GAN; `options` are its settings, None where not given."""
    from clip2gan.settings import override, parse_assignment
    from clip2gan.training.gan import PRESETS, settings_of, train_conditional

    config = override(PRESETS[preset], {name: value for name, value in options.items() if value is not None})
    with blame("--set"):
        config = override(config, dict(parse_assignment(text) for text in assignments))

    from clip2gan.clip import ClipEncoder
    from clip2gan.data.captioned import open_captioned
    from clip2gan.training.processes import Processes
    from clip2gan.training.start import MAPPING_WIDTH, from_file, from_scratch
    from stylegan2.files import fingerprint
    from stylegan2.runs import RunFolder

    processes = Processes(resolve_device(device))
    clip = ClipEncoder.load(clip_spec, processes.device)
    path = init or (avatars_state() if preset == AVATARS else None)
    if path is None:
        start = from_scratch(resolution or 64, clip.embed_dim)
    else:
        with blame("--init"):
            start = from_file(path, resolution, clip.embed_dim, config.mapping_steps > 0, MAPPING_WIDTH)
        if start.encoder is None and config.mapping_steps > 0:
            start = from_file(path, resolution, clip.embed_dim)
            config = replace(config, mapping_steps=0, anchor=0.0)
            click.echo(f"{path} has no encoder, so there is no mapping phase", err=True)
    settings = {
        "command": "train-gan",
        "condition": "clip",
        "data": list(data),
        "clip": clip_spec,
        "clip_sha256": clip.fingerprint(),
        "init": path and fingerprint(path),
        "max_memory": max_memory,
        **settings_of(config, start.shape),
    }
    tell = click.echo if processes.is_first else lambda line: None
    for name, value in settings.items():
        tell(f"{name}: {value}")
    if dry_run:
        return
    with processes.first_before_others():
        run = RunFolder.open(out, settings)
    captioned = open_captioned(data, start.shape.img_resolution, clip, run.path / "cache", processes)
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
        progress=lambda steps: progress(steps, "training"),
    )
    tell(f"wrote {bundle}")


def avatars_state() -> Path:
    """The generator of the avatars, with the encoder it was trained with where the repository has it."""
    from clip2gan.bundle import BUNDLED

    state = BUNDLED.parents[1] / "tools" / "avatars_gan.safetensors"
    return state if state.is_file() else BUNDLED / AVATARS / "generator.safetensors"

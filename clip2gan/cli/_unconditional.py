"""`clip2gan train-gan --condition none`: a StyleGAN2 from pictures alone."""

import json
from dataclasses import asdict
from pathlib import Path

import click
import torch

from clip2gan.cli._common import blame
from clip2gan.cli._gan import GanRequest, own_resolution, preset_for, warn_of_shrinking
from clip2gan.cli._options import configure
from clip2gan.cli._runs import open_run, tell_if_finished
from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import picture_sides
from clip2gan.data.pictures import list_skipped, open_mixed
from clip2gan.defaults import LPIPS
from clip2gan.losses import perceptual_distance
from clip2gan.perceptual import Distance, lpips_distance
from clip2gan.training.start import resolution_of_state
from stylegan2.files import fingerprint, load_tensors
from stylegan2.processes import Processes
from stylegan2.training.config import preset_at
from stylegan2.training.gan import InitialStateError, check_shares, train

ANEW = (
    "start another run from it: --init {checkpoint} --autoencoder-images 0 --mapping-steps 0 "
    "--adversarial-images N --out FOLDER"
)
PERCEPTUAL_WEIGHT = 6.0  # where a CLIP is given and no weight


def train_plain(request: GanRequest, perceptual: str | None) -> None:
    """Train a StyleGAN2 on pictures alone; `perceptual` names what compares reconstructions."""
    init = request.init
    with blame("--data"):
        sides = picture_sides(request.data)
    with blame("--init"):
        initial = load_tensors(init)[0] if init else None
        own = own_resolution(sides) if initial is None else resolution_of_state(initial, str(init))
    resolution = own if request.resolution is None else request.resolution
    with blame("--resolution"):
        base = preset_at(request.preset or preset_for(resolution), resolution)
    default = {"perceptual_weight": PERCEPTUAL_WEIGHT} if perceptual else {}
    config = configure(base, {**default, **request.settings}, request.assigned)
    resolution = config.generator.img_resolution
    settings = {
        "command": "train-gan",
        "condition": "none",
        "data": [Path(source).name for source in request.data],
        "perceptual": perceptual,
        "init": init and fingerprint(init),
        **asdict(config),
    }
    processes = Processes(request.device)
    if processes.is_first:
        click.echo(json.dumps(settings, indent=2), err=True)
        warn_of_shrinking(sides, resolution)
    with blame("--batch"):
        check_shares(config.batch, processes)
    if request.dry_run:
        return
    distance = _load_distance(perceptual, processes.device) if perceptual else None
    with blame("--data"):
        pictures = open_mixed(request.data, resolution)
    run = open_run(request.out, settings, processes)
    tell_if_finished(run, config.total_steps, ANEW, processes)
    if processes.is_first:
        list_skipped(pictures.sources, run.path)
    try:
        train(config, pictures, run, processes.device, perceptual=distance, initial=initial)
    except InitialStateError as error:
        raise click.BadParameter(f"{init}: {error}", param_hint="'--init'") from error
    if processes.is_first:
        click.echo(f"wrote {run.path / 'generator.safetensors'}")


def _load_distance(perceptual: str, device: torch.device) -> Distance:
    if perceptual in LPIPS:
        return lpips_distance(perceptual, device)
    return perceptual_distance(ClipEncoder.load(perceptual, device))

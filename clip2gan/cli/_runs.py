"""What the commands that train tell of a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import nn

    from stylegan2.processes import Processes
    from stylegan2.runs import RunFolder


def show_settings(
    settings: Mapping[str, Any], what: str, module: "nn.Module", processes: "Processes"
) -> None:
    """Print, by the first process, all that decides what a run computes, and how large what it trains is."""
    if not processes.is_first:
        return
    for name, value in settings.items():
        click.echo(f"{name}: {value}")
    count = sum(parameter.numel() for parameter in module.parameters())
    click.echo(f"{what} of {count:,} parameters, trained on {processes.count} x {processes.device}")


def tell_if_finished(run: "RunFolder", steps: int, remedy: str, processes: "Processes") -> None:
    """Say so, by the first process, where all steps of a run are done already.

    remedy: how to train on; "{checkpoint}" in it stands for the newest checkpoint.
    """
    newest = run.newest
    if processes.is_first and newest is not None and int(newest.stem) >= steps:
        how = remedy.format(checkpoint=newest)
        click.echo(f"{run.path} is finished: all of its {steps:,} steps are done; to train on, {how}")

"""What the commands that train do with a run, and tell of it."""

from collections.abc import Mapping
from pathlib import Path
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


def open_run(out: Path, settings: Mapping[str, Any], processes: "Processes") -> "RunFolder":
    """The run's folder, opened by the first process before the others, and closed as the command ends."""
    from stylegan2.runs import RunFolder

    with processes.first_before_others():
        run = RunFolder.open(out, settings)
    click.get_current_context().call_on_close(run.close)
    return run


def tell_if_finished(run: "RunFolder", steps: int, remedy: str, processes: "Processes") -> None:
    """Say so, by the first process, where all steps of a run are done already.

    remedy: how to train on; "{checkpoint}" in it stands for the newest checkpoint.
    """
    newest = run.newest
    if processes.is_first and newest is not None and int(newest.stem) >= steps:
        how = remedy.format(checkpoint=newest)
        click.echo(f"{run.path} is finished: all of its {steps:,} steps are done; to train on, {how}")

"""What the commands that train tell of a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import nn

    from stylegan2.processes import Processes


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

"""Options made from the fields of settings dataclasses, the one source of name, type, default and help."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click

from clip2gan.cli._common import F, Finite, blame
from clip2gan.settings import override, parse_assignment
from stylegan2.settings import about

T = TypeVar("T")
Command = Callable[..., None]
GIVEN = "given"  # the parameter of a command that takes what was given of its settings


def setting_options(
    presets: Mapping[str, Any],
    *names: str,
    defaults: Mapping[str, str] | None = None,
    types: Mapping[str, click.ParamType] | None = None,
) -> Callable[[Command], Command]:
    """Options for these fields of a dataclass, `--r1-gamma` for r1_gamma.

    The command gets what was given on the command line as one mapping, its parameter `given`: name -> value,
    which `clip2gan.settings.override` understands. The options of several decorators end in one mapping.

    Args:
        presets: objects of the dataclass. A default that they share is shown, or else that it depends on
            the preset.
        names: of the fields.
        defaults: what to show in place of that.
        types: click's types for fields that need one of their own.
    """
    owner = type(next(iter(presets.values())))
    shown = {name: _default(name, presets) for name in names} | dict(defaults or {})
    options = [setting_option(owner, name, shown[name], (types or {}).get(name)) for name in names]

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            own = {name: value for name in names if (value := values.pop(name)) not in (None, ())}
            values[GIVEN] = {**values.get(GIVEN, {}), **own}
            function(**values)

        decorated = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def setting_option(
    owner: type, name: str, default: str | None, kind: click.ParamType | None = None
) -> Callable[[Command], Command]:
    """The option of one field, None where it is not given; `default` is what to show."""
    facts, hint = about(owner, name), _plain(get_type_hints(owner)[name])
    flag = f"--{name.replace('_', '-')}"
    help = facts.help if default is None else f"{facts.help}  [default: {default}]"
    if hint is bool:
        return click.option(f"{flag}/--no-{flag.removeprefix('--')}", name, default=None, help=help)
    if kind is None and facts.choices:
        kind = click.Choice(facts.choices)
    elif kind is None and facts.is_file:
        kind = click.Path(exists=True, dir_okay=False)
    elif kind is None and hint is int:
        kind = click.IntRange(_whole(facts.least), _whole(facts.most))
    elif kind is None and hint is float:
        low = facts.least if facts.above is None else facts.above
        high = facts.most if facts.below is None else facts.below
        kind = Finite(low, high, facts.above is not None, facts.below is not None)
    return click.option(
        flag, name, type=kind, multiple=hint is tuple, metavar=facts.metavar, default=None, help=help
    )


def _plain(hint: Any) -> Any:
    """A type without None beside it or parameters: int of `int | None`, tuple of `tuple[str, ...]`."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is tuple:
        return tuple
    return parts[0] if NoneType in get_args(hint) and len(parts) == 1 else hint


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)


def _default(name: str, presets: Mapping[str, Any]) -> str | None:
    values = [getattr(preset, name) for preset in presets.values()]
    if any(value != values[0] for value in values):
        return "by preset"
    value = values[0]
    return ", ".join(value) if isinstance(value, tuple) else None if value is None else f"{value}"


def grouped(name: str, owner: type, *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Options whose values a command gets as one object of the dataclass `owner`, its parameter `name`."""
    names = [each.name for each in fields(owner)]

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            values[name] = owner(**{each: values.pop(each) for each in names})
            function(**values)

        decorated = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def own_settings(owner: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that the dataclass has."""
    names = {each.name for each in fields(owner)}
    return {name: value for name, value in given.items() if name in names}


def preset_option(names: Iterable[str], help: str) -> Callable[[Command], Command]:
    """`--preset`, one of these names. (A metavar keeps a long list of names out of the usage.)"""

    def check(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise click.BadParameter(f"unknown preset {value!r}; choose from {', '.join(choices)}")
        return value

    choices = list(names)
    return click.option("--preset", metavar="NAME", callback=check, help=help)


def run_options(function: F) -> F:
    """What every training has besides: --set, --dry-run and --out."""
    for option in (_out_option, _dry_run_option, _set_option):
        function = option(function)
    return function


_set_option = click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any setting that --dry-run shows."
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Print the settings and stop.")
_out_option = click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """The settings of `--set`, by their flat names. Raises click.BadParameter for what is none."""
    with blame("--set"):
        return dict(parse_assignment(text) for text in assignments)


def configure(base: T, given: Mapping[str, Any], assigned: Mapping[str, Any]) -> T:
    """Settings changed by options, and then by `--set`. Raises click.UsageError for what does not fit."""
    try:
        config = override(base, given)
    except ValueError as error:  # of several settings together: the options have their own limits
        raise click.UsageError(str(error), click.get_current_context()) from error
    with blame("--set"):
        return override(config, assigned)

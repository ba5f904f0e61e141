"""The `clip2gan` command: one file a subcommand, each imported only when it is asked for."""

import contextlib
import difflib
import logging
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from clip2gan.cli._errors import (
    INTERRUPTED,
    command_name,
    describe,
    drop_output,
    escape_streams,
    is_of_output,
    reserve_streams,
)

# name -> what `clip2gan --help` says. The command itself is `command` in cli/NAME.py ("-" written "_").
COMMANDS = {
    "generate": "Make pictures from texts, or variations of a picture.",
    "edit": "Change a picture by words.",
    "invert": "Find the latent codes that give pictures back.",
    "sample": "Draw pictures of a generator by seed, without CLIP.",
    "prepare": "Bring pictures and captions into the training format.",
    "train-mapper": "Train the bridge from CLIP to a frozen generator.",
    "train-gan": "Train a StyleGAN2 on pictures.",
    "train-encoder": "Train the fast start of inversion.",
    "evaluate": "Measure models side by side.",
    "convert": "Read any StyleGAN2 checkpoint; write safetensors, .pt, ONNX.",
    "models": "List the models at hand, with their licences.",
    "doctor": "Check what this machine supports.",
}


class LazyGroup(click.Group):
    """A click group whose help needs none of its commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"clip2gan.cli.{cmd_name.replace('-', '_')}").command
        if not any(parameter.name == "traceback" for parameter in command.params):
            command.params.append(_traceback_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(COMMANDS)}."
            raise click.UsageError(f"no command {name!r}; {remedy}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # click itself would print an empty line first
            raise click.Abort from error
        except OSError as error:
            if not is_of_output(error):
                raise
            drop_output()
            raise click.ClickException(describe(error)) from error  # click itself would end without a word

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _traceback_option() -> click.Option:
    # Only declared here: `main` looks for it itself, because an error can come before any parsing.
    return click.Option(
        ["--traceback"], is_flag=True, expose_value=False, help="Show the Python traceback of an error."
    )


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from clip2gan import __version__

        click.echo(f"clip2gan {__version__}")
        ctx.exit()


group = LazyGroup(
    name="clip2gan",
    help="Pictures from words: CLIP drives a frozen StyleGAN2.",
    epilog="clip2gan COMMAND --help tells about a command.",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        ),
        _traceback_option(),
    ],
)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all went well, 2 for bad arguments, 130 for Ctrl-C, else 1.

    An error is one line on stderr; `--traceback` shows where it came from.
    """
    argv = list(sys.argv[1:] if args is None else args)
    reserve_streams()
    escape_streams()
    warnings = _Warnings()
    for package in ("clip2gan", "stylegan2"):
        logging.getLogger(package).handlers = [warnings]
    try:
        sys.exit(group.main(argv or ["--help"], prog_name="clip2gan", standalone_mode=False) or 0)
    except click.UsageError as error:
        hint = f" ({error.ctx.command_path} --help tells more)" if error.ctx else ""
        _fail(error, argv, f"{error.format_message()}{hint}", error.exit_code)
    except click.ClickException as error:
        _fail(error, argv, error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _fail(error, argv, describe(error, command_name(argv)), INTERRUPTED)
    except Exception as error:
        _fail(error, argv, describe(error, command_name(argv)), 1)


class _Warnings(logging.Handler):
    """The library's warnings as the command's own; what is worth knowing, but no fault, as notes, once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if not getattr(record, "is_note", False):
            click.echo(f"Warning: {message}", err=True)
        elif message not in self._told:
            self._told.add(message)
            click.echo(f"Note: {message}", err=True)


def _fail(error: BaseException, argv: Sequence[str], message: str, code: int) -> NoReturn:
    if "--traceback" in argv:
        traceback.print_exception(error)
    with contextlib.suppress(OSError):  # nobody reads it
        click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)

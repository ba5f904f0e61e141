"""The command line as a whole: quick help, exit codes, one line for every mistake."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click
import pytest
from conftest import Run

import clip2gan
from clip2gan import cli
from clip2gan.cli import _common


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from clip2gan.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'open_clip', 'numpy', 'PIL', 'tqdm', 'huggingface_hub'} & set(sys.modules)\n"
        "print('heavy:', *heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"
    for name, text in cli.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert text in done.stdout


def test_nothing_of_ours_imports_torchs_compiler() -> None:
    """It takes as long as torch itself. open_clip, imported with the first CLIP, brings it as well."""
    script = (
        "import sys, clip2gan.model, clip2gan.editing.session\n"
        "print('torch._dynamo' in sys.modules, 'open_clip' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_commands_help_is_quick_too(name: str) -> None:
    script = (
        f"import sys; from clip2gan.cli import main\n"
        f"try: main([{name!r}, '--help'])\n"
        "except SystemExit as done: assert not done.code\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "--traceback" in done.stdout


def test_every_command_of_the_table_exists_and_has_a_help() -> None:
    context = click.Context(cli.group)
    for name in cli.COMMANDS:
        command = cli.group.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str()


def test_version_is_that_of_the_project(run: Run) -> None:
    assert run("--version") == (0, f"clip2gan {clip2gan.__version__}\n", "")
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{clip2gan.__version__}"' in project or 'dynamic = ["version"]' in project


def test_no_arguments_show_the_help(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.startswith("Usage: clip2gan")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["genrate"], "Error: no command 'genrate'; did you mean 'generate'? (clip2gan --help tells more)\n"),
        (["generate", "--txt", "a"], "Error: No such option"),
        (["generate", "--num", "x", "--text", "a"], "Error: Invalid value for '--num'"),
    ],
)
def test_bad_arguments_exit_2_with_one_line(run: Run, args: list[str], message: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_an_unknown_command_without_a_likeness_names_them_all(run: Run) -> None:
    assert "choose one of generate, edit, invert" in run("zzz")[2]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def callback() -> NoReturn:
        raise error

    monkeypatch.setattr(cli.group, "get_command", lambda *_: click.Command("models", callback=callback))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("x.safetensors: two\nlines"), "Error: x.safetensors: two lines\n"),
        (
            OSError(28, "No space left on device", "a.png"),
            "Error: a.png: No space left on device; free some space, or write to another disk\n",
        ),
        (FileNotFoundError("a.png: no such file"), "Error: a.png: no such file\n"),
        (KeyError("ws"), "Error: KeyError: 'ws' (--traceback shows where)\n"),
        (
            RuntimeError("CUDA out of memory. Tried"),
            "Error: the device is out of memory; choose a smaller batch",
        ),
    ],
)
def test_errors_exit_1_with_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str
) -> None:
    failing(monkeypatch, error)
    code, out, err = run("models")
    assert (code, out) == (1, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
@pytest.mark.parametrize("command", ["models", "train-gan"])
def test_an_interruption_exits_130_with_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, command: str
) -> None:
    failing(monkeypatch, error)
    goes_on = "; run the same command again to go on" if command == "train-gan" else ""
    line = f"Error: interrupted; what was finished is kept, nothing is half-written{goes_on}\n"
    assert run(command) == (130, "", line)


def test_traceback_shows_where_an_error_came_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ValueError("broken"))
    _, _, err = run("--traceback", "models")
    assert "Traceback (most recent call last)" in err
    assert "in callback" in err
    assert err.endswith("Error: broken\n")


def test_traceback_is_an_option_of_each_command(run: Run) -> None:
    code, _, err = run("generate", "--text", "a", "--model", "no-such-model", "--traceback")
    assert code == 2
    assert "Traceback" in err


def test_outputs_that_exist_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    taken = tmp_path / "a.png"
    taken.write_bytes(b"kept")
    with pytest.raises(click.ClickException, match=r"a.png exists already; give --force to overwrite"):
        _common.check_outputs([taken, tmp_path / "b.png"], force=False)
    _common.check_outputs([taken, tmp_path / "new" / "b.png"], force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert taken.read_bytes() == b"kept"


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(click.ClickException, match=r"file is a file, so .*file/out cannot be a folder"):
        _common.check_outputs([tmp_path / "file" / "out" / "a.png"], force=False)
    with pytest.raises(click.ClickException, match=r"is a folder; choose another place"):
        _common.check_outputs([tmp_path], force=True)

    def denied(**_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_common.tempfile, "TemporaryFile", denied)
    with pytest.raises(
        click.ClickException,
        match=r"cannot write to .*: Permission denied; .*, or choose another place",
    ):
        _common.check_outputs([tmp_path / "new" / "a.png"], force=False)


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(_common.progress(range(3), "x")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_models_lists_what_is_bundled(
    run: Run, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("clip2gan.bundle.locate.BUNDLED", tiny_bundle.parent)
    code, out, err = run("models", "--json")
    assert (code, err) == (0, "")
    model, *carried = json.loads(out)
    assert [generator["name"] for generator in carried] == ["faces"]
    assert "non-commercial" in carried[0]["licence"]
    assert model["name"] == "tiny"
    assert model["mappers"] == ["mlp"]
    assert model["licences"] == {"generator": "MIT", "clip": "MIT", "mapper": "MIT"}
    text = run("models")[1]
    assert "tiny: Random weights." in text
    assert "licence of generator  MIT" in text
    monkeypatch.setattr("clip2gan.bundle.locate.BUNDLED", tmp_path)
    assert run("models")[1].startswith("No model comes with this installation")


def test_doctor_gives_a_verdict(run: Run, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.setattr("clip2gan.bundle.locate.BUNDLED", tiny_bundle.parent)
    code, out, err = run("doctor", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["ready"] is True
    assert facts["packages"]["clip2gan"] == clip2gan.__version__
    assert facts["weights"]["tiny"].endswith("whole")
    assert facts["devices"]["cpu"]
    assert run("doctor")[1].splitlines()[-1] == facts["verdict"]


def test_doctor_names_what_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from clip2gan.cli import doctor

    monkeypatch.setattr("clip2gan.bundle.locate.BUNDLED", tmp_path)
    monkeypatch.setitem(doctor.REQUIRED, "no-such-package", "nothing")
    code, out, _ = run("doctor")
    assert code == 1
    last = out.splitlines()[-1]
    assert last.startswith(
        "not ready: no-such-package: not installed; pip install no-such-package; model: none"
    )

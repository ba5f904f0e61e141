"""A list of bad days: each ends in one line that names the file, the cause and what to do about it."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, make_bundle, make_clip, make_generator
from PIL import Image

from clip2gan.cli import main
from clip2gan.cli._errors import describe
from stylegan2 import save_generator
from stylegan2.files import load_tensors, save_tensors

Harm = Callable[[], object]


@dataclass(frozen=True)
class Situation:
    """What is wrong, the command that meets it, and what it says.

    Attributes:
        name: for people.
        harm: does it, in the folder where the command runs.
        words: the command.
        told: the file, the cause and the remedy, as they stand in the line.
        code: that the command ends with; 0 where it goes on, with a warning.
    """

    name: str
    harm: Harm
    words: tuple[str, ...]
    told: tuple[str, ...]
    code: int = 1


# What can happen to a file


def nothing() -> None:
    pass


def write(path: str, content: str | bytes) -> Harm:
    data = content.encode() if isinstance(content, str) else content
    return lambda: Path(path).write_bytes(data)


def cut(path: str) -> Harm:
    return lambda: os.truncate(path, Path(path).stat().st_size // 2)


def remove(path: str) -> Harm:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def make_folder(path: str) -> Harm:
    def harm() -> None:
        Path(path).unlink(missing_ok=True)
        Path(path).mkdir()

    return harm


def make_file(path: str) -> Harm:
    def harm() -> None:
        shutil.rmtree(path, ignore_errors=True)
        Path(path).write_text("x")

    return harm


def copy(source: str, target: str) -> Harm:
    return lambda: shutil.copyfile(source, target)


def break_pictures() -> None:
    for path in Path("pictures").glob("*.png"):
        path.write_bytes(b"hello")


def begin_again_with_a_folder() -> None:
    make_folder("gan/log.jsonl")()
    for path in Path("gan/checkpoints").iterdir():
        path.unlink()


def newest(folder: str) -> str:
    return str(max(Path(folder, "checkpoints").glob("0*.safetensors")))


def change_header(**changes: object) -> Harm:
    """Change entries of the header of run/'s newest checkpoint; None takes one out."""

    def harm() -> None:
        tensors, header = load_tensors(path := newest("run"))
        header |= changes
        save_tensors(path, tensors, {name: value for name, value in header.items() if value is not None})

    return harm


def prepared(change: Harm) -> Harm:
    """A whole pictures.zip, before what happens to it."""

    def harm() -> None:
        with zipfile.ZipFile("pictures.zip", "w") as archive:
            for path in sorted(Path("pictures").iterdir()):
                archive.write(path, path.name)
        change()

    return harm


# The commands

GENERATE = ("generate", "--model", "model", "--device", "cpu", "--text", "a", "--out", "o.png")
SAMPLE = ("sample", "--generator", "g.safetensors", "--device", "cpu", "--seeds", "0-1", "--out")
INVERT = (
    "invert",
    "--model",
    "model",
    "--device",
    "cpu",
    "--image",
    "pictures/0.png",
    "--steps",
    "1",
    "--out",
)
EDIT = ("edit", "--model", "model", "--device", "cpu", "--attr", "a", "--steps", "1", "--image")
EVALUATE = ("evaluate", "--model", "model", "--prompts", "prompts.txt", "--num", "2", "--out")
PREPARE = ("prepare", "pictures", "p.zip", "--processes", "1")
TRAIN_GAN = (
    *("train-gan", "--data", "pictures", "--device", "cpu", "--no-half", "--resolution", "16"),
    *("--preset", "small", "--batch", "2", "--mapping-steps", "1", "--autoencoder-images", "2"),
    *("--adversarial-images", "2", "--set", "generator.channel_base=64", "--set", "generator.channel_max=8"),
    *("--set", "generator.z_dim=8", "--set", "generator.w_dim=8", "--set", "generator.mapping_layers=1"),
    "--out",
)
TRAIN_MAPPER = (
    *("train-mapper", "--generator", "g.safetensors", "--clip", "local-dir:clip", "--samples", "8"),
    *("--steps", "2", "--batch", "2", "--device", "cpu", "--prompts", "prompts.txt", "--precision", "fp32"),
    *("--set", "warmup_steps=1", "--set", "warmup_batch=2", "--set", "mapper_settings.width=8"),
    *("--set", "mapper_settings.layers=2", "--out"),
)
TRAIN_ENCODER = (
    *("train-encoder", "--model", "model", "--steps", "1", "--batch", "2", "--device", "cpu"),
    *("--set", "channel_base=64", "--set", "channel_max=8", "--out", "enc"),
)
DEEP, LATIN = "[" * 100_000, '{"name": "caf\xe9"}'.encode("latin-1")
LONG = "x" * 251 + ".png"  # 255 bytes, as many as file systems take
TOO_LONG = "File name too long", "shorter name"
AGAIN, UNREADABLE = "get the model again", "not readable as JSON"
CONFIG, CLIP_CONFIG = "model/config.json", "model/clip/open_clip_config.json"
WEIGHTS = "model/clip/open_clip_model.safetensors"
RUN_CONFIG, RUN_LOG, BEST = "run/config.json", "run/log.jsonl", "run/checkpoints/best.safetensors"
LAST_MAPPER = "the mapper of the last step takes its place"
MAP_ON = (*TRAIN_MAPPER, "run")
GOES_ON = "the training goes on from step"
GAN_NEWEST = "gan/checkpoints/00000003.safetensors"

BUNDLES = [
    Situation("empty config", write(CONFIG, ""), GENERATE, (CONFIG, UNREADABLE, AGAIN)),
    Situation("cut config", cut(CONFIG), GENERATE, (CONFIG, UNREADABLE, AGAIN)),
    Situation("config of another type", write(CONFIG, "[]"), GENERATE, (CONFIG, "format_version", AGAIN)),
    Situation("deep config", write(CONFIG, DEEP), GENERATE, (CONFIG, UNREADABLE, AGAIN)),
    Situation("config in Latin-1", write(CONFIG, LATIN), GENERATE, (CONFIG, "utf-8", AGAIN)),
    Situation("no config", remove(CONFIG), GENERATE, ("model", "no config.json", "give another folder"), 2),
    Situation(
        "empty generator",
        write("model/generator.safetensors", ""),
        GENERATE,
        ("model/generator.safetensors", "empty", "get it again"),
    ),
    Situation(
        "no generator",
        remove("model/generator.safetensors"),
        GENERATE,
        ("model/generator.safetensors", "no such file", "get it again"),
    ),
    Situation(
        "generator is a mapper",
        copy("model/mapper-mlp.safetensors", "model/generator.safetensors"),
        GENERATE,
        ("model/generator.safetensors", "does not describe a StyleGAN2 generator", "get it again"),
    ),
    Situation(
        "empty mapper",
        write("model/mapper-mlp.safetensors", ""),
        GENERATE,
        ("model/mapper-mlp.safetensors", "header too small", "make it again"),
    ),
    Situation(
        "no mapper",
        remove("model/mapper-mlp.safetensors"),
        GENERATE,
        ("model/mapper-mlp.safetensors", "no such file", "get it again"),
    ),
    Situation(
        "mapper is a gap",
        copy("model/gap.safetensors", "model/mapper-mlp.safetensors"),
        GENERATE,
        ("model/mapper-mlp.safetensors", "does not describe a mapper", "get it again"),
    ),
    Situation(
        "cut gap",
        cut("model/gap.safetensors"),
        GENERATE,
        ("model/gap.safetensors", "file not fully covered", "make it again"),
    ),
    Situation(
        "gap is a mapper",
        copy("model/mapper-mlp.safetensors", "model/gap.safetensors"),
        GENERATE,
        ("model/gap.safetensors", "unknown gap 'mlp'", "get it again"),
    ),
    Situation("empty CLIP config", write(CLIP_CONFIG, ""), GENERATE, (CLIP_CONFIG, UNREADABLE, AGAIN)),
    Situation("deep CLIP config", write(CLIP_CONFIG, DEEP), GENERATE, (CLIP_CONFIG, UNREADABLE, AGAIN)),
    Situation(
        "no CLIP config",
        remove(CLIP_CONFIG),
        GENERATE,
        ("model/clip", "no open_clip_config.json in it", "get it again"),
    ),
    Situation("cut CLIP", cut(WEIGHTS), GENERATE, (WEIGHTS, "not a readable file", "get it again")),
    Situation(
        "no CLIP", remove("model/clip"), GENERATE, ("model/clip", "no such folder of a CLIP", "get it again")
    ),
]

RUNS = [
    Situation("empty config", write(RUN_CONFIG, ""), MAP_ON, (RUN_CONFIG, "damaged", "--out")),
    Situation("deep config", write(RUN_CONFIG, DEEP), MAP_ON, (RUN_CONFIG, "damaged", "--out")),
    Situation("no config", remove(RUN_CONFIG), MAP_ON, ("run", "not empty", "choose another --out")),
    Situation(
        "config of another run",
        copy("gan/config.json", RUN_CONFIG),
        MAP_ON,
        ("run", "begun with other settings", "another --out"),
    ),
    Situation(
        "empty checkpoint",
        lambda: Path(newest("run")).write_bytes(b""),
        MAP_ON,
        ("run/checkpoints/00000003.safetensors", "header too small", f"{GOES_ON} 1"),
        0,
    ),
    Situation(
        "checkpoint of another run",
        change_header(run="another"),
        MAP_ON,
        ("run/checkpoints/00000003.safetensors", "of another run", f"{GOES_ON} 1"),
        0,
    ),
    Situation(
        "checkpoint under another name",
        lambda: shutil.copyfile(newest("run"), "run/checkpoints/00000009.safetensors"),
        MAP_ON,
        ("run/checkpoints/00000009.safetensors", "not the checkpoint that its name says", f"{GOES_ON} 3"),
        0,
    ),
    Situation(
        "checkpoint without figures",
        change_header(figures=None),
        MAP_ON,
        ("run/checkpoints/00000003.safetensors", "no 'figures'", "remove it"),
    ),
    Situation(
        "checkpoint without tensors",
        lambda: save_tensors(newest("run"), {}, load_tensors(newest("run"))[1]),
        MAP_ON,
        ("run/checkpoints/00000003.safetensors", "does not fit mapper", "remove it"),
    ),
    Situation(
        "all checkpoints cut",
        lambda: [os.truncate(path, 100) for path in Path("gan/checkpoints").iterdir()],
        (*TRAIN_GAN, "gan"),
        (GAN_NEWEST, "not a readable safetensors file", f"{GOES_ON} 0"),
        0,
    ),
    Situation("no best", remove(BEST), MAP_ON, (BEST, "no such file", LAST_MAPPER), 0),
    Situation("cut best", cut(BEST), MAP_ON, (BEST, "not fully covered", LAST_MAPPER), 0),
    Situation(
        "best of another run",
        copy("model/mapper-mlp.safetensors", BEST),
        MAP_ON,
        (BEST, "of another training", LAST_MAPPER),
        0,
    ),
    Situation(
        "checkpoints is a file",
        make_file("gan/checkpoints"),
        (*TRAIN_GAN, "gan"),
        ("gan/checkpoints", "File exists", "move what is there away"),
    ),
    Situation(
        "log is a folder",
        begin_again_with_a_folder,
        (*TRAIN_GAN, "gan"),
        ("gan/log.jsonl", "Is a directory", "name a file"),
    ),
    Situation(
        "bundle holds a thesis",
        write("run/bundle/thesis.tex", "x"),
        MAP_ON,
        ("run/bundle", "holds other things than a model", "move them away"),
    ),
    Situation(
        "a folder of something else",
        lambda: Path("enc/thesis").mkdir(parents=True),
        TRAIN_ENCODER,
        ("enc", "not empty", "choose another --out"),
    ),
]

NAMES = [
    Situation("generate", nothing, (*GENERATE[:-1], f"x{LONG}"), (f"x{LONG}", *TOO_LONG)),
    Situation("generate into", nothing, (*GENERATE[:-1], "y" * 256), ("y" * 256, *TOO_LONG)),
    Situation("sample's video", nothing, (*SAMPLE, "s", "--video", "v" * 260 + ".gif"), ("vvv", *TOO_LONG)),
    Situation(
        "edit's sheet", nothing, (*EDIT, "pictures/0.png", "--sheet", "--out", LONG), ("-sheet", *TOO_LONG)
    ),
    Situation(
        "convert", nothing, ("convert", "g.safetensors", "z" * 250 + ".safetensors"), ("zzz", *TOO_LONG)
    ),
    Situation("prepare", nothing, ("prepare", "pictures", "z" * 251 + ".zip"), ("zzz", *TOO_LONG)),
    Situation("evaluate", nothing, (*EVALUATE, "e" * 256 + ".json"), ("eee", *TOO_LONG)),
    Situation("a training", nothing, (*TRAIN_GAN, "r" * 256), ("rrr", *TOO_LONG)),
    Situation("a model", nothing, (*GENERATE[:2], "m" * 256, *GENERATE[3:]), ("mmm", *TOO_LONG)),
    Situation("data", nothing, (*TRAIN_GAN[:2], "d" * 256, *TRAIN_GAN[3:], "r"), ("ddd", *TOO_LONG)),
    Situation(
        "a folder is a file",
        nothing,
        (*GENERATE[:-1], "prompts.txt"),
        ("prompts.txt", "is a file, not a folder", "choose another place"),
    ),
    Situation(
        "a parent is a file",
        nothing,
        (*TRAIN_GAN, "prompts.txt/run"),
        ("prompts.txt/run", "Not a directory", "choose another place"),
    ),
    Situation(
        "a file is a folder",
        make_folder("h.safetensors"),
        ("convert", "g.safetensors", "h.safetensors"),
        ("h.safetensors", "is a folder", "choose another place"),
    ),
    Situation(
        "where nobody can write",
        nothing,
        (*GENERATE[:-1], "/proc/nothing/o.png"),
        ("/proc", "No such file or directory", "choose another place"),
    ),
]

INPUTS = [
    Situation(
        "empty prompts",
        write("e.txt", ""),
        (*GENERATE[:5], "--prompts", "e.txt"),
        ("e.txt", "no text in it", "one text a line"),
        2,
    ),
    Situation(
        "prompts in Latin-1",
        write("e.txt", LATIN),
        (*GENERATE[:5], "--prompts", "e.txt"),
        ("e.txt", "not a text file in UTF-8", "one text a line"),
        2,
    ),
    Situation(
        "empty folder of pictures",
        make_folder("e"),
        (*EDIT, "e", "--out", "o"),
        ("e: ", "no pictures in this folder", "give another folder"),
        2,
    ),
    Situation(
        "empty zip of pictures",
        write("e.zip", ""),
        (*TRAIN_GAN[:2], "e.zip", *TRAIN_GAN[3:], "r"),
        ("e.zip", "File is not a zip file", "make it again"),
        2,
    ),
    Situation(
        "cut zip of pictures",
        prepared(cut("pictures.zip")),
        (*TRAIN_GAN[:2], "pictures.zip", *TRAIN_GAN[3:], "r"),
        ("pictures.zip", "File is not a zip file", "make it again"),
        2,
    ),
    Situation(
        "empty latents",
        write("l.safetensors", ""),
        (*EDIT, "pictures/0.png", "--latents", "l.safetensors", "--out", "o.png"),
        ("l.safetensors", "not a readable safetensors file", "make it again"),
        2,
    ),
    Situation(
        "a deep setting",
        nothing,
        (*TRAIN_GAN[:-1], "--set", f"batch={DEEP}", "--out", "r"),
        ("--set", "'batch': the value nests too deeply", "--help"),
        2,
    ),
    Situation(
        "a setting of another type",
        nothing,
        (*TRAIN_MAPPER[:-1], "--set", 'gap=["knn"]', "--out", "r"),
        ("--set", "gap must be str, got ['knn']", "--help"),
        2,
    ),
    Situation(
        "too few samples",
        nothing,
        (*TRAIN_MAPPER[:-1], "--samples", "3", "--out", "r"),
        ("--samples", "3 is not in the range", "x>=4"),
        2,
    ),
    Situation(
        "a state of nothing",
        nothing,
        (*TRAIN_GAN[:-1], "--init", "model/gap.safetensors", "--out", "r"),
        ("model/gap.safetensors", "no synthesis network", "give a checkpoint of train-gan"),
        2,
    ),
    Situation(
        "a state of another shape",
        nothing,
        (*TRAIN_GAN[:-1], "--init", "g.safetensors", "--out", "r"),
        ("g.safetensors", "does not fit encoder", "of a run of the same shape"),
        2,
    ),
    Situation(
        "the cache is a file",
        lambda: os.environ.update(XDG_CACHE_HOME=os.path.abspath("prompts.txt")),
        ("sample", "--generator", "https://127.0.0.1:9/x.pkl"),
        ("prompts.txt/", "the cache cannot be made (Not a directory)", "set XDG_CACHE_HOME"),
    ),
]


def full(bytes_: int) -> Harm:
    """No file may grow beyond so many bytes, as if the disk were full there."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))


FULL = "cannot be written (File too large)", "raise the limit of file sizes (ulimit -f)"
FULL_DISKS = [
    Situation("generate", full(500), GENERATE, ("o.png", *FULL)),
    Situation("sample", full(500), (*SAMPLE, "s"), ("s/seed0000.png", *FULL)),
    Situation("invert", full(500), (*INVERT, "l.safetensors"), ("l.safetensors", *FULL)),
    Situation("invert to .npz", full(500), (*INVERT, "l.npz"), ("l.npz", *FULL)),
    Situation("edit", full(500), (*EDIT, "pictures/0.png", "--out", "e.png"), ("e.png", *FULL)),
    Situation("edit a folder", full(500), (*EDIT, "pictures", "--out", "e"), ("e/0.png", *FULL)),
    Situation("convert", full(3000), ("convert", "g.safetensors", "h.safetensors"), ("h.safetensors", *FULL)),
    Situation("prepare", full(500), PREPARE, ("p.zip.part/", *FULL)),
    Situation("evaluate", full(500), (*EVALUATE, "e.json"), ("e.json", *FULL)),
    Situation("train-gan's settings", full(500), (*TRAIN_GAN, "r"), ("r/config.json", *FULL)),
    Situation("train-gan's preview", full(1500), (*TRAIN_GAN, "r"), ("r/samples/00000001.png", *FULL)),
    Situation("train-mapper's bundle", full(30_000), (*TRAIN_MAPPER, "r"), ("r/bundle", *FULL)),
]


# The place where they happen


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model, pictures, and the finished runs run/ (a mapper) and gan/."""
    folder = tmp_path_factory.mktemp("material")
    make_bundle(folder / "model", make_clip(folder / "clip"))
    save_generator(make_generator(), folder / "g.safetensors")
    (folder / "pictures").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
    (folder / "prompts.txt").write_text("a\nb\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clip2gan.training.mapper.PREVIEWS", 1)
        patch.setattr("clip2gan.training.validation.PREVIEW_PROMPTS", 2)
        patch.setattr("clip2gan.training.mapper.CALIBRATION_SHARE", 0.0)
        patch.chdir(folder)
        for words in (MAP_ON, (*TRAIN_GAN, "gan")):
            with pytest.raises(SystemExit) as done:
                main(list(words))
            assert done.value.code == 0
        yield folder


@pytest.fixture
def place(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the material, where the test runs."""
    shutil.copytree(material, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield tmp_path / "here"
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def check(situation: Situation, run: Run, place: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    situation.harm()
    code, _, err = run(*situation.words)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "Traceback" not in err
    assert code == situation.code, err
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == int(situation.code != 0)
    lines = errors or [line for line in err.splitlines() if line.startswith("Warning: ")]
    assert any(all(words in line for words in situation.told) for line in lines), err
    assert not list(place.rglob(".*")), "temporary files are left"


def named(situations: list[Situation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("situation", situations, ids=[situation.name for situation in situations])


@named(BUNDLES)
def test_damaged_models(situation: Situation, run: Run, place: Path) -> None:
    check(situation, run, place)


@named(RUNS)
def test_damaged_runs(situation: Situation, run: Run, place: Path) -> None:
    check(situation, run, place)


@named(NAMES)
def test_names_that_cannot_be(situation: Situation, run: Run, place: Path) -> None:
    check(situation, run, place)


@named(INPUTS)
def test_unusable_inputs(situation: Situation, run: Run, place: Path) -> None:
    check(situation, run, place)


@named(FULL_DISKS)
def test_full_disks(situation: Situation, run: Run, place: Path) -> None:
    check(situation, run, place)


def test_the_list_is_as_long_as_promised() -> None:
    every = [*BUNDLES, *RUNS, *NAMES, *INPUTS, *FULL_DISKS]
    assert len(every) >= 60
    assert all(len(situation.told) == 3 for situation in every)


def test_a_log_of_anything_is_no_obstacle(run: Run, place: Path) -> None:
    """Lines that are no records are dropped; a finished run stays finished."""
    for content in (b"", b"[]\n3\n{}\n", b'{"step": "x", "seconds": 1}\n', b"\xff\xfe\n", DEEP.encode()):
        Path("gan/log.jsonl").write_bytes(content)
        code, out, err = run(*TRAIN_GAN, "gan")
        assert (code, "Error" in err) == (0, False), err
        assert "all of its 3 steps are done" in out


def test_a_finished_run_writes_its_results_again(run: Run, place: Path) -> None:
    """A kill may have come between the last checkpoint and what follows from it."""
    generator = Path("gan/generator.safetensors")
    whole = generator.read_bytes()
    for harm in (write(str(generator), "of an earlier step"), remove(str(generator))):
        harm()
        assert run(*TRAIN_GAN, "gan")[0] == 0
        assert generator.read_bytes() == whole
    shutil.rmtree("run/bundle")
    assert run(*MAP_ON)[0] == 0
    assert Path("run/bundle/config.json").is_file()


def test_the_fewest_samples_make_a_model(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip2gan.training.mapper.CALIBRATION_SHARE", 0.0)
    words = (*TRAIN_MAPPER[:-1], "--samples", "4", "--gap", "posterior", "--out", "few")
    assert run(*words)[0] == 0
    assert run(*GENERATE[:2], "few/bundle", *GENERATE[3:])[0] == 0


# Memory


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            "out of",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "the device is out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    ],
)
def test_out_of_memory_says_what_to_make_smaller(error: Exception, what: str) -> None:
    remedies = {
        "train-mapper": "--batch",
        "train-gan": "--resolution",
        "invert": "--batch 1",
        "sample": "resolution",
    }
    for command, remedy in remedies.items():
        message = describe(error, command)
        assert message.startswith(what)
        assert remedy in message


def test_memory_that_a_picture_is_refused_is_no_damage_of_it(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a training would go on with other pictures than it has."""
    load = Image.Image.load

    def refuse(self: Image.Image) -> object:
        if self.size == (32, 32) and self.format == "PNG":
            raise MemoryError
        return load(self)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    for words in (PREPARE, (*TRAIN_GAN, "fresh")):
        code, _, err = run(*words)
        assert code == 1
        assert err.splitlines()[-1].startswith("Error: out of memory; give ")


@pytest.mark.slow
def test_memory_that_is_really_refused(place: Path) -> None:
    script = (
        "import resource, sys, torch, open_clip\n"
        "import clip2gan.cli.generate, clip2gan.model, clip2gan.cli.sample\n"
        "from clip2gan.cli import main\n"
        "torch.set_num_threads(1)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 12 * 2**20,) * 2)\n"
        "main(sys.argv[1:])\n"
    )
    done = run_script(script, *GENERATE)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: out of memory; choose a smaller batch or resolution")
    assert done.stderr.count("\n") == 1


# Output that nobody takes


def run_script(script: str, *words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", script, *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, env=environment, **options)


MODELS = "from clip2gan.cli import main; main(['models'])"


def test_a_reader_that_ends_early() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run_script(MODELS, stdout=writing)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: standard output: its reader ended")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_to_a_full_disk() -> None:
    with Path("/dev/full").open("w") as file:
        done = run_script(MODELS, stdout=file)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: standard output: No space left on device; free some space")
    assert done.stderr.count("\n") == 1


def test_a_closed_output_is_no_file(tmp_path: Path) -> None:
    """The number of a closed stream is given to no file, into which a library would print."""
    script = f"import os; os.close(1); {MODELS.replace('; main', '; import sys; sys.stdout = None; main')}"
    done = run_script(script)
    assert (done.returncode, done.stderr) == (0, "")


# Disks that are really full, or can only be read


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk: disk("size=64k") -> its folder."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


ON_FULL = {
    "sample": (*SAMPLE, "{}/s", "--grid"),
    "a video": (*SAMPLE[:-1], "--video", "{}/v.gif", "--frames", "40"),
    "convert": ("convert", "g.safetensors", "{}/h.safetensors"),
    "prepare": ("prepare", "pictures", "{}/p.zip", "--processes", "1"),
    "train-gan": (*TRAIN_GAN, "{}/r"),
    "train-mapper": (*TRAIN_MAPPER, "{}/r"),
    "train-encoder": (*TRAIN_ENCODER[:-1], "{}/r"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ON_FULL)
def test_a_full_disk_for_the_results(
    command: str, run: Run, place: Path, disk: Callable[[str], Path]
) -> None:
    folder = disk("size=8k")
    code, _, err = run(*(word.format(folder) for word in ON_FULL[command]))
    line = err.splitlines()[-1]
    assert code == 1
    assert line.startswith(f"Error: {folder}/")
    assert "cannot be written (" in line
    assert "free some space" in line
    assert not list(folder.rglob(".*"))


@pytest.mark.slow
def test_a_full_disk_for_the_cache_costs_time_alone(
    run: Run, place: Path, disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk("size=4k")
    (folder / "x").write_bytes(bytes(4096))
    for options in ("size=4k", "ro"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder if options != "ro" else disk("ro")))
        words = (*GENERATE[:5], "--image", "pictures/0.png", "--out", f"{options}.png")
        assert run(*words)[0] == 0
        assert Path(f"{options}.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/nonexistent", "read-only"])
def test_a_home_that_is_not_there_costs_time_alone(
    home: str, run: Run, place: Path, disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(disk("ro")) if home == "read-only" else home)
    assert run(*GENERATE)[0] == 0
    assert run(*TRAIN_GAN, "fresh")[0] == 0


@pytest.mark.slow
def test_a_disk_that_can_only_be_read(run: Run, place: Path, disk: Callable[[str], Path]) -> None:
    folder = disk("ro")
    for words in ((*GENERATE[:-1], f"{folder}/o.png"), (*TRAIN_GAN, f"{folder}/r")):
        code, _, err = run(*words)
        line = err.splitlines()[-1]
        assert code == 1
        assert str(folder) in line
        assert "Read-only file system" in line
        assert "choose a folder that can be written" in line

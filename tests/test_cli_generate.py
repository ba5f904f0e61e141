"""`clip2gan generate`: the files it promises, and one line for every bad input."""

import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image

from clip2gan.clip import ClipEncoder
from clip2gan.drawing import Drawing
from clip2gan.images import read_metadata
from clip2gan.model import Model


@pytest.fixture
def generate(run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `clip2gan generate --model tiny` in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda *args: run("generate", "--model", tiny_bundle, "--device", "cpu", *args)


def files(folder: str | Path = ".") -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_pictures_get_the_names_and_the_metadata_they_promise(generate: Run, tiny: Model) -> None:
    code, out, err = generate(
        "--text", "A smiling face", "--text", "a beard!", "--num", 2, "--seed", 3, "--out", "o"
    )
    assert (code, err) == (0, "")
    assert files("o") == [
        "000-a-smiling-face-seed3.png",
        "001-a-smiling-face-seed4.png",
        "002-a-beard-seed3.png",
        "003-a-beard-seed4.png",
    ]
    assert "wrote o/003-a-beard-seed4.png" in out
    with Image.open("o/003-a-beard-seed4.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (32, 32))
        assert picture.tobytes() == tiny.generate("a beard!", seed=4)[0].tobytes()
    metadata = read_metadata("o/003-a-beard-seed4.png")
    assert metadata is not None
    expected = {"command": "generate", "text": "a beard!", "seed": 4, "truncation": 0.7, "mapper": "mlp"}
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["model"] == tiny.name
    assert metadata["fingerprint"] == tiny.bundle.fingerprint
    assert metadata["versions"]["torch"] == torch.__version__


def test_the_same_command_writes_the_same_bytes_whatever_the_batch(generate: Run) -> None:
    for folder, args in {"a": ["--num", 3], "b": ["--num", 3], "c": ["--num", 1, "--seed", 2]}.items():
        assert generate("--text", "x", "--out", folder, *args)[0] == 0
    for name in files("a"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    assert Path("c/000-x-seed2.png").read_bytes() == Path("a/002-x-seed2.png").read_bytes()


def test_one_picture_can_go_to_a_file_of_any_name(generate: Run) -> None:
    assert generate("--text", "x", "--out", "deep/down/face.png")[0] == 0
    assert files() == ["deep/down/face.png"]


def test_out_is_the_default_folder(generate: Run) -> None:
    assert generate("--text", "x")[0] == 0
    assert files() == ["out/000-x-seed0.png"]


def test_a_prompts_file(generate: Run) -> None:
    Path("prompts.txt").write_text("a hat\n\n  微笑  \n😀\n", encoding="utf-8-sig")
    assert generate("--prompts", "prompts.txt", "--out", "o")[0] == 0
    assert files("o") == ["000-a-hat-seed0.png", "001-微笑-seed0.png", "002-text-seed0.png"]


def test_variations_of_a_picture(generate: Run, picture: Path) -> None:
    assert generate("--image", picture, "--num", 2, "--out", "o")[0] == 0
    assert files("o") == ["000-picture-seed0.png", "001-picture-seed1.png"]
    metadata = read_metadata("o/001-picture-seed1.png")
    assert metadata is not None
    assert metadata["image"] == "picture.png"


def test_a_grid_beside_the_pictures_or_alone(generate: Run) -> None:
    args = ["--text", "a", "--text", "b", "--num", 3, "--grid"]
    assert generate(*args, "--out", "o")[0] == 0
    assert len(files("o")) == 7
    with Image.open("o/grid.png") as sheet:
        assert sheet.size == (3 * 32 + 2 * 2, 2 * 32 + 2)
    assert generate(*args, "--out", "sheet.png")[0] == 0
    assert Path("sheet.png").read_bytes() == Path("o/grid.png").read_bytes()


def test_json_is_all_that_goes_to_stdout(generate: Run) -> None:
    code, out, err = generate("--text", "a", "--num", 2, "--json", "--out", "o")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert [file["path"] for file in result["files"]] == ["o/000-a-seed0.png", "o/001-a-seed1.png"]
    assert [file["seed"] for file in result["files"]] == [0, 1]
    assert result["truncation"] == 0.7


def test_style_from_a_seed_and_from_a_picture(generate: Run, picture: Path, tiny: Model) -> None:
    assert generate("--text", "a", "--style-from", 7, "--out", "seed.png")[0] == 0
    assert generate("--text", "a", "--style-from", picture, "--out", "image.png")[0] == 0
    with Image.open("seed.png") as styled:
        expected = tiny.generate("a", style=tiny.style(7))[0]
        assert styled.tobytes() == expected.tobytes()
    assert Path("image.png").read_bytes() != Path("seed.png").read_bytes()


def test_a_picture_of_another_kind_is_told(generate: Run, run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save("teal.png")
    code, _, err = run("generate", "--image", "teal.png", "--device", "cpu", "--out", "o.png")
    assert code == 0
    assert err.startswith("Warning: teal.png: this does not look like the pictures that the model makes")
    assert err.count("\n") == 1


def test_a_text_beyond_the_context_is_cut_with_a_warning(generate: Run) -> None:
    code, _, err = generate("--text", "word " * 10_000, "--out", "o")
    assert code == 0
    assert err == (
        "Warning: CLIP reads 16 tokens; the end of 'word word word word word word word word ...' is cut off\n"
    )
    [name] = files("o")
    assert len(name) < 100


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either --text, --prompts or --image (clip2gan generate --help tells more)"),
        (["--text", "a", "--image", "picture.png"], "give either --text, --prompts or --image"),
        (["--text", ""], "Invalid value for '--text': the text is empty; say what the picture shows"),
        (["--text", " \n"], "Invalid value for '--text': the text is empty"),
        (["--text", "\udcff"], "Invalid value for '--text': "),
        (["--prompts", "no.txt"], "Invalid value for '--prompts': File 'no.txt' does not exist."),
        (["--prompts", "blank.txt"], "Invalid value for '--prompts': blank.txt has no text in it"),
        (
            ["--prompts", "picture.png"],
            "Invalid value for '--prompts': picture.png is not a text file in UTF-8",
        ),
        (["--text", "a", "--num", "0"], "Invalid value for '--num': 0 is not in the range"),
        (["--text", "a", "--num", "-1"], "Invalid value for '--num': -1 is not in the range"),
        (["--text", "a", "--seed", "-1"], "Invalid value for '--seed': -1 is not in the range"),
        (["--text", "a", "--rerank", "0"], "Invalid value for '--rerank': 0 is not in the range"),
        (
            ["--text", "a", "--truncation", "nan"],
            "Invalid value for '--truncation': 'nan' is not a finite number",
        ),
        (
            ["--text", "a", "--truncation", "-0.1"],
            "Invalid value for '--truncation': -0.1 is not in the range",
        ),
        (["--image", "no.png"], "Invalid value for '--image': File 'no.png' does not exist."),
        (["--image", "folder"], "Invalid value for '--image': File 'folder' is a directory."),
        (["--text", "a", "--model", "avatrs"], "Invalid value for '--model': unknown model 'avatrs'"),
        (["--text", "a", "--mapper", "flow"], "Invalid value for '--mapper': "),
        (["--text", "a", "--device", "tpu"], "Invalid value for '--device': 'tpu' is not one of"),
        (
            ["--text", "a", "--out", "a.jpg"],
            "Invalid value for '--out': a.jpg: pictures are written as PNG; name it a.png",
        ),
        (
            ["--text", "a", "--num", "2", "--out", "a.png"],
            "Invalid value for '--out': a.png takes one picture, 2 are",
        ),
        (
            ["--text", "a", "--style-from", "no"],
            "Invalid value for '--style-from': 'no' is neither a seed nor a picture's",
        ),
        (["--text", "a", "--style-from", "9" * 20], "Invalid value for '--style-from': seed 9"),
    ],
)
def test_bad_arguments_exit_2(generate: Run, picture: Path, args: list[str], message: str) -> None:
    Path("folder").mkdir()
    Path("blank.txt").write_text("\n \n")
    shutil.copy(picture, "picture.png")
    before = files()
    code, out, err = generate(*args)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1
    assert files() == before


def test_no_cuda(generate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = generate("--text", "a", "--device", "cuda")
    assert (code, out) == (2, "")
    assert err.startswith(
        "Error: Invalid value for '--device': cuda is not available on this machine; use --device cpu"
    )
    assert files() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file, not a picture"),
        (b"<html>", "not a picture: it looks like an HTML page"),
        (b"\x89PNG\r\n\x1a\n\x00", "a damaged picture (cannot read this header)"),
    ],
)
def test_bad_pictures_exit_1(generate: Run, content: bytes, message: str) -> None:
    Path("face.png").write_bytes(content)
    code, out, err = generate("--image", "face.png")
    assert (code, out) == (1, "")
    assert err.startswith("Error: face.png: ")
    assert err.count("\n") == 1
    assert files() == ["face.png"]


def test_a_truncated_picture(generate: Run, picture: Path) -> None:
    Path("face.png").write_bytes(picture.read_bytes()[:-40])
    code, _, err = generate("--image", "face.png")
    assert code == 1
    assert err.startswith("Error: face.png: a damaged or cut off PNG picture (")


def test_existing_files_are_kept_without_force(generate: Run) -> None:
    Path("face.png").write_bytes(b"mine")
    code, _, err = generate("--text", "a", "--out", "face.png")
    assert (code, err) == (
        1,
        "Error: face.png exists already; give --force to overwrite, or choose another place\n",
    )
    assert Path("face.png").read_bytes() == b"mine"
    assert generate("--text", "a", "--out", "face.png", "--force")[0] == 0
    assert read_metadata("face.png") is not None


def test_a_folder_in_the_way_of_a_file(generate: Run) -> None:
    Path("out").touch()
    code, _, err = generate("--text", "a")
    assert (code, err) == (1, "Error: out is a file, not a folder; choose another place\n")


def test_a_full_disk_keeps_what_is_whole(generate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Image.Image.save

    def second_fails(self: Image.Image, path: Path, *args: object, **options: object) -> None:
        save(self, path, *args, **options)  # type: ignore[arg-type]
        if "001" in Path(path).name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", second_fails)
    code, _, err = generate("--text", "a", "--num", 3, "--out", "o")
    remedy = "free some space, or write to another disk"
    told = f"Error: o/001-a-seed1.png: cannot be written (No space left on device); {remedy}\n"
    assert (code, err) == (1, told)
    assert files("o") == ["000-a-seed0.png"]


def test_an_interrupt_leaves_whole_files_only(generate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Model.draw

    def interrupted(self: Model, prompt: object, seed: int, **options: object) -> Image.Image:
        if seed == 2:
            raise KeyboardInterrupt
        return draw(self, prompt, seed, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "draw", interrupted)
    code, _, err = generate("--text", "a", "--num", 3, "--out", "o")
    assert (code, err) == (130, "Error: interrupted; what was finished is kept, nothing is half-written\n")
    assert files("o") == ["000-a-seed0.png", "001-a-seed1.png"]


@pytest.mark.parametrize(
    "part", ["generator.safetensors", "mapper-mlp.safetensors", "clip/open_clip_model.safetensors"]
)
def test_a_damaged_model_is_one_line(run: Run, tiny_bundle: Path, tmp_path: Path, part: str) -> None:
    model = shutil.copytree(tiny_bundle, tmp_path / "model")
    (model / part).write_bytes((model / part).read_bytes()[:-100])
    code, out, err = run("generate", "--text", "a", "--model", model, "--out", tmp_path / "o")
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {model / part}: not a readable ")
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_bad_arguments_are_found_before_the_model_is_loaded(
    generate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded in vain")

    monkeypatch.setattr(ClipEncoder, "load", load)
    Path("a.png").touch()
    assert generate("--text", "a", "--mapper", "flow")[0] == 2
    assert generate("--text", "a", "--out", "a.png")[0] == 1


@pytest.mark.slow
def test_a_compiled_generator_draws_the_same(run: Run, tmp_path: Path):
    for name, options in (("plain.png", []), ("compiled.png", ["--compile"])):
        code, _, err = run(
            "generate", "--text", "a face", "--device", "cpu", "--out", tmp_path / name, *options
        )
        assert code == 0, err
    plain, compiled = (
        np.array(Image.open(tmp_path / name)).astype(int) for name in ("plain.png", "compiled.png")
    )
    assert abs(plain - compiled).max() <= 1


def test_without_a_compiler_compiling_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    words = ["--compile", "--device", "cpu", "--out", tmp_path / "x.png"]
    code, _, err = run("generate", "--text", "a face", *words)
    assert code == 1
    assert "--compile needs a C++ compiler and finds none" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(("grid", "most"), [([], 2), (["--grid"], 6)])
def test_pictures_that_are_written_are_not_kept(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: list[str], most: int
) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    counts: list[int] = []
    draw_all = Model.draw_all

    def watched(*arguments: Any, **settings: Any) -> Iterator[Drawing]:
        for drawing in draw_all(*arguments, **settings):
            alive.append(weakref.ref(drawing.image))
            counts.append(sum(each() is not None for each in alive))
            yield drawing

    monkeypatch.setattr(Model, "draw_all", watched)
    where = ["--model", tiny_bundle, "--device", "cpu", "--out", tmp_path / "out", *grid]
    code, _, err = run("generate", "--text", "a thing", "--num", 6, *where)
    assert code == 0, err
    assert len(counts) == 6
    assert max(counts) == most

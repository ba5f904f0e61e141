"""`clip2gan edit` and `clip2gan invert`: files in, files of the same names out."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Run
from PIL import Image

from clip2gan.editing.inversion import InversionConfig
from clip2gan.images import read_metadata
from clip2gan.pipeline import Clip2Gan
from stylegan2.files import load_tensors


@pytest.fixture
def call(run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Path) -> Run:
    """Run a command with the tiny model, in a folder that holds picture.png and pictures/{007.jpg,b.png}."""
    work = tmp_path / "work"
    (work / "pictures").mkdir(parents=True)
    monkeypatch.chdir(work)
    shutil.copy(picture, "picture.png")
    Image.new("RGB", (50, 60), "teal").save("pictures/007.jpg")
    Image.new("RGB", (64, 64), "pink").save("pictures/b.png")
    return lambda command, *args: run(command, "--model", tiny_bundle, "--device", "cpu", "--steps", 2, *args)


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_an_edit_is_the_librarys_with_what_made_it(call: Run, tiny: Clip2Gan, picture: Path) -> None:
    code, out, err = call(
        "edit", "--image", "picture.png", "--attr", "sad", "--attr", "-hat:2", "--out", "e.png"
    )
    assert (code, err) == (0, "")
    assert out.endswith("wrote e.png\n")
    with Image.open(picture) as image:
        ws = tiny.invert(image.convert("RGB"), InversionConfig(steps=2))
    with Image.open("e.png") as edited:
        assert edited.tobytes() == tiny.edit(ws, {"sad": 1.0, "hat": -2.0}).tobytes()
    metadata = read_metadata("e.png")
    assert metadata is not None
    assert metadata["command"] == "edit"
    assert metadata["attributes"] == {"sad": 1.0, "hat": -2.0}
    assert (metadata["image"], metadata["source"], metadata["steps"]) == ("picture.png", "invert", 2)
    assert metadata["fingerprint"] == tiny.bundle.fingerprint


def test_a_folder_in_gives_a_folder_out_with_the_same_stems(call: Run) -> None:
    assert call("edit", "--image", "pictures", "--attr", "sad", "--source", "clip", "--out", "o")[0] == 0
    assert names("o") == ["007.png", "b.png"]


def test_a_sheet_beside_each_picture(call: Run) -> None:
    args = ["--image", "pictures", "--attr", "sad", "--source", "clip"]
    assert call("edit", *args, "--sheet", "--out", "o")[0] == 0
    assert names("o") == ["007-sheet.png", "007.png", "b-sheet.png", "b.png"]
    with Image.open("o/b-sheet.png") as sheet, Image.open("o/b.png") as edited:
        assert sheet.size == (3 * 32 + 2 * 2, 32)
        assert sheet.getpixel((5, 5)) == (255, 192, 203)
        assert sheet.crop((34, 0, 66, 32)).tobytes() == edited.tobytes()


def test_a_sweep_is_a_strip_from_weak_to_strong(call: Run) -> None:
    args = ["--image", "picture.png", "--attr", "sad", "--source", "clip"]
    assert call("edit", *args, "--sweep", "-1:1:3", "--out", "strip.png")[0] == 0
    assert call("edit", *args, "--strength", 1, "--out", "strong.png")[0] == 0
    with Image.open("strip.png") as strip, Image.open("strong.png") as strong:
        assert strip.size == (3 * 32 + 2 * 2, 32)
        assert strip.crop((68, 0, 100, 32)).tobytes() == strong.tobytes()
    metadata = read_metadata("strip.png")
    assert metadata is not None
    assert metadata["strength"] == [-1.0, 0.0, 1.0]


def test_auto_strength_tells_what_it_chose(call: Run) -> None:
    args = ["--image", "picture.png", "--attr", "sad", "--source", "clip", "--strength", "auto", "--json"]
    code, out, _ = call("edit", *args, "--out", "e.png")
    assert code == 0
    result = json.loads(out)
    assert result["strength"] == "auto"
    assert 0.5 <= result["files"][0]["attributes"]["sad"] <= 3


def test_a_reference_picture_instead_of_words(call: Run) -> None:
    args = ["--image", "picture.png", "--source", "clip", "--ref-image", "pictures/b.png"]
    assert call("edit", *args, "--out", "e.png")[0] == 0
    metadata = read_metadata("e.png")
    assert metadata is not None
    assert metadata["ref_image"] == "b.png"


def test_broken_pictures_of_a_folder_are_named_and_the_rest_done(call: Run) -> None:
    Path("pictures/a.png").write_bytes(b"<html>")
    code, _, err = call("edit", "--image", "pictures", "--attr", "sad", "--source", "clip", "--out", "o")
    assert code == 1
    assert err.splitlines() == [
        "Warning: skipped pictures/a.png: not a picture: it looks like an HTML page",
        "Error: 1 pictures were skipped; the rest is done",
    ]
    assert names("o") == ["007.png", "b.png"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--image", "picture.png"], "say what to change: --attr TEXT or --ref-image FILE"),
        (["--attr", "sad"], "Missing option '--image'."),
        (
            ["--image", "no.png", "--attr", "sad"],
            "Invalid value for '--image': Path 'no.png' does not exist.",
        ),
        (
            ["--image", "empty", "--attr", "sad"],
            "Invalid value for '--image': empty: no pictures in this folder",
        ),
        (
            ["--image", "picture.png", "--attr", "sad:x"],
            "Invalid value for '--attr': 'sad:x': 'x' is not a number",
        ),
        (
            ["--image", "picture.png", "--attr", "sad", "--sweep", "1"],
            "Invalid value for '--sweep': '1' is not A:B:N",
        ),
        (
            ["--image", "picture.png", "--attr", "sad", "--strength", "x"],
            "Invalid value for '--strength': 'x' is nei",
        ),
        (
            ["--image", "picture.png", "--attr", "sad", "--strength", "nan"],
            "Invalid value for '--strength': 'nan' is",
        ),
        (
            ["--image", "picture.png", "--attr", "sad", "--neutral", " "],
            "Invalid value for '--neutral': the text is",
        ),
        (
            ["--image", "picture.png", "--attr", "sad", "--steps", "-1"],
            "Invalid value for '--steps': -1 is not in",
        ),
        (
            ["--image", "picture.png", "--attr", "a", "--sweep", "0:1:2", "--sheet"],
            "--sweep sets the strengths",
        ),
        (
            ["--image", "pictures", "--attr", "sad", "--out", "e.png"],
            "Invalid value for '--out': e.png: a folder of",
        ),
        (
            ["--image", "twins", "--attr", "sad"],
            "Invalid value for '--image': b.jpg and b.png would both become",
        ),
    ],
)
def test_bad_arguments_exit_2(call: Run, args: list[str], message: str) -> None:
    Path("empty").mkdir()
    Path("twins").mkdir()
    for name in ("b.jpg", "b.png"):
        Path("twins", name).touch()
    code, out, err = call("edit", *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_edits_refuse_to_overwrite(call: Run) -> None:
    args = ["--image", "picture.png", "--attr", "sad", "--source", "clip", "--sheet", "--out", "o"]
    assert call("edit", *args)[0] == 0
    code, _, err = call("edit", *args)
    assert code == 1
    assert err == (
        "Error: o/picture.png exists already (and 1 more); give --force to overwrite, or another --out\n"
    )


def test_invert_writes_the_latents_of_a_folder(call: Run, tiny: Clip2Gan) -> None:
    code, out, err = call("invert", "--image", "pictures", "--out", "w.safetensors")
    assert (code, err) == (0, "")
    assert out.endswith("wrote w.safetensors\n")
    tensors, config = load_tensors("w.safetensors")
    assert tensors["ws"].shape == (2, tiny.generator.num_ws, 8)
    assert config["images"] == ["007.jpg", "b.png"]
    assert config["fingerprint"] == tiny.bundle.fingerprint
    with Image.open("pictures/b.png") as image:
        assert torch.equal(tensors["ws"][1:], tiny.invert(image.convert("RGB"), InversionConfig(steps=2)))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--image", "picture.png"], 2, "Missing option '--out'."),
        (
            ["--image", "picture.png", "--out", "w.pt"],
            2,
            "Invalid value for '--out': w.pt: give it a name that ends",
        ),
        (["--image", "broken.png", "--out", "w.safetensors"], 1, "broken.png: an empty file, not a picture"),
    ],
)
def test_invert_refuses_in_one_line(call: Run, args: list[str], code: int, message: str) -> None:
    Path("broken.png").touch()
    found, out, err = call("invert", *args)
    assert (found, out) == (code, "")
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1
    assert not list(Path().glob("*.safetensors"))

"""`clip2gan edit` and `clip2gan invert`: files in, files of the same names out."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Run
from PIL import Image

from clip2gan.editing.inversion import InversionConfig, picture_fingerprint
from clip2gan.images import read_metadata
from clip2gan.model import Model
from stylegan2 import load_generator
from stylegan2.files import load_tensors, save_tensors


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


def test_an_edit_is_the_librarys_with_what_made_it(call: Run, tiny: Model, picture: Path) -> None:
    code, out, err = call(
        "edit", "--image", "picture.png", "--attr", "sad", "--attr", "-hat:2", "--out", "e.png"
    )
    assert code == 0
    assert "comes back at" in err  # a gradient is no picture of this model's kind
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
    assert names("o") == ["007.png", "b.png", "figures.csv"]
    with Path("o/figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["attribute"]) for row in rows] == [("007.jpg", "sad"), ("b.png", "sad")]
    numbers = ("clip_gain", "psnr", "identity", "moved")
    assert all(math.isfinite(float(row[name])) for row in rows for name in numbers)
    assert all(row["reached"] == str(float(row["clip"]) >= 0.9) for row in rows)


def test_a_sheet_beside_each_picture(call: Run) -> None:
    args = ["--image", "pictures", "--attr", "sad", "--source", "clip"]
    assert call("edit", *args, "--sheet", "--out", "o")[0] == 0
    assert names("o") == ["007-sheet.png", "007.png", "b-sheet.png", "b.png", "figures.csv"]
    with Image.open("o/b-sheet.png") as sheet, Image.open("o/b.png") as edited:
        assert sheet.width >= 3 * 32 + 2 * 2
        assert sheet.height > 32  # the figures are below
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
    assert metadata["attributes"] == {"sad": 1.0}
    figures = metadata["figures"]
    assert [each["strengths"]["sad"] for each in figures] == [-1.0, 0.0, 1.0]
    assert [each["moved"] > 0 for each in figures] == [True, False, True]


def test_auto_strength_tells_what_it_chose(call: Run) -> None:
    args = ["--image", "picture.png", "--attr", "sad", "--source", "clip", "--strength", "auto", "--json"]
    code, out, _ = call("edit", *args, "--out", "e.png")
    assert code == 0
    result = json.loads(out)
    assert result["strength"] == "auto"
    assert 0 <= result["files"][0]["attributes"]["sad"] <= 2.5
    figures = result["files"][0]["figures"][0]
    assert figures["strengths"] == result["files"][0]["attributes"]
    assert set(figures) >= {"psnr", "clip", "clip_gain", "identity", "perceptual", "moved", "from_average"}


def test_a_reference_picture_instead_of_words(call: Run) -> None:
    args = ["--image", "picture.png", "--source", "clip", "--ref-image", "pictures/b.png"]
    assert call("edit", *args, "--out", "e.png")[0] == 0
    metadata = read_metadata("e.png")
    assert metadata is not None
    assert metadata["ref_image"] == "b.png"


def test_broken_pictures_of_a_folder_are_named_and_the_rest_done(call: Run) -> None:
    Path("pictures/a.png").write_bytes(b"<html>")
    code, _, err = call("edit", "--image", "pictures", "--attr", "sad:1", "--source", "clip", "--out", "o")
    assert code == 1
    assert err.splitlines() == [
        "Warning: skipped pictures/a.png: not a picture: it looks like an HTML page",
        "Error: 1 pictures were skipped; the rest is done",
    ]
    assert names("o") == ["007.png", "b.png", "figures.csv"]


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


def test_without_a_number_clip_chooses_the_strength(call: Run) -> None:
    args = ["--image", "picture.png", "--source", "clip", "--json"]
    for attribute, chosen in (("sad", "auto"), ("-sad", "auto"), ("sad:1", 1.0), ("sad:0.5", 1.0)):
        code, out, _ = call("edit", *args, "--attr", attribute, "--out", "e.png", "--force")
        assert code == 0
        assert json.loads(out)["strength"] == chosen


def test_strength_zero_is_the_inversion(call: Run, tiny: Model) -> None:
    args = ["--image", "pictures/b.png", "--source", "clip", "--attr", "sad", "--strength", 0]
    assert call("edit", *args, "--out", "e.png")[0] == 0
    with Image.open("pictures/b.png") as image, Image.open("e.png") as edited:
        assert edited.tobytes() == tiny.synthesize(tiny.estimate(image.convert("RGB"))).tobytes()


def test_a_video_goes_from_none_to_full_and_back(call: Run) -> None:
    pytest.importorskip("imageio")
    args = ["--image", "pictures/b.png", "--source", "clip", "--attr", "sad", "--strength", 1]
    assert call("edit", *args, "--video", "v.gif", "--out", "e.png")[0] == 0
    with Image.open("v.gif") as video:
        assert video.size == (256, 256)
        assert getattr(video, "n_frames", 1) > 2


@pytest.mark.parametrize(
    "option", [["--tune"], ["--threshold", 0.1], ["--keep", "hat"], ["--direction", "raw"]]
)
def test_options_leave_their_mark_in_the_picture(call: Run, option: list[str]) -> None:
    args = ["--image", "pictures/b.png", "--source", "clip", "--attr", "sad", "--out", "e.png"]
    assert call("edit", *args, *option)[0] == 0
    metadata = read_metadata("e.png")
    assert metadata is not None
    assert metadata[option[0].removeprefix("--")]


def test_latents_that_were_kept_are_taken(call: Run) -> None:
    assert call("invert", "--image", "pictures", "--batch", 1, "--out", "w.safetensors")[0] == 0
    args = ["--image", "pictures/b.png", "--attr", "sad:1"]
    assert call("edit", *args, "--out", "a.png")[0] == 0
    assert call("edit", *args, "--latents", "w.safetensors", "--source", "clip", "--out", "b.png")[0] == 0
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.tobytes() == b.tobytes()


def test_latents_are_named_where_they_are_used_and_missed_where_not(call: Run, tiny_bundle: Path) -> None:
    assert call("invert", "--image", "pictures/b.png", "--out", "w.safetensors")[0] == 0
    args = ["--attr", "sad:1", "--latents", "w.safetensors"]
    code, _, err = call("edit", "--image", "pictures", *args, "--out", "o")
    assert code == 0
    assert err.count("has no latents of it") == 1
    assert "Warning: 007.jpg: w.safetensors has no latents of it; they are found by --source invert" in err
    kept, anew = read_metadata("o/b.png"), read_metadata("o/007.png")
    assert kept is not None
    assert anew is not None
    assert (kept["latents"], kept["source"], kept["steps"]) == ("w.safetensors", "latents", None)
    assert (anew["latents"], anew["source"], anew["steps"]) == ("w.safetensors", "invert", 2)


def test_latents_of_another_model_are_refused(call: Run) -> None:
    assert call("invert", "--image", "pictures/b.png", "--out", "w.safetensors")[0] == 0
    tensors, config = load_tensors("w.safetensors")
    save_tensors("w.safetensors", tensors, {**config, "fingerprint": "f" * 64})
    code, out, err = call("edit", "--image", "pictures/b.png", "--attr", "sad", "--latents", "w.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("Error: Invalid value for '--latents': w.safetensors: latents of another model")
    assert err.count("\n") == 1


def test_an_attribute_that_is_not_reached_is_said_to_be_so(call: Run) -> None:
    args = ["--image", "picture.png", "--source", "clip", "--json", "--out", "e.png", "--force"]
    seen = set()
    for attribute in ("sad", "-sad", "hat", "-hat"):
        _, out, err = call("edit", *args, "--attr", attribute)
        (reached,) = json.loads(out)["files"][0]["figures"][0]["reached"].values()
        assert ("is not clearly" in err) == (not reached)
        seen.add(reached)
    assert seen == {True, False}
    assert "is not clearly" not in call("edit", *args, "--attr", "sad", "--strength", 0)[2]


def test_a_sheet_is_never_written_over_a_picture(call: Run) -> None:
    shutil.copy("pictures/b.png", "pictures/b-sheet.png")
    args = ["--image", "pictures", "--attr", "sad:1", "--source", "clip", "--out", "o"]
    code, out, err = call("edit", *args, "--sheet", "--force")
    assert (code, out) == (2, "")
    assert "b-sheet.png and the sheet of b.png would both become o/b-sheet.png; rename one" in err
    assert err.count("\n") == 1
    assert not Path("o").exists()
    assert call("edit", *args)[0] == 0


def test_files_that_macos_leaves_and_folders_are_no_pictures(call: Run) -> None:
    Path("pictures/._b.png").write_bytes(b"\0\5\x16\7")
    Path("pictures/c.png").mkdir()
    args = ["--image", "pictures", "--attr", "sad:1", "--source", "clip", "--out", "o"]
    assert call("edit", *args)[0] == 0
    assert names("o") == ["007.png", "b.png", "figures.csv"]


def test_an_interrupted_folder_keeps_the_figures_of_what_is_done(
    call: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = Model.estimate

    def interrupted(self: Model, image: Image.Image) -> torch.Tensor:
        if image.size == (64, 64):
            raise KeyboardInterrupt
        return estimate(self, image)

    monkeypatch.setattr(Model, "estimate", interrupted)
    args = ["--image", "pictures", "--attr", "sad:1", "--source", "clip", "--out", "o"]
    assert call("edit", *args)[0] == 130
    assert names("o") == ["007.png", "figures.csv"]
    assert "007.jpg,sad" in Path("o/figures.csv").read_text()


def test_a_video_of_a_large_photo_has_frames_of_a_kind_size(call: Run) -> None:
    pytest.importorskip("imageio")
    Image.linear_gradient("L").resize((2300, 500)).convert("RGB").save("wide.png")
    points = "380,170,410,172,394,185,384,200,408,201"
    args = ["--image", "wide.png", "--points", points, "--attr", "sad:3", "--source", "clip", "--paste-back"]
    assert call("edit", *args, "--video", "v.gif", "--out", "e.png")[0] == 0
    with Image.open("v.gif") as video, Image.open("e.png") as edited:
        assert edited.size == (2300, 500)
        assert video.size == (1024, 222)
    metadata = read_metadata("e.png")
    assert metadata is not None
    assert metadata["paste_back"] is True


def test_a_face_given_by_its_points_goes_back_into_the_photo(call: Run) -> None:
    photo = Image.linear_gradient("L").resize((200, 160)).convert("RGB")
    photo.save("photo.png")
    points = "80,70,110,72,94,85,84,100,108,101"
    args = ["--image", "photo.png", "--points", points, "--attr", "sad", "--source", "clip", "--paste-back"]
    assert call("edit", *args, "--strength", 0, "--out", "same.png")[0] == 0
    assert call("edit", *args, "--strength", 3, "--sheet", "--out", "other.png")[0] == 0
    with Image.open("same.png") as same, Image.open("other.png") as other:
        assert same.tobytes() == photo.tobytes()
        assert other.size == photo.size
        assert other.tobytes() != photo.tobytes()
        assert other.crop((0, 0, 200, 8)).tobytes() == photo.crop((0, 0, 200, 8)).tobytes()
    assert call("edit", *args[:-1], "--out", "face.png")[0] == 0
    with Image.open("face.png") as face:
        assert face.size == (32, 32)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--points", "1,2,3"], "Invalid value for '--points': '1,2,3' is not ten numbers"),
        (["--points", "1,1,1,1,1,1,1,1,1,1"], "Invalid value for '--points': the points are no face"),
        (
            ["--points", "10,10,500,12,20,20,12,28,24,28"],
            "Invalid value for '--points': 500,12 is outside of picture.png, which has 40x32 pixels",
        ),
        (
            ["--points", "10,10,25,12,20,20,12,28,24,28", "--face", 3],
            "--points give one face, so nothing is looked for; leave --face",
        ),
        (
            ["--points", "10,10,25,12,20,20,12,28,24,28", "--landmark-model", "picture.png"],
            "--points give one face, so nothing is looked for; leave --face",
        ),
        (
            ["--points", "10,10,25,12,20,20,12,28,24,28", "--image", "pictures"],
            "Invalid value for '--image': the points are of one photo; give a file",
        ),
        (["--paste-back"], "--face, --landmark-model and --paste-back belong to --align"),
        (["--keep", " "], "Invalid value for '--keep': the text is empty"),
        (["--threshold", 2], "Invalid value for '--threshold': 2.0 is not in the range"),
        (["--video", "v.avi"], "Invalid value for '--video': v.avi: videos are written as .gif or .mp4"),
        (["--source", "encoder"], "Invalid value for '--source': the model "),
        (
            ["--align", "--landmark-model", "no.task"],
            "Invalid value for '--landmark-model': File 'no.task' does",
        ),
    ],
)
def test_bad_arguments_of_edits_exit_2(call: Run, args: list[object], message: str) -> None:
    code, out, err = call("edit", "--image", "picture.png", "--attr", "sad", *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1


def test_edits_refuse_to_overwrite(call: Run) -> None:
    args = ["--image", "picture.png", "--attr", "sad", "--source", "clip", "--sheet", "--out", "o"]
    assert call("edit", *args)[0] == 0
    code, _, err = call("edit", *args)
    assert code == 1
    assert err == (
        "Error: o/picture.png exists already (and 1 more); give --force to overwrite, "
        "or choose another place\n"
    )


def test_invert_writes_the_latents_of_a_folder(call: Run, tiny: Model) -> None:
    Path("pictures/notes.txt").touch()
    code, out, err = call("invert", "--image", "pictures", "--out", "w.safetensors")
    assert (code, err) == (0, "Warning: left out what is no picture: notes.txt\n")
    assert "b.png: " in out
    assert out.endswith("wrote w.safetensors\n")
    tensors, config = load_tensors("w.safetensors")
    assert tensors["ws"].shape == (2, tiny.generator.num_ws, 8)
    assert config["images"] == ["007.jpg", "b.png"]
    assert config["fingerprint"] == tiny.bundle.fingerprint
    with Image.open("pictures/b.png") as image:
        picture = image.convert("RGB")
    assert torch.allclose(tensors["ws"][1:], tiny.invert(picture, InversionConfig(steps=2)), atol=1e-4)
    assert config["fingerprints"][1] == picture_fingerprint(tiny.fit(picture))
    assert config["psnr"][1] == pytest.approx(tiny.psnr(picture, tensors["ws"][1:]), abs=0.1)


def test_invert_can_keep_a_tuned_generator(call: Run) -> None:
    args = ["--image", "pictures/b.png", "--tune", "--json", "--out", "w.safetensors"]
    code, out, _ = call("invert", *args)
    assert code == 0
    files = json.loads(out)["files"]
    assert [file["path"] for file in files] == ["w-generator.safetensors", "w.safetensors"]
    assert files[0]["psnr"] > files[1]["psnr"][0]
    assert load_generator("w-generator.safetensors").config.img_resolution == 32


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


def test_invert_finds_the_same_however_many_pictures_are_in_memory(call: Run) -> None:
    for size in (1, 8):
        assert call("invert", "--image", "pictures", "--batch", size, "--out", f"{size}.safetensors")[0] == 0
    (alone, first), (together, second) = (load_tensors(f"{size}.safetensors") for size in (1, 8))
    assert torch.allclose(alone["ws"], together["ws"], atol=1e-4)
    assert [first[name] for name in ("images", "fingerprints")] == [
        second[name] for name in ("images", "fingerprints")
    ]

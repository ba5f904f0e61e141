"""`edit --latents` with files of other tools, and `invert --out FILE.npz`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image
from torch import Tensor

from clip2gan.editing.latents import write_nvidia_latents
from clip2gan.editing.session import EditSession, InversionOptions
from clip2gan.images import read_metadata
from clip2gan.model import Model


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


def random_ws(model: Model, number: int) -> Tensor:
    return model.random_ws(number, torch.Generator().manual_seed(1))


def save(path: str, ws: Tensor) -> str:
    if path.endswith(".npz"):
        write_nvidia_latents(path, ws)
    else:
        torch.save(ws, path)
    return path


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("file", ["projected_w.npz", "latents.pt"])
def test_latents_of_another_tool_are_the_pictures(call: Run, tiny: Model, file: str) -> None:
    ws = random_ws(tiny, 1)
    code, _, err = call("edit", "--image", "picture.png", "--attr", "sad:1", "--latents", save(file, ws))
    assert code == 0, err
    edited = tiny.edit(ws, {"sad": 1.0})
    assert np.array_equal(pixels("out/edited/picture.png"), np.asarray(edited))
    metadata = read_metadata("out/edited/picture.png")
    assert metadata is not None
    assert (metadata["source"], metadata["latents"], metadata["steps"]) == ("latents", file, None)
    # Without a picture the latents are the picture.
    code, _, err = call("edit", "--attr", "sad:1", "--latents", file, "--out", "alone")
    assert code == 0, err
    assert np.array_equal(pixels(f"alone/{Path(file).stem}.png"), np.asarray(edited))
    assert call("edit", "--attr", "sad:1", "--latents", file, "--out", "one.png")[0] == 0
    assert np.array_equal(pixels("one.png"), np.asarray(edited))


def test_as_many_latents_as_pictures_go_by_the_order_of_names(call: Run, tiny: Model) -> None:
    ws = random_ws(tiny, 2)
    save("latents.pt", ws)
    code, _, err = call(
        "edit", "--image", "pictures", "--attr", "sad:1", "--latents", "latents.pt", "--out", "o"
    )
    assert code == 0, err
    for row, name in enumerate(("007.png", "b.png")):
        assert np.array_equal(pixels(f"o/{name}"), np.asarray(tiny.edit(ws[row : row + 1], {"sad": 1.0})))


def test_of_several_latents_one_is_chosen(call: Run, tiny: Model) -> None:
    ws = random_ws(tiny, 12)
    save("latents.npz", ws)
    args = ["edit", "--attr", "sad:1", "--latents", "latents.npz"]
    assert call(*args, "--image", "picture.png", "--index", 11, "--out", "e.png")[0] == 0
    expected = np.asarray(tiny.edit(ws[11:], {"sad": 1.0}))
    assert np.array_equal(pixels("e.png"), expected)
    assert call(*args, "--index", 11, "--out", "f.png")[0] == 0
    assert np.array_equal(pixels("f.png"), expected)
    assert call(*args, "--out", "all")[0] == 0
    assert sorted(path.name for path in Path("all").glob("*.png")) == [
        f"latents-{i:02d}.png" for i in range(12)
    ]
    assert np.array_equal(pixels("all/latents-11.png"), expected)


def test_latents_of_our_own_need_no_picture_either(call: Run) -> None:
    assert call("invert", "--image", "pictures", "--out", "w.safetensors")[0] == 0
    assert call("edit", "--attr", "sad:1", "--latents", "w.safetensors", "--out", "a")[0] == 0
    assert (
        call("edit", "--image", "pictures", "--attr", "sad:1", "--latents", "w.safetensors", "--out", "b")[0]
        == 0
    )
    for row, name in enumerate(("007.png", "b.png")):
        assert np.array_equal(pixels(f"a/w-{row}.png"), pixels(f"b/{name}"))


def test_invert_writes_what_nvidias_projector_writes(call: Run) -> None:
    for suffix in ("npz", "safetensors"):
        assert call("invert", "--image", "pictures", "--out", f"w.{suffix}")[0] == 0
    with np.load("w.npz", allow_pickle=False) as arrays:
        assert list(arrays) == ["w"]
        assert arrays["w"].dtype == np.float32
        first = arrays["w"][:1]
    from stylegan2.files import load_tensors

    assert np.array_equal(first, load_tensors("w.safetensors")[0]["ws"][:1].numpy())
    args = ["edit", "--image", "pictures", "--attr", "sad:1", "--latents"]
    for suffix in ("npz", "safetensors"):
        assert call(*args, f"w.{suffix}", "--out", suffix)[0] == 0
    for name in ("007.png", "b.png"):
        assert np.array_equal(pixels(f"npz/{name}"), pixels(f"safetensors/{name}"))


MISTAKES = [
    (
        ["--image", "picture.png"],
        "Invalid value for '--latents': l.npz has 3 latents for 1 picture; choose one",
    ),
    (
        ["--image", "pictures"],
        "Invalid value for '--latents': l.npz has 3 latents for 2 pictures; choose one",
    ),
    (
        ["--image", "pictures", "--index", 1],
        "Invalid value for '--image': one of the latents is that of one pict",
    ),
    (
        ["--image", "picture.png", "--index", 3],
        "Invalid value for '--index': l.npz has 3 latents, numbered from 0",
    ),
    (["--index", 3], "Invalid value for '--index': l.npz has 3 latents, numbered from 0; there is no 3"),
    (["--align"], "--align and --points are for photos; give --image"),
    (["--out", "x.png"], "x.png: a folder of pictures needs a folder"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line(call: Run, tiny: Model, arguments: list, message: str) -> None:
    save("l.npz", random_ws(tiny, 3))
    code, _, err = call("edit", "--attr", "sad:1", "--latents", "l.npz", *arguments)
    assert code == 2
    assert message in err
    assert err.strip().count("\n") == 0
    assert not Path("out").exists()


def test_an_index_needs_latents(call: Run) -> None:
    code, _, err = call("edit", "--image", "picture.png", "--attr", "sad:1", "--index", 1)
    assert (code, "--index belongs to --latents" in err) == (2, True)


def test_latents_of_another_shape_are_refused(call: Run) -> None:
    save("l.pt", torch.zeros(1, 18, 512))
    code, _, err = call("edit", "--image", "picture.png", "--attr", "sad:1", "--latents", "l.pt")
    assert code == 2
    assert "Invalid value for '--latents': l.pt: latents of [1, 18, 512], but this model's are [N, " in err


def test_given_latents_are_those_of_one_face(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = random_ws(tiny, 1)
    session = EditSession(tiny, Image.new("RGB", (64, 64)), inversion=InversionOptions(given=ws))
    assert torch.equal(session.faces[0].ws, ws)
    monkeypatch.setattr(EditSession, "squares", [None, None])
    session = EditSession(tiny, Image.new("RGB", (64, 64)), inversion=InversionOptions(given=ws))
    with pytest.raises(ValueError, match="latents are given for one face, and it has 2; choose one"):
        _ = session.faces

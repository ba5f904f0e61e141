"""Names of files that are not UTF-8, which Linux allows: read and written like any other."""

import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import Run
from PIL import Image

from clip2gan.data.prepare import Preparation, prepare
from stylegan2.files import load_tensors, save_tensors

LATIN = os.fsdecode(b"caf\xe9")  # of a machine whose names were in Latin-1
FOLDER = os.fsdecode(b"\xff\xfe")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures, one of them damaged, with captions and another file."""
    folder = tmp_path / "pictures"
    try:
        (folder / FOLDER).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    for number, name in enumerate((f"{LATIN}.png", f"{FOLDER}/{LATIN}.png")):
        Image.new("RGB", (32, 32), (90 * number, 60, 120)).save(folder / name)
    (folder / f"{LATIN}-bad.png").write_bytes(b"nothing")
    (folder / f"{LATIN}.txt").write_text("a cup of coffee\n")
    (folder / f"{LATIN}.doc").write_bytes(b"nothing")
    return folder


def packed(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, os.fspath(path.relative_to(folder)))
    return folder.with_suffix(".tar")


@pytest.mark.parametrize("pack", [Path, packed])
def test_prepare_reads_them_with_their_captions(pack, pictures: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run("prepare", pack(pictures), tmp_path / "out.zip", "--processes", 1)
    assert code == 0, err
    assert out.endswith("2 pictures, 1 captions, 1 pictures without\n")
    assert r"pictures that cannot be read: caf\udce9-bad.png" in err
    assert r"files that are no pictures: caf\udce9.doc" in err
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        records = json.loads(archive.read("dataset.json").decode())["pictures"]
    found = {record["name"]: [each["text"] for each in record["captions"]] for record in records}
    assert found == {f"{LATIN}.png": ["a cup of coffee"], f"{FOLDER}/{LATIN}.png": []}
    assert {os.fsencode(name) for name in found} == {b"caf\xe9.png", b"\xff\xfe/caf\xe9.png"}


def test_a_stopped_preparation_of_them_goes_on(pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.zip"
    prepare(pictures, target, Preparation(resolution=16))
    first = target.read_bytes()
    target.unlink()
    prepare(pictures, target, Preparation(resolution=16))
    assert target.read_bytes() == first


def test_a_caption_with_half_a_character_is_named(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), "teal").save(folder / f"{number}.png")
    rows = [r'"0.png", "text": "half \ud83d"', r'"1.png", "text": "whole \ud83d\ude00"']
    (folder / "list.jsonl").write_text("".join(f'{{"file_name": {row}}}\n' for row in rows))
    (folder / "2.json").write_text(r'{"caption": ["\udc00", "fine"]}')
    code, out, err = run("prepare", folder, tmp_path / "out.zip", "--processes", 1)
    assert code == 0, err
    assert "3 pictures, 2 captions" in out
    assert "skipped 2 captions with half a character (such as a cut emoji): 2 (2.json), 0.png" in err
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert "whole 😀" in archive.read("dataset.json").decode()


TRAININGS = {
    "mapper": ["train-mapper", "--set", "samples=32", "--set", "warmup_steps=0", "--clip", "CLIP"],
    "encoder": ["train-encoder", "--model", "MODEL"],
    "captioned": ["train-gan", "--condition", "clip", "--clip", "CLIP", "--mapping-steps", "0"],
    "plain": ["train-gan", "--condition", "none", "--autoencoder-images", "2", "--mapping-steps", "0"],
}


@pytest.mark.parametrize("training", TRAININGS)
def test_trainings_take_them_and_list_what_they_skip(
    training: str, pictures: Path, tmp_path: Path, tiny_bundle: Path, run: Run
) -> None:
    places = {"CLIP": f"local-dir:{tiny_bundle / 'clip'}", "MODEL": str(tiny_bundle)}
    arguments = [places.get(each, each) for each in TRAININGS[training]]
    if training == "mapper":
        arguments += ["--generator", str(tiny_bundle / "generator.safetensors")]
    steps = ["--adversarial-images", "2"] if training == "plain" else ["--steps", "1"]
    common = ["--data", pictures, "--batch", 2, "--device", "cpu", "--out", tmp_path / "run"]
    code, _, err = run(*arguments, *steps, *common)
    assert code == 0, err
    skipped = (tmp_path / "run" / "skipped.txt").read_text("utf-8")
    assert skipped.startswith("caf\\udce9-bad.png\t")
    assert r"caf\udce9-bad.png" in err


def test_edit_and_invert_write_such_names_again(
    pictures: Path, tmp_path: Path, tiny_bundle: Path, run: Run
) -> None:
    common = ["--model", tiny_bundle, "--device", "cpu", "--steps", 1]
    edit = ["edit", "--attr", "smiling", *common]
    code, out, err = run(*edit, "--image", pictures, "--out", tmp_path / "edited")
    assert (code, "1 pictures were skipped" in err) == (1, True)
    assert f"wrote {escaped(str(tmp_path / 'edited' / f'{LATIN}.png'))}" in out
    assert (tmp_path / "edited" / f"{LATIN}.png").is_file()
    table = (tmp_path / "edited" / "figures.csv").read_text("utf-8")
    assert r"caf\udce9.png" in table

    picture = pictures / f"{LATIN}.png"
    code, _, err = run("invert", "--image", picture, "--out", tmp_path / "latents.safetensors", *common)
    assert code == 0, err
    latents = ["--latents", tmp_path / "latents.safetensors"]
    code, _, err = run(*edit, "--image", picture, *latents, "--out", tmp_path / f"{LATIN}.png")
    assert code == 0, err
    assert (tmp_path / f"{LATIN}.png").is_file()


def test_safetensors_which_could_not_be_read_again_are_not_written(
    pictures: Path, tmp_path: Path, tiny_bundle: Path, run: Run
) -> None:
    picture = pictures / f"{LATIN}.png"
    code, _, err = run("invert", "--image", picture, "--model", tiny_bundle, "--out", f"{LATIN}.safetensors")
    assert (code, err.count("\n")) == (2, 1)
    assert r"caf\udce9.safetensors: safetensors files are read only where the path is UTF-8; rename it" in err
    encoder = ["train-encoder", "--model", tiny_bundle, "--steps", 1, "--device", "cpu"]
    code, _, err = run(*encoder, "--out", tmp_path / LATIN)
    assert (code, "only where the path is UTF-8" in err) == (1, True)
    assert not (tmp_path / LATIN).exists()
    with pytest.raises(ValueError, match="only where the path is UTF-8"):
        save_tensors(tmp_path / f"{LATIN}.safetensors", {}, {})
    (tmp_path / f"{LATIN}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="only where the path is UTF-8"):
        load_tensors(tmp_path / f"{LATIN}.safetensors")


def test_a_strict_terminal_shows_them_escaped(
    pictures: Path, tmp_path: Path, tiny_bundle: Path, run: Run
) -> None:
    sys.stdout.reconfigure(errors="strict")  # type: ignore[union-attr]
    picture, out = pictures / f"{LATIN}.png", tmp_path / f"{LATIN}.png"
    code, shown, err = run("edit", "--attr", "hat", "--image", picture, "--model", tiny_bundle, "--out", out)
    assert code == 0, err
    assert r"caf\udce9.png" in shown


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_texts_must_be_utf8(command: str, picture: Path, tmp_path: Path, tiny_bundle: Path, run: Run) -> None:
    texts = {"generate": ["--text", LATIN], "edit": ["--image", picture, "--attr", LATIN, "--steps", 1]}
    code, _, err = run(command, *texts[command], "--model", tiny_bundle, "--out", tmp_path / "out.png")
    assert code != 0
    assert r"'caf\udce9' is not a text in UTF-8" in err
    assert not (tmp_path / "out.png").exists()


def escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()

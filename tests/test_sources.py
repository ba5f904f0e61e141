"""Which files of a folder, zip or tar are training data, and how they are read ahead."""

import io
import logging
import os
import pickle
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip2gan.data.files import open_files
from clip2gan.data.pictures import ReadAhead, open_mixed, open_pictures
from clip2gan.images import formats, picture_files

SIZE = 16


def encoded(seed: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path = path.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path = path.with_suffix(".tar")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS = (write_folder, write_zip, write_tar)


@pytest.mark.parametrize("write", WRITERS)
def test_the_bytes_decide_where_the_suffix_tells_nothing(write, tmp_path: Path, caplog) -> None:
    kinds = {
        "b.jfif": "JPEG",
        "c.avif": "AVIF",
        "d.jpe": "JPEG",
        "e": "JPEG",
        "f.0001": "PNG",
        "g.tga": "TGA",
    }
    kinds |= {"h.jp2": "JPEG2000", "i.ppm": "PPM", "j.webp_large": "WEBP", "k.PNG": "JPEG", "l.bin": "TIFF"}
    files = {name: encoded(1, kind) for name, kind in kinds.items()}
    others = {
        "m.mp4": b"\0\0\0\x18ftypmp42",
        "n.heic": b"\0\0\0\x18ftypheic" + bytes(200),
        "o": b"Pyramids",
        "p.txt": b"x",
    }
    with caplog.at_level(logging.WARNING):
        pictures = open_pictures(write(tmp_path / "s", files | others), SIZE)
    assert pictures.names == sorted(files)
    assert "left out as no pictures: 1 without a suffix (o)" in caplog.text
    if "HEIF" not in formats.picture_formats():
        assert (
            "1 .heic (n.heic; pip install 'clip2gan[heic]' reads them, or export them as JPEG)" in caplog.text
        )
    assert "1 .mp4 (m.mp4)" in caplog.text
    assert "p.txt" not in caplog.text


def test_a_folder_to_edit_takes_the_same_files(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        {"b.jfif": encoded(1, "JPEG"), "e": encoded(1), "x.mov": b"?", "y.txt": b"?", ".z.png": encoded(1)},
    )
    assert [path.name for path in picture_files(tmp_path)] == ["b.jfif", "e"]


@pytest.mark.skipif("HEIF" in formats.picture_formats(), reason="pillow-heif is here")
def test_heic_is_named_with_its_remedy(tmp_path: Path) -> None:
    write_folder(tmp_path / "none", {"x.heic": b"?", "y.mp4": b"?"})
    with pytest.raises(
        ValueError, match=r"no pictures in this folder; it has 1 \.heic \(pip install .*, 1 \.mp4"
    ):
        picture_files(tmp_path / "none")


def test_heic_is_read_through_pillow_heif(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (32, 32), (200, 40, 40))
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=100)
    pictures = open_pictures(tmp_path, 32)
    np.testing.assert_allclose(pictures.batch([0])[0, :, 16, 16].numpy(), (200, 40, 40), atol=6)


def test_formats_that_run_other_programs_are_not_opened(tmp_path: Path) -> None:
    assert not {".eps", ".ps", ".wmf", ".emf", ".pdf", ".mpg", ".fits"} & formats.picture_suffixes()
    write_folder(tmp_path, {"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"})
    with pytest.raises(ValueError, match="it looks like a PostScript drawing; export it as PNG first"):
        open_pictures(tmp_path, SIZE)


HIDDEN = (
    ".ipynb_checkpoints/a.png",
    ".thumbnails/x/a.png",
    "__MACOSX/._a.png",
    "@eaDir/a.png/t.jpg",
    "x/.b.png",
    "._a.png",
)


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_hidden_is_no_data(write, tmp_path: Path) -> None:
    hidden = {name: encoded(1) for name in HIDDEN}
    shown = {"a.png": encoded(2), "x/y/b.png": encoded(3)}
    assert open_pictures(write(tmp_path / "s", hidden | shown), SIZE).names == sorted(shown)
    with pytest.raises(ValueError, match=r"no pictures in it; .*6 hidden files or folders are left out"):
        open_pictures(write(tmp_path / "t", hidden), SIZE)


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    source = write_folder(tmp_path / ".cache" / "pictures", {"a.png": encoded(1)})
    assert open_pictures(source, SIZE).names == ["a.png"]


def test_links_are_followed_and_end_nowhere(tmp_path: Path) -> None:
    elsewhere = write_folder(tmp_path / "elsewhere", {"a.png": encoded(1), "deep/b.png": encoded(2)})
    source = write_folder(tmp_path / "source", {"z/own.png": encoded(3)})
    (source / "linked").symlink_to(elsewhere)
    (source / "again").symlink_to(elsewhere / "deep")
    (source / "a-link-to-z").symlink_to(source / "z")
    (source / "z" / "up").symlink_to(source)
    (elsewhere / "back").symlink_to(source)
    (source / "nowhere.png").symlink_to(tmp_path / "gone")
    (source / "itself").symlink_to(source / "itself")
    # Each picture once, by its own path where it has one in the folder.
    names = open_pictures(source, SIZE).names
    assert "z/own.png" in names
    assert len(names) == len({os.path.realpath(source / name) for name in names}) == 3


def test_shards_of_img2dataset(tmp_path: Path) -> None:
    for shard in ("00000", "00001"):
        write_tar(tmp_path / "set" / shard, {"0.jpg": encoded(int(shard), "JPEG"), "0.txt": b"a caption"})
        write_folder(tmp_path / "set", {f"{shard}.parquet": b"PAR1", f"{shard}_stats.json": b"{}"})
    expected = ["00000/0.jpg", "00001/0.jpg"]
    assert open_pictures(tmp_path / "set", SIZE).names == expected
    assert open_pictures(tmp_path / "set" / "*.tar", SIZE).names == expected
    assert open_pictures(tmp_path / "set" / "{00000..00001}.tar", SIZE).names == expected


def test_shards_of_one_name_in_several_folders_lose_nothing(tmp_path: Path) -> None:
    for part in range(2):
        write_tar(tmp_path / f"part-{part}" / "00000", {"0.png": encoded(part)})
    for source in (tmp_path, tmp_path / "part-{0..1}" / "00000.tar"):
        pictures = open_pictures(source, SIZE)
        assert pictures.names == ["part-0/00000/0.png", "part-1/00000/0.png"]
        assert not torch.equal(*pictures.batch([0, 1]))


def test_tars_beside_pictures_are_named_as_left_out(tmp_path: Path, caplog) -> None:
    write_folder(tmp_path, {"a.png": encoded(1)})
    write_tar(tmp_path / "b", {"c.png": encoded(2)})
    with caplog.at_level(logging.WARNING):
        assert open_pictures(tmp_path, SIZE).names == ["a.png"]
    assert "left out as no pictures: 1 .tar (b.tar)" in caplog.text


def test_a_compressed_tar_is_told_what_to_do(tmp_path: Path) -> None:
    for name in ("x.tar.gz", "x.tgz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
        with pytest.raises(ValueError, match=rf"{name}: .*uncompressed tars only; unpack it"):
            open_pictures(tmp_path / name, SIZE)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("limit", [1 << 20, 0])
def test_replaced_pictures_are_noticed_and_others_are_not_read(write, limit: int, tmp_path: Path) -> None:
    files = {f"{number}.bmp": encoded(number, "BMP") for number in range(3)}  # all of one size
    first = open_pictures(write(tmp_path / "s", files), SIZE, limit).fingerprint
    assert open_pictures(tmp_path / _name(write), SIZE, limit).fingerprint == first
    files["1.bmp"] = encoded(9, "BMP")
    assert open_pictures(write(tmp_path / "s", files), SIZE, limit).fingerprint != first


def _name(write) -> str:
    return {write_folder: "s", write_zip: "s.zip", write_tar: "s.tar"}[write]


def test_pictures_that_do_not_fit_are_not_read_at_the_start(tmp_path: Path, monkeypatch) -> None:
    source = write_folder(tmp_path / "s", {"a.png": encoded(1), "b.png": b"nonsense", "c.jpg": b""})
    files = open_files(source)
    monkeypatch.setattr(type(files), "read", lambda *_: pytest.fail("read whole"))
    pictures = open_pictures(source, SIZE, 0)
    assert pictures.names == ["a.png"]
    assert pictures.skipped.keys() == {"b.png", "c.jpg"}


@pytest.mark.parametrize("write", WRITERS)
def test_files_go_to_other_processes(write, tmp_path: Path) -> None:
    files = open_files(write(tmp_path / "s", {"a.png": encoded(1)}))
    files.read("a.png")
    assert pickle.loads(pickle.dumps(files)).read("a.png") == encoded(1)


@pytest.mark.parametrize("write", WRITERS)
def test_reading_ahead_gives_what_batch_gives(write, tmp_path: Path) -> None:
    source = write(tmp_path / "s", {f"{number:02d}.png": encoded(number) for number in range(20)})
    kept, lazy = open_pictures(source, SIZE), open_pictures(source, SIZE, 0)
    draw = random.Random(0)
    steps = [[draw.randrange(20) for _ in range(4)] for _ in range(8)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ahead = ReadAhead(lazy, iter(steps), workers=2)
    for step in steps[:3]:
        assert torch.equal(ahead.batch(step), kept.batch(step))
    assert torch.equal(ahead.batch([7, 7]), kept.batch([7, 7]))  # not announced: decoded on the spot
    for step in steps[3:]:
        assert torch.equal(ahead.batch(torch.tensor(step)), kept.batch(step))
    assert torch.equal(ahead.batch(steps[0]), kept.batch(steps[0]))  # after the last
    assert torch.equal(torch.get_rng_state(), before)  # no number of the training's is drawn


def test_a_broken_picture_in_a_worker_is_named_and_gives_its_place_to_the_next(
    tmp_path: Path, caplog
) -> None:
    files = {"a.png": encoded(1), "b.png": encoded(2)[:300], "c.png": encoded(3)}
    pictures = open_pictures(write_folder(tmp_path / "s", files), SIZE, 0)
    with caplog.at_level(logging.WARNING):
        (batch,) = pictures.stream([[0, 1, 2]], workers=1)
    assert torch.equal(batch, pictures.batch([0, 2, 2]))
    assert "skipped b.png: a damaged or cut off PNG picture" in caplog.text
    assert pictures.skipped.keys() == {"b.png"}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=6), max_size=4))
def test_mixed_sources_keep_the_order_that_is_asked_for(batches: list[list[int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sources = [
            write_folder(Path(folder) / name, {f"{n}.png": encoded(n + at) for n in range(count)})
            for at, (name, count) in enumerate((("a", 3), ("b", 4)))
        ]
        mixed = open_mixed(sources, SIZE)
        for batch, found in zip(batches, mixed.stream(batches, workers=0), strict=True):
            assert torch.equal(found, mixed.batch(batch))
            for index, picture in zip(batch, found, strict=True):
                own, number = (0, index) if index < 3 else (1, index - 3)
                assert torch.equal(picture, mixed.sources[own].batch([number])[0])

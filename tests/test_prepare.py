"""Captioned datasets in the layouts people have them in, and the zip that `prepare` makes of them."""

import io
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import EMBEDDINGS, open_captioned, picture_sides
from clip2gan.data.captions import is_latin, read_captions
from clip2gan.data.files import ZipFiles, expand, open_files
from clip2gan.data.pictures import open_mixed, open_pictures
from clip2gan.data.prepare import Preparation, prepare, to_square


def png(seed: int = 0, size: tuple[int, int] = (16, 16)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


PICTURES: dict[str, bytes | str] = {"a.png": png(0), "b.jpg": png(1)}
BOTH = {"a.png": ["a red, round hat", "a hat"], "b.jpg": ["a dog"]}
LAYOUTS: dict[str, dict[str, bytes | str]] = {
    "Flickr8k, tabs": {
        "Images/a.png": png(0),
        "Images/b.jpg": png(1),
        "captions.txt": "a.png#0\ta red, round hat\na.png#1\ta hat\nb.jpg#0\ta dog\n",
    },
    "Flickr8k, CSV": {
        **PICTURES,
        "captions.txt": 'image,caption\na.png,"a red, round hat"\na.png,a hat\nb.jpg,a dog\n',
    },
    "CSV without quotes": {
        **PICTURES,
        "captions.csv": "image,caption\na.png,a red, round hat\na.png,a hat\nb.jpg,a dog\n",
    },
    "Flickr30k, bars": {
        **PICTURES,
        "results.csv": "image_name| comment_number| comment\n"
        "a.png| 0| a red, round hat\na.png| 1| a hat\nb.jpg| 0| a dog\n",
    },
    "Flickr30k, numbered": {
        **PICTURES,
        "captions.txt": "image_name,comment_number,comment\n"
        'a.png,0,"a red, round hat"\na.png,1,a hat\nb.jpg,0,a dog\n',
    },
    "CSV of pandas": {
        **PICTURES,
        "captions.csv": ',image,caption\n0,a.png,"a red, round hat"\n1,a.png,a hat\n2,b.jpg,a dog\n',
    },
    "CSV of Excel": {
        **PICTURES,
        "captions.csv": 'image;caption\na.png;"a red, round hat"\na.png;a hat\nb.jpg;a dog\n',
    },
    "CSV, captions first": {
        **PICTURES,
        "captions.txt": "caption,split,image\na red, round hat,train,a.png\na hat,train,a\na dog,val,b.jpg\n",
    },
    "pairs": {**PICTURES, "a.txt": "a red, round hat\na hat\n", "b.txt": "a dog"},
    "MM-CelebA-HQ": {
        "image/images/0.png": png(0),
        "image/images/1.jpg": png(1),
        "text/celeba-caption/0.txt": "a red, round hat\na hat",
        "text/celeba-caption/1.txt": "a dog\n",
    },
    "JSONL": {
        **PICTURES,
        "metadata.jsonl": '{"file_name": "a.png", "captions": ["a red, round hat", "a hat"]}\n'
        '{"file_name": "b.jpg", "text": "a dog"}\n',
    },
    "JSON, a list": {
        **PICTURES,
        "labels.json": '[{"Image": "a.png", "Caption": ["a red, round hat", "a hat"]},'
        ' {"image": "b.jpg", "caption": "a dog"}]',
    },
    "COCO, ids of two types": {
        **PICTURES,
        "ann/captions_val.json": '{"annotations": [{"image_id": "1", "caption": "a red, round hat"},'
        ' {"image_id": "1", "caption": "a hat"}, {"image_id": 2, "caption": "a dog"}],'
        ' "images": [{"id": 1, "file_name": "a.png"}, {"id": "2", "file_name": "b.jpg"}]}',
    },
    "Karpathy": {
        "val2014/a.png": png(0),
        "val2014/b.jpg": png(1),
        "dataset_coco.json": '{"images": [{"filepath": "val2014", "filename": "a.png", "sentences":'
        ' [{"raw": "a red, round hat"}, {"raw": "a hat"}]},'
        ' {"filepath": "val2014", "filename": "b.jpg", "sentences": [{"raw": "a dog"}]}]}',
    },
    "webdataset's JSON": {
        **PICTURES,
        "a.json": '{"caption": ["a red, round hat", "a hat"]}',
        "b.json": '{"caption": "a dog"}',
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_are_found_in_every_layout(layout: str, tmp_path: Path) -> None:
    captions = read_captions(open_files(write(tmp_path, LAYOUTS[layout])))
    assert sorted(captions.of.values()) == sorted(BOTH.values())
    assert captions.skipped == {}


def test_what_cannot_be_used_is_named_and_counted(tmp_path: Path) -> None:
    table = "a.png#0\ta hat\nnowhere.png#0\tlost\na.png#1\t \nb.jpg#0\tсобака бежит\nb.jpg#1\ta café\n"
    files = open_files(
        write(tmp_path, {**PICTURES, "captions.txt": table, "x.jsonl": '{"no": 1}\nnonsense\n'})
    )
    captions = read_captions(files)
    assert captions.of == {"a.png": ["a hat"], "b.jpg": ["a café"]}
    lines = captions.summary()
    for expected in (
        "1 captions of missing pictures: nowhere.png",
        "1 empty captions: a.png",
        "1 captions in another script than Latin: b.jpg (собака бежит)",
        "1 lines that name no picture: x.jsonl:1",
        "1 pieces of JSON that cannot be read: x.jsonl:2",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, lines)
    assert read_captions(files, any_script=True).of["b.jpg"] == ["собака бежит", "a café"]


def test_files_without_a_caption_are_named(tmp_path: Path) -> None:
    files = {
        **PICTURES,
        "Flickr8k.token.txt": "a.png#0\ta hat\n",
        "Flickr8k.lemma.token.txt": "a.png#0\ta hat be wear\n",
        "CrowdFlowerAnnotations.txt": "a.png\tb.jpg#2\t1\t0\t3\na.png\ta.png#0\t0.5\t3\t3\n",
        "ExpertAnnotations.txt": "a.png\tb.jpg#2\t1\t1\t1\n",
        "Flickr_8k.trainImages.txt": "a.png\nb.jpg\n",
        "list_attr_celeba.csv": "image_id,bald,beard\na.png,-1,1\n",
        "lost.txt": "a caption of no picture",
        "other.json": '{"images": []}',
    }
    captions = read_captions(open_files(write(tmp_path, files)))
    assert captions.of == {"a.png": ["a hat"]}
    left_out = {name for names in captions.skipped.values() for name in names}
    assert left_out == files.keys() - PICTURES.keys() - {"Flickr8k.token.txt"}


@pytest.mark.parametrize("data", [b"\xff\xfe\x00caf\xe9", "a.png,un café\n".encode("latin-1")])
def test_a_file_of_captions_in_another_encoding_is_named(tmp_path: Path, data: bytes) -> None:
    captions = read_captions(open_files(write(tmp_path, {**PICTURES, "a.txt": data})))
    assert captions.summary() == [
        "1 files of captions that cannot be read: a.txt (not UTF-8; save it as UTF-8)"
    ]


def test_an_open_quote_costs_no_caption(tmp_path: Path) -> None:
    table = (
        'image,caption\na.png,"a hat, open\nb.jpg,"a ""big"" dog"\nb.jpg,a 5" dog\n' + "b.jpg,x\n" * 40_000
    )
    captions = read_captions(open_files(write(tmp_path, {**PICTURES, "captions.txt": table})))
    assert captions.of == {"a.png": ["a hat, open"], "b.jpg": ['a "big" dog', 'a 5" dog', "x"]}
    assert captions.skipped == {}


def test_a_damaged_file_in_a_zip_costs_no_other(tmp_path: Path) -> None:
    source = tmp_path / "in.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for name, content in {**LAYOUTS["pairs"], "notes.txt": "some damaged notes"}.items():
            archive.writestr(name, content)
    source.write_bytes(source.read_bytes().replace(b"some damaged", b"some DAMAGED"))
    done = prepare(source, tmp_path / "out.zip", Preparation(resolution=8))
    assert (done.pictures, done.captions) == (2, 3)
    assert done.skipped.summary() == [
        "1 files of captions that cannot be read: notes.txt (Bad CRC-32 for file 'notes.txt')"
    ]


def test_text_without_end_beside_a_picture_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in PICTURES.items():
            archive.writestr(name, content)
        for name in ("a.txt", "notes.txt", "b.json"):
            archive.writestr(name, "some words and no end of them\n" * 100_000)
    files = open_files(source)
    assert isinstance(files, ZipFiles)
    read: list[int] = []

    def counted(name: str, size: int) -> bytes:
        data = ZipFiles._read(files, name, size)
        read.append(len(data))
        return data

    monkeypatch.setattr(files, "_read", counted)
    captions = read_captions(files)
    assert captions.of == {}
    assert sorted(captions.summary()) == [
        "1 text files in which no caption is understood: notes.txt",
        "2 files of captions that cannot be read: a.txt (larger than 1 MB), b.json (larger than 1 MB)",
    ]
    assert max(read) <= 1 << 20


def test_many_captions_of_one_picture_take_no_longer_each(tmp_path: Path) -> None:
    rows = "".join(f"a.png,caption number {number}\n" for number in range(30_000))
    files = open_files(write(tmp_path, {**PICTURES, "captions.csv": "image,caption\n" + rows * 2}))
    start = time.process_time()
    assert len(read_captions(files).of["a.png"]) == 30_000
    assert time.process_time() - start < 10  # it took minutes where each was compared with all before


@given(st.text())
def test_scripts_are_told_apart_without_errors(text: str) -> None:
    assert is_latin(text + "a" * len(text))
    assert not is_latin("привет" + "".join(char for char in text if not char.isalpha()))


@given(st.integers(0, 300), st.integers(0, 20), st.integers(1, 4))
def test_a_range_in_braces_counts_with_leading_zeros(first: int, more: int, width: int) -> None:
    names = expand(f"x{{{first:0{width}d}..{first + more}}}y")
    assert names == [
        f"x{number:0{max(width, len(str(first)))}d}y" for number in range(first, first + more + 1)
    ]


def test_shards_of_webdataset_are_read_like_a_folder(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"pics-{shard:04d}.tar")) as writer:
            for key in range(3):
                sample = {
                    "__key__": f"{key:03d}",
                    "png": png(10 * shard + key),
                    "txt": f"caption {shard} {key}",
                }
                writer.write(sample)
    pattern = tmp_path / "pics-{0000..0001}.tar"
    pictures = open_pictures(pattern, 16)
    assert pictures.names == [f"pics-000{shard}/00{key}.png" for shard in range(2) for key in range(3)]
    expected = np.asarray(Image.open(io.BytesIO(png(11))))
    assert np.array_equal(pictures.batch([4])[0].permute(1, 2, 0).numpy(), expected)
    captions = read_captions(open_files(pattern))
    assert captions.of["pics-0001/001.png"] == ["caption 1 1"]
    assert open_pictures(tmp_path, 16).names == pictures.names  # a folder of shards
    assert open_pictures(tmp_path / "pics-0000.tar", 16).names == ["000.png", "001.png", "002.png"]
    mixed = open_mixed([tmp_path / "pics-0000.tar", tmp_path / "pics-0001.tar"], 16)
    assert torch.equal(mixed.batch([4, 0]), pictures.batch([4, 0]))


def test_broken_shards_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match=r"x\.tar: not a readable, uncompressed tar"):
        open_pictures(tmp_path / "x.tar", 16)
    with pytest.raises(FileNotFoundError, match=r"y-1\.tar: no such shard"):
        open_pictures(tmp_path / "y-{1..2}.tar", 16)


def test_prepare_makes_a_zip_with_captions_and_embeddings(
    tmp_path: Path, tiny_clip: ClipEncoder, run: Run
) -> None:
    source = write(
        tmp_path / "flickr", {**LAYOUTS["Flickr8k, tabs"], "Images/broken.png": b"nothing", "c.png": png(2)}
    )
    target = tmp_path / "out.zip"
    code, out, err = run(
        "prepare", source, target, "--resolution", 32, "--clip", tiny_clip.spec, "--processes", 1
    )
    assert code == 0, err
    assert out.strip() == f"wrote {target}: 3 pictures, 3 captions, 1 pictures without"
    assert (
        "skipped 1 pictures that cannot be read: Images/broken.png (not a picture: it looks like text)" in err
    )
    records = json.loads(zipfile.ZipFile(target).read("dataset.json"))["pictures"]
    assert [record["name"] for record in records] == ["Images/a.png", "Images/b.jpg", "c.png"]
    assert not list(tmp_path.glob("*.part"))

    data = open_captioned([str(target)], 32).embed(tiny_clip, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # nothing had to be embedded again
    assert data.counts.tolist() == [2, 1, 0]
    pixels = data.batch([0, 1, 2]).float() / 127.5 - 1
    torch.testing.assert_close(data.images, tiny_clip.encode_images(pixels), atol=2e-3, rtol=0)
    texts = tiny_clip.encode_texts(["a red, round hat", "a hat", "a dog"])
    torch.testing.assert_close(data.texts, texts, atol=2e-3, rtol=0)
    code, _, err = run("prepare", source, target)
    assert (code, err.strip()) == (
        1,
        f"Error: {target} exists already; give --force to overwrite, or another DST.zip",
    )


def test_captions_that_were_prepared_are_taken_as_they_are(tmp_path: Path, tiny_clip: ClipEncoder) -> None:
    source = write(tmp_path / "in", {**PICTURES, "a.txt": "собака бежит", "b.txt": "a dog"})
    target = tmp_path / "x.zip"
    prepare(source, target, Preparation(resolution=32, any_script=True), tiny_clip)
    data = open_captioned([str(target)], 32).embed(tiny_clip, tmp_path / "cache")
    assert data.counts.tolist() == [1, 1]
    assert not (tmp_path / "cache").exists()  # the stored embeddings are those
    expected = tiny_clip.encode_texts(["собака бежит", "a dog"])
    torch.testing.assert_close(data.texts, expected, atol=2e-3, rtol=0)


def test_the_sizes_of_pictures_are_known_before_they_are_opened(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {"a.png": png(0, (40, 20)), "b.png": png(1, (30, 60)), "c.png": b"?"})
    assert picture_sides([str(source)]) == {20, 30}
    prepare(source, tmp_path / "x.zip", Preparation(resolution=16))
    assert picture_sides([str(tmp_path / "x.zip")]) == {16}
    assert picture_sides([str(source), str(tmp_path / "x.zip")]) == {16, 20, 30}


def test_pictures_are_kept_in_memory_below_a_limit(tmp_path: Path) -> None:
    folders = [str(write(tmp_path / name, PICTURES)) for name in "xy"]
    for limit, kept in ((4 * 3 * 32**2, 2), (4 * 3 * 32**2 - 1, 0)):
        opened = open_captioned(folders, 32, limit)
        assert [len(pictures._pixels) for pictures in opened.pictures] == [kept, kept]


def test_a_stopped_preparation_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip2gan.data.prepare.CHUNK", 2)
    source = write(tmp_path / "in", {f"{i}.png": png(i) for i in range(6)} | {"1.txt": "one"})
    settings = Preparation(resolution=16)
    prepare(source, tmp_path / "whole.zip", settings)

    def stop(chunks, total):
        yield next(iter(chunks))
        raise KeyboardInterrupt

    target = tmp_path / "parts.zip"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, target, settings, progress=stop)
    assert not target.exists()
    done = list((tmp_path / "parts.zip.part").glob("*.zip"))
    times = [path.stat().st_mtime_ns for path in done]
    prepare(source, target, settings, progress=lambda chunks, total: _unchanged(chunks, done, times))
    assert target.read_bytes() == (tmp_path / "whole.zip").read_bytes()


def _unchanged(chunks, done, times):
    yield from chunks
    assert [path.stat().st_mtime_ns for path in done] == times


@pytest.mark.slow
def test_several_processes_make_the_same_zip(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {f"{i:03d}.png": png(i, (8, 8)) for i in range(300)})
    for count in (1, 2):
        prepare(source, tmp_path / f"{count}.zip", Preparation(resolution=8), processes=count)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_pictures_become_squares_as_asked() -> None:
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (4, 0, 36, 20))
    assert to_square(wide, 10, "crop").getcolors() == [(100, (0, 0, 255))]
    assert to_square(wide, 10, "pad").getpixel((5, 0)) == (255, 255, 255)
    squashed = to_square(wide, 10, "squash")
    assert squashed.getpixel((5, 5)) == (0, 0, 255)
    assert np.asarray(squashed)[5, 0, 0] > 200  # red, which a crop would lose


def test_nothing_to_prepare_is_one_line(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "in", {"a.png": png()})
    code, _, err = run("prepare", tmp_path / "in", tmp_path / "x.zip", "--only-captioned", "--clip", "none")
    assert (code, err.strip()) == (1, f"Error: {tmp_path / 'in'}: no pictures in it with captions")
    code, _, err = run("prepare", tmp_path / "gone", tmp_path / "x.zip", "--clip", "none")
    assert code == 1
    assert "no such folder or zip or tar" in err
    code, _, err = run("prepare", tmp_path / "in", tmp_path / "x.tar")
    assert code == 2
    assert "name it x.zip" in err
    write(tmp_path / "broken", {"a.png": b"nothing"})
    code, _, err = run("prepare", tmp_path / "broken", tmp_path / "x.zip", "--clip", "none")
    assert code == 1
    assert "none of 1 pictures can be read" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "in"]


def test_damaged_embeddings_are_computed_again(tmp_path: Path, tiny_clip: ClipEncoder) -> None:
    target = tmp_path / "x.zip"
    prepare(write(tmp_path / "in", LAYOUTS["pairs"]), target, Preparation(resolution=32), tiny_clip)
    with zipfile.ZipFile(target) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(damaged, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content[:50] if name == EMBEDDINGS else content)
    whole = open_captioned([str(target)], 32).embed(tiny_clip, tmp_path / "cache")
    again = open_captioned([str(damaged)], 32).embed(tiny_clip, tmp_path / "cache")
    torch.testing.assert_close(again.texts, whole.texts, atol=2e-3, rtol=0)

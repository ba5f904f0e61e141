"""Pictures from folders and zips, and the cache of samples."""

import io
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_generator
from PIL import Image

from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import open_pictures
from clip2gan.data.samples import draw_samples, embed_pictures, plain_prompts
from clip2gan.domain import Domain


def png(pixels: np.ndarray, mode: str | None = None, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind)
    return file.getvalue()


def noise(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


FILES = {f"{i // 2}/{9 - i}.png": png(noise(i)) for i in range(6)}


@pytest.mark.parametrize("write", [write_zip, write_folder])
@pytest.mark.parametrize("memory_limit", [1 << 20, 0])
def test_pictures_keep_their_pixels_in_the_order_of_their_names(write, memory_limit: int, tmp_path: Path):
    pictures = open_pictures(write(tmp_path / "source", FILES), 16, memory_limit)
    assert pictures.names == sorted(FILES)
    batch = pictures.batch([4, 0, 4])
    assert batch.dtype == torch.uint8
    assert batch.shape == (3, 3, 16, 16)
    for tensor, index in zip(batch, [4, 0, 4], strict=True):
        expected = np.asarray(Image.open(io.BytesIO(FILES[pictures.names[index]])))
        assert np.array_equal(tensor.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_only_pictures_are_looked_at(write, tmp_path: Path):
    captions = {"dataset.json": b"{ not json", "1.txt": b"a caption", "__MACOSX/0.png": b"", ".1.png": b""}
    with_captions = open_pictures(write(tmp_path / "a", {**captions, **FILES}), 16)
    without = open_pictures(write(tmp_path / "b", FILES), 16)
    assert with_captions.names == without.names
    assert torch.equal(with_captions.batch(range(6)), without.batch(range(6)))
    assert not with_captions.skipped


@pytest.mark.parametrize("memory_limit", [1 << 20, 0])
def test_broken_pictures_are_skipped_and_named(
    memory_limit: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    whole = png(noise(1, 64))
    broken = {"cut.png": whole[:2000], "html.jpg": b"<html>", "empty.png": b"", "z.png": whole}
    source = write_zip(tmp_path / "source.zip", broken)
    with caplog.at_level(logging.WARNING):
        pictures = open_pictures(source, 64, memory_limit)
        batch = pictures.batch(list(range(len(pictures))))
    assert (batch == torch.from_numpy(noise(1, 64)).permute(2, 0, 1)).all()
    assert set(pictures.skipped) == {"cut.png", "html.jpg", "empty.png"}
    for name in pictures.skipped:
        assert name in caplog.text


def test_a_wide_picture_is_cropped_at_its_centre_and_antialiased(tmp_path: Path):
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, 16:48] = 200
    pixels[:, 16:48:2] = 100  # stripes that vanish in the mean
    source = write_folder(tmp_path / "s", {"wide.png": png(pixels)})
    picture = open_pictures(source, 8).batch([0])[0].float()
    assert picture[:, :, 1:-1].sub(150).abs().max() <= 3
    assert picture.min() > 90


def test_formats(tmp_path: Path):
    grey = np.full((8, 8), 300, dtype=np.uint16) * 100
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    files = {
        "16bit.png": png(grey),
        "cmyk.jpg": png(np.full((8, 8, 3), 128, np.uint8), "CMYK", "JPEG"),
        "palette.png": png(np.full((8, 8, 3), 128, np.uint8), "P"),
        "transparent.png": png(clear),
    }
    pictures = open_pictures(write_folder(tmp_path / "s", files), 8)
    means = pictures.batch(range(4)).float().mean((1, 2, 3))
    assert torch.allclose(means, torch.tensor([30000 / 257, 128, 128, 255]), atol=2.5)


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path):
    image = Image.fromarray(np.stack([np.arange(64, dtype=np.uint8).reshape(8, 8)] * 3, axis=-1))
    exif = image.getexif()
    exif[0x0112] = 3  # turned by 180 degrees
    (tmp_path / "s").mkdir()
    image.save(tmp_path / "s" / "turned.png", exif=exif)
    turned = open_pictures(tmp_path / "s", 8).batch([0])[0]
    assert torch.equal(turned[0].flatten(), torch.arange(63, -1, -1, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"dataset.json": b"{}"}, "no pictures in it"),
        ({"a.png": b"x", "b.png": b"y"}, "2 of 2 pictures cannot be read: a.png"),
    ],
)
def test_a_source_without_a_readable_picture_is_an_error(
    files: dict[str, bytes], message: str, tmp_path: Path
):
    source = write_zip(tmp_path / "s.zip", files)
    with pytest.raises(ValueError, match=message) as error:
        open_pictures(source, 16)
    assert str(source) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_source_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="missing: no such folder or zip"):
        open_pictures(tmp_path / "missing", 16)
    (tmp_path / "file").write_text("hello")
    with pytest.raises(ValueError, match="neither a folder nor a readable zip"):
        open_pictures(tmp_path / "file", 16)


def test_names_in_a_zip_are_never_paths(tmp_path: Path):
    source = write_zip(
        tmp_path / "s.zip", {"a/../../outside.png": png(noise(0)), "/etc/x.png": png(noise(1))}
    )
    assert open_pictures(source, 16).names == ["/etc/x.png", "a/../../outside.png"]
    assert not (tmp_path.parent / "outside.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["s.zip"]


def test_samples_are_the_generators_pictures_embedded(tiny_clip: ClipEncoder, tmp_path: Path):
    generator = make_generator()
    samples = draw_samples(generator, tiny_clip, 5, 0, tmp_path)
    ws = samples.w[:, None].repeat(1, generator.num_ws, 1)
    expected = tiny_clip.encode_images(generator.synthesis(ws))
    assert torch.allclose(samples.embeddings, expected, atol=1e-5)


def test_samples_are_addressed_by_seed_and_drawn_once(
    tiny_clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("clip2gan.data.samples.SHARD", 4)
    generator = make_generator()
    nine = draw_samples(generator, tiny_clip, 9, 0, tmp_path / "a")
    assert torch.equal(draw_samples(generator, tiny_clip, 6, 0, tmp_path / "b").w, nine.w[:6])
    assert not torch.equal(draw_samples(generator, tiny_clip, 9, 1, tmp_path / "c").w, nine.w)

    shards = sorted((tmp_path / "a").iterdir())
    shards[1].write_bytes(b"damaged")
    for shard in shards:
        os.utime(shard, (0, 0))
    again = draw_samples(generator, tiny_clip, 9, 0, tmp_path / "a")
    assert torch.equal(again.embeddings, nine.embeddings)
    assert [shard.stat().st_mtime == 0 for shard in shards] == [True, False, True]  # what was not drawn anew

    other = draw_samples(make_generator(seed=5), tiny_clip, 9, 0, tmp_path / "a")
    assert not torch.equal(other.w, nine.w)


def test_pictures_are_embedded_as_they_are(tiny_clip: ClipEncoder, tmp_path: Path):
    source = write_folder(tmp_path / "s", {"a.png": png(noise(0, 32)), "b.png": png(noise(1, 32))})
    embeddings = embed_pictures(open_pictures(source, 32), tiny_clip, tmp_path / "cache")
    images = [Image.open(source / name).convert("RGB") for name in ("a.png", "b.png")]
    assert torch.allclose(embeddings, tiny_clip.encode_images(images), atol=1e-5)


def test_prompts(tmp_path: Path):
    prompts = plain_prompts()
    assert len(prompts) == len(set(prompts)) >= 50
    assert plain_prompts(domain=Domain(prompts=("a cat",))) == ["a cat"]
    assert plain_prompts(domain=Domain()) == prompts
    (tmp_path / "mine.txt").write_text("a cat\n\n  a dog \n")
    assert plain_prompts(tmp_path / "mine.txt") == ["a cat", "a dog"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.txt has no text in it"):
        plain_prompts(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
        plain_prompts(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.txt is not a text file in UTF-8"):
        plain_prompts(tmp_path / "binary.txt")

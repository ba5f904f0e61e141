"""tools.draw_samples: stopped and gone on with, the folder is that of a run in one go, to the byte."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import Run, make_clip, make_generator
from PIL import Image

from clip2gan.data.drawn import open_drawn, split_shards
from clip2gan.data.samples import embed_drawn
from clip2gan.sampling import draw_picture, seed_latents, seed_random
from stylegan2 import Generator, GeneratorConfig, save_generator
from stylegan2.files import load_tensors
from tools.draw_samples import main


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generator") / "generator.safetensors"
    save_generator(make_generator(), path)
    return path


def draw(source: Path, out: Path, seeds: str, *options: str) -> Result:
    args = ["--generator", str(source), "--seeds", seeds, "--out", str(out), "--size", "16", *options]
    return CliRunner().invoke(main, args)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of seeds 250 to 300, in one go."""
    out = tmp_path_factory.mktemp("whole") / "samples"
    result = draw(source, out, "250-300", "--truncation", "0.6:1.0")
    assert result.exit_code == 0, result.output
    return out


def test_pictures_and_latents_belong_together(whole: Path, source: Path) -> None:
    generator = make_generator()
    first = load_tensors(whole / "latents" / "00000000.safetensors")[0]
    second = load_tensors(whole / "latents" / "00000256.safetensors")[0]
    assert first["seed"].tolist() == [*range(250, 256)]
    assert second["seed"].tolist() == [*range(256, 301)]
    assert second["w"].dtype == torch.float32
    assert second["w"].shape == (45, 8)
    assert 0.6 <= second["truncation"].min() < 0.65
    assert 0.95 < second["truncation"].max() <= 1
    for seed, w in zip(second["seed"].tolist()[:3], second["w"], strict=False):
        picture = draw_picture(generator, w.expand(1, generator.num_ws, -1))
        small = picture.resize((16, 16), Image.Resampling.LANCZOS)
        with Image.open(whole / "pictures" / "00000" / f"{seed:08d}.jpg") as stored:
            assert stored.size == (16, 16)
            assert np.abs(np.asarray(stored).astype(int) - np.asarray(small)).mean() < 3


def test_resumed_and_split_runs_equal_a_whole_one(source: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    for seeds in ("270-280", "250-260", "300-300", "250-300"):
        assert draw(source, out, seeds, "--truncation", "0.6:1.0").exit_code == 0
    assert contents(out) == contents(whole)


def test_what_is_lost_or_damaged_is_drawn_again(source: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    draw(source, out, "250-300", "--truncation", "0.6:1.0")
    (out / "pictures" / "00000" / "00000270.jpg").unlink()
    (out / "latents" / "00000000.safetensors").write_bytes(b"cut off")
    assert draw(source, out, "250-300", "--truncation", "0.6:1.0").exit_code == 0
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_a_killed_run_goes_on(source: Path, tmp_path: Path) -> None:
    killed, once = tmp_path / "killed", tmp_path / "once"
    args = ["--generator", source, "--seeds", "0-600", "--size", "16", "--out"]
    command = [sys.executable, "-m", "tools.draw_samples", *map(str, args)]
    with subprocess.Popen([*command, str(killed)]) as process:
        deadline = time.monotonic() + 60
        while not (killed / "pictures" / "00000" / "00000005.jpg").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
    assert 5 < len(list(killed.rglob("*.jpg"))) < 601
    for out in (killed, once):
        assert draw(source, out, "0-600").exit_code == 0
    assert contents(killed) == contents(once)


def test_other_settings_and_strangers_folders_are_refused(source: Path, whole: Path, tmp_path: Path) -> None:
    before = contents(whole)
    result = draw(source, whole, "250-300", "--truncation", "0.7")
    assert result.exit_code == 1
    assert "was begun with other settings (truncation: [0.6, 1.0] -> [0.7, 0.7])" in result.output
    assert contents(whole) == before

    (tmp_path / "notes.txt").write_text("mine")
    assert "not a folder of samples" in draw(source, tmp_path, "0-1").output
    (tmp_path / "config.json").write_text("[]")
    assert "not that of a folder of samples" in draw(source, tmp_path, "0-1").output
    assert "is a file" in draw(source, tmp_path / "notes.txt", "0-1").output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]


@pytest.mark.parametrize("seeds", ["5-3", "-1", "a-b", "7", "0-9223372036854775808", ""])
def test_bad_ranges_of_seeds_are_refused(source: Path, tmp_path: Path, seeds: str) -> None:
    result = draw(source, tmp_path / "out", seeds)
    assert result.exit_code == 2
    assert "is no range of seeds" in result.output


@pytest.mark.parametrize("psi", ["x", "1:0.5", "nan", "-1", "0.5:"])
def test_bad_truncations_are_refused(source: Path, tmp_path: Path, psi: str) -> None:
    result = draw(source, tmp_path / "out", "0-1", "--truncation", psi)
    assert result.exit_code == 2
    assert "is no truncation" in result.output


def test_shards_cover_a_range() -> None:
    assert [*split_shards(range(200, 600))] == [range(200, 256), range(256, 512), range(512, 600)]
    assert [*split_shards(range(256, 512))] == [range(256, 512)]


def test_a_seed_s_numbers_are_its_own() -> None:
    seeds = [0, 1, 2**32, 2**32 + 1, 2**63 - 1]
    draws = {tuple(seed_random(seed, stream).randn(4)) for seed in seeds for stream in (0, 1)}
    assert len(draws) == 10
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed {seed} is out of range"):
            seed_random(seed)


def test_classes() -> None:
    config = GeneratorConfig(
        z_dim=8, w_dim=8, c_dim=3, img_resolution=8, channel_base=64, channel_max=8, mapping_layers=2
    )
    generator = Generator(config).eval().requires_grad_(False)
    labels = {seed_latents(generator, seed).label for seed in range(30)}
    assert labels == {0, 1, 2}
    chosen = [seed_latents(generator, 5, label=label).ws for label in range(3)]
    own = seed_latents(generator, 5)
    assert own.label is not None
    assert torch.equal(own.ws, chosen[own.label])
    assert not torch.equal(chosen[0], chosen[1])
    with pytest.raises(ValueError, match="no class 3; give one from 0 to 2"):
        seed_latents(generator, 5, label=3)
    with pytest.raises(ValueError, match="has no classes"):
        seed_latents(make_generator(), 5, label=0)


def test_a_mapper_learns_from_samples_drawn_before(whole: Path, source: Path, tmp_path: Path) -> None:
    generator, clip = make_generator(), make_clip(tmp_path / "clip")
    drawn = open_drawn(whole, generator, 20)
    assert drawn.seeds == list(range(250, 270))
    pairs = embed_drawn(drawn, clip, tmp_path / "cache")
    assert torch.equal(pairs.w, drawn.w)
    pictures = drawn.pixels(slice(3, 4)).float() / 127.5 - 1
    assert torch.allclose(pairs.embeddings[3:4], clip.encode_images(pictures), atol=1e-5)
    with pytest.raises(ValueError, match="drawn from another generator; draw samples of this one into a new"):
        open_drawn(whole, make_generator(seed=5), 20)
    assert open_drawn(whole, generator, 20, first_seed=260).seeds == list(range(260, 280))
    with pytest.raises(
        ValueError, match="has 41 samples from seed 260 on, and --samples asks for 42; draw more"
    ):
        open_drawn(whole, generator, 42, first_seed=260)
    with pytest.raises(FileNotFoundError, match=r"has no drawn samples .*draw some by"):
        open_drawn(tmp_path, generator, 20)


def test_train_mapper_takes_samples_drawn_before(whole: Path, source: Path, run: Run, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip")
    command = ["train-mapper", "--generator", source, "--clip", clip.spec, "--samples-from", whole]
    command += ["--samples", 20, "--device", "cpu"]
    command += ["--steps", 1, "--batch", 2, "--set", "warmup_steps=1"]
    code, _, err = run(*command, "--out", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run" / "bundle" / "mapper-mlp.safetensors").is_file()
    cached = load_tensors(tmp_path / "run" / "cache" / "sampled" / "00000.safetensors")[0]
    assert len(cached["embeddings"]) == 20

    save_generator(make_generator(seed=5), tmp_path / "other.safetensors")
    command[2] = tmp_path / "other.safetensors"
    code, _, err = run(*command, "--out", tmp_path / "run-2")
    assert code != 0
    assert "--samples-from" in err
    assert "drawn from another generator" in err
    assert not (tmp_path / "run-2").exists()

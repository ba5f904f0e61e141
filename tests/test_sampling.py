"""`clip2gan sample` and clip2gan.sampling: pictures by seed, sheets, mixtures, videos, refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, make_generator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.clip import ClipEncoder
from clip2gan.images import read_metadata
from clip2gan.sampling import MOST_SEEDS, Sampler, mix_styles, parse_layers, parse_seeds, sheet_cell, walk
from stylegan2 import Generator, GeneratorConfig, save_generator
from stylegan2.files import fingerprint


def small_generator(c_dim: int = 0, img_channels: int = 3) -> Generator:
    config = GeneratorConfig(
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=8,
        img_channels=img_channels,
        channel_base=64,
        mapping_layers=2,
    )
    torch.manual_seed(0)
    return Generator(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generators: plain, classes, grey, four."""
    folder = tmp_path_factory.mktemp("generators")
    save_generator(make_generator(), folder / "plain.safetensors")
    for name, settings in (
        ("classes", {"c_dim": 3}),
        ("grey", {"img_channels": 1}),
        ("four", {"img_channels": 4}),
    ):
        save_generator(small_generator(**settings), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def sample(run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda name, *args: run(
        "sample", "--device", "cpu", "--generator", files / f"{name}.safetensors", *args
    )


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


ranges = st.tuples(st.integers(0, 2**63 - 200), st.integers(0, 50))


@given(st.lists(ranges, min_size=1, max_size=9))
def test_seeds_are_read_in_their_order(parts: list[tuple[int, int]]) -> None:
    text = ", ".join(f"{first}-{first + more}" if more else str(first) for first, more in parts)
    assert parse_seeds(text) == [first + each for first, more in parts for each in range(more + 1)]


@given(st.text("0123456789-, x+٣", max_size=12))
def test_any_text_gives_seeds_or_one_line(text: str) -> None:
    error, seeds = "", []
    try:
        seeds = parse_seeds(text)
    except ValueError as caught:
        error = str(caught)
    assert bool(error) != bool(seeds)
    assert "\n" not in error
    assert len(seeds) <= MOST_SEEDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is neither a seed nor a range"),
        ("1,,2", "'' is neither a seed nor a range"),
        ("-1", "'-1' is neither a seed nor a range"),
        ("5-3", "'5-3' runs backwards; write it as 3-5"),
        ("1.5", "'1.5' is neither a seed nor a range"),
        ("0-999999999", "more than 100,000 seeds"),
        (str(2**63), "is out of range; the largest seed is 9223372036854775807"),
        ("9" * 5000, "is out of range"),
    ],
)
def test_bad_seeds_end_in_one_line(sample: Run, text: str, message: str) -> None:
    code, out, err = sample("plain", "--seeds", text)
    assert (code, out) == (2, "")
    assert err.startswith("Error: Invalid value for '--seeds': ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


def test_a_seeds_picture_depends_on_nothing_else(sample: Run, files: Path) -> None:
    assert sample("plain", "--seeds", "3-5,9223372036854775807", "--out", "many")[0] == 0
    assert sample("plain", "--seeds", "4", "--out", "one.png")[0] == 0
    names = ["seed0003.png", "seed0004.png", "seed0005.png", "seed9223372036854775807.png"]
    assert sorted(path.name for path in Path("many").iterdir()) == names
    assert Path("many/seed0004.png").read_bytes() == Path("one.png").read_bytes()
    assert len({Path("many", name).read_bytes() for name in names}) == 4
    sampler = Sampler(make_generator(), truncation=0.7)
    assert np.array_equal(pixels("one.png"), np.asarray(sampler.draw(sampler.latents(4).ws)))
    metadata = read_metadata("one.png")
    assert metadata is not None
    assert metadata["command"] == "sample"
    assert (metadata["seed"], metadata["truncation"], metadata["class"]) == (4, 0.7, None)
    assert metadata["fingerprint"] == fingerprint(files / "plain.safetensors")
    assert set(metadata["versions"]) == {"clip2gan", "torch"}


def test_a_grid_shows_every_picture(sample: Run) -> None:
    assert sample("plain", "--seeds", "0-4", "--grid", "--out", "o")[0] == 0
    sheet = pixels("o/grid.png")
    assert sheet.shape == (3 * 34 - 2, 2 * 34 - 2, 3)
    for seed in range(5):
        row, column = divmod(seed, 2)
        shown = sheet[34 * row : 34 * row + 32, 34 * column : 34 * column + 32]
        assert np.array_equal(shown, pixels(f"o/seed{seed:04d}.png"))
    assert sample("plain", "--seeds", "0-4", "--grid", "--out", "grid.png")[0] == 0
    assert Path("grid.png").read_bytes() == Path("o/grid.png").read_bytes()


def test_large_sheets_show_reduced_pictures() -> None:
    assert [sheet_cell(count, 1024) for count in (16, 33, 1000, 100_000)] == [1024, 512, 128, 16]


def test_a_mixing_matrix(sample: Run) -> None:
    assert sample("plain", "--seeds", "0-1", "--style-seeds", "5-7", "--out", "m")[0] == 0
    sheet = pixels("m/grid.png")
    assert sheet.shape == (3 * 34 - 2, 4 * 34 - 2, 3)
    assert (sheet[:32, :32] == 255).all()

    def cell(row: int, column: int) -> np.ndarray:
        return sheet[34 * row : 34 * row + 32, 34 * column : 34 * column + 32]

    sampler = Sampler(make_generator(), truncation=0.7)
    layers = parse_layers(None, sampler.generator.num_ws)
    for row, seed in enumerate((0, 1), 1):
        assert np.array_equal(cell(row, 0), pixels(f"m/seed{seed:04d}.png"))
        for column, style in enumerate((5, 6, 7), 1):
            assert np.array_equal(cell(0, column), pixels(f"m/seed{style:04d}.png"))
            mixed = mix_styles(sampler.latents(seed).ws, sampler.latents(style).ws, layers)
            assert np.array_equal(cell(row, column), np.asarray(sampler.draw(mixed)))
    metadata = read_metadata("m/grid.png")
    assert metadata is not None
    assert (metadata["seeds"], metadata["style_seeds"]) == ([0, 1], [5, 6, 7])
    code, _, err = sample("plain", "--style-seeds", 1, "--style-layers", "3-99", "--out", "n")
    assert code == 2
    assert "Invalid value for '--style-layers': this generator has no layer 99" in err


def test_a_walk_passes_its_seeds_and_closes() -> None:
    keys = [torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    path = [*walk(keys, 50)]
    assert len(path) == 150
    assert all(torch.equal(path[50 * index], key) for index, key in enumerate(keys))
    steps = torch.stack(
        [(after - before).norm() for before, after in zip(path, [*path[1:], path[0]], strict=True)]
    )
    bends = (steps - steps.roll(1)).abs()
    assert bends.max() < 0.2 * steps.max()  # also where it closes
    with pytest.raises(ValueError, match="at least two"):
        walk(keys[:1], 50)


def test_a_video_of_the_loop_alone(sample: Run) -> None:
    pytest.importorskip("imageio_ffmpeg")
    assert sample("plain", "--seeds", "0-2", "--video", "v.gif", "--frames", 4)[0] == 0
    assert [path.name for path in Path().iterdir()] == ["v.gif"]
    with Image.open("v.gif") as video:
        assert getattr(video, "n_frames", 1) == 12
    code, _, err = sample("plain", "--video", "w.gif")
    assert code == 2
    assert "at least two --seeds" in err


def test_classes(sample: Run) -> None:
    assert sample("classes", "--seeds", 3, "--class", 2, "--out", "c")[0] == 0
    assert sample("classes", "--seeds", 3, "--class", 1, "--out", "c")[0] == 0
    two, one = (pixels(f"c/seed0003-class{label}.png") for label in (2, 1))
    assert not np.array_equal(two, one)
    assert sample("classes", "--seeds", 3, "--out", "own.png")[0] == 0
    metadata = read_metadata("own.png")
    assert metadata is not None
    label = metadata["class"]
    assert sample("classes", "--seeds", 3, "--class", label, "--out", "same.png")[0] == 0
    assert np.array_equal(pixels("own.png"), pixels("same.png"))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("classes", ["--class", 3], "'--class': this generator has no class 3; give one from 0 to 2"),
        ("plain", ["--class", 0], "'--class': this generator has no classes"),
        ("four", [], "'--generator': its pictures have 4 channels; only RGB (3) and grey (1)"),
        ("nothing", [], "no such file; give a StyleGAN2 checkpoint"),
        ("plain", ["--seeds", "0-1", "--out", "a.png"], "'--out': a.png takes one picture, 2 are asked for"),
        ("plain", ["--style-layers", "1"], "--style-layers goes with --style-seeds"),
        ("plain", ["--video", "a.avi", "--seeds", "0-1"], "videos are written as .gif or .mp4"),
    ],
)
def test_refusals_end_in_one_line_and_leave_nothing(
    sample: Run, name: str, args: list[object], message: str
) -> None:
    code, out, err = sample(name, *args)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


def test_grey_generators_give_equal_channels(sample: Run) -> None:
    assert sample("grey", "--out", "g.png")[0] == 0
    shown = pixels("g.png")
    assert shown.shape == (8, 8, 3)
    assert (shown == shown[:, :, :1]).all()


def test_files_are_kept_unless_forced_and_json_lists_them(sample: Run) -> None:
    code, out, _ = sample("plain", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["files"] == [{"path": "out/seed0000.png", "seed": 0}]
    code, _, err = sample("plain")
    assert code == 1
    assert "exists already" in err
    assert sample("plain", "--force")[0] == 0


def test_the_licence_is_told_once(run: Run, tmp_path: Path) -> None:
    generator = make_generator()
    generator.licence = "for tests only"
    save_generator(generator, tmp_path / "owned.safetensors")
    for command in (
        (
            "sample",
            "--generator",
            tmp_path / "owned.safetensors",
            "--device",
            "cpu",
            "--out",
            tmp_path / "a.png",
        ),
        ("convert", tmp_path / "owned.safetensors", tmp_path / "b.safetensors"),
    ):
        code, out, err = run(*command)
        assert (code, err) == (0, "")
        assert out.count("for tests only") == 1


def test_a_licence_is_a_note_and_no_warning(run: Run, tiny_clip: ClipEncoder, tmp_path: Path) -> None:
    generator = make_generator()
    generator.licence = "for tests only"
    path = tmp_path / "owned.safetensors"
    save_generator(generator, path)
    command = ("train-mapper", "--generator", path, "--clip", tiny_clip.spec, "--device", "cpu", "--dry-run")
    code, _, err = run(*command, "--out", tmp_path / "run")
    assert code == 0
    notes = [line for line in err.splitlines() if "for tests only" in line]
    assert notes == [f"Note: {path}: licence of the weights: for tests only"]
    assert "Warning" not in err


def test_neither_clip_nor_the_compiler_is_imported(files: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from clip2gan.cli import main\n"
        f"args = ['sample', '--generator', {str(files / 'plain.safetensors')!r}]\n"
        f"try: main([*args, '--grid', '--out', {str(tmp_path / 'o')!r}, '--device', 'cpu'])\n"
        "except SystemExit as done: assert not done.code\n"
        "print('heavy:', *{'open_clip', 'torchvision', 'torch._dynamo', 'timm'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"

"""Seeds: one limit everywhere, and different numbers for different ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st

from clip2gan.domain import TuningConfig
from clip2gan.drawing import candidate_seed
from clip2gan.model import Model
from clip2gan.sampling import seed_random
from clip2gan.training.settings import MapperTraining
from stylegan2.runs import step_generator
from stylegan2.seeds import seed_generator, seed_torch
from stylegan2.settings import LARGEST_SEED, check_seed

seeds = st.integers(0, LARGEST_SEED)


def numbers(random: torch.Generator) -> list[float]:
    return torch.rand(8, generator=random).tolist()


def from_torch(seed: int) -> list[float]:
    before = torch.get_rng_state()
    seed_torch(seed)
    found = torch.rand(8).tolist()
    torch.set_rng_state(before)
    return found


def from_numpy(seed: int) -> list[float]:
    return seed_random(seed).rand(8).tolist()


def from_step(seed: int) -> list[float]:
    return numbers(step_generator(seed, 3))


@pytest.mark.parametrize("draw", [lambda s: numbers(seed_generator(s)), from_torch, from_numpy, from_step])
@given(seeds, seeds)
def test_all_bits_of_a_seed_count(draw, first: int, second: int) -> None:
    assert draw(first) == draw(first)
    assert (draw(first) == draw(second)) is (first == second)
    for bit in (32, 48, 62):
        assert draw(first) != draw(first ^ (1 << bit))


@given(st.integers(0, 2**32 - 1), st.integers(-(2**43), 2**40))
def test_small_seeds_give_what_they_always_gave(seed: int, step: int) -> None:
    assert numbers(seed_generator(seed)) == numbers(torch.Generator().manual_seed(seed))
    spread = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 1) % 2**63
    assert numbers(step_generator(seed, step)) == numbers(torch.Generator().manual_seed(spread))


def test_the_state_is_the_one_that_numpy_makes() -> None:
    """The layout of PyTorch's state is not documented; this would notice another."""
    seed = 2**40 + 17
    drawn = torch.randint(2**20, (700,), generator=seed_generator(seed)).numpy()
    expected = np.random.RandomState([seed % 2**32, seed >> 32]).randint(2**32, size=700, dtype=np.uint32)
    assert np.array_equal(drawn, expected % 2**20)


@given(seeds)
def test_steps_of_a_large_seed_differ(seed: int) -> None:
    assert numbers(step_generator(seed, 1)) != numbers(step_generator(seed, 2))
    assert numbers(step_generator(seed, -1)) != numbers(step_generator(seed, 2**40))


def test_what_is_no_seed_is_refused() -> None:
    check_seed(LARGEST_SEED)
    check_seed(LARGEST_SEED - 3, 4)
    for seed in (-1, LARGEST_SEED + 1, 2**80):
        for use in (check_seed, seed_generator, seed_torch, seed_random):
            with pytest.raises(
                ValueError, match=rf"seed {seed} is out of range; give one from 0 to {2**63 - 1}"
            ):
                use(seed)
        for settings in (MapperTraining, TuningConfig):
            with pytest.raises(ValueError, match="seed must be from 0 to 9223372036854775807"):
                settings(seed=seed)
    with pytest.raises(ValueError, match=f"too large for 4 pictures .* give one up to {LARGEST_SEED - 3}"):
        check_seed(LARGEST_SEED - 2, 4)


@given(seeds, st.integers(1, 100))
def test_candidates_have_seeds_too(seed: int, index: int) -> None:
    check_seed(candidate_seed(seed, index))


def test_pictures_of_large_seeds_differ(tiny: Model) -> None:
    first, second, third = (tiny.generate("a hat", seed=seed)[0] for seed in (5, 5 + 2**32, LARGEST_SEED))
    assert first.tobytes() != second.tobytes() != third.tobytes()
    with pytest.raises(ValueError, match="too large for 2 pictures"):
        tiny.generate("a hat", num=2, seed=LARGEST_SEED)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--text", "a hat", "--out", "x"],
        ["edit", "--image", "PICTURE", "--attr", "hat", "--out", "x"],
        ["invert", "--image", "PICTURE", "--out", "x.safetensors"],
        ["evaluate", "--out", "x.json"],
        ["train-mapper", "--out", "x"],
        ["train-encoder", "--out", "x"],
        ["train-gan", "--data", "FOLDER", "--out", "x"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_has_the_same_limit(
    arguments: list[str], tmp_path: Path, run: Run, photo: Path
) -> None:
    places = {"PICTURE": photo, "FOLDER": photo.parent}
    arguments = [str(places.get(part, part)) for part in arguments]
    code, _, err = run(*arguments, "--seed", LARGEST_SEED + 1)
    assert (code, f"'--seed': {LARGEST_SEED + 1} is not in the range" in err) == (2, True), err


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos" / "a.png"


@pytest.mark.parametrize(
    "command", [["generate", "--text", "a hat"], ["evaluate"]], ids=["generate", "evaluate"]
)
def test_the_last_picture_has_a_seed_too(command: list[str], tmp_path: Path, run: Run) -> None:
    where = tmp_path / ("out.json" if command[0] == "evaluate" else "out")
    code, _, err = run(*command, "--num", 3, "--seed", LARGEST_SEED - 1, "--out", where)
    assert code == 2
    assert f"Invalid value for '--seed': seed {LARGEST_SEED - 1} is too large for 3 pictures" in err
    assert not where.exists()


@pytest.mark.parametrize("seed", ["9" * 19, "9" * 5000])
def test_a_style_has_the_same_limit(seed: str, run: Run) -> None:
    code, _, err = run("generate", "--text", "a hat", "--style-from", seed, "--out", "x")
    assert (code, "Invalid value for '--style-from': seed" in err) == (2, True)

import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from clip2gan.domains.avatars.vocabulary import groups, visible
from tools import domain, make_avatars
from tools.dataset import read_avatars

pytest.importorskip("python_avatars")
pytest.importorskip("resvg_py")

PLAIN = {
    "hair": "short",
    "hair_color": "red",
    "facial_hair": "none",
    "eyewear": "none",
    "expression": "smiling",
    "eyes": "open",
    "skin": "light",
    "clothing": "t-shirt",
    "clothing_color": "blue",
    "background": "white",
}


def drawn(**changes: str) -> np.ndarray:
    """A picture without chance: the first part of every value."""
    attributes = {**PLAIN, **changes}
    parts = {name: group.parts[attributes[name]][0] for name, group in groups().items()}
    return np.asarray(domain.render(attributes, parts, 64)).astype(float)


def test_values_are_drawn_as_often_as_the_vocabulary_says():
    rng = np.random.default_rng(0)
    samples = [domain.sample_attributes(rng) for _ in range(4000)]
    for name, group in groups().items():
        assert sum(group.probabilities) == pytest.approx(1)
        for value, p in zip(group.values, group.probabilities, strict=True):
            assert np.mean([sample[name] == value for sample in samples]) == pytest.approx(p, abs=0.04)


def test_groups_are_drawn_independently():
    rng = np.random.default_rng(1)
    samples = [domain.sample_attributes(rng) for _ in range(4000)]
    bearded = [sample["facial_hair"] == "beard" for sample in samples]
    long_haired = [sample["hair"] == "long" for sample in samples]
    assert abs(np.corrcoef(bearded, long_haired)[0, 1]) < 0.06


def test_every_value_changes_the_picture():
    for name, group in groups().items():
        pictures = [drawn(**{"facial_hair": "beard", name: value}) for value in group.values]
        for i, first in enumerate(pictures):
            for second in pictures[:i]:
                assert np.abs(first - second).max() > 25, name


@pytest.mark.parametrize("hair", ["bald", "hat", "bun", "curly"])
def test_glasses_and_beard_show_under_any_hair(hair: str):
    assert np.abs(drawn(hair=hair) - drawn(hair=hair, eyewear="glasses")).max() > 25
    assert np.abs(drawn(hair=hair) - drawn(hair=hair, facial_hair="beard")).max() > 25


@pytest.mark.parametrize(
    ("hidden", "by"),
    [
        ("hair_color", {"hair": "bald"}),
        ("hair_color", {"hair": "hat"}),
        ("eyes", {"eyewear": "sunglasses"}),
    ],
)
def test_hidden_groups_do_not_show(hidden: str, by: dict[str, str]):
    assert not visible({**PLAIN, **by})[hidden]
    for value in groups()[hidden].values:
        # dark glasses let a trace of the eyes through
        assert np.abs(drawn(**by) - drawn(**by, **{hidden: value})).max() < 50


@pytest.mark.parametrize(
    "changes", [{}, {"hair": "bald", "facial_hair": "beard"}, {"hair": "hat", "facial_hair": "moustache"}]
)
def test_everything_else_shows(changes: dict[str, str]):
    attributes = {**PLAIN, **changes}
    assert all(visible(attributes).values())
    for name in ("hair_color", "eyes"):
        pictures = {drawn(**{**changes, name: value}).tobytes() for value in groups()[name].values}
        assert len(pictures) == len(groups()[name].values)


def test_facial_hair_takes_the_colour_of_the_hair():
    blond, red = (drawn(hair="bald", facial_hair="beard", hair_color=colour) for colour in ("blond", "red"))
    assert np.abs(blond - red).max() > 50


def test_background_fills_the_corners():
    assert drawn(background="blue")[0, 0].tolist() == [150, 190, 235]


def test_size():
    picture = domain.draw(PLAIN, np.random.default_rng(0), 100)
    assert (picture.size, picture.mode) == ((100, 100), "RGB")
    with pytest.raises(ValueError, match="size must be at least 1"):
        domain.draw(PLAIN, np.random.default_rng(0), 0)


def make(*arguments: object) -> str:
    result = CliRunner().invoke(make_avatars.main, [str(argument) for argument in arguments])
    return result.output


def test_zip_is_the_same_bytes_every_time_and_picture_i_depends_on_i_alone(tmp_path):
    for out, num in (("a", 4), ("b", 4), ("c", 2)):
        make("--num", num, "--seed", 3, "--out", tmp_path / out, "--processes", 1)
    make("--num", 4, "--seed", 3, "--out", tmp_path / "d", "--processes", 2)
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes() == (tmp_path / "d").read_bytes()
    fewer, more = read_avatars(tmp_path / "c"), read_avatars(tmp_path / "a")
    assert fewer.records == more.records[:2]
    assert fewer.images.equal(more.images[:2])


def test_zip_holds_what_it_says(tmp_path):
    out = tmp_path / "avatars.zip"
    make("--num", 3, "--out", out, "--captions", 2, "--processes", 1, "--size", 32)
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == [*(f"00000/img{i:08d}.png" for i in range(3)), "dataset.json"]
    avatars = read_avatars(out)
    assert avatars.images.shape == (3, 3, 32, 32)
    labels, shown = avatars.labels()
    for i, record in enumerate(avatars.records):
        assert len(record["captions"]) == 2
        expected = domain.render(record["attributes"], record["parts"], 32)
        assert np.array_equal(avatars.images[i].permute(1, 2, 0).numpy(), np.asarray(expected))
        for g, (name, group) in enumerate(groups().items()):
            assert group.values[labels[i, g]] == record["attributes"][name]
            assert shown[i, g] == visible(record["attributes"])[name]


def test_existing_zip_is_kept_without_force(tmp_path):
    out = tmp_path / "avatars.zip"
    out.write_bytes(b"precious")
    assert "add --force" in make("--num", 1, "--out", out, "--processes", 1)
    assert out.read_bytes() == b"precious"
    make("--num", 1, "--out", out, "--processes", 1, "--force")
    assert zipfile.is_zipfile(out)


def test_a_zip_of_something_else_is_named(tmp_path):
    other = tmp_path / "other.zip"
    other.write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"other\.zip: not a zip of make_avatars"):
        read_avatars(other)
    with pytest.raises(FileNotFoundError, match="draw it with"):
        read_avatars(tmp_path / "none.zip")

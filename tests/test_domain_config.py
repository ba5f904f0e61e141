"""What a bundle says of its domain: read into typed objects, brought to today's version, refused by field."""

import contextlib
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, make_bundle
from hypothesis import given
from hypothesis import strategies as st

from clip2gan import load
from clip2gan.bundle import PackagedGenerator, bundled_models, load_bundle, read_config
from clip2gan.clip import ClipEncoder
from clip2gan.domain import Domain, EditThresholds, GapSettings, InversionConfig, TuningConfig
from clip2gan.settings import from_plain
from stylegan2.names import check_plain_name, file_inside

CATS = Domain(
    name="cats",
    neutral="a cat",
    prompts=("a cat", "a black cat"),
    vocabulary={"fur": {"black": ("a black cat", "black fur"), "white": ("a white cat",)}},
    inversion=InversionConfig(steps=7, lr=0.2),
    tuning=TuningConfig(steps=3),
    editing=EditThresholds(agrees=0.8, localities=(0.3,)),
    gap=GapSettings(sharpness=90.0),
    references=64,
    measured={"clip_score": 0.3},
)


def write_config(folder: Path, **changes: Any) -> None:
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | changes))


@pytest.fixture
def copy(tmp_path: Path, tiny_bundle: Path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def test_a_domain_comes_back_as_it_was_written(tmp_path: Path, tiny_clip: ClipEncoder) -> None:
    folder = make_bundle(tmp_path / "cats", tiny_clip, gap="posterior", domain=CATS)
    assert read_config(folder).domain == CATS
    model = load(str(folder), device="cpu")
    assert model.domain == CATS
    assert model.gap.sharpness == 90.0  # type: ignore[attr-defined]
    assert CATS.attribute_texts == ["a black cat", "black fur", "a white cat"]


def test_a_model_inverts_by_its_own_settings(tmp_path: Path, tiny_clip: ClipEncoder) -> None:
    domain = Domain(name="x", inversion=InversionConfig(steps=0))
    still = load(str(make_bundle(tmp_path / "m", tiny_clip, domain=domain)), device="cpu")
    image = still.generate("a cat")[0]
    start = still.estimate(image)
    assert still.invert(image).equal(start)
    assert not still.invert(image, InversionConfig(steps=3)).equal(start)


def test_the_bundled_models_are_of_this_version() -> None:
    for folder in bundled_models().values():
        plain = json.loads((folder / "config.json").read_text())
        assert plain["format_version"] == 2
        assert read_config(folder).to_json() == (folder / "config.json").read_text()


def test_a_bundle_of_version_1_still_loads(copy: Path) -> None:
    plain = json.loads((copy / "config.json").read_text())
    del plain["domain"]
    (copy / "config.json").write_text(json.dumps(plain | {"format_version": 1, "alignment": "ffhq"}))
    bundle = load_bundle(str(copy))
    assert bundle.config.domain == Domain(name="tiny", alignment="ffhq")
    assert bundle.config.format_version == 2


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"neutral": 3}, "'domain.neutral' is 3; expected a str"),
        ({"neutral": " "}, "'domain': the text ' ' is empty"),
        ({"inversion": {"steps": -1}}, "'domain.inversion': steps must be from 0 to 100000, got -1"),
        ({"inversion": {"lr": 1e400}}, "'domain.inversion.lr' is inf; expected a float"),
        ({"inversion": {"step": 3}}, "'domain.inversion.step' is not known; update clip2gan"),
        ({"editing": {"localities": ["a"]}}, "'domain.editing.localities[0]' is 'a'; expected a float"),
        ({"editing": {"localities": []}}, "'domain.editing': localities must be 1 to 10 numbers"),
        ({"alignment": "centre"}, "'domain.alignment' is 'centre'; expected a "),
        ({"prompts": "a cat"}, "'domain.prompts' is 'a cat'; expected a "),
        ({"prompts": ["x"] * 10_001}, "10,001 prompts and attributes; at most 10,000 are read"),
        ({"vocabulary": {"fur": ["black"]}}, "'domain.vocabulary.fur' is ['black']; expected a dict"),
        ({"references": 10**9}, "'domain': references must be from 8 to 100000"),
        ({"judge": "../judge"}, "'domain': judge '../judge' is not the name of a package"),
        ([], "'domain' is []; expected an object"),
    ],
)
def test_a_wrong_domain_is_named_by_its_field(copy: Path, domain: Any, message: str) -> None:
    write_config(copy, domain=domain)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_bundle(str(copy))
    assert str(caught.value).startswith(f"{copy / 'config.json'}: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{", '"x"', "[1]", '{"format_version": 2, "x": "' + "y" * 5_000_000 + '"}']
)
def test_a_hostile_config_is_one_line(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: ") as caught:
        read_config(copy)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(asdict(CATS))), JSON)
def test_whatever_a_field_holds_it_is_read_or_refused(field: str, value: Any) -> None:
    with contextlib.suppress(ValueError):  # and no other error
        assert isinstance(from_plain(Domain, {field: value}, "domain"), Domain)


def test_a_generator_may_come_with_a_package(copy: Path) -> None:
    packaged = PackagedGenerator(package="cats-gan", version="1.2", files={"cats/g.bin": "0" * 64})
    filed = read_config(copy)
    config = replace(filed, generator=packaged)
    assert config.fingerprint() != filed.fingerprint()
    (copy / "config.json").write_text(config.to_json())
    assert read_config(copy) == config
    with pytest.raises(
        ValueError, match=r"comes with the package 'cats-gan' '1\.2', which this clip2gan does not know"
    ):
        load_bundle(str(copy))


BAD_NAMES = [
    "../../../victim.txt",
    "/etc/passwd",
    "clip/../../x",
    "..",
    ".",
    "",
    "a//b",
    "a/",
    "C:\\x",
    "C:x",
    "..\\x",
    "x\0y",
    "x\ny",
    "nul",
    "con.txt",
    "x" * 256,
    "a/" * 40 + "b",
    "\ud800",
    "x.",
    3,
    None,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_no_plain_relative_names(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        check_plain_name(name, nested=True)
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        file_inside(tmp_path, name)


@given(st.text(max_size=12))
def test_a_plain_name_stays_inside(name: str) -> None:
    try:
        path = file_inside("/some/folder", name)
    except ValueError:
        return
    assert path.resolve().is_relative_to("/some/folder")
    assert path.resolve() != Path("/some/folder")


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if isinstance(name, str) and name != "\ud800"])
def test_a_bundle_names_no_file_outside_its_folder(copy: Path, run: Run, name: str, tmp_path: Path) -> None:
    """Wherever a name stands: parts, sums, a packaged generator's files."""
    plain = json.loads((copy / "config.json").read_text())
    packaged = {"package": "p", "version": "1", "files": {name: "0" * 64}}
    places = (
        {"files": {**plain["files"], name: "0" * 64}},
        {"generator": name},
        {"generator": packaged},
        {"gap": name},
        {"encoder": name},
        {"mappers": {"mlp": name}},
    )
    for changes in places:
        (copy / "config.json").write_text(json.dumps(plain | changes))
        with pytest.raises(ValueError, match="is not the name of a file in this folder"):
            read_config(copy)
    code, _, err = run("train-encoder", "--model", copy, "--steps", 1, "--out", tmp_path / "out")
    assert code
    assert "is not the name of a file in this folder" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "clip",
    ["local-dir:/etc", "ViT-B-32:/home/x.pt", "ViT-B-32:x.pt", "../clip", "hf-hub:../../x", "hf-hub:a/b/c"],
)
def test_a_bundle_names_no_clip_by_a_path(copy: Path, clip: str) -> None:
    write_config(copy, clip=clip)
    with pytest.raises(ValueError, match=r"'clip' is .*; expected 'clip', ARCH:PRETRAINED or hf-hub:ID"):
        load_bundle(str(copy))


@pytest.mark.parametrize(
    "part", ["gap.safetensors", "generator.safetensors", "clip/open_clip_model.safetensors"]
)
def test_a_link_out_of_a_bundle_is_refused(copy: Path, tmp_path: Path, part: str) -> None:
    outside = shutil.copy(copy / part, tmp_path / "outside")
    (copy / part).unlink()
    (copy / part).symlink_to(outside)
    with pytest.raises(ValueError, match="is a link out of this folder; put the file itself there"):
        load_bundle(str(copy))


def test_a_snapshot_of_the_hub_is_links_into_its_blobs(copy: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "main"
    (repository / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in copy.rglob("*") if path.is_file())):
        place = snapshot / file.relative_to(copy)
        place.parent.mkdir(parents=True, exist_ok=True)
        blob = Path(shutil.copy(file, repository / "blobs" / str(number)))
        place.symlink_to(blob)
    assert load_bundle(str(snapshot)).config.name == "tiny"


def test_what_is_drawn_for_nothing_known_names_no_domain() -> None:
    words = json.dumps(asdict(Domain()))
    assert not re.search(r"face|hair|person|smil|eye|mouth|avatar", words)

"""Bundles: written whole, loaded as they were, and refused in one line when something is wrong with them."""

import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import conftest
import pytest
import torch
from PIL import Image

from clip2gan.bundle import BundleInfo, load_bundle, locate_bundle, model_card, read_config, write_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.domain import Domain
from clip2gan.gap import NoGap
from clip2gan.mappers import new_mapper
from clip2gan.model import Model
from stylegan2.files import fingerprint, load_tensors, save_tensors


@pytest.fixture
def copy(tmp_path: Path, tiny_bundle: Path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def test_round_trip_gives_the_same_model(tiny_bundle: Path, tiny_clip: ClipEncoder) -> None:
    bundle = load_bundle(str(tiny_bundle))
    assert bundle.clip.fingerprint() == tiny_clip.fingerprint()
    original = conftest.make_generator().state_dict()
    assert all(torch.equal(value, original[name]) for name, value in bundle.generator.state_dict().items())
    assert list(bundle.mappers) == ["mlp"]
    assert bundle.gap.kind == "knn"
    assert not any(
        p.requires_grad for p in [*bundle.generator.parameters(), *bundle.mappers["mlp"].parameters()]
    )


def test_open_clip_alone_can_load_the_clip(tiny_bundle: Path) -> None:
    import open_clip

    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_bundle / 'clip'}")
    assert preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)  # type: ignore[operator]


def test_config_lists_every_file_with_its_sum(tiny_bundle: Path) -> None:
    files = read_config(tiny_bundle).files
    present = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert set(files) == present - {"config.json", "README.md"}
    assert all(fingerprint(tiny_bundle / name) == total for name, total in files.items())
    assert {path.suffix for path in tiny_bundle.rglob("*") if path.is_file()} == {
        ".json",
        ".safetensors",
        ".md",
    }


def test_the_fingerprint_follows_the_weights_only(copy: Path, tiny_bundle: Path) -> None:
    change_config(copy, description="other words")
    assert load_bundle(str(copy)).fingerprint == load_bundle(str(tiny_bundle)).fingerprint


def test_half_precision_halves_the_generator_and_stays_near(tmp_path: Path, tiny_clip: ClipEncoder) -> None:
    generator = conftest.make_generator()
    mapper = new_mapper("mlp", {"embed_dim": 16, "num_ws": generator.num_ws, "w_dim": 8, "width": 16})
    for half in (False, True):
        write_bundle(
            tmp_path / str(half),
            generator,
            tiny_clip,
            {"mlp": mapper},
            NoGap(),
            info=BundleInfo(name="x"),
            half=half,
        )
    sizes = [(tmp_path / str(half) / "generator.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]
    ws = torch.randn(1, generator.num_ws, 8)
    stored = load_bundle(str(tmp_path / "True"))
    assert stored.generator.mapping.w_avg.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in generator.state_dict().values())
    torch.testing.assert_close(stored.generator.synthesis(ws), generator.synthesis(ws), atol=0.05, rtol=0.05)


def test_the_model_card_names_licences_and_figures(tiny_bundle: Path) -> None:
    card = (tiny_bundle / "README.md").read_text()
    assert card == model_card(read_config(tiny_bundle))
    assert "| generator | generator.safetensors | MIT |" in card
    assert "| accuracy | none | `true` |" in card


def test_terms_of_its_own_go_with_a_model_and_are_told_once(
    tiny: Model, tmp_path: Path, run: conftest.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = deepcopy(tiny.generator)
    generator.licence = "of the generator"
    info = BundleInfo(
        name="terms",
        domain=Domain(use=("Look at it from afar.",)),
        licences={"generator": "of the generator", "mapper": "for research"},
        license_text="Terms\n",
    )
    path = tmp_path / "models" / "terms"
    write_bundle(path, generator, tiny.clip, {"mlp": tiny.mapper}, tiny.gap, info=info)
    assert (path / "LICENSE").read_text() == "Terms\n"
    card = (path / "README.md").read_text()
    assert "license: other\nlicense_link: LICENSE\n" in card
    assert "[LICENSE](LICENSE)" in card
    assert "- Look at it from afar." in card
    assert "do not pass them off as photographs" in card

    line = f"for research; see {path / 'LICENSE'}"
    code, _, err = run(
        "generate", "--model", path, "--text", "a", "--device", "cpu", "--out", tmp_path / "a.png"
    )
    assert (code, err) == (0, f"Note: {path}: {line}\n")
    monkeypatch.setattr("clip2gan.bundle.locate.BUNDLED", path.parent)
    assert f"terms                 {line}\n" in run("models")[1]
    (path / "LICENSE").write_text("Other terms\n")
    with pytest.raises(ValueError, match="LICENSE: its sha256 is not the one"):
        load_bundle(str(path))


def test_writing_replaces_a_bundle_but_nothing_else(tmp_path: Path, tiny_clip: ClipEncoder) -> None:
    path = conftest.make_bundle(tmp_path / "model", tiny_clip)
    (path / "mapper-old.safetensors").touch()
    conftest.make_bundle(path, tiny_clip)
    assert not (path / "mapper-old.safetensors").exists()
    (path / "checkpoints").mkdir()  # as in a training's folder, which has a config.json too
    with pytest.raises(FileExistsError, match="exists and holds other things than a model"):
        conftest.make_bundle(path, tiny_clip)
    assert (path / "checkpoints").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, tiny_clip: ClipEncoder) -> None:
    with pytest.raises(
        ValueError, match=r"this mapper has w_dim 9, the generator 8; it was trained for another"
    ):
        conftest.make_bundle(tmp_path / "model", tiny_clip, w_dim=9)
    assert list(tmp_path.iterdir()) == []


def test_unknown_models_are_told_with_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip2gan.bundle.locate.BUNDLED", tmp_path / "bundles")
    (tmp_path / "bundles" / "avatars").mkdir(parents=True)
    (tmp_path / "bundles" / "avatars" / "config.json").touch()
    assert locate_bundle("avatars") == tmp_path / "bundles" / "avatars"
    with pytest.raises(ValueError, match="unknown model 'avatrs'; did you mean 'avatars'"):
        locate_bundle("avatrs")
    with pytest.raises(ValueError, match="unknown model 'q'; give avatars, a folder or hf-hub:ORG/NAME"):
        locate_bundle("q")


def test_folders_that_are_no_models(tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"no config.json in this folder, so it is not a clip2gan model"):
        locate_bundle(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"is a file; a clip2gan model is a folder.*`clip2gan train-mapper --generator /"
    ):
        locate_bundle(str(tiny_bundle / "generator.safetensors"))
    run = tmp_path / "run"
    shutil.copytree(tiny_bundle, run / "bundle")
    (run / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is a training's folder; its model is .*run/bundle"):
        locate_bundle(str(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format version 3; this clip2gan reads versions 1 to 2"),
        ({"format_version": None}, "no 'format_version' in it, so this is not a clip2gan model"),
        ({"generator": None}, "'generator' is missing; expected a str"),
        ({"mappers": ["mlp"]}, "'mappers' is ['mlp']; expected a dict"),
        ({"mappers": {}}, "'mappers' is empty"),
        ({"gap": "../gap.safetensors"}, "'../gap.safetensors' is not the name of a file in this folder"),
    ],
)
def test_a_wrong_config_is_named_by_its_key(copy: Path, changes: dict[str, object], message: str) -> None:
    change_config(copy, **changes)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_bundle(str(copy))
    assert str(caught.value).startswith(f"{copy / 'config.json'}: ")


def test_a_config_that_is_no_json(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: not readable as JSON"):
        load_bundle(str(copy))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 0x10
    path.write_bytes(bytes(data))


def reshape(path: Path) -> None:
    tensors, config = load_tensors(path)
    name = max(tensors, key=lambda name: tensors[name].ndim)
    save_tensors(path, {**tensors, name: tensors[name][:1]}, config)


def drop(path: Path) -> None:
    tensors, config = load_tensors(path)
    name = max(tensors, key=lambda name: tensors[name].ndim)
    save_tensors(path, {key: value for key, value in tensors.items() if key != name}, config)


@pytest.mark.parametrize("part", ["generator.safetensors", "mapper-mlp.safetensors"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a readable safetensors file"),
        (flip, "its sha256 is not the one in config.json: the file is damaged or was changed"),
        (reshape, "weights do not fit the model"),
        (drop, "weights do not fit the model (missing "),
        (Path.unlink, "no such file"),
    ],
)
def test_damaged_weights_are_named_by_their_file(
    copy: Path, part: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy / part)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_bundle(str(copy))
    assert str(copy / part) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("part", ["clip/open_clip_model.safetensors", "gap.safetensors"])
def test_damaged_clip_and_gap_are_refused(copy: Path, part: str, damage: Callable[[Path], None]) -> None:
    damage(copy / part)
    with pytest.raises((ValueError, FileNotFoundError), match=Path(part).parts[0]) as caught:
        load_bundle(str(copy))
    assert "\n" not in str(caught.value)


def test_an_unknown_mapper(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="has no mapper 'flow'; choose mlp"):
        load_bundle(str(tiny_bundle), mapper="flow")


def test_a_clip_that_is_not_the_one_of_the_training(copy: Path) -> None:
    change_config(copy, clip_fingerprint="0" * 64)
    with pytest.raises(ValueError, match="is not the one this model was trained with"):
        load_bundle(str(copy))


def test_a_clip_by_name_is_kept_as_a_name(
    tmp_path: Path, tiny_clip: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_clip, "spec", "ViT-B-16:laion2b_s34b_b88k")
    path = conftest.make_bundle(tmp_path / "model", tiny_clip)
    assert read_config(path).clip == "ViT-B-16:laion2b_s34b_b88k"
    assert not (path / "clip").exists()


def test_the_hub_gives_data_files_only(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, object] = {}

    def fetch(repository: str, **options: object) -> str:
        asked.update(options, repository=repository)
        return str(tiny_bundle)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert locate_bundle("hf-hub:someone/faces@v2") == tiny_bundle
    assert asked == {
        "repository": "someone/faces",
        "revision": "v2",
        "allow_patterns": ["*.json", "*.safetensors", "*.md", "LICENSE"],
    }


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route\n to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        OSError, match=r"cannot fetch hf-hub:a/b \(no route to host\); check the name and the net"
    ):
        locate_bundle("hf-hub:a/b")

"""Distances by networks that others trained, and what is said when these are not at hand."""

import json
import urllib.error
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from conftest import Run
from onnx import TensorProto, helper

from clip2gan.domain import InversionConfig
from clip2gan.model import Model
from clip2gan.perceptual import LPIPS_TRUNKS, identity_distance, lpips_distance
from clip2gan.shift_tolerant import WEIGHTS
from clip2gan.training.mapper import train_mapper
from clip2gan.training.settings import LossWeights, MapperTraining
from stylegan2 import save_generator
from stylegan2.files import load_tensors
from stylegan2.runs import RunFolder

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def has_weights() -> bool:
    try:
        distribution("stlpips-pytorch")
    except PackageNotFoundError:
        return False
    return True


def face_network(path: Path, features: int = 4, output: str = "features") -> Path:
    """An ONNX file that shrinks faces [N, 3, 8, 8] to numbers [N, features] by one random matrix."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(192, features, generator=random)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["face"], ["pixels"]),
            helper.make_node("MatMul", ["pixels", "weight"], ["features"]),
        ],
        "recogniser",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.flatten().tolist())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


@pytest.mark.parametrize("kind", [k for k in LPIPS_TRUNKS if k != "lpips-vgg"])  # 500 MB of random numbers
def test_lpips_is_a_distance_with_a_gradient(kind: str):
    distance = lpips_distance(kind, random_trunk=True)
    assert distance(IMAGES, IMAGES).item() == pytest.approx(0, abs=1e-7)
    other = IMAGES.flip(0).requires_grad_(True)
    found = distance(IMAGES, other)
    assert found.item() > 1e-4
    (gradient,) = torch.autograd.grad(found, other)
    assert gradient.abs().sum() > 0
    assert distance(IMAGES[..., :32, :32], other[..., :32, :32]).shape == ()  # of smaller pictures too


def waves(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures [1, 3, size, size] that are drawn by formulas."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    first = torch.stack([torch.sin(9 * x + 4 * y), torch.cos(7 * y - 3 * x), torch.sin(20 * x * y)])
    second = torch.stack([torch.sin(8 * x + 5 * y), torch.cos(7 * y - 2 * x), torch.sin(23 * x * y)])
    return first[None], second[None]


def test_lpips_is_that_of_its_package():
    import lpips

    torch.manual_seed(0)
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    torch.manual_seed(0)
    distance = lpips_distance("lpips-squeeze", random_trunk=True)
    assert distance(*waves(64)).item() == pytest.approx(reference(*waves(64)).item(), rel=1e-4)


@pytest.mark.skipif(not has_weights(), reason="stlpips-pytorch is not installed")
@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [  # by the package's own code: stlpips.LPIPS(net=..., variant="shift_tolerant")(*waves(size))
        ("stlpips", 64, 0.1620413362979889),
        ("stlpips", 256, 0.3808659017086029),
        ("stlpips-alex", 64, 0.07607968896627426),
        ("stlpips-alex", 256, 0.266658753156662),
    ],
)
def test_shift_tolerant_lpips_gives_the_numbers_of_its_package(kind: str, size: int, expected: float):
    distance = lpips_distance(kind)
    first, second = waves(size)
    assert distance(first, second).item() == pytest.approx(expected, rel=1e-4)
    assert distance(first, first).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.skipif(not has_weights(), reason="stlpips-pytorch is not installed")
@pytest.mark.parametrize("kind", WEIGHTS)
def test_shift_tolerant_lpips_has_a_gradient(kind: str):
    """At every size, and also where a picture is flat: features of length 0 have no direction."""
    distance = lpips_distance(kind)
    for size in (16, 64, 300):
        flat = torch.zeros(1, 3, size, size, requires_grad=True)
        (gradient,) = torch.autograd.grad(distance(flat, waves(size)[0]), flat)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.skipif(not has_weights(), reason="stlpips-pytorch is not installed")
def test_shift_tolerant_lpips_minds_a_shift_less_than_another_picture():
    distance = lpips_distance("stlpips")
    images = torch.nn.functional.interpolate(IMAGES[:1, :, ::8, ::8], size=(128, 128), mode="bicubic")
    shifted, other = images.roll(1, -1), images.flip(-1)
    assert distance(images, shifted) < 0.2 * distance(images, other)


@pytest.mark.skipif(not has_weights(), reason="stlpips-pytorch is not installed")
def test_every_command_that_compares_pictures_takes_shift_tolerant_lpips(
    run: Run, tiny_bundle: Path, picture: Path, tmp_path: Path
):
    def succeed(command: str, *args: object) -> None:
        code, _, err = run(command, *args, "--perceptual", "stlpips-alex", "--device", "cpu")
        assert code == 0, (command, err)

    small = ["--set", "channel_base=256", "--set", "channel_max=16", "--batch", 2, "--steps", 1]
    succeed("train-encoder", "--model", tiny_bundle, *small, "--out", tmp_path / "encoder")
    here = ["--model", tiny_bundle, "--image", picture, "--steps", 2]
    succeed("invert", *here, "--out", tmp_path / "w.safetensors")
    assert load_tensors(tmp_path / "w.safetensors")[1]["perceptual"] == "stlpips-alex"
    succeed("edit", *here, "--attr", "red:1", "--out", tmp_path / "edited.png")


@pytest.mark.skipif(not has_weights(), reason="stlpips-pytorch is not installed")
def test_a_mapper_learns_by_shift_tolerant_lpips(tiny: Model, tmp_path: Path):
    config = MapperTraining(
        mapper_settings={"layers": 3, "width": 16},
        samples=24,
        gap="none",
        perceptual="stlpips-alex",
        weights=LossWeights(perceptual=1),
        warmup_steps=0,
        steps=2,
        batch=2,
    )
    run = RunFolder.open(tmp_path / "run", config.flat())
    train_mapper(config, tiny.generator, tiny.clip, [], run)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["perceptual"] < 2


@pytest.mark.skipif(not has_weights(), reason="stlpips-pytorch is not installed")
def test_inversion_comes_nearer_by_the_distance_that_it_is_given(tiny: Model):
    image = tiny.synthesize(tiny.style(1))
    config = InversionConfig(steps=20, perceptual=5.0, features="stlpips-alex", pull=0, pull_average=0)
    distance = lpips_distance("stlpips-alex")
    before, after = (
        distance(tiny.draw_ws(ws), tiny.to_target(image)).item()
        for ws in (tiny.estimate(image), tiny.invert(image, config))
    )
    assert after < 0.7 * before


def test_without_its_package_shift_tolerant_lpips_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("clip2gan.shift_tolerant.distribution", missing)
    with pytest.raises(ValueError, match=r'not installed: pip install "clip2gan\[perceptual\]"$'):
        lpips_distance("stlpips")


def test_other_weights_of_shift_tolerant_lpips_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "stlpips_pytorch" / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not these")
    package = SimpleNamespace(locate_file=tmp_path.joinpath)
    monkeypatch.setattr("clip2gan.shift_tolerant.distribution", lambda _: package)
    for kind in WEIGHTS:  # a changed file, and one that is not there
        with pytest.raises(ValueError, match=r"is not the file of stlpips-pytorch 0\.0\.2; get it again"):
            lpips_distance(kind)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.usefixtures("offline")
def test_without_its_trunk_lpips_says_so_before_anything_is_written(run: Run, tiny_clip, tmp_path: Path):
    from conftest import make_generator

    save_generator(make_generator(), tmp_path / "g.safetensors")
    command = ["train-mapper", "--generator", tmp_path / "g.safetensors", "--clip", tiny_clip.spec]
    code, _, err = run(
        *command, "--perceptual", "lpips-squeeze", "--device", "cpu", "--out", tmp_path / "run"
    )
    assert code == 1
    assert "lpips-squeeze needs torchvision's weights of its trunk, which cannot be fetched" in err
    assert "or choose stlpips, which needs no download" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_identity_looks_at_the_face_alone(tmp_path: Path):
    distance = identity_distance(face_network(tmp_path / "face.onnx"))
    assert distance(IMAGES, IMAGES).item() == pytest.approx(0, abs=1e-6)
    other = IMAGES.flip(0).requires_grad_(True)
    found = distance(IMAGES, other)
    assert 0 < found.item() <= 2
    (gradient,) = torch.autograd.grad(found, other)
    assert gradient[:, :, 20:40, 20:40].abs().sum() > 0
    assert gradient[:, :, :6].abs().sum() == 0  # above the face


def test_what_is_no_face_recogniser_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx: no such face recogniser"):
        identity_distance(tmp_path / "nothing.onnx")
    (tmp_path / "page.onnx").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.onnx: not an ONNX network that onnx2torch reads"):
        identity_distance(tmp_path / "page.onnx")
    with pytest.raises(ValueError, match=r"gives \[2, 192\] for two faces, where|not an ONNX|does not run"):
        identity_distance(face_network(tmp_path / "odd.onnx", output="pixels_that_are_not_there"))

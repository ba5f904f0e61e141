"""Distances by networks that others trained, and what is said when these are not at hand."""

import urllib.error
from pathlib import Path

import onnx
import pytest
import torch
from conftest import Run
from onnx import TensorProto, helper

from clip2gan.perceptual import LPIPS_TRUNKS, identity_distance, lpips_distance
from stylegan2 import save_generator

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


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
    assert "or choose --perceptual clip" in err
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

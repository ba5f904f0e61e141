"""Files are written whole or not at all, and read safely."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from stylegan2.files import atomic_path, fingerprint, load_tensors, load_weights, save_tensors


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("first")
    assert target.read_text() == "first"

    def fail_midway() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the sec")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_midway()
    assert target.read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def test_tensors_and_config_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(5), "c": torch.zeros([])}
    save_tensors(tmp_path / "t.safetensors", tensors, {"kind": "mlp", "depth": 12})
    loaded, config = load_tensors(tmp_path / "t.safetensors")
    assert config == {"kind": "mlp", "depth": 12}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_full_disk_is_told_with_the_file_and_changes_nothing(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.zeros(3)}, {})
    before = path.read_bytes()
    script = (
        "import resource, signal, sys, torch; from stylegan2.files import save_tensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "save_tensors(sys.argv[1], {'a': torch.zeros(10_000)}, {})"
    )
    result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert f"WriteError: {path}: cannot be written (File too large); raise the limit" in result.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>" + b])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.randn(100)}, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"t.safetensors: not a readable safetensors file .*; fetch or make it again"
    ):
        load_tensors(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.safetensors: no such file"):
        load_tensors(tmp_path / "nothing.safetensors")


def test_weights_that_do_not_fit_change_nothing():
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    wrong = {"weight": torch.zeros(3, 2), "bias": torch.zeros(4), "gain": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"file: weights do not fit .*unexpected gain; bias is \[4\], expected \[3\]"
    ):
        load_weights(layer, wrong, "file")
    assert torch.equal(layer.weight, before)
    with pytest.raises(ValueError, match="missing bias"):
        load_weights(layer, {"weight": torch.zeros(3, 2)}, "file")


def test_fingerprint_tells_files_apart(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(json.dumps(text))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")

"""Sums of files are remembered, and never those of a file that changed."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from clip2gan.bundle import sums as sums_module
from clip2gan.bundle.sums import Sums
from clip2gan.model import load

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows does not tell when a file changed")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were read to be hashed."""
    names: list[str] = []
    fingerprint = sums_module.fingerprint

    def watched(path: Path) -> str:
        names.append(Path(path).name)
        return fingerprint(path)

    monkeypatch.setattr(sums_module, "fingerprint", watched)
    return names


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as unchanged for long."""
    monkeypatch.setattr(sums_module, "SETTLED", -1.0)
    path = tmp_path / "weights"
    path.write_bytes(b"1234")
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ask(path: Path, cache: Path) -> str:
    """A question in a new process."""
    sums = Sums(cache)
    total = sums.sum_of(path)
    sums.save()
    return total


def test_a_file_is_hashed_once(file: Path, tmp_path: Path, hashed: list[str]) -> None:
    assert [ask(file, tmp_path / "c.json") for _ in range(3)] == [sha(b"1234")] * 3
    assert hashed == ["weights"]


def write_in_place(path: Path) -> None:
    """The same size, and the times that it had before."""
    times = path.stat()
    time.sleep(0.02)
    with path.open("r+b") as opened:
        opened.write(b"9999")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: Path) -> None:
    times = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"9999")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def overwrite(path: Path) -> None:
    time.sleep(0.02)
    path.write_bytes(b"9999")


@pytest.mark.parametrize("change", [write_in_place, replace, overwrite])
def test_a_file_that_changed_is_hashed_again(file: Path, tmp_path: Path, change, hashed: list[str]) -> None:
    cache = tmp_path / "c.json"
    assert ask(file, cache) == sha(b"1234")
    change(file)
    assert ask(file, cache) == sha(b"9999")
    assert hashed == ["weights", "weights"]


def test_a_file_that_changed_moments_ago_is_not_remembered(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1234")
    for _ in range(2):
        assert ask(path, tmp_path / "c.json") == sha(b"1234")
    assert hashed == ["weights", "weights"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"files": 3, "facts": 4}', "\x00\xff", "[" * 100_000],
)
def test_a_damaged_cache_costs_time_only(file: Path, tmp_path: Path, content: str, hashed: list[str]) -> None:
    cache = tmp_path / "c.json"
    cache.write_text(content, encoding="latin-1")
    assert ask(file, cache) == sha(b"1234")
    assert ask(file, cache) == sha(b"1234")
    assert hashed == ["weights"]


@pytest.mark.parametrize(
    "entry",
    [[[1, 2], "x"], [None, "0" * 64], ["0" * 64], [[True] * 5, 3], {"a": 1}, [[1, 2, 3, 4, 5], "Z" * 64]],
)
def test_entries_that_make_no_sense_are_left_out(file: Path, tmp_path: Path, entry: object) -> None:
    cache = tmp_path / "c.json"
    cache.write_text(json.dumps({"files": {str(file): entry}, "facts": [3, None, "x"]}))
    assert ask(file, cache) == sha(b"1234")


def test_a_cache_that_cannot_be_written_is_no_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder would be")
    assert ask(file, tmp_path / "taken" / "c.json") == sha(b"1234")


def test_facts_are_remembered(tmp_path: Path) -> None:
    sums = Sums(tmp_path / "c.json")
    assert not sums.knows("a")
    sums.learn("a")
    sums.save()
    again = Sums(tmp_path / "c.json")
    assert again.knows("a")
    assert not again.knows("b")


def test_a_models_files_are_hashed_at_first_use_and_when_they_change(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sums_module, "SETTLED", -1.0)
    model = shutil.copytree(tiny_bundle, tmp_path / "model")
    load(str(model), device="cpu")
    assert "open_clip_model.safetensors" in hashed
    del hashed[:]
    load(str(model), device="cpu")
    assert hashed == []
    weights = model / "gap.safetensors"
    times = weights.stat()
    time.sleep(0.02)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    with weights.open("r+b") as opened:
        opened.write(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ValueError, match=r"gap.safetensors: its sha256 is not the one in config.json"):
        load(str(model), device="cpu")

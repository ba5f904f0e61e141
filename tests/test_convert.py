"""`clip2gan convert`, checkpoints from the web, and a mapper for a generator of each format."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import PREPROCESSING, Run
from PIL import Image

from clip2gan.clip import ClipEncoder, save_local_dir
from stylegan2 import Generator, GeneratorConfig, load_generator
from stylegan2.checkpoints import CheckpointError
from stylegan2.checkpoints.download import fetch
from stylegan2.files import load_tensors
from tools import checkpoint_files as files

PLAIN = GeneratorConfig(
    z_dim=8, w_dim=8, img_resolution=32, channel_base=256, channel_max=16, mapping_layers=2
)
CONST = "synthesis.b4.const"


@pytest.fixture(scope="module")
def plain() -> Generator:
    return files.make(PLAIN)


@pytest.fixture
def pickled(plain: Generator, tmp_path: Path) -> Path:
    return files.write(tmp_path / "g.pkl", files.nvidia(plain))


# ---- convert


def test_convert_writes_the_generator_with_its_config_and_licence(run: Run, pickled, plain, tmp_path):
    target = tmp_path / "out" / "g.safetensors"
    code, out, err = run("convert", pickled, target)
    assert (code, f"wrote {target}" in out) == (0, True), err
    assert "code inside   yes; it was not run" in out
    tensors, header = load_tensors(target)
    assert header["img_resolution"] == 32
    assert "non-commercial" in header["licence"]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensors[name], tensor)

    code, _, err = run("convert", pickled, target)
    assert code == 1
    assert "exists already; give --force to overwrite" in err
    assert run("convert", pickled, target, "--force", "--network", "G")[0] == 0
    assert not torch.equal(load_generator(target).get_parameter(CONST), plain.get_parameter(CONST))


def test_inspect_writes_nothing(run: Run, pickled, tmp_path):
    code, out, err = run("convert", "--inspect", pickled, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["format"], facts["img_resolution"], facts["code_inside"]) == ("nvidia", 32, True)
    assert list(facts["widths"].values()) == [16, 16, 16, 8]
    assert list(tmp_path.iterdir()) == [pickled]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["g.pkl"], 2, "give SRC and DST.safetensors, or --inspect SRC"),
        (["--inspect", "g.pkl", "b.safetensors"], 2, "give SRC and DST.safetensors, or --inspect SRC"),
        (["g.pkl", "b.bin"], 2, "b.bin: the name must end in .safetensors, .pt or .onnx"),
        (["none.pkl", "b.safetensors"], 1, "none.pkl: no such file"),
        (["page.pt", "b.safetensors"], 1, "page.pt: a web page in the place of the file"),
        (["http://example.com/a.pkl", "b.safetensors"], 1, "only https:// addresses are fetched"),
        (["file:///etc/passwd", "b.safetensors"], 1, "only https:// addresses are fetched"),
        (["g.pkl", "b.safetensors", "--sha256", "abc"], 1, "is not a sha256: 64 hexadecimal digits"),
        (["g.pkl", "b.safetensors", "--sha256", "0" * 64], 1, "it is another file, or damaged"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, arguments, code, message, pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write(tmp_path / "page.pt", b"<html>Google Drive - Quota exceeded</html>")
    actual, _, err = run("convert", *arguments)
    assert (actual, message in err, err.count("\n")) == (code, True, 1), err
    assert not (tmp_path / "b.safetensors").exists()


# ---- downloads


class Server(ThreadingHTTPServer):
    """Serves `content` at /name; breaks off after `stop_after` bytes; keeps the ranges asked for."""

    content: dict[str, bytes]
    redirects: dict[str, str]
    ranges: list[str | None]
    stop_after: int | None = None
    validator = '"one"'

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.redirects, self.ranges = {}, {}, []

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.ranges.append(wanted)
        if name in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[name])
            self.end_headers()
            return
        if name not in self.server.content:
            self.send_error(404)
            return
        body, start = self.server.content[name], 0
        if wanted and self.headers.get("If-Range") == self.server.validator:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", self.server.validator)
        self.end_headers()
        self.wfile.write(body[start : self.server.stop_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_once(server, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server.content["ffhq.pkl"] = files.nvidia(plain)
    total = sha256(server.content["ffhq.pkl"])
    for _ in range(2):
        loaded = load_generator(server.address("ffhq.pkl"), sha256=total)
        assert torch.equal(loaded.get_parameter(CONST), plain.get_parameter(CONST))
    assert server.ranges == [None]
    (cached,) = (tmp_path / "stylegan2").iterdir()
    assert cached.name.endswith("-ffhq.pkl")


def test_a_transfer_goes_on_where_it_broke_off(server, plain, tmp_path):
    content = server.content["g.pkl"] = files.nvidia(plain)
    server.stop_after = 5000
    with pytest.raises(
        OSError, match=rf"broke off at 5,000 of {len(content):,} bytes; the same command goes on"
    ):
        fetch(server.address("g.pkl"), folder=tmp_path)
    server.stop_after = None
    assert fetch(server.address("g.pkl"), folder=tmp_path).read_bytes() == content
    assert server.ranges == [None, "bytes=5000-"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, plain, tmp_path):
    server.content["g.pkl"], server.stop_after = files.nvidia(plain), 5000
    with pytest.raises(OSError, match="broke off"):
        fetch(server.address("g.pkl"), folder=tmp_path)
    content = server.content["g.pkl"] = files.nvidia(files.make(PLAIN, seed=5))
    server.validator, server.stop_after = '"two"', None
    assert fetch(server.address("g.pkl"), folder=tmp_path).read_bytes() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html><title>Quota exceeded</title>", "a web page in the place of the file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b'{"error": "not found"}', "none of the formats known here"),
    ],
)
def test_what_is_no_checkpoint_is_not_kept(content, message, server, tmp_path):
    server.content["g.pt"] = content
    with pytest.raises(CheckpointError, match=message):
        fetch(server.address("g.pt"), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_sha256_is_refused_and_not_kept(server, plain, tmp_path):
    content = server.content["g.pkl"] = files.nvidia(plain)
    with pytest.raises(CheckpointError, match=f"its sha256 is {sha256(content)}, not {'0' * 64}"):
        fetch(server.address("g.pkl"), "0" * 64, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    # A cached file of another sum is fetched again.
    path = fetch(server.address("g.pkl"), folder=tmp_path)
    path.write_bytes(b"damaged")
    assert fetch(server.address("g.pkl"), sha256(content), folder=tmp_path).read_bytes() == content


def test_addresses_that_give_nothing(server, tmp_path):
    with pytest.raises(OSError, match=r"the server answers 404 Not Found; check the address"):
        fetch(server.address("none.pkl"), folder=tmp_path)
    server.redirects["moved.pkl"] = "http://example.com/g.pkl"
    with pytest.raises(CheckpointError, match=r"example.com/g.pkl: only https:// addresses"):
        fetch(server.address("moved.pkl"), folder=tmp_path)
    address = server.address("g.pkl").replace(str(server.server_port), "1")
    with pytest.raises(OSError, match="cannot be fetched"):
        fetch(address, folder=tmp_path)


# ---- a mapper for such a generator


WRITERS = {
    "nvidia": lambda: files.nvidia(files.make(PLAIN)),
    "labels": lambda: files.nvidia(files.make(replace(PLAIN, c_dim=3))),
    "tensorflow": lambda: files.tensorflow(files.make(PLAIN)),
    "rosinality": lambda: files.rosinality(files.make(PLAIN)),
}


@pytest.fixture
def train(run: Run, tiny_clip: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("clip2gan.training.mapper.PREVIEWS", 1)
    monkeypatch.setattr("clip2gan.training.validation.PREVIEW_PROMPTS", 2)
    settings = {"samples": 20, "warmup_steps": 2, "warmup_batch": 4, "mapper_settings.width": 8}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    options += [
        "--steps",
        "2",
        "--batch",
        "2",
        "--device",
        "cpu",
        "--gap",
        "knn",
        "--out",
        str(tmp_path / "run"),
    ]
    return lambda *generator: run(
        "train-mapper", "--clip", tiny_clip.spec, *options, "--generator", *generator
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_train_mapper_and_generate_with_any_format(writer, run: Run, train, tmp_path):
    path = files.write(tmp_path / "generator", WRITERS[writer]())
    code, out, err = train(path)
    assert code == 0, err
    bundle = tmp_path / "run" / "bundle"
    assert f"wrote {bundle}" in out
    licences = json.loads((bundle / "config.json").read_text())["licences"]
    assert ("non-commercial" in licences.get("generator", "")) == (writer != "rosinality")
    assert ("non-commercial" in (bundle / "README.md").read_text()) == (writer != "rosinality")
    for name in ("a", "b"):
        picture = tmp_path / f"{name}.png"
        code, _, err = run(
            "generate", "--model", bundle, "--text", "a face", "--style-from", "1", "--out", picture
        )
        assert code == 0, err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert load_generator(bundle / "generator.safetensors").config.c_dim == (3 if writer == "labels" else 0)


def test_train_mapper_with_an_address(train, server, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = server.content["g.pkl"] = files.nvidia(plain)
    code, out, err = train(server.address("g.pkl"), "--sha256", sha256(content), "--dry-run")
    assert code == 0, err
    assert f"generator: {server.address('g.pkl')}" in out
    code, _, err = train("http://example.com/g.pkl", "--dry-run")
    assert code == 2
    assert "only https:// addresses are fetched" in err
    code, _, err = train(server.address("g.pkl"), "--sha256", "1" * 64, "--dry-run")
    assert code == 2
    assert "its sha256 is" in err


@pytest.mark.slow
def test_config_f_at_1024_px_with_a_full_clip(run: Run, tmp_path, monkeypatch):
    """Full size, random weights: an NVIDIA pickle and open_clip's ViT-B-16, trained for a few steps."""
    import open_clip

    monkeypatch.setattr("clip2gan.training.mapper.PREVIEWS", 1)
    monkeypatch.setattr("clip2gan.training.validation.PREVIEW_PROMPTS", 1)
    generator = files.make(GeneratorConfig(num_fp16_res=4, conv_clamp=256))
    path = files.write(tmp_path / "f.pkl", files.nvidia(generator))
    del generator
    config = open_clip.get_model_config("ViT-B-16")
    assert config is not None
    clip = tmp_path / "clip"
    clip.mkdir()
    save_local_dir(open_clip.CLIP(**config), config, PREPROCESSING, clip, dtype=torch.float32)
    settings = ["--set", "samples=4", "--set", "warmup_steps=1", "--set", "warmup_batch=2", "--gap", "none"]
    parts = ["--generator", path, "--clip", f"local-dir:{clip}", "--out", tmp_path / "run"]
    code, _, err = run("train-mapper", *parts, *settings, "--steps", 2, "--batch", 1, "--device", "cpu")
    assert code == 0, err
    picture = tmp_path / "a.png"
    model = tmp_path / "run" / "bundle"
    code, _, err = run("generate", "--model", model, "--text", "a face", "--device", "cpu", "--out", picture)
    assert code == 0, err
    with Image.open(picture) as image:
        assert image.size == (1024, 1024)

"""Small files that describe large models are refused before those are made, within little memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLIP_CONFIG, PREPROCESSING
from safetensors.torch import save_file

from clip2gan.gap import load_gap
from clip2gan.mappers import load_mapper, new_mapper, save_mapper

# Reads a hostile file within a limit of memory over what the imports take; prints the message of its refusal.
CHILD = """
import resource, sys, torch
import clip2gan.mappers, clip2gan.gap, clip2gan.editing.encoder, open_clip
from clip2gan.clip import ClipEncoder
from clip2gan.domains.avatars.judge import Judge
torch.set_num_threads(1)
readers = {"mapper": clip2gan.mappers.load_mapper, "gap": clip2gan.gap.load_gap,
    "encoder": clip2gan.editing.encoder.load_encoder, "judge": Judge.load,
    "clip": lambda path: ClipEncoder.load("local-dir:" + path)}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
for line in sys.stdin:
    kind, path = line.rstrip().split(" ", 1)
    try:
        readers[kind](path)
    except ValueError as error:
        print(error, flush=True)
    else:
        print("no refusal", flush=True)
"""
MAPPER = {"embed_dim": 4, "num_ws": 4, "w_dim": 4}
ENCODER = {"w_dim": 4, "resolution": 8}
HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("mapper", {"kind": "mlp", **MAPPER, "layers": 1_000_000_000}),
    ("mapper", {"kind": "mlp", **MAPPER, "num_ws": 10_000_000}),
    ("mapper", {"kind": "mlp", **MAPPER, "width": 65536, "layers": 256}),
    ("mapper", {"kind": "mlp", **MAPPER, "w_dim": 65536, "num_ws": 128, "width": 65536}),
    ("mapper", {"kind": "mlp", **MAPPER, "embed_dim": True}),
    ("mapper", {"kind": "flow", **MAPPER, "steps": 10**8}),
    ("mapper", {"kind": "flow", **MAPPER, "w_dim": 65536, "width": 65536}),
    ("mapper", {"kind": "diffusion", **MAPPER, "blocks": 10**8}),
    ("mapper", {"kind": "diffusion", **MAPPER, "width": 65536, "blocks": 256}),
    ("mapper", {"kind": ["mlp"], **MAPPER}),
    ("gap", {"kind": "knn", "nearest": 10**12, "spread": 1}),
    ("gap", {"kind": ["knn"]}),
    ("gap", {"kind": "posterior", "sharpness": float("nan")}),
    ("encoder", {**ENCODER, "resolution": 2**40}),
    (
        "encoder",
        {**ENCODER, "w_dim": 65536, "resolution": 65536, "channel_base": 2**31, "channel_max": 65536},
    ),
    ("encoder", {**ENCODER, "w_dim": "four"}),
    ("judge", {"width": 10**9}),
    ("judge", {"width": 1024}),
    ("clip", {"vision_cfg": {**CLIP_CONFIG["vision_cfg"], "layers": 100_000_000}}),
    ("clip", {"text_cfg": {**CLIP_CONFIG["text_cfg"], "layers": 100_000_000}}),
    ("clip", {"vision_cfg": {**CLIP_CONFIG["vision_cfg"], "width": 65536}}),
    ("clip", {"vision_cfg": {**CLIP_CONFIG["vision_cfg"], "layers": [256, 256, 256, 256], "width": 8192}}),
    ("clip", {"text_cfg": {**CLIP_CONFIG["text_cfg"], "vocab_size": 2**20, "width": 8192}}),
    ("clip", {"vision_cfg": {**CLIP_CONFIG["vision_cfg"], "mlp_ratio": 1e6}}),
    ("clip", {"vision_cfg": {**CLIP_CONFIG["vision_cfg"], "image_size": 2**20, "patch_size": 1}}),
]


def write(folder: Path, kind: str, config: dict[str, Any]) -> Path:
    """A file that holds one small tensor, and this config."""
    if kind == "clip":
        folder.mkdir()
        whole = {"model_cfg": {**CLIP_CONFIG, **config}, "preprocess_cfg": PREPROCESSING}
        (folder / "open_clip_config.json").write_text(json.dumps(whole))
        save_file({"logit_scale": torch.zeros([])}, folder / "open_clip_model.safetensors")
        return folder
    path = folder.with_suffix(".safetensors")
    save_file({"w_mean": torch.zeros(4)}, path, metadata={"config": json.dumps(config)})
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a child process")
def test_hostile_configs(tmp_path):
    paths = [write(tmp_path / str(number), kind, config) for number, (kind, config) in enumerate(HOSTILE)]
    lines = "".join(f"{kind} {path}\n" for (kind, _), path in zip(HOSTILE, paths, strict=True))
    result = subprocess.run(
        [sys.executable, "-c", CHILD], input=lines, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    messages = result.stdout.splitlines()
    assert len(messages) == len(HOSTILE)
    for message, path, what in zip(messages, paths, HOSTILE, strict=True):
        assert str(path) in message, (message, what)


def test_what_is_written_is_read(tmp_path):
    mapper = new_mapper("mlp", MAPPER)
    save_mapper(mapper, tmp_path / "m.safetensors")
    again = load_mapper(tmp_path / "m.safetensors")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in mapper.state_dict().items())


@pytest.mark.parametrize("header", ["[]", "3", "[" * 100_000, "{"])
def test_headers_that_are_no_objects(header, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"config": header})
    for read in (load_mapper, load_gap):
        with pytest.raises(ValueError, match=r"a.safetensors: not a readable safetensors file"):
            read(tmp_path / "a.safetensors")

"""Checkpoints of every format: equal to what was written, refused when they are something else, never run."""

import dataclasses
import io
import json
import logging
import os
import pickle
import pickletools
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch._utils import _rebuild_tensor_v2

from stylegan2 import Generator, GeneratorConfig, load_generator, save_generator
from stylegan2.checkpoints import CheckpointError, inspect, pickles
from stylegan2.files import load_weights
from stylegan2.generator import set_precision
from tools import checkpoint_files as files

REFERENCE = Path(__file__).parent / "data" / "generator_32.safetensors"
PLAIN = dataclasses.replace(files.LABELS, c_dim=0)
# Each writes the whole file of a generator without labels.
WRITERS: dict[str, Callable[[Generator], bytes]] = {
    "nvidia ada": files.nvidia,
    "nvidia sg3": lambda g: files.nvidia(g, layout="sg3"),
    "nvidia protocol 2": lambda g: files.nvidia(g, 2),
    "nvidia protocol 5": lambda g: files.nvidia(g, 5, attributes=False),
    "tensorflow": files.tensorflow,
    "tensorflow protocol 2": lambda g: files.tensorflow(g, 2),
    "tensorflow protocol 5": lambda g: files.tensorflow(g, 5),
    "rosinality": files.rosinality,
    "rosinality legacy": lambda g: files.rosinality(g, legacy=True),
    "e4e": files.e4e,
}


@pytest.fixture(scope="module")
def plain() -> Generator:
    return files.make(PLAIN)


@pytest.fixture(scope="module")
def reference() -> tuple[Generator, dict[str, torch.Tensor]]:
    with safe_open(REFERENCE, framework="pt") as file:
        arguments = json.loads(file.metadata()["init_kwargs"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    depth = arguments.pop("mapping_kwargs")["num_layers"]
    generator = Generator(GeneratorConfig(**arguments, mapping_layers=depth)).eval().requires_grad_(False)
    weights = {name.removeprefix("params/"): t for name, t in tensors.items() if name.startswith("params/")}
    load_weights(generator, weights, "reference")
    return generator, {
        name.removeprefix("expected/"): t for name, t in tensors.items() if "expected/" in name
    }


def assert_same_weights(actual: Generator, expected: Generator) -> None:
    state = actual.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)


# ---- what is read


@pytest.mark.parametrize("writer", WRITERS)
def test_pictures_are_the_reference_implementations(writer, reference, tmp_path):
    generator, expected = reference
    loaded = load_generator(files.write(tmp_path / "any.name", WRITERS[writer](generator)))
    ws = loaded.mapping(expected["z"], truncation_psi=0.5, truncation_cutoff=4)
    pairs = [
        (ws, expected["ws_psi0.5_cutoff4"]),
        (loaded.synthesis(expected["ws_psi0.7"], noise_mode="const"), expected["image_const"]),
        (loaded.synthesis(expected["ws_psi0.7"], noise_mode="none"), expected["image_none"]),
        (loaded.synthesis(expected["ws_mixed"], noise_mode="const"), expected["image_mixed"]),
    ]
    for actual, wanted in pairs:
        assert (actual - wanted).abs().max() <= 1e-4 * wanted.std()


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
@pytest.mark.parametrize("writer", [name for name in WRITERS if name.startswith(("nvidia", "tensorflow"))])
def test_architectures_and_labels(writer, architecture, labels, tmp_path):
    config = dataclasses.replace(PLAIN, architecture=architecture, c_dim=labels)
    generator = files.make(config)
    loaded = load_generator(files.write(tmp_path / "g", WRITERS[writer](generator)))
    assert loaded.config == config
    assert_same_weights(loaded, generator)
    z, c = torch.randn(2, 16), torch.eye(3)[:2] if labels else None
    torch.testing.assert_close(loaded(z, c), generator(z, c), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("writer", ["nvidia ada", "tensorflow", "rosinality"])
def test_the_trained_weights_are_taken_when_asked_for(writer, plain, tmp_path):
    path = files.write(tmp_path / "g", WRITERS[writer](plain))
    assert_same_weights(load_generator(path), plain)
    last = load_generator(path, network="G")
    torch.testing.assert_close(
        last.synthesis.state_dict(), files.make(PLAIN, seed=9).synthesis.state_dict(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("widths", [(16, 16, 8), (12, 7, 9)])
def test_widths_come_from_the_shapes(writer, widths, tmp_path):
    generator = files.make(dataclasses.replace(PLAIN, widths=widths))
    loaded = load_generator(files.write(tmp_path / "g", WRITERS[writer](generator)))
    assert [loaded.config.channels(resolution) for resolution in (4, 8, 16)] == list(widths)
    save_generator(loaded, tmp_path / "again.safetensors")
    assert load_generator(tmp_path / "again.safetensors").config == loaded.config


@pytest.mark.parametrize("attributes", [True, False])
@pytest.mark.parametrize("layout", ["ada", "sg3"])
def test_nvidias_precision_settings(layout, attributes, tmp_path):
    generator = files.make(dataclasses.replace(PLAIN, num_fp16_res=1, conv_clamp=256))
    content = files.nvidia(generator, layout=layout, attributes=attributes)
    config = load_generator(files.write(tmp_path / "g.pkl", content)).config
    assert (config.num_fp16_res, config.conv_clamp) == (1, 256)


def test_half_precision_is_for_cuda_only_in_a_loaded_generator(tmp_path):
    half = files.make(dataclasses.replace(PLAIN, num_fp16_res=2, conv_clamp=256))
    loaded = load_generator(files.write(tmp_path / "g.pkl", files.nvidia(half)))
    ws = loaded.mapping(torch.randn(1, 16))
    images = loaded.synthesis(ws)
    set_precision(loaded, "fp32")
    assert torch.equal(images, loaded.synthesis(ws))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("parts", [["G_ema"], ["G"], ["G", "D", "G_ema"], None])
def test_parts_of_an_nvidia_file_may_be_missing(parts, protocol, plain, tmp_path):
    module = files.persistent(plain, plain.config)
    value = module if parts is None else dict.fromkeys(parts, module)
    loaded = load_generator(files.write(tmp_path / "g.pkl", files.dumps(value, protocol)))
    assert_same_weights(loaded, plain)


@pytest.mark.parametrize("old", [True, False])
def test_numpys_old_and_new_module_names(old, plain, tmp_path):
    content = files.tensorflow(plain, 2)
    assert b"numpy._core.multiarray" in content
    if old:
        content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert_same_weights(load_generator(files.write(tmp_path / "g.pkl", content)), plain)


def test_dnnlibs_shorter_module_name(plain, tmp_path):
    content = files.nvidia(plain, 2).replace(b"dnnlib.util\n", b"dnnlib\n")
    assert_same_weights(load_generator(files.write(tmp_path / "g.pkl", content)), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types_become_float32(dtype, plain, tmp_path):
    state = {name: tensor.to(dtype) for name, tensor in files.rosinality_state(plain).items()}
    state |= {name: value.float() for name, value in state.items() if name.endswith(".kernel")}
    path = files.write(tmp_path / "g.pt", files.torch_save({"g_ema": state, "latent_avg": torch.ones(16)}))
    loaded = load_generator(path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    name = "synthesis.b4.const"
    assert torch.equal(loaded.get_parameter(name), plain.get_parameter(name).to(dtype).float())


def test_views_of_one_storage(plain, tmp_path):
    state = files.rosinality_state(plain)
    const = state["input.input"].to(memory_format=torch.channels_last)
    together = torch.cat([state["conv1.activate.bias"], state["to_rgb1.bias"].flatten()])
    state["input.input"] = const
    state["conv1.activate.bias"] = together[:16]
    state["to_rgb1.bias"] = together[16:].reshape(1, 3, 1, 1)
    for legacy in (True, False):
        content = files.torch_save({"g_ema": state, "latent_avg": plain.mapping.w_avg}, legacy)
        assert_same_weights(load_generator(files.write(tmp_path / "g.pt", content)), plain)


def test_a_missing_latent_avg_is_estimated_and_told(plain, tmp_path, caplog):
    path = files.write(tmp_path / "g.pt", files.torch_save({"g_ema": files.rosinality_state(plain)}))
    loaded = load_generator(path)
    mean = plain.mapping(torch.randn(20_000, 16))[:, 0].mean(dim=0)
    assert (loaded.mapping.w_avg - mean).abs().max() < 0.1 * plain.mapping(torch.randn(2000, 16)).std()
    assert "no latent_avg; estimated from 10,000 latents" in caplog.text
    assert torch.equal(load_generator(path).mapping.w_avg, loaded.mapping.w_avg)


def test_loading_draws_no_random_numbers(plain, tmp_path):
    path = files.write(tmp_path / "g.pkl", files.nvidia(plain))
    before = torch.get_rng_state()
    load_generator(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("writer", ["nvidia ada", "tensorflow"])
def test_the_licence_is_told_once_and_carried(writer, plain, tmp_path, caplog):
    path = files.write(tmp_path / "g.pkl", WRITERS[writer](plain))
    with caplog.at_level(logging.WARNING):
        generator = load_generator(path)
    assert caplog.text.count("non-commercial") == 1
    save_generator(generator, tmp_path / "g.safetensors")
    caplog.clear()
    again = load_generator(tmp_path / "g.safetensors")
    assert "non-commercial" in (again.licence or "")
    assert caplog.text.count("non-commercial") == 1
    assert_same_weights(again, plain)


def test_a_header_may_be_of_any_length(plain, tmp_path, monkeypatch):
    """Whatever byte the length begins with, also that of a pickle."""
    path = tmp_path / "g.safetensors"
    for length in range(8, 4000, 8):
        monkeypatch.setattr(plain, "licence", "x" * length)
        save_generator(plain, path)
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    assert_same_weights(load_generator(path), plain)


def test_inspect(plain, tmp_path):
    facts = inspect(files.write(tmp_path / "g.pkl", files.nvidia(plain)))
    assert facts["format"] == "nvidia"
    assert facts["code_inside"] is True
    assert facts["widths"] == {4: 16, 8: 16, 16: 8}
    assert facts["parameters"] == sum(parameter.numel() for parameter in plain.parameters())
    assert "non-commercial" in facts["licence"]
    assert json.loads(json.dumps(facts))["img_resolution"] == 16
    rosinality = inspect(files.write(tmp_path / "g.pt", files.rosinality(plain)))
    assert (rosinality["format"], rosinality["code_inside"], rosinality["licence"]) == (
        "rosinality",
        False,
        None,
    )


# ---- what is refused


def generator_like(names: list[str], class_name: str = "Generator") -> dict[str, Any]:
    """An NVIDIA file whose generator has these tensors."""
    root = files.Persistent(class_name, {"_modules": {}})
    for name in names:
        module = root
        *path, own = name.split(".")
        for part in path:
            children = module.meta["state"]["_modules"]
            module = children.setdefault(part, files.Persistent("Module", {"_modules": {}}))
        module.meta["state"].setdefault("_parameters", {})[own] = torch.zeros(1)
    return {"G_ema": root}


def network(names: list[str], version: int = 4) -> tuple[files.Network, ...]:
    """A TensorFlow file whose networks have these variables."""
    variables = [(name, np.zeros(1, np.float32)) for name in names]
    state = {"version": version, "name": "G", "static_kwargs": {}, "components": {}, "variables": variables}
    return (files.Network(state),) * 3


def changed(generator: Generator, path: str, **state: Any) -> files.Persistent:
    """An NVIDIA generator with other attributes in the module at `path`."""
    module = root = files.persistent(generator, generator.config)
    for name in path.split("."):
        module = module.meta["state"]["_modules"][name]
    module.meta["state"].update(state)
    return root


REFUSED = {
    "a web page": (b"<!DOCTYPE html><html>quota exceeded</html>", "a web page in the place of the file"),
    "a page after spaces": (b"\n\n  <html lang=en>", "a web page in the place of the file"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "gzip": (b"\x1f\x8b\x08rest", "compressed archive; unpack it"),
    "an empty file": (b"", "the file is empty"),
    "a text": (b"hello", "none of the formats known here"),
    "protocol 0": (pickle.dumps({"G_ema": 1}, protocol=0), "none of the formats known here"),
    "a later protocol": (b"\x80\x06N.", "not a pickle of protocol 2 to 5"),
    "a list": (pickle.dumps([1, 2]), "holds list; not a StyleGAN2 generator"),
    "another dict": (pickle.dumps({"model": 1}), "holds a dict of 'model'; not a StyleGAN2 generator"),
    "a zip of pictures": ("zip", "a zip archive without the one data.pkl of torch.save"),
    "StyleGAN3": (
        generator_like(["synthesis.input.freqs", "w"]),
        "a StyleGAN3 generator, which is another network; only StyleGAN2 is read",
    ),
    "StyleGAN-XL": (
        generator_like(["synthesis.input.freqs", "mapping.embed_proj.weight"], "SuperresGenerator"),
        "a StyleGAN-XL generator, which is another network",
    ),
    "a discriminator": (
        generator_like(["b4.out.weight"], "Discriminator"),
        "a discriminator; give the file that",
    ),
    "only D": ({"D": files.Persistent("Discriminator", {})}, r"no G_ema in it \(only 'D'\)"),
    "another network": (generator_like(["conv.weight"], "Unet"), "its 'Unet' is not a StyleGAN2 generator"),
    "persistence version 7": (
        {"G_ema": files.Persistent("Generator", {}, 7)},
        "persistence version 7; version 6 is",
    ),
    "StyleGAN1": (network(["synthesis/4x4/Const/StyleMod/weight"]), "a StyleGAN1 generator"),
    "configs B to D": (network(["synthesis/ToRGB_lod0/weight"]), "a StyleGAN2 of configs B to D"),
    "an old Network": (network(["x"], version=2), "network of version 2, which is StyleGAN1 or older"),
    "TensorFlow's D": (network(["64x64/FromRGB/weight"]), "a discriminator"),
    "old labels": (network(["mapping/LabelConcat/weight"]), "labels by LabelConcat"),
    "an unknown variable": (
        network(["synthesis/4x4/Const/const", "synthesis/extra"]),
        r"synthesis/4x4/Const/const|an unknown variable 'synthesis/extra'",
    ),
    "rosinality's d": ("d", "no input.input, so no generator, in it"),
    "an encoder": ("encoder", "no input.input, so no generator, in it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_by_name(case, tmp_path):
    content, message = REFUSED[case]
    if content == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.png", b"x")
        content = file.getvalue()
    elif content in ("d", "encoder"):
        key = {"d": "d", "encoder": "state_dict"}[content]
        content = files.torch_save({key: {"encoder.conv.weight": torch.zeros(1)}})
    elif not isinstance(content, bytes):
        content = files.dumps(content)
    path = files.write(tmp_path / "file.pkl", content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_generator(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_settings_that_shapes_do_not_show_are_checked(plain, tmp_path):
    path = tmp_path / "g.pkl"
    cases = {
        "mapping.fc0.bias_gain is 0.1; only 0.01 is supported": (
            "mapping.fc0",
            {"bias_gain": np.float64(0.1)},
        ),
        "conv0.activation is 'relu'; only 'lrelu'": ("synthesis.b8.conv0", {"activation": "relu"}),
        "resamples with another filter than": (
            "synthesis.b8.conv0",
            {"_buffers": {"resample_filter": torch.ones(4, 4) / 16, "noise_const": torch.zeros(8, 8)}},
        ),
    }
    for message, (where, state) in cases.items():
        files.write(path, files.dumps({"G_ema": changed(plain, where, **state)}))
        with pytest.raises(CheckpointError, match=message):
            load_generator(path)
    for message, kwargs in {
        "mapping_lrmul is 0.1; only 0.01 is supported": {"mapping_lrmul": 0.1},
        "normalize_latents is False; only True": {"normalize_latents": False},
        "resamples with another filter": {"resample_kernel": [1, 2, 1]},
    }.items():
        files.write(path, files.tensorflow(plain, **kwargs))
        with pytest.raises(CheckpointError, match=message):
            load_generator(path)


def test_missing_and_misshapen_tensors_are_named(plain, tmp_path):
    state = files.rosinality_state(plain)
    path = tmp_path / "g.pt"

    def refused(message: str, **change: Any) -> None:
        tensors = {name: value for name, value in {**state, **change}.items() if value is not None}
        files.write(path, files.torch_save({"g_ema": tensors, "latent_avg": plain.mapping.w_avg}))
        with pytest.raises(CheckpointError, match=message):
            load_generator(path)

    refused("missing synthesis.b8.conv0.bias", **{"convs.0.activate.bias": None})
    refused(r"synthesis.b8.conv0.bias is \[3\], expected \[16\]", **{"convs.0.activate.bias": torch.zeros(3)})
    refused("an unknown tensor 'something.else'", **{"something.else": torch.zeros(3)})
    refused("blur.kernel: resamples with another filter", **{"convs.0.conv.blur.kernel": torch.ones(4, 4)})
    refused("blocks at resolutions", **{"convs.8.conv.weight": torch.zeros(1, 1, 1, 3, 3)})


# ---- hostile files


class Evil:
    """Pickled as a call of anything."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, subprocess.run, torch.load, __import__])
def test_calls_are_refused_by_name_and_not_made(function, protocol, tmp_path):
    canary = tmp_path / "canary"
    for value in (
        Evil(function, f"touch {canary}"),
        {"G_ema": [Evil(function, f"open({str(canary)!r}, 'w')")]},
    ):
        path = files.write(tmp_path / "g.pkl", pickle.dumps(value, protocol))
        with pytest.raises(CheckpointError, match=rf"asks for '\w+(\.\w+)*\.{function.__name__}'.* not run"):
            load_generator(path)
    assert not canary.exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_calls_in_torch_files_are_refused(legacy, tmp_path):
    content = files.torch_save({"g_ema": Evil(os.system, f"touch {tmp_path / 'canary'}")}, legacy)
    with pytest.raises(CheckpointError, match=r"asks for '(posix|nt)\.system'"):
        load_generator(files.write(tmp_path / "g.pt", content))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_calls_in_a_nested_storage_are_refused(legacy, plain, tmp_path):
    """torch.storage._load_from_bytes is torch.load itself: the bytes in it are a pickle once more."""
    evil = files.torch_save(Evil(os.system, f"touch {tmp_path / 'canary'}"), legacy)
    inner = torch.storage._load_from_bytes
    tensor = Evil(_rebuild_tensor_v2, Evil(inner, evil), 0, (16,), (1,), False, OrderedDict())
    root = changed(plain, "mapping", _buffers={"w_avg": tensor})
    message = r"mapping.w_avg: asks for '(posix|nt)\.system'" if legacy else "not a pickle of protocol"
    with pytest.raises(CheckpointError, match=message):
        load_generator(files.write(tmp_path / "g.pkl", files.dumps({"G_ema": root})))
    assert not (tmp_path / "canary").exists()


def test_source_text_in_a_file_is_not_run(plain, tmp_path):
    for content in (files.nvidia(plain), files.tensorflow(plain)):
        assert files.SOURCE.encode() in content
        load_generator(files.write(tmp_path / "g.pkl", content))


def short_string(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


BOMBS = {
    "8 EiB of bytes": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "ends early"),
    "4 GiB of text": (b"\x80\x04X\xff\xff\xff\xff.", "ends early"),
    "a negative length": (b"\x80\x04T\xff\xff\xff\xff.", "ends early"),
    "an integer of 2 GiB": (b"\x80\x04\x8b\xff\xff\xff\x7f" + b"1" * 99 + b".", "an integer of"),
    "a memo at 2**32": (b"\x80\x04Nr\xff\xff\xff\xff.", "holds None"),
    "a frame of 2**64": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "holds None"),
    "nested marks": (b"\x80\x04" + b"(" * 100_000 + b".", "nested more than 256 deep"),
    "nested lists": (b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", "holds list"),
    "nested tuples": (b"\x80\x04)" + b"\x85" * 100_000 + b".", "holds tuple"),
    "a nested tuple as key": (b"\x80\x04})" + b"2\x86" * 50 + b"Ns.", "pickle operation 0x32"),
    "a tuple as key": (b"\x80\x04})" + b"\x94h\x00\x86" * 50 + b"Ns.", "a dict's key is a tuple"),
    "a list in itself": (b"\x80\x04]\x94h\x00a.", "holds list"),
    "too many operations": (b"\x80\x04" + b"N0" * 600_000 + b"N.", "more than 1,000,000 pickle operations"),
    "text encoded again and again": (
        b"\x80\x04X"
        + (50_000).to_bytes(4, "little")
        + b"a" * 50_000
        + b"\x94c_codecs\nencode\n\x940"
        + (b"h\x01h\x00\x85R0" * 60_000)
        + b"N.",
        "unfolds to more bytes than the file has",
    ),
    "an endless name": (b"\x80\x04c" + b"a" * 100_000 + b"\nb\n.", "a name longer than 256"),
    "pops of nothing": (b"\x80\x040000.", "damaged pickle"),
    "nothing": (b"\x80\x04", "damaged pickle"),
    "extension codes": (b"\x80\x02\x82\x01.", "pickle operation 0x82"),
    "instances": (b"\x80\x02(ios\nsystem\n.", "pickle operation 0x69"),
    "a dotted name": (
        b"\x80\x04" + short_string(b"torch._utils") + short_string(b"os.system") + b"\x93.",
        "asks for 'torch._utils.os.system'",
    ),
    "a call of no name": (b"\x80\x04" + short_string(b"os.system") + b")R.", "damaged pickle"),
    "big-endian": (
        lambda: re.sub(
            rb"(?<=little_endianq.)\x88", b"\x89", files.torch_save({}, legacy=True), flags=re.DOTALL
        ),
        "big-endian",
    ),
    "compressed": (lambda: rezipped(zipfile.ZIP_DEFLATED), "a compressed or encrypted zip archive"),
    "big-endian zip": (lambda: rezipped(zipfile.ZIP_STORED, {"archive/byteorder": b"big"}), "big-endian"),
    "a path out of the archive": (
        lambda: rezipped(zipfile.ZIP_STORED, {"../../data.pkl": b"x", "/etc/data.pkl": b"x"}),
        "not a StyleGAN2 generator|without the one data.pkl",
    ),
}


def rezipped(compression: int, entries: dict[str, bytes] | None = None) -> bytes:
    """A file of torch.save with other compression and entries."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(files.torch_save({"x": 1}))) as old,
        zipfile.ZipFile(file, "w", compression) as new,
    ):
        contents = {name: old.read(name) for name in old.namelist()}
        for name, content in {**contents, **(entries or {})}.items():
            new.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("case", BOMBS)
def test_bombs(case, tmp_path):
    content, message = BOMBS[case]
    path = files.write(tmp_path / "g.pkl", content if isinstance(content, bytes) else content())
    with pytest.raises(CheckpointError, match=message) as error:
        load_generator(path)
    assert len(str(error.value)) < 500 + len(str(path))


@pytest.mark.parametrize(
    ("offset", "size", "stride", "message"),
    [
        (0, (16,), (0,), "expected"),
        (10**6, (16,), (1,), "does not fit its storage"),
        (-1, (16,), (1,), "not a whole number in range"),
        (0, (2**39,), (0,), "does not fit its storage"),
        (0, (2**50,), (1,), "not a whole number in range"),
        (0, (16,), (-1,), "not a whole number in range"),
        (0, (16, 16), (1,), "as many sizes as strides"),
        (0, (1,) * 50, (1,) * 50, "expected the sizes of a tensor"),
        (0, "16", (1,), "expected the sizes of a tensor"),
    ],
)
def test_views_that_leave_their_storage_are_refused(offset, size, stride, message, plain, tmp_path):
    storage = torch.zeros(4).untyped_storage() if stride == (0,) else torch.zeros(16).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    tensor = Evil(_rebuild_tensor_v2, typed, offset, size, stride, False, OrderedDict())
    root = changed(plain, "mapping", _buffers={"w_avg": tensor})
    with pytest.raises(CheckpointError, match=message if stride != (0,) else "does not fit its storage"):
        load_generator(files.write(tmp_path / "g.pkl", files.dumps({"G_ema": root})))


def test_tensors_together_may_not_be_larger_than_their_file(plain, tmp_path):
    shared = torch.zeros(2**16)
    modules = OrderedDict((f"b{index}", torch.as_strided(shared, (2**16,), (1,))) for index in range(64))
    module = files.Persistent("Generator", {"_parameters": modules, "_buffers": {}, "_modules": {}})
    root = changed(plain, "synthesis")
    root.meta["state"]["_modules"]["synthesis"].meta["state"]["_modules"]["more"] = module
    # pickle writes one storage once; this is what makes the file small
    content = files.torch_save({"g_ema": {**files.rosinality_state(plain), **modules}})
    assert len(content) < 2**20
    with pytest.raises(CheckpointError, match="together are larger than the file"):
        load_generator(files.write(tmp_path / "g.pt", content))


def test_modules_nested_in_themselves_are_refused(plain, tmp_path):
    root = files.persistent(plain, plain.config)
    synthesis = root.meta["state"]["_modules"]["synthesis"]
    synthesis.meta["state"]["_modules"]["again"] = {"a": 1}
    with pytest.raises(CheckpointError, match=r"synthesis.again is dict, not one of NVIDIA's modules"):
        load_generator(files.write(tmp_path / "g.pkl", files.dumps({"G_ema": root})))
    synthesis.meta["state"]["_modules"] = {"x" * 1000: synthesis}
    with pytest.raises(CheckpointError, match="is not the name of a tensor or module"):
        load_generator(files.write(tmp_path / "g.pkl", files.dumps({"G_ema": root})))
    many = {f"p{index}": torch.zeros(1) for index in range(200)}
    leaf = files.Persistent("M", {"_modules": {}, "_parameters": many})
    for _ in range(3):
        leaf = files.Persistent("M", {"_modules": {f"m{index}": leaf for index in range(8)}})
    with pytest.raises(CheckpointError, match="more than 10,000 tensors"):
        load_generator(files.write(tmp_path / "g.pkl", files.dumps({"G_ema": leaf})))
    inner = files.Persistent("M", {"_modules": {}})
    for _ in range(20):
        inner = files.Persistent("M", {"_modules": {"a": inner}})
    with pytest.raises(CheckpointError, match="modules nested more than 8 deep"):
        load_generator(files.write(tmp_path / "g.pkl", files.dumps({"G_ema": inner})))


def test_a_truncated_file_is_refused_wherever_it_ends(plain, tmp_path):
    for writer in ("nvidia ada", "tensorflow", "rosinality", "rosinality legacy"):
        content = WRITERS[writer](plain)
        for length in range(1, len(content) - 1, len(content) // 40):
            with pytest.raises(CheckpointError):
                load_generator(files.write(tmp_path / "g", content[:length]))


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-(2**62), 2**62), inner)
        | st.sets(st.text())
    ),
    max_leaves=20,
)


@given(plain_data, st.sampled_from([2, 3, 4, 5]))
def test_the_machine_reads_plain_data_as_python_does(value, protocol):
    content = pickle.dumps(value, protocol)
    for data in (content, pickletools.optimize(content)):
        assert pickles.load(memoryview(data), ()) == (value, len(data))


# ---- damaged files


def fuzz(first: int, last: int, *kinds: str) -> list[str]:
    script = Path(__file__).parent / "fuzz_checkpoints.py"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        [sys.executable, script, str(first), str(last), *kinds],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.splitlines()


FORMATS = (
    "nvidia",
    "tensorflow",
    "rosinality",
    "safetensors",
    "mobilestylegan",
    "openvino",
    "openvino-mapping",
)


def test_damaged_files_end_in_success_or_our_error():
    assert fuzz(0, 150, *FORMATS) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", FORMATS)
def test_twenty_thousand_damaged_files_a_format(kind, part):
    assert fuzz(part * 5000, (part + 1) * 5000, kind) == []

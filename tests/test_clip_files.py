"""Files of CLIPs in the wild: read as data, computed by the activation they were trained with, told apart."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import CLIP_CONFIG, PREPROCESSING, make_bundle
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from clip2gan import clip_files
from clip2gan.bundle import load_bundle
from clip2gan.clip import CONFIG_NAME, WEIGHTS_NAME, ClipEncoder, save_local_dir
from stylegan2.checkpoints import CheckpointError, load_generator
from stylegan2.files import fingerprint

IMAGES = torch.linspace(-0.5, 0.5, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def tiny_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    model: Any = open_clip.CLIP(**{**CLIP_CONFIG, **changes})
    for name, parameter in model.named_parameters():  # far enough from 0 for the activations to differ
        if "mlp" in name:
            parameter.data.mul_(3)
    return model.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes "Tiny-32", and its twin for QuickGELU, architectures of open_clip."""
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "Tiny-32", CLIP_CONFIG)
    monkeypatch.setitem(configs, "Tiny-32-quickgelu", {**CLIP_CONFIG, "quick_gelu": True})


def embeddings_of(quick_gelu: bool) -> tuple[Tensor, Tensor]:
    """What open_clip itself makes of IMAGES and of a text, with OpenAI's preprocessing."""
    model = tiny_model(quick_gelu=quick_gelu)
    mean, std = (
        torch.tensor(each).view(3, 1, 1)
        for each in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    tokens = SimpleTokenizer(context_length=16)(["a hat"])
    return model.encode_image((IMAGES / 2 + 0.5 - mean) / std, normalize=True), model.encode_text(
        tokens, normalize=True
    )


def assert_computes(encoder: ClipEncoder, quick_gelu: bool) -> None:
    for found, expected, other in zip(
        (encoder.encode_images(IMAGES), encoder.encode_texts(["a hat"])),
        embeddings_of(quick_gelu),
        embeddings_of(not quick_gelu),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (found - other).abs().max() > 1e-4


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user is told; open_clip itself logs what it does."""
    return [record.message for record in caplog.records if record.name.startswith("clip2gan")]


class _Part(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def write_archive(path: Path, state: dict[str, Tensor]) -> Path:
    """A TorchScript archive whose tensors have these dotted names: what OpenAI published its models as."""
    root = _Part()
    for name, value in state.items():
        module = root
        *parents, own = name.split(".")
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, _Part())
            module = getattr(module, parent)
        module.register_buffer(own, value.clone())
    torch.jit.script(root).save(str(path))
    return path


def openai_state(**changes: Any) -> dict[str, Tensor]:
    """As in OpenAI's archives: mostly 16 bit, with three numbers of the model among the weights."""
    state = {
        name: value.half() if value.ndim > 1 else value
        for name, value in tiny_model(**changes).state_dict().items()
    }
    numbers = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}
    return {**state, **{name: torch.tensor(value) for name, value in numbers.items()}}


def hugging_face_state(model: Any) -> dict[str, Tensor]:
    """The weights under the names of transformers' CLIPModel."""
    renamed = {}
    layers = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    layers["attn.out_proj"] = "self_attn.out_proj"
    for name, value in model.state_dict().items():
        match = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(\w+)", name)
        if match is None and "resblocks" not in name:
            own = next(key for key, theirs in clip_files._HF_NAMES.items() if theirs == name)
            renamed[own] = value.T.contiguous() if own.endswith("_projection.weight") else value
            continue
        match = match or re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(attn)\.(\w+)", name)
        assert match is not None
        prefix = f"{'vision' if match[1] else 'text'}_model.encoder.layers.{match[2]}"
        if match[4].startswith("in_proj_"):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{prefix}.self_attn.{part}_proj.{match[4].removeprefix('in_proj_')}"] = (
                    piece.contiguous()
                )
        else:
            renamed[f"{prefix}.{layers[match[3]]}.{match[4]}"] = value
    return renamed


def write_hugging_face(folder: Path, activation: str, suffix: str = ".safetensors") -> Path:
    folder.mkdir()
    state = hugging_face_state(tiny_model())
    state["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    path = folder / ("model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin")
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    text = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
    vision = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 128}
    config = {
        "model_type": "clip",
        "projection_dim": 16,
        "text_config": {**text, "max_position_embeddings": 16, "hidden_act": activation},
        "vision_config": {**vision, "image_size": 32, "patch_size": 8, "hidden_act": activation},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return path


# ---- which activation


@pytest.mark.parametrize("architecture", ["Tiny-32", "Tiny-32-quickgelu"])
def test_openais_archive(architecture, tmp_path, caplog):
    state = openai_state()
    path = write_archive(tmp_path / "ViT-B-32.pt", state)
    encoder = ClipEncoder.load(f"{architecture}:{path}")
    model = tiny_model(quick_gelu=True)
    model.load_state_dict(
        {name: value.float() for name, value in state.items() if name in model.state_dict()}
    )
    tokens = SimpleTokenizer(context_length=16)(["a hat"])
    torch.testing.assert_close(encoder.encode_texts(["a hat"]), model.encode_text(tokens, normalize=True))
    assert encoder.preprocess_config["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert not said(caplog)
    torch.save(state, tmp_path / "state.pt")  # the state of the archive, as torch.save writes it
    assert ClipEncoder.load(f"{architecture}:{tmp_path / 'state.pt'}").fingerprint() == encoder.fingerprint()


def test_an_archive_is_never_run(tmp_path, recwarn):
    path = write_archive(tmp_path / "other.pt", {"weight": torch.ones(3)})
    recwarn.clear()
    with pytest.raises(
        ValueError, match=r"other.pt: a TorchScript archive that is none of OpenAI's CLIPs.*Tiny-32:openai"
    ):
        ClipEncoder.load(f"Tiny-32:{path}")
    with pytest.raises(CheckpointError, match=r"other.pt: asks for '__torch__"):
        load_generator(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"other.pt: .*get it again"):
        ClipEncoder.load(f"Tiny-32:{path}")
    assert not recwarn.list


def test_an_archive_of_another_model(tmp_path):
    wide = openai_state(vision_cfg={**CLIP_CONFIG["vision_cfg"], "width": 64})
    with pytest.raises(
        ValueError, match=r"a.pt: weights do not fit the model \(visual.class_embedding is \[64\]"
    ):
        ClipEncoder.load(f"Tiny-32:{write_archive(tmp_path / 'a.pt', wide)}")
    state = {"text_projection": torch.zeros(512, 512), "visual.conv1.weight": torch.zeros(768, 3, 16, 16)}
    state |= {"visual.proj": torch.zeros(768, 512), "input_resolution": torch.tensor(224)}
    state |= {"context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)}
    with pytest.raises(ValueError, match=r"b.pt: OpenAI's ViT-B-16, not ViT-B-32; give ViT-B-16:b.pt"):
        ClipEncoder.load(f"ViT-B-32:{write_archive(tmp_path / 'b.pt', state)}")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize(("activation", "quick"), [("quick_gelu", True), ("gelu", False)])
def test_hugging_faces_layout(activation, quick, suffix, tmp_path, caplog):
    path = write_hugging_face(tmp_path / "hf", activation, suffix)
    assert_computes(ClipEncoder.load(f"Tiny-32:{path}"), quick)
    whole = ClipEncoder.load(f"local-dir:{path.parent}")
    assert_computes(whole, quick)
    assert not said(caplog)
    preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2}
    (path.parent / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    for spec in (f"Tiny-32:{path}", f"local-dir:{path.parent}"):
        found = ClipEncoder.load(spec).preprocess_config
        assert (list(found["mean"]), found["interpolation"], found["size"]) == (
            [0.5] * 3,
            "bilinear",
            (32, 32),
        )


def test_hugging_faces_layout_without_its_config_says_nothing(tmp_path, caplog):
    path = write_hugging_face(tmp_path / "hf", "quick_gelu")
    (path.parent / "config.json").unlink()
    assert_computes(ClipEncoder.load(f"Tiny-32:{path}"), False)
    assert f"give Tiny-32-quickgelu:{path}" in caplog.text


@pytest.mark.parametrize("quick", [True, False])
def test_open_clips_config_beside_the_file(quick, tmp_path, caplog):
    config = {**CLIP_CONFIG, "quick_gelu": quick}
    save_local_dir(tiny_model(), config, {**PREPROCESSING, "mean": [0.1, 0.2, 0.3]}, tmp_path, torch.float32)
    encoder = ClipEncoder.load(f"Tiny-32:{tmp_path / WEIGHTS_NAME}")
    assert list(encoder.preprocess_config["mean"]) == [0.1, 0.2, 0.3]
    encoder.preprocess_config.update(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
    assert_computes(encoder, quick)
    (tmp_path / CONFIG_NAME).unlink()  # the header of files of ours says it too
    again = ClipEncoder.load(f"Tiny-32:{shutil.copy(tmp_path / WEIGHTS_NAME, tmp_path / 'c.safetensors')}")
    again.preprocess_config.update(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
    assert_computes(again, quick)
    assert not said(caplog)


@pytest.mark.parametrize("digits", [64, 8])
@pytest.mark.parametrize("quick", [True, False])
def test_published_weights_are_known_by_their_sum(digits, quick, tmp_path, monkeypatch, caplog):
    path = tmp_path / "weights.pt"
    torch.save(tiny_model().state_dict(), path)
    total = fingerprint(path)[:digits]
    address = f"https://example.com/{total}/w.pt" if digits == 64 else f"https://example.com/w-{total}.pt"
    tags = {
        "home": {"url": address, "hf_hub": "", "quick_gelu": quick, "std": (0.5, 0.5, 0.5)},
        "other": {"url": ""},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-32", tags)
    clip_files._known_sums.cache_clear()
    try:
        encoder = ClipEncoder.load(f"Tiny-32:{path}")
        assert encoder.preprocess_config["std"] == (0.5, 0.5, 0.5)
        encoder.preprocess_config["std"] = open_clip.OPENAI_DATASET_STD
        assert_computes(encoder, quick)
        assert not said(caplog)
        again = ClipEncoder.load(f"Tiny-32-quickgelu:{path}")
        again.preprocess_config["std"] = open_clip.OPENAI_DATASET_STD
        assert_computes(again, quick)
        assert bool(said(caplog)) is not quick  # what was named is not what is computed
    finally:
        clip_files._known_sums.cache_clear()


def test_open_clips_table_names_openais_sums():
    known = clip_files._known_sums()
    assert len([total for total in known if len(total) == 64]) >= 9
    assert all(config["quick_gelu"] for total, config in known.items() if len(total) == 64)


def test_a_file_that_says_nothing_is_warned_of_where_there_is_a_choice(tmp_path, caplog):
    path = tmp_path / "weights.safetensors"
    save_file(tiny_model().state_dict(), path)
    with caplog.at_level(logging.WARNING):
        assert_computes(ClipEncoder.load(f"Tiny-32:{path}"), False)
    assert f"{path}: it does not say which activation" in caplog.text
    assert f"give Tiny-32-quickgelu:{path}" in caplog.text
    caplog.clear()
    assert_computes(ClipEncoder.load(f"Tiny-32-quickgelu:{path}"), True)
    assert not said(caplog)


def test_preprocessing_that_all_published_weights_share(tmp_path, monkeypatch, caplog):
    path = tmp_path / "weights.safetensors"
    save_file(tiny_model().state_dict(), path)
    one = {"url": "", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-32-quickgelu", {"a": one, "b": dict(one)})
    found = ClipEncoder.load(f"Tiny-32-quickgelu:{path}").preprocess_config
    assert (found["mean"], found["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    other = {**one, "mean": (0.4, 0.5, 0.5)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-32-quickgelu", {"a": one, "b": other})
    found = ClipEncoder.load(f"Tiny-32-quickgelu:{path}").preprocess_config
    assert found["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert "published weights of Tiny-32-quickgelu differ in preprocessing" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "siglip"}, "not the config of a CLIPModel"),
        ({"text_config": {"vocab_size": 30000}}, "a vocabulary of 30000 tokens"),
        ({"projection_dim": "many"}, "projection_dim must be a whole number"),
        ({"vision_config": {"hidden_act": "swish"}}, "hidden_act is quick_gelu, swish"),
        (None, "not readable as JSON"),
    ],
)
def test_configs_that_are_no_clips(change, message, tmp_path):
    path = write_hugging_face(tmp_path / "hf", "quick_gelu").with_name("config.json")
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        ClipEncoder.load(f"local-dir:{path.parent}")
    assert str(path) in str(caught.value)


# ---- the fingerprint


def encoder_with(model: Any = None, tokenizer: Any = None, **preprocessing: Any) -> ClipEncoder:
    model = tiny_model() if model is None else model
    tokenizer = tokenizer or SimpleTokenizer(context_length=16)
    return ClipEncoder(model, tokenizer, {**PREPROCESSING, "size": 32, **preprocessing}, "tiny")


def test_the_fingerprint_sees_all_that_decides_embeddings():
    vision, text = CLIP_CONFIG["vision_cfg"], CLIP_CONFIG["text_cfg"]
    others = {
        "activation": encoder_with(tiny_model(quick_gelu=True)),
        "image heads": encoder_with(tiny_model(vision_cfg={**vision, "head_width": 8})),
        "text heads": encoder_with(tiny_model(text_cfg={**text, "heads": 4})),
        "image pooling": encoder_with(tiny_model(vision_cfg={**vision, "pool_type": "avg"})),
        "text pooling": encoder_with(tiny_model(text_cfg={**text, "pool_type": "last"})),
        "causality": encoder_with(tiny_model(text_cfg={**text, "no_causal_mask": True})),
        "tokens": encoder_with(tokenizer=SimpleTokenizer(context_length=16, clean="canonicalize")),
        "size": encoder_with(size=40),
        "interpolation": encoder_with(interpolation="bilinear"),
        "resizing": encoder_with(resize_mode="squash"),
        "mean": encoder_with(mean=[0.4, 0.5, 0.5]),
        "std": encoder_with(std=[0.3, 0.25, 0.25]),
    }
    found = {name: encoder.fingerprint() for name, encoder in others.items()} | {
        "plain": encoder_with().fingerprint()
    }
    assert len(set(found.values())) == len(found)
    assert others["activation"]._weights_fingerprint == encoder_with()._weights_fingerprint


def test_fingerprints_of_before_are_accepted(tmp_path, tiny_clip: ClipEncoder):
    path = make_bundle(tmp_path / "model", tiny_clip)
    config = json.loads((path / "config.json").read_text())
    assert config["clip_fingerprint"] == tiny_clip.fingerprint()
    config["clip_fingerprint"] = tiny_clip._weights_fingerprint
    (path / "config.json").write_text(json.dumps(config))
    load_bundle(str(path))
    config["clip_fingerprint"] = "0" * 64
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is not the one this model was trained with"):
        load_bundle(str(path))


# ---- bundles keep what was found


@pytest.mark.parametrize("kind", ["archive", "hugging face"])
def test_bundles_of_such_clips(kind, tmp_path):
    if kind == "archive":
        spec = f"Tiny-32:{write_archive(tmp_path / 'a.pt', openai_state())}"
    else:
        spec = f"local-dir:{write_hugging_face(tmp_path / 'hf', 'quick_gelu').parent}"
    clip = ClipEncoder.load(spec)
    again = load_bundle(str(make_bundle(tmp_path / "model", clip))).clip
    torch.testing.assert_close(again.encode_images(IMAGES), clip.encode_images(IMAGES))
    torch.testing.assert_close(again.encode_texts(["a hat"]), clip.encode_texts(["a hat"]))
    assert again.fingerprint() == clip.fingerprint()

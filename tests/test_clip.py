"""ClipEncoder: what open_clip gives, differentiably, and one line for every mistake."""

import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import CLIP_CONFIG, PREPROCESSING
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from clip2gan.clip import CONFIG_NAME, WEIGHTS_NAME, ClipEncoder, save_local_dir
from clip2gan.domains.avatars.vocabulary import groups
from tools import domain

SIZE = CLIP_CONFIG["vision_cfg"]["image_size"]


def random_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with sharp edges, far enough from black and white for bicubic overshoot."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 196, (4, 4, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BILINEAR))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (190, 70, 70)
    return Image.fromarray(pixels)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def tiny_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    return open_clip.CLIP(**{**CLIP_CONFIG, **changes})


def encoder_with(model: Any = None, **preprocessing: Any) -> ClipEncoder:
    model = tiny_model() if model is None else model
    config = {**PREPROCESSING, "size": SIZE, **preprocessing}
    return ClipEncoder(model, SimpleTokenizer(context_length=16), config, "tiny")


# Embeddings


def test_agrees_with_open_clip_alone(tmp_path: Path) -> None:
    save_local_dir(tiny_model(), CLIP_CONFIG, PREPROCESSING, tmp_path)
    encoder = ClipEncoder.load(f"local-dir:{tmp_path}")
    loaded: Any = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    model, _, preprocess = loaded
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    picture, texts = random_picture(50, 40), ["a smiling face", "sunglasses"]
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(picture)[None], normalize=True)
        text = model.encode_text(tokenizer(texts), normalize=True)
    torch.testing.assert_close(encoder.encode_images([picture]), image)
    torch.testing.assert_close(encoder.encode_texts(texts), text)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_embeddings_are_unit_float32(tiny_clip: ClipEncoder) -> None:
    for embeddings in (
        tiny_clip.encode_images(torch.rand(3, 3, 40, 40) * 2 - 1),
        tiny_clip.encode_images([random_picture(30, 30)] * 3),
        tiny_clip.encode_texts(["one", "", "晴れ 😀"]),
    ):
        assert embeddings.shape == (3, tiny_clip.embed_dim)
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_model_is_frozen(tiny_clip: ClipEncoder) -> None:
    assert not tiny_clip.model.training
    assert not any(p.requires_grad for p in tiny_clip.model.parameters())
    assert (tiny_clip.image_size, tiny_clip.context_length, tiny_clip.embed_dim) == (32, 16, 16)


# Preprocessing of tensors


def test_preprocess_is_exact_without_resizing() -> None:
    encoder, picture = encoder_with(), random_picture(SIZE, SIZE)
    expected = encoder._preprocess(picture)[None]
    torch.testing.assert_close(encoder.preprocess(to_tensor(picture)), expected, rtol=0, atol=1e-5)


@cache
def resizing(interpolation: str, resize_mode: str) -> ClipEncoder:
    return encoder_with(interpolation=interpolation, resize_mode=resize_mode, fill_color=90)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@given(width=st.integers(8, 150), height=st.integers(8, 150))
@hypothesis_settings(max_examples=20)
def test_preprocess_follows_open_clip(interpolation: str, resize_mode: str, width: int, height: int) -> None:
    encoder = resizing(interpolation, resize_mode)
    picture = random_picture(width, height, seed=width + height)
    std = torch.tensor(PREPROCESSING["std"]).view(3, 1, 1)
    difference = (encoder.preprocess(to_tensor(picture)) - encoder._preprocess(picture)).abs() * std * 255
    # open_clip rounds to 8 bit after each of the two directions.
    assert difference.max() < 2
    assert difference.mean() < 0.6


def test_preprocess_of_a_model_that_is_not_square() -> None:
    encoder = encoder_with(size=(32, 48))
    picture = random_picture(90, 70)
    result = encoder.preprocess(to_tensor(picture))
    assert result.shape == (1, 3, 32, 48)
    torch.testing.assert_close(result[0], encoder._preprocess(picture), rtol=0, atol=2 / 255 / 0.25)


def test_values_beyond_a_pictures_range_are_clamped(tiny_clip: ClipEncoder) -> None:
    wild = torch.randn(2, 3, 32, 32) * 2
    torch.testing.assert_close(tiny_clip.encode_images(wild), tiny_clip.encode_images(wild.clamp(-1, 1)))


@pytest.mark.parametrize("size", [32, 48])
def test_gradients_flow_to_the_picture(tiny_clip: ClipEncoder, size: int) -> None:
    torch.manual_seed(0)
    image = (torch.rand(1, 3, size, size) - 0.5).requires_grad_()
    target = tiny_clip.encode_texts(["a face"])[0]
    (tiny_clip.encode_images(image) @ target).sum().backward()
    gradient = image.grad
    assert gradient is not None
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        change = (tiny_clip.encode_images(image + step) - tiny_clip.encode_images(image - step)) @ target / 2
    torch.testing.assert_close(change[0], (gradient * step).sum(), rtol=2e-2, atol=1e-6)


# Intermediate features

TOWERS = {
    "vit": (CLIP_CONFIG["vision_cfg"], [(32, 4, 4), (32, 4, 4)]),
    "resnet": (
        {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        [(8, 8, 8), (32, 8, 8), (64, 4, 4), (128, 2, 2), (256, 1, 1)],
    ),
    "timm": (
        {"image_size": 32, "timm_model_name": "test_resnet"},
        [(32, 16, 16), (32, 8, 8), (48, 4, 4), (192, 2, 2), (96, 1, 1)],
    ),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_image_features_of_every_kind_of_tower(tower: str) -> None:
    vision, shapes = TOWERS[tower]
    encoder = encoder_with(tiny_model(vision_cfg=vision))
    image = (torch.rand(2, 3, 32, 32) - 0.5).requires_grad_()
    features = encoder.image_features(image)
    assert [tuple(f.shape) for f in features] == [(2, *shape) for shape in shapes]
    for feature in features:
        (gradient,) = torch.autograd.grad(feature.square().mean(), image, retain_graph=True)
        assert gradient.abs().max() > 0


# Texts


def test_a_text_is_cut_where_the_context_ends(tiny_clip: ClipEncoder) -> None:
    room = tiny_clip.context_length - 2  # start and end token
    fits, too_long = " ".join(["face"] * room), " ".join(["face"] * room + ["hat"])
    assert not tiny_clip.is_cut("")
    assert not tiny_clip.is_cut(fits)
    assert tiny_clip.is_cut(too_long)
    assert tiny_clip.is_cut("word " * 10_000)
    torch.testing.assert_close(tiny_clip.encode_texts([too_long]), tiny_clip.encode_texts([fits]))


# Fingerprint


def test_fingerprint_tells_weights_and_preprocessing_apart() -> None:
    changed = tiny_model()
    with torch.no_grad():
        changed.visual.conv1.weight[0, 0, 0, 0] += 1e-3
    first = encoder_with().fingerprint()
    assert len(first) == 64
    assert encoder_with().fingerprint() == first
    assert encoder_with(changed).fingerprint() != first
    assert encoder_with(mean=[0.4, 0.5, 0.5]).fingerprint() != first


# Loading


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes "Tiny-32" one of open_clip's architectures, with weights in a file; returns the file."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-32", CLIP_CONFIG)
    save_local_dir(tiny_model(), CLIP_CONFIG, PREPROCESSING, tmp_path / "clip", torch.float32)
    file = tmp_path / "clip" / WEIGHTS_NAME
    tags = {"home": {"file": str(file), "quick_gelu": True, "mean": (0.1, 0.2, 0.3)}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-32", tags)
    return file


def test_architecture_with_a_file(registered: Path, tmp_path: Path) -> None:
    image = torch.rand(1, 3, 32, 32)
    expected = F.normalize(tiny_model().encode_image((image / 2 + 0.5 - 0.5) / 0.25), dim=-1)
    loaded = ClipEncoder.load(f"Tiny-32:{registered}")
    loaded.preprocess_config.update(PREPROCESSING)  # a file of weights does not tell its preprocessing
    torch.testing.assert_close(loaded.encode_images(image), expected.detach())

    torch.save(tiny_model().state_dict(), tmp_path / "weights.pt")
    from_pt = ClipEncoder.load(f"Tiny-32:{tmp_path / 'weights.pt'}")
    torch.testing.assert_close(from_pt.encode_texts(["a"]), loaded.encode_texts(["a"]))


@pytest.mark.usefixtures("registered")
def test_architecture_with_pretrained_weights_as_they_were_trained() -> None:
    encoder = ClipEncoder.load("Tiny-32:home")
    assert encoder.preprocess_config["mean"] == (0.1, 0.2, 0.3)
    model = tiny_model(quick_gelu=True)  # as OpenAI's models are, whatever the architecture's config says
    tokens = SimpleTokenizer(context_length=16)(["a hat"])
    torch.testing.assert_close(
        encoder.encode_texts(["a hat"]), model.encode_text(tokens, normalize=True).detach()
    )


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("ViT-B-61:openai", ValueError, r"no architecture 'ViT-B-61'; did you mean ViT-B-16"),
        ("vit-b-32:openai", ValueError, r"did you mean ViT-B-32"),
        ("zzz", ValueError, r"unknown CLIP 'zzz'.*list_models"),
        ("", ValueError, r"unknown CLIP ''"),
        ("ViT-B-32", ValueError, r"names no pretrained weights.*openai.*laion2b_s34b_b79k.*ViT-B-32:FILE"),
        ("ViT-B-32:lion", ValueError, r"unknown pretrained weights 'lion' for CLIP ViT-B-32.*openai"),
        ("ViT-B-32:nowhere.safetensors", FileNotFoundError, r"nowhere.safetensors: no such file"),
        ("ViT-B-32:/no/where", FileNotFoundError, r"/no/where: no such file"),
        ("local-dir:/no/where", FileNotFoundError, r"/no/where: no such folder"),
    ],
)
def test_mistakes_in_the_name(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        ClipEncoder.load(spec)
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_files(registered: Path, tmp_path: Path) -> None:
    def message(spec: str, error: type[Exception] = ValueError) -> str:
        with pytest.raises(error) as caught:
            ClipEncoder.load(spec)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    folder = registered.parent
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(registered.read_bytes()[:5000])
    assert "cut.safetensors: not a readable file of plain weights" in message(f"Tiny-32:{cut}")

    wide = {**CLIP_CONFIG, "embed_dim": 24}
    save_local_dir(open_clip.CLIP(**wide), wide, PREPROCESSING, tmp_path / "wide")
    assert "size mismatch for text_projection" in message(f"Tiny-32:{tmp_path / 'wide' / WEIGHTS_NAME}")

    (folder / CONFIG_NAME).write_text("{")
    assert str(folder) in message(f"local-dir:{folder}")
    (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": CLIP_CONFIG}))
    registered.write_bytes(b"")
    assert WEIGHTS_NAME in message(f"local-dir:{folder}")
    registered.unlink()
    assert "no weights in this CLIP folder" in message(f"local-dir:{folder}", FileNotFoundError)
    (folder / CONFIG_NAME).unlink()
    assert f"no {CONFIG_NAME} in it" in message(f"local-dir:{folder}", FileNotFoundError)


class Payload:
    """Runs when unpickled without care."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["weights.pt", "open_clip_pytorch_model.bin"])
def test_a_file_never_runs_code(registered: Path, tmp_path: Path, name: str) -> None:
    trace = tmp_path / "code-has-run"
    bad = registered.parent / name
    bad.write_bytes(pickle.dumps(Payload(trace), protocol=2))
    with pytest.raises(ValueError, match="not a readable file of plain weights"):
        ClipEncoder.load(f"Tiny-32:{bad}")
    if bad.suffix == ".bin":
        registered.unlink()
        with pytest.raises(ValueError, match="not a readable file of plain weights"):
            ClipEncoder.load(f"local-dir:{bad.parent}")
    assert not trace.exists()


@pytest.mark.parametrize("spec", ["hf-hub:nobody/nothing", "ViT-B-32:openai"])
def test_without_a_network(spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        OSError, match=rf"cannot fetch CLIP '{spec}' .*check name and network.*ARCH:FILE"
    ) as caught:
        ClipEncoder.load(spec)
    assert "\n" not in str(caught.value)


# Saving


def test_saved_in_half_precision_by_default(tmp_path: Path) -> None:
    model = tiny_model()
    save_local_dir(model, CLIP_CONFIG, PREPROCESSING, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]
    loaded = ClipEncoder.load(f"local-dir:{tmp_path}")
    first = (tmp_path / WEIGHTS_NAME).read_bytes()
    save_local_dir(model, CLIP_CONFIG, PREPROCESSING, tmp_path)
    assert (tmp_path / WEIGHTS_NAME).read_bytes() == first  # the same model, the same bytes
    for name, tensor in loaded.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name].half().float(), rtol=0, atol=0)
    assert loaded.preprocess_config.items() >= {"resize_mode": "shortest", "mean": [0.5, 0.5, 0.5]}.items()


# The model that comes with the package


@pytest.fixture(scope="module")
def avatars() -> ClipEncoder:
    return ClipEncoder.load("avatars")


def test_avatars_passes_over_words_it_was_never_taught(avatars: ClipEncoder) -> None:
    plain = avatars.encode_texts(["a smiling person with red hair"])[0]
    strange = avatars.encode_texts(
        [
            "a smiling person with red hair zyzzyva",
            "a smiling helicopter person with red hair",
            "a smiling person with red hair 😀",
            "a smiling person with red hair 晴れ",
        ]
    )
    other = avatars.encode_texts(["a smiling person with black hair"])[0]
    assert (strange @ plain).min() > 0.9
    assert other @ plain < 0.8


def test_avatars_has_zero_vectors_for_unknown_tokens(avatars: ClipEncoder) -> None:
    used = avatars.model.token_embedding.weight.abs().sum(1) > 0
    tokenizer = SimpleTokenizer(context_length=32)
    assert 500 < used.sum() < 5000
    assert used[tokenizer.encode("smiling sunglasses hoodie")].all()
    assert not used[tokenizer.encode("helicopter xylophone")].any()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"eyewear": "sunglasses"}, "sunglasses"),
        ({"expression": "smiling"}, "laughing and happy"),
        ({"expression": "surprised"}, "she is amazed"),
        ({"hair": "bald", "facial_hair": "beard"}, "a bald man with a big bushy beard"),
        ({"eyewear": "none"}, "without glasses"),
        ({"clothing": "suit", "clothing_color": "red"}, "a gentleman in a suit with a red shirt"),
        ({"background": "green", "eyes": "winking"}, "someone winks in front of something green"),
    ],
)
def test_avatars_finds_what_a_text_names(avatars: ClipEncoder, change: dict[str, str], text: str) -> None:
    rng = np.random.default_rng(3)
    values = ["short", "brown", "none", "glasses", "serious", "open", "light", "hoodie", "blue", "gray"]
    plain = dict(zip(groups(), values, strict=True))
    pictures = [domain.draw(attributes, rng) for attributes in (plain, plain | change)]
    without, with_it = avatars.encode_images(pictures) @ avatars.encode_texts([text])[0]
    assert with_it > without + 0.05

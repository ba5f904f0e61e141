"""The model from Python: the same numbers for the same arguments, whatever else is asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_bundle
from PIL import Image

import clip2gan
from clip2gan.clip import ClipEncoder
from clip2gan.model import Model, candidate_seed, load, to_picture, to_tensor
from clip2gan.sampling import Sampler


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.tobytes() == b.tobytes()


def test_generate_gives_rgb_pictures_text_by_text(tiny: Model) -> None:
    images = tiny.generate(["a smiling face", "a beard"], num=2, seed=5)
    assert [(image.mode, image.size) for image in images] == [("RGB", (32, 32))] * 4
    assert same(images[2], tiny.generate("a beard", seed=5)[0])
    assert not same(images[0], images[2])


def test_a_picture_depends_on_its_seed_only(tiny: Model) -> None:
    many = tiny.generate("a smiling face", num=4, seed=10)
    for index, image in enumerate(many):
        assert same(image, tiny.generate("a smiling face", num=1, seed=10 + index)[0])
    assert len({image.tobytes() for image in many}) == 4


def test_loading_again_gives_the_same_bytes(tiny: Model, tiny_bundle: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_bundle, tmp_path / "moved")
    again = clip2gan.load(str(moved), device="cpu")
    assert same(again.generate("hats")[0], tiny.generate("hats")[0])
    assert again.provenance()["fingerprint"] == tiny.provenance()["fingerprint"]


def test_truncation_pulls_to_the_average_picture(tiny_clip: ClipEncoder, tmp_path: Path) -> None:
    model = load(str(make_bundle(tmp_path / "shift", tiny_clip, gap="shift")), device="cpu")
    average = model.synthesize(model.w_avg.expand(1, model.generator.num_ws, -1))
    assert all(same(image, average) for image in model.generate(["a", "b"], truncation=0.0))
    assert not same(model.generate("a", truncation=1.0)[0], average)


def test_truncation_pulls_to_a_texts_own_average_where_its_pictures_differ(tiny: Model) -> None:
    one, again, other = (*tiny.generate("a", num=2, truncation=0.0), *tiny.generate("b", truncation=0.0))
    assert same(one, again)
    assert not same(one, other)
    # A picture's variations are pulled to the average of all pictures.
    average = tiny.synthesize(tiny.w_avg.expand(1, tiny.generator.num_ws, -1))
    assert same(tiny.vary(one, truncation=0.0)[0], average)


def test_rerank_picks_by_clip_and_never_loses(tiny: Model) -> None:
    prompt = tiny.prompt("a smiling face")

    def score(image: Image.Image) -> float:
        return float((tiny.prompt(image).embedding * prompt.embedding).sum())

    plain = tiny.generate("a smiling face", seed=3)[0]
    candidates = [tiny.draw(prompt, candidate_seed(3, index)) for index in range(4)]
    best = tiny.generate("a smiling face", seed=3, rerank=4)[0]
    assert same(candidates[0], plain)
    assert score(best) == max(map(score, candidates)) >= score(plain)


def test_style_replaces_the_fine_half_of_the_layers(tiny: Model) -> None:
    prompt = tiny.prompt("a smiling face")
    style = tiny.style(9)
    assert style.shape == (1, tiny.generator.num_ws, 8)
    assert torch.equal(style, tiny.style(9))
    assert not same(tiny.draw(prompt, 1, style=style), tiny.draw(prompt, 1))
    # At truncation 0 the coarse layers are an average's, so only the style's fine ones are left to differ.
    half = tiny.generator.num_ws // 2
    prompt = tiny.prompt(Image.new("RGB", (32, 32)))
    average = tiny.w_avg.expand(1, half, -1)
    expected = tiny.synthesize(torch.cat([average, style[:, half:]], dim=1))
    assert same(tiny.draw(prompt, 1, truncation=0.0, style=style), expected)


def test_variations_of_a_picture(tiny: Model) -> None:
    image = tiny.generate("a smiling face")[0]
    variations = tiny.vary(image, num=2, seed=4)
    assert len(variations) == 2
    assert not same(*variations)
    assert same(variations[1], tiny.vary(image, seed=5)[0])


def test_an_empty_text_is_refused(tiny: Model) -> None:
    with pytest.raises(ValueError, match="the text is empty; say what the picture shows"):
        tiny.generate(["a face", " "])


@pytest.mark.parametrize("text", ["word " * 10_000, "😀", "微笑的女人", "a\nb", "x" * 5000])
def test_any_text_makes_a_picture(tiny: Model, text: str) -> None:
    assert len(tiny.generate(text)) == 1


def test_no_gradients_and_no_change_of_the_model(tiny: Model) -> None:
    before = {name: value.clone() for name, value in tiny.generator.state_dict().items()}
    image = tiny.generate("a face")[0]
    tiny.edit(image, {"smiling": 1.0}, source="clip")
    assert not tiny.invert(image).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in tiny.generator.state_dict().items())


def test_pictures_and_tensors_are_each_others_inverse() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(pixels)
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 8, 8)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert same(to_picture(tensor), image)
    assert to_picture(torch.full((1, 3, 8, 8), 7.0)).getpixel((0, 0)) == (255, 255, 255)


def test_candidate_seeds_are_distinct_and_small_enough_for_torch() -> None:
    seeds = {candidate_seed(seed, index) for seed in range(50) for index in range(20)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**63


def test_unknown_devices_and_models() -> None:
    with pytest.raises(ValueError, match="unknown device 'tpu'; choose auto, cpu, cuda or mps"):
        load("avatars", device="tpu")
    with pytest.raises(ValueError, match="unknown model 'no-such-model'"):
        load("no-such-model", device="cpu")


def test_the_public_names() -> None:
    assert clip2gan.Model is Model
    with pytest.warns(DeprecationWarning, match="is called clip2gan.Model now"):
        assert clip2gan.Clip2Gan is Model
    assert clip2gan.load is load
    assert all(hasattr(clip2gan, name) for name in clip2gan.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        clip2gan.nothing  # noqa: B018


def test_a_models_folder_may_be_a_path(tiny: Model, tiny_bundle: Path) -> None:
    by_path = load(tiny_bundle, device="cpu")
    assert by_path.name == str(tiny_bundle)
    assert by_path.bundle.fingerprint == tiny.bundle.fingerprint
    assert json.loads(json.dumps(by_path.provenance())) == tiny.provenance()
    assert load(Path("avatars"), device="cpu").domain.name == "avatars"
    with pytest.raises(ValueError, match=r"unknown model 'nowhere'"):
        load(Path("nowhere"))


def test_a_style_by_seed_is_that_of_sample(tiny: Model) -> None:
    for seed in (0, 7, 2**40 + 7):
        latents = Sampler(tiny.generator, truncation=0.7).latents(seed)
        assert tiny.style(seed).equal(latents.ws)
    picture = tiny.generate("a hat", style=tiny.style(7))[0]
    assert picture.tobytes() != tiny.generate("a hat")[0].tobytes()

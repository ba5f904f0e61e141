"""The generator against the reference implementation, and the promises of its interface."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from stylegan2 import Discriminator, Encoder, Generator, GeneratorConfig, load_generator, save_generator
from stylegan2.files import load_tensors, load_weights, save_tensors

REFERENCE = Path(__file__).parent / "data" / "generator_32.safetensors"
SMALL = GeneratorConfig(
    z_dim=16, w_dim=16, img_resolution=16, channel_base=128, channel_max=16, mapping_layers=2
)


@pytest.fixture(scope="module")
def reference() -> tuple[Generator, dict[str, torch.Tensor]]:
    with safe_open(REFERENCE, framework="pt") as file:
        arguments = json.loads(file.metadata()["init_kwargs"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    depth = arguments.pop("mapping_kwargs")["num_layers"]
    generator = Generator(GeneratorConfig(**arguments, mapping_layers=depth)).eval()
    weights = {name.removeprefix("params/"): t for name, t in tensors.items() if name.startswith("params/")}
    load_weights(generator, weights, "reference")
    expected = {
        name.removeprefix("expected/"): t for name, t in tensors.items() if name.startswith("expected/")
    }
    return generator, expected


def assert_matches(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max() <= 1e-4 * expected.std()


@torch.no_grad()
def test_mapping_matches_reference(reference):
    generator, expected = reference
    z = expected["z"]
    assert_matches(generator.mapping(z), expected["ws"])
    assert_matches(generator.mapping(z, truncation_psi=0.7), expected["ws_psi0.7"])
    cut = generator.mapping(z, truncation_psi=0.5, truncation_cutoff=4)
    assert_matches(cut, expected["ws_psi0.5_cutoff4"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("ws", "noise_mode", "image"),
    [
        ("ws_psi0.7", "const", "image_const"),
        ("ws_psi0.7", "none", "image_none"),
        ("ws_mixed", "const", "image_mixed"),
    ],
)
def test_synthesis_matches_reference(reference, ws, noise_mode, image):
    generator, expected = reference
    assert_matches(generator.synthesis(expected[ws], noise_mode=noise_mode), expected[image])


@torch.no_grad()
def test_half_precision_stays_near_float32():
    torch.manual_seed(0)
    full = Generator(SMALL).eval()
    half = Generator(GeneratorConfig(**{**vars(SMALL), "num_fp16_res": 2, "conv_clamp": 256})).eval()
    half.load_state_dict(full.state_dict())
    z = torch.randn(8, 16)
    expected = full(z)
    assert (half(z) - expected).abs().mean() < 0.02 * expected.std()


def test_random_noise_differs_and_const_noise_repeats():
    torch.manual_seed(0)
    generator = Generator(SMALL).eval().requires_grad_(False)
    generator.get_parameter("synthesis.b16.conv1.noise_strength").fill_(1.0)
    ws = generator.mapping(torch.randn(1, 16))
    assert torch.equal(generator.synthesis(ws), generator.synthesis(ws))
    random = [generator.synthesis(ws, noise_mode="random") for _ in range(2)]
    assert not torch.equal(*random)


def test_labels_change_the_latent_and_are_asked_for():
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(**{**vars(SMALL), "c_dim": 3}))
    z, labels = torch.randn(1, 16).repeat(2, 1), torch.eye(3)[:2]
    ws = generator.mapping(z, labels)
    assert not torch.allclose(ws[0], ws[1])
    with pytest.raises(ValueError, match=r"conditional: give labels c \[N, 3\]"):
        generator.mapping(z)


def test_1024_px_config_f_has_the_published_size():
    with torch.device("meta"):
        generator = Generator(GeneratorConfig())
    assert generator.num_ws == 18
    assert len(generator.state_dict()) == 182
    assert sum(p.numel() for p in generator.parameters()) == 30_370_060
    assert sum(b.numel() for b in generator.buffers()) == 2_797_104


def test_wrong_inputs_are_named():
    generator = Generator(SMALL)
    with pytest.raises(ValueError, match=r"ws must be \[N, 6, 16\], got \[1, 5, 16\]"):
        generator.synthesis(torch.zeros(1, 5, 16))
    with pytest.raises(ValueError, match="noise_mode must be const, random or none, got 'off'"):
        generator.synthesis(torch.zeros(1, 6, 16), noise_mode="off")
    with pytest.raises(ValueError, match="power of two of at least 8, got 48"):
        GeneratorConfig(img_resolution=48)


@torch.no_grad()
def test_file_round_trip(tmp_path):
    generator = Generator(SMALL).eval().requires_grad_(False)
    save_generator(generator, tmp_path / "g.safetensors")
    loaded = load_generator(tmp_path / "g.safetensors")
    z = torch.randn(2, 16)
    assert torch.equal(loaded(z), generator(z))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_files_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "g.safetensors"
    save_generator(Generator(SMALL), path)
    tensors, config = load_tensors(path)
    save_tensors(path, tensors, {**config, "channel_max": 8})
    with pytest.raises(
        ValueError, match=r"g.safetensors: weights do not fit the model \(synthesis.b4.const is"
    ):
        load_generator(path)
    save_tensors(path, tensors, {"layers": 3})
    with pytest.raises(ValueError, match="does not describe a StyleGAN2 generator"):
        load_generator(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_generator(path)


def test_discriminator_and_encoder_shapes():
    images = torch.randn(6, 3, 16, 16)
    assert Discriminator(SMALL)(images).shape == (6, 1)
    assert Encoder(SMALL)(images).shape == (6, 16)


def test_minibatch_std_sees_the_other_pictures():
    torch.manual_seed(0)
    discriminator = Discriminator(SMALL)
    images = torch.randn(4, 3, 16, 16)
    same = images[:1].repeat(4, 1, 1, 1)
    assert not torch.allclose(discriminator(images)[0], discriminator(same)[0])

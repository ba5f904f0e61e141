"""Frozen synthesis against the modules it stands for."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip2gan.bundle import bundled_models
from stylegan2 import Generator, GeneratorConfig, frozen, load_generator
from stylegan2.generator import SynthesisNetwork, set_precision

CONFIG = {"z_dim": 8, "w_dim": 8, "img_resolution": 32, "channel_base": 256, "channel_max": 16}


def make_pair(**changes: object) -> tuple[Generator, Generator]:
    """The same generator, trainable and frozen, with noise and biases."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(**{**CONFIG, "mapping_layers": 2, **changes})).eval()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength") or (name.endswith("bias") and "affine" not in name):
                parameter.normal_(std=0.3)
    return generator, copy.deepcopy(generator).requires_grad_(False)


def network(generator: Generator) -> SynthesisNetwork:
    assert isinstance(generator.synthesis, SynthesisNetwork)
    return generator.synthesis


def make_ws(generator: Generator, count: int) -> torch.Tensor:
    return torch.randn(count, generator.num_ws, generator.config.w_dim)


def gradient(generator: Generator, ws: torch.Tensor, noise_mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)  # of random noise; with some seeds a value lies at a kink, to rounding
    ws = ws.clone().requires_grad_(True)
    image = generator.synthesis(ws, noise_mode=noise_mode)
    weights = torch.linspace(-1, 1, image.numel()).reshape(image.shape)
    return image.detach(), torch.autograd.grad((image * weights).sum(), ws)[0]


@settings(max_examples=12)
@given(
    tile_bytes=st.sampled_from([1, 2**11, 2**14, 2**22]),
    count=st.integers(1, 3),
    clamp=st.sampled_from([None, 1.0]),
    noise_mode=st.sampled_from(["const", "random", "none"]),
)
def test_frozen_is_trainable(tile_bytes, count, clamp, noise_mode):
    trainable, frozen_one = make_pair(conv_clamp=clamp)
    ws = make_ws(trainable, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "TILE_BYTES", tile_bytes)
        expected, expected_grad = gradient(trainable, ws, noise_mode)
        image, grad = gradient(frozen_one, ws, noise_mode)
        torch.manual_seed(5)
        with torch.no_grad():
            plain = frozen_one.synthesis(ws, noise_mode=noise_mode)
    assert (image - expected).abs().max() < 1e-4 * expected.std()
    assert (plain - expected).abs().max() < 1e-4 * expected.std()
    assert (grad - expected_grad).abs().max() < 1e-4 * expected_grad.abs().max()


def test_the_fast_path_runs_only_with_frozen_weights():
    trainable, frozen_one = make_pair()
    ws = make_ws(trainable, 1)
    assert not frozen.can_run(network(trainable), ws)
    assert frozen.can_run(network(frozen_one), ws)
    assert not frozen.can_run(network(frozen_one.double()), ws)


@torch.no_grad()
def test_a_changed_weight_is_seen():
    _, generator = make_pair()
    ws = make_ws(generator, 1)
    before = generator.synthesis(ws)
    ready = frozen.prepared(network(generator))
    assert frozen.prepared(network(generator)) is ready
    generator.get_parameter("synthesis.b16.conv1.weight").mul_(torch.rand(16, 1, 1, 1))
    generator.get_buffer("synthesis.b8.conv0.noise_const").add_(1)
    changed = generator.synthesis(ws)
    assert not torch.allclose(before, changed)
    torch.testing.assert_close(changed, copy.deepcopy(generator).requires_grad_(True).synthesis(ws))


def test_what_inference_mode_prepared_serves_gradients():
    trainable, generator = make_pair()
    ws = make_ws(generator, 1)
    with torch.inference_mode():
        generator.synthesis(ws)
    _, grad = gradient(generator, ws, "const")
    torch.testing.assert_close(grad, gradient(trainable, ws, "const")[1], rtol=1e-3, atol=1e-3)


def test_frozen_weights_keep_no_graph():
    _, generator = make_pair()
    assert not generator.synthesis(make_ws(generator, 1)).requires_grad


@torch.no_grad()
def test_export_sees_ordinary_operations():
    _, generator = make_pair()
    ws = make_ws(generator, 1)
    program = torch.export.export(generator.synthesis, (ws,))
    torch.testing.assert_close(program.module()(ws), generator.synthesis(ws), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bf16_stays_near_float32_on_trained_weights():
    generator = load_generator(bundled_models()["avatars"] / "generator.safetensors")
    z = torch.randn(8, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    ws = generator.mapping(z, truncation_psi=0.7)
    expected = generator.synthesis(ws)
    set_precision(generator, "bf16")
    error = (generator.synthesis(ws) - expected).square().mean()
    assert 10 * torch.log10(4 / error) > 40
    set_precision(generator, "fp32")
    assert torch.equal(generator.synthesis(ws), expected)


def test_autocast_asks_for_16_bit():
    _, generator = make_pair()
    ws = make_ws(generator, 2).requires_grad_(True)
    exact = generator.synthesis(ws)
    with torch.autocast("cpu", torch.bfloat16):
        image = generator.synthesis(ws)
    assert image.dtype == torch.float32
    assert not torch.equal(image, exact)
    (grad,) = torch.autograd.grad(image.square().sum(), ws)
    (expected,) = torch.autograd.grad(exact.square().sum(), ws)
    assert torch.nn.functional.cosine_similarity(grad.flatten(), expected.flatten(), dim=0) > 0.98


def test_precisions_are_named():
    _, generator = make_pair()
    with pytest.raises(ValueError, match="unknown precision 'int8'; choose one of auto, fp32, bf16, fp16"):
        set_precision(generator, "int8")

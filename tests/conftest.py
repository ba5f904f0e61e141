"""A tiny random model: every part real, none of them trained."""

from collections.abc import Callable
from collections.abc import Generator as Generating
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL import Image

from clip2gan.bundle import BundleInfo, write_bundle
from clip2gan.clip import ClipEncoder, save_local_dir
from clip2gan.domain import Domain
from clip2gan.gap import fit_gap
from clip2gan.mappers import new_mapper
from clip2gan.model import Model, load
from stylegan2 import Generator, GeneratorConfig

# A busy machine is no failure.
settings.register_profile("clip2gan", deadline=None)
settings.load_profile("clip2gan")
# Threads gain nothing on tensors this small, and wait long for each other on a busy machine.
torch.set_num_threads(1)

CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESSING = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return make_clip(tmp_path_factory.mktemp("clip"))


def make_clip(folder: Path) -> ClipEncoder:
    """A random CLIP in a local-dir folder: 16 dimensions, 32 px, 16 tokens."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP_CONFIG)
    save_local_dir(model, CLIP_CONFIG, PREPROCESSING, folder, dtype=torch.float32)
    return ClipEncoder.load(f"local-dir:{folder}")


def make_generator(resolution: int = 32, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    config = GeneratorConfig(
        z_dim=8, w_dim=8, img_resolution=resolution, channel_base=256, channel_max=16, mapping_layers=2
    )
    generator = Generator(config).eval().requires_grad_(False)
    generator.mapping.w_avg.normal_()
    return generator


def make_bundle(
    path: Path, clip: ClipEncoder, gap: str = "knn", domain: Domain | None = None, **mapper_settings: object
) -> Path:
    generator = make_generator()
    torch.manual_seed(1)
    settings = {"embed_dim": clip.embed_dim, "num_ws": generator.num_ws, "w_dim": 8, "layers": 3, "width": 16}
    mapper = new_mapper("mlp", {**settings, **mapper_settings}).eval().requires_grad_(False)
    images, texts = torch.nn.functional.normalize(torch.randn(2, 64, clip.embed_dim), dim=-1)
    info = BundleInfo(
        name="tiny",
        description="Random weights.",
        domain=domain,
        licences={"generator": "MIT", "clip": "MIT", "mapper": "MIT"},
        figures=({"what": "accuracy", "value": "none", "command": "true"},),
    )
    write_bundle(
        path, generator, clip, {"mlp": mapper}, fit_gap(gap, images, texts, clip.logit_scale), info=info
    )
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_clip: ClipEncoder) -> Path:
    """The folder of a whole random model. Never change it: copy it."""
    return make_bundle(tmp_path_factory.mktemp("models") / "tiny", tiny_clip)


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> Model:
    return load(str(tiny_bundle), device="cpu")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture file: 40x32, a gradient."""
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(path)
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: run("generate", "--text", "x") -> (exit code, stdout, stderr)."""
    from clip2gan.cli import main

    def call(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        code = exit_info.value.code
        assert isinstance(code, int)
        return code, out, err

    return call


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generating[None, pytest.TestReport, pytest.TestReport]:
    """Several processes send what was captured as UTF-8, which names that are not cannot be."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report

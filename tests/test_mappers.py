"""Mappers: shapes, what `sample` promises, files."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clip2gan.mappers import Mapper, load_mapper, new_mapper, save_mapper
from clip2gan.mappers.diffusion import SAMPLERS, schedule
from clip2gan.mappers.flow import FlowMapper
from clip2gan.mappers.mlp import MlpMapper
from stylegan2.files import load_tensors, save_tensors

SIZES = {"embed_dim": 6, "num_ws": 5, "w_dim": 4}


def unit(rows: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)


SMALL: dict[str, dict[str, object]] = {
    "mlp": {"layers": 4, "width": 16},
    "flow": {"steps": 3, "width": 16, "condition": 8},
    "diffusion": {"width": 16, "blocks": 2},
}


def mapper(kind: str = "mlp", **changes: object) -> Mapper:
    made = new_mapper(kind, {**SIZES, **SMALL[kind], **changes})
    made.init_weights(torch.Generator().manual_seed(0))
    made.fit_statistics(unit(50), 3 + 2 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1)))
    return made.eval().requires_grad_(False)


def test_the_papers_network_has_twelve_layers():
    paper = new_mapper("mlp", {"embed_dim": 512, "num_ws": 18, "w_dim": 512, "residual": False})
    assert isinstance(paper, MlpMapper)
    assert len(paper.layers) == 12
    assert paper(F.normalize(torch.randn(2, 512), dim=-1)).shape == (2, 18, 512)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_ws_are_equal_in_w_and_differ_in_w_plus(space: str):
    ws = mapper(space=space)(unit(3))
    assert ws.shape == (3, 5, 4)
    assert torch.equal(ws[:, 0], ws[:, 1]) == (space == "w")


@pytest.mark.parametrize("kind", SMALL)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), num=st.integers(1, 4))
def test_samples_do_not_depend_on_the_batch(kind: str, seed: int, rows: int, num: int):
    made = learned(mapper(kind), steps=1)
    e = unit(4)
    samples = made.sample(e[:rows], num, torch.Generator().manual_seed(seed))
    assert samples.shape == (rows, num, 5, 4)
    alone = made.sample(e[:1], 1, torch.Generator().manual_seed(seed))
    assert torch.allclose(samples[:1, :1], alone, atol=1e-4)


def test_samples_scatter_as_far_as_sigma_says():
    e = unit(1)
    spreads = [
        mapper(sample_sigma=sigma).sample(e, 64, torch.Generator().manual_seed(0)).std(dim=1).mean().item()
        for sigma in (0.0, 0.1, 0.6)
    ]
    assert spreads[0] < 1e-5
    assert spreads[0] < spreads[1] < spreads[2]
    same = mapper(sample_sigma=0.0).sample(e, 2, torch.Generator())[0]
    assert torch.allclose(same, mapper()(e).expand(2, -1, -1), atol=1e-5)


def test_latents_are_fitted_in_units_of_their_spread():
    made = mapper()
    e, w = unit(50), 3 + 2 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    standard = made.standardise_w(w)
    assert torch.allclose(standard.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(standard.std(0, correction=0), torch.ones(4), atol=1e-5)
    assert torch.allclose(made.restore_w(standard), w, atol=1e-5)
    expected = (made.standardise_w(made(e)) - standard[:, None]).square().mean()
    assert torch.allclose(made.loss(e, w, made.loss_noise(len(e), torch.Generator())), expected, rtol=1e-4)


def learned(made: Mapper, steps: int, rate: float = 2e-3, spread: float = 0.0) -> Mapper:
    """A mapper after some steps on 64 embeddings and their latents, two alternatives each if `spread`."""
    made.train().requires_grad_(True)
    e = unit(64)
    w = torch.tanh(e @ torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))
    made.fit_statistics(torch.cat([e, e]), torch.cat([w - spread, w + spread]))
    optimizer = torch.optim.Adam(made.parameters(), rate)
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        signs = torch.randint(0, 2, (64, 1), generator=random) * 2 - 1
        loss = made.loss(e, w + spread * signs, made.loss_noise(len(e), random))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 12, "width": 32},
        {"layers": 12, "width": 32, "residual": False},
        {"kind": "flow"},
        {"kind": "diffusion", "width": 64, "guidance": 1.0},
    ],
    ids=str,
)
def test_the_objective_can_be_learned(changes: dict):
    made = learned(mapper(**changes), 400)
    e = unit(64)
    w = torch.tanh(e @ torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))
    assert (made(e)[:, 0] - w).square().mean() < 0.15 * w.var()


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_samples_are_alternatives_and_no_mixtures(kind: str):
    """Where an embedding has two latents, far apart, half of the samples lie at each."""
    changes = (
        {"temperature": 1.0, "steps": 6, "width": 32} if kind == "flow" else {"width": 64, "guidance": 1.0}
    )
    made = learned(mapper(kind, **changes), 600, rate=5e-3, spread=3.0)
    e = unit(64)[:8]
    middle = torch.tanh(e @ torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))
    offsets = made.sample(e, 100, torch.Generator().manual_seed(0))[:, :, 0] - middle[:, None]
    side = offsets.mean(2) / 3  # -1 and 1 are the alternatives
    assert (side.abs() > 0.5).float().mean() > 0.75  # 0.62, were they normal
    assert 0.35 < (side > 0).float().mean() < 0.65


def test_a_flows_likelihood_is_a_density():
    torch.manual_seed(0)
    made = new_mapper("flow", {"embed_dim": 3, "num_ws": 2, "w_dim": 2, "steps": 3, "width": 16})
    assert isinstance(made, FlowMapper)
    made.init_weights(torch.Generator().manual_seed(0))
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    made.fit_statistics(F.normalize(torch.randn(50, 3), dim=-1), 2 * torch.randn(50, 2) + 1)
    axis = torch.linspace(-80, 80, 700)
    grid = torch.cartesian_prod(axis, axis)
    e = F.normalize(torch.ones(1, 3), dim=-1)
    with torch.no_grad():
        density = made.eval().log_prob(grid, e.expand(len(grid), -1)).exp()
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=0.01)


def test_a_direct_flow_can_be_taken_back():
    sizes = {"embed_dim": 6, "num_ws": 5, "w_dim": 6, "steps": 3, "width": 32}
    made = new_mapper("flow", {**sizes, "reading": "direct"})
    assert isinstance(made, FlowMapper)
    made.init_weights(torch.Generator().manual_seed(0))
    e, rotation = unit(64), torch.linalg.qr(torch.randn(6, 6))[0]
    w = e @ rotation + 2
    made.fit_statistics(e, w)
    optimizer = torch.optim.Adam(made.parameters(), 2e-3)
    for _ in range(300):
        optimizer.zero_grad()
        made.loss(e, w, made.loss_noise(len(e), torch.Generator())).backward()
        optimizer.step()
    made.eval().requires_grad_(False)
    assert (made(e)[:, 0] - w).square().mean() < 0.1 * w.var()
    assert torch.allclose(made.invert(made(e)), e, atol=1e-3)
    with pytest.raises(ValueError, match="a direct flow has no likelihood"):
        made.log_prob(w, e)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_draw_what_a_perfect_guess_says(name: str):
    """Data of mean 2 and deviation 0.5, whose best guess is known exactly."""

    def guess(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = schedule(t)
        gain = 0.25 * alpha / (0.25 * alpha**2 + sigma**2)
        return 2 + gain * (x - alpha * 2)

    noise = torch.randn(4000, 100, 1, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(0.995, 0, 101).tolist()
    drawn = SAMPLERS[name](guess, noise[:, 0], times, noise[:, 1:])
    assert drawn.mean() == pytest.approx(2, abs=0.03)
    assert drawn.std() == pytest.approx(0.5, abs=0.06)


def test_guidance_says_the_embedding_more_clearly():
    made = learned(mapper("diffusion", width=64), 600)
    e = unit(64)
    w = torch.tanh(e @ torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))
    lengths = []
    for guidance in (0.0, 1.0, 3.0):
        made.config = dataclasses.replace(made.config, guidance=guidance)
        lengths.append(((made(e)[:, 0] - w.mean(0)) * (w - w.mean(0))).mean().item())
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("kind", SMALL)
def test_a_mapper_comes_back_from_its_file(kind: str, tmp_path: Path):
    made = learned(mapper(kind), steps=20)
    save_mapper(made, tmp_path / "m.safetensors")
    loaded = load_mapper(tmp_path / "m.safetensors")
    assert loaded.config == made.config
    assert torch.equal(loaded(unit(3)), made(unit(3)))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())

    save_mapper(made.half(), tmp_path / "half.safetensors")
    half = load_mapper(tmp_path / "half.safetensors")
    assert half(unit(3)).dtype == torch.float32
    assert torch.allclose(half(unit(3)), loaded(unit(3)), atol=2e-2)


def test_errors_name_what_is_wrong(tmp_path: Path):
    with pytest.raises(ValueError, match="unknown mapper 'foo'; choose from mlp, flow, diffusion"):
        new_mapper("foo", SIZES)
    with pytest.raises(ValueError, match="mapper 'mlp' has no setting 'depth'; it has embed_dim"):
        new_mapper("mlp", {**SIZES, "depth": 2})
    with pytest.raises(ValueError, match="mapper 'mlp': width must be int, got 'wide'"):
        new_mapper("mlp", {**SIZES, "width": "wide"})
    with pytest.raises(ValueError, match=r"mapper space 'z' is not known; choose w or w\+"):
        new_mapper("mlp", {**SIZES, "space": "z"})
    with pytest.raises(ValueError, match="layers and width must be 1 or more, got 0"):
        new_mapper("mlp", {**SIZES, "layers": 0})
    with pytest.raises(
        ValueError, match="a direct flow needs embeddings and latents of one length, not 6 and 4"
    ):
        new_mapper("flow", {**SIZES, "reading": "direct"})
    with pytest.raises(ValueError, match="unknown sampler 'euler'; choose from ddim, ddpm, dpmpp-2m"):
        new_mapper("diffusion", {**SIZES, "sampler": "euler"})

    path = tmp_path / "m.safetensors"
    save_mapper(mapper(), path)
    tensors, config = load_tensors(path)
    save_tensors(path, {**tensors, "extra": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match=r"m\.safetensors: .*unexpected extra"):
        load_mapper(path)
    save_tensors(path, tensors, {**config, "width": 17})
    with pytest.raises(ValueError, match=r"m\.safetensors: .*expected \[17"):
        load_mapper(path)
    save_tensors(path, tensors, {"kind": "mlp"})
    with pytest.raises(ValueError, match=r"m\.safetensors: its header does not describe a mapper"):
        load_mapper(path)

"""Mappers: shapes, what `sample` promises, files."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clip2gan.mappers import Mapper, load_mapper, new_mapper, save_mapper
from clip2gan.mappers.mlp import MlpMapper
from stylegan2.files import load_tensors, save_tensors

SIZES = {"embed_dim": 6, "num_ws": 5, "w_dim": 4}


def unit(rows: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)


def mapper(**changes: object) -> Mapper:
    made = new_mapper("mlp", {**SIZES, "layers": 4, "width": 16, **changes})
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


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), num=st.integers(1, 4))
def test_samples_do_not_depend_on_the_batch(seed: int, rows: int, num: int):
    made = mapper()
    e = unit(4)
    samples = made.sample(e[:rows], num, torch.Generator().manual_seed(seed))
    assert samples.shape == (rows, num, 5, 4)
    alone = made.sample(e[:1], 1, torch.Generator().manual_seed(seed))
    assert torch.allclose(samples[:1, :1], alone, atol=1e-5)


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
    assert torch.allclose(made.loss(e, w, torch.Generator()), expected, rtol=1e-4)


@pytest.mark.parametrize("residual", [True, False])
def test_the_objective_can_be_learned(residual: bool):
    made = mapper(residual=residual, layers=12, width=32).requires_grad_(True)
    e = unit(64)
    w = torch.tanh(e @ torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))
    made.fit_statistics(e, w)
    optimizer = torch.optim.Adam(made.parameters(), 2e-3)
    start = loss = made.loss(e, w, torch.Generator())
    for _ in range(100):
        loss = made.loss(e, w, torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 < start


def test_a_mapper_comes_back_from_its_file(tmp_path: Path):
    made = mapper(space="w", sample_sigma=0.3)
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
    with pytest.raises(ValueError, match="unknown mapper 'foo'; choose from mlp"):
        new_mapper("foo", SIZES)
    with pytest.raises(ValueError, match="mapper 'mlp' has no setting 'depth'; it has embed_dim"):
        new_mapper("mlp", {**SIZES, "depth": 2})
    with pytest.raises(ValueError, match="mapper 'mlp': width must be int, got 'wide'"):
        new_mapper("mlp", {**SIZES, "width": "wide"})
    with pytest.raises(ValueError, match=r"mapper space 'z' is not known; choose w or w\+"):
        new_mapper("mlp", {**SIZES, "space": "z"})
    with pytest.raises(ValueError, match="layers and width must be 1 or more, got 0"):
        new_mapper("mlp", {**SIZES, "layers": 0})

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

"""The modality gap's remedies."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clip2gan.gap import (
    KINDS,
    Gap,
    Knn,
    MeanShift,
    Noise,
    Posterior,
    farthest_points,
    fit_gap,
    gap_figures,
    load_gap,
    save_gap,
)

D = 12


def two_cones(seed: int = 0, pictures: int = 200, texts: int = 40) -> tuple[Tensor, Tensor]:
    """Unit embeddings in two narrow cones apart from each other, as CLIP's are."""
    random = torch.Generator().manual_seed(seed)
    centres = 3 * F.normalize(torch.randn(2, D, generator=random), dim=-1)
    image = F.normalize(centres[0] + torch.randn(pictures, D, generator=random), dim=-1)
    text = F.normalize(centres[1] + torch.randn(texts, D, generator=random), dim=-1)
    return image, text


IMAGE, TEXT = two_cones()


def fitted(kind: str, noise: Noise | None = None) -> Gap:
    return fit_gap(kind, IMAGE, TEXT, 40.0, noise)


kinds = st.sampled_from(list(KINDS))
seeds = st.integers(0, 2**31)


@settings(deadline=None, max_examples=40)
@given(kind=kinds, seed=seeds, rows=st.integers(1, 4), num=st.integers(1, 5))
def test_answers_have_unit_length_and_do_not_depend_on_the_batch(kind: str, seed: int, rows: int, num: int):
    gap = fitted(kind)
    answers = gap.to_image(TEXT[:rows], num, torch.Generator().manual_seed(seed))
    assert answers.shape == (rows, num, D)
    assert torch.allclose(answers.norm(dim=-1), torch.ones(rows, num), atol=1e-5)
    first = gap.to_image(TEXT[:1], 1, torch.Generator().manual_seed(seed))
    assert torch.allclose(answers[:1, :1], first, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(noise=st.sampled_from(["unit", "gauss"]), scale=st.floats(0, 3), seed=seeds)
def test_noise_keeps_unit_length_and_comes_from_the_generator(noise: str, scale: float, seed: int):
    gap = fitted("none", Noise(noise, scale))
    noisy = gap.train(IMAGE, torch.Generator().manual_seed(seed))
    assert torch.allclose(noisy.norm(dim=-1), torch.ones(len(IMAGE)), atol=1e-5)
    assert torch.equal(noisy, gap.train(IMAGE, torch.Generator().manual_seed(seed)))


def test_noise_has_the_published_strength():
    e = F.normalize(torch.randn(4000, 512, generator=torch.Generator().manual_seed(0)), dim=-1)

    def cosine(noise: Noise) -> float:
        return (e * noise(e, torch.Generator().manual_seed(1))).sum(-1).mean().item()

    assert cosine(Noise("unit", 0.0)) == pytest.approx(1.0)
    assert cosine(Noise("unit", 1.0)) == pytest.approx(0.71, abs=0.01)  # clip2latent
    assert cosine(Noise("gauss", 0.016**0.5)) == pytest.approx(0.33, abs=0.01)  # CapDec
    # CLIP2GAN's, as factors: e times 1 + 0.6 n is 0.6 |e| away from e, across it.
    assert cosine(Noise("gauss", 0.6, 1.0, "mul")) == pytest.approx(1 / (1 + 0.36) ** 0.5, abs=0.01)
    assert cosine(Noise("gauss", 0.0, 512**-0.5)) == pytest.approx(0.71, abs=0.01)  # a constant vector


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "uniform"}, "unknown noise 'uniform'; choose unit or gauss"),
        ({"mode": "both"}, "unknown noise mode 'both'; choose add or mul"),
        ({"kind": "unit", "mean": 1.0}, "noise of kind unit is added and has no mean; choose gauss"),
        ({"kind": "gauss", "mode": "mul"}, "leaves nothing; set noise.mean=1"),
    ],
)
def test_noise_that_makes_no_sense_is_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Noise(**settings)


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_mean_shift_lays_the_means_onto_each_other(seed: int):
    image, text = two_cones(seed)
    gap = fit_gap("shift", image, text, 40.0)
    shifted = gap.to_image(text, 1, torch.Generator())[:, 0]
    before = (image.mean(0) - text.mean(0)).norm()
    after = (image.mean(0) - shifted.mean(0)).norm()
    assert after < 0.1
    assert after < before / 5


def test_collapse_takes_each_modalitys_mean_away():
    gap = fitted("collapse")
    given_texts = gap.to_image(TEXT, 1, torch.Generator())[:, 0]
    given_images = gap.from_image(IMAGE)
    assert (given_texts.mean(0) - given_images.mean(0)).norm() < 0.1 * (TEXT.mean(0) - IMAGE.mean(0)).norm()
    assert torch.allclose(gap.train(IMAGE, torch.Generator()), given_images, atol=1e-6)

    noisy = fitted("c3").train(IMAGE, torch.Generator().manual_seed(0))
    assert torch.allclose(noisy.norm(dim=-1), torch.ones(len(IMAGE)), atol=1e-5)
    assert 0.5 < (noisy * given_images).sum(-1).mean() < 0.95  # 0.1265 in each of 12 dimensions


def test_whitening_gives_texts_the_pictures_mean_and_covariance():
    random = torch.Generator().manual_seed(0)
    stretch = torch.diag(torch.linspace(0.02, 0.1, D))
    image = F.normalize(torch.eye(D)[0] + torch.randn(4000, D, generator=random) @ stretch, dim=-1)
    text = F.normalize(torch.eye(D)[1] + 0.05 * torch.randn(4000, D, generator=random), dim=-1)
    given = fit_gap("whiten", image, text, 40.0).center(text)
    assert (given.mean(0) - image.mean(0)).norm() < 0.02
    assert (torch.cov(given.T) - torch.cov(image.T)).norm() < 0.1 * torch.cov(image.T).norm()
    assert (torch.cov(text.T) - torch.cov(image.T)).norm() > 0.3 * torch.cov(image.T).norm()


def test_memory_gives_the_pictures_that_the_text_is_nearest_to():
    gap = fitted("memory")
    assert torch.allclose(gap.center(IMAGE[:5]), IMAGE[:5], atol=0.05)
    mild = dataclasses.replace(gap, sharpness=0.0)
    assert torch.allclose(
        mild.center(TEXT), F.normalize(IMAGE.mean(0), dim=0).expand(len(TEXT), -1), atol=1e-3
    )


def test_figures_of_the_gap_before_and_after():
    figures = gap_figures(fitted("shift"), IMAGE, TEXT)
    assert figures["gap_before"] == pytest.approx(float((IMAGE.mean(0) - TEXT.mean(0)).norm()), rel=1e-5)
    assert figures["gap_after"] < 0.1 * figures["gap_before"]
    assert figures["near_after"] > figures["near_before"]
    same = gap_figures(fitted("none"), IMAGE, TEXT)
    assert same["gap_after"] == same["gap_before"] == figures["gap_before"]


def test_no_remedy_is_the_text_itself():
    assert torch.equal(fitted("none").to_image(TEXT, 2, torch.Generator())[:, 1], TEXT)


def test_knn_mixes_pictures_near_the_text():
    gap = fitted("knn")
    assert isinstance(gap, Knn)
    answers = gap.to_image(TEXT[:1], 500, torch.Generator().manual_seed(0))[0]
    near = (gap.shifted(TEXT[:1]) @ gap.memory.float().T)[0].topk(gap.nearest).indices
    corners = gap.memory[near].float()[farthest_points(gap.memory[near].float(), gap.spread)]
    # Each is a positive combination of the corners: their cone contains it.
    weights = torch.linalg.lstsq(corners.T, answers.T).solution
    assert torch.allclose(corners.T @ weights, answers.T, atol=1e-4)
    assert weights.min() > -1e-3
    # Dirichlet(1/2) weights are mostly near a corner: with none of them twice, answers differ.
    assert torch.unique(answers, dim=0).shape[0] == 500


def test_farthest_points():
    line = torch.tensor([[0.0], [1.0], [10.0], [6.0], [0.1]])
    assert farthest_points(line, 4).tolist() == [0, 2, 3, 1]
    assert farthest_points(line, 9).tolist() == [0, 2, 3, 1, 4]


FREE = -100.0  # a guidance that moves nothing


def posterior(**changes: float) -> Posterior:
    gap = fitted("posterior")
    assert isinstance(gap, Posterior)
    return dataclasses.replace(gap, **{"spread": 1.0, **changes})


def test_posterior_draws_remembered_pictures_as_often_as_clip_says():
    gap = posterior(sharpness=10.0, guidance=FREE)
    answers = gap.to_image(TEXT[:1], 20000, torch.Generator().manual_seed(0))[0]
    memory = F.normalize(gap.memory.float(), dim=-1)
    similarity, drawn = (answers @ memory.T).max(1)
    assert similarity.min() > 0.999
    shares = drawn.bincount(minlength=len(memory)) / len(drawn)
    probabilities = (10 * gap.memory.float() @ TEXT[0]).softmax(0)
    assert (shares - probabilities).abs().max() < 0.01


@settings(deadline=None, max_examples=20)
@given(seed=seeds, guidance=st.floats(0, 4))
def test_guidance_moves_no_farther_than_it_must(seed: int, guidance: float):
    text, free = TEXT[:1], posterior(sharpness=20.0, guidance=FREE)
    guided = dataclasses.replace(free, guidance=guidance)
    memory = free.memory.float()
    direction = (20 * text @ memory.T).softmax(1)[0] @ memory - free.mean_image
    level = guidance * direction.norm()
    direction = F.normalize(direction, dim=-1)
    before, after = (gap.to_image(text, 30, torch.Generator().manual_seed(seed))[0] for gap in (free, guided))
    for picture, moved in zip(before, after, strict=True):
        distance = (level - (picture - free.mean_image) @ direction).clamp(min=0)
        assert torch.allclose(moved, F.normalize(picture + distance * direction, dim=-1), atol=2e-3)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, spread=st.floats(0, 1))
def test_spread_pulls_answers_to_their_mean(seed: int, spread: float):
    text = TEXT[:1]
    near, far = (
        posterior(spread=each, guidance=FREE).to_image(text, 50, torch.Generator().manual_seed(seed))[0]
        for each in (spread, 1.0)
    )
    center = posterior().center(text)
    assert (near @ center.T >= far @ center.T - 1e-4).all()
    if spread == 0:
        assert torch.allclose(near, center.expand(50, -1), atol=1e-5)


def test_a_sharp_posterior_is_the_nearest_picture():
    gap = posterior(sharpness=1e8, guidance=FREE)
    nearest = F.normalize(gap.memory.float()[(TEXT @ gap.memory.float().T).argmax(1)], dim=-1)
    assert torch.allclose(gap.to_image(TEXT, 1, torch.Generator())[:, 0], nearest, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_center_is_near_to_what_is_drawn(kind: str):
    gap = fitted(kind)
    answers = gap.to_image(TEXT, 64, torch.Generator().manual_seed(0))
    center = gap.center(TEXT)
    assert torch.allclose(center.norm(dim=-1), torch.ones(len(TEXT)), atol=1e-5)
    assert (F.normalize(answers.mean(1), dim=-1) * center).sum(1).min() > 0.8


def linear(e: Tensor) -> Tensor:
    """A mapper [N, D] -> [N, 3, D]."""
    return torch.stack([e, 2 * e, 1 - e], dim=1)


@pytest.mark.parametrize("kind", ["none", "shift", "knn"])
def test_editing_maps_the_center(kind: str):
    gap = fitted(kind)
    assert torch.equal(gap.map_text(TEXT, linear), linear(gap.center(TEXT)))


def test_editing_averages_what_the_described_pictures_are_mapped_to():
    gap = posterior(edit_sharpness=1e8, edit_guidance=1.0)
    nearest = gap.memory.float()[(TEXT @ gap.memory.float().T).argmax(1)]
    assert torch.allclose(gap.map_text(TEXT, linear), linear(nearest), atol=1e-3)
    # Half way to the mean of all pictures.
    half = dataclasses.replace(gap, edit_guidance=0.5).map_text(TEXT, linear)
    mean = linear(gap.memory.float()).mean(0)
    assert torch.allclose(half, (linear(nearest) + mean) / 2, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gap_comes_back_from_its_file(kind: str, tmp_path: Path):
    gap = fitted(kind, Noise("gauss", 0.25))
    if isinstance(gap, Knn):
        gap.spread = 4
    save_gap(gap, tmp_path / "gap.safetensors")
    loaded = load_gap(tmp_path / "gap.safetensors")
    assert type(loaded) is type(gap)
    assert loaded.noise == gap.noise
    answers = [each.to_image(TEXT[:3], 2, torch.Generator().manual_seed(1)) for each in (gap, loaded)]
    assert torch.equal(*answers)


def test_errors_name_what_is_wrong(tmp_path: Path):
    with pytest.raises(
        ValueError,
        match="unknown gap 'foo'; choose from none, shift, collapse, c3, whiten, memory, knn, posterior",
    ):
        fit_gap("foo", IMAGE, TEXT, 40.0)
    from stylegan2.files import save_tensors

    for config, tensors, message in [
        ({"kind": "foo"}, {}, "unknown gap 'foo'"),
        ({"kind": "shift"}, {}, "does not hold a gap of kind 'shift'"),
        ({"kind": "none", "noise": {"kind": "x"}}, {}, "unknown noise 'x'"),
    ]:
        save_tensors(tmp_path / "gap.safetensors", tensors, config)
        with pytest.raises(ValueError, match=message) as error:
            load_gap(tmp_path / "gap.safetensors")
        assert "gap.safetensors" in str(error.value)


def test_fitting_remembers_a_limited_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("clip2gan.gap.MEMORY_SIZE", 50)
    gap = fitted("knn")
    assert isinstance(gap, Knn)
    assert gap.memory.shape == (50, D)
    assert torch.allclose(gap.mean_image, IMAGE.mean(0))
    assert isinstance(gap, MeanShift)

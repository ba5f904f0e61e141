"""Losses between pictures, embeddings and features."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_generator

from clip2gan.clip import ClipEncoder
from clip2gan.losses import cosine_distance, diversity_ratio, feature_distance, pixel_l1, pixel_l2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_pixel_losses_on_known_pictures():
    x, y = torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.5)
    assert pixel_l1(x, y).item() == pytest.approx(0.5)
    assert pixel_l2(x, y).item() == pytest.approx(0.25)
    # A chequerboard vanishes when it is shrunk: only the first scale of four sees it.
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert pixel_l1(x, board.expand(2, 3, 16, 16)).item() == pytest.approx(0.25)


def test_feature_distance_does_not_see_the_length_of_features():
    a, b = (
        [random(2, 8, 4, 4), random(2, 16, 2, 2, seed=1)],
        [random(2, 8, 4, 4, seed=2), random(2, 16, 2, 2, seed=3)],
    )
    distance = feature_distance(a, b)
    assert torch.allclose(distance, feature_distance([3 * each for each in a], b), atol=1e-5)
    assert feature_distance(a, a).item() == pytest.approx(0, abs=1e-6)
    assert feature_distance(a, [-each for each in a]).item() == pytest.approx(4, abs=1e-5)
    with pytest.raises(ValueError, match="shorter"):
        feature_distance(a, b[:1])


def test_cosine_distance():
    e = F.normalize(random(5, 8), dim=-1)
    assert cosine_distance(e, e).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(e, -e).item() == pytest.approx(2, abs=1e-6)


def test_diversity_is_better_when_pictures_change_more():
    e, e_near, x = random(4, 8), random(4, 8, seed=1), torch.zeros(4, 3, 8, 8)
    small, large = diversity_ratio(e, e_near, x, x + 0.1), diversity_ratio(e, e_near, x, x + 1)
    assert large < small
    assert small.item() == pytest.approx((e - e_near).abs().mean().item() / 0.1, rel=0.02)
    assert torch.isfinite(diversity_ratio(e, e_near, x, x))


def test_clips_features_pull_a_picture_to_its_target(tiny_clip: ClipEncoder):
    generator = make_generator()
    target, start = generator.synthesis(random(2, 1, generator.num_ws, 8)[:, 0]).chunk(2)
    picture = start.clone().requires_grad_()
    features = tiny_clip.image_features(target)
    before = feature_distance(tiny_clip.image_features(picture), features)
    (gradient,) = torch.autograd.grad(before, picture)
    after = feature_distance(
        tiny_clip.image_features(start - 1e-2 * gradient / gradient.abs().max()), features
    )
    assert after < before

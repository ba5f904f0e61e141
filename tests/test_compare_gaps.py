"""How much of the modality gap a remedy closes."""

import pytest

from clip2gan.gap import NoGap
from clip2gan.model import load
from tools.compare_gaps import Pairs, own_bounds, own_cosine


def test_pictures_own_embeddings_give_them_back_better_than_captions_do():
    model = load("avatars", device="cpu")
    texts = ["a smiling face with sunglasses", "an old man with a grey beard", "long red hair"]
    pictures = [model.generate(text)[0] for text in texts]
    own = model.gap
    pairs = Pairs(model.clip.encode_images(pictures), model.clip.encode_texts(texts))
    none, ceiling = own_bounds(model, pairs, truncation=1.0)
    assert none < own_cosine(model, own, pairs, truncation=1.0) < ceiling <= 1
    # The mean latent is all that is left of a caption, and of a picture, at truncation 0.
    average = model.clip.encode_images([model.synthesize(model.w_avg.expand(1, model.generator.num_ws, -1))])
    expected = (pairs.images @ average.T).mean().item()
    assert own_bounds(model, pairs, truncation=0.0) == pytest.approx((expected, expected), abs=1e-3)
    shuffled = Pairs(pairs.images.roll(1, 0), pairs.texts)
    assert own_cosine(model, NoGap(), shuffled, truncation=1.0) < none

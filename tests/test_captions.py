import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip2gan.domains.avatars.vocabulary import groups, matches, visible
from tools import domain
from tools.captions import MAX_ATTRIBUTES, Caption, open_grammar

caption = open_grammar("avatars").caption

avatars = st.fixed_dictionaries({name: st.sampled_from(group.values) for name, group in groups().items()})
seeds = st.integers(0, 2**32 - 1)


def captions(
    num: int, seed: int = 0, num_attributes: int | None = None
) -> list[tuple[dict[str, str], Caption]]:
    rng = np.random.default_rng(seed)
    drawn = [domain.sample_attributes(rng) for _ in range(num)]
    return [(attributes, caption(attributes, rng, num_attributes)) for attributes in drawn]


@given(avatars, seeds, st.none() | st.integers(1, MAX_ATTRIBUTES))
def test_captions_are_true_and_well_formed(attributes, seed, num_attributes):
    made = caption(attributes, np.random.default_rng(seed), num_attributes)
    assert matches(made.claims, attributes)
    assert 1 <= len(made.claims) <= MAX_ATTRIBUTES
    if num_attributes:
        assert len(made.claims) == num_attributes
    for group, values in made.claims.items():
        assert set(values) < set(groups()[group].values)
    assert made.text == made.text.strip()
    assert 3 <= len(made.text) <= 400
    assert not any(mark in made.text for mark in ("{", "}", "|", "  ", " ,", " .", "..", "a a ", "an an "))


@given(avatars, seeds)
def test_captions_depend_on_attributes_and_seed_alone(attributes, seed):
    first, second = (caption(attributes, np.random.default_rng(seed)) for _ in range(2))
    assert first == second


def test_captions_of_the_avatars_stay_the_same():
    """data/avatars.zip, on which the model in this repository was trained, is drawn again to the byte."""
    rng = np.random.default_rng(3)
    digest = hashlib.sha256()
    for i in range(3000):
        attributes = domain.sample_attributes(rng)
        made = caption(attributes, rng, (None, 1, 2, 3, 4, 5, 6)[i % 7])
        digest.update(json.dumps([made.text, made.claims]).encode())
    assert digest.hexdigest() == "2bf40f7f254eda2d568aebdcf98657047ef81b3923b2dbd766d4053931586f5d"


def test_number_of_attributes_is_checked():
    attributes = domain.sample_attributes(np.random.default_rng(0))
    for number in (0, MAX_ATTRIBUTES + 1):
        with pytest.raises(ValueError, match="num_attributes must be between 1 and 6"):
            caption(attributes, np.random.default_rng(0), number)


@pytest.fixture(scope="module")
def single_captions() -> list[Caption]:
    return [made for _, made in captions(25000, num_attributes=1)]


def test_every_value_is_claimed_alone_in_many_words(single_captions):
    wordings: dict[tuple[str, str], set[str]] = {}
    for made in single_captions:
        (group, values) = next(iter(made.claims.items()))
        if len(values) == 1:
            wordings.setdefault((group, values[0]), set()).add(made.text.lower().rstrip("."))
    for name, group in groups().items():
        for value in group.values:
            assert len(wordings[name, value]) > 60, (name, value)


def test_hidden_groups_are_never_claimed_and_do_not_match():
    for attributes, made in captions(3000):
        shown = visible(attributes)
        assert all(shown[group] for group in made.claims)
    bald = {**domain.sample_attributes(np.random.default_rng(0)), "hair": "bald", "facial_hair": "none"}
    assert not matches({"hair_color": (bald["hair_color"],)}, bald)


def test_colour_without_hair_is_named_with_the_beard():
    bald = {"hair": "bald", "facial_hair": "beard", "hair_color": "red"}
    base = domain.sample_attributes(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    named = [caption({**base, **bald}, rng, 5) for _ in range(300)]
    coloured = [made for made in named if "hair_color" in made.claims]
    assert coloured
    assert all(made.claims["facial_hair"] == ("beard",) for made in coloured)


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("no glasses", {"eyewear": ("none",)}),
        ("without sunglasses", {"eyewear": ("none", "glasses")}),
        ("clean-shaven", {"facial_hair": ("none",)}),
        ("not smiling", {"expression": ("sad", "serious", "surprised", "tongue")}),
        ("smiling", {"expression": ("smiling",)}),
        ("sunglasses", {"eyewear": ("sunglasses",)}),
        ("bald", {"hair": ("bald",)}),
        ("beard", {"facial_hair": ("beard",)}),
        ("dark hair", {"hair_color": ("black", "brown")}),
    ],
)
def test_plain_words_and_negations_occur_with_their_claims(single_captions, text, claims):
    found = [made.claims for made in single_captions if made.text.lower().strip(".") == text]
    assert found
    assert all(claim == claims for claim in found)


def test_captions_vary():
    texts = Counter(made.text for _, made in captions(5000))
    assert len(texts) > 4500
    words = Counter(word.strip(".,;").lower() for text in texts for word in text.split())
    assert len(words) > 700
    counts = Counter(len(made.claims) for _, made in captions(3000))
    assert set(counts) == set(range(1, MAX_ATTRIBUTES + 1))


def test_fillers_are_independent_of_the_attributes():
    rng = np.random.default_rng(5)
    base = domain.sample_attributes(rng)
    shares = []
    for value in ("none", "beard"):
        texts = [caption({**base, "facial_hair": value}, rng, 3).text.lower().split() for _ in range(3000)]
        shares.append(np.mean(["woman" in words or "she" in words or "girl" in words for words in texts]))
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
    assert shares[0] > 0.1


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"eyewear": ("none", "glasses")}, True),
        ({"eyewear": ("sunglasses",)}, False),
        ({"eyewear": ("glasses",), "skin": ("pale",)}, False),
        ({}, True),
        ({"eyewear": ["glasses"], "skin": ["pale", "light"]}, True),
    ],
)
def test_matches(claims, expected):
    attributes = {**domain.sample_attributes(np.random.default_rng(0)), "eyewear": "glasses", "skin": "light"}
    assert matches(claims, attributes) is expected

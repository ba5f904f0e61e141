"""The tools that find out what faces show: captions of people, labels, thresholds, the judge's prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip2gan.domains.faces.vocabulary import groups, matches, visible
from clip2gan.evaluation.judge import judged_prompts
from tools.captions import open_grammar
from tools.faces.labels import LABELLED, agreement, label_values, read_labels
from tools.faces.samples import FIRST_JUDGE_SEED
from tools.faces.spread import compare, find_thresholds, take
from tools.predict_tokens import predict_rows

GRAMMAR = open_grammar("faces")
# Of some groups nothing is known.
people = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(group.values) for name, group in groups().items()}
)
seeds = st.integers(0, 2**32 - 1)


@given(people, seeds)
def test_captions_of_people_are_true_and_well_formed(attributes, seed):
    made = GRAMMAR.caption(attributes, np.random.default_rng(seed))
    assert matches(made.claims, attributes)
    assert bool(made.claims) == any(visible(attributes).values())
    assert not any(mark in made.text for mark in ("{", "}", "|", "  ", " ,", " .", ".."))


def test_nouns_name_attributes_in_peoples_words():
    rng = np.random.default_rng(0)
    grandfather = {"gender": "man", "age": "old", "beard": "beard", "hair": "grey"}
    texts = [GRAMMAR.caption(grandfather, rng, 4) for _ in range(400)]
    found = [made for made in texts if "grandfather with a white beard" in made.text.lower()]
    assert found
    assert all(made.claims == {g: (v,) for g, v in grandfather.items()} for made in found)
    boy = {"gender": "man", "age": "child", "smile": "open"}
    assert any("little boy" in GRAMMAR.caption(boy, rng, 2).text.lower() for _ in range(200))
    assert not any("woman" in GRAMMAR.caption(boy, rng, 3).text.lower() for _ in range(400))


def test_every_value_of_people_has_phrases_and_prompts():
    for name, group in groups().items():
        assert set(GRAMMAR.prompts[name]) == set(group.values)
        phrases = GRAMMAR.lexicon["phrases"][name]
        assert set(phrases) - {"any"} == set(group.values)


def test_prompts_of_the_judge_name_values_in_words_that_no_caption_has():
    prompts = judged_prompts("faces")
    assert len(prompts) == len({prompt["text"] for prompt in prompts}) == 100
    for prompt in prompts:
        assert 1 <= len(prompt["claims"]) <= 4
        for group, values in prompt["claims"].items():
            assert set(values) < set(groups()[group].values), prompt


def test_labels_by_eye_are_of_the_seeds_they_belong_to():
    train = read_labels([LABELLED / name for name in ("train_a.csv", "train_b.csv", "rare.csv")])
    judge = read_labels([LABELLED / name for name in ("judge.csv", "judge_rare.csv")])
    assert max(train) < FIRST_JUDGE_SEED <= min(judge)
    assert len(train) > 1500
    shares = agreement(train | judge, read_labels([LABELLED / "second.csv"]))
    assert min(shares.values()) > 0.85


def test_labels_that_cannot_be_read_are_named(tmp_path: Path):
    path = tmp_path / "labels.csv"
    path.write_text("seed,gender\n1,m\n")
    with pytest.raises(ValueError, match=r"labels\.csv: no column 'age'"):
        read_labels([path])
    path.write_text(f"seed,{','.join(n for n, g in groups().items() if not g.is_measured)}\nx,m\n")
    with pytest.raises(ValueError, match="line 2: 'x' is no seed"):
        read_labels([path])


def test_words_that_make_no_value_are_unknown():
    words = {name: "?" for name in groups()} | {"gender": "w", "beard": "moustache"}
    values = label_values({7: words}, [7, 8])
    assert values["gender"].tolist() == [1, -1]
    assert values["beard"].tolist() == [1, -1]
    assert values["hair"].tolist() == [-1, -1]


def test_thresholds_leave_out_what_is_not_sure():
    random = torch.Generator().manual_seed(0)
    values = torch.randint(0, 2, (400,), generator=random)
    sure = torch.rand(400, generator=random) / 2 + 0.5
    right = torch.rand(400, generator=random) < sure  # as often right as sure
    said = torch.where(right, values, 1 - values)
    probabilities = torch.stack(
        [torch.where(said == 0, sure, 1 - sure), torch.where(said == 1, sure, 1 - sure)], 1
    )
    everything = compare("hat", said, values)
    assert everything.coverage == 1
    assert everything.accuracy < 0.85
    taken = take(probabilities, find_thresholds("hat", probabilities, values, 0.85))
    figures = compare("hat", taken, values)
    assert figures.accuracy >= 0.85
    assert 0.2 < figures.coverage < 1


def test_predicted_rows_follow_a_linear_rule_and_keep_trained_ones():
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(500, 12), dim=1)
    rows = embeddings @ torch.randn(12, 6) * 3
    trained = torch.arange(500) < 400
    predicted = predict_rows(torch.where(trained[:, None], rows, 0.0), trained, embeddings)
    assert torch.equal(predicted[:400], rows[:400])
    near = (embeddings[400:] @ embeddings[:400].T).amax(1) > 0.7
    alike = torch.nn.functional.cosine_similarity(predicted[400:], rows[400:])
    assert alike[near].mean() > 0.9

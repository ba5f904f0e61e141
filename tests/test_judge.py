import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from clip2gan.domains.avatars import vocabulary as avatars
from clip2gan.domains.avatars.judge import WEIGHTS, Judge, judge_images, verdicts
from clip2gan.evaluation.judge import judged_prompts
from tools import domain, measure_avatars, train_judge
from tools.captions import open_grammar
from tools.make_avatars import make_pictures, write_zip
from tools.train_judge import augment, judge_loss

caption = open_grammar("avatars").caption
GROUPS = avatars.groups()
BASE = {name: group.values[1] for name, group in GROUPS.items()}


def certain(*attributes: dict[str, str]) -> dict[str, torch.Tensor]:
    """The probabilities of a judge that is sure of these attributes."""
    return {
        name: torch.eye(len(group.values))[[group.values.index(a[name]) for a in attributes]]
        for name, group in GROUPS.items()
    }


def test_probabilities_of_each_group_sum_to_one():
    probabilities = Judge()(torch.zeros(2, 3, 64, 64))
    assert list(probabilities) == list(GROUPS)
    for name, group in GROUPS.items():
        assert probabilities[name].shape == (2, len(group.values))
        torch.testing.assert_close(probabilities[name].sum(dim=1), torch.ones(2))


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"takes pictures \[N, 3, 64, 64\], not \[1, 3, 32, 32\]"):
        Judge()(torch.zeros(1, 3, 32, 32))


def test_saved_judge_judges_the_same(tmp_path):
    judge = Judge().eval()
    judge.save(tmp_path / "judge.safetensors")
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    again = judge_images(Judge.load(tmp_path / "judge.safetensors"), images)
    for group, probabilities in judge_images(judge, images, batch=2).items():
        torch.testing.assert_close(again[group], probabilities, atol=5e-3, rtol=0)


def test_verdicts_are_the_most_probable_values():
    wanted = [BASE, {**BASE, "hair": "hat", "skin": "dark"}]
    assert verdicts(certain(*wanted)) == wanted


def test_hidden_groups_do_not_train():
    judge = Judge().eval()
    images = torch.zeros(4, 3, 64, 64)
    labels = torch.zeros(4, len(GROUPS), dtype=torch.long)
    shown = torch.ones(4, len(GROUPS), dtype=torch.bool)
    eyes = list(GROUPS).index("eyes")
    shown[:, eyes] = False
    other_eyes = labels.clone()
    other_eyes[:, eyes] = 2
    assert judge_loss(judge, images, labels, shown) == judge_loss(judge, images, other_eyes, shown)
    shown[:] = False
    assert judge_loss(judge, images, labels, shown) == 0


def test_augmentation_is_mild_and_repeatable():
    images = torch.full((3, 3, 64, 64), 128, dtype=torch.uint8)
    images[:, :, 30:34, 30:34] = 255
    first, second = (augment(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert (first[:, :, :20].mean(dim=(1, 2, 3)).abs() < 0.1).all()
    brightest = first.mean(dim=1).flatten(1).argmax(dim=1)
    place = torch.stack([brightest // 64, brightest % 64])
    assert ((place > 25) & (place < 39)).all()


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the judge is not trained yet")
def test_trained_judge_reads_renders():
    pytest.importorskip("resvg_py")
    rng = np.random.default_rng(123)
    attributes = [domain.sample_attributes(rng) for _ in range(60)]
    pictures = measure_avatars.stack([domain.draw(each, rng, 64) for each in attributes])
    kept = measure_avatars.kept_shares(Judge.load(), attributes, Judge.load().see(pictures))
    assert measure_avatars.mean(kept.values()) > 0.97


def test_unnamed_attributes_are_compared_where_seen_before_and_after():
    before = {**BASE, "eyewear": "none", "skin": "pale"}
    after = {**before, "eyewear": "sunglasses", "eyes": "closed", "skin": "dark"}
    stayed = measure_avatars.unnamed_kept([before], [after], ["eyewear"])
    assert len(stayed) == len(GROUPS) - 2  # neither the named group nor the eyes behind the sunglasses
    assert stayed.count(False) == 1


def test_kept_counts_a_group_that_got_hidden_as_lost():
    before = {**BASE, "eyewear": "none"}
    after = {**before, "eyewear": "sunglasses"}
    shares = measure_avatars.kept_shares(Judge(), [before, after], [after, after])
    assert shares["eyewear"] == 0.5
    assert shares["eyes"] == 0  # seen in the first picture only
    assert shares["skin"] == 1


def test_missing_values_and_sure_shares():
    probabilities = certain(BASE, {**BASE, "eyewear": "sunglasses"})
    probabilities["skin"] = torch.full((2, 5), 0.2)
    sure = measure_avatars.sure_shares(probabilities)
    assert sure["skin"] == 0
    assert sure["eyewear"] == 1
    missing = measure_avatars.missing_values([BASE])
    assert f"hair: {BASE['hair']}" not in missing
    assert "hair: bun" in missing
    assert len(missing) == sum(len(group.values) - 1 for group in GROUPS.values())


def test_edits_ask_for_another_visible_value():
    rng = np.random.default_rng(0)
    attributes = [domain.sample_attributes(rng) for _ in range(200)]
    records = [{"attributes": each} for each in attributes]
    renders = measure_avatars.Avatars(torch.zeros(200, 3, 64, 64, dtype=torch.uint8), records)
    edits = measure_avatars.choose_edits(renders, measure_avatars.read_edits())
    for each, edit in zip(attributes, edits, strict=True):
        assert each[edit.group] != edit.value
        assert avatars.visible(each)[edit.group]
    assert {edit.group for edit in edits} == set(GROUPS)


def test_prompts_name_values_of_the_domain():
    prompts = judged_prompts("avatars")
    assert len({prompt["text"] for prompt in prompts}) == 100
    named = set()
    for prompt in prompts:
        assert 1 <= len(prompt["claims"]) <= 4
        for group, values in prompt["claims"].items():
            assert set(values) < set(GROUPS[group].values)
            named.add(group)
    assert named == set(GROUPS)
    edits = measure_avatars.read_edits()
    assert {(e["group"], e["value"]) for e in edits} == {(n, v) for n, g in GROUPS.items() for v in g.values}


def test_prompts_are_not_captions_of_the_grammar():
    rng = np.random.default_rng(0)
    made = {
        caption(domain.sample_attributes(rng), rng, 1 + i % 4).text.lower().strip(".") for i in range(20000)
    }
    prompts = {prompt["text"].lower().strip(".") for prompt in judged_prompts("avatars")}
    assert not made & prompts


def test_table_shows_figures_with_their_bounds():
    text = measure_avatars.table({"ceiling": 0.8, "generate_seconds": 3.21, "inversion": math.nan})
    assert "| 80.0% | 70.0% | 95.0% |" in text
    assert "| 3.21 | 15.00 | 6.00 |" in text


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    pytest.importorskip("resvg_py")
    data = tmp_path / "avatars.zip"
    write_zip(data, make_pictures(12, 0, 64, 0, processes=1), {"size": 64})
    monkeypatch.setattr(train_judge, "CHECKPOINT_SECONDS", 0)

    def train(name: str) -> Result:
        files = [
            "--data",
            data,
            "--test",
            data,
            "--out",
            tmp_path / name,
            "--weights",
            tmp_path / f"{name}.st",
        ]
        arguments = [*map(str, files), "--steps", "4", "--batch", "4"]
        return CliRunner().invoke(train_judge.main, arguments)

    assert "mean" in train("whole").output
    with monkeypatch.context() as patched:
        calls = iter(range(3))
        patched.setattr(train_judge, "augment", lambda *args: [augment(*args), next(calls)][0])
        assert isinstance(train("stopped").exception, RuntimeError | StopIteration)
    assert not (tmp_path / "stopped.st").exists()
    assert "mean" in train("stopped").output
    assert (tmp_path / "whole.st").read_bytes() == (tmp_path / "stopped.st").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the judge is not trained yet")
def test_everything_is_measured_even_of_a_random_model(tmp_path, tiny_bundle):
    pytest.importorskip("resvg_py")
    write_zip(tmp_path / "renders.zip", make_pictures(12, 9, 64, 0, processes=1), {"size": 64})
    files = ["--renders", tmp_path / "renders.zip", "--json", tmp_path / "out.json"]
    arguments = ["--model", tiny_bundle, *files, "--quick"]
    result = CliRunner().invoke(measure_avatars.main, list(map(str, arguments)), catch_exceptions=False)
    for row in measure_avatars.ROWS:
        assert row.what in result.output
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert set(figures) == {row.figure for row in measure_avatars.ROWS}
    assert 0 <= figures["text_to_picture"] < 0.6
    assert 0.1 < figures["generate_peak_gb"] < 8

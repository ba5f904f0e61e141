"""The training of the avatars' CLIP: what it compares, its vocabulary, and going on after a stop."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from open_clip.tokenizer import SimpleTokenizer

from clip2gan.clip import ClipEncoder
from clip2gan.domains.avatars.vocabulary import groups, matches
from stylegan2.runs import RunFolder, step_generator
from tools import captions, domain, make_avatars, train_clip, zero_shot
from tools.captions import open_grammar
from tools.claims import Columns
from tools.train_clip import (
    Settings,
    Tokenizer,
    ValueDirections,
    make_model,
    open_data,
    train,
    with_all_tokens,
)

GRAMMAR = open_grammar("avatars")
COLUMNS = Columns(GRAMMAR.vocabulary)

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SETTINGS = Settings(CONFIG, images=24, batch=4, bf16=False)


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_clip, "VOCABULARY_SAMPLE", 300)
        yield Tokenizer(GRAMMAR, 24)


@pytest.fixture(autouse=True)
def few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_clip, "VOCABULARY_SAMPLE", 300)


@pytest.fixture(scope="module")
def avatars_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "avatars.zip"
    drawn = make_avatars.make_pictures(6, seed=5, size=16, num_captions=0, processes=1)
    make_avatars.write_zip(path, drawn, {"domain": "avatars"})
    return path


def some_attributes(num: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(1)
    return [domain.sample_attributes(rng) for _ in range(num)]


# What is true of what


def test_positives_are_the_captions_that_match() -> None:
    attributes = some_attributes(40)
    rng = np.random.default_rng(2)
    claims: list[captions.Claims] = [GRAMMAR.caption(a, rng).claims for a in attributes * 3]
    claims += [{}, {"eyes": ("closed",)}, {"hair": ("bald", "hat"), "skin": ("dark",)}]
    shown, claimed = COLUMNS.truth(attributes), COLUMNS.claims(claims)
    expected = [[matches(claim, a) for claim in claims] for a in attributes]
    assert COLUMNS.positives(shown, claimed).tolist() == expected


def test_what_is_unknown_is_neither_true_nor_false() -> None:
    whole = some_attributes(1)[0] | {"eyewear": "none", "skin": "pale"}
    part = {group: value for group, value in whole.items() if group != "skin"}
    shown, unknown = COLUMNS.truth([whole]), torch.zeros(1, COLUMNS.num_groups, dtype=torch.bool)
    unknown[0, list(groups()).index("skin")] = True
    shown[0, COLUMNS.names.index(("skin", "pale"))] = 0
    claimed = COLUMNS.claims(
        [
            {"eyewear": ("none",)},
            {"skin": ("pale",)},
            {"skin": ("pale", "dark"), "eyewear": ("none",)},
            {"skin": ("pale",), "eyewear": ("glasses",)},
            {},
        ]
    )
    assert COLUMNS.unknown([whole, part]).sum(1).tolist() == [0, 1]
    assert COLUMNS.positives(shown, claimed).tolist() == [[True, False, False, False, True]]
    assert COLUMNS.undecided(shown, unknown, claimed).tolist() == [[False, True, True, False, False]]


def test_undecided_pairs_do_not_move_the_loss() -> None:
    torch.manual_seed(0)
    images, texts = F.normalize(torch.randn(2, 4, 8), dim=-1)
    true = torch.eye(4, dtype=torch.bool)
    undecided = torch.zeros(4, 4, dtype=torch.bool)
    undecided[0, 1:] = undecided[1:, 0] = True  # nothing is left to tell the first pair from
    alone = train_clip.contrastive_loss(images[1:], texts[1:], true[1:, 1:], torch.tensor(5.0))
    loss = train_clip.contrastive_loss(images, texts, true, torch.tensor(5.0), undecided)
    torch.testing.assert_close(loss, alone * 3 / 4)


def test_claim_targets_are_even_among_what_is_allowed() -> None:
    claimed = COLUMNS.claims([{"eyewear": ("none", "glasses")}])
    targets = dict(zip(groups(), COLUMNS.by_group(COLUMNS.claim_targets(claimed)), strict=True))
    assert targets["eyewear"].tolist() == [[0.5, 0.5, 0.0]]
    assert targets["skin"].tolist() == [pytest.approx([0.2] * 5)]


# Losses


def test_contrastive_loss_with_single_positives_is_clips() -> None:
    torch.manual_seed(0)
    images, texts = F.normalize(torch.randn(2, 6, 8), dim=-1)
    scale = torch.tensor(5.0)
    expected = open_clip.ClipLoss()(images, texts, scale)
    torch.testing.assert_close(
        train_clip.contrastive_loss(images, texts, torch.eye(6, dtype=torch.bool), scale), expected
    )


def test_contrastive_loss_is_least_where_true_pairs_are_alike() -> None:
    axes = torch.eye(3)
    images, texts = axes[[0, 0, 1]], axes[[0, 1, 1]]
    true = images @ texts.T > 0
    scale = torch.tensor(50.0)
    best = train_clip.contrastive_loss(images, texts, true, scale)
    assert best < train_clip.contrastive_loss(images, axes[[1, 0, 0]], true, scale)
    # What remains is the entropy of an even choice: one picture and one text of three have two true pairs.
    assert best.item() == pytest.approx(log(2) / 3)


def test_value_loss_leaves_out_hidden_groups() -> None:
    torch.manual_seed(0)
    directions = ValueDirections(COLUMNS, 8)
    embeddings = F.normalize(torch.randn(1, 8), dim=-1)
    behind_sunglasses = some_attributes(1)[0] | {"eyewear": "sunglasses"}
    losses = {
        eyes: directions(embeddings, COLUMNS.truth([behind_sunglasses | {"eyes": eyes}])).item()
        for eyes in ("open", "closed")
    }
    assert losses["open"] == losses["closed"] > 0


# Texts


def test_short_texts_are_encoded_as_open_clip_does(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = make_model(CONFIG, tokenizer.size)
    whole = with_all_tokens(model, CONFIG, tokenizer.vocabulary)
    texts = ["a smiling face", "xylophone", "red hair, glasses, a hat"]
    ids = SimpleTokenizer(context_length=24)(texts)
    lists = [row[1 : int(row.argmax())] for row in ids]
    numbers = [tokenizer._number[row].tolist() for row in lists]
    short = train_clip.encode_texts(model, tokenizer.pad(numbers))
    torch.testing.assert_close(short, whole.encode_text(ids))


def test_drawn_captions_fit_and_keep_their_claims(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    drawn = [tokenizer.draw(a, rng) for a in some_attributes(300)]
    assert max(len(numbers) for numbers, _ in drawn) <= 22
    assert any(0 in numbers for numbers, _ in drawn)  # unknown words
    assert any(not claims for _, claims in drawn)  # texts that are true of every picture
    again = np.random.default_rng(0)
    assert drawn == [tokenizer.draw(a, again) for a in some_attributes(300)]


def test_unknown_tokens_stay_zero(tokenizer: Tokenizer) -> None:
    model = make_model(CONFIG, tokenizer.size)
    optimizer = train_clip.make_optimizer(SETTINGS, model)
    for _ in range(3):
        train_clip.encode_texts(model, tokenizer.pad([[0, 5, 0, 7]])).square().sum().backward()
        optimizer.step()
    table = with_all_tokens(model, CONFIG, tokenizer.vocabulary).token_embedding.weight
    used = table.abs().sum(1) > 0
    assert used.nonzero().flatten().tolist() == tokenizer.vocabulary.tolist()


# Pictures


def test_augmentation_is_slight_and_repeatable() -> None:
    picture = torch.full((8, 3, 16, 16), 128, dtype=torch.uint8)
    picture[..., 8:] = 255
    first = train_clip.augment(picture, step_generator(0, 1))
    assert first.shape == picture.shape
    assert torch.equal(first, train_clip.augment(picture, step_generator(0, 1)))
    assert not torch.equal(first, train_clip.augment(picture, step_generator(0, 2)))
    inner = first[..., 2:6].mean(dim=(2, 3))
    assert inner.abs().max() < 0.2
    assert (first[..., 11:].mean(dim=(2, 3)) - 1).abs().max() < 0.25


# The run


class StopError(Exception):
    """Stands for whatever ends a process."""


def stopped_after(num: int) -> Any:
    def steps(planned: Iterable[int]) -> Iterator[int]:
        for count, step in enumerate(planned):
            if count == num:
                raise StopError
            yield step

    return steps


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(avatars_zip: Path, tmp_path: Path) -> None:
    data = open_data(avatars_zip, 16)
    device = torch.device("cpu")

    def run(name: str) -> RunFolder:
        return RunFolder.open(tmp_path / name, {"seed": 0})

    straight = train(SETTINGS, data, run("straight"), device)
    with pytest.raises(StopError):
        train(SETTINGS, data, run("stopped"), device, save_seconds=0, progress=stopped_after(4))
    resumed = run("stopped")
    latest = resumed.latest()
    assert latest is not None
    assert latest[0] == 4
    went_on = train(SETTINGS, data, resumed, device)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, went_on.state_dict()[name]), name


def test_command_trains_measures_and_exports(avatars_zip: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CONFIG))
    arguments = ["--data", avatars_zip, "--test", avatars_zip, "--out", tmp_path / "run"]
    arguments += ["--export", tmp_path / "clip", "--model", tmp_path / "model.json"]
    arguments += ["--images", 8, "--batch", 4, "--no-bf16", "--device", "cpu"]
    result = CliRunner().invoke(train_clip.main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (line,) = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert line["step"] == 2
    assert set(line) >= {"contrastive", "images", "texts", "zero_shot", "zero_shot/eyes"}
    encoder = ClipEncoder.load(f"local-dir:{tmp_path / 'clip'}")
    assert (encoder.image_size, encoder.context_length) == (16, 24)

    result = CliRunner().invoke(train_clip.main, [*map(str, arguments), "--lr", "0.5"])
    assert result.exit_code == 1
    assert "lr: 0.001 -> 0.5" in result.output


def test_data_without_attributes(tmp_path: Path, avatars_zip: Path) -> None:
    bare = tmp_path / "bare.zip"
    with zipfile.ZipFile(avatars_zip) as source, zipfile.ZipFile(bare, "w") as target:
        for name in source.namelist():
            if name.endswith(".png"):
                target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match=r"bare.zip: no dataset.json"):
        open_data(bare, 16)


# Zero-shot


def test_zero_shot_counts_visible_groups_only() -> None:
    """Embeddings by hand: a picture has a 1 for each of its values, a text for the value it names."""
    values = COLUMNS.names
    prompts = {
        template.format(prompt): values.index((group, value))
        for group, entries in GRAMMAR.prompts.items()
        for value, texts in entries.items()
        for prompt in texts
        for template in zero_shot.TEMPLATES
    }

    def encode(texts: list[str]) -> torch.Tensor:
        return torch.eye(len(values))[[prompts[text] for text in texts]]

    attributes = [
        a | {"eyewear": "sunglasses" if i % 2 else "none"} for i, a in enumerate(some_attributes(20))
    ]
    embeddings = COLUMNS.truth(attributes)
    assert set(zero_shot.accuracy(GRAMMAR, embeddings, attributes, encode).values()) == {1.0}
    wrong = [a | {"skin": "dark" if a["skin"] != "dark" else "pale"} for a in attributes]
    figures = zero_shot.accuracy(GRAMMAR, embeddings, wrong, encode)
    assert figures["skin"] == 0
    assert figures["eyes"] == 1


def test_every_value_has_prompts() -> None:
    assert [(g, v) for g, entries in GRAMMAR.prompts.items() for v in entries] == COLUMNS.names

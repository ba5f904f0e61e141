"""Train a domain's CLIP: open_clip's own class, from scratch, on pictures and captions of what they show.

    python -m tools.train_clip --data data/avatars.zip --test data/avatars-test.zip --out runs/clip \
        --export clip2gan/bundles/avatars/clip
    python -m tools.train_clip --domain faces --data data/faces.zip --test data/faces-test.zip --out runs/clip

The same command goes on where it was stopped. The shape of the model is `tools/DOMAIN_clip.json`, its words
are those of `tools/lexicons/DOMAIN.toml`.

What a picture shows is known, or known to be unknown; so is what a caption claims. The loss uses it twice:

- every picture of a batch is compared with every caption of it, and all true pairs count as positive, not
  only the pairs drawn together; pairs that may be true are left out;
- both towers classify the attributes, by the same learned direction for each value. Small details such as
  eyes and mouths are found in minutes this way, and both towers meet in the same space from the start.
  The directions are thrown away in the end.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from clip2gan.clip import ClipEncoder, save_local_dir
from clip2gan.data.pictures import Pictures, open_pictures
from clip2gan.devices import resolve_device
from stylegan2.layers import is_quick_in_half
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder
from stylegan2.training.engine import Phase, Step, Task, Terms, Trainer, Update, Updates
from stylegan2.training.schedule import rate_factor
from tools import zero_shot
from tools.captions import Caption, Claims, Grammar, open_grammar
from tools.claims import Columns

PREPROCESS_CONFIG = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
MAX_LOGIT_SCALE = 100.0  # as in the CLIP paper
NEUTRAL_SHARE = 0.04
VOCABULARY_SAMPLE = 50_000  # captions that decide which tokens the model knows
MOST_RARE = 6.0
LEFT_OUT = -1e4  # a logit that weighs nothing in a softmax
UNKNOWN_SHARE = 0.25  # captions into which unknown words are put


@dataclass(frozen=True)
class Settings:
    """What decides the result of a training; fixed for the life of a run."""

    model: Mapping[str, Any]
    domain: str = "avatars"
    rare_first: bool = False
    images: int = 96_000
    batch: int = 64
    captions: int = 2
    lr: float = 1e-3
    weight_decay: float = 0.05
    bf16: bool = True
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.images // self.batch


# Texts


class Tokenizer:
    """Captions to tokens, numbered by a small vocabulary of the tokens that captions use.

    Number 0 stands for padding and for every unknown token. The others keep open_clip's order, so that the
    end token is still the highest, by which open_clip's text tower finds it.

    Attributes:
        vocabulary: open_clip's ids of the tokens 1, 2, ...: int64 [size - 1], ascending.
        size: numbers in use.
    """

    def __init__(self, grammar: Grammar, context_length: int, vocabulary: Tensor | None = None):
        self._grammar = grammar
        self._open_clip = SimpleTokenizer(context_length=context_length)
        self._room = context_length - 2
        self.vocabulary = self._used_by_captions() if vocabulary is None else vocabulary
        self.size = len(self.vocabulary) + 1
        self._number = torch.zeros(self._open_clip.vocab_size, dtype=torch.long)
        self._number[self.vocabulary] = torch.arange(1, self.size)

    def draw(self, attributes: Mapping[str, str], rng: np.random.Generator) -> tuple[list[int], Claims]:
        """A caption that fits the context, as tokens without start and end, and what it claims.

        A few captions claim nothing (they are true of every picture), and some have unknown words put
        somewhere, so that the model learns to pass over them.
        """
        if rng.random() < NEUTRAL_SHARE:
            claims: Claims = {}
            neutral = self._grammar.neutral_texts
            ids = self._open_clip.encode(neutral[rng.integers(len(neutral))])
        else:
            drawn, ids = self._draw_fitting(attributes, rng)
            claims = drawn.claims
        numbers = self._number[ids].tolist()
        if rng.random() < UNKNOWN_SHARE:
            for _ in range(min(int(rng.integers(1, 4)), self._room - len(numbers))):
                numbers.insert(int(rng.integers(len(numbers) + 1)), 0)
        return numbers, claims

    def pad(self, texts: Sequence[list[int]]) -> Tensor:
        """Start, tokens, end and padding of each text: int64 [N, length of the longest]."""
        start, end = self._number[[self._open_clip.sot_token_id, self._open_clip.eot_token_id]].tolist()
        result = torch.zeros(len(texts), 2 + max(map(len, texts)), dtype=torch.long)
        for row, numbers in zip(result, texts, strict=True):
            row[: 2 + len(numbers)] = torch.tensor([start, *numbers, end])
        return result

    def _draw_fitting(
        self, attributes: Mapping[str, str], rng: np.random.Generator
    ) -> tuple[Caption, list[int]]:
        while True:
            drawn = self._grammar.caption(attributes, rng)
            ids = self._open_clip.encode(drawn.text)
            if len(ids) <= self._room:  # a caption that is cut would claim what cannot be read
                return drawn, ids

    def _used_by_captions(self) -> Tensor:
        rng = np.random.default_rng(0)
        texts = [self._grammar.caption(self._sample(rng), rng).text for _ in range(VOCABULARY_SAMPLE)]
        ids = {i for text in (*texts, *self._grammar.neutral_texts) for i in self._open_clip.encode(text)}
        return torch.tensor(sorted(ids | set(self._open_clip.all_special_ids)))

    def _sample(self, rng: np.random.Generator) -> dict[str, str]:
        """A value of each group, independently; a vocabulary may say how often."""
        return {
            group.name: group.values[
                int(rng.choice(len(group.values), p=getattr(group, "probabilities", None)))
            ]
            for group in self._grammar.vocabulary.groups().values()
        }


def make_model(config: Mapping[str, Any], vocabulary_size: int) -> Any:
    """open_clip's CLIP of this config, with a small vocabulary, whose number 0 is and stays zero."""
    model: Any = CLIP(**{**config, "text_cfg": {**config["text_cfg"], "vocab_size": vocabulary_size}})
    model.token_embedding.padding_idx = 0  # no gradient reaches it
    with torch.no_grad():
        model.token_embedding.weight[0] = 0
    return model


def with_all_tokens(model: Any, config: Mapping[str, Any], vocabulary: Tensor) -> Any:
    """The trained model with open_clip's whole vocabulary, where unknown tokens are zero vectors."""
    whole: Any = CLIP(**config)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    table = torch.zeros_like(whole.token_embedding.weight)
    table[vocabulary] = weights["token_embedding.weight"][1:]
    whole.load_state_dict({**weights, "token_embedding.weight": table})
    return whole


def encode_texts(model: Any, tokens: Tensor) -> Tensor:
    """`model.encode_text(tokens)` for tokens shorter than the context: [N, length] to [N, D].

    Attention is causal and the embedding is read at the end token, so the padding left out cannot matter.
    """
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection


# Pictures


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as a generator might give them: a bit blurred or sharpened, noisy, shifted, off in colour.

    Args:
        pixels: uint8 [N, 3, H, W].
        generator: where the random numbers come from (CPU).

    Returns:
        float32 [N, 3, H, W], about [-1, 1].
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(len(pixels), *shape, generator=generator) * (high - low) + low

    x = pixels.float() / 127.5 - 1
    shift = torch.randint(-1, 2, (2,), generator=generator)
    padded = F.pad(x, (3, 3, 3, 3), mode="replicate")
    x = torch.roll(padded, shift.tolist(), dims=(2, 3))
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (line[:, None] * line).expand(3, 1, 5, 5)
    blurred = F.conv2d(x, kernel, groups=3)
    x = x[:, :, 2:-2, 2:-2]
    x = (x + uniform(-0.4, 1.0, 1, 1, 1) * (blurred - x))[:, :, 1:-1, 1:-1]
    x = x * uniform(0.92, 1.08, 1, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1) + uniform(-0.03, 0.03, 3, 1, 1)
    return x + torch.randn(x.shape, generator=generator) * uniform(0, 0.08, 1, 1, 1)


@dataclass(frozen=True)
class Data:
    """Pictures and what they show, in the same order."""

    pictures: Pictures
    attributes: list[dict[str, str]]


def open_data(path: Path, size: int) -> Data:
    """The pictures and attributes of a zip made by `tools.make_avatars` or `tools.faces.make_data`.

    Raises ValueError when the zip has no dataset.json, or one that does not speak of all pictures.
    """
    pictures = open_pictures(path, size)
    try:
        with zipfile.ZipFile(path) as archive:
            records = json.loads(archive.read("dataset.json"))["pictures"]
        shown = {record["file"]: record["attributes"] for record in records}
        return Data(pictures, [shown[name] for name in pictures.names])
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no dataset.json with every picture's attributes; make it again") from error


# Training


def contrastive_loss(
    images: Tensor, texts: Tensor, positive: Tensor, logit_scale: Tensor, undecided: Tensor | None = None
) -> Tensor:
    """CLIP's loss with several positives: cross entropy to a uniform choice among the true pairs.

    Args:
        images: [N, D] unit embeddings.
        texts: [M, D] unit embeddings.
        positive: bool [N, M] with at least one true pair in every row and every column.
        logit_scale: factor of the cosines.
        undecided: bool [N, M], pairs that are left out; none of them is positive.
    """
    logits = logit_scale * images @ texts.T
    if undecided is not None:
        logits = logits.masked_fill(undecided, LEFT_OUT)
    targets = positive.to(logits.dtype)
    per_image = (F.log_softmax(logits, 1) * targets / targets.sum(1, keepdim=True)).sum(1)
    per_text = (F.log_softmax(logits, 0) * targets / targets.sum(0, keepdim=True)).sum(0)
    return -(per_image.mean() + per_text.mean()) / 2


class ValueDirections(nn.Module):
    """A classifier of every group's values, by their cosines with one direction each.

    Attributes:
        directions: [columns, D], of any length.
        log_scale: log of the factor of the cosines.
    """

    def __init__(self, columns: Columns, embed_dim: int):
        super().__init__()
        self.columns = columns
        self.directions = nn.Parameter(torch.randn(len(columns), embed_dim) / embed_dim**0.5)
        self.log_scale = nn.Parameter(torch.tensor(log(20.0)))

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, mean over embeddings and groups.

        Args:
            embeddings: [N, D] unit embeddings.
            targets: [N, columns], for each group a distribution over its values, or zeros to leave it out.
        """
        logits = self.log_scale.exp() * embeddings @ F.normalize(self.directions, dim=1).T
        log_p = torch.cat([F.log_softmax(part, dim=1) for part in self.columns.by_group(logits)], dim=1)
        return -(targets * log_p).sum(1).mean() / self.columns.num_groups


def rarity(truth: Tensor) -> np.ndarray:
    """How often to draw each picture, [N], summing to 1: by the rarest of the values that it shows.

    A value counts by the square root of how rare it is, but by no more than MOST_RARE.
    """
    counts = truth.sum(0).clamp(min=1)
    weight = (truth * (len(truth) / counts).sqrt().clamp(max=MOST_RARE)).amax(1).clamp(min=1).double()
    return (weight / weight.sum()).numpy()


def make_optimizer(settings: Settings, *modules: nn.Module) -> torch.optim.AdamW:
    """AdamW; weight decay for matrices only, not for embeddings, norms, biases and scales."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": settings.weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for module in modules:
        for name, parameter in module.named_parameters():
            groups[int(parameter.ndim < 2 or "embedding" in name)]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98))


def train(
    settings: Settings,
    data: Data,
    run: RunFolder,
    device: torch.device,
    test: Data | None = None,
    save_seconds: float = 120.0,
    progress: Callable[[range], Iterable[int]] | None = None,
) -> nn.Module:
    """Train, or go on with, the model of a run folder.

    Args:
        settings: what decides the result.
        data: pictures to learn from.
        run: the run's folder.
        device: where to compute.
        test: pictures to measure zero-shot accuracy on, now and then.
        save_seconds: time between checkpoints.
        progress: wraps the steps.

    Returns:
        The whole model, as open_clip makes it from the config, on the CPU.
    """
    training = _Training(settings, data, device, test)
    Trainer(training.task(), run, Processes(device), settings.seed, save_seconds).train(progress)
    return training.whole()


class _Training:
    """The steps of a training, with what they share."""

    def __init__(self, settings: Settings, data: Data, device: torch.device, test: Data | None):
        torch.manual_seed(settings.seed)
        self.settings, self.data, self.device, self.test = settings, data, device, test
        self.grammar = open_grammar(settings.domain)
        self.columns = Columns(self.grammar.vocabulary)
        self.tokenizer = Tokenizer(self.grammar, settings.model["text_cfg"]["context_length"])
        self.model = make_model(settings.model, self.tokenizer.size).to(device).train()
        self.values = ValueDirections(self.columns, settings.model["embed_dim"]).to(device)
        self.optimizer = make_optimizer(settings, self.model, self.values)
        self.truth = self.columns.truth(data.attributes)
        self.unknown = self.columns.unknown(data.attributes)
        self.weights = rarity(self.truth) if settings.rare_first else None

    def task(self) -> Task:
        return Task(
            parts={"model": self.model, "values": self.values, "optimizer": self.optimizer},
            phases=[Phase(steps=self.settings.steps, step=self._step, log_every=100)],
            preview=self._measure,
            preview_every=max(250, self.settings.steps // 10),
        )

    def _step(self, step: Step) -> Updates:
        settings, tokenizer, device = self.settings, self.tokenizer, self.device
        rng = np.random.default_rng((settings.seed, step.number))
        chosen = self._choose(rng)
        texts = [tokenizer.draw(self.data.attributes[i], rng) for i in np.tile(chosen, settings.captions)]
        texts.sort(key=lambda text: len(text[0]))  # short and long ones are padded apart
        tokens = [numbers for numbers, _ in texts]
        halves = [tokenizer.pad(half) for half in (tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :])]
        images = augment(self.data.pictures.batch(chosen.tolist()), step.random)
        shown, claimed = self.truth[chosen], self.columns.claims([claims for _, claims in texts])
        positive = self.columns.positives(shown, claimed).to(device)
        undecided = self.columns.undecided(shown, self.unknown[chosen], claimed).to(device)

        def losses(turn: int) -> Terms:
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                of_images = self.model.encode_image(images.to(device))
                of_texts = torch.cat([encode_texts(self.model, half.to(device)) for half in halves])
            of_images, of_texts = (F.normalize(x.float(), dim=-1) for x in (of_images, of_texts))
            scale = self.model.logit_scale.exp()
            return {
                "contrastive": (1.0, contrastive_loss(of_images, of_texts, positive, scale, undecided)),
                "images": (1.0, self.values(of_images, shown.to(device))),
                "texts": (1.0, self.values(of_texts, self.columns.claim_targets(claimed).to(device))),
            }

        rate = rate_factor(step.index, settings.steps, ramp=max(settings.steps // 20, 1), end=0.0)
        rates = [settings.lr * rate] * len(self.optimizer.param_groups)
        yield Update(optimizer=self.optimizer, losses=losses, rates=rates, clip_norm=1.0)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, log(MAX_LOGIT_SCALE))

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        """The pictures of a batch."""
        num, size = len(self.data.attributes), self.settings.batch
        return rng.integers(num, size=size) if self.weights is None else rng.choice(num, size, p=self.weights)

    def whole(self) -> Any:
        """The model with open_clip's whole vocabulary."""
        return with_all_tokens(self.model, self.settings.model, self.tokenizer.vocabulary)

    def _measure(self, done: int) -> dict[str, float]:
        if self.test is None:
            return {}
        encoder = as_encoder(self.whole(), self.grammar.name)
        return zero_shot_figures(self.grammar, encoder, self.test)


def as_encoder(model: Any, name: str) -> ClipEncoder:
    """A whole model as an encoder of this name, which freezes it."""
    config = {**PREPROCESS_CONFIG, "size": model.visual.image_size}
    return ClipEncoder(model, SimpleTokenizer(context_length=model.context_length), config, name)


@torch.no_grad()
def zero_shot_figures(grammar: Grammar, encoder: ClipEncoder, test: Data) -> dict[str, float]:
    """Zero-shot accuracy on the test pictures: the mean over the groups, and each group's."""
    batches = torch.arange(len(test.pictures)).split(250)
    pixels = (test.pictures.batch(indices).float() / 127.5 - 1 for indices in batches)
    embeddings = torch.cat([encoder.encode_images(batch) for batch in pixels])
    figures = zero_shot.accuracy(grammar, embeddings, test.attributes, encoder.encode_texts)
    return {"zero_shot": sum(figures.values()) / len(figures)} | {
        f"zero_shot/{group}": figure for group, figure in figures.items()
    }


EXISTING = click.Path(exists=True, path_type=Path)


@click.command(help=__doc__)
@click.option("--domain", default=Settings.domain, show_default=True, help="Whose lexicon and model shape.")
@click.option(
    "--data", type=EXISTING, required=True, help="Zip of pictures to learn from, with dataset.json."
)
@click.option("--test", type=EXISTING, help="Such a zip to measure zero-shot accuracy on.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option(
    "--export", type=click.Path(path_type=Path), help="Folder for the result, in open_clip's format."
)
@click.option("--images", type=click.IntRange(1), default=Settings.images, show_default=True)
@click.option("--batch", type=click.IntRange(2), default=Settings.batch, show_default=True)
@click.option("--captions", type=click.IntRange(1), default=Settings.captions, help="Captions a picture.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=Settings.lr, show_default=True)
@click.option("--bf16/--no-bf16", default=None, help="Compute in bfloat16.  [default: where it is quick]")
@click.option("--rare-first", is_flag=True, help="Draw pictures that show rare values more often.")
@click.option("--model", type=EXISTING, help="Config of the model.  [default: tools/DOMAIN_clip.json]")
@click.option("--save-seconds", type=click.FloatRange(0), default=120.0, help="Time between checkpoints.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--seed", type=click.IntRange(0), default=Settings.seed, show_default=True)
def main(
    domain: str,
    data: Path,
    test: Path | None,
    out: Path,
    export: Path | None,
    images: int,
    batch: int,
    captions: int,
    lr: float,
    bf16: bool | None,
    rare_first: bool,
    model: Path | None,
    save_seconds: float,
    device: str,
    seed: int,
) -> None:
    try:
        where = resolve_device(device)
        if bf16 is None:
            bf16 = is_quick_in_half(where)
        open_grammar(domain)
        config = json.loads((model or Path(__file__).with_name(f"{domain}_clip.json")).read_text())
        settings = Settings(config, domain, rare_first, images, batch, captions, lr, bf16=bf16, seed=seed)
        size = config["vision_cfg"]["image_size"]
        run = RunFolder.open(out, {"command": "train_clip", "data": data.name, **asdict(settings)})
        trained = train(
            settings,
            open_data(data, size),
            run,
            where,
            open_data(test, size) if test else None,
            save_seconds,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if export is not None:
        save_local_dir(trained, config, PREPROCESS_CONFIG, export)
        click.echo(f"wrote {export}")


if __name__ == "__main__":
    main()

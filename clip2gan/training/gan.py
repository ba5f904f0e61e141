"""The CLIP-guided conditional GAN: noise and a text's embedding in, picture out.

    noise ‖ CLIP text embedding -> mapping network -> w -> synthesis -> picture
    discriminator                judges picture and text together (projection, matching-aware)
    CLIP's image tower           sees the picture; its similarity with the text is a further signal

Two phases, which one run folder carries through: the mapping phase (`text_mapping.py`), where an encoder
belongs to the generator that is started from, and the adversarial one. Pictures without captions take part
with pseudo-texts, made of their CLIP embeddings (language-free training, LAFITE, Zhou et al. 2022).

A stopped run goes on exactly: all randomness of a step comes from (seed, step).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip2gan.bundle import BundleInfo, write_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import Captioned
from clip2gan.data.pictures import ReadAhead
from clip2gan.data.samples import plain_prompts, to_floats
from clip2gan.devices import pictures_at_once
from clip2gan.gap import TextSide
from clip2gan.noise import Noise
from clip2gan.training.gan_losses import guidance, mismatched
from clip2gan.training.gan_networks import Networks
from clip2gan.training.memory import largest_part
from clip2gan.training.settings import GanTraining
from clip2gan.training.start import Start
from clip2gan.training.text_mapping import TextMapping, encode_all
from stylegan2 import Generator, GeneratorConfig, save_generator
from stylegan2.discriminator import MINIBATCH_STD_GROUP
from stylegan2.processes import Processes, RowNoise, draw_seeds
from stylegan2.runs import RunFolder, step_generator
from stylegan2.training.augment import draw_augmentation
from stylegan2.training.engine import Phase, Step, Task, Terms, Trainer, Update, Updates
from stylegan2.training.gan import check_shares
from stylegan2.training.losses import generator_loss, r1_penalty
from stylegan2.training.mapping_phase import track_w_avg
from stylegan2.training.preview import save_grid
from stylegan2.training.schedule import rate_factor

PREVIEWS, LEAST_STEPS = 40, 250  # over a run, and between two
PREVIEW_TEXTS, PREVIEW_SEEDS = 16, 4
RAMP = 0.05  # of the adversarial phase, over which its rates rise


def train_conditional(
    config: GanTraining,
    start: Start,
    data: Captioned,
    clip: ClipEncoder,
    run: RunFolder,
    *,
    max_memory: float | None = None,
    progress: Callable[[range], Iterable[int]] | None = None,
    checkpoint_seconds: float = 120,
) -> Path:
    """Train, or go on from the newest checkpoint in `run`.

    Args:
        config: the settings.
        start: the generator's shape, and the weights to start from.
        data: captioned pictures at the generator's resolution.
        clip: frozen, on the device to train on.
        run: its folder.
        max_memory: in GB; batches are computed in as large parts as stay below it.
        progress: wraps the range of steps left.
        checkpoint_seconds: at most this much work is lost by a kill.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: the pictures do not fit the generator, memory does not suffice, the processes cannot share
            a batch, or values were not finite for many steps in a row.
    """
    training = _Training(config, start, data, clip, run)
    if max_memory is not None and config.steps > 0:
        training.fit_memory(max_memory, run.path / "memory.json")
    Trainer(training.task(), run, training.processes, config.seed, checkpoint_seconds).train(progress)
    return run.path / "bundle"


@dataclass
class _Batch:
    """The random choices of a whole batch, and what follows from them; `part` takes some rows.

    chosen: pictures [N]. c: their conditions [N, D], noisy forms of `targets`. wrong: conditions of other
    pictures, where `is_wrong` [N] says that they are. z, z2: latents [N, z_dim], of which the second is that
    of the layers from `cut` [N] on. seeds: of the synthesis network's noise [N]. augmentation: three draws
    [N, 3, 2, 6], for the generator's update, and for real and made pictures in the discriminator's.
    """

    chosen: Tensor
    c: Tensor
    targets: Tensor
    wrong: Tensor
    is_wrong: Tensor
    z: Tensor
    z2: Tensor
    cut: Tensor
    seeds: Tensor
    augmentation: Tensor

    def part(self, rows: Tensor, device: torch.device) -> "_Batch":
        return _Batch(*(getattr(self, field.name)[rows].to(device) for field in dataclasses.fields(self)))

    def __len__(self) -> int:
        return len(self.chosen)


class _Training:
    """The steps of a training, with what they share."""

    def __init__(self, config: GanTraining, start: Start, data: Captioned, clip: ClipEncoder, run: RunFolder):
        self.config, self.data, self.clip, self.device = config, data, clip, clip.device
        self.run, self.processes = run, Processes(clip.device)
        check_shares(config.batch, self.processes)
        self.turns = 1
        self._ahead: ReadAhead | None = None
        shape = start.shape
        found = list(data.batch([0]).shape[1:])
        if found != [shape.img_channels, shape.img_resolution, shape.img_resolution]:
            raise ValueError(f"pictures are {found}, the generator makes {shape.img_resolution} px")
        texts = data.texts if len(data.texts) else clip.encode_texts(plain_prompts()).cpu()
        self.gap = TextSide(
            noise=Noise("unit", config.pseudo_noise),
            mean_image=data.images.mean(0),
            mean_text=texts.mean(0),
        )
        self.networks = Networks(config, start, self.device)
        self.shape, self.licence = shape, start.licence
        spread = torch.linspace(0, len(texts) - 1, min(PREVIEW_TEXTS, len(texts))).long()
        self.preview_texts = texts[spread].to(self.device)
        self.mapping: TextMapping | None = None
        if config.mapping_steps > 0:
            if start.encoder is None:
                raise ValueError(
                    "the mapping phase needs the encoder of the generator it starts from, "
                    "and --init has none; set mapping_steps=0"
                )
            w = encode_all(
                self.networks.encoder_ema, data, self.device, run.path / "cache" / "latents", self.processes
            )
            self.mapping = TextMapping(
                networks=self.networks,
                w=w,
                conditions=lambda rows, random: self.conditions(rows, random)[0],
                guidance=config.flow_guidance,
                steps=config.mapping_steps,
                seed=config.seed,
                cache=run.path / "cache" / "pairs",
                processes=self.processes,
            )

    def conditions(self, rows: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """For pictures [N]: noisy captions' embeddings or pseudo-texts c [N, D], and both without noise."""
        config = self.config
        texts, has = self.data.draw_captions(rows, random)
        as_text = (has & (torch.rand(len(rows), generator=random) >= config.pseudo_share))[:, None]
        clean = torch.where(as_text, texts, self.gap.from_image(self.data.images[rows]))
        length = torch.where(as_text, config.text_noise, config.pseudo_noise)
        noise = F.normalize(torch.randn(clean.shape, generator=random), dim=1)
        return F.normalize(clean + length * noise, dim=1), clean

    def task(self) -> Task:
        config, networks = self.config, self.networks
        ema = 0.5 ** (config.batch / config.ema_images)
        phases = self.mapping.phases(ema) if self.mapping is not None else []
        adversarial = Phase(
            steps=config.steps,
            step=self._compete,
            averages=[(networks.generator, networks.generator_ema)],
            ema=ema,
            begin=self._begin_adversarial,
        )
        return Task(
            parts=networks.parts(),
            phases=[*phases, adversarial],
            preview=self._preview,
            preview_every=max(LEAST_STEPS, config.total_steps // PREVIEWS),
            saved=self.write_bundle,
            state={"config": settings_of(config, self.shape)},
        )

    def _begin_adversarial(self) -> None:
        networks = self.networks
        networks.generator.load_state_dict(networks.generator_ema.state_dict())
        networks.first_mapping.load_state_dict(networks.generator.mapping.state_dict())

    def _compete(self, step: Step) -> Updates:
        """The generator's update, then the discriminator's, on the same pictures."""
        config, networks, processes = self.config, self.networks, self.processes
        whole = self._draw(step.random)
        if self._ahead is None:
            self._ahead = self.data.read_ahead(self._coming(step.number))
        parts = [
            whole.part(processes.rows([config.batch], turn, self.turns), self.device)
            for turn in range(self.turns)
        ]
        anchors = self._anchors(whole, parts)
        fakes: list[Tensor] = []
        w: list[Tensor] = []
        signs: list[Tensor] = []

        def generator_terms(turn: int) -> Terms:
            terms, fake, found = self._generator_terms(parts[turn], whole, turn, anchors)
            fakes.append(fake.detach())
            w.append(found.detach().mean(dim=0))
            return terms

        def discriminator_terms(turn: int) -> Terms:
            penalize = (step.number + 1) % config.r1_interval == 0
            terms, logits = self._discriminator_terms(parts[turn], fakes[turn], whole, penalize)
            signs.append(logits.detach().sign().mean())
            return terms

        rate = rate_factor(step.index, config.steps, ramp=max(1, round(RAMP * config.steps)))
        learns = (step.index + 1) / config.steps > config.synthesis_start
        networks.discriminator.requires_grad_(False)
        yield Update(
            optimizer=networks.generator_optimizer,
            losses=generator_terms,
            rates=[config.mapping_lr * rate, config.lr * rate if learns else 0.0],
            turns=self.turns,
        )
        networks.discriminator.requires_grad_(True)
        yield Update(
            optimizer=networks.discriminator_optimizer,
            losses=discriminator_terms,
            rates=[config.discriminator_lr * networks.r1_ratio * rate],
            turns=self.turns,
            remedy="discriminator_lr",
        )
        w_mean, sign = processes.average([torch.stack(w).mean(dim=0), torch.stack(signs).mean()])
        track_w_avg(networks.generator.mapping, w_mean[None])
        if config.augment > 0:
            networks.augmentation.adapt(sign, config.augment, config.batch / config.augment_images)

    def _choose(self, random: torch.Generator) -> Tensor:
        """The pictures of a batch [N]: what a step draws first."""
        return torch.randint(len(self.data), (self.config.batch,), generator=random)

    def _coming(self, first: int) -> Iterator[list[int]]:
        """This process's pictures of each turn, from a step on."""
        for number in range(first, self.config.total_steps):
            chosen = self._choose(step_generator(self.config.seed, number))
            for turn in range(self.turns):
                yield chosen[self.processes.rows([self.config.batch], turn, self.turns)].tolist()

    def _draw(self, random: torch.Generator) -> _Batch:
        """All processes draw the same numbers for the whole batch."""
        config, shape = self.config, self.shape
        chosen = self._choose(random)
        c, targets = self.conditions(chosen, random)
        wrong, is_wrong = mismatched(c, targets, self.data.images[chosen])
        z, z2 = torch.randn(2, config.batch, shape.z_dim, generator=random)
        cut = torch.randint(1, shape.num_ws, (config.batch,), generator=random)
        mixed = torch.rand(config.batch, generator=random) < config.style_mixing
        draws = [draw_augmentation(config.batch, random) for _ in range(3)]
        return _Batch(
            chosen=chosen,
            c=c,
            targets=targets,
            wrong=wrong,
            is_wrong=is_wrong,
            z=z,
            z2=z2,
            cut=torch.where(mixed, cut, shape.num_ws),
            seeds=draw_seeds(config.batch, random),
            augmentation=torch.stack(draws, dim=1),
        )

    @torch.no_grad()
    def _anchors(self, whole: _Batch, parts: list[_Batch]) -> list[tuple[Tensor, Tensor]]:
        """For each part, the latents that the first mapping network gave, and their variance in the batch."""
        if not self.config.anchor:
            return []
        mapping = self.networks.first_mapping
        everyones = mapping(whole.z.to(self.device), whole.c.to(self.device))[:, 0]
        scale = everyones.var(dim=0, correction=min(1, len(whole) - 1)).mean().clamp_min(1e-8)
        return [(mapping(part.z, part.c)[:, 0], scale) for part in parts]

    def _generator_terms(
        self, part: _Batch, whole: _Batch, turn: int, anchors: list[tuple[Tensor, Tensor]]
    ) -> tuple[Terms, Tensor, Tensor]:
        """The terms of a part of the batch, the pictures made, and their w."""
        config, networks = self.config, self.networks
        mapping = networks.generator.mapping
        ws = mapping(part.z, part.c)
        with torch.no_grad():
            other = mapping(part.z2, part.c) if config.style_mixing > 0 else ws
        layers = torch.arange(ws.shape[1], device=ws.device)[None, :, None]
        fake = networks.generator.synthesis(
            torch.where(layers >= part.cut[:, None, None], other, ws),
            noise_mode=RowNoise(part.seeds, self.device) if config.noise else "none",
        )
        logits = networks.discriminator(networks.augmentation(fake, part.augmentation[:, 0]), part.c)
        terms: dict[str, tuple[float, Tensor]] = {"generator": (1.0, generator_loss(logits))}
        if config.clip_weight > 0:
            cosine, contrast = self._guidance(fake, whole.targets, turn)
            terms["clip_distance"] = config.clip_weight, cosine
            terms["clip_contrast"] = config.clip_weight * config.contrastive, contrast
        if anchors:
            first_w, scale = anchors[turn]
            terms["anchor"] = config.anchor, (ws[:, 0] - first_w).square().mean() / scale
        return terms, fake, ws[:, 0]

    def _guidance(self, fake: Tensor, targets: Tensor, turn: int) -> tuple[Tensor, Tensor]:
        """CLIP's judgement of this turn's pictures, those of all processes, of which it sees a share."""
        everyones = targets[turn :: self.turns]
        seen = max(1, round(self.config.clip_share * len(everyones)))
        own = -(-seen // self.processes.count)
        embeddings = self.processes.gather(self.clip.encode_images(fake[:own]))[:seen]
        return guidance(embeddings, everyones[:seen].to(self.device), self.clip.logit_scale)

    def _discriminator_terms(
        self, part: _Batch, fake: Tensor, whole: _Batch, penalize: bool
    ) -> tuple[Terms, Tensor]:
        """The terms of a part of the batch, and the logits [N, 1] of real pairs."""
        config, networks = self.config, self.networks
        discriminator, augmentation = networks.discriminator, networks.augmentation
        real = to_floats((self._ahead or self.data).batch(part.chosen.tolist())).to(self.device)
        real = real.contiguous(memory_format=torch.channels_last)
        features = discriminator.features(augmentation(real, part.augmentation[:, 1]))
        right = discriminator.b4.logits(features, part.c)
        made = discriminator(augmentation(fake, part.augmentation[:, 2]), part.c)
        terms: dict[str, tuple[float, Tensor]] = {
            "real": (1.0, F.softplus(-right).mean()),
            "fake": (1 / (1 + config.matching), F.softplus(made).mean()),
        }
        if config.matching > 0:
            # The mean over all that are wrong in the batch; this part may have more or less than its share.
            refused = F.softplus(discriminator.b4.logits(features, part.wrong))[part.is_wrong].sum()
            share = max(1, int(whole.is_wrong.sum())) * len(part) / len(whole)
            terms["mismatched"] = config.matching / (1 + config.matching), refused / share
        if penalize:
            penalty = r1_penalty(lambda images: discriminator(images, part.c), real)
            terms["r1"] = config.r1_gamma / 2 * config.r1_interval, penalty
        terms["augmentation"] = 0.0, augmentation.p.clone()
        return terms, right

    def fit_memory(self, gigabytes: float, record: Path) -> None:
        """Take as few turns for a batch as this memory allows, measured by steps that change nothing."""
        share = len(self.processes.rows([self.config.batch]))

        def trial(size: int) -> None:
            self.turns = share // size
            whole = self._draw(step_generator(self.config.seed, -(2**43)))
            part = whole.part(self.processes.rows([len(whole)], 0, self.turns), self.device)
            terms, fake, _ = self._generator_terms(part, whole, 0, self._anchors(whole, [part]))
            _backward(terms)
            terms, _ = self._discriminator_terms(part, fake.detach(), whole, penalize=True)
            _backward(terms)
            self.networks.generator_optimizer.zero_grad()
            self.networks.discriminator_optimizer.zero_grad()

        def most(gigabytes: float) -> float:
            return float(self.processes.gather(torch.tensor([gigabytes], device=self.device)).max())

        networks = self.networks
        trained = [*networks.generator.parameters(), *networks.discriminator.parameters()]
        moments = 2 * sum(parameter.nbytes for parameter in trained)
        group = math.gcd(self.config.batch, MINIBATCH_STD_GROUP)
        size = largest_part(trial, share, gigabytes, moments, self.device, record, multiple=group, agree=most)
        self.turns = share // size

    def finished_generator(self) -> Generator:
        """The averaged generator, in float32."""
        generator = Generator(self.shape)
        generator.load_state_dict(self.networks.generator_ema.state_dict())
        generator.licence = self.licence
        return generator.eval().requires_grad_(False)

    @torch.no_grad()
    def _preview(self, done: int) -> dict[str, float]:
        """Write a sheet, a row for each text and a column for each seed; the mean cosine with the texts."""
        generator, count = self.networks.generator_ema, len(self.preview_texts)
        c = self.preview_texts.repeat_interleave(PREVIEW_SEEDS, dim=0)
        seeds = torch.Generator().manual_seed(0)
        z = torch.randn(PREVIEW_SEEDS, self.shape.z_dim, generator=seeds).repeat(count, 1)
        noise_mode = "const" if self.config.noise else "none"
        number = pictures_at_once(self.shape.img_resolution, self.device)
        parts = zip(z.to(self.device).split(number), c.split(number), strict=True)
        images = torch.cat([generator(*part, noise_mode=noise_mode) for part in parts])
        save_grid(
            images,
            self.run.samples / f"{done:08d}.png",
            PREVIEW_SEEDS * 4 if count % 4 == 0 else PREVIEW_SEEDS,
        )
        embeddings = torch.cat([self.clip.encode_images(part) for part in images.split(number)])
        return {"clip_score": float((embeddings * c).sum(1).mean())}

    def write_bundle(self, step: int) -> None:
        """Write what is at hand as a bundle without a mapper."""
        path = self.run.path / "bundle"
        generator = self.finished_generator().to(self.device)
        info = BundleInfo(
            name=self.run.path.name,
            description=f"Trained by clip2gan train-gan --condition clip for {step} steps.",
            licences={} if self.licence is None else {"generator": self.licence},
        )
        write_bundle(path, generator, self.clip, {}, self.gap, info=info)
        save_generator(generator, path.parent / "generator.safetensors")


def _backward(terms: Terms) -> None:
    torch.stack([weight * value for weight, value in terms.values()]).sum().backward()


def settings_of(config: GanTraining, shape: GeneratorConfig) -> dict[str, Any]:
    """All that decides what a training computes, in one level."""
    return {**dataclasses.asdict(config), "generator": dataclasses.asdict(shape)}

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
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from clip2gan.bundle import BundleInfo, write_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.data.captioned import Captioned
from clip2gan.data.samples import plain_prompts, to_floats
from clip2gan.gap import Noise, TextSide
from clip2gan.training.gan_presets import GanTraining
from clip2gan.training.memory import largest_part
from clip2gan.training.start import Start
from clip2gan.training.text_mapping import TextMapping, at_once, encode_all, new_flow
from stylegan2 import Generator, GeneratorConfig, save_generator
from stylegan2.discriminator import Discriminator, copy_trunk
from stylegan2.layers import half_dtype
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder, pack, step_generator, unpack
from stylegan2.training.augment import Augmentation
from stylegan2.training.losses import generator_loss, r1_penalty
from stylegan2.training.preview import save_grid

PREVIEW_TEXTS, PREVIEW_SEEDS = 16, 4
RAMP = 0.05  # of the adversarial phase, over which its rates rise


class Networks:
    """The networks of a training and their optimizers."""

    def __init__(self, config: GanTraining, start: Start, device: torch.device):
        torch.manual_seed(config.seed)
        half = len(start.shape.block_resolutions) if config.half else 0
        clamp = 256.0 if config.half and half_dtype(device) == torch.float16 else None
        shape = dataclasses.replace(start.shape, num_fp16_res=half, conv_clamp=clamp)
        self.generator = Generator(shape).to(device)
        start.fill(self.generator)
        self.generator_ema = Generator(shape).to(device).eval().requires_grad_(False)
        self.generator_ema.load_state_dict(self.generator.state_dict())
        self.first_mapping = deepcopy(self.generator.mapping).requires_grad_(False)
        self.discriminator = Discriminator(shape).to(device)
        if start.encoder is not None:
            copy_trunk(start.encoder, self.discriminator)
            # Not trained; kept, so that another run can start from a checkpoint of this one.
            self.encoder_ema = deepcopy(start.encoder).to(device).eval().requires_grad_(False)
        self.augmentation = Augmentation().to(device)
        self.flow = new_flow(self.generator).to(device)
        self.flow_optimizer = Adam(self.flow.parameters())
        self.mapping_optimizer = Adam(self.generator.mapping.parameters(), betas=(0.9, 0.99))
        groups = [
            {"params": list(self.generator.mapping.parameters())},
            {"params": list(self.generator.synthesis.parameters())},
        ]
        self.generator_optimizer = Adam(groups, betas=(0.0, 0.99))
        # Lazy R1 acts every r1_interval steps; this rescales Adam as if it acted, weaker, at each.
        self.r1_ratio = config.r1_interval / (config.r1_interval + 1)
        self.discriminator_optimizer = Adam(self.discriminator.parameters(), betas=(0.0, 0.99**self.r1_ratio))

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {name: part for name, part in vars(self).items() if name != "r1_ratio"}


def train_conditional(
    config: GanTraining,
    start: Start,
    data: Captioned,
    clip: ClipEncoder,
    run: RunFolder,
    *,
    max_memory: float | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
    checkpoint_seconds: float = 120,
    preview_seconds: float = 300,
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
        preview_seconds: between two sheets of pictures.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: the pictures do not fit the generator, memory does not suffice, or a loss is not finite;
            no checkpoint has it.
    """
    training = _Training(config, start, data, clip, run)
    processes = training.processes
    first = 0
    if (checkpoint := run.latest()) is not None:
        first, tensors, _ = checkpoint
        unpack(tensors, **training.networks.parts())
    if max_memory is not None and config.steps > 0:
        training.part = training.fitting_part(max_memory, run.path / "memory.json")

    saved = previewed = time.monotonic()
    for step in progress(range(first + 1, config.total_steps + 1)):
        random = step_generator(config.seed, step)
        torch.manual_seed(random.initial_seed())  # where synthesis draws its random noise from
        figures = training.step(step, random)
        done, now = step == config.total_steps, time.monotonic()
        milestone = done or step == config.mapping_steps
        if not processes.is_first:
            continue
        if step % (500 if step <= config.mapping_steps else 50) == 0 or milestone:
            run.log(step, **figures)
        if now - previewed > preview_seconds or milestone:
            run.log(step, clip_score=training.preview(run.samples / f"{step:08d}.png"))
            previewed = now
        if now - saved > checkpoint_seconds or milestone:
            run.save(step, pack(**training.networks.parts()), {"config": settings_of(config, start.shape)})
            training.write_bundle(run.path / "bundle", step)
            saved = time.monotonic()
    if processes.is_first and not (run.path / "bundle").is_dir():
        training.write_bundle(run.path / "bundle", config.total_steps)
    return run.path / "bundle"


@dataclass
class _Batch:
    """Pictures in [-1, 1], conditions c and the embeddings they are noisy forms of, and noise z, z2."""

    real: Tensor
    c: Tensor
    targets: Tensor
    images: Tensor
    z: Tensor
    z2: Tensor
    cut: Tensor

    def part(self, rows: slice) -> "_Batch":
        return _Batch(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def __len__(self) -> int:
        return len(self.real)


class _Training:
    """The steps of a training, with what they share."""

    def __init__(self, config: GanTraining, start: Start, data: Captioned, clip: ClipEncoder, run: RunFolder):
        self.config, self.data, self.clip, self.device = config, data, clip, clip.device
        self.processes = Processes(clip.device)
        self.rows = self.processes.rows([config.batch])
        self.part = len(self.rows)
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
        self.shape, self.name, self.licence = shape, run.path.name, start.licence
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
                self.networks,
                w,
                lambda rows, random: self.conditions(rows, random)[0],
                config.flow_guidance,
                config.mapping_steps,
                config.seed,
                run.path / "cache" / "pairs",
                self.processes,
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

    def step(self, step: int, random: torch.Generator) -> dict[str, float]:
        """One step of whichever phase; returns its figures."""
        config, networks = self.config, self.networks
        if step <= config.mapping_steps:
            assert self.mapping is not None
            optimizer, rate, name, loss = self.mapping.step(step / config.mapping_steps, random)
            optimizer.zero_grad()
            loss.backward()
            figures = self._shared(step, {name: float(loss.detach())})
            self._move(optimizer, [rate], step)
            self._average(step)
            return figures
        if step == config.mapping_steps + 1:
            networks.generator.load_state_dict(networks.generator_ema.state_dict())
            networks.first_mapping.load_state_dict(networks.generator.mapping.state_dict())

        batch = self._draw(random)
        share = (step - config.mapping_steps) / config.steps
        rate = learning_rate(share)
        networks.generator_optimizer.zero_grad()
        networks.discriminator.requires_grad_(False)
        figures, fakes, w = self._generator_losses(batch, random)
        figures = self._shared(step, figures)
        synthesis_lr = config.lr * rate if share > config.synthesis_start else 0.0
        self._move(networks.generator_optimizer, [config.mapping_lr * rate, synthesis_lr], step)
        networks.discriminator.requires_grad_(True)
        networks.discriminator_optimizer.zero_grad()
        more, real_logits = self._discriminator_losses(
            batch, fakes, random, penalize=step % config.r1_interval == 0
        )
        more = self._shared(step, more)
        self._move(
            networks.discriminator_optimizer, [config.discriminator_lr * networks.r1_ratio * rate], step
        )
        networks.generator.mapping.w_avg.lerp_(w.mean(dim=0), 0.005)
        if config.augment > 0:
            sign = self.processes.average([real_logits])[0]
            networks.augmentation.adapt(sign, config.augment, config.augment_images)
            more["augmentation"] = float(networks.augmentation.p)
        self._average(step)
        return {**figures, **more}

    def _draw(self, random: torch.Generator) -> _Batch:
        """This process's rows of a step's batch; all processes draw the same random numbers."""
        config, shape = self.config, self.shape
        chosen = torch.randint(len(self.data), (config.batch,), generator=random)
        c, targets = self.conditions(chosen, random)
        z, z2 = torch.randn(2, config.batch, shape.z_dim, generator=random)
        cut = torch.randint(1, shape.num_ws, (config.batch,), generator=random)
        mixed = torch.rand(config.batch, generator=random) < config.style_mixing
        cut = torch.where(mixed, cut, shape.num_ws)
        real = to_floats(self.data.batch(chosen[self.rows].tolist()))
        images = self.data.images[chosen]
        rest = (part[self.rows].to(self.device) for part in (c, targets, images, z, z2, cut))
        return _Batch(real.to(self.device).contiguous(memory_format=torch.channels_last), *rest)

    def _parts(self, batch: _Batch) -> list[_Batch]:
        return [batch.part(slice(start, start + self.part)) for start in range(0, len(batch), self.part)]

    def _generator_losses(
        self, batch: _Batch, random: torch.Generator
    ) -> tuple[dict[str, float], list[Tensor], Tensor]:
        """Leave the gradients of the generator; returns figures, the pictures made, and their w."""
        config, networks = self.config, self.networks
        mapping = networks.generator.mapping
        figures, fakes, latents = _Sums(), [], []
        with torch.no_grad():
            first_ws = networks.first_mapping(batch.z, batch.c)[:, 0]
        scale = first_ws.var(dim=0).mean().clamp_min(1e-8) if len(batch) > 1 else 1.0
        for part, first_w in zip(self._parts(batch), first_ws.split(self.part), strict=True):
            ws = mapping(part.z, part.c)
            with torch.no_grad():
                other = mapping(part.z2, part.c) if config.style_mixing > 0 else ws
            layers = torch.arange(ws.shape[1], device=ws.device)[None, :, None]
            fake = networks.generator.synthesis(
                torch.where(layers >= part.cut[:, None, None], other, ws),
                noise_mode="random" if config.noise else "none",
            )
            logits = networks.discriminator(networks.augmentation(fake, random), part.c)
            terms = {"generator": (1.0, generator_loss(logits))}
            if config.clip_weight > 0:
                seen = max(1, round(config.clip_share * len(part)))
                embeddings = self.clip.encode_images(fake[:seen])
                cosine, contrast = guidance(embeddings, part.targets[:seen], self.clip.logit_scale)
                terms["clip_distance"] = (config.clip_weight, cosine)
                terms["clip_contrast"] = (config.clip_weight * config.contrastive, contrast)
            if config.anchor > 0:
                terms["anchor"] = (config.anchor, (ws[:, 0] - first_w).square().mean() / scale)
            share = len(part) / len(batch)
            (share * torch.stack([weight * value for weight, value in terms.values()]).sum()).backward()
            figures.add(share, {name: value for name, (_, value) in terms.items()})
            fakes.append(fake.detach())
            latents.append(ws[:, 0].detach())
        return figures.values, fakes, torch.cat(latents)

    def _discriminator_losses(
        self, batch: _Batch, fakes: list[Tensor], random: torch.Generator, penalize: bool
    ) -> tuple[dict[str, float], Tensor]:
        """Leave the gradients of the discriminator; returns figures, and logits [N, 1] of real pairs."""
        config, networks = self.config, self.networks
        discriminator = networks.discriminator
        figures, logits = _Sums(), []
        for part, fake in zip(self._parts(batch), fakes, strict=True):
            features = discriminator.features(networks.augmentation(part.real, random))
            right = discriminator.b4.logits(features, part.c)
            made = discriminator(networks.augmentation(fake, random), part.c)
            terms = {"real": F.softplus(-right).mean(), "fake": F.softplus(made).mean()}
            false = terms["fake"]
            if config.matching > 0:
                wrong, is_wrong = mismatched(part.c, part.targets, part.images)
                refused = F.softplus(discriminator.b4.logits(features, wrong))[is_wrong]
                terms["mismatched"] = refused.mean() if len(refused) else refused.sum()
                false = (false + config.matching * terms["mismatched"]) / (1 + config.matching)
            loss = terms["real"] + false
            if penalize:
                terms["r1"] = r1_penalty(lambda x, c=part.c: discriminator(x, c), part.real)
                loss = loss + config.r1_gamma / 2 * config.r1_interval * terms["r1"]
            share = len(part) / len(batch)
            (share * loss).backward()
            figures.add(share, terms)
            logits.append(right.detach())
        return figures.values, torch.cat(logits)

    def _shared(self, step: int, figures: dict[str, float]) -> dict[str, float]:
        """Figures averaged over the processes. Raises ValueError where one is not finite."""
        (mean,) = self.processes.average([torch.tensor(list(figures.values()), device=self.device)])
        figures = dict(zip(figures, mean.tolist(), strict=True))
        if bad := [name for name, value in figures.items() if not math.isfinite(value)]:
            raise ValueError(f"step {step}: the loss {', '.join(bad)} is not finite; try a lower lr")
        return figures

    def _move(self, optimizer: torch.optim.Optimizer, rates: list[float], step: int) -> None:
        """A step of `optimizer`, its groups at these rates, by the mean gradients of all processes."""
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient, mean in zip(gradients, self.processes.average(gradients), strict=True):
            gradient.copy_(mean)
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            raise ValueError(f"step {step}: the gradient is not finite; try a lower lr")
        optimizer.step()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        # Short at first, to forget the start of each phase.
        config = self.config
        done = step if step <= config.mapping_steps else step - config.mapping_steps
        half_life = min(config.ema_images, 0.05 * done * config.batch)
        keep = 0.5 ** (config.batch / max(half_life, 1e-8))
        model, average = self.networks.generator, self.networks.generator_ema
        for target, source in zip(average.parameters(), model.parameters(), strict=True):
            target.lerp_(source, 1 - keep)
        for target, source in zip(average.buffers(), model.buffers(), strict=True):
            target.copy_(source)

    def fitting_part(self, gigabytes: float, memory: Path) -> int:
        """How many pictures to compute at once within this memory, measured by steps that change nothing."""

        def trial(part: int) -> None:
            self.part = part
            random = step_generator(self.config.seed, -(2**43))
            batch = self._draw(random).part(slice(0, part))
            _, fakes, _ = self._generator_losses(batch, random)
            self._discriminator_losses(batch, fakes, random, penalize=True)
            self.networks.generator_optimizer.zero_grad()
            self.networks.discriminator_optimizer.zero_grad()

        networks = self.networks
        trained = [*networks.generator.parameters(), *networks.discriminator.parameters()]
        later = 0 if networks.generator_optimizer.state else 2 * sum(p.nbytes for p in trained)
        return largest_part(trial, len(self.rows), gigabytes, later, self.device, memory)

    def finished_generator(self) -> Generator:
        """The averaged generator, in float32."""
        generator = Generator(self.shape)
        generator.load_state_dict(self.networks.generator_ema.state_dict())
        generator.licence = self.licence
        return generator.eval().requires_grad_(False)

    @torch.no_grad()
    def preview(self, path: Path) -> float:
        """Write a sheet, a row for each text and a column for each seed; the mean cosine with the texts."""
        generator, count = self.networks.generator_ema, len(self.preview_texts)
        c = self.preview_texts.repeat_interleave(PREVIEW_SEEDS, dim=0)
        seeds = torch.Generator().manual_seed(0)
        z = torch.randn(PREVIEW_SEEDS, self.shape.z_dim, generator=seeds).repeat(count, 1)
        noise_mode = "const" if self.config.noise else "none"
        number = at_once(self.shape.img_resolution)
        parts = zip(z.to(self.device).split(number), c.split(number), strict=True)
        images = torch.cat([generator(*part, noise_mode=noise_mode) for part in parts])
        save_grid(images, path, PREVIEW_SEEDS * 4 if count % 4 == 0 else PREVIEW_SEEDS)
        embeddings = torch.cat([self.clip.encode_images(part) for part in images.split(number)])
        return float((embeddings * c).sum(1).mean())

    def write_bundle(self, path: Path, step: int) -> None:
        """Write what is at hand as a bundle without a mapper."""
        generator = self.finished_generator().to(self.device)
        info = BundleInfo(
            name=self.name,
            description=f"Trained by clip2gan train-gan --condition clip for {step} steps.",
            licences={} if self.licence is None else {"generator": self.licence},
        )
        write_bundle(path, generator, self.clip, {}, self.gap, info=info)
        save_generator(generator, path.parent / "generator.safetensors")


def learning_rate(share: float) -> float:
    """What rates are multiplied by: a ramp, then half a cosine to a tenth, over a phase of which `share` is
    done."""
    return min(1.0, share / RAMP) * (0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * share)))


class _Sums:
    """Figures of parts, summed by the parts' shares."""

    def __init__(self):
        self.values: dict[str, float] = {}

    def add(self, share: float, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.values[name] = self.values.get(name, 0.0) + share * float(value.detach())


def guidance(images: Tensor, texts: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """CLIP's judgement of pictures' and their texts' unit embeddings [N, D], two scalars.

    1 - cosine, averaged; and the contrastive loss that CLIP itself is trained with (Radford et al. 2021,
    figure 3), over the batch: each picture has to be told from the others by its text, and the reverse.
    """
    logits = logit_scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return 1 - (images * texts).sum(1).mean(), contrast


def mismatched(c: Tensor, targets: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The condition of the picture before, for each, and whether it is wrong there [N].

    It counts as wrong where CLIP finds it less like the picture than its own. All are [N, D].
    """
    own, others = (images * targets).sum(1), (images * targets.roll(1, 0)).sum(1)
    return c.roll(1, 0), others < own


def settings_of(config: GanTraining, shape: GeneratorConfig) -> dict[str, Any]:
    """All that decides what a training computes, in one level."""
    return {**dataclasses.asdict(config), "generator": dataclasses.asdict(shape)}

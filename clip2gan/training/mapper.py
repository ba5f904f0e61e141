"""Training a mapper: pictures through CLIP, the mapper and the frozen generator, back to the pictures.

No caption has a part in it. A step takes pictures, drawn from the generator or from disk, embeds them with
CLIP's image tower, adds the gap's noise, maps the embeddings to latents, and compares what the generator
makes of these with the pictures. Before that come quick steps that fit cached pairs of latent and embedding
only; they bring the mapper where pictures are worth comparing.

A stopped run goes on exactly: all randomness of a step comes from (seed, step).
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from clip2gan.bundle import BundleInfo, write_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.data.pictures import Pictures
from clip2gan.data.samples import Samples, draw_samples, embed_pictures, plain_prompts
from clip2gan.domain import Domain
from clip2gan.gap import Gap, fit_gap, gap_figures
from clip2gan.images import write_png
from clip2gan.mappers import Mapper, load_mapper, new_mapper, save_mapper
from clip2gan.training.adversary import Adversary, average
from clip2gan.training.objective import Networks, Objective
from clip2gan.training.presets import SAMPLED, MapperTraining
from clip2gan.training.processes import Processes
from clip2gan.training.validation import SCORE, Validation, held_out
from stylegan2 import Generator
from stylegan2.runs import RunFolder, pack, step_generator, unpack

RAMP_STEPS = 100  # over which each phase's learning rate rises
PREVIEWS = 10  # over a run
BEST = "best.safetensors"  # beside the checkpoints: the mapper that did best on what is held out


def train_mapper(
    config: MapperTraining,
    generator: Generator,
    clip: ClipEncoder,
    pictures: Sequence[Pictures],
    run: RunFolder,
    *,
    domain: Domain | None = None,
    networks: Networks | None = None,
    checkpoint_seconds: float = 60,
) -> Path:
    """Train a mapper in `run`, from its newest checkpoint if it has one, and write `run.path / "bundle"`.

    Args:
        config: the settings.
        generator: frozen; its weights do not change.
        clip: frozen likewise, on the generator's device.
        pictures: the opened sources of `config.data` other than "sampled", at the generator's resolution.
        run: its folder.
        domain: of the generator's pictures, for the bundle; None: one of the run's name.
        networks: those of the loss; None: loaded here.
        checkpoint_seconds: at most this much work is lost by a kill.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: a loss, a gradient or a weight is not finite; no checkpoint has it.
        OSError: a network that a loss needs is not at hand.
    """
    device = clip.device
    processes = Processes(device)
    networks = networks or Networks.load(config, device)
    cache = run.path / "cache"
    samples = draw_samples(generator, clip, config.samples, config.seed, cache / SAMPLED, processes)
    prompts = plain_prompts(config.prompts, domain)
    gap, gap_report = _fit_gap(
        config, clip, samples, pictures, prompts=prompts, cache=cache, processes=processes
    )
    validation = Validation.draw(config, generator, clip, pictures, gap, prompts)

    mapper = untrained_mapper(config, generator, clip)
    mapper.fit_statistics(gap.from_image(samples.embeddings), samples.w)
    mapper = mapper.to(device)
    averaged = deepcopy(mapper).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(mapper.parameters(), lr=config.lr, betas=(0.9, 0.99))
    # Small gradients would vanish in 16 bits of this kind.
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    parts: dict[str, nn.Module | Optimizer] = {"mapper": mapper, "average": averaged, "optimizer": optimizer}
    adversary = None
    if config.weights.adversarial and config.steps:
        adversary = Adversary(config.adversary, generator, config.seed, device)
        parts |= {"discriminator": adversary.discriminator, "discriminator_optimizer": adversary.optimizer}

    first, best = 0, -math.inf
    checkpoint = run.latest()
    if checkpoint is not None:
        first, tensors, extra = checkpoint
        unpack(tensors, **parts)
        best = extra.get("best", best)
        scaler.load_state_dict(extra.get("scaler", {}))

    total = config.warmup_steps + config.steps
    drawn = [len(source) - held_out(config, source) for source in pictures]
    objective = Objective(
        config=config,
        generator=generator,
        clip=clip,
        pictures=pictures,
        drawn=drawn,
        samples=samples,
        gap=gap,
        mapper=mapper,
        adversary=adversary,
        networks=networks,
        processes=processes,
    )
    figures = _Means()
    validated: dict[str, float] = {}
    warned = False
    saved = time.monotonic()
    for step in tqdm(range(first, total), "training", total, initial=first, disable=None, leave=False):
        if step == config.warmup_steps:
            optimizer.state.clear()  # the second moments of another loss
            figures.clear()
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        values = _gradients(step, config, objective, optimizer, scaler)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if adversary is not None and step >= config.warmup_steps:
            adversary.step(step, processes)
        _move_average(averaged, mapper, min(config.ema, (1 + step) / (10 + step)))

        done = step + 1
        if not processes.is_first:
            continue
        figures.add(values)
        if done % max(1, total // PREVIEWS) == 0 or done == total:
            sheet, validated = validation.preview(averaged)
            write_png(run.samples / f"{done:08d}.png", sheet, {"prompts": validation.prompts})
            validated |= validation.reconstruction(averaged)
            if not warned and done >= total // 2:
                warned = validation.warn_if_deaf(validated["text_top1"])
            if validated.get(SCORE, -math.inf) > best:
                best = validated[SCORE]
                save_mapper(averaged, run.path / "checkpoints" / BEST)
            run.log(done, **figures.pop(), **validated, lr=rate)
        elif done % (50 if step >= config.warmup_steps else 500) == 0:
            run.log(done, **figures.pop(), lr=rate)
        if time.monotonic() - saved > checkpoint_seconds or done == total:
            extra = {"best": best} if math.isfinite(best) else {}
            run.save(done, pack(**parts), extra | {"scaler": scaler.state_dict()})
            saved = time.monotonic()

    bundle = run.path / "bundle"
    if not processes.is_first:
        return bundle
    if math.isfinite(best):
        averaged = load_mapper(run.path / "checkpoints" / BEST, device)
    info = BundleInfo(
        name=run.path.name,
        domain=domain,
        description=f"Trained by clip2gan train-mapper for {total} steps.",
        licences={} if generator.licence is None else {"generator": generator.licence},
        figures=({"what": "modality gap", "value": gap_report, "command": "clip2gan train-mapper"},),
    )
    write_bundle(bundle, generator, clip, {config.mapper: averaged}, gap, info=info)
    return bundle


def untrained_mapper(config: MapperTraining, generator: Generator, clip: ClipEncoder) -> Mapper:
    """The mapper of `config` for this generator and CLIP, its weights drawn from the seed.

    Raises ValueError for an unknown kind or setting.
    """
    sizes = {"embed_dim": clip.embed_dim, "num_ws": generator.num_ws, "w_dim": generator.config.w_dim}
    if given := sizes.keys() & config.mapper_settings.keys():
        raise ValueError(f"{', '.join(sorted(given))}: given by CLIP and the generator, and no setting")
    mapper = new_mapper(config.mapper, {**config.mapper_settings, **sizes})
    mapper.init_weights(step_generator(config.seed, -(2**40)))
    return mapper


def learning_rate(config: MapperTraining, step: int) -> float:
    """A ramp, then what the schedule says: from warmup_lr in the warm-up, from lr after it."""
    warm = step < config.warmup_steps
    start, length = (0, config.warmup_steps) if warm else (config.warmup_steps, config.steps)
    top = config.warmup_lr if warm else config.lr
    decay = 1.0
    if config.schedule == "cosine":
        decay = 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * (step - start) / length))
    return top * decay * min(1.0, (step - start + 1) / RAMP_STEPS)


def _gradients(
    step: int,
    config: MapperTraining,
    objective: Objective,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """Leave the whole batch's gradients in the mapper and the adversary; returns the terms' values.

    Raises ValueError where a term or the mapper's gradient is not finite.
    """
    processes, adversary = objective.processes, objective.adversary
    remedy = f"begin another run with a lower {'warmup_lr' if step < config.warmup_steps else 'lr'}"
    sums: dict[str, Tensor] = {}
    for turn in range(config.accumulate):
        terms = objective(step, turn)
        scaler.scale(terms.total() / config.accumulate).backward()
        values = terms.values()
        if adversary is not None and (pair := terms.compared) is not None:
            values |= adversary.learn(step, pair.real, pair.fake, pair.places, 1 / config.accumulate)
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value / config.accumulate
    means = dict(zip(sums, processes.average(list(sums.values())), strict=True))
    if bad := [name for name, value in means.items() if not value.isfinite()]:
        raise ValueError(f"step {step}: the loss {', '.join(bad)} is not finite; {remedy}")
    parameters = objective.mapper.parameters()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    average(processes, gradients)
    scaler.unscale_(optimizer)
    # With a scale, one that is too large shows so; the step is left out then, and the next scale is smaller.
    if not nn.utils.get_total_norm(gradients).isfinite() and scaler.get_scale() <= 1:
        raise ValueError(f"step {step}: the gradient of {' + '.join(means)} is not finite; {remedy}")
    return {name: value.item() for name, value in means.items()}


class _Means:
    """Means of figures since they were last taken."""

    def __init__(self):
        self._values: list[dict[str, float]] = []

    def add(self, figures: dict[str, float]) -> None:
        self._values.append(figures)

    def clear(self) -> None:
        self._values.clear()

    def pop(self) -> dict[str, float]:
        means = {}
        for name in {name: None for row in self._values for name in row}:
            found = [row[name] for row in self._values if name in row]  # some are not of every step
            means[name] = sum(found) / len(found)
        self.clear()
        return means


def _fit_gap(
    config: MapperTraining,
    clip: ClipEncoder,
    samples: Samples,
    pictures: Sequence[Pictures],
    *,
    prompts: Sequence[str],
    cache: Path,
    processes: Processes,
) -> tuple[Gap, str]:
    """The gap between all sources' pictures, in random order, and the plain prompts; and its figures."""
    parts = [samples.embeddings] if SAMPLED in config.data else []
    parts += [
        embed_pictures(source, clip, cache / f"pictures-{index}", processes)
        for index, source in enumerate(pictures)
    ]
    embeddings = torch.cat(parts)
    order = torch.randperm(len(embeddings), generator=step_generator(config.seed, -(2**41)))
    texts = clip.encode_texts(list(prompts))
    fitted = fit_gap(config.gap, embeddings[order], texts, clip.logit_scale, config.noise)
    gap = dataclasses.replace(fitted, **config.gap_settings)
    figures = gap_figures(gap, embeddings, texts)
    return gap, (
        f"texts are {figures['gap_before']:.3f} from pictures, in the mean, and "
        f"{figures['gap_after']:.3f} with the remedy {config.gap}; the cosine to the nearest picture is "
        f"{figures['near_before']:.3f} and {figures['near_after']:.3f}"
    )


@torch.no_grad()
def _move_average(average: Mapper, mapper: Mapper, keep: float) -> None:
    for mean, value in zip(average.parameters(), mapper.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)

"""Training a mapper: pictures through CLIP, the mapper and the frozen generator, back to the pictures.

No caption has a part in it. A step takes pictures, drawn from the generator or from disk, embeds them with
CLIP's image tower, adds the gap's noise, maps the embeddings to latents, and compares what the generator
makes of these with the pictures. Before that come quick steps that fit cached pairs of latent and embedding
only; they bring the mapper where pictures are worth comparing.

A stopped run goes on exactly: all randomness of a step comes from (seed, step).
"""

import dataclasses
import logging
import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from clip2gan.bundle import BundleInfo, check_place, write_bundle
from clip2gan.clip import ClipEncoder
from clip2gan.data.drawn import open_drawn
from clip2gan.data.pictures import Pictures
from clip2gan.data.samples import Samples, draw_samples, embed_drawn, embed_pictures, plain_prompts
from clip2gan.devices import resolve_precision
from clip2gan.domain import Domain
from clip2gan.gap import Gap, fit_gap, gap_figures
from clip2gan.images import write_png
from clip2gan.mappers import Mapper, load_mapper, new_mapper, save_mapper
from clip2gan.training.adversary import Adversary, Compared
from clip2gan.training.calibration import Parts, calibrate
from clip2gan.training.objective import Networks, Objective
from clip2gan.training.settings import SAMPLED, MapperTraining
from clip2gan.training.validation import SCORE, Validation, held_out
from stylegan2 import Generator
from stylegan2.processes import Processes
from stylegan2.runs import RunFolder, step_generator
from stylegan2.training.engine import Phase, Step, Task, Terms, Trainer, Update, Updates
from stylegan2.training.schedule import rate_factor

RAMP_STEPS = 100  # over which each phase's learning rate rises
CALIBRATION_SHARE = 0.1  # of the time of the training, that calibration takes at most
PREVIEWS = 10  # over a run
BEST = "best.safetensors"  # beside the checkpoints: the mapper that did best on what is held out

logger = logging.getLogger(__name__)


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
        ValueError: losses or gradients were not finite for many steps in a row; no checkpoint has them; or
            `config.samples_from` was drawn from another generator.
        OSError: a network that a loss needs is not at hand.
    """
    processes = Processes(clip.device)
    bundle = run.path / "bundle"
    check_place(bundle)
    config = dataclasses.replace(config, precision=resolve_precision(config.precision, clip.device))
    networks = networks or Networks.load(config, clip.device)
    cache = run.path / "cache"
    samples = _load_pairs(config, generator, clip, cache / SAMPLED, processes)
    prompts = plain_prompts(config.prompts, domain)
    gap, gap_report = _fit_gap(
        config, clip, samples, pictures, prompts=prompts, cache=cache, processes=processes
    )
    mapper = untrained_mapper(config, generator, clip)
    mapper.fit_statistics(gap.from_image(samples.embeddings), samples.w)
    mapper = mapper.to(clip.device)
    adversary = None
    if config.weights.adversarial and config.steps:
        adversary = Adversary(config.adversary, generator, config.seed, clip.device, config.compared)
    objective = Objective(
        config=config,
        generator=generator,
        clip=clip,
        pictures=pictures,
        drawn=[len(source) - held_out(config, source) for source in pictures],
        samples=samples,
        gap=gap,
        mapper=mapper,
        adversary=adversary,
        networks=networks,
        processes=processes,
    )
    validation = Validation.draw(config, generator, clip, pictures, gap, prompts)
    training = _Training(config, objective, validation, run)
    Trainer(training.task(), run, processes, config.seed, checkpoint_seconds).train()

    if processes.is_first:
        mapper = training.best()
        measured = calibrate(
            Parts(generator, clip, mapper, gap, samples),
            domain or Domain(name=run.path.name or "pictures"),
            prompts,
            seconds=CALIBRATION_SHARE * run.seconds,
            seed=config.seed,
        )
        info = BundleInfo(
            name=run.path.name,
            domain=measured,
            description=f"Trained by clip2gan train-mapper for {config.warmup_steps + config.steps} steps.",
            licences={} if generator.licence is None else {"generator": generator.licence},
            figures=({"what": "modality gap", "value": gap_report, "command": "clip2gan train-mapper"},),
        )
        write_bundle(bundle, generator, clip, {config.mapper: mapper}, gap, info=info)
    return bundle


class _Training:
    """The two phases of a mapper's training, its previews, and the best mapper."""

    def __init__(self, config: MapperTraining, objective: Objective, validation: Validation, run: RunFolder):
        self.config, self.objective, self.validation, self.run = config, objective, validation, run
        self.mapper, self.adversary = objective.mapper, objective.adversary
        self.average = deepcopy(self.mapper).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.mapper.parameters(), lr=config.lr, betas=(0.9, 0.99))
        self.state: dict[str, float] = {}
        self._warned = False

    def task(self) -> Task:
        config = self.config
        parts: dict[str, nn.Module | Optimizer] = {
            "mapper": self.mapper,
            "average": self.average,
            "optimizer": self.optimizer,
        }
        if self.adversary is not None:
            parts["discriminator"] = self.adversary.discriminator
            parts["discriminator_optimizer"] = self.adversary.optimizer
        averages = [(self.mapper, self.average)]
        warmup = Phase(
            steps=config.warmup_steps,
            step=self._warm_up,
            averages=averages,
            ema=config.ema,
            log_every=500,
        )
        reconstruction = Phase(
            steps=config.steps,
            step=self._reconstruct,
            averages=averages,
            ema=config.ema,
            begin=self._forget_moments,
        )
        return Task(
            parts=parts,
            phases=[warmup, reconstruction],
            preview=self._preview,
            preview_every=max(1, (config.warmup_steps + config.steps) // PREVIEWS),
            state=self.state,
        )

    def best(self) -> Mapper:
        """The averaged mapper that did best on what is held out; the last one, where nothing is.

        The last one too, with a warning, where the file of the best one is lost.
        """
        if SCORE not in self.state:
            return self.average
        path = self.run.path / "checkpoints" / BEST
        try:
            best = load_mapper(path, self.objective.clip.device)
            if best.config != self.average.config:
                raise ValueError(f"{path}: a mapper of another training")
        except (ValueError, OSError) as error:
            logger.warning("%s; the mapper of the last step takes its place", error)
            return self.average
        return best

    def _rate(self, top: float, step: int, steps: int) -> float:
        return top * rate_factor(step, steps, ramp=RAMP_STEPS, shape=self.config.schedule)

    def _forget_moments(self) -> None:
        self.optimizer.state.clear()  # they are of another loss

    def _warm_up(self, step: Step) -> Updates:
        config = self.config
        yield Update(
            optimizer=self.optimizer,
            losses=lambda turn: self.objective.warmup(step.number, turn),
            rates=[self._rate(config.warmup_lr, step.index, config.warmup_steps)],
            turns=config.accumulate,
            precision=config.precision,
            remedy="warmup_lr",
        )

    def _reconstruct(self, step: Step) -> Updates:
        config, adversary = self.config, self.adversary
        compared: list[Compared] = []

        def losses(turn: int) -> Terms:
            terms, pictures = self.objective.reconstruction(step.number, turn)
            if adversary is not None:
                compared.append(pictures)
            return terms

        if adversary is not None:
            adversary.discriminator.requires_grad_(False)
        yield Update(
            optimizer=self.optimizer,
            losses=losses,
            rates=[self._rate(config.lr, step.index, config.steps)],
            turns=config.accumulate,
            precision=config.precision,
        )
        if adversary is not None:
            adversary.discriminator.requires_grad_(True)
            yield Update(
                optimizer=adversary.optimizer,
                losses=lambda turn: adversary.losses(step.number, compared[turn]),
                rates=[config.adversary.lr],
                turns=config.accumulate,
                remedy="adversary.lr or adversary.penalty",
            )

    def _preview(self, done: int) -> dict[str, float]:
        """Write a sheet, measure, and keep the mapper if it is the best so far."""
        validation = self.validation
        sheet, figures = validation.preview(self.average)
        write_png(self.run.samples / f"{done:08d}.png", sheet, {"prompts": validation.prompts})
        figures |= validation.reconstruction(self.average)
        if not self._warned and 2 * done >= self.config.warmup_steps + self.config.steps:
            self._warned = validation.warn_if_deaf(figures["text_rank"])
        if figures.get(SCORE, -math.inf) > self.state.get(SCORE, -math.inf):
            self.state[SCORE] = figures[SCORE]
            save_mapper(self.average, self.run.path / "checkpoints" / BEST)
        return figures


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


def _load_pairs(
    config: MapperTraining, generator: Generator, clip: ClipEncoder, cache: Path, processes: Processes
) -> Samples:
    """The pairs of latent and embedding: drawn now, or from a folder of samples."""
    if config.samples_from is None:
        return draw_samples(generator, clip, config.samples, config.seed, cache, processes)
    drawn = open_drawn(config.samples_from, generator, config.samples, config.samples_first)
    return embed_drawn(drawn, clip, cache, processes)


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

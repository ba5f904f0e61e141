"""Training a StyleGAN2 from pictures alone, in three phases that one run folder carries through.

    autoencoder   the synthesis network learns to give pictures back from an encoder's w
    mapping       the mapping network learns the encoder's distribution of w, by way of a flow (mapping.py)
    adversarial   the usual StyleGAN2 training, with the autoencoder's loss kept as a regulariser

The first two start the third within reach of the data, which small machines need: from scratch, adversarial
training takes millions of pictures. With `autoencoder_images=0` and `mapping_steps=0` it is plain StyleGAN2.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from stylegan2.discriminator import Encoder, check_groups, copy_trunk
from stylegan2.generator import Generator, save_generator
from stylegan2.processes import Processes, RowNoise, draw_seeds
from stylegan2.progress import progress_bar
from stylegan2.runs import RunFolder, step_generator, unpack
from stylegan2.training.config import TrainingConfig
from stylegan2.training.engine import Phase, Step, Task, Terms, Trainer, Update, Updates
from stylegan2.training.losses import (
    discriminator_loss,
    generator_loss,
    latent_scale_loss,
    r1_penalty,
    reconstruction_loss,
)
from stylegan2.training.mapping import Latents, Pairs
from stylegan2.training.mapping_phase import MappingPhase, PhaseSettings, track_w_avg
from stylegan2.training.networks import Networks
from stylegan2.training.preview import save_grid
from stylegan2.training.schedule import rate_factor

PREVIEWS, LEAST_STEPS = 40, 250  # over a run, and between two
PREVIEW_PICTURES = 32
FLOW_SHARE, MAPPING_LR = 0.25, 2.0  # of the mapping phase
MAPPING_PAIRS = 150_000  # at most
LOG_EVERY = 100  # steps


Distance = Callable[[Tensor, Tensor], Tensor]
"""Of pictures [N, 3, R, R], made and real."""


class Pictures(Protocol):
    """What is trained on: square RGB pictures."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> Tensor:
        """uint8 [len(indices), 3, R, R]."""
        ...

    def read_ahead(self, upcoming: Iterable[list[int]]) -> "Batches":
        """The same pictures, whose coming batches are known."""
        ...


class Batches(Protocol):
    """Pictures that may be read before they are asked for."""

    def batch(self, indices: list[int]) -> Tensor:
        """uint8 [len(indices), 3, R, R]."""
        ...


def train(
    config: TrainingConfig,
    pictures: Pictures,
    run: RunFolder,
    device: torch.device,
    perceptual: Distance | None = None,
    initial: Mapping[str, Tensor] | None = None,
    progress: Callable[[range], Iterable[int]] | None = None,
    checkpoint_seconds: float = 120,
) -> Generator:
    """Train, or go on from the newest checkpoint in `run`; returns the averaged generator, in float32.

    Writes checkpoints, figures and previews as it goes, and generator.safetensors at each checkpoint.
    `perceptual` is a distance of pictures [N, 3, R, R], made and real, for perceptual_weight > 0. `initial`
    holds weights to start from, of a checkpoint or of `averaged_networks`; their mapping network is left out
    where the mapping phase fits one. `progress` wraps the range of steps left.

    Raises InitialStateError, and ValueError when the pictures do not fit the generator, when the processes
    cannot share a batch, and when values were not finite for many steps in a row.
    """
    if config.perceptual_weight > 0 and perceptual is None:
        raise ValueError("perceptual_weight is above 0, but no perceptual distance is given")
    found, resolution = list(pictures.batch([0]).shape[1:]), config.generator.img_resolution
    if found != [config.generator.img_channels, resolution, resolution]:
        raise ValueError(f"pictures are {found}, the generator makes {resolution} px")
    processes = Processes(device)
    check_shares(config.batch, processes)
    networks = Networks(config, device)
    if initial is not None:
        _start_from(initial, networks, fit_mapping=config.mapping_steps > 0)
    training = _Training(config, networks, pictures, run, processes, perceptual)
    Trainer(training.task(), run, processes, config.seed, checkpoint_seconds).train(progress)
    return finished_generator(networks, config)


def check_shares(batch: int, processes: Processes) -> None:
    """Raise ValueError where the processes cannot share a batch so that each does its part as one would."""
    check_groups(batch, len(processes.rows([batch])))


def averaged_networks(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged generator and encoder of a training's checkpoint, in 16 bit, for `train` to start from."""
    return {
        name.replace("_ema/", "/"): tensor.half()
        for name, tensor in checkpoint.items()
        if name.startswith(("generator_ema/", "encoder_ema/"))
    }


class InitialStateError(ValueError):
    """The state to start from is of networks of another shape."""


def _start_from(initial: Mapping[str, Tensor], networks: Networks, fit_mapping: bool) -> None:
    initial = averaged_networks(initial) or initial
    try:
        unpack(initial, encoder=networks.encoder)
        if fit_mapping:
            synthesis = "generator/synthesis."
            initial = {name.replace(synthesis, "synthesis/"): tensor for name, tensor in initial.items()}
            unpack(initial, synthesis=networks.generator.synthesis)
        else:
            unpack(initial, generator=networks.generator)
    except ValueError as error:
        raise InitialStateError(f"{error}; give the checkpoint of a run of the same shape") from error
    networks.encoder_ema.load_state_dict(networks.encoder.state_dict())
    networks.generator_ema.load_state_dict(networks.generator.state_dict())


def finished_generator(networks: Networks, config: TrainingConfig) -> Generator:
    """The averaged generator with the float32 configuration that was asked for."""
    generator = Generator(config.generator)
    generator.load_state_dict(networks.generator_ema.state_dict())
    return generator.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(
    encoder: Encoder, pictures: Pictures, device: torch.device, processes: Processes, batch: int = 64
) -> Tensor:
    """The latents w [len(pictures), w_dim] of all pictures, each process having encoded its share."""
    count = len(pictures)
    rounds = -(-count // processes.count)
    own = [min(row * processes.count + processes.index, count - 1) for row in range(rounds)]
    parts = [own[start : start + batch] for start in range(0, rounds, batch)]
    shown = progress_bar(parts, f"encoding pictures [x{batch * processes.count}]", shown=processes.is_first)
    w = torch.cat([encoder(_to_images(pictures.batch(part), device)) for part in shown])
    return processes.gather(w)[:count]


@dataclass
class _Batch:
    """This process's rows of a batch, and the random numbers that belong to them.

    real: pictures [N, 3, R, R]. z: two latents a picture, [2, N, z_dim], of which the second is that of the
    layers from `cut` [N, 1, 1] on. w_noise: added to the encoder's w, [N, w_dim]. seeds: of the synthesis
    network's noise [N].
    """

    real: Tensor
    z: Tensor
    cut: Tensor
    w_noise: Tensor
    seeds: Tensor


class _Training:
    """The steps of all phases, with what they share."""

    def __init__(
        self,
        config: TrainingConfig,
        networks: Networks,
        pictures: Pictures,
        run: RunFolder,
        processes: Processes,
        perceptual: Distance | None,
    ):
        self.perceptual = perceptual
        self.config, self.networks, self.pictures, self.run = config, networks, pictures, run
        self.processes, self.device = processes, processes.device
        self._ahead: Batches | None = None
        self.rows = processes.rows([config.batch])

    def task(self) -> Task:
        config, networks = self.config, self.networks
        generator = (networks.generator, networks.generator_ema)
        encoder = (networks.encoder, networks.encoder_ema)
        ema = 0.5 ** (config.batch / config.ema_images)
        return Task(
            parts=networks.parts(),
            phases=[
                Phase(
                    steps=config.autoencoder_steps,
                    step=self._autoencode,
                    averages=[generator, encoder],
                    ema=ema,
                    log_every=LOG_EVERY,
                ),
                *self._mapping_phase().phases(ema),
                Phase(
                    steps=config.adversarial_steps,
                    step=self._compete,
                    averages=[generator, encoder],
                    ema=ema,
                    begin=self._begin_adversarial,
                    log_every=LOG_EVERY,
                ),
            ],
            preview=self._preview,
            preview_every=max(LEAST_STEPS, config.total_steps // PREVIEWS),
            saved=self._saved,
            state={"config": asdict(config)},
        )

    def _choose(self, random: torch.Generator) -> list[int]:
        """This process's pictures of a step: what a step draws first."""
        chosen = torch.randint(len(self.pictures), (self.config.batch,), generator=random)
        return chosen[self.rows].tolist()

    def _coming(self, first: int) -> Iterator[list[int]]:
        """The pictures of all steps that take some, from a step on."""
        config = self.config
        competing = config.autoencoder_steps + config.mapping_steps
        for number in range(first, config.total_steps):
            if number < config.autoencoder_steps or number >= competing:
                yield self._choose(step_generator(config.seed, number))

    def _draw(self, step: Step) -> _Batch:
        """All processes draw the same numbers for the whole batch."""
        config, shape, rows, random = self.config, self.config.generator, self.rows, step.random
        if self._ahead is None:
            self._ahead = self.pictures.read_ahead(self._coming(step.number))
        chosen = self._choose(random)
        z = torch.randn(2, config.batch, shape.z_dim, generator=random)
        cut = torch.randint(1, shape.num_ws, (config.batch,), generator=random)
        mixed = torch.rand(config.batch, generator=random) < config.style_mixing
        cut = torch.where(mixed, cut, shape.num_ws)
        w_noise = torch.randn(config.batch, shape.w_dim, generator=random)
        seeds = draw_seeds(config.batch, random)
        return _Batch(
            real=_to_images(self._ahead.batch(chosen), self.device),
            z=z[:, rows].to(self.device),
            cut=cut[rows, None, None].to(self.device),
            w_noise=w_noise[rows].to(self.device),
            seeds=seeds[rows],
        )

    def _autoencode(self, step: Step) -> Updates:
        config = self.config
        batch = self._draw(step)
        yield Update(
            optimizer=self.networks.autoencoder_optimizer,
            losses=lambda turn: self._reconstruction(batch, 1.0),
            rates=[config.autoencoder_lr * rate_factor(step.index, config.autoencoder_steps)],
            remedy="autoencoder_lr",
        )

    def _reconstruction(self, batch: _Batch, weight: float) -> Terms:
        """What is lost on the way through encoder and synthesis network; `weight` is that of all of it."""
        config, networks = self.config, self.networks
        w = networks.encoder(batch.real)
        noisy = w + config.latent_noise * batch.w_noise
        fake = networks.generator.synthesis(_broadcast(noisy, config), noise_mode="none")
        terms: dict[str, tuple[float, Tensor]] = {
            "reconstruction": (weight, reconstruction_loss(fake, batch.real, config.focus)),
            "l1": (0.0, (fake - batch.real).detach().abs().mean()),
            "latent_scale": (0.01 * weight, latent_scale_loss(self.processes.gather(w))),
        }
        if self.perceptual is not None and config.perceptual_weight > 0:
            distance = self.perceptual(fake, batch.real)
            terms["perceptual"] = weight * config.perceptual_weight, distance
        return terms

    def _mapping_phase(self) -> MappingPhase:
        """Its latents and pairs are drawn when they are wanted: the autoencoder comes before."""
        config, networks, processes = self.config, self.networks, self.processes
        settings = PhaseSettings(
            steps=config.mapping_steps,
            flow_share=FLOW_SHARE,
            lr=MAPPING_LR,
            latent_noise=config.latent_noise,
            log_every=LOG_EVERY,
        )
        return MappingPhase(
            networks,
            settings,
            lambda: Latents(encode_all(networks.encoder_ema, self.pictures, self.device, processes)),
            lambda: Pairs(
                networks.flow,
                config.generator.z_dim,
                settings.count_pairs(MAPPING_PAIRS),
                step_generator(config.seed, -1),
                processes.is_first,
            ),
        )

    def _begin_adversarial(self) -> None:
        networks = self.networks
        copy_trunk(networks.encoder_ema, networks.discriminator)
        networks.generator.load_state_dict(networks.generator_ema.state_dict())
        networks.encoder.load_state_dict(networks.encoder_ema.state_dict())

    def _compete(self, step: Step) -> Updates:
        """The generator's update, then the discriminator's, on the same pictures."""
        config, networks = self.config, self.networks
        batch = self._draw(step)
        found: list[Tensor] = []

        def generator_terms(turn: int) -> Terms:
            ws = self._random_ws(batch)
            noise = RowNoise(batch.seeds, self.device) if config.noise else "none"
            fake = networks.generator.synthesis(ws, noise_mode=noise)
            found.extend([fake.detach(), ws[:, 0].detach()])
            terms = {"generator_loss": (1.0, generator_loss(networks.discriminator(fake)))}
            if config.autoencoder_weight > 0:
                terms |= self._reconstruction(batch, config.autoencoder_weight)
            return terms

        def discriminator_terms(turn: int) -> Terms:
            discriminator = networks.discriminator
            logits = discriminator(batch.real), discriminator(found[0])
            terms = {"discriminator_loss": (1.0, discriminator_loss(*logits))}
            if (step.number + 1) % config.r1_interval == 0:
                weight = config.r1_gamma / 2 * config.r1_interval
                terms["r1"] = weight, r1_penalty(discriminator, batch.real)
            return terms

        networks.discriminator.requires_grad_(False)
        yield Update(
            optimizer=networks.generator_optimizer,
            losses=generator_terms,
            rates=[config.adversarial_lr],
            remedy="adversarial_lr",
        )
        (w_mean,) = self.processes.average([found[1].mean(dim=0, keepdim=True)])
        track_w_avg(networks.generator.mapping, w_mean)

        networks.discriminator.requires_grad_(True)
        yield Update(
            optimizer=networks.discriminator_optimizer,
            losses=discriminator_terms,
            rates=[config.adversarial_lr * networks.r1_ratio],
            remedy="adversarial_lr",
        )

    def _random_ws(self, batch: _Batch) -> Tensor:
        """ws of random latents, some of which take a second latent in their later layers."""
        mapping = self.networks.generator.mapping
        first, second = mapping(batch.z[0]), mapping(batch.z[1])
        layers = torch.arange(first.shape[1], device=self.device)[None, :, None]
        return torch.where(layers >= batch.cut, second, first)

    @torch.no_grad()
    def _preview(self, done: int) -> dict[str, float]:
        """Pictures beside their reconstructions while the autoencoder trains, samples afterwards."""
        config, networks = self.config, self.networks
        if done < config.autoencoder_steps + config.mapping_steps:
            rows = list(range(min(PREVIEW_PICTURES, len(self.pictures))))
            real = _to_images(self.pictures.batch(rows), self.device)
            ws = _broadcast(networks.encoder_ema(real), config)
            again = networks.generator_ema.synthesis(ws, noise_mode="none")
            shown = torch.stack([real, again], dim=1).flatten(0, 1)
        else:
            random = step_generator(config.seed, -1)
            z = torch.randn(2 * PREVIEW_PICTURES, config.generator.z_dim, generator=random)
            noise_mode = "const" if config.noise else "none"
            shown = networks.generator_ema(z.to(self.device), noise_mode=noise_mode)
        save_grid(shown, self.run.samples / f"{done:08d}.png", columns=8)
        return {}

    def _saved(self, done: int) -> None:
        generator = finished_generator(self.networks, self.config)
        save_generator(generator, self.run.path / "generator.safetensors")


def _to_images(pictures: Tensor, device: torch.device) -> Tensor:
    images = pictures.to(device).to(torch.float32) / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)  # what 16-bit convolutions are fastest in


def _broadcast(w: Tensor, config: TrainingConfig) -> Tensor:
    return w[:, None].expand(-1, config.generator.num_ws, -1)

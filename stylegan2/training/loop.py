"""Training a StyleGAN2 from pictures alone, in three phases that one run folder carries through.

    autoencoder   the synthesis network learns to give pictures back from an encoder's w
    mapping       the mapping network learns the encoder's distribution of w, by way of a flow (mapping.py)
    adversarial   the usual StyleGAN2 training, with the autoencoder's loss kept as a regulariser

The first two start the third within reach of the data, which small machines need: from scratch, adversarial
training takes millions of pictures. With `autoencoder_images=0` and `mapping_steps=0` it is plain StyleGAN2.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from stylegan2.discriminator import Discriminator, Encoder, copy_trunk
from stylegan2.generator import Generator, GeneratorConfig, save_generator
from stylegan2.layers import half_dtype
from stylegan2.runs import RunFolder, pack, step_generator, unpack
from stylegan2.training.losses import (
    Focus,
    discriminator_loss,
    generator_loss,
    latent_scale_loss,
    r1_penalty,
    reconstruction_loss,
)
from stylegan2.training.mapping import Flow, Latents, Pairs
from stylegan2.training.preview import save_grid

PREVIEW_PICTURES = 32
MAPPING_BATCH = 512
FLOW_SHARE = 0.25  # of the mapping phase
FLOW_LR = 1e-3
# The mapping network's stored weights are 100 times what is used, so its steps must be as much longer.
MAPPING_LR = 2.0
MAPPING_PAIRS = 150_000


class Pictures(Protocol):
    """What is trained on: square RGB pictures."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> Tensor:
        """uint8 [len(indices), 3, R, R]."""
        ...


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training computes.

    autoencoder_images, mapping_steps, adversarial_images: lengths of the phases. batch: pictures a step.
    autoencoder_lr falls to a tenth along a cosine. latent_noise: standard deviation added to w.
    perceptual_weight: of `train`'s perceptual distance in the reconstruction loss.
    autoencoder_weight: of the reconstruction loss kept in the adversarial phase. r1_gamma, r1_interval: lazy
    R1. style_mixing: probability that the layers of a picture take two latents. ema_images: half-life of the
    averaged weights. half: run all resolutions from 8 up in 16 bit.
    """

    generator: GeneratorConfig
    seed: int = 0
    batch: int = 16
    autoencoder_images: int = 0
    autoencoder_lr: float = 2e-3
    latent_noise: float = 0.1
    focus: Focus | None = None
    perceptual_weight: float = 0.0
    mapping_steps: int = 0
    adversarial_images: int = 25_000_000
    adversarial_lr: float = 2e-3
    autoencoder_weight: float = 0.0
    noise: bool = True
    r1_gamma: float = 1.0
    r1_interval: int = 16
    style_mixing: float = 0.9
    ema_images: int = 10_000
    half: bool = True

    @property
    def autoencoder_steps(self) -> int:
        return -(-self.autoencoder_images // self.batch)

    @property
    def adversarial_steps(self) -> int:
        return -(-self.adversarial_images // self.batch)

    @property
    def total_steps(self) -> int:
        return self.autoencoder_steps + self.mapping_steps + self.adversarial_steps


class Networks:
    """The networks of a training and their optimizers."""

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        torch.manual_seed(config.seed)
        self.perceptual = perceptual
        half = len(config.generator.block_resolutions) if config.half else 0
        clamp = 256.0 if config.half and half_dtype(device) == torch.float16 else None
        shape = replace(config.generator, num_fp16_res=half, conv_clamp=clamp)
        self.generator = Generator(shape).to(device)
        self.encoder = Encoder(shape).to(device)
        self.discriminator = Discriminator(shape).to(device)
        self.generator_ema = Generator(shape).to(device).eval().requires_grad_(False)
        self.encoder_ema = Encoder(shape).to(device).eval().requires_grad_(False)
        self.generator_ema.load_state_dict(self.generator.state_dict())
        self.encoder_ema.load_state_dict(self.encoder.state_dict())
        generator, mapping = self.generator, self.generator.mapping
        autoencoder = [*generator.synthesis.parameters(), *self.encoder.parameters()]
        self.autoencoder_optimizer = Adam(autoencoder, lr=config.autoencoder_lr, betas=(0.9, 0.99))
        self.flow = Flow(config.generator.w_dim).to(device)
        self.flow_optimizer = Adam(self.flow.parameters())
        self.mapping_optimizer = Adam(mapping.parameters(), betas=(0.9, 0.99))
        everything = [*generator.parameters(), *self.encoder.parameters()]
        self.generator_optimizer = Adam(everything, lr=config.adversarial_lr, betas=(0.0, 0.99))
        # Lazy R1 acts every r1_interval steps; this rescales Adam as if it acted, weaker, at each.
        ratio = config.r1_interval / (config.r1_interval + 1)
        self.discriminator_optimizer = Adam(
            self.discriminator.parameters(), lr=config.adversarial_lr * ratio, betas=(0.0, 0.99**ratio)
        )

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {name: part for name, part in vars(self).items() if name != "perceptual"}


def train(
    config: TrainingConfig,
    pictures: Pictures,
    run: RunFolder,
    device: torch.device,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
    checkpoint_seconds: float = 120,
    preview_seconds: float = 240,
) -> Generator:
    """Train, or go on from the newest checkpoint in `run`; returns the averaged generator, in float32.

    Writes checkpoints, figures and previews as it goes, and generator.safetensors at each checkpoint.
    `perceptual` is a distance of pictures [N, 3, R, R], made and real, for perceptual_weight > 0. `initial`
    holds weights to start from, of a checkpoint or of `averaged_networks`; their mapping network is left out
    where the mapping phase fits one. `progress` wraps the range of steps left. Raises ValueError when the
    pictures do not fit the generator.
    """
    if config.perceptual_weight > 0 and perceptual is None:
        raise ValueError("perceptual_weight is above 0, but no perceptual distance is given")
    networks = Networks(config, device, perceptual)
    if initial is not None:
        _start_from(initial, networks, fit_mapping=config.mapping_steps > 0)
    first = 0
    if (checkpoint := run.latest()) is not None:
        first, tensors, _ = checkpoint
        unpack(tensors, **networks.parts())
    sample = pictures.batch([0])
    resolution = config.generator.img_resolution
    if sample.shape[1:] != (config.generator.img_channels, resolution, resolution):
        raise ValueError(f"pictures are {list(sample.shape[1:])}, the generator makes {resolution} px")

    mapping: MappingPhase | None = None
    saved = previewed = time.monotonic()
    mapping_start = config.autoencoder_steps
    adversarial_start = mapping_start + config.mapping_steps
    step = first
    for step in progress(range(first + 1, config.total_steps + 1)):
        random = step_generator(config.seed, step)
        torch.manual_seed(random.initial_seed())  # where synthesis draws its random noise from
        if step <= mapping_start:
            figures = _autoencoder_step(networks, config, pictures, step, random, device)
        elif step <= adversarial_start:
            mapping = mapping or MappingPhase(networks, config, pictures, device)
            figures = mapping.step((step - mapping_start) / config.mapping_steps, random)
            _average(networks.generator, networks.generator_ema, config, step)
        else:
            if step == adversarial_start + 1:
                _begin_adversarial(networks)
            figures = _adversarial_step(networks, config, pictures, step, random, device)
        done, now = step == config.total_steps, time.monotonic()
        if step % 100 == 0 or done:
            run.log(step, **{name: float(value) for name, value in figures.items()})
        if now - previewed > preview_seconds or done or step in (mapping_start, adversarial_start):
            _preview(networks, config, pictures, run, step, device)
            previewed = now
        if now - saved > checkpoint_seconds or done or step in (mapping_start, adversarial_start):
            run.save(step, pack(**networks.parts()), {"config": asdict(config)})
            save_generator(finished_generator(networks, config), run.path / "generator.safetensors")
            saved = time.monotonic()
    return finished_generator(networks, config)


def averaged_networks(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged generator and encoder of a training's checkpoint, in 16 bit, for `train` to start from."""
    return {
        name.replace("_ema/", "/"): tensor.half()
        for name, tensor in checkpoint.items()
        if name.startswith(("generator_ema/", "encoder_ema/"))
    }


def _start_from(initial: Mapping[str, Tensor], networks: Networks, fit_mapping: bool) -> None:
    initial = averaged_networks(initial) or initial
    unpack(initial, encoder=networks.encoder)
    if fit_mapping:
        synthesis = "generator/synthesis."
        initial = {name.replace(synthesis, "synthesis/"): tensor for name, tensor in initial.items()}
        unpack(initial, synthesis=networks.generator.synthesis)
    else:
        unpack(initial, generator=networks.generator)
    networks.encoder_ema.load_state_dict(networks.encoder.state_dict())
    networks.generator_ema.load_state_dict(networks.generator.state_dict())


def finished_generator(networks: Networks, config: TrainingConfig) -> Generator:
    """The averaged generator with the float32 configuration that was asked for."""
    generator = Generator(config.generator)
    generator.load_state_dict(networks.generator_ema.state_dict())
    return generator.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(encoder: Encoder, pictures: Pictures, device: torch.device, batch: int = 64) -> Tensor:
    """The latents w [len(pictures), w_dim] of all pictures."""
    starts = range(0, len(pictures), batch)
    return torch.cat(
        [
            encoder(_to_images(pictures.batch(list(range(start, min(start + batch, len(pictures))))), device))
            for start in starts
        ]
    )


def _autoencoder_step(
    networks: Networks,
    config: TrainingConfig,
    pictures: Pictures,
    step: int,
    random: torch.Generator,
    device: torch.device,
) -> dict[str, Tensor]:
    fall = (1 + torch.cos(torch.tensor(torch.pi * step / config.autoencoder_steps))) / 2
    real = _random_batch(pictures, config.batch, random, device)
    loss, figures = _reconstruct(networks, config, real, random)
    _optimize(networks.autoencoder_optimizer, loss, lr=config.autoencoder_lr * (0.1 + 0.9 * float(fall)))
    _average(networks.generator, networks.generator_ema, config, step)
    _average(networks.encoder, networks.encoder_ema, config, step)
    return figures


class MappingPhase:
    """The steps of the mapping phase, with what they share: it depends on nothing but the networks."""

    def __init__(self, networks: Networks, config: TrainingConfig, pictures: Pictures, device: torch.device):
        self.networks, self.config = networks, config
        self.latents = Latents(encode_all(networks.encoder_ema, pictures, device))
        self.pairs: Pairs | None = None

    def step(self, part: float, random: torch.Generator) -> dict[str, Tensor]:
        """`part` goes from 0 to 1 over the phase: the flow learns, then the mapping network from it."""
        if part <= FLOW_SHARE:
            return self._flow_step(part / FLOW_SHARE, random)
        return self._distillation_step((part - FLOW_SHARE) / (1 - FLOW_SHARE), random)

    def _flow_step(self, part: float, random: torch.Generator) -> dict[str, Tensor]:
        latents = self.latents.scaled
        chosen = latents[_random_rows(latents, random)]
        noise, blur = torch.randn(2, *chosen.shape, generator=random).to(latents)
        noisy = chosen + blur * self.config.latent_noise / self.latents.deviation
        t = torch.randn(len(chosen), 1, generator=random).sigmoid().to(latents)
        loss = self.networks.flow.loss(noisy, noise, t)
        _optimize(self.networks.flow_optimizer, loss, lr=FLOW_LR * max(1 - part, 0.01))
        return {"mapping_flow": loss.detach()}

    def _distillation_step(self, part: float, random: torch.Generator) -> dict[str, Tensor]:
        networks, config = self.networks, self.config
        if self.pairs is None:
            seed = step_generator(config.seed, 0)
            count = min(MAPPING_PAIRS, config.mapping_steps * MAPPING_BATCH)
            self.pairs = Pairs(networks.flow, config.generator.z_dim, count, seed)
        rows = _random_rows(self.pairs.z, random)
        w = networks.generator.mapping(self.pairs.z[rows])[:, 0]
        loss = (self.latents.scale(w) - self.pairs.latents[rows]).square().mean()
        _optimize(networks.mapping_optimizer, loss, lr=MAPPING_LR * max(1 - part, 0.01))
        _track_w_avg(networks, w)
        return {"mapping_distillation": loss.detach()}


def _begin_adversarial(networks: Networks) -> None:
    copy_trunk(networks.encoder_ema, networks.discriminator)
    networks.generator.load_state_dict(networks.generator_ema.state_dict())
    networks.encoder.load_state_dict(networks.encoder_ema.state_dict())


def _adversarial_step(
    networks: Networks,
    config: TrainingConfig,
    pictures: Pictures,
    step: int,
    random: torch.Generator,
    device: torch.device,
) -> dict[str, Tensor]:
    generator, discriminator = networks.generator, networks.discriminator
    real = _random_batch(pictures, config.batch, random, device)

    discriminator.requires_grad_(False)
    ws = _random_ws(generator, config, random, device)
    fake = generator.synthesis(ws, noise_mode="random" if config.noise else "none")
    adversarial = generator_loss(discriminator(fake))
    figures = {"generator_loss": adversarial.detach()}
    loss = adversarial
    if config.autoencoder_weight > 0:
        reconstruction, more = _reconstruct(networks, config, real, random)
        loss = loss + config.autoencoder_weight * reconstruction
        figures.update(more)
    _optimize(networks.generator_optimizer, loss)
    _track_w_avg(networks, ws[:, 0])

    discriminator.requires_grad_(True)
    loss = discriminator_loss(discriminator(real), discriminator(fake.detach()))
    figures["discriminator_loss"] = loss.detach()
    if step % config.r1_interval == 0:
        penalty = r1_penalty(discriminator, real)
        loss = loss + config.r1_gamma / 2 * config.r1_interval * penalty
        figures["r1"] = penalty.detach()
    _optimize(networks.discriminator_optimizer, loss)

    _average(networks.generator, networks.generator_ema, config, step)
    _average(networks.encoder, networks.encoder_ema, config, step)
    return figures


def _optimize(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float | None = None) -> None:
    """One step down `loss`, at the rate `lr` where one is given."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] if lr is None else lr
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _reconstruct(
    networks: Networks, config: TrainingConfig, real: Tensor, random: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    w = networks.encoder(real)
    noisy = w + config.latent_noise * torch.randn(w.shape, generator=random).to(w.device)
    fake = networks.generator.synthesis(_broadcast(noisy, config), noise_mode="none")
    loss = reconstruction_loss(fake, real, config.focus)
    figures = {"reconstruction": loss.detach(), "l1": (fake - real).abs().mean().detach()}
    if networks.perceptual is not None and config.perceptual_weight > 0:
        distance = networks.perceptual(fake, real)
        figures["perceptual"] = distance.detach()
        loss = loss + config.perceptual_weight * distance
    return loss + 0.01 * latent_scale_loss(w), figures


def _random_ws(
    generator: Generator, config: TrainingConfig, random: torch.Generator, device: torch.device
) -> Tensor:
    """ws of random latents; with probability style_mixing a picture's later layers take a second latent."""
    z = torch.randn(2, config.batch, config.generator.z_dim, generator=random).to(device)
    first, second = generator.mapping(z[0]), generator.mapping(z[1])
    num_ws = config.generator.num_ws
    cut = torch.randint(1, num_ws, (config.batch, 1, 1), generator=random)
    mixed = torch.rand(config.batch, 1, 1, generator=random) < config.style_mixing
    takes_second = (mixed & (torch.arange(num_ws)[None, :, None] >= cut)).to(device)
    return torch.where(takes_second, second, first)


def _random_rows(table: Tensor, random: torch.Generator) -> Tensor:
    return torch.randint(len(table), (MAPPING_BATCH,), generator=random).to(table.device)


def _random_batch(pictures: Pictures, size: int, random: torch.Generator, device: torch.device) -> Tensor:
    return _to_images(
        pictures.batch(torch.randint(len(pictures), (size,), generator=random).tolist()), device
    )


def _to_images(pictures: Tensor, device: torch.device) -> Tensor:
    images = pictures.to(device).to(torch.float32) / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)  # what 16-bit convolutions are fastest in


def _broadcast(w: Tensor, config: TrainingConfig) -> Tensor:
    return w[:, None].expand(-1, config.generator.num_ws, -1)


@torch.no_grad()
def _track_w_avg(networks: Networks, w: Tensor) -> None:
    networks.generator.mapping.w_avg.lerp_(w.detach().mean(dim=0), 0.005)


@torch.no_grad()
def _average(model: nn.Module, average: nn.Module, config: TrainingConfig, step: int) -> None:
    half_life = min(config.ema_images, 0.05 * step * config.batch)  # short at first, to forget the start
    beta = 0.5 ** (config.batch / max(half_life, 1e-8))
    for target, source in zip(average.parameters(), model.parameters(), strict=True):
        target.lerp_(source, 1 - beta)
    for target, source in zip(average.buffers(), model.buffers(), strict=True):
        target.copy_(source)


@torch.no_grad()
def _preview(
    networks: Networks,
    config: TrainingConfig,
    pictures: Pictures,
    run: RunFolder,
    step: int,
    device: torch.device,
) -> None:
    """Pictures beside their reconstructions while the autoencoder trains, samples afterwards."""
    if step < config.autoencoder_steps + config.mapping_steps:
        real = _to_images(pictures.batch(list(range(min(PREVIEW_PICTURES, len(pictures))))), device)
        ws = _broadcast(networks.encoder_ema(real), config)
        shown = torch.stack([real, networks.generator_ema.synthesis(ws, noise_mode="none")], dim=1).flatten(
            0, 1
        )
    else:
        z = torch.randn(
            2 * PREVIEW_PICTURES, config.generator.z_dim, generator=step_generator(config.seed, 0)
        )
        shown = networks.generator_ema(z.to(device), noise_mode="const" if config.noise else "none")
    save_grid(shown, run.samples / f"{step:08d}.png", columns=8)

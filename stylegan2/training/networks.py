"""The networks of the training from pictures alone, and what moves them."""

from dataclasses import replace

import torch
from torch import nn
from torch.optim import Adam

from stylegan2.discriminator import Discriminator, Encoder
from stylegan2.generator import Generator
from stylegan2.layers import half_dtype
from stylegan2.seeds import seed_torch
from stylegan2.training.config import TrainingConfig
from stylegan2.training.mapping import Flow


class Networks:
    """The networks of a training and their optimizers."""

    def __init__(self, config: TrainingConfig, device: torch.device):
        seed_torch(config.seed)
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
        self.autoencoder_optimizer = Adam(autoencoder, betas=(0.9, 0.99))
        self.flow = Flow(config.generator.w_dim).to(device)
        self.flow_optimizer = Adam(self.flow.parameters())
        self.mapping_optimizer = Adam(mapping.parameters(), betas=(0.9, 0.99))
        everything = [*generator.parameters(), *self.encoder.parameters()]
        self.generator_optimizer = Adam(everything, betas=(0.0, 0.99))
        # Lazy R1 acts every r1_interval steps; this rescales Adam as if it acted, weaker, at each.
        self.r1_ratio = config.r1_interval / (config.r1_interval + 1)
        self.discriminator_optimizer = Adam(self.discriminator.parameters(), betas=(0.0, 0.99**self.r1_ratio))

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        kept = nn.Module, torch.optim.Optimizer
        return {name: part for name, part in vars(self).items() if isinstance(part, kept)}

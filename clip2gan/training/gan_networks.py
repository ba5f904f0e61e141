"""The networks of the training of a captioned GAN, and what moves them."""

import dataclasses
from copy import deepcopy

import torch
from torch import nn
from torch.optim import Adam

from clip2gan.training.settings import GanTraining
from clip2gan.training.start import Start
from clip2gan.training.text_mapping import new_flow
from stylegan2 import Generator
from stylegan2.discriminator import Discriminator, copy_trunk
from stylegan2.layers import half_dtype
from stylegan2.seeds import seed_torch
from stylegan2.training.augment import Augmentation


class Networks:
    """The networks of a training and their optimizers."""

    def __init__(self, config: GanTraining, start: Start, device: torch.device):
        seed_torch(config.seed)
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

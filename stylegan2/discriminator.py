"""StyleGAN2's residual discriminator, and an encoder to W with the same trunk."""

import math

import torch
from torch import Tensor, nn

from stylegan2.config import GeneratorConfig
from stylegan2.generator import normalize_second_moment
from stylegan2.layers import Conv2dLayer, FullyConnectedLayer, half_dtype

MINIBATCH_STD_GROUP = 4


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a skip, halving the resolution; the first block takes RGB."""

    def __init__(self, config: GeneratorConfig, resolution: int):
        super().__init__()
        channels, out_channels = config.channels(resolution), config.channels(resolution // 2)
        self.is_half = config.uses_half(resolution)
        self.is_first = resolution == config.img_resolution
        clamp = config.conv_clamp
        if self.is_first:
            self.fromrgb = Conv2dLayer(config.img_channels, channels, 1, activation="lrelu", conv_clamp=clamp)
        self.conv0 = Conv2dLayer(channels, channels, 3, activation="lrelu", conv_clamp=clamp)
        self.conv1 = Conv2dLayer(channels, out_channels, 3, activation="lrelu", down=2, conv_clamp=clamp)
        self.skip = Conv2dLayer(channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(half_dtype(x.device) if self.is_half else torch.float32)
        if self.is_first:
            x = self.fromrgb(x)
        # Halving the variance of each branch keeps that of their sum.
        return self.skip(x, gain=math.sqrt(0.5)) + self.conv1(self.conv0(x), gain=math.sqrt(0.5))


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation (or none), a convolution, a dense layer; a logit of the features f [N, C].

    With conditions c the logit is out(f) + <f, embed(c)> / sqrt(C): projection (Miyato and Koyama 2018).
    """

    def __init__(self, config: GeneratorConfig, minibatch_std: bool):
        super().__init__()
        self.minibatch_std = minibatch_std
        channels = config.channels(4)
        self.conv = Conv2dLayer(
            channels + minibatch_std, channels, 3, activation="lrelu", conv_clamp=config.conv_clamp
        )
        self.fc = FullyConnectedLayer(channels * 16, channels, activation="lrelu")
        self.out = FullyConnectedLayer(channels, 1)
        self.c_dim = config.c_dim
        if config.c_dim > 0:
            self.embed = FullyConnectedLayer(config.c_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.minibatch_std:
            x = torch.cat([x, _minibatch_std(x)], dim=1)
        return self.fc(self.conv(x).flatten(1))

    def logits(self, features: Tensor, c: Tensor | None) -> Tensor:
        """features [N, C], c [N, c_dim] -> [N, 1]. Raises ValueError when conditions are needed."""
        logits = self.out(features)
        if self.c_dim == 0:
            return logits
        if c is None:
            raise ValueError(f"this discriminator is conditional: give c [N, {self.c_dim}]")
        projected = self.embed(normalize_second_moment(c.to(features)))
        return logits + (features * projected).sum(dim=1, keepdim=True) / math.sqrt(features.shape[1])


class EncoderEpilogue(nn.Module):
    """A convolution and two dense layers: features at 4x4 to a latent w."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        channels = config.channels(4)
        self.conv = Conv2dLayer(channels, channels, 3, activation="lrelu", conv_clamp=config.conv_clamp)
        self.fc = FullyConnectedLayer(channels * 16, 2 * config.w_dim, activation="lrelu")
        self.out = FullyConnectedLayer(2 * config.w_dim, config.w_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.conv(x).flatten(1)))


class ImageTrunk(nn.Module):
    """Pictures [N, img_channels, R, R] down to features at 4x4, then `epilogue`, stored as b4."""

    def __init__(self, config: GeneratorConfig, epilogue: nn.Module):
        super().__init__()
        self.config = config
        self.block_resolutions = config.block_resolutions[:0:-1]
        for resolution in self.block_resolutions:
            setattr(self, f"b{resolution}", DiscriminatorBlock(config, resolution))
        self.b4 = epilogue

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for resolution in self.block_resolutions:
            x = getattr(self, f"b{resolution}")(x)
        return self.b4(x.to(torch.float32))


class Discriminator(ImageTrunk):
    """Pictures [N, img_channels, R, R] (and conditions c [N, c_dim]) -> logits [N, 1], high for real ones.

    Without `minibatch_std` a picture's logit does not depend on the others of its batch.
    """

    b4: DiscriminatorEpilogue

    def __init__(self, config: GeneratorConfig, minibatch_std: bool = True):
        super().__init__(config, DiscriminatorEpilogue(config, minibatch_std))

    def forward(self, images: Tensor, c: Tensor | None = None) -> Tensor:
        return self.b4.logits(self.features(images), c)

    def features(self, images: Tensor) -> Tensor:
        """[N, C], of which `b4.logits` judges the pair with a condition; one pass serves several of them."""
        return super().forward(images)


class Encoder(ImageTrunk):
    """Pictures [N, img_channels, R, R] -> latents w [N, w_dim]."""

    def __init__(self, config: GeneratorConfig):
        super().__init__(config, EncoderEpilogue(config))


def copy_trunk(source: ImageTrunk, target: ImageTrunk) -> None:
    """Give `target` the blocks of `source` above the epilogue."""
    for resolution in source.block_resolutions:
        getattr(target, f"b{resolution}").load_state_dict(getattr(source, f"b{resolution}").state_dict())


def check_groups(batch: int, share: int) -> None:
    """Raise ValueError where a process's share of a batch would not hold whole groups of `minibatch_std`.

    A share has every k-th picture of the batch, so its groups are the batch's own if they are as large.
    """
    group = math.gcd(batch, MINIBATCH_STD_GROUP)
    if math.gcd(share, MINIBATCH_STD_GROUP) != group:
        raise ValueError(
            f"a batch of {batch} in parts of {share}: the discriminator compares groups of {group} "
            f"pictures, which cannot be parted; take a batch that is a multiple of {group * (batch // share)}"
        )


def _minibatch_std(x: Tensor) -> Tensor:
    """The standard deviation over groups of pictures, averaged to one number a group: [N, 1, H, W]."""
    n, _, height, width = x.shape
    group = math.gcd(n, MINIBATCH_STD_GROUP)
    # Member i of group j is picture i * (n / group) + j.
    std = (x.reshape(group, n // group, -1).var(dim=0, unbiased=False) + 1e-8).sqrt()
    return std.mean(dim=1).repeat(group).reshape(n, 1, 1, 1).expand(n, 1, height, width)

"""The losses of StyleGAN2 and of the autoencoder that starts it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from stylegan2.training.config import Focus


def reconstruction_loss(fake: Tensor, real: Tensor, focus: Focus | None = None) -> Tensor:
    """L1 at four scales plus L1 of horizontal and vertical differences, in full and inside `focus`.

    fake, real: pictures [N, C, R, R] in [-1, 1]; returns a scalar. The differences favour edges, which carry
    most of what flat drawings say.
    """
    loss = _pyramid_l1(fake, real, scales=4) + _difference_l1(fake, real)
    if focus is not None:
        fake, real = focus.crop(fake), focus.crop(real)
        loss = loss + focus.weight * (_pyramid_l1(fake, real, scales=2) + _difference_l1(fake, real))
    return loss


def latent_scale_loss(w: Tensor) -> Tensor:
    """Pulls latents [N, w_dim] towards zero mean and unit mean square."""
    return w.mean(dim=0).square().mean() + (w.square().mean() - 1).square()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator: -log sigmoid(D(G(z)))."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of the discriminator."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean squared gradient norm of the logits at real samples: R1 (Mescheder et al. 2018) over gamma/2."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def _pyramid_l1(fake: Tensor, real: Tensor, scales: int) -> Tensor:
    loss = F.l1_loss(fake, real)
    for _ in range(scales - 1):
        fake, real = F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2)
        loss = loss + F.l1_loss(fake, real)
    return loss


def _difference_l1(fake: Tensor, real: Tensor) -> Tensor:
    error = fake - real
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()

"""The two updates of a round, as small functions over networks and minibatches.

Source: arXiv:1511.06434; non-saturating binary cross-entropy of Goodfellow et al. 2014, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..models.dcgan import Discriminator, Generator


@contextmanager
def untracked_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running batch-norm statistics as they are: D's are to describe real images only."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def discriminator_loss(D: Discriminator, G: Generator, x_NCHW: Tensor, z_NZ: Tensor) -> dict[str, Tensor]:
    """Return D's loss, -log D(x) - log(1 - D(G(z))), and the mean D(x) and D(G(z)).

    Real and generated images go through D as separate minibatches, each with its own batch-norm statistics.

    Parameters
    ----------
    D, G : Discriminator, Generator
        The pair.
    x_NCHW : Tensor
        Real images in [-1, 1].
    z_NZ : Tensor
        Latent vectors.
    """
    with torch.no_grad():
        fake_NCHW = G(z_NZ)
    real_N = D(x_NCHW).float()
    with untracked_statistics(D):
        fake_N = D(fake_NCHW).float()
    loss = softplus(-real_N).mean() + softplus(fake_N).mean()
    return {"d_loss": loss, "d_real": real_N.detach().sigmoid().mean(), "d_fake": fake_N.detach().sigmoid().mean()}


def generator_loss(D: Discriminator, G: Generator, z_NZ: Tensor) -> dict[str, Tensor]:
    """Return G's non-saturating loss, -log D(G(z)).

    Parameters
    ----------
    D, G : Discriminator, Generator
        The pair.
    z_NZ : Tensor
        Latent vectors.
    """
    with untracked_statistics(D):
        return {"g_loss": softplus(-D(G(z_NZ)).float()).mean()}


def step_discriminator(
    D: Discriminator, G: Generator, optimiser: torch.optim.Optimizer, x_NCHW: Tensor, z_NZ: Tensor
) -> dict[str, Tensor]:
    """Update D once on a minibatch of real images and one of generated images; return its loss and outputs."""
    losses = discriminator_loss(D, G, x_NCHW, z_NZ)
    _descend(optimiser, losses["d_loss"])
    return {key: value.detach() for key, value in losses.items()}


def step_generator(D: Discriminator, G: Generator, optimiser: torch.optim.Optimizer, z_NZ: Tensor) -> dict[str, Tensor]:
    """Update G once; D only passes gradients through, none are formed for its weights."""
    D.requires_grad_(False)
    losses = generator_loss(D, G, z_NZ)
    _descend(optimiser, losses["g_loss"])
    D.requires_grad_(True)
    return {key: value.detach() for key, value in losses.items()}


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step on a scalar loss."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()

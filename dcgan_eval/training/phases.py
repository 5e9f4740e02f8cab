"""The two updates of a round, as small functions over networks and minibatches.

Source: arXiv:1511.06434; non-saturating binary cross-entropy of Goodfellow et al. 2014, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from ..models.dcgan import Discriminator, Generator
from ..ranks import ALONE, Team
from .parallel import SyncedBatchNorm

TURNS = 4  # quarter turns of the rotation loss


@contextmanager
def untracked_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running batch-norm statistics as they are: D's are to describe real images only."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | SyncedBatchNorm)]
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
    with torch.no_grad():  # D's update needs no gradient in G
        fake_NCHW = G(z_NZ)
    real_N = D(x_NCHW).float()
    with untracked_statistics(D):
        fake_N = D(fake_NCHW).float()
    # D = sigmoid(logit): -log D = softplus(-logit) and -log(1 - D) = softplus(logit), which do not overflow
    loss = softplus(-real_N).mean() + softplus(fake_N).mean()
    return {"d_loss": loss, "d_real": real_N.detach().sigmoid().mean(), "d_fake": fake_N.detach().sigmoid().mean()}


def rotation_loss(D: Discriminator, head: nn.Linear, x_NCHW: Tensor) -> dict[str, Tensor]:
    """Return the cross-entropy and accuracy of telling which quarter turn real images were given.

    Parameters
    ----------
    D : Discriminator
        Its last convolutional layer is what the head sees.
    head : nn.Linear
        From that layer, flattened, to four logits.
    x_NCHW : Tensor
        Real images; the first quarter of them is left upright, the others are turned by 90, 180 and 270 degrees.

    Source: Gidaris et al., arXiv:1803.07728; beside a GAN's loss, Chen et al., arXiv:1811.11212.
    """
    groups = x_NCHW.tensor_split(TURNS)  # sizes differ by at most one
    turned_NCHW = torch.cat([torch.rot90(group, turns, (2, 3)) for turns, group in enumerate(groups)])
    sizes = torch.tensor([len(group) for group in groups], device=x_NCHW.device)
    turns_N = torch.arange(TURNS, device=x_NCHW.device).repeat_interleave(sizes, output_size=len(x_NCHW))
    with untracked_statistics(D):
        logits_NT = head(D.trunk(turned_NCHW.contiguous(memory_format=torch.channels_last)).flatten(1)).float()
    hits = (logits_NT.detach().argmax(1) == turns_N).float().mean()
    return {"rotation_loss": cross_entropy(logits_NT, turns_N), "rotation_accuracy": hits}


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
    D: Discriminator,
    G: Generator,
    optimiser: torch.optim.Optimizer,
    x_NCHW: Tensor,
    z_NZ: Tensor,
    *,
    head: nn.Linear | None = None,
    rotation: float = 0.0,
    team: Team = ALONE,
) -> dict[str, Tensor]:
    """Update D once on a minibatch of real images and one of generated images; return its losses and outputs.

    Parameters
    ----------
    D, G : Discriminator, Generator
        The pair.
    optimiser : Optimizer
        D's, with the head's parameters if there is one.
    x_NCHW, z_NZ : Tensor
        This process's real images and latent vectors.
    head, rotation : nn.Linear or None, float
        Head and weight of :func:`rotation_loss`.
    team : Team
        Processes to average gradients over.

    Returns
    -------
    dict
        Detached scalars; ``d_grad_norm`` is the length of the gradient.
    """
    losses = discriminator_loss(D, G, x_NCHW, z_NZ)
    loss = losses["d_loss"]
    if head is not None:
        losses |= rotation_loss(D, head, x_NCHW)
        loss = loss + rotation * losses["rotation_loss"]
    losses["d_grad_norm"] = descend(optimiser, loss, team)
    return {key: value.detach() for key, value in losses.items()}


def step_generator(
    D: Discriminator, G: Generator, optimiser: torch.optim.Optimizer, z_NZ: Tensor, *, team: Team = ALONE
) -> dict[str, Tensor]:
    """Update G once; D only passes gradients through, none are formed for its weights."""
    D.requires_grad_(False)
    losses = generator_loss(D, G, z_NZ)
    losses["g_grad_norm"] = descend(optimiser, losses["g_loss"], team)
    D.requires_grad_(True)
    return {key: value.detach() for key, value in losses.items()}


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, team: Team) -> Tensor:
    """Take one step on a scalar loss; return the length of the gradient."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    team.average_gradients(parameters)
    optimiser.step()
    return _norm(p.grad for p in parameters if p.grad is not None)


def _norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the length of all gradients together, on their device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))

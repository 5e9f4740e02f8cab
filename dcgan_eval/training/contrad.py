"""ContraD: a discriminator that learns by contrast, and a generator that belongs to it.

D's trunk learns from two views of real images, as :mod:`~dcgan_eval.training.contrastive` teaches it, and, every
:data:`EVERY` rounds, from views of generated images, which are to lie together and away from real ones. The GAN's loss
reaches D's own linear unit alone, through the last layer's maps with their gradient stopped. G learns by the paper's
non-saturating loss, through the linear unit and the trunk.

Source: Jeong & Shin, arXiv:2103.09742. Deviations: generated images take part in every fourth round only, and few;
the linear unit, as the family has it, stands for that paper's two-layer head and sees whole images, not views, and so
does G's loss. That paper's D has no batch norm: here views of real and generated images make one minibatch, and where
the unit and G learn, D normalises by its running statistics, which describe real images. By minibatches of generated
images alone, normalised like real ones, they could hardly be told apart (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from ..models.dcgan import Discriminator, sample_prior
from ..seeding import torch_generator
from .config import TrainingConfig
from .contrastive import ContrastiveTrainer
from .phases import descend, step_generator, untracked_statistics

EVERY = 4
"""Rounds from one with generated images to the next."""

SHARE = 4
"""Real images of a minibatch for each generated one of such a round: 64 are generated where there are 256."""

GAN_RATES = {"unit": 1e-3, "G": 1e-4}
"""Learning rates of D's linear unit and of G at the recipe's of D, 2e-3, which they follow. A unit as slow as G falls
behind it, and all samples become one; at D's own rate its weights grow without end (docs/log.md)."""

GAN_BETAS = (0.5, 0.999)
"""Adam's for both, those of DCGAN's paper."""


def apart_loss(fake_ME: Tensor, real_NE: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss that draws generated images together and away from real ones.

    Parameters
    ----------
    fake_ME, real_NE : Tensor
        Embeddings of views of M >= 2 generated and N real images, of any length.
    temperature : float
        Divides the cosines.

    Source: L_con^- of arXiv:2103.09742, equation 8; Khosla et al., arXiv:2004.11362, equation 2.
    """
    z = normalize(torch.cat([fake_ME, real_NE]).float(), dim=1)
    count = len(fake_ME)
    itself = torch.eye(count, len(z), dtype=torch.bool, device=z.device)
    cosines = (z[:count] @ z.T / temperature).masked_fill(itself, -torch.inf)  # (M, M + N)
    log_share = cosines - cosines.logsumexp(1, keepdim=True)  # log softmax over all others
    others = log_share[:, :count].masked_fill(itself[:, :count], 0.0)  # every other generated image is a partner
    return -(others.sum(1) / (count - 1)).mean()


@contextmanager
def by_running_statistics(D: Discriminator) -> Iterator[None]:
    """Let D normalise by its running statistics, whatever the minibatch."""
    D.eval()
    try:
        yield
    finally:
        D.train()


def unit_loss(D: Discriminator, x_NCHW: Tensor, fake_NCHW: Tensor) -> dict[str, Tensor]:
    """Return the GAN's loss of D, which reaches its linear unit alone, and the mean D(x) and D(G(z))."""
    assert D.linear is not None, "a discriminator in training is whole"
    with torch.no_grad(), by_running_statistics(D):
        maps = [D.trunk(images).flatten(1) for images in (x_NCHW, fake_NCHW)]  # the gradient stops here
    real_N, fake_N = (D.linear(f_ND).squeeze(1).float() for f_ND in maps)
    loss = softplus(-real_N).mean() + softplus(fake_N).mean()
    return {"d_loss": loss, "d_real": real_N.detach().sigmoid().mean(), "d_fake": fake_N.detach().sigmoid().mean()}


class ContraDTrainer(ContrastiveTrainer):
    """A pair in training: D by contrast, G through D; parameters and errors as for :class:`BaseTrainer`."""

    cycle = EVERY

    def __init__(self, config: TrainingConfig, images_NHWC: np.ndarray, device: str = "cpu", **options: Any):
        super().__init__(config, images_NHWC, device, **options)
        assert self.D.linear is not None, "a discriminator in training is whole"
        self.apart_head = self._build_head("head of generated images")
        trained = [p for module in (*self.D.blocks(), self.head, self.apart_head) for p in module.parameters()]
        gan = {"unit": self.D.linear, "G": self.G}
        self.adam = {"D": self._adam(trained)}
        self.adam |= {name: self._adam(list(module.parameters()), GAN_BETAS) for name, module in gan.items()}
        self.rates = {name: rate / 2e-3 for name, rate in GAN_RATES.items()}
        heads = {"head": self.head, "apart_head": self.apart_head}
        self.parts = {"D": self.D, "G": self.G, **heads, **{f"adam_{name}": adam for name, adam in self.adam.items()}}

    def _round(self) -> dict[str, Tensor]:
        """Update D, and every fourth time also on generated images, and then G."""
        if (self.rounds_done + 1) % EVERY:
            return super()._round()
        x_NCHW, coins = self.team.share(self.feed.minibatch(self.rounds_done)), self._coins("views")
        z_D, z_G = self._latents()
        with torch.no_grad():
            fake_NCHW = self.G(z_D)
        losses = self._losses(x_NCHW, coins)
        losses["apart_loss"] = self._apart(x_NCHW, fake_NCHW, coins)
        losses |= unit_loss(self.D, x_NCHW[: len(fake_NCHW)], fake_NCHW)
        losses["d_grad_norm"] = descend(self.adam["D"], losses["contrastive_loss"] + losses["apart_loss"], self.team)
        descend(self.adam["unit"], losses["d_loss"], self.team)
        with by_running_statistics(self.D):
            losses |= step_generator(self.D, self.G, self.adam["G"], z_G, team=self.team)
        return {key: value.detach() for key, value in losses.items()}

    def _apart(self, x_NCHW: Tensor, fake_NCHW: Tensor, coins: torch.Generator) -> Tensor:
        """Return the loss that sets views of generated images apart from views of as many real ones."""
        count = len(fake_NCHW)
        both_NCHW = torch.cat([fake_NCHW, x_NCHW[:count]])
        with untracked_statistics(self.D):  # D's statistics are to describe real images only
            embedded = self.apart_head(self.D.trunk(self._views(both_NCHW, coins)).mean((2, 3)))
        return apart_loss(embedded[:count], embedded[count:], self.config.temperature)

    def _latents(self) -> tuple[Tensor, Tensor]:
        """Draw the latent vectors of D's and of G's update; return this process's rows."""
        latent = torch_generator(self.config.seed, "latent", device=self.device, round=self.rounds_done)
        size = self.team.size
        count = size * max(2, self.config.batch_size // size // SHARE)
        z_D, z_G = (sample_prior(self.preset, count, latent) for _ in range(2))
        return self.team.share(z_D), self.team.share(z_G)

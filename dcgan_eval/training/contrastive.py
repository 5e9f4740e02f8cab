"""Contrastive learning of a discriminator alone: two random views of an image are to be told from all others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, normalize

from ..devices import seeded
from ..seeding import derive, torch_generator
from .config import TrainingConfig
from .phases import descend
from .trainer import BaseTrainer

MAX_STRETCH = 4 / 3
COLOUR = 0.4
_HUE = 0.3 * COLOUR
_COLOUR_SHARE, _GREY_SHARE = 0.8, 0.2
HEAD_WIDTHS = (512, 128)


def random_views(x_NCHW: Tensor, size: int, areas: tuple[float, float], coins: torch.Generator) -> Tensor:
    """Return a random view of each image: a part of its area, perhaps mirrored, in other colours or grey.

    Parameters
    ----------
    x_NCHW : Tensor
        Images (N, 3, H, W) in [-1, 1].
    size : int
        Side of the views, pixels.
    areas : (float, float)
        Smallest and largest share of the image that a view shows.
    coins : torch.Generator
        On the images' device.

    Returns
    -------
    Tensor
        (N, 3, size, size) in [-1, 1], channels-last.

    Source: Chen et al., arXiv:2002.05709, appendix A. Deviations: sides of at most the image's; a shift of each colour
    channel stands for the turn of hue; no blur.
    """
    return _recoloured(_cut(x_NCHW, size, areas, coins), coins).contiguous(memory_format=torch.channels_last)


def _cut(x_NCHW: Tensor, size: int, areas: tuple[float, float], coins: torch.Generator) -> Tensor:
    """Cut random parts out of images, resize them and mirror half of them."""
    count, device = len(x_NCHW), x_NCHW.device
    area, stretch, left, top, coin = torch.rand(5, count, generator=coins, device=device)
    smallest, largest = areas
    side = (smallest + (largest - smallest) * area).sqrt()  # area is uniform, not the side
    stretch = torch.exp((stretch - 0.5) * math.log(MAX_STRETCH))  # log-uniform: as often wide as tall
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    zero = torch.zeros_like(width)
    # Rows of the affine map from view to image coordinates, both in [-1, 1]; a negative width mirrors.
    across = torch.stack([torch.where(coin < 0.5, -width, width), zero, (2 * left - 1) * (1 - width)], 1)
    down = torch.stack([zero, height, (2 * top - 1) * (1 - height)], 1)
    grid = affine_grid(torch.stack([across, down], 1), [count, 3, size, size], align_corners=False)
    return grid_sample(x_NCHW, grid, padding_mode="reflection", align_corners=False)


def _recoloured(x_NCHW: Tensor, coins: torch.Generator) -> Tensor:
    """Change contrast, brightness, saturation and hue of most images, and drop the colour of some."""
    count, device = len(x_NCHW), x_NCHW.device
    factors = 1 + COLOUR * (2 * torch.rand(3, count, 1, 1, 1, generator=coins, device=device) - 1)
    tints = _HUE * (2 * torch.rand(count, 3, 1, 1, generator=coins, device=device) - 1)
    changed, greyed = torch.rand(2, count, 1, 1, 1, generator=coins, device=device)
    mean = x_NCHW.mean((1, 2, 3), keepdim=True)
    y_NCHW = (x_NCHW - mean) * factors[0] + mean  # contrast
    y_NCHW = (y_NCHW + 1) * factors[1] - 1  # brightness, about black
    grey = y_NCHW.mean(1, keepdim=True)
    y_NCHW = (y_NCHW - grey) * factors[2] + grey + tints  # saturation, and hue
    y_NCHW = torch.where(changed < _COLOUR_SHARE, y_NCHW, x_NCHW)
    return torch.where(greyed < _GREY_SHARE, y_NCHW.mean(1, keepdim=True), y_NCHW).clamp(-1, 1)


def contrastive_loss(a_NE: Tensor, b_NE: Tensor, temperature: float, *, decoupled: bool = False) -> dict[str, Tensor]:
    """Return the loss of telling each view's partner from all other views, and how often it is found.

    Parameters
    ----------
    a_NE, b_NE : Tensor
        Embeddings of two views of N images, of any length.
    temperature : float
        Divides the cosines.
    decoupled : bool
        Leave the partner out of the denominator, so that an easy partner does not weaken the push from the others.

    Source: NT-Xent of Chen et al., arXiv:2002.05709, equation 1; decoupled, Yeh et al., arXiv:2110.06848, equation 6.
    """
    count = len(a_NE)
    z = normalize(torch.cat([a_NE, b_NE]).float(), dim=1)
    cosines = (z @ z.T).fill_diagonal_(-math.inf) / temperature  # (2N, 2N), no view with itself
    partner = torch.arange(2 * count, device=z.device).roll(count)  # row i's is i + N, and back
    found = (cosines.detach().argmax(1) == partner).float().mean()
    if decoupled:
        others = cosines.scatter(1, partner[:, None], -math.inf)
        loss = (others.logsumexp(1) - cosines.gather(1, partner[:, None])[:, 0]).mean()
    else:
        loss = cross_entropy(cosines, partner)
    return {"contrastive_loss": loss, "partner_accuracy": found}


class ContrastiveTrainer(BaseTrainer):
    """A discriminator in training by the contrastive objective; parameters and errors as for :class:`BaseTrainer`.

    The mean of the last convolutional layer's maps goes through a small head, which is thrown away afterwards. D's
    linear unit is not trained, and there is no generator. Under ``torchrun`` each process contrasts its own images.
    """

    def __init__(self, config: TrainingConfig, images_NHWC: np.ndarray, device: str = "cpu", **options: Any):
        super().__init__(config, images_NHWC, device, **options)
        self.head = self._build_head("contrastive head")
        trained = [p for module in (*self.D.blocks(), self.head) for p in module.parameters()]
        self.adam = {"D": self._adam(trained)}
        self.parts = {"D": self.D, "head": self.head, "adam_D": self.adam["D"]}

    def _build_head(self, stream: str) -> nn.Sequential:
        """Build what maps the mean of the last layer's maps to an embedding."""
        hidden, embedding = HEAD_WIDTHS
        channels = self.preset.conv_channels[-1]
        with seeded(derive(self.config.seed, stream)):
            layers = [nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, embedding)]
        return nn.Sequential(*layers).to(self.device)

    def _round(self) -> dict[str, Tensor]:
        """Update D on two views of a minibatch."""
        x_NCHW = self.team.share(self.feed.minibatch(self.rounds_done))
        losses = self._losses(x_NCHW, self._coins("views"))
        losses["d_grad_norm"] = descend(self.adam["D"], losses["contrastive_loss"], self.team)
        return {key: value.detach() for key, value in losses.items()}

    def _losses(self, x_NCHW: Tensor, coins: torch.Generator) -> dict[str, Tensor]:
        """Return the contrastive loss of a minibatch and how often partners are found."""
        views = torch.cat([self._views(x_NCHW, coins) for _ in range(2)])  # (2N, 3, size, size)
        a_NE, b_NE = self.head(self.D.trunk(views).mean((2, 3))).chunk(2)
        return contrastive_loss(a_NE, b_NE, self.config.temperature, decoupled=self.config.decoupled)

    def _views(self, x_NCHW: Tensor, coins: torch.Generator) -> Tensor:
        """Return a random view of each image, (N, 3, size, size)."""
        config = self.config
        return random_views(x_NCHW, config.view_size, (config.view_min_area, config.view_max_area), coins)

    def _coins(self, stream: str) -> torch.Generator:
        """Return this round's random numbers, of this process."""
        where = {"round": self.rounds_done, "process": self.team.rank}
        return torch_generator(self.config.seed, stream, device=self.device, **where)

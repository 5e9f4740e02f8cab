"""Arithmetic on latent vectors: sums and differences of concepts, and a direction that turns any sample.

Source: arXiv:1511.06434, section 6.3.2 and figures 7 and 8. Deviations: the paper looks; the numbers are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..seeding import torch_generator
from .drawing import Draw, in_batches

FEWEST_EXEMPLARS = 3  # section 6.3.2: with single exemplars the results were unstable
NEIGHBOUR_NOISE = 0.25  # uniform, either side
_COMBINATIONS = 64

Term = tuple[int, Tensor]  # +1 or -1, and the exemplars of a concept (K, Z)


@dataclass(frozen=True)
class Sum:
    """A result of vector arithmetic.

    Attributes
    ----------
    z : Tensor
        The result among its neighbours, (9, Z), in the middle.
    one_left_out, single : float
        How far the image is from those of sums without one exemplar, and of sums of single exemplars; root mean square
        pixels over the distance between the exemplars' images. 0 is stable, 1 is as far as another image.
    """

    z: Tensor
    one_left_out: float
    single: float

    def measured(self) -> dict[str, Any]:
        """Return the numbers of a finding."""
        return {"one_left_out": self.one_left_out, "single_exemplars": self.single}


def combine(terms: Sequence[Term]) -> Tensor:
    """Return the sum of the signed means of concepts, (Z,)."""
    return torch.stack([sign * z_KZ.mean(0) for sign, z_KZ in terms]).sum(0)


def neighbourhood(z_Z: Tensor, seed: int, noise: float = NEIGHBOUR_NOISE) -> Tensor:
    """Return a latent vector in the middle of eight that uniform noise of up to ``noise`` was added to, (9, Z)."""
    shifts_NZ = (torch.rand(9, len(z_Z), generator=torch_generator(seed, "neighbourhood")) * 2 - 1) * noise
    shifts_NZ[4] = 0
    return z_Z + shifts_NZ


def arithmetic(draw: Draw, terms: Sequence[Term], seed: int = 0, device: torch.device | str = "cpu") -> Sum:
    """Add and subtract concepts, and measure how much the picture hangs on the choice of exemplars.

    Parameters
    ----------
    draw : callable
        Maps latent vectors to images, each by itself.
    terms : sequence of (int, Tensor)
        Sign and exemplars of each concept.
    seed : int
        Root seed of the neighbours, and of which single exemplars are combined where there are many ways.
    device : torch.device or str
        Where to draw.
    """
    place, result_Z = torch.device(device), combine(terms)
    x_ND = in_batches(draw, torch.cat([z_KZ for _, z_KZ in terms]), place).flatten(1)
    unrelated = float(torch.pdist(x_ND).mean()) if len(x_ND) > 1 else 0.0

    def distance(sums: Sequence[Tensor]) -> float:
        """Return the mean distance of the images of sums from the result's, in units of unrelated images."""
        x_MD = in_batches(draw, torch.stack([result_Z, *sums]), place).flatten(1)
        return float((x_MD[1:] - x_MD[0]).norm(dim=1).mean()) / max(unrelated, 1e-12)

    less = [combine(rest) for rest in _with_one_left_out(terms)]
    return Sum(
        neighbourhood(result_Z, seed),
        distance(less) if less else 0.0,
        distance([combine(one) for one in _single_exemplars(terms, seed)]),
    )


def _with_one_left_out(terms: Sequence[Term]) -> list[list[Term]]:
    """Return the terms without each exemplar in turn; a concept's only one stays."""
    left = []
    for i, (sign, z_KZ) in enumerate(terms):
        for row in range(len(z_KZ) if len(z_KZ) > 1 else 0):
            fewer = torch.cat([z_KZ[:row], z_KZ[row + 1 :]])
            left.append([*terms[:i], (sign, fewer), *terms[i + 1 :]])
    return left


def _single_exemplars(terms: Sequence[Term], seed: int) -> list[list[Term]]:
    """Return up to 64 choices of one exemplar for each concept."""
    choices = list(itertools.islice(itertools.product(*(range(len(z)) for _, z in terms)), 100_000))
    order = torch.randperm(len(choices), generator=torch_generator(seed, "single exemplars"))[:_COMBINATIONS]
    return [
        [(sign, z_KZ[row : row + 1]) for (sign, z_KZ), row in zip(terms, choices[i], strict=True)]
        for i in order.tolist()
    ]


@dataclass(frozen=True)
class Turn:
    """Samples with a turn vector added in steps.

    Attributes
    ----------
    z : Tensor
        (R, T, Z); the middle column is the samples themselves.
    forward, forward_random : float
        Share of steps that move the image from the right exemplars towards the left ones, along the difference of
        their mean images; and the same for random directions of equal length, whose chance is one half.
    """

    z: Tensor
    forward: float
    forward_random: float

    def measured(self) -> dict[str, Any]:
        """Return the numbers of a finding."""
        return {"steps_forward": self.forward, "steps_forward_random": self.forward_random}


def turn(
    draw: Draw,
    left_KZ: Tensor,
    right_KZ: Tensor,
    samples_RZ: Tensor,
    *,
    steps: int = 9,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Turn:
    """Add the turn vector, mean of left less mean of right, to samples in steps from -1 to 1 times its length.

    Parameters
    ----------
    draw : callable
        Maps latent vectors to images, each by itself.
    left_KZ, right_KZ : Tensor
        Exemplars of the two ends; the paper takes four each.
    samples_RZ : Tensor
        What is turned.
    steps : int
        Columns, odd, at least 3.
    seed : int
        Root seed of the random directions of the control.
    device : torch.device or str
        Where to draw.
    """
    place = torch.device(device)
    images = [in_batches(draw, z_KZ, place).flatten(1).mean(0) for z_KZ in (left_KZ, right_KZ)]
    axis_D, turn_Z = images[0] - images[1], left_KZ.mean(0) - right_KZ.mean(0)
    random_RZ = torch.randn(samples_RZ.shape, generator=torch_generator(seed, "random turns"))
    random_RZ *= turn_Z.norm() / random_RZ.norm(dim=1, keepdim=True)
    t_T1 = torch.linspace(-1, 1, steps)[:, None]

    def forward(z_RTZ: Tensor) -> float:
        """Return the share of steps that move along the axis."""
        along_RT = (in_batches(draw, z_RTZ.flatten(0, 1), place).flatten(1) @ axis_D).unflatten(0, z_RTZ.shape[:2])
        return float(np.mean((along_RT.diff(dim=1) > 0).numpy()))

    turned_RTZ = samples_RZ[:, None] + t_T1 * turn_Z
    return Turn(turned_RTZ, forward(turned_RTZ), forward(samples_RZ[:, None] + t_T1 * random_RZ[:, None]))

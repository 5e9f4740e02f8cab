"""Walks between random latent vectors: does the picture change smoothly, or jump from one stored image to another?

Source: arXiv:1511.06434, section 6.1 and figure 4. Deviations: the paper looks; the numbers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.dcgan import to_uint8
from ..seeding import rng
from .drawing import Draw, Features, in_batches

SHARP = 5.0  # times the median step: what a step must exceed to stand out from its walk ...
JUMP = 0.5  # ... and times the step between unrelated images: what it must exceed to change the picture
_FLOOR = 1e-3  # of the shuffled walk's median step: a walk that mostly stands still has a finite sharpness


@dataclass(frozen=True)
class Walk:
    """Walks, a row each.

    Attributes
    ----------
    images : ndarray
        uint8 (R, T, H, W, C).
    steps : dict of str to ndarray
        ``"pixels"`` and, with a discriminator, ``"features"``: length of each step, (R, T - 1); root mean square.
    shuffled : dict of str to ndarray
        The same of the same images in shuffled order: steps between images that are no neighbours.
    """

    images: np.ndarray
    steps: dict[str, np.ndarray]
    shuffled: dict[str, np.ndarray]

    def sharpness(self, space: str, order: str = "steps") -> np.ndarray:
        """Return each walk's largest step over its median step, (R,)."""
        lengths, control = getattr(self, order)[space], np.median(self.shuffled[space], 1)
        return lengths.max(1) / np.maximum(np.median(lengths, 1), _FLOOR * control + 1e-12)

    def jump(self, space: str) -> np.ndarray:
        """Return each walk's largest step over the median step of its shuffled order, (R,)."""
        return self.steps[space].max(1) / (np.median(self.shuffled[space], 1) + 1e-12)

    def measured(self) -> dict[str, Any]:
        """Return the numbers of a finding; medians over the walks, and how many are sharp."""
        values: dict[str, Any] = {}
        for space, lengths in self.steps.items():
            sharp = (self.sharpness(space) > SHARP) & (self.jump(space) > JUMP)
            values |= {
                f"sharpness_{space}": float(np.median(self.sharpness(space))),
                f"sharpness_shuffled_{space}": float(np.median(self.sharpness(space, "shuffled"))),
                f"jump_{space}": float(np.median(self.jump(space))),
                f"sharp_walks_{space}": int(sharp.sum()),
                f"step_{space}": {"median": float(np.median(lengths)), "largest": float(lengths.max())},
            }
        return values


def path_between(anchors_KZ: Tensor, steps: int, path: str = "linear") -> Tensor:
    """Return latent vectors from anchor to anchor, ((K - 1) * steps + 1, Z).

    Parameters
    ----------
    anchors_KZ : Tensor
        At least two.
    steps : int
        From one anchor to the next.
    path : str
        ``"linear"``, or ``"great-circle"``: the direction turns at constant speed and the length changes linearly.
    """
    t_S1 = torch.arange(steps, dtype=anchors_KZ.dtype)[:, None] / steps
    legs = [
        (_turned(a_Z, b_Z, t_S1) if path == "great-circle" else a_Z + t_S1 * (b_Z - a_Z))
        for a_Z, b_Z in pairwise(anchors_KZ)
    ]
    return torch.cat([*legs, anchors_KZ[-1:]])


def _turned(a_Z: Tensor, b_Z: Tensor, t_S1: Tensor) -> Tensor:
    """Turn a towards b: slerp of the directions, lengths interpolated; opposite or equal directions go straight."""
    size_a, size_b = a_Z.norm(), b_Z.norm()
    angle = torch.arccos(torch.clamp(a_Z @ b_Z / (size_a * size_b), -1, 1))
    if torch.sin(angle) < 1e-4:  # slerp divides by it
        return a_Z + t_S1 * (b_Z - a_Z)
    towards = (torch.sin((1 - t_S1) * angle) * a_Z / size_a + torch.sin(t_S1 * angle) * b_Z / size_b) / angle.sin()
    return towards * (size_a + t_S1 * (size_b - size_a))


def walk(
    draw: Draw,
    anchors_RKZ: Tensor,
    *,
    steps: int = 16,
    path: str = "linear",
    features: Features | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Walk:
    """Walk between latent vectors and measure every step.

    Parameters
    ----------
    draw : callable
        Maps latent vectors to images in [-1, 1], each by itself (:func:`~dcgan_eval.insight.drawing.settled`).
    anchors_RKZ : Tensor
        R walks between K latent vectors each.
    steps : int
        From one latent vector to the next. Too few, and every walk jumps.
    path : str
        See :func:`path_between`.
    features : callable or None
        Maps images to features; None measures pixels alone.
    seed : int
        Root seed of the shuffled order.
    device : torch.device or str
        Where to draw.

    Returns
    -------
    Walk
    """
    num_walks, place = len(anchors_RKZ), torch.device(device)
    z_MZ = torch.cat([path_between(anchors_KZ, steps, path) for anchors_KZ in anchors_RKZ])
    x_MCHW = in_batches(draw, z_MZ, place)
    spaces = {"pixels": x_MCHW.flatten(1)}
    if features is not None:
        spaces["features"] = in_batches(features, x_MCHW, place)
    order = rng(seed, "shuffled walk").permutation(len(z_MZ) // num_walks)
    values = {space: x_MD.unflatten(0, (num_walks, -1)) for space, x_MD in spaces.items()}
    images = to_uint8(x_MCHW)
    return Walk(
        images.reshape(num_walks, -1, *images.shape[1:]),
        {space: _step_lengths(x_RTD) for space, x_RTD in values.items()},
        {space: _step_lengths(x_RTD[:, order]) for space, x_RTD in values.items()},
    )


def _step_lengths(x_RTD: Tensor) -> np.ndarray:
    """Return the root mean square change of each step, (R, T - 1)."""
    return x_RTD.diff(dim=1).square().mean(2).sqrt().double().numpy()

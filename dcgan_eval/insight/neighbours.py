"""Does a generator copy? The nearest training images of its samples, and a test of whether they are too near.

Source: arXiv:1511.06434, section 6.1 (nearest neighbours); Meehan, Chaudhuri & Dasgupta, "A non-parametric test to
detect data-copying in generative models", AISTATS 2020, arXiv:2004.05675, section 4. Deviations: the regions are those
of K-means on pixels, whatever is compared. Limits: images that are smoother than real ones come near to them without
being copies, so a flag is a reason to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from torch import Tensor

from ..baselines.nearest import NearestRows
from ..errors import DataError
from ..models.presets import Preset
from ..seeding import derive

COPIED = -3.0  # z below which samples are called copies; chance alone gets there once in 700 times
REGIONS = 10
Regions = tuple[np.ndarray, np.ndarray]  # the region of each sample, and of each held-out image
_FEWEST = 20  # samples and held-out images that a region needs to be counted


@dataclass(frozen=True)
class Copying:
    """The data-copying test in one space.

    Attributes
    ----------
    score : float
        Mean of the regions' z, weighted by their held-out images: C_T of the source. Below 0 samples are nearer to
        training images than held-out images are.
    overall : float
        z without regions.
    regions : list of dict
        ``z``, ``samples`` and ``held_out`` (counts) of each region that has enough of both.
    """

    score: float
    overall: float
    regions: list[dict[str, Any]]

    @property
    def copied(self) -> bool:
        """Whether the samples are called copies."""
        return min(self.score, self.overall) < COPIED


def mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
    """Return z of the Mann-Whitney test: negative where values of ``a`` tend to be smaller than those of ``b``.

    Parameters
    ----------
    a, b : ndarray
        Two samples; ties count half.
    """
    n, m = len(a), len(b)
    wins = rankdata(np.concatenate([a, b]))[:n].sum() - n * (n + 1) / 2  # pairs in which a is larger
    return float((wins - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))  # mean and deviation of U under chance


def copying(sampled: np.ndarray, held_out: np.ndarray, regions: Regions) -> Copying:
    """Test whether samples are nearer to the training images than held-out images are.

    Parameters
    ----------
    sampled, held_out : ndarray
        Distance of each sample and of each held-out image to its nearest training image.
    regions : tuple of ndarray
        As :func:`pixel_regions` gives them.
    """
    found = []
    for region in np.unique(regions[1]):
        a, b = sampled[regions[0] == region], held_out[regions[1] == region]
        if min(len(a), len(b)) >= _FEWEST:
            found.append({"z": mann_whitney_z(a, b), "samples": len(a), "held_out": len(b)})
    overall = mann_whitney_z(sampled, held_out)
    weights = [region["held_out"] for region in found]
    score = float(np.average([region["z"] for region in found], weights=weights)) if found else overall
    return Copying(score, overall, found)


def pixel_regions(train_ND: Tensor, sampled_MD: Tensor, held_out_PD: Tensor, seed: int) -> Regions:
    """Cut the space of images by K-means on training pixels; return the regions of samples and of held-out images."""
    state = derive(seed, "regions") % 2**32
    means = KMeans(min(REGIONS, len(train_ND)), n_init=1, max_iter=50, random_state=state)
    means.fit(train_ND.float().numpy())
    return means.predict(sampled_MD.float().numpy()), means.predict(held_out_PD.float().numpy())


def find(queries_QD: Tensor, train_ND: Tensor, device: torch.device, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and rows of the nearest training images, (Q, count), exactly."""
    rows, squares = NearestRows(train_ND, False, device).search(queries_QD, min(count, len(train_ND)))
    return squares.sqrt().cpu().numpy(), rows.cpu().numpy()


def check_images(images_NHWC: np.ndarray, preset: Preset, name: str) -> None:
    """Raise unless images have the shape that a generator draws.

    Raises
    ------
    DataError
        Another shape.
    """
    if images_NHWC.shape[1:] != preset.image_shape:
        raise DataError(
            f"The images of {name} are not of the shape that the generator draws",
            got="x".join(map(str, images_NHWC.shape[1:])),
            expected="x".join(map(str, preset.image_shape)),
            remedy="choose other images with --data, or another generator with --weights",
        )

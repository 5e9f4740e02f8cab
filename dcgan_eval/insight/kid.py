"""How far samples are from real images: KID on any features, and FID on Inception's.

Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, arXiv:1801.01401 (KID: unbiased squared MMD with the
kernel (x.y / width + 1)^3, averaged over subsets); Heusel et al., arXiv:1706.08500 (FID, computed by torch-fidelity).
Deviations: none in the estimate; the interval is that of the subsets' estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError, check_installed
from ..seeding import rng

LARGEST_SUBSET = 1_000
_COLUMNS = 4_096  # of the features, multiplied at once
_BATCH = 32  # images in Inception at once


@dataclass(frozen=True)
class Kid:
    """KID between two sets.

    Attributes
    ----------
    value : float
        Mean of the subsets' estimates; 0 in expectation for sets of one distribution, and then as often below.
    low, high : float
        Between them lie 95 % of the subsets' estimates.
    subsets, size : int
        Subsets, and images of each set in a subset.
    """

    value: float
    low: float
    high: float
    subsets: int
    size: int

    def measured(self, name: str) -> dict[str, Any]:
        """Return the numbers of a finding."""
        numbers = {name: self.value, f"{name}_ci95": [self.low, self.high]}
        return numbers | {f"{name}_subsets": self.subsets, f"{name}_subset_size": self.size}


def kid(x_NF: np.ndarray, y_MF: np.ndarray, subsets: int = 100, size: int | None = None, seed: int = 0) -> Kid:
    """Return the kernel distance between two sets of features.

    Parameters
    ----------
    x_NF, y_MF : ndarray
        Features, a row an image.
    subsets : int
        How many are drawn, each without repeats.
    size : int or None
        Rows of each set in a subset; None is half of the smaller set, at most 1,000.
    seed : int
        Root seed of the subsets.
    """
    size = size or min(LARGEST_SUBSET, min(len(x_NF), len(y_MF)) // 2)
    xx, yy, xy = (_kernel(a, b) for a, b in ((x_NF, x_NF), (y_MF, y_MF), (x_NF, y_MF)))
    picks, found = rng(seed, "kid subsets"), []
    for _ in range(subsets):
        i, j = (np.sort(picks.permutation(n)[:size]) for n in (len(x_NF), len(y_MF)))
        found.append(_within(xx[np.ix_(i, i)]) + _within(yy[np.ix_(j, j)]) - 2 * float(xy[np.ix_(i, j)].mean()))
    low, high = np.quantile(found, [0.025, 0.975])
    return Kid(float(np.mean(found)), float(low), float(high), subsets, size)


def _kernel(x_NF: np.ndarray, y_MF: np.ndarray) -> np.ndarray:
    """Return (x.y / width + 1)^3, float64 (N, M)."""
    product = torch.zeros(len(x_NF), len(y_MF), dtype=torch.float64)
    for start in range(0, x_NF.shape[1], _COLUMNS):
        x, y = (torch.from_numpy(a[:, start : start + _COLUMNS]).double() for a in (x_NF, y_MF))
        product += x @ y.T
    kernel: np.ndarray = ((product / x_NF.shape[1] + 1) ** 3).numpy()
    return kernel


def _within(kernel_NN: np.ndarray) -> float:
    """Return the mean kernel between different rows of one set: without the diagonal the estimate is unbiased."""
    n = len(kernel_NN)
    return float((kernel_NN.sum() - np.trace(kernel_NN)) / (n * (n - 1)))


def fid(x_NF: np.ndarray, y_MF: np.ndarray) -> float:
    """Return the Frechet distance between normal distributions fitted to two sets, by torch-fidelity."""
    from torch_fidelity import metric_fid

    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(a)) for a in (x_NF, y_MF)]
    return float(metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID])


def check_inception() -> None:
    """Raise unless torch-fidelity is installed."""
    check_installed("torch_fidelity", "--inception", extra="generate", distribution="torch-fidelity")


def load_inception(path: Path, device: torch.device) -> Any:
    """Return torch-fidelity's InceptionV3 with weights of a file; nothing is downloaded.

    Raises
    ------
    WeightsError
        No such file, more than tensors in it, or those of another network.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity itself would run any code in the file
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:  # whatever a file raises that is no checkpoint, or holds more than tensors
        raise WeightsError(
            "The weights of Inception cannot be read",
            got=f"{path}: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
            expected="the file pt_inception-2015-12-05 that torch-fidelity offers for download",
            remedy="check --inception",
        ) from error
    return network.to(device)


@torch.no_grad()
def inception_features(network: Any, images_NHWC: np.ndarray, device: torch.device) -> np.ndarray:
    """Return Inception's 2,048 features of uint8 images (N, H, W, C), float32; grey is repeated over the channels."""
    found: list[Tensor] = []
    for start in range(0, len(images_NHWC), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(images_NHWC[start : start + _BATCH])).permute(0, 3, 1, 2)
        found.append(network(batch.expand(-1, 3, -1, -1).to(device))[0].cpu())
    return torch.cat(found).numpy()

"""How good are generated digits as a training set? The error of the nearest generated digit's class on real ones.

Source: arXiv:1511.06434, supplement: 1-nearest-neighbour by pixels, reference set generated. Deviations: batch norm is
frozen (:func:`~dcgan_eval.insight.drawing.settled`), not of the minibatch; distances are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from ..baselines.nearest import NearestRows
from ..data.imageset import ImageSet

# Reference set -> error in percent, as the supplement prints it; no readable copy confirmed these figures.
PUBLISHED = {"50,000 DCGAN": 2.98, "10 million DCGAN": 1.48, "10,000 GAN": 6.28, "50,000 GAN": 5.65, "50,000 real": 3.1}


@dataclass(frozen=True)
class NearestError:
    """Error of the nearest digit's class.

    Attributes
    ----------
    count : int
        Digits in the reference set.
    wrong, tested : int
        Test digits that got another class, and all of them.
    """

    count: int
    wrong: int
    tested: int

    @property
    def error(self) -> float:
        """Share of wrong digits."""
        return self.wrong / self.tested

    def measured(self) -> dict[str, Any]:
        """Return plain values, with the 95 % interval of the share (Wilson)."""
        low, high = binomtest(self.wrong, self.tested).proportion_ci(method="wilson")
        return {"count": self.count, "error": self.error, "ci95": [float(low), float(high)], "tested": self.tested}


def nearest_error(reference: ImageSet, test: ImageSet, device: torch.device | str = "cpu") -> NearestError:
    """Give each test image the class of its nearest reference image, and count the errors.

    Parameters
    ----------
    reference, test : ImageSet
        Labelled, of one shape.
    device : torch.device or str
        Where to multiply.
    """
    assert reference.labels is not None
    assert test.labels is not None
    queries, rows = (torch.from_numpy(s.images).flatten(1) for s in (test, reference))
    predicted = reference.labels[NearestRows(rows, False, device).search(queries, 1)[0][:, 0].cpu().numpy()]
    return NearestError(len(reference), int((predicted != test.labels).sum()), len(test))


def score(
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    counts: Sequence[int],
    test: ImageSet,
    device: torch.device | str = "cpu",
) -> list[NearestError]:
    """Score reference sets of several sizes, each beginning with the smaller ones.

    Parameters
    ----------
    draw : callable
        Returns that many images, uint8 (N, H, W, C), and the classes that were asked for.
    counts : sequence of int
        Sizes.
    test : ImageSet
        Labelled real images.
    device : torch.device or str
        Where to multiply.
    """
    images, labels = draw(max(counts))
    return [nearest_error(ImageSet(images[:n], labels[:n], test.class_names), test, device) for n in sorted(counts)]

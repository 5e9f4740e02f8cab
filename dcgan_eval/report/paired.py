"""Two records paired on their test images: how large is the difference, and could it be chance?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import RecordError, counted
from ..records import Record, unpack_counts
from ..seeding import rng

_RESAMPLES = 9_999


@dataclass(frozen=True)
class Comparison:
    """The difference of two records, A - B, on the same test images.

    Attributes
    ----------
    difference : float
        Of the mean accuracies, a fraction.
    ci95 : tuple of float
        Paired bootstrap over the test images: 95 % interval of the difference, the fits being held fixed.
    num_images : int
        Test images.
    only_a, only_b : int or None
        Images that only one of the two classified right; None with several draws.
    mcnemar_p : float or None
        Exact two-sided p-value of McNemar's test; None with several draws, where an image is not right or wrong.
    """

    difference: float
    ci95: tuple[float, float]
    num_images: int
    only_a: int | None
    only_b: int | None
    mcnemar_p: float | None


def paired_comparison(a: Record, b: Record, *, seed: int = 0) -> Comparison:
    """Compare two records image by image.

    Parameters
    ----------
    a, b : Record
        Measured on the same labelled test images, by any protocol and with any features.
    seed : int
        Root seed of the bootstrap.

    Returns
    -------
    Comparison

    Raises
    ------
    RecordError
        Different test images, or a record from before schema 2, which does not say which images were right.
    """
    _check_same_data(a, b)
    share_a, share_b = (unpack_counts(_right(record)) / record.num_draws for record in (a, b))
    low, high = _bootstrap(share_a - share_b, seed)
    only_a, only_b, p = mcnemar(share_a, share_b) if a.num_draws == b.num_draws == 1 else (None, None, None)
    return Comparison(float(np.mean(share_a - share_b)), (low, high), len(share_a), only_a, only_b, p)


def _bootstrap(differences_N: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over images drawn with replacement.

    Images differ by one of few values only (three for single draws), so that a resample is a multinomial draw of how
    often each value comes: the same distribution, without an index for each image.
    """
    values_K, counts_K = np.unique(differences_N, return_counts=True)
    num_images = len(differences_N)
    resamples_RK = rng(seed, "paired bootstrap").multinomial(num_images, counts_K / num_images, size=_RESAMPLES)
    low, high = np.percentile(resamples_RK @ values_K / num_images, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int, float]:
    """Return how many images only A and only B have right, and the exact two-sided p-value of no difference.

    Parameters
    ----------
    right_a, right_b : ndarray
        0 or 1 for each image, (N,).

    Source: McNemar 1947, with the binomial distribution instead of chi-squared.
    """
    only_a, only_b = int(np.sum(right_a > right_b)), int(np.sum(right_a < right_b))
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(stats.binomtest(only_a, only_a + only_b).pvalue)


def _check_same_data(a: Record, b: Record) -> None:
    """Refuse records of different test images."""
    tests = [list(record.data.values())[-1] for record in (a, b)]  # scored on: the test set, or validation rows
    if tests[0]["fingerprint"] != tests[1]["fingerprint"]:
        described = [
            f"{t['name']} {t['split']}, {counted(t['num_images'], 'images')}, {t['fingerprint'][:12]}" for t in tests
        ]
        raise RecordError(
            "The records were measured on different test images, so they cannot be compared image by image",
            got=" and ".join(described),
            expected="the same labelled test images",
            remedy="run both on the same data",
        )
    if a.class_names != b.class_names:
        raise RecordError(
            "The records name the classes of their test images differently",
            got=f"{', '.join(a.class_names[:5])} and {', '.join(b.class_names[:5])}",
            remedy="run one of them again",
        )


def _right(record: Record) -> str:
    """Return a record's packed counts, or say why there are none."""
    if record.right is None:
        raise RecordError(
            f"The record of {record.protocol} with {record.features['name']} does not say which images were right",
            got=f"schema {record.schema}",
            expected="schema 2 or later",
            remedy="run the protocol again",
        )
    return record.right

"""Means, spreads and intervals, each under its own name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points

import numpy as np
from scipy.special import ndtri, stdtrit  # not scipy.stats, which takes a second to import

from ..errors import DcganEvalError
from ..records import PER_CLASS
from ..seeding import rng

ENTRY_POINTS = "dcgan_eval.metrics"
Metrics = Mapping[str, Callable[[np.ndarray], np.ndarray]]
"""Name -> function of counts (K, K), or of several (R, K, K) at once."""


def spread_of_draws(scores: Sequence[float]) -> float | None:
    """Return 1.96 standard deviations of the draws (a spread, no interval of the mean); None for a single draw.

    Source: printed this way by the 2016 release.
    """
    return float(1.96 * np.std(scores, ddof=1)) if len(scores) > 1 else None


def interval_of_mean(scores: Sequence[float], num_test: int) -> list[float]:
    """Return a 95 % confidence interval.

    Parameters
    ----------
    scores : sequence of float
        Accuracies of the draws, fractions.
    num_test : int
        Test images behind each score.

    Returns
    -------
    list of float
        [low, high]: Student's t over the draws, or Wilson's interval of a proportion for a single one.
    """
    if len(scores) == 1:
        return _wilson(round(scores[0] * num_test), num_test)
    mean, error = float(np.mean(scores)), float(np.std(scores, ddof=1)) / len(scores) ** 0.5
    half = float(stdtrit(len(scores) - 1, 0.975)) * error  # two-sided 95 %
    return [mean - half, mean + half]


def _wilson(hits: int, num: int) -> list[float]:
    """Return Wilson's (1927) 95 % score interval of a proportion; exactly 0 or 1 where every trial ended alike."""
    share, z = hits / num, float(ndtri(0.975))
    scale = 2 * (num + z**2)
    centre, half = (2 * num * share + z**2) / scale, z / scale * math.sqrt(4 * num * share * (1 - share) + z**2)
    return [0.0 if hits == 0 else centre - half, 1.0 if hits == num else centre + half]


def fits_scores(scores: Sequence[float], right_N: np.ndarray) -> bool:
    """Tell whether counts of right images (N,) over some draws add up to the accuracies of the draws."""
    return bool(np.isclose(np.sum(right_N), np.sum(scores) * len(right_N), rtol=0, atol=0.5))


def interval_with_images(scores: Sequence[float], right_N: np.ndarray) -> list[float]:
    """Return a 95 % confidence interval of the accuracy over other draws and other test images.

    Parameters
    ----------
    scores : sequence of float
        Accuracies of the D draws on the same N test images, fractions.
    right_N : ndarray of int
        In how many of the draws each test image was classified right, (N,).

    Returns
    -------
    list of float
        [low, high] within 0 and 1: Wilson's interval of a proportion for a single draw, else Student's t with the
        standard error below. Another pool of training images to draw from is not covered.

    Raises
    ------
    ValueError
        The counts do not add up to the scores.

    Source: Two-way analysis of variance without replication; degrees of freedom by Satterthwaite 1946. With
    x_dn in {0, 1} = mean + draw_d + image_n + rest_dn, the mean of all x has the variance
    s2_draw / D + s2_image / N + s2_rest / (D N). The variance of the draws' scores over D estimates the first and the
    last term together; that of the images' shares over N the second, and the last once more, which is taken off.
    """
    num_draws, num_test = len(scores), len(right_N)
    if not fits_scores(scores, right_N):
        raise ValueError(f"{np.sum(right_N)} images were right in all, {np.sum(scores) * num_test:.1f} by the scores")
    if num_draws == 1:
        return interval_of_mean(scores, num_test)
    mean = float(np.mean(scores))
    of_draws = float(np.var(scores, ddof=1)) / num_draws  # s2_draw / D + s2_rest / (D N)
    of_images = float(np.var(right_N / num_draws, ddof=1)) / num_test
    # The sum of squares of all D x N zeros and ones, less what draws and images explain, is the rest's.
    squares = num_draws * num_test * mean * (1 - mean)
    explained = num_test * (num_draws - 1) * num_draws * of_draws + num_draws * (num_test - 1) * num_test * of_images
    of_rest = max(0.0, squares - explained) / (num_draws * num_test * (num_draws - 1) * (num_test - 1))
    of_images = max(0.0, of_images - of_rest)
    variance = of_draws + of_images
    if variance == 0:
        return [mean, mean]
    freedom = variance**2 / (of_draws**2 / (num_draws - 1) + of_images**2 / (num_test - 1))  # Satterthwaite
    half = float(stdtrit(freedom, 0.975) * np.sqrt(variance))
    return [max(0.0, mean - half), min(1.0, mean + half)]


def accuracy(labels_N: np.ndarray, predicted_N: np.ndarray, metric: str = "accuracy") -> float:
    """Return a protocol's metric of some predictions: the share that is right, or the mean of the classes' shares."""
    right = predicted_N == labels_N
    if metric == PER_CLASS:
        return float(np.mean([np.mean(right[labels_N == label]) for label in np.unique(labels_N)]))
    return float(np.mean(right))


def accuracy_in(confusion_KK: np.ndarray, metric: str = "accuracy") -> float:
    """Return a protocol's metric of counts (labels, predictions)."""
    if metric == PER_CLASS:
        return float(_balanced_accuracy(confusion_KK))
    return float(np.trace(confusion_KK) / confusion_KK.sum())


def interval_over_draws(scores: Sequence[float], confusion_KK: np.ndarray, metric: str = "accuracy") -> list[float]:
    """Return the 95 % interval of a protocol's metric on these test images.

    Parameters
    ----------
    scores : sequence of float
        Of the draws, fractions.
    confusion_KK : (K, K) of int
        Counts (labels, predictions), summed over the draws.
    metric : str
        See :class:`~dcgan_eval.protocols.spec.Protocol`.

    Returns
    -------
    list of float
        :func:`interval_of_mean`; of a single mean over classes that of :func:`class_figures`.
    """
    if metric == PER_CLASS and len(scores) == 1:
        return list(class_figures(confusion_KK, metrics=_ALIKE)["balanced accuracy"][1:])
    return interval_of_mean(scores, round(np.sum(confusion_KK) / len(scores)))


def interval_over_images(
    scores: Sequence[float], confusion_KK: np.ndarray, right_N: np.ndarray, metric: str = "accuracy"
) -> list[float]:
    """Return the 95 % interval of a protocol's metric over other draws and other test images.

    Parameters
    ----------
    scores, confusion_KK, metric
        As for :func:`interval_over_draws`.
    right_N : ndarray of int
        In how many of the draws each test image was classified right, (N,).

    Returns
    -------
    list of float
        :func:`interval_with_images`; of means over classes that of :func:`class_figures`, images drawn anew within
        each class.
    """
    if metric == PER_CLASS:
        return list(class_figures(confusion_KK, len(scores), metrics=_ALIKE)["balanced accuracy"][1:])
    return interval_with_images(scores, right_N)


def equal_images(confusion_KK: np.ndarray, metric: str, num_draws: int) -> float:
    """Return the number of test images that, weighed equally, would give a metric the same variance.

    In the mean over K classes each of a class's n_k images weighs 1 / (K n_k): they count as K^2 / sum(1 / n_k) images.
    """
    counts = np.asarray(confusion_KK).sum(1) / num_draws
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / (1 / counts).sum() if metric == PER_CLASS else counts.sum())


_RESAMPLES = 999
_BLOCK_COUNTS = 1 << 22  # counts of resamples at once
_BINS = 15  # Guo et al. 2017


def class_figures(
    confusion_KK: Sequence[Sequence[int]] | np.ndarray,
    num_draws: int = 1,
    seed: int = 0,
    metrics: Metrics | None = None,
) -> dict[str, tuple[float, float, float]]:
    """Return figures that weigh every class alike, with 95 % intervals over other test images.

    Parameters
    ----------
    confusion_KK : (K, K) of int
        Counts (labels, predictions), summed over the draws.
    num_draws : int
        Draws behind them, on the same test images.
    seed : int
        Root seed of the bootstrap.
    metrics : mapping or None
        What :func:`class_metrics` gave, where many records are looked at; None looks for them.

    Returns
    -------
    dict
        ``balanced accuracy`` (mean of the classes' recalls) and ``macro F1`` -> (value, low, high), fractions. Classes
        without an image, and for F1 without a prediction either, do not count. What other packages offer as entry
        points of the group ``dcgan_eval.metrics`` follows: functions of the matrix without classes that never occur.

    Raises
    ------
    DcganEvalError
        A function of another package fails.

    Source: percentile bootstrap (Efron 1979), images drawn anew within each class from what became of its images.
    """
    confusion = np.asarray(confusion_KK, np.float64)
    confusion = confusion[np.ix_(*[confusion.sum(0) + confusion.sum(1) > 0] * 2)]  # classes that occur at all
    rows = confusion.sum(1)
    images = np.rint(rows / num_draws).astype(int)
    shares = confusion / np.maximum(rows, 1)[:, None]
    shares[rows == 0, 0] = 1.0  # of no images: any distribution will do
    draw, chosen = rng(seed, "figures over classes"), class_metrics() if metrics is None else metrics
    values, block = {name: list[np.ndarray]() for name in chosen}, max(1, _BLOCK_COUNTS // max(1, confusion.size))
    for start in range(0, _RESAMPLES, block):
        size = (min(block, _RESAMPLES - start), len(images))
        again_RKK = draw.multinomial(images, shares, size=size)
        for name, metric in chosen.items():
            values[name].append(np.atleast_1d(metric(again_RKK)))
    found = {}
    for name, metric in chosen.items():
        low, high = np.nanpercentile(np.concatenate(values[name]), [2.5, 97.5])
        found[name] = (float(metric(confusion)), float(low), float(high))
    return found


def _balanced_accuracy(confusion_KK: np.ndarray) -> np.ndarray:
    """Return the mean recall of the classes that have images, of one matrix or of each of several (R, K, K)."""
    right = np.diagonal(confusion_KK, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(right / confusion_KK.sum(-1), axis=-1))


def _macro_f1(confusion_KK: np.ndarray) -> np.ndarray:
    """Return the mean F1 of the classes that occur, of one matrix or of each of several (R, K, K)."""
    right = np.diagonal(confusion_KK, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(2 * right / (confusion_KK.sum(-1) + confusion_KK.sum(-2)), axis=-1))


_ALIKE: Metrics = {"balanced accuracy": _balanced_accuracy}


def class_metrics() -> Metrics:
    """Return the metrics of :func:`class_figures`: ours, and those of other installed packages."""
    return {**_ALIKE, "macro F1": _macro_f1, **_offered()}


def _offered() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the metrics of other installed packages, which take one matrix."""

    def guarded(name: str, measure: Callable[[np.ndarray], float], counts: np.ndarray) -> np.ndarray:
        try:
            matrices = np.asarray(counts, np.float64).reshape(-1, *counts.shape[-2:])
            return np.array([float(measure(matrix)) for matrix in matrices]).reshape(counts.shape[:-2])
        except Exception as error:  # it may raise anything
            raise DcganEvalError(
                f"The metric {name} of another package fails",
                got=f"{type(error).__name__}: {error}",
                remedy="mend that package, or uninstall it",
            ) from error

    return {p.name: partial(guarded, p.name, p.load()) for p in entry_points(group=ENTRY_POINTS)}


def calibration_bins(confidence_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """Sum predictions by their confidence, in 15 bins of equal width that hold their upper edge.

    Parameters
    ----------
    confidence_N : ndarray
        Probability of the predicted class, (N,), 0 to 1.
    right_N : ndarray of bool
        Whether the prediction is right, (N,).

    Returns
    -------
    (15, 4) float64
        Of each bin: count, and the sums of confidence, of right, and of (right - confidence)^2.
    """
    right = np.asarray(right_N, np.float64)
    bins = np.clip(np.ceil(np.asarray(confidence_N) * _BINS).astype(int) - 1, 0, _BINS - 1)
    columns = (np.ones_like(right), confidence_N, right, (right - confidence_N) ** 2)
    return np.stack([np.bincount(bins, column, minlength=_BINS) for column in columns], axis=1)


def calibration_error(bins: Sequence[Sequence[float]] | np.ndarray, num_test: int) -> tuple[float, float, float]:
    """Return the expected calibration error with a 95 % interval over other test images.

    Parameters
    ----------
    bins : (15, 4) of float
        From :func:`calibration_bins`, summed over the draws.
    num_test : int
        Test images behind them.

    Returns
    -------
    tuple of float
        (value, low, high), fractions: the mean distance of accuracy from confidence, each bin weighed by its images.

    Source: Guo et al. 2017, equation 3. With s_b the sign of bin b's difference, the error is the mean over the images
    of s_b (right - confidence), so its variance is theirs over N (delta method); draws on the same images count once.
    Deviations: none. As always, where bins hold few images the estimate is too high by their noise, the interval too.
    """
    count, confidence, right, squares = np.asarray(bins, np.float64).T
    total = count.sum()
    value = float(np.abs(right - confidence).sum() / total)
    half = 1.96 * float(np.sqrt(max(0.0, squares.sum() / total - value**2) / num_test))
    return value, max(0.0, value - half), min(1.0, value + half)

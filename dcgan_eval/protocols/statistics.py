"""Means, spreads and intervals, each under its own name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points

import numpy as np
from scipy import stats

from ..errors import DcganEvalError
from ..records import PER_CLASS
from ..seeding import rng

ENTRY_POINTS = "dcgan_eval.metrics"


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
        hits = round(scores[0] * num_test)
        interval = stats.binomtest(hits, num_test).proportion_ci(method="wilson")
        return [float(interval.low), float(interval.high)]
    mean, error = float(np.mean(scores)), float(stats.sem(scores))
    half = float(stats.t.ppf(0.975, len(scores) - 1)) * error  # two-sided 95 %
    return [mean - half, mean + half]


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
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
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
        return _balanced_accuracy(confusion_KK)
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
        return list(class_figures(confusion_KK)["balanced accuracy"][1:])
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
        return list(class_figures(confusion_KK, len(scores))["balanced accuracy"][1:])
    return interval_with_images(scores, right_N)


def equal_images(confusion_KK: np.ndarray, metric: str, num_draws: int) -> float:
    """Return the number of test images that, weighed equally, would give a metric the same variance.

    In the mean over K classes each of a class's n_k images weighs 1 / (K n_k): they count as K^2 / sum(1 / n_k) images.
    """
    counts = np.asarray(confusion_KK).sum(1) / num_draws
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / (1 / counts).sum() if metric == PER_CLASS else counts.sum())


_RESAMPLES = 999
_BINS = 15  # Guo et al. 2017


def class_figures(
    confusion_KK: Sequence[Sequence[int]] | np.ndarray, num_draws: int = 1, seed: int = 0
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
    draw = rng(seed, "figures over classes")
    again = [draw.multinomial(images, shares) for _ in range(_RESAMPLES)]
    found = {}
    for name, measure in (_MEASURES | _offered()).items():
        low, high = np.nanpercentile([measure(counts) for counts in again], [2.5, 97.5])
        found[name] = (measure(confusion), float(low), float(high))
    return found


def _balanced_accuracy(confusion_KK: np.ndarray) -> float:
    """Return the mean recall of the classes that have images."""
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(np.diag(confusion_KK) / confusion_KK.sum(1)))


def _macro_f1(confusion_KK: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur."""
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(2 * np.diag(confusion_KK) / (confusion_KK.sum(1) + confusion_KK.sum(0))))


_Measure = Callable[[np.ndarray], float]
_MEASURES: dict[str, _Measure] = {"balanced accuracy": _balanced_accuracy, "macro F1": _macro_f1}


def _offered() -> dict[str, _Measure]:
    """Return the metrics of other installed packages."""

    def guarded(name: str, measure: _Measure, confusion_KK: np.ndarray) -> float:
        try:
            return float(measure(np.asarray(confusion_KK, np.float64)))
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

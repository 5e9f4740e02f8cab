"""Means, spreads and intervals, each under its own name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


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
    half = float(stats.t.ppf(0.975, len(scores) - 1)) * error
    return [mean - half, mean + half]

"""Intervals, against closed forms and against repeated experiments whose true accuracy is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dcgan_eval.protocols.statistics import interval_of_mean, interval_with_images


def scored(right_DN: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Return the scores of the draws and the counts of the images."""
    return right_DN.mean(1).tolist(), right_DN.sum(0)


def test_a_single_draw_has_wilsons_interval() -> None:
    right = np.random.default_rng(0).random((1, 500)) < 0.7
    low, high = stats.binomtest(int(right.sum()), 500).proportion_ci(method="wilson")
    assert interval_with_images(*scored(right)) == pytest.approx([low, high])


def test_draws_that_all_agree_are_worth_one() -> None:
    once = np.random.default_rng(1).random(6_000) < 0.81
    low, high = interval_with_images(*scored(np.tile(once, (100, 1))))
    p = once.mean()
    half = stats.t.ppf(0.975, 5_999) * np.sqrt(p * (1 - p) / 5_999)  # the standard error of a mean of 6,000 0s and 1s
    assert (low, high) == (pytest.approx(p - half), pytest.approx(p + half))
    assert interval_of_mean([float(p)] * 100, 6_000) == pytest.approx([p, p])  # what the draws alone would say


def test_images_that_are_all_alike_add_nothing() -> None:
    # Independent zeros and ones: no image is harder than another, so all D x N of them are one sample.
    right = np.random.default_rng(2).random((40, 2_000)) < 0.6
    low, high = interval_with_images(*scored(right))
    naive = 1.96 * np.sqrt(0.24 / right.size)
    assert (high - low) / 2 == pytest.approx(naive, rel=0.35)  # an estimate from 40 draws is off by a tenth or two


def experiment(draw: np.random.Generator, num_draws: int, num_images: int, draws: float, images: float) -> np.ndarray:
    """One experiment: each image has a difficulty, each draw a skill; right where their sum and noise is positive."""
    latent = draws * draw.normal(size=(num_draws, 1)) + images * draw.normal(size=num_images) + 0.8
    return latent + draw.normal(size=(num_draws, num_images)) > 0


@pytest.mark.parametrize(
    ("draws", "images", "alone_at_most"),
    [(0.05, 1.5, 0.7), (0.3, 1.0, 0.925), (0.3, 0.0, 1.0)],
    ids=["images matter most", "both matter", "draws alone matter"],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(draws: float, images: float, alone_at_most: float) -> None:
    truth = stats.norm.cdf(0.8 / np.sqrt(1 + draws**2 + images**2))  # the mean over all draws and all images
    draw = np.random.default_rng(3)
    experiments = [scored(experiment(draw, 10, 400, draws, images)) for _ in range(1_000)]
    covered = np.mean([low <= truth <= high for low, high in (interval_with_images(*e) for e in experiments)])
    assert 0.93 <= covered <= 0.97  # 0.95, give or take three standard errors of 1,000 tries
    alone = [interval_of_mean(scores, 400) for scores, _ in experiments]
    assert np.mean([low <= truth <= high for low, high in alone]) <= alone_at_most  # that of the draws does not


def test_counts_of_other_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="right in all"):
        interval_with_images([0.5, 0.6], np.ones(10, int))

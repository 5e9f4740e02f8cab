"""Intervals, against closed forms and against repeated experiments whose true accuracy is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from dcgan_eval.protocols.statistics import class_figures, interval_of_mean, interval_with_images


def scored(right_DN: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Return the scores of the draws and the counts of the images."""
    return right_DN.mean(1).tolist(), right_DN.sum(0)


@pytest.mark.parametrize("hits", [0, 1, 350, 499, 500])
def test_a_single_draw_has_wilsons_interval(hits: int) -> None:
    right = np.arange(500)[None] < hits
    low, high = stats.binomtest(hits, 500).proportion_ci(method="wilson")
    assert interval_with_images(*scored(right)) == pytest.approx([low, high], rel=1e-14)


def test_a_few_draws_have_students_interval() -> None:
    scores = [0.61, 0.64, 0.6, 0.66]
    expected = stats.t.interval(0.95, 3, np.mean(scores), stats.sem(scores))
    assert interval_of_mean(scores, 500) == pytest.approx(expected, rel=1e-14)


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


@pytest.mark.parametrize("absent", [None, 2, 4])  # a class without images (but with predictions), one that never occurs
def test_figures_over_classes_are_scikit_learns(absent: int | None) -> None:
    draw = np.random.default_rng(5)
    y = draw.choice(4, 300, p=[0.6, 0.25, 0.1, 0.05])
    y = y[y != absent]
    predicted = np.where(draw.random(len(y)) < 0.7, y, draw.integers(0, 4, len(y)))
    found = class_figures(confusion_matrix(y, predicted, labels=range(5)))
    with warnings.catch_warnings(action="ignore"):  # of a class that is predicted only
        balanced = balanced_accuracy_score(y, predicted)
    assert found["balanced accuracy"][0] == pytest.approx(balanced)
    assert found["macro F1"][0] == pytest.approx(f1_score(y, predicted, average="macro"))
    for value, low, high in found.values():
        assert low < value < high


def test_the_interval_over_classes_is_that_of_independent_proportions() -> None:
    p, n = np.array([0.9, 0.5, 0.2]), 400
    confusion = np.diag((p * n).astype(int))
    confusion[[0, 1, 2], [1, 2, 0]] = n - np.diag(confusion)
    value, low, high = class_figures(confusion)["balanced accuracy"]
    half = 1.96 * np.sqrt((p * (1 - p) / n).sum()) / 3
    assert (low, high) == (pytest.approx(value - half, abs=0.003), pytest.approx(value + half, abs=0.003))
    draws = class_figures(10 * confusion, num_draws=10)["balanced accuracy"]  # the same images ten times
    assert draws == pytest.approx((value, low, high))

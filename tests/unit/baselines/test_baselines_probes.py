"""Nearest neighbours and logistic regression agree with scikit-learn's, and logistic regression certifies itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax, xlogy
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from dcgan_eval.baselines.knn import TEMPERATURE, KnnClassifier
from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.errors import ArgumentError


def blobs(count: int, seed: int, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Four overlapping classes with labels that are no indices, off the origin."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, count)
    means = np.random.default_rng(9).normal(0, 1, (4, 12))
    return (means[labels] + draw.normal(0, 1.2, (count, 12)) + 0.5).astype(dtype), 10 + 5 * labels


@pytest.mark.parametrize("cosine", [False, True])
def test_neighbours_vote_as_scikit_learns_do(cosine: bool) -> None:
    (X, y), (X_val, _) = blobs(300, 0), blobs(400, 1)
    ours, options = KnnClassifier(cosine), {}
    if cosine:
        options = {"metric": "cosine", "weights": lambda d: np.exp(-d / TEMPERATURE)}
    found = list(ours.path(X, y, X_val))
    assert [fit.value for fit, _ in found] == list(ours.values)
    for fit, predicted in found:
        theirs = KNeighborsClassifier(int(fit.value), **options).fit(X, y).predict(X_val)
        assert np.array_equal(predicted, theirs), fit.value
        assert np.array_equal(ours.predict([ours.fit(X, y, fit.value)], X_val)[0], theirs)
    assert all(fit.status == "exact" and fit.duality_gap is None and fit.num_rows == 300 for fit, _ in found)


def test_of_equal_votes_the_smaller_label_wins() -> None:
    X = np.array([[1.0], [-1.0]])
    knn = KnnClassifier()
    assert knn.predict([knn.fit(X, np.array([8, 3]), 2)], np.array([[0.9]]))[0].tolist() == [3]


def test_k_ends_at_the_number_of_rows() -> None:
    X, y = blobs(7, 0)
    assert [fit.value for fit, _ in KnnClassifier().path(X, y, X)] == [1, 3, 5]


def test_zero_features_have_no_direction_but_a_prediction() -> None:
    X, y = blobs(30, 0)
    knn = KnnClassifier(cosine=True)
    assert knn.predict([knn.fit(X, y, 5)], np.zeros((1, 12)))[0][0] in y


@pytest.mark.parametrize("C", [1e-3, 1e-1, 10.0])
def test_logistic_regression_equals_scikit_learns(C: float) -> None:
    X, y = blobs(200, 0)
    ours = LogisticClassifier(tol=1e-13).fit(X, y, C)
    constant = np.hstack([X, np.ones((len(X), 1))])  # the intercept is penalised like the other weights
    theirs = LogisticRegression(C=C, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(constant, y)
    assert ours.status == "converged"
    # a relative gap of 1e-13 bounds ||W - W*||^2 by 2e-13 of the objective, which is below 2000 here
    assert ours.W.numpy() == pytest.approx(theirs.coef_, abs=5e-5)
    X_val, _ = blobs(300, 1)
    assert np.array_equal(
        LogisticClassifier().predict([ours], X_val)[0], theirs.predict(np.hstack([X_val, np.ones((300, 1))]))
    )


def penalised(X: np.ndarray, y: np.ndarray, W: np.ndarray, C: float) -> tuple[float, float]:
    """Return primal and dual from their definitions, the dual at p = softmax(W x), in float64."""
    X = np.column_stack([X.astype(np.float64), np.ones(len(X))])
    Z = X @ W.T
    own = y[:, None] == np.unique(y)
    primal = (W * W).sum() / 2 + C * (logsumexp(Z, axis=1) - Z[own]).sum()
    p = softmax(Z, axis=1)
    pulled = C * (own - p).T @ X
    return float(primal), float(-(pulled * pulled).sum() / 2 - C * xlogy(p, p).sum())


@pytest.mark.parametrize(("rows", "width", "solver"), [(60, 300, "gram"), (300, 12, "primal"), (700, 600, "primal")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_objective_is_scikit_learns_and_the_gap_that_of_the_definitions(rows, width, solver, dtype) -> None:
    draw = np.random.default_rng(rows)
    y = np.arange(rows) % 4
    X = (draw.normal(size=(4, width))[y] + 3 * draw.normal(size=(rows, width)) + 1).astype(dtype)
    fits = [fit for fit, _ in LogisticClassifier(tol=1e-7).path(X, y, X[:2])][4:11:3]
    for fit in fits:
        assert (fit.status, fit.solver.split("+")[0]) == ("converged", solver)
        primal, dual = penalised(X, y, fit.W.numpy(), fit.value)
        assert fit.duality_gap <= 1e-7
        assert fit.duality_gap == pytest.approx((primal - dual) / primal, abs=1e-12)  # float64 sums of 1e3 terms
        constant = np.column_stack([X.astype(np.float64), np.ones(rows)])
        peer = LogisticRegression(C=fit.value, fit_intercept=False, tol=1e-9, max_iter=20_000).fit(constant, y)
        assert primal == pytest.approx(penalised(X, y, peer.coef_, fit.value)[0], rel=1e-6)


def test_an_unfinished_fit_states_its_gap_too() -> None:
    X, y = blobs(200, 0)
    fit = LogisticClassifier(tol=1e-12, max_iter=1).fit(X, y, 1.0)
    assert fit.status == "max_iterations"
    primal, dual = penalised(X, y, fit.W.numpy(), 1.0)
    assert fit.duality_gap == pytest.approx((primal - dual) / primal, rel=1e-9)
    assert fit.duality_gap > 1e-12


def test_a_matrix_that_is_streamed_gives_the_same_weights() -> None:
    X, y = blobs(300, 0, np.float32)

    class Lazy:
        """Rows that can only be read by slices."""

        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows: slice) -> np.ndarray:
            return X[rows]

    here = LogisticClassifier().fit(X, y, 1e-2)
    there = LogisticClassifier(memory_bytes=0).fit(Lazy(), y, 1e-2)
    assert torch.equal(here.W, there.W)
    assert np.array_equal(LogisticClassifier().predict([there], Lazy())[0], LogisticClassifier().predict([here], X)[0])


@pytest.mark.parametrize("option", [{"tol": 0.0}, {"tol": float("nan")}, {"tol": -1.0}, {"max_iter": 0}])
def test_options_that_cannot_be_met_are_refused_before_anything_is_computed(option) -> None:
    with pytest.raises(ArgumentError, match=next(iter(option))):
        LogisticClassifier(**option)


def test_float32_features_reach_their_certificate_along_the_path() -> None:
    (X, y), (X_val, _) = blobs(300, 0, np.float32), blobs(50, 1, np.float32)
    fits = [fit for fit, _ in LogisticClassifier().path(X, y, X_val)]
    assert [fit.value for fit in fits] == list(LogisticClassifier.values)
    assert all(fit.status == "converged" and fit.duality_gap <= 1e-4 for fit in fits)
    norms = [float(fit.W.norm()) for fit in fits]
    assert all(a < b for a, b in itertools.pairwise(norms))


def test_where_float32_rounding_stops_progress_float64_reaches_the_certificate() -> None:
    X, y = blobs(300, 0)
    X = (X + 300).astype(np.float32)  # a common offset: curvature of 1e7 along it
    classifier = LogisticClassifier(tol=1e-6)
    fit = classifier.fit(X, y, 1.0)
    assert fit.status == "converged"
    assert fit.duality_gap <= 1e-6

"""Ridge classification equals scikit-learn's and certifies itself; the perceptron steps by its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier as SklearnRidge

from dcgan_eval.baselines.mlp import MlpClassifier, MlpOptions
from dcgan_eval.baselines.ridge import RidgeClassifier
from dcgan_eval.errors import ArgumentError


def blobs(rows: int, width: int, num_classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes off the origin, with labels that are no indices."""
    draw = np.random.default_rng(seed)
    means = np.random.default_rng(9).normal(0, 1, (num_classes, width))
    labels = np.arange(rows) % num_classes
    return means[labels] + draw.normal(0, 2, (rows, width)) + 3, 10 + 5 * labels


def unit(X: np.ndarray) -> float:
    """The mean squared distance of a row from the rows' mean, by its definition."""
    return float(np.mean([np.sum((x - X.mean(0)) ** 2) for x in X.astype(np.float64)]))


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize(("rows", "width", "solver"), [(60, 300, "gram"), (700, 40, "covariance")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ridge_is_scikit_learns_at_every_alpha(rows: int, width: int, solver: str, num_classes: int, dtype) -> None:
    X, y = blobs(rows, width, num_classes)
    X, (X_val, _) = X.astype(dtype), blobs(300, width, num_classes, seed=1)
    path = list(RidgeClassifier().path(X, y, X_val))
    assert [fit.value for fit, _ in path] == list(RidgeClassifier.values)
    for fit, predicted in path:
        theirs = SklearnRidge(alpha=fit.value * unit(X)).fit(X.astype(np.float64), y)
        own = fit.W if num_classes > 2 else fit.W[1:]  # scikit-learn keeps the positive class alone
        assert own[:, :-1] == pytest.approx(
            np.atleast_2d(theirs.coef_), rel=1e-6, abs=1e-9
        )  # the gap bounds what float64 leaves open
        assert own[:, -1] == pytest.approx(np.atleast_1d(theirs.intercept_), rel=1e-6, abs=1e-9)
        assert np.array_equal(predicted, theirs.predict(X_val))
        assert (fit.status, fit.solver, fit.num_rows) == ("exact", solver, rows)
        assert fit.duality_gap < 1e-12
    alone = RidgeClassifier().fit(X, y, 0.3)  # from a matrix of its own, after none
    assert pytest.approx(path[5][0].W, rel=1e-9, abs=1e-12) == alone.W


@pytest.mark.parametrize(("rows", "width"), [(60, 300), (700, 40)])
def test_the_gap_bounds_the_excess_of_weights_that_are_off(rows: int, width: int, monkeypatch) -> None:
    """Solutions with an error planted: the excess over the optimum, from the definition, is within the stated gap."""
    X, y = blobs(rows, width)
    right = RidgeClassifier().fit(X, y, 1.0)
    solve = "dcgan_eval.baselines.ridge._Equations._solve"
    original = __import__("dcgan_eval.baselines.ridge", fromlist=["x"])._Equations._solve
    monkeypatch.setattr(solve, lambda self, alpha: 1.01 * original(self, alpha))
    wrong = RidgeClassifier().fit(X, y, 1.0)

    def objective(W: np.ndarray) -> float:
        targets = np.where(y[:, None] == np.unique(y), 1.0, -1.0)
        return float(((targets - X @ W[:, :-1].T - W[:, -1]) ** 2).sum() + unit(X) * (W[:, :-1] ** 2).sum())

    excess = (objective(wrong.W) - objective(right.W)) / objective(wrong.W)
    assert 1e-8 < excess <= wrong.duality_gap
    assert wrong.status == "stalled"


class Lazy:
    """Rows that can only be read by slices."""

    def __init__(self, X: np.ndarray):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._X[rows]


def test_ridge_streams_what_lies_elsewhere() -> None:
    for rows, width in ((60, 300), (700, 40)):
        X, y = blobs(rows, width)
        X = X.astype(np.float32)
        ridge = RidgeClassifier()
        here, there = ridge.fit(X, y, 1.0), ridge.fit(Lazy(X), y, 1.0)
        assert pytest.approx(here.W, rel=1e-9, abs=1e-12) == there.W
        assert np.array_equal(ridge.predict([there], Lazy(X))[0], ridge.predict([here], X)[0])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_neither_minds_the_scale_of_the_features(scale: float) -> None:
    X, y = blobs(200, 30)
    X_val, _ = blobs(300, 30, seed=1)
    for classifier in (RidgeClassifier(), MlpClassifier(MlpOptions(width=16, least_steps=20))):
        for value in classifier.values[::2]:
            plain, scaled = classifier.fit(X, y, value), classifier.fit(scale * X, y, value)
            predicted = [classifier.predict([plain], X_val)[0], classifier.predict([scaled], scale * X_val)[0]]
            assert np.mean(predicted[0] != predicted[1]) <= 1 / 300  # float32 rounding at a boundary


@pytest.mark.parametrize("classifier", [RidgeClassifier(), MlpClassifier()])
def test_features_that_are_not_finite_are_refused(classifier) -> None:
    X, y = blobs(40, 10)
    X[3, 3] = np.nan
    with pytest.raises(ArgumentError, match="NaN or infinity"):
        classifier.fit(X, y, 1.0)


def test_equations_that_memory_does_not_hold_are_refused() -> None:
    X, y = blobs(100, 300)
    with pytest.raises(ArgumentError, match=r"--per-class"):
        RidgeClassifier(memory_bytes=8 * 99**2).fit(X, y, 1.0)
    assert RidgeClassifier(memory_bytes=8 * 100**2).fit(X, y, 1.0).status == "exact"


def test_one_step_of_the_perceptron_is_that_of_adamw() -> None:
    """A single full batch: gradients by hand, Adam's first step is the rate times their sign, the decay comes first."""
    X, y = blobs(50, 8)
    decay, rate = 0.5, 1e-2
    fit = MlpClassifier(MlpOptions(width=5, epochs=1, least_steps=1, minibatch=50, learning_rate=rate, seed=3)).fit(
        X, y, decay
    )
    still = MlpClassifier(MlpOptions(width=5, epochs=1, least_steps=1, minibatch=50, learning_rate=1e-30, seed=3)).fit(
        X, y, 0.0
    )
    mean, spread = X.mean(0), X.std(0)
    (W1, b1), (W2, b2) = still.layers  # of the start, on raw features
    W1, b1 = W1 * spread, b1 + W1 @ mean
    Z = (X - mean) / spread
    H = np.maximum(Z @ W1.T + b1, 0)
    scores = H @ W2.T + b2
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    own = (y[:, None] == np.unique(y)).astype(float)
    assert fit.loss == pytest.approx(-np.log((p * own).sum(1)).mean(), rel=1e-5)  # float32
    back = (p - own) / len(X)
    hidden = (back @ W2) * (H > 0)
    (V1, c1), (V2, c2) = fit.layers
    V1, c1 = V1 * spread, c1 + V1 @ mean
    for before, after, gradient in (
        (W1, V1, hidden.T @ Z),
        (b1, c1, hidden.sum(0)),
        (W2, V2, back.T @ H),
        (b2, c2, back.sum(0)),
    ):
        # eps of 1e-8 matters for gradients below 1e-6 only; float32 rounds at 1e-7
        clear = np.abs(gradient) > 1e-5
        assert clear.mean() > 0.5
        expected = before * (1 - rate * decay) - rate * np.sign(gradient)
        assert after[clear] == pytest.approx(expected[clear], abs=2e-5)


def test_a_perceptron_learns_what_no_linear_classifier_can_and_repeats_itself() -> None:
    draw = np.random.default_rng(0)
    X, X_val = draw.normal(size=(600, 6)), draw.normal(size=(400, 6))
    y, y_val = (np.where(A[:, 0] * A[:, 1] > 0, 7, 3) for A in (X, X_val))  # the sign of a product
    linear = RidgeClassifier()
    assert np.mean(linear.predict([linear.fit(X, y, 1e-3)], X_val)[0] == y_val) < 0.6
    mlp = MlpClassifier(MlpOptions(width=64, seed=5))
    fits = [fit for fit, _ in mlp.path(X, y, X_val)]
    assert [fit.value for fit in fits] == list(mlp.values)
    assert all(fit.status == "trained" and fit.duality_gap is None for fit in fits)
    assert np.mean(mlp.predict([fits[0]], X_val)[0] == y_val) > 0.75
    before = torch.get_rng_state()
    again, other = mlp.fit(X, y, mlp.values[0]), MlpClassifier(MlpOptions(width=64, seed=6)).fit(X, y, mlp.values[0])
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers are used up
    assert np.array_equal(again.layers[0][0], fits[0].layers[0][0])
    assert not np.array_equal(other.layers[0][0], fits[0].layers[0][0])


def test_a_perceptron_that_blows_up_is_no_result() -> None:
    X, y = blobs(60, 8)
    fit = MlpClassifier(MlpOptions(width=4, least_steps=5, epochs=5, learning_rate=1e36)).fit(X, y, 1.0)
    assert fit.status == "non_finite"

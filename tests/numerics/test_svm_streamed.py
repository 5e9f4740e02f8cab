"""Scores of all rows and classes are never held together where memory does not hold them; the optimum is the same."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from svm_problems import Watch, correlated

from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.svm import path, problems, streamed, sums
from dcgan_eval.svm.path import fit_ovr


def of_classes(rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative features of overlapping classes with labels that are no indices."""
    X, y = correlated(rows, features, classes, seed=3)
    return np.maximum(X, 0).astype(np.float32), 5 + 3 * y


def logistic_objective(W: np.ndarray, X: np.ndarray, y: np.ndarray, C: float) -> float:
    """``1/2 ||W||^2 + C sum (logsumexp(W x) - w_y.x)`` in float64, with a constant feature of 1."""
    F = np.column_stack([X.astype(np.float64), np.ones(len(X))]) @ W.T
    return (
        0.5 * (W**2).sum() + C * (logsumexp(F, axis=1) - F[np.arange(len(y)), np.searchsorted(np.unique(y), y)]).sum()
    )


@pytest.mark.parametrize(("rows", "features", "classes"), [(1200, 10, 30), (600, 520, 7)])  # all are coarse, or some
def test_a_softmax_is_solved_without_keeping_its_scores(
    rows: int, features: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = of_classes(rows, features, classes)
    monkeypatch.setattr(sums, "PIECE", 1 << 11)
    monkeypatch.setattr(problems, "_SHORTEST", 100)
    monkeypatch.setattr(streamed, "StreamedSpace", partial(streamed.StreamedSpace, sample_rows=rows // 6))
    monkeypatch.setattr(streamed, "_SMALL_BYTES", 0)
    few = LogisticClassifier(memory_bytes=1 << 16, values=(1e-3,))
    with Watch() as watch:
        fits = [fit for fit, _ in few.path(X, y, X[:5])]
    assert features > rows / 2 or watch.largest < rows * classes * 8 / 2
    for fit in fits:
        theirs = LogisticRegression(C=fit.value, fit_intercept=False, tol=1e-8, max_iter=2000)
        theirs.fit(np.column_stack([X, np.ones(len(X))]), y)
        best = logistic_objective(theirs.coef_, X, y, fit.value)
        assert fit.status == "converged"
        assert best * (1 - 1e-6) <= logistic_objective(fit.W.numpy(), X, y, fit.value) <= best * (1 + 1e-4)


@pytest.mark.parametrize("features", [20, 520])
def test_classes_solved_block_by_block_and_rows_piece_by_piece_are_liblinears(
    features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = of_classes(600, features, 7)
    monkeypatch.setattr(sums, "PIECE", 1 << 9)
    monkeypatch.setattr(path, "LEAST_COLUMNS", 3)
    solution = fit_ovr(X, y, 0.002, solver="primal", memory_bytes=1)
    theirs = LinearSVC(C=0.002, tol=1e-6, fit_intercept=False, dual=False)
    theirs.fit(np.column_stack([X, np.ones(len(X))]), y)
    ours, signs = np.column_stack([solution.W, solution.intercepts]), np.where(y[:, None] == np.unique(y), 1, -1)
    objectives = []
    for W in (ours, theirs.coef_):
        F = np.column_stack([X.astype(np.float64), np.ones(len(X))]) @ W.T
        objectives.append(0.5 * (W**2).sum(1) + 0.002 * (np.maximum(0, 1 - signs * F) ** 2).sum(0))
    np.testing.assert_allclose(*objectives, rtol=1e-4)  # the tolerated gap
    assert solution.classes.tolist() == np.unique(y).tolist()


def test_a_line_is_searched_piece_by_piece_for_the_same_length(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    F, step = (torch.randn(50, 3, dtype=torch.float64, generator=rng) for _ in range(2))
    problem = problems.SoftmaxProblem(torch.randint(3, (50,), generator=rng), 3, 0.7)
    t = torch.tensor([0.3], dtype=torch.float64).expand(3)
    whole = problem.along(F, step)(t).sum(1)
    monkeypatch.setattr(sums, "PIECE", 21)
    assert len(sums.pieces(50, 3)) == 13  # of four rows
    torch.testing.assert_close(problems.slopes(problem, F, step)(t), whole)
    total = sums.add_up(problems.loss_of(problem, F), 50, 3)
    torch.testing.assert_close(total, problem.losses(F).sum(0))


def test_predictions_need_no_scores_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = of_classes(2000, 6, 40)
    solution, logistic = fit_ovr(X[:500], y[:500], 1e-2), LogisticClassifier()
    fit = logistic.fit(X[:500], y[:500], 1e-2)
    monkeypatch.setattr(sums, "PIECE", 1 << 11)
    monkeypatch.setattr(problems, "_SHORTEST", 100)
    with Watch() as watch:
        of_svm, (of_logistic,) = solution.predict(X), logistic.predict([fit], X)
    assert watch.largest < 2000 * 40 * 8 / 8
    W = fit.W.numpy()
    np.testing.assert_array_equal(of_svm, solution.classes[(X @ solution.W.T + solution.intercepts).argmax(1)])
    np.testing.assert_array_equal(of_logistic, fit.classes[(X @ W[:, :-1].T + W[:, -1]).argmax(1)])


def test_a_line_is_searched_for_each_column_until_it_is_found() -> None:
    rng = np.random.default_rng(0)
    index, F, step = rng.integers(0, 80, 300), rng.normal(size=(300, 80)), rng.normal(size=(300, 80))
    F, step = torch.from_numpy(F), torch.from_numpy(step)
    cost = torch.full((80,), 0.7, dtype=torch.float64)
    problem = problems.HingeProblem(torch.from_numpy(index), torch.arange(80), cost, cost)
    pu, pp = torch.from_numpy(rng.normal(size=80)), torch.from_numpy(rng.uniform(0.1, 20, 80))
    seen = []

    def slopes_of(kept: torch.Tensor | None) -> problems.Along:
        seen.append(80 if kept is None else len(kept))
        return (
            problems.slopes(problem, F, step)
            if kept is None
            else problems.slopes(problem.columns(kept), F[:, kept], step[:, kept])
        )

    t = problems.line_minimum(slopes_of, pu, pp).numpy()
    assert seen[0] == 80
    assert seen == sorted(seen, reverse=True)
    assert len(seen) > 1
    sign = np.where(index[:, None] == np.arange(80), 1, -1)
    for k in range(80):

        def slope(at: float, k: int = k) -> float:
            margin = sign[:, k] * (F[:, k].numpy() + at * step[:, k].numpy())
            pulled = -2 * 0.7 * np.maximum(0, 1 - margin) * sign[:, k] * step[:, k].numpy()
            return float(pu[k] + at * pp[k] + pulled.sum())

        if slope(0) < 0:  # else it is no descent, and the search stays near zero
            assert t[k] == pytest.approx(brentq(slope, 0, 1e4, xtol=1e-14), rel=1e-8)


@pytest.mark.parametrize("noise", [-1e-17, 0.0, 1e-17])
def test_a_length_stays_where_it_was_found_while_others_are_searched(noise: float) -> None:
    def slopes(t: torch.Tensor) -> torch.Tensor:
        # (t - 0.7) and its derivative, 0 but for rounding at its root; exp(9 t) - 2, which takes many looks
        first = torch.stack([torch.where((t[0] - 0.7).abs() < 1e-15, noise, t[0] - 0.7), (9 * t[1]).exp() - 2])
        return torch.stack([first, torch.stack([torch.ones_like(t[0]), 9 * (9 * t[1]).exp()])])

    none = torch.zeros(2, dtype=torch.float64)
    t = problems.line_minimum(lambda kept: slopes, none, none, 0.01).tolist()
    assert t[0] == pytest.approx(0.7, rel=1e-14)
    assert t[1] == pytest.approx(np.log(2) / 9, rel=0.01)

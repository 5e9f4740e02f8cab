"""The L2-SVM solvers against known optima, scikit-learn, identities and degenerate data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC
from svm_problems import correlated, dual_gap, known_optimum, with_constant

from dcgan_eval.errors import ConvergenceError
from dcgan_eval.svm.objective import Solution, Status, certificate, predict_all
from dcgan_eval.svm.path import FitOptions, Fitter, choose_solver, fit_ovr, fit_path
from dcgan_eval.svm.primal import PrimalSpace
from dcgan_eval.svm.products import serial
from dcgan_eval.svm.rows import Rows

SOLVERS = ["primal", "gram"]
SHAPES = [(40, 7), (30, 90), (300, 20), (60, 600), (1, 1)]


def gaps_of(solution: Solution, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Recompute the relative gaps of a solution from the definitions."""
    scale = solution.intercept_scaling
    data = with_constant(X, scale)
    last = solution.intercepts / scale if scale else 0 * solution.intercepts
    shown = solution.classes[1:] if len(solution.classes) == 2 else solution.classes
    return np.array(
        [
            dual_gap(data, np.where(y == c, 1.0, -1.0), solution.C, np.append(w, b))[1]
            for c, w, b in zip(shown, solution.W, last, strict=True)
        ]
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "features"), [(50, 8), (40, 40), (30, 200), (400, 30)])
@pytest.mark.parametrize("C", [1e-3, 1.0, 30.0])
def test_finds_the_constructed_optimum(solver, dtype, rows, features, C):
    known = known_optimum(rows, features, C, seed=rows + features)
    solution = fit_ovr(known.X.astype(dtype), known.labels, C, solver=solver, tol=1e-9, intercept_scaling=0.0)
    assert solution.status is Status.CONVERGED
    # ||w - w*|| <= ||gradient|| = sqrt(2 P gap): 1e-4 for a gap of 1e-9 and P/||w||^2 up to 5. Rounding X to float32
    # moves the optimum itself by up to 6e-8 times the condition number (1e4 here), hence 1e-3.
    size = 1e-3 if dtype is np.float32 else 1e-4
    np.testing.assert_allclose(solution.W[0], known.w, atol=size * np.linalg.norm(known.w))
    # the definition of the gap subtracts numbers of size P, so it is good to about 1e-13, far below 1e-9
    assert dual_gap(known.X.astype(dtype), known.signs, C, solution.W[0])[1] <= 1.01e-9


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("rows", "features", "classes", "C"),
    [
        (60, 5, 3, 1.0),
        (60, 5, 2, 100.0),
        (30, 200, 3, 1e-2),
        (200, 50, 4, 1e-3),
        (12, 300, 10, 1.0),
        (150, 40, 2, 1e-5),
    ],
)
def test_objective_equals_scikit_learn(solver, rows, features, classes, C):
    X, y = correlated(rows, features, classes, seed=1)
    X = X / np.sqrt(features)  # keeps LIBLINEAR's coordinate descent within seconds
    solution = fit_ovr(X, y, C, solver=solver, tol=1e-8)
    peer = LinearSVC(C=C, dual=True, tol=1e-8, max_iter=200_000, random_state=0).fit(X, y)
    theirs = certificate(X, y, peer.coef_, C, intercepts=peer.intercept_)[0]
    # both are certified far below it; what is left is LIBLINEAR's own stopping rule
    np.testing.assert_allclose(solution.primal, theirs, rtol=1e-6)
    # strong convexity: a gap of 1e-8 bounds the distance of scores by sqrt(2e-8 P) ||x||, under 1e-2 of their size
    np.testing.assert_allclose(solution.decision_function(X).squeeze(), peer.decision_function(X), atol=2e-3)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certificate_is_what_it_says(solver, dtype):
    X, y = correlated(80, 150, 5, seed=2)
    X = X.astype(dtype)
    solution = fit_ovr(X, y, 1e-2, solver=solver, tol=1e-6)
    assert solution.status is Status.CONVERGED
    # two float64 routes to a difference of numbers of size 1: equal to about 1e-13, asserted with room
    np.testing.assert_allclose(solution.gaps, gaps_of(solution, X, y), atol=1e-11)
    assert solution.relative_gap <= 1e-6
    np.testing.assert_allclose(solution.primal - solution.dual, solution.gaps * solution.primal, rtol=1e-6, atol=1e-15)
    assert solution.passes > 0
    assert solution.time_s > 0


def test_certificate_of_float32_data_is_float64_exact():
    X, y = correlated(500, 3000, 2, seed=3)
    X = (10 * X).astype(np.float32)
    solution = fit_ovr(X, y, 1e-6, tol=1e-6)
    primal, gap = dual_gap(
        with_constant(X), np.where(y == 1, 1.0, -1.0), 1e-6, np.append(solution.W[0], solution.intercepts)
    )
    # a certificate in float32 would be off by 1e-5 or more here
    assert abs(solution.gaps[0] - gap) <= 1e-12
    assert solution.primal[0] == pytest.approx(primal, rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_duplicated_rows_are_doubled_cost_and_weight(solver):
    X, y = correlated(40, 60, 3, seed=4)
    once = fit_ovr(X, y, 0.02, solver=solver, tol=1e-10)
    twice = fit_ovr(np.vstack([X, X]), np.tile(y, 2), 0.01, solver=solver, tol=1e-10)
    weighted = fit_ovr(X, y, 0.01, solver=solver, tol=1e-10, sample_weight=np.full(40, 2.0))
    # sqrt(2 * 1e-10 * P) is about 1e-5
    np.testing.assert_allclose(twice.W, once.W, atol=1e-5)
    np.testing.assert_allclose(weighted.W, once.W, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_permuted_features_permute_weights_and_flipped_labels_flip_them(solver):
    X, y = correlated(50, 30, 2, seed=5)
    order = np.random.default_rng(0).permutation(30)
    plain = fit_ovr(X, y, 0.05, solver=solver, tol=1e-10)
    permuted = fit_ovr(X[:, order], y, 0.05, solver=solver, tol=1e-10)
    flipped = fit_ovr(X, 1 - y, 0.05, solver=solver, tol=1e-10)
    # sqrt(2 * 1e-10 * P) is about 1e-5
    np.testing.assert_allclose(permuted.W, plain.W[:, order], atol=2e-5)
    np.testing.assert_allclose(flipped.W, -plain.W, atol=2e-5)
    np.testing.assert_allclose(flipped.intercepts, -plain.intercepts, atol=2e-5)


def test_zero_weight_removes_a_row():
    X, y = correlated(40, 10, 3, seed=6)
    weight = (np.arange(40) < 30).astype(float)
    some = fit_ovr(X, y, 0.1, tol=1e-10, sample_weight=weight)
    fewer = fit_ovr(X[:30], y[:30], 0.1, tol=1e-10)
    np.testing.assert_allclose(some.W, fewer.W, atol=1e-5)  # sqrt(2 * 1e-10 * P)


def degenerate(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Build data that breaks careless solvers."""
    X, y = correlated(24, 10, 3, seed=7)
    if kind == "constant":
        X[:, 3:6] = 5.0
    elif kind == "zero":
        X[:] = 0.0
    elif kind == "duplicated":
        X = np.hstack([X, X, X[:, ::-1]])
    elif kind == "collinear":
        X = np.hstack([X, X @ np.ones((10, 10)), 2 * X])
    elif kind == "same rows":
        X = np.repeat(X[:6], 4, axis=0)
    elif kind == "one per class":
        X, y = X[:3], np.arange(3)
    elif kind == "tiny":
        X = X * 1e-12
    elif kind == "huge":
        X = X * 1e3
    return X, y


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("C", [1e-8, 1e-2, 1e4])
@pytest.mark.parametrize(
    "kind", ["constant", "zero", "duplicated", "collinear", "same rows", "one per class", "tiny", "huge"]
)
def test_degenerate_data_is_solved_in_float64(kind, C, solver):
    X, y = degenerate(kind)
    solution = fit_ovr(X, y, C, solver=solver, tol=1e-6, max_iter=300)
    assert solution.status is Status.CONVERGED
    # 1e-9: at these scales the definition itself cancels; the package's closed form does not
    assert (gaps_of(solution, X, y) <= 1e-6 + 1e-9).all()
    assert solution.newton_iterations < 60  # rounding is not taken for progress, up to max_iter


@pytest.mark.parametrize("solver", SOLVERS)
def test_float32_at_hard_settings_is_certified_or_says_so(solver):
    X, y = degenerate("huge")
    X = (1e3 * X).astype(np.float32)  # C ||x||^2 up to 1e18: no certificate is within reach of every combination
    for C in (1e-8, 1e4):
        solution = fit_ovr(X, y, C, solver=solver, tol=1e-6, max_iter=30)
        reached = bool(np.max(gaps_of(solution, X, y)) <= 1e-6 + 1e-9)
        assert reached or solution.status in (Status.MAX_ITERATIONS, Status.STALLED)


def test_unconverged_fits_are_marked_and_do_not_score():
    X, y = correlated(60, 40, 3, seed=8)
    solution = fit_ovr(X.astype(np.float32), y, 10.0, solver="primal", tol=1e-12, max_iter=1)
    assert solution.status is Status.MAX_ITERATIONS
    assert solution.relative_gap > 1e-12
    with pytest.raises(ConvergenceError, match="max_iterations"):
        solution.decision_function(X)
    assert solution.decision_function(X, allow_unconverged=True).shape == (60, 3)


def test_not_finite_data_is_reported():
    X, y = correlated(20, 5, 2, seed=9)
    X[3, 2] = np.nan
    assert fit_ovr(X, y, 1.0).status is Status.NON_FINITE
    assert fit_ovr(X, y, 1.0, solver="gram").status is Status.NON_FINITE


@pytest.mark.parametrize("row", [0, 9000])  # in the sample, and outside it
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_data_is_reported_where_directions_are_sampled(row, value):
    X, y = correlated(9001, 513, 2, seed=9)
    X[row, 2] = value
    assert fit_ovr(X.astype(np.float32), y, 1.0, solver="primal").status is Status.NON_FINITE


@pytest.mark.parametrize("solver", SOLVERS)
def test_path_agrees_with_single_fits_and_stops_early(solver):
    X, y = correlated(60, 100, 3, seed=10)
    X = X.astype(np.float32)
    Cs = [1e-2, 1e-4, 1e-3]
    path = list(fit_path(X, y, Cs, solver=solver, tol=1e-7))
    assert [s.C for s in path] == sorted(Cs)
    for solution in path:
        single = fit_ovr(X, y, solution.C, solver=solver, tol=1e-7)
        np.testing.assert_allclose(solution.primal, single.primal, rtol=1e-7)  # both within 1e-7 of the optimum
    first = next(fit_path(X, y, Cs, solver=solver))
    assert first.C == 1e-4
    with pytest.raises(ValueError, match="positive"):
        fit_path(X, y, [1.0, -1.0])


def test_many_solutions_predict_together_what_each_predicts_alone():
    X, y = correlated(80, 50, 3, seed=18)
    solutions = [fit_ovr(X[:60], y[:60], C) for C in (1e-3, 1e-2)] + [fit_ovr(X[:60], y[:60] > 0, 1e-3)] * 150
    together = predict_all(solutions, X[60:])  # more columns than are scored at once
    assert len(together) == 152
    for solution, labels in zip(solutions, together, strict=True):
        np.testing.assert_array_equal(labels, solution.predict(X[60:]))
    unfinished = fit_ovr(X, y, 10.0, solver="primal", tol=1e-12, max_iter=1)
    assert unfinished.status is not Status.CONVERGED
    with pytest.raises(ConvergenceError, match="certificate"):
        predict_all([solutions[0], unfinished], X)
    assert len(predict_all([unfinished], X, allow_unconverged=True)) == 1


def test_warm_start_from_the_solution_costs_almost_nothing():
    X, y = correlated(300, 20, 4, seed=11)
    X = X.astype(np.float32)
    cold = fit_ovr(X, y, 1e-2, solver="primal")
    warm = fit_ovr(X, y, 1e-2, solver="primal", warm_start=cold)
    assert warm.newton_iterations == 0
    assert warm.passes < cold.passes


@pytest.mark.parametrize("solver", SOLVERS)
def test_same_input_same_bits(solver):
    X, y = correlated(120, 700, 3, seed=13)
    X = X.astype(np.float32)
    state, threads = np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    first, second = (fit_ovr(X, y, 1e-3, solver=solver) for _ in range(2))
    assert first.W.tobytes() == second.W.tobytes()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_the_float32_problem_of_their_values(kind):
    X, y = correlated(40, 60, 3, seed=14)
    half = torch.from_numpy(X).to(kind)
    single = half.float().numpy()
    ours, theirs = fit_ovr(half, torch.from_numpy(y), 1e-3), fit_ovr(single, y, 1e-3)
    assert ours.W.tobytes() == theirs.W.tobytes()


def test_blocks_do_not_change_products():
    X = np.random.default_rng(0).standard_normal((300, 50))
    V, R = (
        torch.randn(3, 51, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.ones(300, 3).double(),
    )
    whole, parts = Rows(X, 2.0), Rows(X, 2.0, block_bytes=1)
    assert len(list(parts.blocks())) > 1
    joined = torch.from_numpy(with_constant(X, 2.0))
    for rows in (whole, parts):
        # float64 sums of 300 terms of size 1
        torch.testing.assert_close(rows.scores(V), joined @ V.T, rtol=0, atol=1e-12)
        torch.testing.assert_close(rows.adjoint(R), R.T @ joined, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sampled_start_and_two_level_preconditioner_keep_the_optimum(dtype):
    X, y = correlated(400, 120, 3, seed=16)
    X = X.astype(dtype)
    plain = fit_ovr(X, y, 1e-3, tol=1e-8, solver="primal")
    fitter = Fitter(X, y, FitOptions(tol=1e-8, solver="primal"))
    fitter._primal = PrimalSpace(fitter.rows, sample_rows=64, max_rank=16, top_rank=8)  # most curvature is outside
    sampled = fitter.fit(1e-3)
    assert sampled.status is Status.CONVERGED
    np.testing.assert_allclose(sampled.primal, plain.primal, rtol=1e-8)  # both within 1e-8 of the optimum


def test_tensor_y_and_x_of_another_library_order_are_fine():
    X, y = correlated(40, 30, 3, seed=17)
    fortran = fit_ovr(np.asfortranarray(X), torch.from_numpy(y), 1e-3, tol=1e-10)
    plain = fit_ovr(X, y, 1e-3, tol=1e-10)
    np.testing.assert_allclose(fortran.W, plain.W, atol=1e-5)  # sqrt(2 * 1e-10 * P)


def test_thread_counts_are_restored():
    before = torch.get_num_threads()
    with serial(), serial():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_large_arrays_are_not_copied():
    X = np.zeros((10, 4), np.float32)
    assert Rows(X).X.data_ptr() == X.ctypes.data
    frozen = np.zeros((10, 4), np.float32)
    frozen.setflags(write=False)  # as memory maps are
    assert Rows(frozen).X.data_ptr() == frozen.ctypes.data


def test_solver_is_chosen_from_the_shape():
    assert choose_solver(1000, 7168).solver == "gram"
    assert choose_solver(4000, 28672).solver == "gram"
    assert choose_solver(50_000, 28672).solver == "primal"
    assert choose_solver(1000, 100).solver == "primal"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"C": 0.0}, "C must be positive"),
        ({"C": float("nan")}, "C must be positive"),
        ({"tol": 0.0}, "tol must be"),
        ({"max_iter": 0}, "max_iter"),
        ({"solver": "magic"}, "solver must be"),
        ({"intercept_scaling": -1.0}, "intercept_scaling"),
        ({"y": np.zeros(20)}, "two classes"),
        ({"y": np.arange(19) % 2}, "one label per row"),
        ({"sample_weight": np.ones(3)}, "sample_weight"),
        ({"sample_weight": -np.ones(20)}, "not negative"),
        ({"X": np.zeros(20)}, "two dimensions"),
    ],
)
def test_bad_arguments_are_named(change, message):
    X, y = correlated(20, 5, 2, seed=15)
    with pytest.raises(ValueError, match=message):
        fit_ovr(**({"X": X, "y": y, "C": 1.0} | change))


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    rows=st.integers(4, 40),
    features=st.integers(1, 60),
    classes=st.integers(2, 4),
    scale=st.floats(-3, 3),
    log_C=st.floats(-6, 2),
    solver=st.sampled_from(SOLVERS),
)
def test_any_shape_and_scale_is_certified(rows, features, classes, scale, log_C, solver):
    X, y = correlated(rows, features, classes, seed=rows * 100 + features)
    X = X * 10**scale
    solution = fit_ovr(X, y, 10**log_C, solver=solver, tol=1e-6, max_iter=300)
    assert solution.status is Status.CONVERGED
    # the definition cancels to about 1e-9 of P at the largest scales
    assert (gaps_of(solution, X, y) <= 1e-6 + 1e-9).all()


@pytest.mark.parametrize("solver", ["auto", "primal"])
@pytest.mark.parametrize(("rows", "features"), [(100, 200), (300, 100)])
def test_what_float32_products_cannot_settle_float64_ones_do(solver, rows, features):
    """Features far smaller than the constant one: their scores nearly cancel it, and float32 stops at its rounding."""
    draw, y = np.random.default_rng(0), np.arange(rows) % 2
    shifted = draw.normal(size=(rows, features)) + 1 + 0.8 * y[:, None] * (np.arange(features) < features // 2)
    X = (1e-9 * shifted).astype(np.float32)
    C = 1 / np.square(X.astype(np.float64)).sum(1).mean()
    solution = fit_ovr(X, y, C, solver=solver, tol=1e-4)
    assert solution.status is Status.CONVERGED
    assert (gaps_of(solution, X.astype(np.float64), y) <= 1e-4).all()

"""L2SVM as a scikit-learn estimator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from svm_problems import correlated

from dcgan_eval.errors import ConvergenceError
from dcgan_eval.svm.linear_svc import L2SVM
from dcgan_eval.svm.rows import Rows


@parametrize_with_checks([L2SVM(), L2SVM(solver="primal"), L2SVM(solver="gram")])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_agrees_with_linear_svc(classes, class_weight):
    X, y = correlated(60, 8, classes, seed=1)
    y[: len(y) // 3] = 0
    ours = L2SVM(C=0.1, tol=1e-10, class_weight=class_weight).fit(X, y)
    theirs = LinearSVC(C=0.1, tol=1e-8, max_iter=100_000, class_weight=class_weight, random_state=0).fit(X, y)
    # LIBLINEAR's stopping rule at 1e-8 leaves about 1e-6 in the weights
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.coef_.shape == (1 if classes == 2 else classes, 8)


def test_attributes_after_a_fit():
    X, y = correlated(30, 12, 3, seed=2)
    model = L2SVM(C=0.01).fit(X, y)
    assert model.status_ == "converged"
    assert model.duality_gap_ <= model.tol
    assert (model.dual_objective_ <= model.primal_objective_).all()
    assert model.n_features_in_ == 12
    assert model.n_iter_ >= 1
    assert model.solver_ == "primal"
    assert model.classes_.tolist() == [0, 1, 2]


def test_labels_may_be_strings_and_models_may_be_searched():
    X, y = correlated(60, 6, 3, seed=3)
    names = np.array(["ape", "bee", "cat"])[y]
    search = GridSearchCV(make_pipeline(StandardScaler(), L2SVM()), {"l2svm__C": [1e-3, 1e-1]}, cv=3).fit(X, names)
    assert set(search.predict(X)) <= set(names)
    assert search.score(X, names) > 0.8


def test_no_intercept():
    X, y = correlated(30, 6, 2, seed=4)
    assert L2SVM(fit_intercept=False).fit(X, y).intercept_.tolist() == [0.0]


def test_unconverged_raises_or_is_marked():
    X, y = correlated(80, 60, 3, seed=5)
    X = X.astype(np.float32)
    hard = {"C": 10.0, "tol": 1e-12, "max_iter": 1, "solver": "primal"}
    with pytest.raises(ConvergenceError, match="duality gap"):
        L2SVM(**hard).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="did not reach"):
        model = L2SVM(**hard, on_unconverged="warn").fit(X, y)
    assert model.status_ == "max_iterations"
    assert model.duality_gap_ > 1e-12


def test_tensors_are_taken_as_they_are():
    X, y = correlated(40, 50, 3, seed=6)
    single = X.astype(np.float32)
    model = L2SVM(C=1e-3).fit(torch.from_numpy(single), torch.from_numpy(y))
    array = L2SVM(C=1e-3).fit(single, y)
    np.testing.assert_array_equal(model.coef_, array.coef_)
    # float32 features, float64 sums on one side only
    np.testing.assert_allclose(
        model.decision_function(torch.from_numpy(single)), array.decision_function(single), atol=1e-4
    )


@pytest.mark.parametrize(
    ("X", "y", "error"),
    [
        (np.full((4, 2), np.nan), [0, 1, 0, 1], ValueError),
        (np.full((4, 2), np.inf), [0, 1, 0, 1], ValueError),
        (np.ones((4, 2)), [0, 0, 0, 0], ValueError),
        (np.ones((4, 2)), [0, 1, 0], ValueError),
        (np.ones((4, 2)), [0.1, 0.2, 0.3, 0.4], ValueError),
        (np.ones(4), [0, 1, 0, 1], ValueError),
        (sparse.eye(4, format="csr"), [0, 1, 0, 1], TypeError),
        (np.array([["a", "b"]] * 4, dtype=object), [0, 1, 0, 1], ValueError),
        (torch.full((4, 2), float("nan")), [0, 1, 0, 1], ValueError),
    ],
)
def test_bad_data_gets_the_usual_error(X, y, error):
    with pytest.raises(error):
        L2SVM().fit(X, y)


@pytest.mark.parametrize(
    "change", [{"C": 0.0}, {"C": -1.0}, {"tol": -1.0}, {"on_unconverged": "ignore"}, {"intercept_scaling": 0.0}]
)
def test_bad_parameters_are_named(change):
    X, y = correlated(20, 5, 2, seed=7)
    with pytest.raises(ValueError, match=next(iter(change))):
        L2SVM(**change).fit(X, y)


def test_a_row_of_weight_three_is_three_rows_for_balanced_classes_too():
    X, y = correlated(60, 6, 3, seed=8)
    weight = np.random.default_rng(0).integers(0, 4, 60) * np.where(y == 2, 3, 1)
    options = {"C": 0.1, "class_weight": "balanced", "tol": 1e-10}
    weighted = L2SVM(**options).fit(X, y, sample_weight=weight)
    repeated = L2SVM(**options).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-5)  # sqrt(2 * 1e-10 * P)


def test_class_weights_keep_their_float64_digits():
    X, y = correlated(30, 4, 2, seed=9)
    third = 1 / 3  # not a float32 number: rounded, it moves the optimum by 1e-8
    weighted = L2SVM(C=1.0, class_weight={0: third, 1: third}, tol=1e-12).fit(X, y)
    plain = L2SVM(C=third, tol=1e-12).fit(X, y)
    np.testing.assert_allclose(weighted.primal_objective_, plain.primal_objective_, rtol=1e-12)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, "array"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_gets_no_class(kind, value):
    X, y = correlated(40, 5, 3, seed=10)
    model = L2SVM(C=0.1).fit(X, y)
    X[2, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.predict(X if kind == "array" else torch.from_numpy(X).to(kind))


@pytest.mark.parametrize(
    "asked", [{"loss": "hinge"}, {"penalty": "l1"}, {"multi_class": "crammer_singer"}], ids=lambda a: next(iter(a))
)
def test_other_problems_are_sent_to_the_estimator_that_solves_them(asked):
    X, y = correlated(20, 5, 2, seed=7)
    name, value = next(iter(asked.items()))
    with pytest.raises(ValueError, match=rf"sklearn.svm.LinearSVC\({name}='{value}'\)"):
        L2SVM(**asked).fit(X, y)


def test_integers_are_not_copied_whole_to_floats():
    X = np.random.default_rng(0).integers(0, 256, (300, 400)).astype(np.uint8)
    y = (X[:, 0] > 127).astype(int)
    np.testing.assert_allclose(L2SVM(C=1e-6).fit(X, y).coef_, L2SVM(C=1e-6).fit(X.astype(np.float32), y).coef_)
    assert Rows(X).X is X
    float64 = [block for _, block in Rows(X, block_bytes=1).blocks(torch.float64)]
    assert max(len(block) for block in float64) < 300

"""scikit-learn's own tests of LinearSVC, run on L2SVM from the scikit-learn that is installed."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest
import sklearn.svm
from sklearn.utils.fixes import LIL_CONTAINERS

from dcgan_eval.svm.linear_svc import L2SVM

theirs = pytest.importorskip("sklearn.svm.tests.test_svm", reason="scikit-learn is installed without its tests")
LinearSVC = sklearn.svm.LinearSVC
SEED = {"global_random_seed": 42}

RUN: dict[str, list[dict[str, Any]]] = {
    "test_weight": [{}],
    "test_auto_weight": [{}],
    "test_bad_input": [{"lil_container": LIL_CONTAINERS[0], **SEED}],
    "test_linearsvc": [SEED],
    "test_linearsvc_fit_sampleweight": [SEED],
    "test_linearsvc_iris": [SEED],
    "test_liblinear_set_coef": [SEED],
    "test_linearsvc_verbose": [{}],
    "test_lsvc_intercept_scaling_zero": [{}],
    "test_linearsvm_liblinear_sample_weight": [
        {"SVM": L2SVM, "params": {"penalty": "l2", "loss": "squared_hinge", "dual": dual}, **SEED}
        for dual in (True, False)
    ],
}
LEFT_OUT = {
    "test_linearsvc_parameters": "which losses and penalties LIBLINEAR combines",
    "test_linearsvc_crammer_singer": "another problem",
    "test_crammer_singer_binary": "another problem",
    "test_dense_liblinear_intercept_handling": "an l1 penalty",
    "test_linear_svm_convergence_warnings": "LIBLINEAR's words and its count of iterations",
    "test_svr": "regression",
    "test_linearsvr": "regression",
}


def ours_or_theirs(**options: Any) -> Any:
    """Build L2SVM for what it solves, and the original for the other losses and penalties within a test."""
    mine = options.get("loss", "squared_hinge") == "squared_hinge" and options.get("penalty", "l2") == "l2"
    return L2SVM(**options) if mine else LinearSVC(**options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "arguments"), [(name, a) for name, cases in RUN.items() for a in cases])
def test_of_scikit_learn(name: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn.svm, "LinearSVC", ours_or_theirs)
    test = getattr(theirs, name)
    inspect.unwrap(test)(**arguments)


def test_every_test_of_linear_svc_is_run_or_left_out_for_a_reason() -> None:
    tree = ast.parse(inspect.getsource(theirs))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    naming = {test.name for test in tests if "LinearSVC" in ast.unparse(test)}
    assert naming <= RUN.keys() | LEFT_OUT.keys(), naming - RUN.keys() - LEFT_OUT.keys()

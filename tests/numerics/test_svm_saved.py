"""A saved L2-SVM comes back bit by bit, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from safetensors.numpy import load, save_file
from svm_problems import correlated

from dcgan_eval.errors import WeightsError
from dcgan_eval.files import write_file
from dcgan_eval.svm.objective import Solution
from dcgan_eval.svm.path import fit_ovr
from dcgan_eval.svm.saved import load_solution, save_solution


@pytest.mark.parametrize("names", [np.array([3, 5, 9]), np.array(["ape", "bee", "çat"]), np.array([False, True])])
def test_a_solution_comes_back_as_it_was(tmp_path, names):
    X, y = correlated(60, 30, len(names), seed=1)
    solution = fit_ovr(X.astype(np.float32), names[y], 1e-2)
    path = write_file(tmp_path / "probe.safetensors", save_solution(solution, {"features": "abc"}))
    found, extra = load_solution(path)
    assert extra == {"features": "abc"}
    for field in fields(Solution):
        ours, theirs = getattr(found, field.name), getattr(solution, field.name)
        assert type(ours) is type(theirs), field.name
        same = ours.tobytes() == theirs.tobytes() if isinstance(ours, np.ndarray) else ours == theirs
        assert same, field.name
    np.testing.assert_array_equal(found.predict(X), solution.predict(X))
    # any reader of safetensors gets the classifier
    arrays = load(path.read_bytes())
    scores = X @ arrays["W"].T + arrays["intercepts"]
    index = scores.argmax(1) if len(names) > 2 else (scores[:, 0] > 0).astype(int)
    np.testing.assert_array_equal(names[index], solution.predict(X))


def test_an_unconverged_solution_stays_one(tmp_path):
    X, y = correlated(60, 40, 3, seed=8)
    solution = fit_ovr(X.astype(np.float32), y, 10.0, solver="primal", tol=1e-12, max_iter=1)
    found, _ = load_solution(write_file(tmp_path / "a.safetensors", save_solution(solution)))
    with pytest.raises(Exception, match="did not reach its certificate"):
        found.predict(X)


def test_other_files_are_refused(tmp_path):
    save_file({"W": np.zeros((1, 2))}, tmp_path / "other.safetensors")
    whole = save_solution(fit_ovr(np.eye(4), np.arange(4) % 2, 1.0))
    (tmp_path / "cut.safetensors").write_bytes(whole[:-9])
    for name in ("other", "cut", "missing"):
        with pytest.raises(WeightsError, match="holds no L2-SVM"):
            load_solution(tmp_path / f"{name}.safetensors")

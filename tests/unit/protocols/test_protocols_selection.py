"""Values that are solved at once are those that would be tried one by one, whatever the scores turn out to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dcgan_eval.protocols.classifiers import SvmClassifier
from dcgan_eval.protocols.run import Run
from dcgan_eval.protocols.selection import Search, curve_of


class Fit:
    """A fit at a value."""

    status, duality_gap, num_rows = "converged", 0.0, 1

    def __init__(self, value: float):
        self.value = value


class Scripted(SvmClassifier):
    """An SVM that has every row right to a share told beforehand, and counts what it fits."""

    def __init__(self, shares: list[float], patience: int):
        super().__init__(tuple(float(k) for k in range(len(shares))), patience)
        self.shares, self.fitted = shares, [0]  # the list is shared by copies

    def path(self, X: Any, y: np.ndarray, X_val: Any) -> Iterator[Any]:
        values = list(self.values)
        while values:
            count = 1 if self.num_certain is None else self.num_certain()
            assert count >= 1
            now, values = values[:count], values[count:]
            self.fitted[0] += len(now)
            yield from ((Fit(value), np.arange(20) < 20 * self.shares[int(value)]) for value in now)


def searched(classifier: Scripted, search: Callable[[Run], Any]) -> list[float]:
    """Return the values on the curve of a search over 20 validation rows, all of them of class 1."""
    run = cast(Any, Run).__new__(Run)
    run.protocol = type("P", (), {"relative": False, "metric": "accuracy"})()
    run.settings = type("S", (), {"allow_unconverged": False})()
    run.classifier, run.rows, run.num_kept, run.notes = classifier, np.arange(25), 5, []
    run.labels, run.has_open_grid = np.ones(25, int), False
    run.progress = lambda *told: None
    run.team = type("T", (), {"whole": staticmethod(lambda predicted: predicted)})()
    return [row["C"] for row in search(run)]


def one_by_one(shares: list[float], patience: int) -> int:
    """Return how many values are tried by the rule: until as many as the patience in a row were no better."""
    best = 0
    for tried in range(1, len(shares) + 1):
        if shares[tried - 1] > shares[best]:
            best = tried - 1
        if tried - 1 - best >= patience:
            return tried
    return len(shares)


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=9), st.integers(1, 3))
def test_no_value_is_fitted_that_would_not_have_been_tried(shares: list[float], patience: int) -> None:
    classifier = Scripted(shares, patience)
    values = searched(classifier, lambda run: curve_of(run, None, np.ones(5), None, ""))
    tried = one_by_one(shares, patience)
    assert values == [float(k) for k in range(tried)]
    assert classifier.fitted[0] == tried


def test_the_first_values_are_certain_as_far_as_the_patience_goes() -> None:
    counts: list[int] = []

    def watched(run: Run) -> Any:
        search = Search(run, None, np.ones(5), None, "")
        counts.append(search.num_certain())
        return curve_of(run, None, np.ones(5), None, "")

    searched(Scripted([0.25, 0.5], 2), watched)
    assert counts == [3]

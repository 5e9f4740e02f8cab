"""A long fit that was killed goes on after the last finished block of classes, or value of C, to the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from svm_problems import correlated

from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.features.cache import cache_files, choose, free
from dcgan_eval.protocols.classifiers import SvmClassifier
from dcgan_eval.svm import path, primal
from dcgan_eval.svm.journal import Journal

VALUES = (1e-3, 1e-2, 1e-1)


class Counted:
    """Lets so many fits through, then dies as a killed process would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count, self.most, self._solve = 0, 10**9, primal._solve
        monkeypatch.setattr(primal, "_solve", self)

    def __call__(self, *arguments: Any) -> Any:
        if self.count == self.most:
            raise KeyboardInterrupt
        self.count += 1
        return self._solve(*arguments)


def classifier(kind: str) -> Any:
    return LogisticClassifier(values=VALUES) if kind == "logistic" else SvmClassifier(VALUES, solver="primal")


def weights(kind: str, fits: list[Any]) -> list[np.ndarray]:
    """Weights and certificates, and how often X was read."""
    if kind == "logistic":
        return [x for f in fits for x in (f.W.numpy(), np.array([f.duality_gap, f.iterations, f.passes]))]
    found = [f.solution for f in fits]
    return [x for s in found for x in (s.W, s.intercepts, s.gaps, np.array([s.newton_iterations, s.passes]))]


@pytest.mark.parametrize(("kind", "parts"), [("logistic", 1), ("svm", 3)])
def test_a_killed_path_goes_on_and_ends_with_the_same_bits(
    kind: str, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = correlated(400, 15, 9, seed=4)
    X = np.maximum(X, 0).astype(np.float32)
    monkeypatch.setattr(primal, "LONG", 0)
    monkeypatch.setattr(
        path.Fitter, "_column_blocks", lambda self, total: [slice(k, k + 9 // parts) for k in range(0, 9, 9 // parts)]
    )
    counted, expected = Counted(monkeypatch), classifier(kind)
    whole = [fit for fit, _ in expected.path(X, y, X[:9])]
    assert counted.count == 3 * parts
    assert not list(tmp_path.iterdir())

    killed = classifier(kind)
    killed.journal, counted.count, counted.most = Journal(tmp_path), 0, 2 * parts - (parts > 1)
    with pytest.raises(KeyboardInterrupt):
        list(killed.path(X, y, X[:9]))
    kept = counted.most
    assert len(list(tmp_path.iterdir())) == kept

    again = classifier(kind)
    again.journal, counted.count, counted.most = Journal(tmp_path), 0, 10**9
    found = [fit for fit, _ in again.path(X, y, X[:9])]
    assert counted.count == 3 * parts - kept
    for ours, theirs in zip(weights(kind, found), weights(kind, whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    other = classifier(kind)
    other.journal, counted.count = Journal(tmp_path), 0
    other.fit(X[::-1], y[::-1].copy(), VALUES[0])  # the same rows in another order are another fit
    assert counted.count == parts
    other.journal.clear()
    assert len(list(tmp_path.iterdir())) == 3 * parts
    again.journal.clear()
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_fitted_again_and_the_cache_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = correlated(300, 8, 3, seed=5)
    monkeypatch.setattr(primal, "LONG", 0)
    counted, svm = Counted(monkeypatch), classifier("svm")
    svm.journal = Journal(tmp_path)
    svm.fit(X, y, 1e-2)
    (part,) = tmp_path.iterdir()
    (listed,) = cache_files(tmp_path)
    assert (listed.kind, listed.what) == ("unfinished", "part of a fit that was interrupted: 3 classes, 9 weights")
    part.write_bytes(part.read_bytes()[:-1])
    svm.fit(X, y, 1e-2)
    svm.fit(X, y, 1e-2)
    assert counted.count == 2
    assert free(choose(cache_files(tmp_path), unfinished=True))
    assert not list(tmp_path.iterdir())


def test_a_short_fit_is_not_written_down(tmp_path: Path) -> None:
    X, y = correlated(300, 8, 3, seed=5)
    svm = classifier("svm")
    svm.journal = Journal(tmp_path / "none")
    svm.fit(X, y, 1e-2)
    assert not (tmp_path / "none").exists()

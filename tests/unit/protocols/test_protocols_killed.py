"""A run that was killed in the middle of its fits goes on, and its record is the one it would have been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_protocols_runner import FULL, _in_a_folder_of_its_own, run  # noqa: F401

from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.svm import primal


@pytest.mark.parametrize("classifier", [None, LogisticClassifier(values=FULL.Cs)], ids=["svm", "logistic"])
def test_a_killed_run_goes_on_after_the_last_value(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, most, solve = [0], [1000], primal._solve

    def fit(*arguments: Any) -> Any:
        if fitted[0] == most[0]:
            raise KeyboardInterrupt
        fitted[0] += 1
        return solve(*arguments)

    monkeypatch.setattr(primal, "_solve", fit)
    expected = run(classifier=classifier)
    total, fitted[0] = fitted[0], 0
    values = len(expected.selection) + 1  # on the curve, and the last fit
    assert total == values if classifier else 2 <= total < values  # the SVM's certain ones are solved at once
    most[0] = total // 2
    monkeypatch.setattr(primal, "LONG", 0)
    with pytest.raises(KeyboardInterrupt):
        run(classifier=classifier)
    assert len(list(tmp_path.glob("cache/fit-*"))) == total // 2
    fitted[0], most[0] = 0, 1000
    record = run(classifier=classifier)
    assert fitted[0] == total - total // 2
    assert (record.score, record.C, record.selection) == (expected.score, expected.C, expected.selection)
    assert record.confusion == expected.confusion
    assert not list(tmp_path.glob("cache/fit-*"))

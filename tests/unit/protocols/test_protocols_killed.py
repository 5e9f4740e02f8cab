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
    fitted, solve = [0], primal._solve

    def fit(*arguments: Any) -> Any:
        if fitted[0] == 3:
            raise KeyboardInterrupt
        fitted[0] += 1
        return solve(*arguments)

    expected = run(classifier=classifier)
    monkeypatch.setattr(primal, "_solve", fit)
    monkeypatch.setattr(primal, "LONG", 0)
    with pytest.raises(KeyboardInterrupt):
        run(classifier=classifier)
    assert len(list(tmp_path.glob("cache/fit-*"))) == 3
    fitted[0] = -len(expected.selection) - 1 + 3  # the values of the curve, and the last fit, but three
    record = run(classifier=classifier)
    assert fitted[0] == 0
    assert (record.score, record.C, record.selection) == (expected.score, expected.C, expected.selection)
    assert record.confusion == expected.confusion
    assert not list(tmp_path.glob("cache/fit-*"))

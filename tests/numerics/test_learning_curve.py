"""The learning curve's law: planted ones are found, and their intervals hold what they should."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from dcgan_eval.errors import TrainingError
from dcgan_eval.training.log import Table

_PATH = Path(__file__).parents[2] / "benchmarks" / "learning_curve.py"
_SPEC = importlib.util.spec_from_file_location("learning_curve", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
learning_curve = importlib.util.module_from_spec(_SPEC)
import sys  # noqa: E402

sys.modules["learning_curve"] = learning_curve  # dataclasses look their module up
_SPEC.loader.exec_module(learning_curve)

IMAGES = np.geomspace(3e4, 3e6, 10)


def planted(floor: float, scale: float, exponent: float, images: np.ndarray) -> np.ndarray:
    return 1 - floor - scale * (images / IMAGES[0]) ** -exponent


def test_a_planted_law_is_found() -> None:
    law = learning_curve.fit_law(IMAGES, planted(0.12, 0.3, 0.35, IMAGES))
    assert law.parameters == pytest.approx([0.12, 0.3, 0.35], abs=1e-3)
    score, low, high = law.score(3.8e7)
    assert score == pytest.approx(planted(0.12, 0.3, 0.35, np.array(3.8e7)), abs=1e-3)
    assert low < score < high


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_curve, "NUM_REFITS", 60)
    truth, draw, hits = planted(0.12, 0.3, 0.35, np.array(1e7)), np.random.default_rng(0), 0
    for _ in range(12):
        scores = planted(0.12, 0.3, 0.35, IMAGES) + 0.004 * draw.standard_normal(len(IMAGES))
        _, low, high = learning_curve.fit_law(IMAGES, scores).score(1e7)
        hits += low <= truth <= high
    assert hits >= 9  # 95 % of 12 are 11.4; below 9 has a chance of 1 in 500


def test_the_first_part_of_a_run_foretells_its_end(tmp_path: Path) -> None:
    table = Table(tmp_path / "probe.csv", 0)
    for number, (seen, score) in enumerate(zip(IMAGES, planted(0.12, 0.3, 0.35, IMAGES), strict=True), 1):
        table.append({"round": number, "seen_images": float(seen), "score": float(score)})
    foretold = learning_curve.report(tmp_path, (1e7,))[0]["foretold"]
    assert foretold["from_points"] == sum(IMAGES <= 3e6 / 5)
    assert foretold["score"] == pytest.approx(planted(0.12, 0.3, 0.35, np.array(3e6)), abs=2e-3)


def test_too_few_points_are_a_sentence() -> None:
    with pytest.raises(TrainingError, match="at least 4"):
        learning_curve.fit_law(IMAGES[:3], np.array([0.5, 0.6, 0.65]))

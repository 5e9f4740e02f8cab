"""Ridge and perceptron as classifiers of a run: chosen on validation rows, recorded, made again from the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcgan_eval.baselines.mlp import MlpClassifier, MlpOptions
from dcgan_eval.errors import ConvergenceError
from dcgan_eval.protocols.catalog import get_protocol
from dcgan_eval.protocols.classifiers import PROBES
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.selection import best_value
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.verify import verify
from dcgan_eval.records import load_record

DRAWS = get_protocol("digits").with_draws(6, 2)
FEW = MlpOptions(width=24, epochs=4, least_steps=8, learning_rate=3e-3, seed=11)  # none of the defaults


@pytest.mark.parametrize("name", ["ridge", "mlp"])
def test_a_probe_is_made_again_from_its_record_alone(name: str, tmp_path: Path) -> None:
    classifier = MlpClassifier(FEW) if name == "mlp" else PROBES[name](1e-4, 0, {})
    made = evaluate(DRAWS, PixelFeatures(), Settings(seed=4, classifier=classifier), Place(cache_dir=tmp_path / "a"))
    assert made.protocol == DRAWS.id.replace("l2svm", name)
    assert made.status == {"ridge": "exact", "mlp": "trained"}[name]
    assert made.chosen == (classifier.parameter, best_value(made.selection, classifier.parameter))
    assert {draw[classifier.parameter] for draw in made.draws} == {made.chosen[1]}
    assert made.score > 0.3  # of ten classes
    assert made.classifier["values"] == list(classifier.values)
    if name == "mlp":
        assert {key: made.classifier[key] for key in ("width", "epochs", "seed")} == {
            "width": 24,
            "epochs": 4,
            "seed": 11,
        }
    read = load_record(made.write(tmp_path / "r.json"))
    checks = {check.name: check for check in verify(read, rerun=True, cache_dir=tmp_path / "b")}
    assert [check for check in checks.values() if check.passed is not True] == []
    assert "+0.00 points" in checks["number again"].detail


def test_a_perceptron_that_blows_up_has_no_score(tmp_path: Path) -> None:
    settings = Settings(classifier=MlpClassifier(MlpOptions(width=4, epochs=2, least_steps=2, learning_rate=1e36)))
    with pytest.raises(ConvergenceError, match="non_finite"):
        evaluate(DRAWS, PixelFeatures(), settings, Place(cache_dir=tmp_path))


def test_every_classifier_of_the_table_bears_its_name() -> None:
    assert {name: make(1e-4, 0, {}).name for name, make in PROBES.items()} == {name: name for name in PROBES}
    assert PROBES["mlp"](1e-4, 9, {}).describe()["seed"] == 9
    assert all(np.all(np.diff(make(1e-4, 0, {}).values) > 0) for make in PROBES.values())

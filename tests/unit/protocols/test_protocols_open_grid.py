"""The choice of C for features of any scale, against scikit-learn; and what is said of features that tell nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.baselines.ridge import RidgeClassifier
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features.store import FeatureStore
from dcgan_eval.protocols.classifiers import SvmClassifier
from dcgan_eval.protocols.rebuild import record_protocol, record_settings
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.spec import Protocol, SealedTest
from dcgan_eval.records import Record

PINNED = Protocol("toy", 1, "toy", "toy", "toy", num_validation=60, Cs=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
OWN = replace(PINNED, id="toy_own", Cs=(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2), relative=True)
Change = Callable[[np.ndarray], np.ndarray]


def toy(count: int, seed: int) -> ImageSet:
    """Three classes of 4x4 images: a class mean and noise."""
    means = np.random.default_rng(99).uniform(60, 190, (3, 4, 4, 3))
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).normal(0, 160, (count, 4, 4, 3))
    return ImageSet(np.clip(means[labels] + noise, 0, 255).astype(np.uint8), labels, name="toy", split=f"split{seed}")


TRAIN, TEST = toy(300, 1), toy(150, 2)


class OwnFeatures(PixelFeatures):
    """Changed pixels that pass for the features of somebody's encoder."""

    def __init__(self, change: Change):
        self.change = change

    def served(self, store: FeatureStore) -> FeatureStore:
        def changed(x_ND: np.ndarray) -> np.ndarray:
            x_ND[:] = self.change(x_ND)
            return x_ND

        return store.served_by(changed)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "kind": "encoder", "preset": None}


def run(change: Change, protocol: Protocol, folder: Path, **settings: Any) -> Record:
    place = Place(cache_dir=folder)
    return run_protocol(protocol, TRAIN, SealedTest(TEST), OwnFeatures(change), Settings(**settings), place)


def best_elsewhere(make: Callable[[float], Any]) -> float:
    """Return the best test accuracy of scikit-learn's classifier over many C, on the pixels as they are."""
    X, X_test = (s.images.reshape(len(s.images), -1) / 127.5 - 1 for s in (TRAIN, TEST))
    return max(float(make(C).fit(X, TRAIN.labels).score(X_test, TEST.labels)) for C in (1e-4, 1e-3, 1e-2, 1e-1, 1.0))


@pytest.mark.parametrize("protocol", [PINNED, OWN], ids=lambda p: p.id)
@pytest.mark.parametrize(
    "change",
    [lambda X: X * 1e-4, lambda X: X * 1e4, lambda X: np.hstack([X[:, :-1], 0 * X[:, :1] + 3e4])],
    ids=["small", "large", "one huge constant"],
)
def test_the_best_C_is_found_whatever_the_features_scale(change: Change, protocol: Protocol, tmp_path: Path) -> None:
    record = run(change, protocol, tmp_path)
    theirs = best_elsewhere(lambda C: LinearSVC(C=C, dual=False))
    assert record.score > theirs - 0.05  # C is theirs by the test images, ours by 60 others
    chosen, tried = record.chosen[1], [row["C"] for row in record.selection]
    assert tried == sorted(tried)
    beyond = not protocol.Cs[0] <= chosen <= protocol.Cs[-1]
    assert beyond == any("beyond the protocol's grid" in note for note in record.notes)


class Blind(SvmClassifier):
    """An SVM that calls every row the first class below some C."""

    sees_from = 0.0

    def path(self, X: Any, y: np.ndarray, X_val: Any) -> Any:
        for fit, predicted in super().path(X, y, X_val):
            yield fit, predicted if fit.value >= self.sees_from else np.zeros_like(predicted)


@pytest.mark.parametrize("draws", [None, 20], ids=["all rows", "draws"])
@pytest.mark.parametrize("sees_from", [1e-2, 10.0], ids=["inside the grid", "beyond it"])
def test_a_plateau_at_chance_ends_no_search(sees_from: float, draws: int | None, tmp_path: Path) -> None:
    blind = Blind(PINNED.Cs)
    blind.sees_from = sees_from
    protocol = PINNED if draws is None else PINNED.with_draws(draws, 2)
    assert run(lambda X: X, protocol, tmp_path, classifier=blind).chosen[1] >= sees_from


def test_scores_are_the_same_at_every_scale(tmp_path: Path) -> None:
    records = [run(lambda X, k=k: X * 10.0**k, OWN, tmp_path) for k in range(-3, 4)]  # type: ignore[misc]
    assert len({(record.score, record.chosen) for record in records}) == 1


def test_the_search_goes_down_where_the_smallest_is_best(tmp_path: Path) -> None:
    record = run(lambda X: X, replace(PINNED, Cs=(1.0, 10.0)), tmp_path)
    scores = [row["score"] for row in record.selection]
    assert len(scores) > 2
    assert scores[0] < max(scores)


def test_a_logistic_probe_of_own_data_does_not_depend_on_the_scale(tmp_path: Path) -> None:
    theirs = best_elsewhere(lambda C: LogisticRegression(C=C, max_iter=500))
    for scale in (1e-3, 1.0, 1e3):
        record = run(lambda X, s=scale: X * s, OWN, tmp_path, classifier=LogisticClassifier())  # type: ignore[misc]
        assert record.score > theirs - 0.05
        assert record.classifier["relative"] is True


def test_a_ridge_grid_grows(tmp_path: Path) -> None:
    narrow = RidgeClassifier()
    narrow.values = (1e3, 1e4)
    record = run(lambda X: X, OWN, tmp_path, classifier=narrow)
    assert record.chosen[1] < 1e3


def test_a_published_grid_stays_as_it_is(tmp_path: Path) -> None:
    record = run_protocol(
        replace(PINNED, Cs=(1e-9, 1e-8)), TRAIN, SealedTest(TEST), PixelFeatures(), place=Place(cache_dir=tmp_path)
    )
    assert [row["C"] for row in record.selection] == [1e-9, 1e-8]
    assert record.classifier["open_grid"] is False


def test_a_record_says_how_its_grid_was_and_older_ones_were_closed(tmp_path: Path) -> None:
    record = run(lambda X: X, OWN, tmp_path, classifier=LogisticClassifier())
    for entry, is_open in ((record.classifier, True), ({**record.classifier, "open_grid": None}, False)):
        entry = {key: value for key, value in entry.items() if value is not None}
        rebuilt = record_settings(replace(record, classifier=entry), record_protocol(record)).classifier
        assert isinstance(rebuilt, LogisticClassifier)
        assert (rebuilt.open_grid, rebuilt.relative, rebuilt.values) == (is_open, True, OWN.Cs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda X: X * 0, "all features are zero"),
        (lambda X: X * 0 + 7, "the same for every image"),
        (lambda X: np.hstack([X[:, :10], X[:, 10:] * 0 + 1]), "38 of 48 features are the same for every image"),
    ],
)
def test_features_that_tell_nothing_are_said(change: Change, said: str, tmp_path: Path) -> None:
    assert any(said in note for note in run(change, OWN, tmp_path).notes)

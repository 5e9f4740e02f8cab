"""Protocols that weigh every class alike: scikit-learn's balanced accuracy on validation and test rows, verified."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from dcgan_eval.baselines.knn import KnnClassifier
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.splits import stratified_split
from dcgan_eval.protocols.catalog import get_protocol
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.spec import Protocol, SealedTest
from dcgan_eval.protocols.statistics import equal_images
from dcgan_eval.protocols.verify import verify
from dcgan_eval.records import PER_CLASS, Record, load_record
from dcgan_eval.report.tables import interval_over_images, score_cell

TOY = Protocol("toy_l2svm", 1, "toy", "toy", "digits", num_validation=80, Cs=(1.0,), metric=PER_CLASS)
COUNTS = (0.6, 0.3, 0.1)  # of the classes


def uneven(count: int, seed: int) -> ImageSet:
    """Three classes of different size, near each other."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(3, count, p=COUNTS)
    means = np.random.default_rng(7).normal(128, 14, (3, 4, 4, 1))
    pixels = np.clip(means[labels] + draw.normal(0, 40, (count, 4, 4, 1)), 0, 255).astype(np.uint8)
    return ImageSet(pixels, labels, name="uneven")


TRAIN, TEST = uneven(300, 1), uneven(200, 2)


class Neighbours(KnnClassifier):
    """One or five neighbours."""

    values = (1, 5)


def run(protocol: Protocol, tmp_path: Path) -> Record:
    settings, place = Settings(classifier=Neighbours()), Place(cache_dir=tmp_path)
    record = run_protocol(protocol, TRAIN, SealedTest(TEST), PixelFeatures(), settings, place)
    path = record.write(tmp_path / "r.json")
    return load_record(path)


def peer(k: int, rows: np.ndarray, images: ImageSet) -> np.ndarray:
    """Return scikit-learn's predictions."""
    model = KNeighborsClassifier(k, algorithm="brute").fit(
        TRAIN.images[rows].reshape(len(rows), -1), TRAIN.labels[rows]
    )
    return model.predict(images.images.reshape(images.num_images, -1))


def test_both_scores_are_scikit_learns_balanced_accuracy(tmp_path: Path) -> None:
    record = run(TOY, tmp_path)
    kept, validation = stratified_split(TRAIN, 80, 0, "validation")
    held_out = TRAIN.take(validation)
    found = {row["k"]: row["score"] for row in record.selection}
    for k, score in found.items():
        assert score == pytest.approx(balanced_accuracy_score(held_out.labels, peer(k, kept, held_out)))
    assert record.chosen == ("k", max(found, key=found.__getitem__))
    predicted = peer(int(record.chosen[1]), np.arange(300), TEST)
    assert record.score == pytest.approx(balanced_accuracy_score(TEST.labels, predicted))
    assert abs(record.score - np.mean(predicted == TEST.labels)) > 0.02  # which would be the accuracy
    assert (record.metric, score_cell(record)) == (PER_CLASS, f"{100 * record.score:.2f} (mean per-class)")


def test_the_interval_is_that_of_the_classes_proportions(tmp_path: Path) -> None:
    record = run(TOY, tmp_path)
    rows = np.array(record.confusion)
    p, n = np.diag(rows) / rows.sum(1), rows.sum(1)
    half = 1.96 * np.sqrt((p * (1 - p) / n).sum()) / 3
    assert record.ci95 == record.ci95_with_images == pytest.approx([record.score - half, record.score + half], abs=0.01)
    assert interval_over_images(record) == "–".join(f"{100 * end:.2f}" for end in record.ci95)


def test_a_record_is_verified_and_a_changed_one_is_not(tmp_path: Path) -> None:
    record = run(TOY, tmp_path)
    passed = {check.name: check.passed for check in verify(record)}
    assert (passed["confusion"], passed["interval"], passed["interval with images"]) == (True, True, True)
    plain = float(np.trace(record.confusion)) / 200  # the accuracy, put in its place
    changed = dataclasses.replace(record, score=plain, draws=[{**record.draws[0], "score": plain}])
    assert not {check.name: check.passed for check in verify(changed)}["confusion"]


def test_draws_have_a_mean_for_each(tmp_path: Path) -> None:
    record = run(dataclasses.replace(TOY, per_class=8, num_draws=3), tmp_path)
    shares = np.diag(record.confusion) / np.sum(record.confusion, axis=1)
    assert np.mean([draw["score"] for draw in record.draws]) == pytest.approx(shares.mean())
    low, high = record.ci95_with_images
    assert low < record.score < high
    assert all(check.passed is not False for check in verify(record) if "interval" in check.name)


def test_the_band_of_rounding_is_wider_where_classes_are_small() -> None:
    confusion = np.diag([90, 9, 1])
    assert equal_images(confusion, "accuracy", 1) == 100
    weights = np.repeat(1 / (3 * np.array([90, 9, 1])), [90, 9, 1])  # of each image in the mean over classes
    assert equal_images(2 * confusion, PER_CLASS, 2) == pytest.approx(1 / (weights**2).sum())


@pytest.mark.parametrize(("name", "metric"), [("pets", PER_CLASS), ("flowers102", PER_CLASS), ("dtd", "accuracy")])
def test_sets_are_measured_as_their_papers_do(name: str, metric: str) -> None:
    assert get_protocol(name).metric == metric
    assert json.loads(json.dumps(dataclasses.asdict(get_protocol(name))))["metric"] == metric

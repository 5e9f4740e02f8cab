"""Top-5 accuracy and calibration error: scikit-learn's and the definition's, kept in records and verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score

from dcgan_eval.baselines.knn import KnnClassifier, KnnFit
from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.splits import draw_per_class, stratified_split
from dcgan_eval.errors import RecordError
from dcgan_eval.protocols.catalog import get_protocol, load_protocol_images
from dcgan_eval.protocols.classifiers import rank
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.spec import Protocol, SealedTest
from dcgan_eval.protocols.statistics import calibration_bins, calibration_error, interval_of_mean
from dcgan_eval.protocols.verify import Check, verify
from dcgan_eval.records import Record, load_record, pack_counts, unpack_counts
from dcgan_eval.report.page import build_page
from dcgan_eval.report.tables import figure_rows

CLASSES = 8
TOY = Protocol("toy_l2svm", 1, "toy", "toy", "toy", num_validation=40, Cs=(1.0,))
DRAWS = Protocol(
    "toy_l2svm_draws", 1, "toy", "toy", "toy", num_validation=40, Cs=(1.0,), per_class=5, selection_draws=1, num_draws=3
)


def toy(count: int, seed: int) -> ImageSet:
    """Noise of eight classes."""
    draw = np.random.default_rng(seed)
    return ImageSet(draw.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8), np.arange(count) % CLASSES, name="toy")


class Planted(KnnClassifier):
    """Scores that depend on the pixels alone, other ones for each fit, so that they can be known beforehand."""

    probabilities, keeps_rows = True, False
    values = (1.0,)

    def scores(self, fits: Sequence[Any], X: Any) -> list[np.ndarray]:
        return [8 * X[:, :CLASSES] + 2 * (fit.X[0, 0] + 1) * X[:, CLASSES : 2 * CLASSES] for fit in fits]

    def predict(self, fits: Sequence[KnnFit], X: Any) -> list[np.ndarray]:
        return [s.argmax(1) for s in self.scores(fits, X)]


def error_by_definition(probabilities: np.ndarray, y: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, image by image."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, y, strict=True):
        m = next(m for m in range(1, 16) if row.max() <= m / 15 or m == 15)
        bins.setdefault(m, []).append((row.max(), row.argmax() == label))
    return sum(
        len(rows) / len(y) * abs(np.mean([hit for _, hit in rows]) - np.mean([c for c, _ in rows]))
        for rows in bins.values()
    )


@pytest.mark.parametrize("protocol", [TOY, DRAWS], ids=lambda p: p.id)
def test_the_figures_of_a_run_are_those_of_its_scores(protocol: Protocol) -> None:
    test, fits = toy(600, 2), list[KnnFit]()
    classifier = Planted()
    classifier.fit = lambda *a: fits.append(KnnClassifier.fit(classifier, *a)) or fits[-1]  # type: ignore[func-returns-value]
    record = run_protocol(protocol, toy(240, 1), SealedTest(test), PixelFeatures(), Settings(classifier=classifier))
    X = test.images.reshape(600, -1) / np.float32(127.5) - 1
    scores = classifier.scores(fits[-protocol.num_draws :], X)
    y, labels = test.labels, range(CLASSES)
    top = [top_k_accuracy_score(y, s, k=5, labels=labels) for s in scores]
    assert record.figures["top5"]["scores"] == pytest.approx(top)
    assert record.figures["top5"]["score"] == pytest.approx(np.mean(top))
    assert 0.5 < record.figures["top5"]["score"] < 0.75  # five of eight: 0.625 by chance
    probabilities = np.concatenate([softmax(s.astype(np.float64), axis=1) for s in scores])
    wanted = error_by_definition(probabilities, np.tile(y, protocol.num_draws))
    assert record.figures["ece"]["score"] == pytest.approx(wanted, abs=1e-6)
    if protocol is TOY:
        assert record.figures["top5"]["ci95"] == interval_of_mean(top, 600)
    for figure in record.figures.values():
        assert figure["ci95"][0] < figure["score"] < figure["ci95"][1]


def test_calibration_is_that_of_scikit_learns_probabilities(tmp_path: Path) -> None:
    """Logistic regression on real digits: the same probabilities from another solver, binned image by image."""
    settings = Settings(tol=1e-8, classifier=LogisticClassifier(1e-8))
    record = evaluate(get_protocol("digits").with_draws(10, 1), PixelFeatures(), settings, Place(cache_dir=tmp_path))
    assert set(record.figures) == {"top5", "ece"}
    train, test = load_protocol_images(get_protocol("digits"))
    kept, _ = stratified_split(train, get_protocol("digits").num_held_out(train.num_images), 0, "validation")
    rows = draw_per_class(train, kept, 10, 0, 0, "test")
    X, X_test = (
        np.column_stack([s.images.reshape(len(s.images), -1) / 127.5 - 1, np.ones(len(s.images))])
        for s in (train, test)
    )
    peer = LogisticRegression(C=record.C, fit_intercept=False, tol=1e-8, max_iter=5000).fit(X[rows], train.labels[rows])
    probabilities = peer.predict_proba(X_test)
    assert record.figures["ece"]["score"] == pytest.approx(error_by_definition(probabilities, test.labels), abs=2e-4)
    assert record.figures["top5"]["score"] == top_k_accuracy_score(test.labels, probabilities, k=5)


def test_bins_hold_their_upper_edge() -> None:
    bins = calibration_bins(np.array([1 / 15, 1 / 15 + 1e-9, 1.0, 0.0]), np.array([True, False, True, False]))
    assert bins[:, 0].tolist() == [2, 1, *[0] * 12, 1]
    assert bins[14].tolist() == [1, 1, 1, 0]


def test_the_interval_of_the_calibration_error_covers_the_truth() -> None:
    """Confidence that is off by a known amount in every bin: the error is that amount."""
    draw, covered = np.random.default_rng(0), []
    for _ in range(300):
        confidence = draw.uniform(0.5, 1, 1000)
        right = draw.random(1000) < confidence - 0.15
        _, low, high = calibration_error(calibration_bins(confidence, right), 1000)
        covered.append(low <= 0.15 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98  # 300 experiments at 95 %: two standard errors are 2.5 points


def test_what_has_no_scores_or_too_few_classes_has_no_figures(tmp_path: Path) -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    logistic, knn = LogisticClassifier(), KnnClassifier()
    (only,) = rank(logistic, [logistic.fit(X, y, 1.0)], X, 3)
    assert only.top is None
    assert only.confidence is not None
    assert rank(knn, [knn.fit(X, y, 5)], X, 9) == []
    svm = Settings().classifier_for(get_protocol("digits"))
    assert rank(svm, [svm.fit(X, y, 1.0)], X, 3) == []
    y = np.arange(60) % 7
    (wide,) = rank(svm, [svm.fit(X, y, 1.0)], X, 7)
    assert wide.top.shape == (60, 5)
    assert wide.confidence is None


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("figures")
    settings = Settings(classifier=LogisticClassifier())
    made = evaluate(get_protocol("digits").with_draws(5, 2), PixelFeatures(), settings, Place(cache_dir=folder))
    return load_record(made.write(folder / "r.json"))


def failed(record: Record, change: Callable[[dict[str, Any]], Any], path: Path) -> set[str]:
    values = json.loads(record.to_json())
    change(values["figures"])
    values.pop("digest")
    altered: list[Check] = verify(Record(**{k: v for k, v in values.items() if k != "schema"}))
    return {check.name for check in altered if check.passed is False}


ALTERATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "top-5 score": (lambda f: f["top5"].update(score=0.999), "top-5 accuracy"),
    "top-5 interval": (lambda f: f["top5"].update(ci95=[0.98, 0.99]), "interval of top-5 accuracy"),
    "top-5 draws": (lambda f: f["top5"].update(scores=[0.5, 0.6]), "top-5 images"),
    "top-5 images": (
        lambda f: f["top5"].update(right=pack_counts(2 - unpack_counts(f["top5"]["right"]))),
        "top-5 images",
    ),
    "error": (lambda f: f["ece"].update(score=0.001), "calibration error"),
    "error's interval": (lambda f: f["ece"].update(ci95=[0, 0.001]), "calibration error"),
    "bins": (lambda f: f["ece"]["bins"][7].__setitem__(0, f["ece"]["bins"][7][0] + 1), "images in the bins"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_figure_is_named(record: Record, name: str, tmp_path: Path) -> None:
    change, expected = ALTERATIONS[name]
    assert failed(record, lambda figures: None, tmp_path) == set()
    assert expected in failed(record, change, tmp_path)


def test_figures_are_shown_and_older_records_have_fewer(record: Record) -> None:
    rows = {name: (value, between) for name, value, between in figure_rows(record)}
    assert list(rows) == ["balanced accuracy", "macro F1", "top-5 accuracy", "expected calibration error"]
    assert rows["top-5 accuracy"][0] == f"{100 * record.figures['top5']['score']:.2f}"
    page = build_page([(Path("r.json"), record)])
    assert "expected calibration error" in page
    assert rows["expected calibration error"][1] in page
    old = load_record(Path(__file__).parents[3] / "benchmarks/results/digits.json")
    assert [name for name, *_ in figure_rows(old)][:2] == ["balanced accuracy", "macro F1"]


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["ece"].pop("bins"),
        lambda f: f["ece"]["bins"][3].pop(),
        lambda f: f["top5"].pop("right"),
        lambda f: f["top5"].update(scores=[None, 0.5]),
        lambda f: f["top5"].update(ci95=[0.5]),
        lambda f: f.update(ece=None),
    ],
)
def test_figures_that_do_not_say_what_they_follow_from_are_a_damaged_record(record: Record, change, tmp_path) -> None:
    values = json.loads(record.to_json())
    change(values["figures"])
    (tmp_path / "r.json").write_text(json.dumps(values))
    with pytest.raises(RecordError, match="damaged"):
        load_record(tmp_path / "r.json")

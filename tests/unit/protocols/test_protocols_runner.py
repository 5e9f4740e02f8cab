"""The protocol engine: the leak rule, the choice of C, draws, and refusal of what did not converge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dcgan_eval.baselines.knn import KnnClassifier
from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.splits import draw_per_class, stratified_split
from dcgan_eval.errors import ConvergenceError, DataError, LeakError, ProtocolError
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.store import FeatureStore
from dcgan_eval.features.store_file import StoreIdentity
from dcgan_eval.progress import Progress
from dcgan_eval.protocols import classifiers
from dcgan_eval.protocols.catalog import PROTOCOLS, get_protocol
from dcgan_eval.protocols.classifiers import SvmClassifier
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.search import run_search
from dcgan_eval.protocols.selection import best_value
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import EncoderFeatures, PixelFeatures
from dcgan_eval.protocols.spec import Protocol, SealedTest
from dcgan_eval.protocols.statistics import interval_of_mean, spread_of_draws
from dcgan_eval.provenance import digest
from dcgan_eval.records import CERTIFIED, Record, unpack_counts

FULL = Protocol("toy_full", 1, "toy", "toy", "toy", num_validation=60, Cs=(1e-4, 1e-3, 1e-2, 1e-1, 1.0))
DRAWS = replace(FULL, id="toy_draws", per_class=20, selection_draws=2, num_draws=4)


def toy(count: int, seed: int, noise: float = 60.0) -> ImageSet:
    """Three classes of 4x4 images: a class mean and much noise."""
    means = np.random.default_rng(99).uniform(60, 190, (3, 4, 4, 3))
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = np.clip(means[labels] + draw.normal(0, noise, (count, 4, 4, 3)), 0, 255).astype(np.uint8)
    return ImageSet(pixels, labels, name="toy", split=f"split{seed}")


def color(count: int, seed: int) -> ImageSet:
    """Three classes of 32x32 noise around a class's colour."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = draw.integers(0, 128, (count, 32, 32, 3)) + 60 * np.eye(3, dtype=int)[labels][:, None, None]
    return ImageSet(pixels.astype(np.uint8), labels, name="colour", split=f"split{seed}")


@pytest.fixture
def encoder_features() -> EncoderFeatures:
    return EncoderFeatures(load_encoder("untrained:svhn32"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the default cache goes


def run(protocol: Protocol = FULL, test_labels: np.ndarray | None = None, **settings: Any) -> Record:
    train, test = toy(300, 1), toy(150, 2)
    if test_labels is not None:
        test = ImageSet(test.images, test_labels, test.class_names, "toy", "split2")
    return run_protocol(protocol, train, SealedTest(test), PixelFeatures(), Settings(**settings))


def test_the_record_of_a_full_run() -> None:
    record = run()
    assert record.score > 0.5
    assert (record.num_draws, record.spread) == (1, None)
    assert record.status == "converged"
    assert record.duality_gap <= 1e-4
    assert record.num_features == 48
    assert np.sum(record.confusion) == 150
    assert record.score == pytest.approx(np.trace(record.confusion) / 150)
    assert record.draws[0]["num_rows"] == 300
    assert best_value(record.selection, "C") == record.C
    assert all(row["duality_gap"] <= 1e-4 for row in record.selection)


def test_the_test_labels_change_nothing_but_the_score() -> None:
    honest = run()
    permuted = run(test_labels=np.random.default_rng(5).permutation(toy(150, 2).labels))
    assert permuted.C == honest.C
    assert permuted.selection == honest.selection
    assert permuted.score != honest.score
    predicted = np.sum(honest.confusion, axis=0)
    assert np.array_equal(np.sum(permuted.confusion, axis=0), predicted)  # same predictions, other labels


def test_the_seal_opens_once() -> None:
    sealed = SealedTest(toy(30, 2))
    assert sealed.images.labels is None
    assert sealed.score([np.zeros(30, int)])[0].sum() == 30
    with pytest.raises(LeakError, match="already used once"):
        sealed.score([np.zeros(30, int)])


def test_a_run_cannot_be_repeated_on_an_opened_test_set() -> None:
    sealed = SealedTest(toy(150, 2))
    run_protocol(FULL, toy(300, 1), sealed, PixelFeatures())
    with pytest.raises(LeakError):
        run_protocol(FULL, toy(300, 1), sealed, PixelFeatures())


class _Peeking(PixelFeatures):
    """A feature source that tries to get at labels while it is handed the images."""

    def __init__(self) -> None:
        self.sets: list[ImageSet] = []
        self.blocks: list[bytes] = []

    def learn(self, train: ImageSet, cache_dir: Path, progress: Progress) -> None:
        self.sets.append(train)

    def identity(self, images: ImageSet) -> StoreIdentity:
        self.sets.append(images)
        return super().identity(images)

    def ready(self, progress: Progress) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        flatten = super().ready(progress)
        return lambda images: self.blocks.append(images.tobytes()) or flatten(images)  # type: ignore[func-returns-value]


def test_feature_sources_see_no_labels_nor_names() -> None:
    source, test = _Peeking(), toy(150, 2)
    named = ImageSet(test.images, test.labels, names=np.array([f"{label}/a.png" for label in test.labels]))
    run_protocol(FULL, toy(300, 1), SealedTest(named), source)
    assert len(source.sets) == 3
    assert all(images.labels is None and images.names is None for images in source.sets)


def test_the_order_of_what_a_source_sees_tells_no_labels(tmp_path: Path) -> None:
    """Shuffled and relabelled, the test images reach a source as the same bytes in the same order."""
    test, draw, seen = toy(150, 2), np.random.default_rng(0), []
    for number in range(3):
        order = draw.permutation(150)
        relabelled = ImageSet(test.images[order], draw.permutation(test.labels), test.class_names)
        source = _Peeking()
        place = Place(cache_dir=tmp_path / str(number))
        run_protocol(FULL, toy(300, 1), SealedTest(relabelled), source, place=place)
        seen.append(source.blocks)
    assert seen[0] == seen[1] == seen[2]
    assert sum(map(len, seen[0])) == (300 + 150) * 4 * 4 * 3


def test_no_label_can_be_guessed_from_the_place_of_a_row() -> None:
    class Guess(KnnClassifier):
        def predict(self, fits: Any, X: Any) -> list[np.ndarray]:
            return [np.repeat(np.arange(3), 50)]

    assert run(classifier=Guess()).score < 0.6  # rows sorted by label would give 1


def test_the_seal_has_no_labels_to_give() -> None:
    sealed = SealedTest(toy(150, 2))
    labels = toy(150, 2).labels
    reachable = [value for value in vars(sealed).values() if isinstance(value, np.ndarray)]
    assert not any(np.array_equal(value, labels) for value in reachable)


def test_a_matrix_that_memory_does_not_hold_is_streamed_to_the_same_score(tmp_path: Path) -> None:
    whole, streamed = (
        run_protocol(
            protocol,
            toy(300, 1),
            SealedTest(toy(150, 2)),
            PixelFeatures(),
            place=Place(None, tmp_path, memory_bytes=size),
        )
        for protocol in (FULL,)
        for size in (10**9, 1_000)
    )
    assert streamed.score == whole.score
    assert streamed.right == whole.right
    assert streamed.C == whole.C


def test_scoring_comes_after_every_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    for name in ("fit_ovr", "fit_path"):
        original = getattr(classifiers, name)
        monkeypatch.setattr(classifiers, name, lambda *a, _f=original, **k: events.append("fit") or _f(*a, **k))
    sealed = SealedTest(toy(150, 2))
    score = sealed.score
    sealed.score = lambda predictions: events.append("score") or score(predictions)  # type: ignore[method-assign]
    run_protocol(DRAWS, toy(300, 1), sealed, PixelFeatures())
    assert events == ["fit"] * 6 + ["score"]


CLASSIFIERS = {
    "knn": lambda: KnnClassifier(),
    "knn_cosine": lambda: KnnClassifier(cosine=True),
    "logistic": lambda: LogisticClassifier(),
    "l2svm_mean_loss": lambda: SvmClassifier((1.0, 100.0), mean_loss=True),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("protocol", [FULL, DRAWS], ids=lambda p: p.id)
def test_any_classifier_opens_the_seal_once_after_everything_is_chosen(protocol: Protocol, name: str) -> None:
    sealed, classifier = SealedTest(toy(150, 2)), CLASSIFIERS[name]()
    opened: list[int] = []
    score, classifier_fit = sealed.score, classifier.fit
    sealed.score = lambda predictions: opened.append(len(predictions)) or score(predictions)  # type: ignore[method-assign]
    classifier.fit = lambda *a: pytest.fail("a fit after the score") if opened else classifier_fit(*a)
    record = run_protocol(protocol, toy(300, 1), sealed, PixelFeatures(), Settings(classifier=classifier))
    assert opened == [protocol.num_draws]
    assert record.protocol == f"{protocol.id}_{name}"
    assert record.paper is None
    assert record.chosen == (classifier.parameter, best_value(record.selection, classifier.parameter))
    assert record.chosen[1] in classifier.values
    assert record.status in CERTIFIED
    assert record.score > 0.5
    assert {draw["num_rows"] for draw in record.draws} == {300 if protocol is FULL else 60}


def test_the_mean_loss_is_the_sum_with_C_over_the_number_of_rows() -> None:
    mean = run(classifier=SvmClassifier((30.0,), mean_loss=True))
    rows = {"select": 240, "fit": 300}
    summed = [run(classifier=SvmClassifier((30.0 / count,))) for count in rows.values()]
    assert mean.selection[0]["score"] == summed[0].selection[0]["score"]
    assert mean.confusion == summed[1].confusion
    assert mean.C == 30.0


def test_another_classifier_has_an_id_of_its_own() -> None:
    changed = get_protocol("cifar10").with_classifier("knn")
    assert (changed.id, changed.paper) == ("cifar10_knn_full", None)
    assert get_protocol("cifar10-small").with_classifier("knn_cosine").id == "cifar10_small_knn_cosine"


class _Search:
    """Three trials of which the second and third are equally good."""

    name, num_features = "supervised:toy", 5

    def run(self, train: ImageSet, validation: ImageSet, progress: Progress) -> list[dict[str, Any]]:
        self.seen = (train, validation)
        right = [10, 40, 40]
        return [
            {"trial": i, "score": r / 60, "confusion": [[r, 60 - r], [0, 0]], "time_s": 1.0}
            for i, r in enumerate(right)
        ]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights_sha256": None, "trials": 4}


def test_a_search_is_reported_as_validation_accuracy_of_the_svms_own_validation_rows() -> None:
    search, train = _Search(), toy(300, 1)
    record = run_search(FULL, train, search)
    kept, held_out = (set(images.pixel_hashes) for images in search.seen)
    assert kept | held_out == set(train.pixel_hashes)
    assert len(held_out) == 60
    assert (record.metric, record.score, record.chosen) == ("validation accuracy", 40 / 60, ("trial", 1))
    assert record.status == "time limit"  # three trials of four
    assert record.protocol == "toy_full_supervised"
    assert set(record.data) == {"train", "validation"}
    assert record.draws == []
    assert "the test set was not opened" in record.notes


def test_a_search_on_few_labels_sees_only_those() -> None:
    search = _Search()
    run_search(DRAWS, toy(300, 1), search)
    assert np.bincount(search.seen[0].labels).tolist() == [20, 20, 20]


def test_draws_have_a_spread_and_an_interval_under_their_own_names() -> None:
    record = run(DRAWS)
    scores = [draw["score"] for draw in record.draws]
    assert record.num_draws == len(set(scores)) == 4
    assert {draw["num_rows"] for draw in record.draws} == {60}
    assert record.score == pytest.approx(np.mean(scores))
    assert record.spread == pytest.approx(1.96 * np.std(scores, ddof=1))
    half = stats.t.ppf(0.975, 3) * np.std(scores, ddof=1) / 2
    assert record.ci95 == pytest.approx([np.mean(scores) - half, np.mean(scores) + half])
    assert all(len(row["scores"]) == 2 for row in record.selection)


def test_seed_decides_and_order_of_the_files_does_not() -> None:
    train, test = toy(300, 1), toy(150, 2)
    shuffled = np.random.default_rng(3).permutation(300)

    def scores(images: ImageSet, seed: int) -> list[float]:
        images = images.take(images.canonical_order)
        record = run_protocol(DRAWS, images, SealedTest(test), PixelFeatures(), Settings(seed=seed))
        return [draw["score"] for draw in record.draws]

    assert scores(train, 0) == scores(train.take(shuffled), 0)
    assert scores(train, 0) != scores(train, 1)


def test_what_does_not_converge_has_no_score() -> None:
    with pytest.raises(ConvergenceError, match=r"did not converge.*--allow-unconverged"):
        run(tol=1e-300)
    marked = run(tol=1e-300, allow_unconverged=True)
    assert marked.status != "converged"
    assert "unconverged fits were allowed" in marked.notes


class _Scaled(PixelFeatures):
    """Pixels times a power of ten."""

    def __init__(self, factor: float):
        self.factor = np.float32(factor)

    def served(self, store: FeatureStore) -> FeatureStore:
        return super().served(store).served_by(lambda x: (x / np.float32(127.5) - 1) * self.factor)


@pytest.mark.parametrize("power", range(-3, 4))
def test_the_scale_of_own_features_does_not_matter(power: int) -> None:
    relative = Protocol("own", 1, "own", "own", "own", num_validation=60, Cs=(1e-3, 1e-1, 1.0, 10.0), relative=True)
    records = [
        run_protocol(relative, toy(300, 1), SealedTest(toy(150, 2)), _Scaled(10.0**exponent)) for exponent in (0, power)
    ]
    assert records[0].right == records[1].right
    assert records[0].C == records[1].C


def test_a_value_that_does_not_converge_ends_the_path_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SvmClassifier.path

    def path(self: SvmClassifier, *arguments: Any) -> Any:
        for fit, predicted in original(self, *arguments):
            stalled = replace(fit.solution, status="stalled") if fit.value >= 0.1 else fit.solution
            yield replace(fit, solution=stalled), predicted

    monkeypatch.setattr(SvmClassifier, "path", path)
    record = run(replace(FULL, patience=9))
    assert [row["C"] for row in record.selection] == [1e-4, 1e-3, 1e-2]
    assert "the path ended before C = 0.1, which did not converge" in record.notes


def test_the_path_ends_when_patience_does() -> None:
    record = run(replace(FULL, Cs=tuple(10.0**p for p in range(-6, 5)), patience=1))
    scores = [row["score"] for row in record.selection]
    assert len(scores) < 11
    assert scores[-1] <= max(scores[:-1])


def test_the_smallest_of_equally_good_C_is_chosen() -> None:
    assert best_value([{"C": 1.0, "score": 0.5}, {"C": 0.1, "score": 0.7}, {"C": 0.2, "score": 0.7}], "C") == 0.1


def test_an_edge_of_the_grid_is_noted() -> None:
    record = run(replace(FULL, Cs=(1e-7, 1e-6)))
    assert [row["score"] for row in record.selection] == [1, 1]  # of equals the smallest
    assert record.notes == ["the chosen C = 1e-07 is at the edge of the protocol's grid"]


def test_more_labels_than_a_class_has() -> None:
    with pytest.raises(DataError, match="images"):
        run(replace(DRAWS, per_class=90))


def test_more_validation_images_than_there_are() -> None:
    with pytest.raises(DataError, match=r"Cannot hold 300 images out.*hold out fewer"):
        run(replace(FULL, num_validation=300))


def test_training_and_test_set_of_different_classes_or_sizes() -> None:
    train, test = toy(300, 1), toy(150, 2)
    renamed = ImageSet(test.images, test.labels, ("0", "1", "cat"))
    fewer = ImageSet(test.images, test.labels % 2)
    for other in (renamed, fewer, color(30, 2)):
        with pytest.raises(ProtocolError, match="not of one data set"):
            run_protocol(FULL, train, SealedTest(other), PixelFeatures())


def test_missing_labels() -> None:
    with pytest.raises(ProtocolError, match="no labels"):
        SealedTest(toy(30, 2).without_labels())
    with pytest.raises(ProtocolError, match="no labels"):
        run_protocol(FULL, toy(300, 1).without_labels(), SealedTest(toy(30, 2)), PixelFeatures())


def test_interval_of_a_single_run_is_wilsons() -> None:
    # 45 of 50: Wilson's interval, computed by hand from its closed form
    p, n, z = 0.9, 50, stats.norm.ppf(0.975)
    middle, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert interval_of_mean([0.9], 50) == pytest.approx(expected)
    assert spread_of_draws([0.9]) is None


def test_draws_given_by_hand_make_another_protocol() -> None:
    low = PROTOCOLS["cifar10"].with_draws(40, None)
    assert (low.id, low.paper) == ("cifar10_l2svm_full_40_per_class_10_draws", None)
    assert (low.per_class, low.num_draws, low.selection_draws) == (40, 10, 3)
    more = PROTOCOLS["cifar10-400"].with_draws(None, 50)
    assert (more.id, more.per_class, more.paper) == ("cifar10_l2svm_400_400_per_class_50_draws", 400, None)
    assert DRAWS.with_draws(None, None) is DRAWS
    for arguments in ((0, None), (None, 5), (5, 0)):
        with pytest.raises(ProtocolError, match="--per-class"):
            FULL.with_draws(*arguments)
    record = run(FULL.with_draws(5, 2))
    assert [draw["num_rows"] for draw in record.draws] == [15, 15]


def test_the_draws_are_in_the_record() -> None:
    record, again, other = run(DRAWS), run(DRAWS), run(DRAWS, seed=1)
    assert {stream: len(rows) for stream, rows in record.rows_sha256.items()} == {
        "validation": 1,
        "selection": 2,
        "test": 4,
    }
    assert record.rows_sha256 == again.rows_sha256
    assert all(not set(rows) & set(other.rows_sha256[stream]) for stream, rows in record.rows_sha256.items())
    # the rows follow from seed, stream and images alone
    train = toy(300, 1)
    kept, _ = stratified_split(train, DRAWS.num_validation, 0, "validation")
    rows = draw_per_class(train, kept, 20, 0, 3, "test")
    by_label = sorted((int(train.labels[row]), train.pixel_hashes[row].decode()) for row in rows)
    assert record.rows_sha256["test"][3] == digest(*(pixel_hash for _, pixel_hash in by_label))


def test_the_record_says_which_test_images_were_right() -> None:
    record = run(DRAWS)
    right = unpack_counts(record.right)
    assert right.shape == (150,)
    assert right.sum() == np.trace(record.confusion)
    images = toy(150, 2)
    in_order = images.take(images.canonical_order)
    reordered = run_protocol(DRAWS, toy(300, 1), SealedTest(in_order), PixelFeatures())
    assert np.array_equal(unpack_counts(reordered.right), right)  # canonical, whatever the order of the test set
    per_class = np.bincount(in_order.labels, right, minlength=3)
    assert np.array_equal(per_class, np.diag(record.confusion))


def test_another_encoder_than_the_papers_is_noted(encoder_features: EncoderFeatures) -> None:
    train, test = color(90, 1), color(30, 2)
    protocol = replace(FULL, num_validation=None)
    record = run_protocol(protocol, train, SealedTest(test), encoder_features)
    assert record.notes[-1] == "the paper's encoder for this protocol is imagenet32; these features are from svhn32"
    assert record.features["all_layers"] is True
    protocol = replace(protocol, preset="svhn32")
    record = run_protocol(protocol, train, SealedTest(test), encoder_features)
    assert not any("encoder" in note for note in record.notes)


def test_what_is_said_of_an_encoder_stands_in_the_record(encoder_features: EncoderFeatures) -> None:
    encoder_features.notes = ["random weights"]
    record = run_protocol(replace(FULL, num_validation=None), color(90, 1), SealedTest(color(30, 2)), encoder_features)
    assert "random weights" in record.notes

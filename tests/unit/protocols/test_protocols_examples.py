"""Neighbours and mistakes of a record, against brute force on images whose hashes the test computes itself."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import RecordError, StoreError
from dcgan_eval.protocols import examples
from dcgan_eval.protocols.catalog import get_protocol, load_protocol_images
from dcgan_eval.protocols.examples import RecordExamples
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.records import Record, load_record

ROOT = Path(__file__).parents[3]
PIXELS = ROOT / "tests" / "regression" / "records" / "schema-1-digits-pixels.json"


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 127.5 - 1


def noisy(count: int, seed: int) -> ImageSet:
    """Four classes of 6x6 images around faint means, so that some are taken for another; rows in a shuffled order."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(count) % 4)
    means = np.random.default_rng(9).normal(128, 7, (4, 6, 6, 3))
    pixels = np.clip(means[labels] + draw.normal(0, 60, (count, 6, 6, 3)), 0, 255).astype(np.uint8)
    return ImageSet(pixels, labels, name="noisy")


def packed(values: list[int]) -> str:
    """As records keep counts: 16-bit little-endian integers, zlib, base64."""
    return base64.b64encode(zlib.compress(np.array(values, "<u2").tobytes())).decode()


def examples_of(record: Record, images: tuple[ImageSet, ImageSet], folder: Path) -> RecordExamples:
    """Make the features that a run would have left in the cache, then look."""
    PixelFeatures().prepare(*images, cache_dir=folder)
    return RecordExamples(record, None, folder)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> tuple[ImageSet, ImageSet]:
    train, test = noisy(400, 1), noisy(120, 2)
    monkeypatch.setattr(examples, "load_protocol_images", lambda *arguments: (train, test))
    return train, test


def record_of(test: ImageSet, schema: int, right: np.ndarray) -> Record:
    """Return a record that has some images right, packed in the order of its schema."""
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in test.images]
    rows = range(len(hashes))
    order = sorted(rows, key=lambda i: (test.labels[i], hashes[i]) if schema == 2 else hashes[i])
    assert order != sorted(rows, key=lambda i: hashes[i] if schema == 2 else (test.labels[i], hashes[i]))
    base = load_record(PIXELS)
    place = {**base.data, "test": {**base.data["test"], "fingerprint": test.fingerprint}}
    chosen = {**base.classifier, "value": 1e-3}
    return replace(base, data=place, classifier=chosen, schema=schema, right=packed([int(right[i]) for i in order]))


@pytest.mark.parametrize("schema", [2, 3])
def test_mistakes_are_those_of_the_record_by_falling_margin(
    data: tuple[ImageSet, ImageSet], tmp_path: Path, schema: int
) -> None:
    train, test = data
    svm = LinearSVC(C=1e-3, tol=1e-8, max_iter=100_000, random_state=0).fit(flat(train.images), train.labels)
    scores = svm.decision_function(flat(test.images))
    right = scores.argmax(1) == test.labels
    assert 12 < (~right).sum() < 90
    images, taken_for = examples_of(record_of(test, schema, right), data, tmp_path).mistakes(count=12)
    top = np.sort(scores, 1)
    worst = np.argsort(np.where(right, 0.0, top[:, -2] - top[:, -1]))[:12]
    assert np.array_equal(images, test.images[worst])
    assert np.array_equal(taken_for, scores[worst].argmax(1))
    assert (taken_for != test.labels[worst]).all()


def test_no_more_mistakes_are_shown_than_were_made(data: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    right = np.ones(120, bool)
    right[[5, 77]] = False
    images, _ = examples_of(record_of(data[1], 2, right), data, tmp_path).mistakes()
    assert {image.tobytes() for image in images} == {data[1].images[i].tobytes() for i in (5, 77)}


def test_neighbours_have_the_largest_cosine(tmp_path: Path) -> None:
    train, test = load_protocol_images(get_protocol("digits"))
    found = examples_of(load_record(PIXELS), (train, test), tmp_path)
    near = found.neighbours(num_queries=3, num_neighbours=4)
    X, Q = flat(found.train.images), flat(near.queries)
    cosines = (Q @ X.T) / np.linalg.norm(Q, axis=1)[:, None] / np.linalg.norm(X, axis=1)
    best = np.argsort(-cosines, axis=1)[:, :4]
    assert np.array_equal(near.labels, found.train.labels[best])
    assert np.array_equal(near.neighbours, found.train.images[best])


def test_what_is_not_in_the_cache_is_not_computed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"not in the cache.*dcgan-eval svm digits"):
        RecordExamples(load_record(ROOT / "benchmarks" / "results" / "digits.json"), None, tmp_path)
    assert list(tmp_path.glob("*.h5")) == []


def test_records_of_other_images_or_protocols_are_refused(data: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="other test images"):
        RecordExamples(load_record(PIXELS), None, tmp_path)
    with pytest.raises(RecordError, match="catalogue's protocols only"):
        RecordExamples(replace(load_record(PIXELS), protocol="own_l2svm"), None, tmp_path)


@pytest.mark.parametrize(
    "change", [{"right": None}, {"num_draws": 2}, {"classifier": {"name": "l2svm_mean_loss", "parameter": "C"}}]
)
def test_mistakes_need_one_fit_that_can_be_made_again(
    data: tuple[ImageSet, ImageSet], tmp_path: Path, change: dict[str, object]
) -> None:
    record = replace(record_of(data[1], 2, np.zeros(120, bool)), **change)
    with pytest.raises(StoreError, match="Mistakes cannot be shown"):
        examples_of(record, data, tmp_path).mistakes()

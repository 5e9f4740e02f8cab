"""Neighbours and mistakes of a record, against brute force."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest

from dcgan_eval.data.catalog import load_data
from dcgan_eval.errors import StoreError
from dcgan_eval.protocols.examples import RecordExamples
from dcgan_eval.records import load_record
from dcgan_eval.svm.path import fit_ovr

ROOT = Path(__file__).parents[3]
PIXELS = ROOT / "tests" / "regression" / "records" / "schema-1-digits-pixels.json"


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 127.5 - 1


def test_neighbours_have_the_largest_cosine(tmp_path: Path) -> None:
    examples = RecordExamples(load_record(PIXELS), None, tmp_path)
    near = examples.neighbours(num_queries=3, num_neighbours=4)
    X, Q = flat(examples.train.images), flat(near.queries)
    cosines = (Q @ X.T) / np.linalg.norm(Q, axis=1)[:, None] / np.linalg.norm(X, axis=1)
    best = np.argsort(-cosines, axis=1)[:, :4]
    assert np.array_equal(near.labels, examples.train.labels[best])
    assert np.array_equal(near.neighbours, examples.train.images[best])


def test_mistakes_are_those_of_the_record_by_falling_margin(tmp_path: Path) -> None:
    record = load_record(PIXELS)
    examples = RecordExamples(record, None, tmp_path)
    digits = load_data("digits", "all")
    label_of = dict(zip(digits.pixel_hashes.tolist(), digits.labels.tolist(), strict=True))
    test = examples.test.take(examples.test.canonical_order)
    labels = np.array([label_of[h] for h in test.pixel_hashes.tolist()])
    solution = fit_ovr(flat(examples.train.images).astype(np.float32), examples.train.labels, record.C)
    scores = solution.decision_function(flat(test.images).astype(np.float32))
    right = scores.argmax(1) == labels
    object.__setattr__(record, "right", base64.b64encode(zlib.compress(right.astype("<u2").tobytes())).decode())
    images, taken_for = examples.mistakes(count=5)
    top = np.sort(scores, 1)
    margins = np.where(right, -1, top[:, -1] - top[:, -2])
    worst = np.argsort(-margins)[:5]
    assert (~right).sum() == round(500 * (1 - record.score)) >= 5
    assert np.array_equal(images, test.images[worst])
    assert np.array_equal(taken_for, scores[worst].argmax(1))


def test_what_is_not_in_the_cache_is_not_computed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"not in the cache.*dcgan-eval svm digits"):
        RecordExamples(load_record(ROOT / "benchmarks" / "results" / "digits.json"), None, tmp_path)
    assert list(tmp_path.iterdir()) == []

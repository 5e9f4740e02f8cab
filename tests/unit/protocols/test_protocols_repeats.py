"""Test images that are in the training set are counted in every run; counts by comparing all pixels of all pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.repeats import count_repeats
from dcgan_eval.errors import LeakError, RecordError
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import GivenFeatures, PixelFeatures
from dcgan_eval.protocols.spec import Protocol, SealedTest
from dcgan_eval.protocols.verify import verify
from dcgan_eval.records import Record, load_record

TOY = Protocol("toy_full", 1, "toy", "toy", "toy", num_validation=40, Cs=(1e-3, 1e-2, 1e-1))


def sets(copies: int = 0, other: int = 0) -> tuple[ImageSet, ImageSet]:
    """Three classes; the first test images are copies of training images, the first of these under another label."""
    draw = np.random.default_rng(0)
    means = draw.integers(40, 200, (3, 4, 4, 3))
    parts = []
    for count in (200, 80):
        labels = np.arange(count) % 3
        pixels = np.clip(means[labels] + draw.integers(-40, 40, (count, 4, 4, 3)), 0, 255).astype(np.uint8)
        parts.append((pixels, labels))
    (train, y), (test, y_test) = parts
    test[:copies], y_test[:copies] = train[50 : 50 + copies], y[50 : 50 + copies]
    y_test[:other] = (y_test[:other] + 1) % 3
    return ImageSet(train, y, name="toy", split="train"), ImageSet(test, y_test, name="toy", split="test")


def by_pixels(train: ImageSet, test: ImageSet) -> dict[str, int]:
    """Every test image beside every training image."""
    found = {"num_images": 0, "other_label": 0}
    for image, label in zip(test.images, test.labels, strict=True):
        same = [bool((image == each).all()) for each in train.images]
        found["num_images"] += any(same)
        found["other_label"] += any(same) and label not in train.labels[same]
    return found


@pytest.mark.parametrize(("copies", "other"), [(0, 0), (1, 0), (7, 3), (80, 80)])
def test_counts_are_those_of_the_pixels(copies: int, other: int) -> None:
    train, test = sets(copies, other)
    assert count_repeats(train, test) == by_pixels(train, test) == {"num_images": copies, "other_label": other}


def test_a_copy_under_both_labels_has_no_other_label() -> None:
    train, test = sets(2, 1)
    both = ImageSet(
        np.concatenate([train.images, test.images[:1], test.images[:1]]), [*train.labels, test.labels[0], 0]
    )
    twice = ImageSet(np.concatenate([test.images, test.images[:2]]), [*test.labels, *test.labels[:2]])
    assert count_repeats(both, twice) == by_pixels(both, twice) == {"num_images": 4, "other_label": 0}


def run(folder: Path, copies: int = 0, other: int = 0) -> Record:
    train, test = sets(copies, other)
    return run_protocol(TOY, train, SealedTest(test), PixelFeatures(), place=Place(cache_dir=folder))


def test_they_stand_in_the_record_and_in_a_note(tmp_path: Path) -> None:
    clean, repeated = run(tmp_path), run(tmp_path, 7, 3)
    assert clean.data["test"]["in_train"] == {"num_images": 0, "other_label": 0}
    assert not [note for note in clean.notes if "training set" in note]
    assert repeated.data["test"]["in_train"] == {"num_images": 7, "other_label": 3}
    assert "of 80 test images 7 stand in the training set too, pixel for pixel; 3 of these under another label" in (
        repeated.notes
    )
    assert "in_train" not in repeated.data["train"]
    assert load_record(repeated.write(tmp_path / "r.json")).data == repeated.data


def test_labels_are_not_compared_before_the_score() -> None:
    train, test = sets(3, 1)
    sealed = SealedTest(test)
    with pytest.raises(LeakError, match="before it is scored"):
        sealed.repeats(train)
    sealed.score([np.zeros(80, np.int64)])
    assert sealed.repeats(train) == {"num_images": 3, "other_label": 1}


def test_the_digits_have_none(tmp_path: Path) -> None:
    assert len(np.unique(load_digits().data, axis=0)) == 1797  # so no image is there twice, in whatever split
    made = evaluate("digits", PixelFeatures(), place=Place(cache_dir=tmp_path))
    record = load_record(made.write(tmp_path / "r.json"))
    assert record.data["test"]["in_train"] == {"num_images": 0, "other_label": 0}
    found = {check.name: check.passed for check in verify(record, cache_dir=tmp_path)}
    assert found["test images in train"] is True
    data: dict[str, Any] = json.loads(json.dumps(record.data))
    data["test"]["in_train"]["num_images"] = 1
    assert {c.name for c in verify(replace(record, data=data)) if c.passed is False} == {"test images in train"}
    del data["test"]["in_train"]  # as records had it before
    old = load_record(replace(record, data=data).write(tmp_path / "old.json"))
    assert "test images in train" not in {check.name for check in verify(old)}


@pytest.mark.parametrize("value", [3, {"num_images": "many"}, [1]])
def test_a_count_of_another_form_is_a_damaged_record(value: Any, tmp_path: Path) -> None:
    record = run(tmp_path)
    data = {**record.data, "test": {**record.data["test"], "in_train": value}}
    with pytest.raises(RecordError, match="data has another form"):
        load_record(replace(record, data=data).write(tmp_path / "r.json"))


def test_rows_of_given_features_are_compared_too(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(120, 5))
    y = (X[:, 0] > 0).astype(int)
    np.savez(tmp_path / "train.npz", X=X[:90], y=y[:90])
    np.savez(tmp_path / "test.npz", X=X[80:], y=y[80:])
    source = GivenFeatures(tmp_path / "train.npz", tmp_path / "test.npz")
    record = evaluate("own", source, place=Place(cache_dir=tmp_path / "c"))
    assert record.data["test"]["in_train"] == {"num_images": 10, "other_label": 0}
    assert "of 40 test rows 10 stand in the training set too, number for number" in record.notes[-1]

"""For any order of the images of both sets, a run's record, its packed counts and the mistakes shown are the same."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.protocols import examples
from dcgan_eval.protocols.catalog import get_protocol
from dcgan_eval.protocols.examples import RecordExamples
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.spec import SealedTest
from dcgan_eval.records import Record, unpack_counts

TRAIN, TEST = 60, 45
PROTOCOL = dataclasses.replace(get_protocol("digits"), num_validation=15, Cs=(1e-3, 1e-2))


def noisy(count: int, seed: int) -> ImageSet:
    """Three classes around faint means, so that some are taken for another."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    means = np.random.default_rng(9).normal(128, 9, (3, 5, 5, 1))
    pixels = np.clip(means[labels] + draw.normal(0, 50, (count, 5, 5, 1)), 0, 255).astype(np.uint8)
    return ImageSet(pixels, labels, name="noisy")


SETS = noisy(TRAIN, 1), noisy(TEST, 2)


def run(train: ImageSet, test: ImageSet, folder: str) -> Record:
    return run_protocol(PROTOCOL, train, SealedTest(test), PixelFeatures(), place=Place(cache_dir=Path(folder)))


def numbers(record: Record) -> dict[str, object]:
    values = dataclasses.asdict(record)
    kept = {key: value for key, value in values.items() if key not in ("made", "digest")}
    draws = [{**draw, "time_s": None} for draw in record.draws]
    return kept | {"features": {**record.features, "cached": None}, "draws": draws}


@given(train=st.permutations(range(TRAIN)), test=st.permutations(range(TEST)))
@settings(max_examples=15, deadline=None)
def test_the_record_does_not_depend_on_the_order(train: list[int], test: list[int]) -> None:
    shuffled = SETS[0].take(np.array(train)), SETS[1].take(np.array(test))
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        record, again = run(*SETS, one), run(*shuffled, other)
        assert numbers(again) == numbers(record)
        X, T = (s.images.reshape(len(s), -1) / 127.5 - 1 for s in SETS)
        C = record.classifier["value"]
        svm = LinearSVC(C=C, tol=1e-8, max_iter=100_000, random_state=0).fit(X, SETS[0].labels)
        right = svm.predict(T) == SETS[1].labels
        by_hash = sorted(range(TEST), key=lambda i: hashlib.sha256(SETS[1].images[i].tobytes()).hexdigest())
        assert np.array_equal(unpack_counts(again.right), right[by_hash])
        patch.setattr(examples, "load_protocol_images", lambda *_: shuffled)
        images, _ = RecordExamples(again, None, Path(other)).mistakes(count=TEST)
        assert {i.tobytes() for i in images} == {SETS[1].images[i].tobytes() for i in np.flatnonzero(~right)}

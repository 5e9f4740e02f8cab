"""Paired comparison of records: against closed forms, and refused where the test images differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dcgan_eval.errors import RecordError
from dcgan_eval.records import Record, load_record, pack_counts, unpack_counts
from dcgan_eval.report.paired import mcnemar, paired_comparison

COMMITTED = load_record(Path(__file__).parents[3] / "benchmarks" / "results" / "digits.json")


def record(right: np.ndarray, num_draws: int = 1) -> Record:
    return replace(COMMITTED, right=pack_counts(right), num_draws=num_draws, schema=2)


def test_counts_survive_packing() -> None:
    counts = np.random.default_rng(0).integers(0, 1_000, 26_032)
    assert np.array_equal(unpack_counts(pack_counts(counts)), counts)
    assert pack_counts(None) is None
    ones = pack_counts(np.random.default_rng(0).random(10_000) < 0.8)
    assert len(ones) < 3_000  # a single draw costs a record no more than this


def test_single_draws() -> None:
    draw = np.random.default_rng(1)
    a, b = (draw.random(2_000) < 0.7).astype(int), (draw.random(2_000) < 0.6).astype(int)
    found = paired_comparison(record(a), record(b))
    assert found.difference == pytest.approx(a.mean() - b.mean())
    # the bootstrap of a mean of 2,000 differences is close to normal; 9,999 resamples give its ends to a few percent
    half = 1.96 * np.std(a - b) / np.sqrt(2_000)
    expected = (found.difference - half, found.difference + half)
    assert found.ci95 == pytest.approx(expected, abs=0.05 * half)
    assert (found.only_a, found.only_b) == (np.sum((a == 1) & (b == 0)), np.sum((a == 0) & (b == 1)))
    assert paired_comparison(record(a), record(b)) == found
    # pairing matters: of two records that err on the same images the difference is known exactly
    same = paired_comparison(record(a), record(a))
    assert (same.difference, same.ci95, same.mcnemar_p) == (0, (0, 0), 1)


@pytest.mark.parametrize(("only_a", "only_b"), [(9, 1), (1, 9), (5, 5), (30, 12)])
def test_mcnemar_is_the_binomial_tail(only_a: int, only_b: int) -> None:
    a = np.repeat([1, 0, 1], [only_a, only_b, 50])
    b = np.repeat([0, 1, 1], [only_a, only_b, 50])
    tail = stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    assert mcnemar(a, b) == (only_a, only_b, pytest.approx(min(1.0, 2 * tail)))


def test_several_draws_have_no_mcnemar() -> None:
    draw = np.random.default_rng(2)
    found = paired_comparison(record(draw.integers(0, 11, 500), 10), record(draw.integers(0, 2, 500)))
    assert found.mcnemar_p is found.only_a is None
    assert found.ci95[0] < found.difference < found.ci95[1]


def test_records_of_different_data_or_of_schema_1_are_refused() -> None:
    a = record(np.ones(500, int))
    other = {**a.data, "test": {**a.data["test"], "fingerprint": "0" * 64}}
    with pytest.raises(RecordError, match=r"different test images.*digits test, 500 images"):
        paired_comparison(a, replace(a, data=other))
    with pytest.raises(RecordError, match="does not say which images were right"):
        paired_comparison(a, replace(a, right=None, schema=1))


def test_accuracies_per_class_come_from_the_confusion_matrix() -> None:
    confusion = [[8, 2, 0], [1, 3, 0], [0, 0, 0]]
    found = replace(COMMITTED, confusion=confusion, class_names=["a", "b", "c"]).class_accuracies
    assert (found["a"], found["b"]) == (0.8, 0.75)
    assert np.isnan(found["c"])

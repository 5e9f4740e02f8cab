"""Nearest rows are those of a float64 search over all pairs, ties and hard cases included, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcgan_eval.baselines.knn import KnnClassifier
from dcgan_eval.baselines.nearest import NearestRows
from dcgan_eval.errors import ArgumentError


def reference(X: np.ndarray, Q: np.ndarray, k: int, cosine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Search all pairs in float64; of equally near rows the first."""
    X, Q = X.astype(np.float64), Q.astype(np.float64)
    if cosine:
        X, Q = (A / np.linalg.norm(A, axis=1, keepdims=True) for A in (X, Q))
    squares = ((Q[:, None] - X[None]) ** 2).sum(2)
    rows = squares.argsort(1, kind="stable")[:, :k]
    return rows, np.take_along_axis(squares, rows, 1)


class Lazy:
    """A matrix that is read by slices only, and remembers the longest."""

    def __init__(self, X: np.ndarray):
        self.X, self.shape, self.dtype, self.longest = X, X.shape, X.dtype, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.longest = max(self.longest, rows.stop - rows.start)
        return self.X[rows]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 120),
    width=st.sampled_from([1, 3, 40, 700]),
    offset=st.sampled_from([0.0, 1e2, 1e4]),
    log_scale=st.integers(-12, 12),
    cosine=st.booleans(),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_rows_and_distances_are_those_of_float64(rows, width, offset, log_scale, cosine, dtype):
    rng = np.random.default_rng(rows * width)
    scale = 1.0 if dtype is np.float16 else 10.0**log_scale
    X, Q = ((scale * (rng.normal(size=(n, width)) + offset)).astype(dtype) for n in (rows, 9))
    k = min(rows, 7)
    expected, squares = reference(X, Q, k, cosine)
    found, ours = (a.numpy() for a in NearestRows(X, cosine).search(Q, k))
    # a sum of 700 float64 squares is good to 1e-13; unit lengths that agree to 16 digits leave 1e-30 open
    np.testing.assert_allclose(ours, squares, rtol=1e-12, atol=1e-28 if cosine else 0)
    distinct = (np.diff(squares) > 1e-12 * squares[:, 1:] + 1e-28).all(1) if k > 1 else np.ones(9, bool)
    distinct &= reference(X, Q, min(rows, k + 1), cosine)[1][:, -1] > squares[:, -1] * (1 + 1e-12)
    np.testing.assert_array_equal(found[distinct], expected[distinct])


@pytest.mark.parametrize("high", [2, 4, 256])
def test_whole_numbers_have_exact_ties_and_the_first_row_wins(high):
    rng = np.random.default_rng(high)
    X, Q = (rng.integers(0, high, (n, 24)).astype(np.uint8) for n in (900, 40))
    found, squares = NearestRows(X, cosine=False).search(Q, 50)  # with two values, hundreds share a distance
    expected, exact = reference(X, Q, 50, cosine=False)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(squares, exact)


def test_what_float32_cannot_tell_apart_is_told_apart():
    rng = np.random.default_rng(0)
    X = (1 + 1e-9 * rng.normal(size=(500, 30))) * np.ones(30)
    Q = X[:20] + 1e-10 * rng.normal(size=(20, 30))
    np.testing.assert_array_equal(NearestRows(X, cosine=False).search(Q, 3)[0], reference(X, Q, 3, False)[0])


@pytest.mark.parametrize("cosine", [False, True])
def test_a_lazy_matrix_is_read_in_blocks_and_not_kept(cosine):
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(6000, 3000)).astype(np.float32), np.arange(6000) % 5
    Q = Lazy(X[:100] + 0.1)
    whole, lazy = KnnClassifier(cosine), KnnClassifier(cosine, memory_bytes=1 << 20)
    source = Lazy(X)
    fit = lazy.fit(source, y, 5)
    assert fit.X is source
    np.testing.assert_array_equal(lazy.predict([fit], Q)[0], whole.predict([whole.fit(X, y, 5)], X[:100] + 0.1)[0])
    assert source.longest * 3000 * 4 <= 64 << 20  # the block that is stated, of 72 MB in all
    assert Q.longest == 64


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["training", "query"])
def test_features_that_are_no_numbers_are_refused(value, where):
    X, Q = np.ones((5, 3), np.float32), np.ones((2, 3), np.float32)
    (X if where == "training" else Q)[1, 1] = value
    knn: Any = KnnClassifier()
    with pytest.raises(ArgumentError, match="NaN or infinity"):
        knn.predict([knn.fit(X, np.arange(5), 1)], Q)

"""Rows of features made elsewhere, each known by a hash: what stands in a set where there are no pixels."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt


class FeatureRows:
    """Some rows of a matrix of features, and what each of them is known by.

    Parameters
    ----------
    matrix : array-like, (M, D)
        ``matrix[rows]`` gives numbers; in memory, or read when they are asked for.
    rows : ndarray of int64, (N,)
        Which of its rows, in which order.
    pixel_hashes : ndarray, (N,), dtype ``S64``
        Hash of each row's image or, where there is none, of the row itself (:func:`hash_rows`).
    source : str
        SHA-256 of the file.
    """

    def __init__(self, matrix: Any, rows: npt.NDArray[np.int64], pixel_hashes: npt.NDArray[np.bytes_], source: str):
        self._matrix, self._rows, self.pixel_hashes, self.source = matrix, rows, pixel_hashes, source

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float32]:
        """Read the features of some rows, (len(rows), D)."""
        return as_float32(self._matrix[self._rows[rows]])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height 1, width 1, and the D features as channels."""
        return 1, 1, int(self._matrix.shape[1])

    def take(self, rows: npt.NDArray[np.int64]) -> FeatureRows:
        """Return the rows ``rows`` of these, in that order."""
        return FeatureRows(self._matrix, self._rows[rows], self.pixel_hashes[rows], self.source)


def as_float32(block: Any) -> npt.NDArray[np.float32]:
    """Return numbers as float32, with one zero: -0 and 0 are the same feature."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused where it is read
        return np.asarray(block).astype(np.float32) + np.float32(0)


def hash_rows(block: npt.NDArray[np.float32]) -> list[str]:
    """Return the SHA-256 of each row's little-endian float32 bytes, hexadecimal."""
    return [hashlib.sha256(row.data).hexdigest() for row in np.ascontiguousarray(block, "<f4")]

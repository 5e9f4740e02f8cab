"""k nearest neighbours: by Euclidean distance and majority, or by cosine and weighted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..svm.rows import device_of
from .nearest import NearestRows

TEMPERATURE = 0.07  # a neighbour of cosine s votes with exp(s / 0.07): Wu et al., CVPR 2018, section 3.4


@dataclass(frozen=True)
class KnnFit:
    """Neighbours to ask: nothing is minimised, so the fit is exact by construction.

    Attributes
    ----------
    value : float
        k.
    X : array, or anything with ``shape``, ``dtype`` and slices of rows
        Training features (N, D), as they were given: not copied.
    y : ndarray
        Class numbers (N,).
    classes : ndarray
        Labels in order.
    device : str
        Where they are searched.
    """

    value: float
    X: Any
    y: np.ndarray
    classes: np.ndarray
    device: str
    status: str = "exact"
    duality_gap: float | None = None

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return int(self.X.shape[0])

    def details(self) -> dict[str, Any]:
        """Return where they are searched: k and the rows say all else."""
        return {"device": self.device}

    def without_rows(self) -> FittedKnn:
        """Return what a record keeps."""
        return FittedKnn(self.value, self.num_rows, self.device)


@dataclass(frozen=True)
class FittedKnn:
    """A :class:`KnnFit` whose rows were let go: k, how many rows there were, and where."""

    value: float
    num_rows: int
    device: str
    status: str = "exact"
    duality_gap: float | None = None

    def details(self) -> dict[str, Any]:
        """Return what the fit does."""
        return {"device": self.device}

    def without_rows(self) -> FittedKnn:
        """Return itself."""
        return self


class KnnClassifier:
    """k nearest neighbours, k chosen on validation rows; which they are is decided as in float64.

    Parameters
    ----------
    cosine : bool
        Neighbours by cosine, each with weight exp(cosine / 0.07), instead of by Euclidean distance with one vote each.
    device : torch.device or str, optional
        Where to multiply; None: where the features are.
    memory_bytes : int, optional
        About the most that a search may take beside features in memory; None: a share of the machine.
    """

    parameter, keeps_rows = "k", True

    def __init__(self, cosine: bool = False, device: torch.device | str | None = None, memory_bytes: int | None = None):
        self.cosine, self.device, self.memory_bytes = cosine, device, memory_bytes
        self.name = "knn_cosine" if cosine else "knn"
        self.values: tuple[float, ...] = (1, 5, 10, 20, 50, 100, 200) if cosine else (1, 3, 5, 10, 20, 50)
        self.patience = len(self.values)  # one search serves all k

    def path(self, X: Any, y: np.ndarray, X_val: Any) -> Iterator[tuple[KnnFit, np.ndarray]]:
        """Yield fits and validation predictions for every k up to the number of rows, from a single search."""
        largest = self.fit(X, y, min(max(self.values), len(y)))
        rows, squares = self._search(largest, X_val)
        for k in self.values:
            if k <= len(y):
                yield replace(largest, value=k), self._vote(largest, rows[:, : int(k)], squares[:, : int(k)])

    def fit(self, X: Any, y: np.ndarray, value: float) -> KnnFit:
        """Note the rows."""
        classes, index = np.unique(y, return_inverse=True)
        return KnnFit(value, X, index, classes, str(device_of(X, self.device)))

    def predict(self, fits: Sequence[KnnFit], X: Any) -> list[np.ndarray]:
        """Return the predicted labels of every fit; of equal votes the smaller label wins."""
        return [self._vote(fit, *self._search(fit, X)) for fit in fits]

    def describe(self) -> dict[str, Any]:
        """Return metric and vote."""
        vote = f"exp(cosine / {TEMPERATURE})" if self.cosine else "majority"
        return {"metric": "cosine" if self.cosine else "euclidean", "vote": vote}

    def _search(self, fit: KnnFit, X: Any) -> tuple[Tensor, Tensor]:
        """Return the k nearest training rows of each query and their squared distances, (Q, k)."""
        return NearestRows(fit.X, self.cosine, self.device, self.memory_bytes).search(X, int(fit.value))

    def _vote(self, fit: KnnFit, rows: Tensor, squares: Tensor) -> np.ndarray:
        """Return the label with the most votes for each query; exp((cosine - 1) / 0.07) keeps weights within 1."""
        weights = (squares / (-2 * TEMPERATURE)).exp() if self.cosine else torch.ones_like(squares)
        votes = weights.new_zeros(len(rows), len(fit.classes))
        votes.scatter_add_(1, torch.from_numpy(fit.y).to(rows.device)[rows], weights)
        winners: np.ndarray = fit.classes[votes.argmax(1).cpu().numpy()]
        return winners

"""k nearest neighbours: by Euclidean distance and majority, or by cosine and weighted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TEMPERATURE = 0.07  # a neighbour of cosine s votes with exp(s / 0.07): Wu et al., CVPR 2018, section 3.4
_BLOCK_QUERIES = 256


@dataclass(frozen=True)
class KnnFit:
    """Neighbours to ask: nothing is minimised, so the fit is exact by construction.

    Attributes
    ----------
    value : float
        k.
    X, y : Tensor, ndarray
        Training features (N, D) and class indices (N,).
    classes : ndarray
        Labels in order.
    """

    value: float
    X: Tensor
    y: Tensor
    classes: np.ndarray
    status: str = "exact"
    duality_gap: float | None = None

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self.X)

    def details(self) -> dict[str, Any]:
        """Return nothing: k and the rows say all."""
        return {}


class KnnClassifier:
    """k nearest neighbours, k chosen on validation rows.

    Parameters
    ----------
    cosine : bool
        Neighbours by cosine, each with weight exp(cosine / 0.07), instead of by Euclidean distance with one vote each.
    device : torch.device
        Where to multiply.
    """

    parameter = "k"

    def __init__(self, cosine: bool = False, device: torch.device | str = "cpu"):
        self.cosine, self.device = cosine, device
        self.name = "knn_cosine" if cosine else "knn"
        self.values: tuple[float, ...] = (1, 5, 10, 20, 50, 100, 200) if cosine else (1, 3, 5, 10, 20, 50)
        self.patience = len(self.values)  # one search serves all k

    def path(self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray) -> Iterator[tuple[KnnFit, np.ndarray]]:
        """Yield fits and validation predictions for every k up to the number of rows, from a single search."""
        largest = self.fit(X, y, min(max(self.values), len(X)))
        rows, weights = self._search(largest, X_val)
        for k in self.values:
            if k <= len(X):
                fit = KnnFit(k, largest.X, largest.y, largest.classes)
                yield fit, _vote(fit, rows[:, : int(k)], weights[:, : int(k)])

    def fit(self, X: np.ndarray, y: np.ndarray, value: float) -> KnnFit:
        """Keep the rows."""
        classes, index = np.unique(y, return_inverse=True)
        return KnnFit(value, torch.from_numpy(X).to(self.device), torch.from_numpy(index).to(self.device), classes)

    def predict(self, fits: Sequence[KnnFit], X: np.ndarray) -> list[np.ndarray]:
        """Return the predicted labels of every fit; of equal votes the smaller label wins."""
        return [_vote(fit, *self._search(fit, X)) for fit in fits]

    def describe(self) -> dict[str, Any]:
        """Return metric and vote."""
        vote = f"exp(cosine / {TEMPERATURE})" if self.cosine else "majority"
        return {"metric": "cosine" if self.cosine else "euclidean", "vote": vote}

    def _search(self, fit: KnnFit, X: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the k nearest training rows of each query, nearest first, and the weights of their votes, (Q, k)."""
        norms = torch.linalg.vector_norm(fit.X, dim=1)
        blocks = [self._nearest(fit, norms, q.to(self.device)) for q in torch.from_numpy(X).split(_BLOCK_QUERIES)]
        rows, weights = zip(*blocks, strict=True)
        return torch.cat(rows), torch.cat(weights)

    def _nearest(self, fit: KnnFit, norms: Tensor, q_QD: Tensor) -> tuple[Tensor, Tensor]:
        """Search one block of queries; ``norms`` are the training rows'."""
        closeness = q_QD @ fit.X.T
        if self.cosine:
            products = torch.linalg.vector_norm(q_QD, dim=1)[:, None] * norms
            closeness /= products.clamp_min(torch.finfo(closeness.dtype).tiny)
        else:
            closeness -= norms.square() / 2  # now (|q|^2 - |q - x|^2) / 2: in the order of the distances
        found = closeness.topk(int(fit.value))
        weights = ((found.values - 1) / TEMPERATURE).exp() if self.cosine else torch.ones_like(found.values)
        return found.indices, weights


def _vote(fit: KnnFit, rows: Tensor, weights: Tensor) -> np.ndarray:
    """Return the label with the most votes for each query."""
    votes = weights.new_zeros(len(rows), len(fit.classes)).scatter_add_(1, fit.y[rows], weights)
    winners: np.ndarray = fit.classes[votes.argmax(1).cpu().numpy()]
    return winners

"""Ridge classification, solved exactly through the normal equations, with a certificate on the features themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from ..devices import memory_share
from ..errors import ArgumentError
from ..svm import decide
from ..svm.gram import gram_matrix
from ..svm.objective import check_finite, linear_scores
from ..svm.rows import Rows
from ..svm.targets import encode

_EXACT = 1e-8  # relative gap: float64 reaches 1e-15 or so where the equations are not hopeless
_COPIED_ROWS = 512  # of the matrix, mirrored at once


@dataclass(frozen=True)
class RidgeFit:
    """Weights at one penalty, with their certificate.

    Attributes
    ----------
    value : float
        Penalty alpha, in units of the mean squared distance of a row from the rows' mean.
    num_rows : int
        Training rows.
    W : ndarray
        (K, D + 1), float64; the last column is the intercept, which is not penalised.
    classes : ndarray
        Labels in order, (K,).
    status : str
        ``"exact"``, or ``"stalled"`` where rounding left more than 1e-8 of the objective.
    duality_gap : float
        Relative, in float64 on the features themselves.
    solver : str
        ``"gram"`` (N x N equations) or ``"covariance"`` (D x D).
    time_s : float
        Wall time.
    device : str
        Where the equations were made; they are solved on the processor.
    """

    value: float
    num_rows: int
    W: np.ndarray
    classes: np.ndarray
    status: str
    duality_gap: float
    solver: str
    time_s: float
    device: str

    def details(self) -> dict[str, Any]:
        """Return how the fit was made."""
        return {"solver": self.solver, "time_s": self.time_s, "device": self.device}

    def without_rows(self) -> RidgeFit:
        """Return the fit: it holds weights alone."""
        return self


class RidgeClassifier:
    """``min_W,b sum_i ||y_i - W x_i - b||^2 + alpha ||W||^2`` with y_i +1 for the class of i, else -1; alpha is chosen.

    Candidates are in units of the mean squared distance of a row from the rows' mean, so that the scale of the features
    does not matter.

    Parameters
    ----------
    memory_bytes : int, optional
        Most that the equations may take; None: a share of the machine.
    open_grid : bool or None
        Try values beyond the candidates where the best is at their end; None leaves it to the protocol.
    device : torch.device or str, optional
        Where to multiply; None: where the features are.

    Source: scikit-learn's ``RidgeClassifier``, equal for ``alpha`` times the unit. Deviations: always in float64.
    """

    name, parameter, patience, keeps_rows, probabilities = "ridge", "alpha", 2, False, False
    values: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 1e1, 3e1, 1e2, 3e2, 1e3)

    def __init__(
        self,
        memory_bytes: int | None = None,
        open_grid: bool | None = None,
        device: torch.device | str | None = None,
    ):
        self.memory_bytes = memory_share() if memory_bytes is None else memory_bytes
        self.open_grid, self.device = open_grid, device

    def path(self, X: Any, y: np.ndarray, X_val: Any) -> Iterator[tuple[RidgeFit, np.ndarray]]:
        """Yield fits and validation predictions for ascending alpha, from one matrix."""
        equations = _Equations(X, y, self.memory_bytes, self.device)
        for value in self.values:
            fit = equations.fit(value)
            yield fit, self.predict([fit], X_val)[0]

    def fit(self, X: Any, y: np.ndarray, value: float) -> RidgeFit:
        """Return the fit at one alpha."""
        return _Equations(X, y, self.memory_bytes, self.device).fit(value)

    def predict(self, fits: Sequence[RidgeFit], X: Any) -> list[np.ndarray]:
        """Return the labels of the largest scores of every fit."""
        return [fit.classes[s.argmax(1)] for fit, s in zip(fits, self.scores(fits, X), strict=True)]

    def scores(self, fits: Sequence[RidgeFit], X: Any) -> list[np.ndarray]:
        """Return the scores (N, K) of every fit."""
        return [linear_scores(X, fit.W[:, :-1], fit.W[:, -1], self.device) for fit in fits]

    def describe(self) -> dict[str, Any]:
        """Return the objective."""
        return {"objective": "sum ||y - W x - b||^2 + alpha ||W||^2, y = +-1", "relative": True}


class _Equations:
    """``(M + alpha I) Z = B`` of one data set: M is the centred Gram matrix, or the scatter where that is smaller."""

    def __init__(self, X: Any, y: np.ndarray, memory_bytes: int, device: torch.device | str | None):
        self.rows = Rows(X, 0.0, device=device, memory_bytes=0).in_double()
        on_host = self.rows.device.type == "cpu"
        self._check(memory_bytes if on_host else min(memory_bytes, memory_share(self.rows.device)))
        self.classes, index = encode(y, self.rows.num_rows, self.rows.device)
        Y = 2.0 * torch.nn.functional.one_hot(index, len(self.classes)).double() - 1  # (N, K)
        self.mean_y = Y.mean(0)
        self.Y = Y - self.mean_y
        self.mean = self._sums(torch.ones_like(Y[:, :1]))[0] / len(Y)  # (D,)
        self.dual = self.rows.num_rows <= self.rows.num_features
        self.matrix = decide.values(self._gram() if self.dual else self._scatter())
        self.diagonal = self.matrix.diagonal().copy()
        # the centred rows are orthogonal to constants, so Xc^T Yc is X^T Yc
        self.right = decide.values(self.Y if self.dual else self._sums(self.Y).T)
        self.unit = float(self.diagonal.sum()) / len(Y) or 1.0

    def fit(self, value: float) -> RidgeFit:
        """Solve at one penalty."""
        began, alpha = time.perf_counter(), value * self.unit
        Z = torch.from_numpy(self._solve(alpha)).to(self.rows.device)
        W = self._sums(Z) - torch.outer(Z.sum(0), self.mean) if self.dual else Z.T  # Xc^T Z, (K, D)
        gap = self._gap(W, alpha)
        return RidgeFit(
            value=value,
            num_rows=self.rows.num_rows,
            W=decide.values(torch.column_stack([W, self.mean_y - W @ self.mean])),
            classes=self.classes,
            status="exact" if gap <= _EXACT else "stalled",
            duality_gap=gap,
            solver="gram" if self.dual else "covariance",
            time_s=time.perf_counter() - began,
            device=str(self.rows.device),
        )

    def _check(self, memory_bytes: int) -> None:
        """Refuse features that are not finite, and equations that memory does not hold."""
        check_finite(self.rows)
        size = 8 * min(self.rows.shape) ** 2
        if size > memory_bytes:
            raise ArgumentError(
                "Memory does not hold the normal equations of ridge classification",
                got=f"{size / 1e9:.1f} GB for {self.rows.num_rows:,} rows of {self.rows.num_features:,} features",
                expected=f"at most {memory_bytes / 1e9:.1f} GB, half of what the machine or its GPU has",
                remedy="use fewer --layer or fewer labels with --per-class, or `probe logistic`, which streams",
            )

    def _sums(self, R: Tensor) -> Tensor:
        """Return R^T X, (K, D)."""
        return self.rows.adjoint(R)[:, :-1]

    def _gram(self) -> Tensor:
        """Return Xc Xc^T, (N, N): what centring the rows makes of X X^T."""
        gram = gram_matrix(self.rows)
        gram -= gram.mean(0, keepdim=True)
        gram -= gram.mean(1, keepdim=True)
        return gram

    def _scatter(self) -> Tensor:
        """Return Xc^T Xc, (D, D)."""
        scatter = torch.zeros(len(self.mean), len(self.mean), dtype=torch.float64, device=self.mean.device)
        for _, block in self.rows.blocks():
            centred = block - self.mean
            scatter.addmm_(centred.T, centred)
        return scatter

    def _solve(self, alpha: float) -> np.ndarray:
        """Solve by Cholesky in place: the factor takes one triangle and the diagonal, and the other restores them."""
        np.fill_diagonal(self.matrix, self.diagonal + alpha)
        factor = scipy.linalg.cho_factor(self.matrix.T, lower=True, overwrite_a=True, check_finite=False)
        Z: np.ndarray = scipy.linalg.cho_solve(factor, self.right, check_finite=False)
        for start in range(0, len(self.matrix), _COPIED_ROWS):  # lower of the transpose is upper here
            part = slice(start, start + _COPIED_ROWS)
            self.matrix[:start, part] = self.matrix[part, :start].T
            square = np.tril(self.matrix[part, part], -1)
            self.matrix[part, part] = square + square.T
        return Z

    def _gap(self, W: Tensor, alpha: float) -> float:
        """Return how far the objective can be from its optimum, relative to it.

        f(W) = ||Yc - Xc W^T||^2 + alpha ||W||^2 is strongly convex with 2 alpha, so f - f* <= ||f'||^2 / (4 alpha).
        """
        padded = torch.cat([W, W.new_zeros(len(W), 1)], 1)
        residual = self.Y - self.rows.scores(padded) + W @ self.mean  # (N, K)
        pulled = self._sums(residual) - torch.outer(residual.sum(0), self.mean)
        half = alpha * W - pulled  # of the gradient
        objective, square = decide.numbers(residual.square().sum() + alpha * W.square().sum(), half.square().sum())
        return square / alpha / max(objective, np.finfo(np.float64).tiny)

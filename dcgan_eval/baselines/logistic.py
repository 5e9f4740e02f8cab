"""Multinomial logistic regression with an L2 penalty, by L-BFGS, certified by its duality gap."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

_BLOCK_ROWS = 512
_MEMORY = 20  # pairs of L-BFGS


@dataclass(frozen=True)
class LogisticFit:
    """Weights at one C, with their certificate.

    Attributes
    ----------
    value : float
        C.
    num_rows : int
        Training rows.
    W : Tensor
        (K, D + 1); the last column belongs to a constant feature, which is penalised like the others.
    classes : ndarray
        Labels in order, (K,).
    status : str
        ``"converged"`` or ``"max_iterations"`` (of L-BFGS, or of its line search).
    duality_gap : float
        Relative, in float64.
    iterations : int
        Of L-BFGS.
    time_s : float
        Wall time.
    """

    value: float
    num_rows: int
    W: Tensor
    classes: np.ndarray
    status: str
    duality_gap: float
    iterations: int
    time_s: float

    def details(self) -> dict[str, Any]:
        """Return how the fit was made."""
        return {"iterations": self.iterations, "time_s": self.time_s}

    def without_rows(self) -> LogisticFit:
        """Return the fit: it holds weights alone."""
        return self


class LogisticClassifier:
    """``min_W 1/2 ||W||^2 + C sum_i (logsumexp(W x_i) - w_{y_i}.x_i)``, C chosen on validation rows.

    The gap costs nothing: at p = softmax(W x) the losses and their conjugates meet, and what is left between primal and
    dual is half the squared norm of the gradient.

    Parameters
    ----------
    tol : float
        Relative duality gap that counts as converged.
    max_iter : int
        Iterations allowed for each C.
    device : torch.device
        Where to multiply.
    """

    name, parameter, patience, keeps_rows = "logistic", "C", 2, False
    values: tuple[float, ...] = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

    def __init__(self, tol: float = 1e-4, max_iter: int = 3000, device: torch.device | str = "cpu"):
        self.tol, self.max_iter, self.device = tol, max_iter, device

    def path(self, X: Any, y: np.ndarray, X_val: Any) -> Iterator[tuple[LogisticFit, np.ndarray]]:
        """Yield fits and validation predictions for ascending C, each warm-started from the one before."""
        x_ND, start = torch.from_numpy(X).to(self.device), None
        for C in self.values:
            fit = self._fit(x_ND, y, C, start)
            start = fit.W
            yield fit, self.predict([fit], X_val)[0]

    def fit(self, X: Any, y: np.ndarray, value: float) -> LogisticFit:
        """Return the fit at one C, started from zero."""
        return self._fit(torch.from_numpy(X).to(self.device), y, value, None)

    def predict(self, fits: Sequence[LogisticFit], X: Any) -> list[np.ndarray]:
        """Return the most probable labels of every fit."""
        x_ND = torch.from_numpy(X).to(self.device)
        return [fit.classes[_scores(x_ND, fit.W).argmax(1).cpu().numpy()] for fit in fits]

    def describe(self) -> dict[str, Any]:
        """Return the objective."""
        return {"objective": "1/2 ||W||^2 + C sum (logsumexp(W x) - w_y.x)"}

    def _fit(self, x_ND: Tensor, y: np.ndarray, C: float, start: Tensor | None) -> LogisticFit:
        """Minimise from a start and certify; where rounding stops progress short of that, go on in float64."""
        began, iterations = time.perf_counter(), 0
        classes, index = np.unique(y, return_inverse=True)
        target = torch.from_numpy(index).to(self.device)
        shape = (len(classes), x_ND.shape[1] + 1)
        W = torch.zeros(shape, dtype=torch.float64, device=self.device) if start is None else start
        gap = np.inf
        for dtype in dict.fromkeys((x_ND.dtype, torch.float64)):
            W, more = self._descend(x_ND, target, W, C, dtype)
            iterations += more
            gap = _relative_gap(*evaluate(x_ND, target, W, C, torch.float64))
            if gap <= self.tol:
                break
        status = "converged" if gap <= self.tol else "max_iterations"
        return LogisticFit(C, len(x_ND), W, classes, status, gap, iterations, time.perf_counter() - began)

    def _descend(self, x_ND: Tensor, target: Tensor, W: Tensor, C: float, dtype: torch.dtype) -> tuple[Tensor, int]:
        """Run L-BFGS with products in ``dtype`` until half the tolerance; return weights and iterations."""
        last_gap = np.inf

        def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal last_gap
            value, gradient = evaluate(x_ND, target, torch.from_numpy(w).view(W.shape).to(self.device), C, dtype)
            last_gap = _relative_gap(value, gradient)
            return value, gradient.cpu().numpy().ravel()

        def stop_when_certified(_: np.ndarray) -> None:
            if last_gap <= 0.5 * self.tol:  # the other half is left to rounding
                raise StopIteration

        options = {"maxiter": self.max_iter, "maxfun": 2 * self.max_iter, "maxcor": _MEMORY, "ftol": 0.0, "gtol": 0.0}
        w0 = W.cpu().numpy().ravel()
        found = minimize(objective, w0, jac=True, method="L-BFGS-B", callback=stop_when_certified, options=options)
        return torch.from_numpy(found.x).view(W.shape).to(self.device), int(found.nit)


def _relative_gap(value: float, gradient: Tensor) -> float:
    """Return half the squared norm of the gradient over the objective."""
    return float(gradient.square().sum()) / 2 / value


def evaluate(x_ND: Tensor, target: Tensor, W: Tensor, C: float, dtype: torch.dtype) -> tuple[float, Tensor]:
    """Return the objective and its gradient (K, D + 1), float64, with products in ``dtype``.

    Parameters
    ----------
    x_ND, target : Tensor
        Features (N, D) and class indices (N,).
    W : Tensor
        (K, D + 1), float64.
    C : float
        Factor of the summed losses.
    dtype : torch.dtype
        Of products with the features.
    """
    loss, gradient = 0.0, torch.zeros_like(W)
    for x, t in zip(x_ND.split(_BLOCK_ROWS), target.split(_BLOCK_ROWS), strict=True):
        x = x.to(dtype)
        z = _scores(x, W).double()
        loss += float(torch.nn.functional.cross_entropy(z, t, reduction="sum"))
        residual = z.softmax(1)
        residual[torch.arange(len(t), device=t.device), t] -= 1
        gradient[:, :-1] += (residual.to(dtype).T @ x).double()
        gradient[:, -1] += residual.sum(0)
    return float(W.square().sum()) / 2 + C * loss, W + C * gradient


def _scores(x_ND: Tensor, W: Tensor) -> Tensor:
    """Return W x with the constant feature, (N, K), in the features' dtype."""
    return x_ND @ W[:, :-1].T.to(x_ND.dtype) + W[:, -1].to(x_ND.dtype)

"""Multinomial logistic regression with an L2 penalty by the SVM's Newton-CG engine, certified by its duality gap."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import memory_share
from ..svm import decide
from ..svm.gram import GramSpace, gram_matrix, solve_gram
from ..svm.journal import Journal
from ..svm.newton import minimise
from ..svm.objective import best_columns, linear_scores
from ..svm.path import FitOptions, check_positive, choose_solver
from ..svm.primal import solve_primal
from ..svm.problems import SoftmaxProblem
from ..svm.rows import Rows, mean_squared_norm
from ..svm.streamed import joint_space
from ..svm.targets import encode


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
        (K, D + 1), float64; the last column belongs to a constant feature, which is penalised like the others.
    classes : ndarray
        Labels in order, (K,).
    status : str
        ``"converged"`` only if the gap is within the tolerance; else how the fit fell short.
    duality_gap : float
        Relative, in float64 on the features themselves.
    iterations, passes : int
        Newton iterations, and how often the features were read from end to end.
    time_s : float
        Wall time.
    solver : str
        ``"gram"`` or ``"primal"``.
    device : str
        Where it was fitted.
    """

    value: float
    num_rows: int
    W: Tensor
    classes: np.ndarray
    status: str
    duality_gap: float
    iterations: int
    passes: int
    time_s: float
    solver: str
    device: str

    def details(self) -> dict[str, Any]:
        """Return how the fit was made."""
        return {name: getattr(self, name) for name in ("iterations", "passes", "time_s", "solver", "device")}

    def without_rows(self) -> LogisticFit:
        """Return the fit: it holds weights alone."""
        return self


class LogisticClassifier:
    """``min_W 1/2 ||W||^2 + C sum_i (logsumexp(W x_i) - w_{y_i}.x_i)``, C chosen on validation rows.

    The gap costs nothing: at p = softmax(W x) the losses and their conjugates meet, and what is left between primal and
    dual is half the squared norm of the gradient. With fewer rows than features the problem is solved in the span of
    the rows (kernel logistic regression, ``W = A^T X``) on one Gram matrix for every C, and certified on the features.

    Parameters
    ----------
    tol : float
        Relative duality gap that counts as converged.
    max_iter : int
        Newton iterations allowed for each C.
    device : torch.device or str, optional
        Where to multiply; None: where the features are.
    memory_bytes : int, optional
        About the most that a fit may take beside features in memory; None: a share of the machine.
    values : tuple of float, optional
        Candidates for C.
    relative : bool or None
        C is for features of mean squared norm one, and the constant feature is as long as they are; None leaves it to
        the protocol.
    open_grid : bool or None
        Try values beyond the candidates where the best is at their end; None leaves it to the protocol.

    Raises
    ------
    ArgumentError
        ``tol`` or ``max_iter`` is out of range.
    """

    name, parameter, patience, keeps_rows, probabilities = "logistic", "C", 2, False, True
    values: tuple[float, ...] = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

    def __init__(
        self,
        tol: float = 1e-4,
        max_iter: int = 100,
        device: torch.device | str | None = None,
        memory_bytes: int | None = None,
        values: tuple[float, ...] | None = None,
        relative: bool | None = None,
        open_grid: bool | None = None,
    ):
        self.options, self.values = FitOptions(tol, max_iter), values or self.values
        self.relative, self.open_grid = relative, open_grid
        self.device, self.memory_bytes = device, memory_bytes
        self.journal: Journal | None = None  # where long fits are written down, set by whoever runs them

    def path(self, X: Any, y: np.ndarray, X_val: Any) -> Iterator[tuple[LogisticFit, np.ndarray]]:
        """Yield fits and validation predictions for ascending C, each warm-started from the one before."""
        fitter = self._fitter(X, y)
        for C in self.values:
            fit = fitter.fit(C)
            yield fit, self.predict([fit], X_val)[0]

    def fit(self, X: Any, y: np.ndarray, value: float) -> LogisticFit:
        """Return the fit at one C, started from zero."""
        return self._fitter(X, y).fit(value)

    def predict(self, fits: Sequence[LogisticFit], X: Any) -> list[np.ndarray]:
        """Return the most probable labels of every fit."""
        weights = [decide.values(fit.W) for fit in fits]
        best = (best_columns(X, W[:, :-1], W[:, -1], [len(W)], self.device)[0] for W in weights)
        return [fit.classes[index] for fit, index in zip(fits, best, strict=True)]

    def scores(self, fits: Sequence[LogisticFit], X: Any) -> list[np.ndarray]:
        """Return the logits (N, K) of every fit."""
        weights = [fit.W.cpu().numpy() for fit in fits]
        return [linear_scores(X, W[:, :-1], W[:, -1], self.device) for W in weights]

    def describe(self) -> dict[str, Any]:
        """Return the objective."""
        return {"objective": "1/2 ||W||^2 + C sum (logsumexp(W x) - w_y.x)", "relative": bool(self.relative)}

    def _fitter(self, X: Any, y: np.ndarray) -> _Fitter:
        """Prepare fits to some rows."""
        unit = mean_squared_norm(X) if self.relative else 1.0
        given = None if self.memory_bytes is None else self.memory_bytes // 2
        rows = Rows(X, math.sqrt(unit), device=self.device, memory_bytes=given)
        memory = memory_share(rows.device) if self.memory_bytes is None else self.memory_bytes
        return _Fitter(rows, y, self.options, memory // 4, self.journal)


class _Fitter:
    """The problem of one data set; what does not depend on C is computed once, and each fit starts from the last."""

    def __init__(self, rows: Rows, y: np.ndarray, options: FitOptions, share_bytes: int, journal: Journal | None):
        self.rows, self.options = rows, options
        self.classes, self.index = encode(y, rows.num_rows, rows.device)
        self.choice = choose_solver(
            rows.num_rows, rows.num_features, memory_bytes=share_bytes, itemsize=rows.dtype.itemsize
        )
        self._primal = joint_space(rows, len(self.classes), share_bytes, journal)
        self._gram: GramSpace | None = None
        self._coefficients: Tensor | None = None
        self._start: Tensor | None = None

    def fit(self, C: float) -> LogisticFit:
        """Fit at one C, which is in units of the squared constant feature's inverse."""
        check_positive("C", C, "1e-4")
        began, read, iterations = time.perf_counter(), self.rows.rows_read, 0
        problem = SoftmaxProblem(self.index, len(self.classes), C / self.rows.scale**2)
        on_gram = self.choice.solver == "gram"
        if on_gram:
            self._start, iterations = self._through_gram(problem)
        elif self._start is None:
            self._start = self._from_sample(problem)
        tol, most = self.options.tol, self.options.max_iter
        found = solve_primal(self._primal, problem, self._start, tol=tol, max_iter=most, certify_start=on_gram)
        self._start = found.U
        exact = found.exact or self._primal.exact(problem, found.U)
        W = found.U.clone()
        W[:, -1] *= self.rows.scale  # the intercept itself
        return LogisticFit(
            value=C,
            num_rows=self.rows.num_rows,
            W=W,
            classes=self.classes,
            status=str(found.status),
            duality_gap=decide.number(exact.relative_gap.max()),
            iterations=iterations + found.iterations,
            passes=-(-(self.rows.rows_read - read) // max(1, self.rows.num_rows)),
            time_s=time.perf_counter() - began,
            solver="gram" if on_gram and not found.iterations else "gram+primal" if on_gram else "primal",
            device=str(self.rows.device),
        )

    def _through_gram(self, problem: SoftmaxProblem) -> tuple[Tensor, int]:
        """Solve on the Gram matrix and map back: W = A^T X."""
        self._gram = self._gram or GramSpace(gram_matrix(self.rows))
        tol, most = 0.3 * self.options.tol, self.options.max_iter
        found = solve_gram(self._gram, problem, self._coefficients, tol, most)
        self._coefficients = found.U if decide.holds(torch.isfinite(found.U)) else None
        return self.rows.adjoint(found.U.T, torch.float64), found.iterations

    def _from_sample(self, problem: SoftmaxProblem) -> Tensor | None:
        """Solve a sample of the rows along its principal directions as a start; None where that is no simpler."""
        sampled = self._primal.sampled_problem(problem)
        if sampled is None:
            return None
        return self._primal.lift(minimise(*sampled, None, tol=1e-2, max_iter=self.options.max_iter).U)

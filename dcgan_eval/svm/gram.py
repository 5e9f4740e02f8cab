"""The L2-SVM through the Gram matrix: with fewer rows than features, every C, class and draw is nearly free."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dcgan_eval.svm.labels import encode
from dcgan_eval.svm.newton import NewtonResult, minimise
from dcgan_eval.svm.objective import Evaluation, Status, relative
from dcgan_eval.svm.rows import Rows, product_nt, serial

SERIAL_ROWS = 2048
"""Rows up to which a Gram matrix is solved on one thread: its products are too short to share out."""


@dataclass
class GramSpace:
    """The span of the rows: u (K, N) stands for ``w = X^T u``, and only ``G = X X^T`` is ever multiplied.

    Parameters
    ----------
    gram : torch.Tensor
        Shape (N, N), float32 or float64, constant feature included.
    """

    gram: torch.Tensor
    norm_every: int = 3
    _inverse: tuple[float, torch.Tensor] | None = field(default=None, repr=False)

    @property
    def resolves(self) -> bool:
        """Whether products are made in float64."""
        return self.gram.dtype == torch.float64

    def scores(self, U: torch.Tensor) -> torch.Tensor:
        """Return X w, (N, K)."""
        return product_nt(U.to(self.gram.dtype), self.gram).double().T

    def adjoint(self, R: torch.Tensor) -> torch.Tensor:
        """Return the vector that stands for X^T R: R itself."""
        return R.T

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the rows."""
        return values.sum(0)

    def remainder(self, R: torch.Tensor) -> torch.Tensor:
        """Return the squared norm of the weights that a residual stands for: no part of it is seen to elsewhere."""
        return self.inner(R, R)

    def correct(
        self, Y: torch.Tensor, cost: torch.Tensor, U: torch.Tensor, F: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors and scores as they are."""
        return U, F

    def image(self, U: torch.Tensor) -> torch.Tensor | None:
        """Return G u, the only product of a CG iteration."""
        return self.scores(U)

    def hessian(
        self, U: torch.Tensor, S: torch.Tensor, image: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``u + S G u`` and ``G u``."""
        scores = self.scores(U) if image is None else image
        return U + (S * scores).T, scores

    def inner(self, U: torch.Tensor, V: torch.Tensor, scores_v: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``u . G v`` for each problem."""
        return (U * (self.scores(V) if scores_v is None else scores_v).T).sum(1)

    def exact(self, Y: torch.Tensor, cost: torch.Tensor, U: torch.Tensor) -> Evaluation:
        """Evaluate in float64 on the Gram matrix as it is stored."""
        scores = self._double(U)
        hinge = (1 - Y * scores).clamp_min(0)
        gradient = U - (2 * cost * hinge * Y).T
        gap = 0.5 * (gradient * self._double(gradient).T).sum(1).abs()
        primal = 0.5 * (U * scores.T).sum(1) + (cost * hinge * hinge).sum(0)
        return Evaluation(primal, primal - gap, gap, relative(gap, primal), scores, gradient)

    def _double(self, U: torch.Tensor) -> torch.Tensor:
        """Return G u in float64, by blocks of rows of G."""
        step = max(1, (1 << 22) // max(1, self.gram.shape[1]))
        return torch.cat([product_nt(part.double(), U) for part in torch.split(self.gram, step)])

    def preconditioner(self, S: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return ``(I + s G)^-1`` with s the mean of S, one inverse for all problems, reused while s is similar."""
        mean = float(S.mean())
        if self._inverse is None or not 0.25 < mean / max(self._inverse[0], 1e-300) < 4:
            self._inverse = (mean, _inverse(self.gram * mean))
        inverse = self._inverse[1]

        def apply(R: torch.Tensor, problems: torch.Tensor) -> torch.Tensor:
            return product_nt(R.to(inverse.dtype), inverse).double()

        return apply


def _inverse(A: torch.Tensor) -> torch.Tensor:
    """Return ``(I + A)^-1``, adding jitter where rounding has made A indefinite: a preconditioner may be approximate.

    The inverse itself, because skinny triangular solves took five times as long as products with it.
    """
    largest = float(A.diagonal().max())
    for dtype, jitter in ((A.dtype, 0.0), (torch.float64, 0.0), (torch.float64, 1e-12), (torch.float64, 1e-6)):
        shifted = A.to(dtype, copy=True)
        shifted.diagonal().add_(1 + jitter * largest)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return torch.cholesky_inverse(factor)
    return (1 / (1 + A.diagonal().clamp_min(0))).diag()


@dataclass(frozen=True)
class GramSolution:
    """One-vs-rest problems solved on a Gram matrix: ``w = X^T coefficients``.

    Attributes
    ----------
    coefficients : numpy.ndarray
        Float64 (N, K).
    classes : numpy.ndarray
        Class labels; with two, K is 1 and positive scores mean the second.
    C : float
        Cost.
    status : Status
        ``converged`` only if every relative gap, in float64 on the Gram matrix given, is within the tolerance.
    primal, dual, gaps : numpy.ndarray
        Per problem, (K,).
    newton_iterations : int
        Outer iterations.
    time_s : float
        Wall time of the solve, Gram matrix not counted.
    """

    coefficients: np.ndarray
    classes: np.ndarray
    C: float
    status: Status
    primal: np.ndarray
    dual: np.ndarray
    gaps: np.ndarray
    newton_iterations: int
    time_s: float

    @property
    def relative_gap(self) -> float:
        """Largest relative duality gap over the problems."""
        return float(np.max(self.gaps))

    def scores(self, cross: np.ndarray | torch.Tensor) -> np.ndarray:
        """Score other rows from ``cross`` = X_other X^T, shape (M, N); see :func:`cross_gram`."""
        matrix = torch.as_tensor(cross)
        U = torch.as_tensor(self.coefficients.T, device=matrix.device)
        return product_nt(matrix, U.to(matrix.dtype)).double().cpu().numpy()


class Gram:
    """The Gram matrix of a pool of rows, computed once and used for any C, any labels and any draw of rows.

    Parameters
    ----------
    matrix : numpy.ndarray or torch.Tensor
        ``X X^T + s^2``, (N, N), float32 or float64.
    """

    def __init__(self, matrix: Any):
        self.matrix: torch.Tensor = torch.as_tensor(matrix)
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise ValueError(f"A Gram matrix is square; got shape {tuple(self.matrix.shape)}.")
        self.space = GramSpace(self.matrix)

    @classmethod
    def from_rows(cls, X: Any, *, intercept_scaling: float = 1.0) -> Gram:
        """Compute the Gram matrix of X (N, D); ``intercept_scaling`` 0 means no intercept."""
        rows = X if isinstance(X, Rows) else Rows(X, intercept_scaling)
        out = torch.empty(rows.num_rows, rows.num_rows, dtype=rows.dtype, device=rows.device)
        step = 512
        for start in range(0, rows.num_rows, step):
            part = slice(start, min(start + step, rows.num_rows))
            block = rows.read(part)
            for left in range(0, part.stop, step):
                other = slice(left, min(left + step, part.stop))
                product = product_nt(block, rows.read(other))
                out[other, part], out[part, other] = product.T, product
        return cls(out.add_(rows.scale**2))

    def draw(self, index: np.ndarray) -> Gram:
        """Return the Gram matrix of some of the rows."""
        where = torch.from_numpy(np.asarray(index)).to(self.matrix.device)
        return Gram(self.matrix[where][:, where].contiguous())

    def fit(
        self,
        y: Any,
        C: float,
        *,
        tol: float = 1e-4,
        max_iter: int = 100,
        warm_start: GramSolution | None = None,
    ) -> GramSolution:
        """Fit one-vs-rest L2-SVMs to the rows of this Gram matrix.

        Parameters
        ----------
        y : array_like
            Labels, (N,).
        C : float
            Cost, > 0.
        tol, max_iter
            Relative duality gap wanted, Newton iterations allowed.
        warm_start : GramSolution, optional
            Solution for the same rows at another C.

        Returns
        -------
        GramSolution
            Its gap is that of the problem defined by this matrix, in float64.

        Raises
        ------
        ValueError
            When y does not fit or holds one class, or C is not positive.
        """
        began = time.perf_counter()
        classes, Y = encode(y, len(self.matrix), self.matrix.device)
        if not (np.isfinite(C) and C > 0):
            raise ValueError(f"C must be positive and finite; got {C}.")
        start = None if warm_start is None else torch.as_tensor(warm_start.coefficients.T, device=Y.device)
        found = self.solve(Y, torch.full((1, 1), float(C), dtype=torch.float64, device=Y.device), start, tol, max_iter)
        exact = found.exact or self.space.exact(Y, torch.full_like(Y, C), found.U)
        return GramSolution(
            found.U.T.cpu().numpy(),
            classes,
            float(C),
            found.status,
            exact.primal.cpu().numpy(),
            exact.dual.cpu().numpy(),
            exact.relative_gap.cpu().numpy(),
            newton_iterations=found.iterations,
            time_s=time.perf_counter() - began,
        )

    def solve(
        self, Y: torch.Tensor, cost: torch.Tensor, start: torch.Tensor | None, tol: float, max_iter: int
    ) -> NewtonResult:
        """Run the Newton loop on signs Y (N, K) and costs broadcastable to it; start is (K, N)."""
        with serial(len(self.matrix) <= SERIAL_ROWS):
            return minimise(self.space, Y, cost, start, len(self.matrix), tol=tol, max_iter=max_iter)


def cross_gram(X_other: Any, X: Any, *, intercept_scaling: float = 1.0) -> np.ndarray:
    """Compute ``X_other X^T + s^2`` (M, N), what :meth:`GramSolution.scores` needs to score other rows.

    Parameters
    ----------
    X_other, X : numpy.ndarray or torch.Tensor
        Shapes (M, D) and (N, D).
    intercept_scaling : float
        As for the Gram matrix itself; 0 means no intercept.
    """
    left, right = Rows(X_other, intercept_scaling), Rows(X, intercept_scaling)
    out = torch.empty(left.num_rows, right.num_rows, dtype=left.dtype, device=left.device)
    for here, block in left.blocks():
        for there, other in right.blocks(left.dtype):
            out[here, there] = product_nt(block, other)
    return out.add_(left.scale**2).cpu().numpy()

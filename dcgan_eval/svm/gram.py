"""The L2-SVM through the Gram matrix: with fewer rows than features, every C, class and draw is nearly free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from . import decide
from .newton import NewtonResult, minimise
from .objective import Evaluation, relative
from .problems import Along, Curvature, Problem, line_minimum, slopes
from .products import product_nt, serial
from .rows import Rows

SERIAL_ROWS = 2048
"""Rows up to which a Gram matrix is solved on one thread: its products are too short to share out."""

_GRAM_ROWS = 256  # rows multiplied at once: fewer leave less of the upper triangle in, and multiply no slower


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

    @property
    def is_deflated(self) -> bool:
        """No direction is seen to by itself."""
        return False

    def scores(self, U: torch.Tensor) -> torch.Tensor:
        """Return X w, (N, K)."""
        return product_nt(U.to(self.gram.dtype), self.gram).double().T

    def look(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all losses, and what stands for X^T a: a itself."""
        return problem.losses(F).sum(0), problem.pull(F).T

    def change(self, problem: Problem, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all losses at new scores, and what stands for the change of X^T a: that of a itself."""
        return problem.losses(after).sum(0), (problem.pull(after) - problem.pull(before)).T

    def at_rest(self, problem: Problem) -> torch.Tensor:
        """Return all losses at zero."""
        return problem.losses(self.no_scores(problem.num_columns)).sum(0)

    def curvature(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> Curvature:
        """Return the curvature at scores."""
        return problem.curvature(F)

    def line(
        self, problem: Problem, start: tuple[torch.Tensor, torch.Tensor], step: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return the length of a step for which the objective is least."""
        (U, F), (P, FP) = start, step
        pu, pp = (problem.join(self.inner(P, *to)) for to in ((U, F), (P, FP)))

        def slopes_of(kept: torch.Tensor | None) -> Along:
            return slopes(problem, F, FP) if kept is None else slopes(problem.columns(kept), F[:, kept], FP[:, kept])

        return line_minimum(slopes_of, pu, pp)

    def settled(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the numbers as they are: all rows are in one process."""
        return numbers

    def energy(
        self, S: Curvature, U: tuple[torch.Tensor, torch.Tensor], V: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return the inner products by the Hessian of vectors given with their scores."""
        return self.inner(U[0], *V) + (U[1] * S.apply(slice(None), V[1])).sum(0)

    def remainder(self, R: torch.Tensor) -> torch.Tensor:
        """Return the squared norm of the weights that a residual stands for: no part of it is seen to elsewhere."""
        return self.inner(R, R)

    def zeros(self, num_columns: int) -> torch.Tensor:
        """Return zero vectors, (num_columns, N)."""
        return self.no_scores(num_columns).T.contiguous()

    def no_scores(self, num_columns: int) -> torch.Tensor:
        """Return the scores of zero vectors, (N, num_columns)."""
        return torch.zeros(len(self.gram), num_columns, dtype=torch.float64, device=self.gram.device)

    def correct(
        self, problem: Problem, U: torch.Tensor, F: torch.Tensor, *, often: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors and scores as they are."""
        return U, F

    def image(self, U: torch.Tensor) -> torch.Tensor | None:
        """Return G u, the only product of a CG iteration."""
        return self.scores(U)

    def hessian(
        self, U: torch.Tensor, S: Curvature, image: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``u + S G u`` and ``G u``."""
        # (I + X^T S X) X^T u = X^T (u + S G u): what stands for a vector of the span stays N numbers long
        scores = self.scores(U) if image is None else image
        return U + S.apply(slice(None), scores).T, scores

    def inner(self, U: torch.Tensor, V: torch.Tensor, scores_v: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``u . G v`` for each problem."""
        return (U * (self.scores(V) if scores_v is None else scores_v).T).sum(1)  # (X^T u).(X^T v)

    def exact(self, problem: Problem, U: torch.Tensor) -> Evaluation:
        """Evaluate in float64 on the Gram matrix as it is stored."""
        scores = self._double(U)
        gradient = U - problem.pull(scores).T  # stands for w - X^T a, whose squared norm is a product with G
        gap = 0.5 * problem.join((gradient * self._double(gradient).T).sum(1)).abs()
        primal = 0.5 * problem.join((U * scores.T).sum(1)) + problem.losses(scores).sum(0)
        return Evaluation(primal, primal - gap, gap, relative(gap, primal), scores, gradient)

    def _double(self, U: torch.Tensor) -> torch.Tensor:
        """Return G u in float64, by blocks of rows of G."""
        step = max(1, (1 << 22) // max(1, self.gram.shape[1]))
        return torch.cat([product_nt(part.double(), U) for part in torch.split(self.gram, step)])

    def preconditioner(self, S: Curvature) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return ``(I + s G)^-1`` with s the mean of S, one inverse for all problems, reused while s is similar."""
        mean = decide.number(S.diagonal.mean())
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
    largest = decide.number(A.diagonal().max())
    for dtype, jitter in ((A.dtype, 0.0), (torch.float64, 0.0), (torch.float64, 1e-12), (torch.float64, 1e-6)):
        shifted = A.to(dtype, copy=True)
        shifted.diagonal().add_(1 + jitter * largest)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if decide.holds(info == 0):
            return torch.cholesky_inverse(factor)
    return (1 / (1 + A.diagonal().clamp_min(0))).diag()  # Jacobi's, which always exists


def gram_matrix(rows: Rows) -> torch.Tensor:
    """Return ``X X^T + s^2``, (N, N), in the working precision."""
    out = torch.empty(rows.num_rows, rows.num_rows, dtype=rows.dtype, device=rows.device)
    for start in range(0, rows.num_rows, _GRAM_ROWS):
        part = slice(start, min(start + _GRAM_ROWS, rows.num_rows))
        block = rows.read(part).to(rows.dtype)
        # The lower triangle of blocks only; the upper one is its transpose.
        for left in range(0, part.stop, _GRAM_ROWS):
            other = slice(left, min(left + _GRAM_ROWS, part.stop))
            product = product_nt(block, block if other == part else rows.read(other).to(rows.dtype))
            out[other, part], out[part, other] = product.T, product
    return out.add_(rows.scale**2)  # the constant feature's product with itself


def solve_gram(
    space: GramSpace, problem: Problem, start: torch.Tensor | None, tol: float, max_iter: int
) -> NewtonResult:
    """Run the Newton loop on a Gram matrix, a small one on one thread; start is (K, N)."""
    with serial(len(space.gram) <= SERIAL_ROWS):
        return minimise(space, problem, start, tol=tol, max_iter=max_iter)

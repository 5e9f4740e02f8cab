"""The space of the weights themselves: X is read once per Hessian product, and few products are needed.

Features of images have a few directions of enormous curvature and a long tail. A sample of the rows tells the first
from the second; on the strongest directions the problem itself, kinks and all, is solved on all rows after every step
(a coarse-grid correction, as in nonlinear multigrid), on the next ones the Hessian is inverted exactly over the
sample, and conjugate gradients (``nonlinear_cg``) see to the tail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from . import decide
from .journal import LONG, Journal, digest_of_fit, digest_of_rows
from .newton import NewtonResult, minimise
from .nonlinear_cg import ConjugateSteps
from .objective import Evaluation, Status, evaluate_weights
from .problems import Along, Curvature, Of, Problem, line_minimum, loss_of, slopes
from .products import product_nt, serial
from .rows import Rows
from .sums import Sum, in_pairs, inner

_START_ROWS = 2048  # rows whose Gram matrix gives the first guess of the principal directions
COARSE_DIM = 512
"""Widths up to which every direction is coarse; above, there are no more coarse directions than half of it."""
_MANY_COLUMNS = 64
_SHORT, _MORE_CORRECTIONS = 0.5, 12  # length of a step up to which others follow, and how many
_EXACT, _ABOUT = 1e-10, 0.01  # relative error of a step's length: ten looks at all scores, or three
_FEW_SCORES = 1 << 21  # looks at which take less time than the product with X
_SHAPES, _LEAST_STEP = 16, 64  # of products whose rows vary, and rows between two


@dataclass
class _Coarse:
    """Orthonormal directions of large curvature, strongest first, and rows seen through them."""

    basis: torch.Tensor | None  # (R, D + 1); None means the identity
    sample: torch.Tensor  # (M, R), rows of all processes
    index: torch.Tensor  # rows of the sample that are held here
    tail: float  # mean squared norm, per direction, of what the basis leaves of a row
    runs: list[slice]  # the same rows
    top: torch.Tensor | None = None  # (N, Q), all rows held here along the Q strongest directions


@dataclass
class PrimalSpace:
    """The space of w itself.

    Parameters
    ----------
    rows : Rows
        The data.
    sample_rows : int
        Rows from which the directions are learned.
    max_rank, top_rank : int
        Directions on which the sampled Hessian is inverted, and on which the problem is solved on all rows.
    journal : Journal or None
        Where long fits are looked for and written down.
    is_wide : bool
        Whether looks at all scores take as long as products with X; see :func:`has_many_scores`.
    """

    rows: Rows
    sample_rows: int = 8192
    max_rank: int = 256
    top_rank: int = 128
    norm_every: int = 1
    journal: Journal | None = None
    is_wide: bool = False
    _coarse: _Coarse | None = field(default=None, repr=False)
    _digest: str = field(default="", repr=False)

    @property
    def is_deflated(self) -> bool:
        """Whether there are strongest directions, which :meth:`correct` sees to."""
        return self._strongest is not None

    @property
    def resolves(self) -> bool:
        """Whether products are made in float64."""
        return self.rows.dtype == torch.float64

    def scores(self, U: torch.Tensor) -> torch.Tensor:
        """Return X w, (N, K)."""
        return self.rows.scores(U)

    def look(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all losses, (K,), and X^T a, (K, D + 1), reading X once."""
        pulled = self.rows.no_sum(len(U))
        for part, block in self.rows.blocks():
            self.rows.backward(part, block, problem.rows(part).pull(F[part]), pulled)
        return self._total(problem, loss_of(problem, F)), self.rows.whole(pulled)

    def change(self, problem: Problem, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all losses at new scores, (K,), and the change of X^T a since others, (K, D + 1), reading X once.

        Products of a difference are rounded in proportion to it, so that a gradient that began exact stays so.
        """
        pulled = self.rows.no_sum(after.shape[1])
        for part, block in self.rows.blocks():
            here = problem.rows(part)
            self.rows.backward(part, block, here.pull(after[part]).sub_(here.pull(before[part])), pulled)
        return self._total(problem, loss_of(problem, after)), self.rows.whole(pulled)

    def _total(self, problem: Problem, of: Of) -> torch.Tensor:
        """Add up what the rows of all processes give, (..., M)."""
        return self.rows.total(of, problem.num_columns)

    def at_rest(self, problem: Problem) -> torch.Tensor:
        """Return all losses at zero, (K,)."""
        zero = torch.zeros(1, problem.num_columns, dtype=torch.float64, device=self.rows.device)
        return self._total(problem, loss_of(problem, zero.expand(self.rows.num_rows, -1)))

    def curvature(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> Curvature:
        """Return the curvature at scores."""
        return problem.curvature(F)

    def line(
        self, problem: Problem, start: tuple[torch.Tensor, torch.Tensor], step: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return the length of a step for which the objective is least, (K,); about, where scores are many."""
        (U, F), (P, FP) = start, step
        pu, pp = (problem.join(self.inner(P, V)) for V in (U, P))

        def slopes_of(kept: torch.Tensor | None) -> Along:
            some = (problem, F, FP) if kept is None else (problem.columns(kept), F[:, kept], FP[:, kept])
            return slopes(*some, functools.partial(self._total, some[0]))

        return self.settled(line_minimum(slopes_of, pu, pp, _ABOUT if self.is_wide else _EXACT))

    def settled(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers rounded to 24 bits: directions and lengths need no more.

        Some sums over processes differ in their last bits, which every step would multiply by ten. Rounded away, they
        are not seen: any number of processes goes the same way.
        """
        scaled = (2**29 + 1) * numbers  # Dekker 1971: splits off the leading 24 of 53 bits
        return scaled - (scaled - numbers)

    def image(self, U: torch.Tensor) -> torch.Tensor | None:
        """Return None: the Hessian product makes X w on its way."""
        return None

    def zeros(self, num_columns: int) -> torch.Tensor:
        """Return zero weights, (num_columns, D + 1)."""
        return self.rows.zeros(num_columns)

    def no_scores(self, num_columns: int) -> torch.Tensor:
        """Return the scores of zero weights, (N, num_columns)."""
        return self.rows.no_scores(num_columns)

    def hessian(
        self, U: torch.Tensor, S: Curvature, image: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``w + X^T S X w`` and ``X w``, reading each block of X once."""
        scores, out, V = self.no_scores(len(U)), self.rows.no_sum(len(U)), self.rows.split(U)
        for part, block in self.rows.blocks():
            scores[part] = self.rows.forward(block, V)
            self.rows.backward(part, block, S.apply(part, scores[part]), out)
        return self.rows.whole(out).add_(U), scores

    def inner(self, U: torch.Tensor, V: torch.Tensor, scores_v: torch.Tensor | None = None) -> torch.Tensor:
        """Return the inner products of the rows of U and V."""
        return inner(U, V)

    def energy(
        self, S: Curvature, U: tuple[torch.Tensor, torch.Tensor], V: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return the inner products by the Hessian of vectors given with their scores, (K,)."""
        bent = self.rows.total(lambda part: U[1][part] * S.apply(part, V[1][part]), len(U[0]))
        return self.inner(U[0], V[0]) + bent

    def remainder(self, R: torch.Tensor) -> torch.Tensor:
        """Return the squared norm of a residual without the directions that :meth:`correct` will see to, (K,)."""
        square = inner(R, R)
        strongest = self._strongest
        if strongest is None:
            return square
        return (square - product_nt(R.to(strongest.dtype), strongest).double().square().sum(1)).clamp_min(0)

    def exact(self, problem: Problem, U: torch.Tensor) -> Evaluation:
        """Evaluate in float64 on X."""
        return evaluate_weights(self.rows, problem, U)

    def correct(
        self, problem: Problem, U: torch.Tensor, F: torch.Tensor, *, often: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Minimise the objective itself, over all rows, along the strongest directions: a Newton step, or several.

        Without this a step that suits the tail moves rows across the hinge, and the strong directions multiply the
        change: the gap after the first Newton step was 370 times the gap before it. Where nearly all rows are beyond
        their hinges a step is cut short by those that come back within, and another one has to follow.
        """
        if self._strongest is None:
            return U, F
        U, F, t = self._step_along_strongest(problem, U, F)
        left = decide.where(t < _SHORT)
        for _ in range(_MORE_CORRECTIONS if often else 0):
            if len(left) == 0:
                break
            U[left], F[:, left], t = self._step_along_strongest(problem.columns(left), U[left], F[:, left])
            left = left[decide.where(t < _SHORT)]
        return U, F

    def _step_along_strongest(
        self, problem: Problem, U: torch.Tensor, F: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Take a Newton step along the strongest directions; return vectors, scores and its length, (K,)."""
        basis, Z = self._strongest, self._ready().top
        assert basis is not None, "only called where there are some"
        assert Z is not None, "made together with the basis"
        shape = (len(U), Z.shape[1])
        pulled, hessians = (Sum(U.new_zeros(size)) for size in (shape, (*shape, Z.shape[1])))
        for part in self.rows.parts():
            here = problem.rows(part)
            pulled.add_block(product_nt(here.pull(F[part]).T.to(Z.dtype).contiguous(), Z[part].T), ...)
            for k, gram in enumerate(_weighted_grams(Z[part], here.curvature(F[part]).diagonal)):
                hessians.add_block(gram, k)
        # Galerkin: gradient and Hessian restricted to the basis B are B g and I + Z^T S Z, with Z = X B^T.
        gradient = product_nt(U.to(basis.dtype), basis).double() - self.rows.whole(pulled)
        H = self.rows.whole(hessians)
        H.diagonal(dim1=1, dim2=2).add_(1)
        # Dense (Q, Q) systems, one a problem: Q is small, and the Hessian there is exact.
        # solve_ex, as solve would wait for the device to see whether I + Z^T S Z is singular, which it is not.
        with serial():
            solved = torch.linalg.solve_ex(H, gradient[:, :, None])[0][:, :, 0]
        step = -self.settled(solved).to(basis.dtype)
        P, FP = product_nt(step, basis.T).double(), self.rows.no_scores(len(U))
        for part in self.rows.parts():
            FP[part] = product_nt(Z[part], step)
        t = self.line(problem, (U, F), (P, FP))
        t = torch.where(torch.isfinite(t), t, 0.0)
        return U + t[:, None] * P, FP.mul_(t).add_(F), t

    def preconditioner(self, S: Curvature) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return a two-level preconditioner: exact on the coarse directions of a sample, a constant elsewhere."""
        coarse = self._ready()
        basis, Z = coarse.basis, coarse.sample
        sampled = self.rows.gather(self._sampled(S))
        every = self._stride(Z, sampled.shape[1])
        Z, sampled = Z[::every], sampled[::every] * (self.rows.total_rows / len(Z[::every]))  # each stands for many
        grams = torch.empty(sampled.shape[1], Z.shape[1], Z.shape[1], dtype=torch.float64, device=Z.device)
        for into, gram in zip(grams, _weighted_grams(Z, sampled), strict=True):
            into.copy_(gram)
        inverses = _inverses(grams)
        # Outside the basis H is taken for a multiple of I: 1 + mean energy a direction of what is left, times sum of s.
        tau = (1 + coarse.tail * in_pairs(sampled))[:, None]

        def apply(R: torch.Tensor, problems: torch.Tensor) -> torch.Tensor:
            inside = R if basis is None else product_nt(R.to(basis.dtype), basis).double()
            chosen = inverses if len(problems) == len(inverses) else inverses[problems]  # a copy as large as they are
            solved = torch.bmm(chosen, inside[:, :, None])[:, :, 0]
            if basis is None:
                return solved
            outside = tau[problems]
            # P^-1 = (I - B^T B) / tau + B^T A^-1 B, with orthonormal rows B.
            return R / outside + product_nt((solved - inside / outside).to(basis.dtype), basis.T).double()

        return apply

    def sampled_problem(self, problem: Problem) -> tuple[PrimalSpace, Problem] | None:
        """Return the sampled rows along the coarse directions, as a space, with their problem.

        Their losses are scaled up to all rows. None when every direction is coarse.
        """
        coarse = self._ready()
        if coarse.basis is None:
            return None
        lift = self.rows.total_rows / len(coarse.sample)
        return PrimalSpace(Rows(coarse.sample, 0.0)), problem.rows(coarse.index, lift).gathered(self.rows.gather)

    def lift(self, V: torch.Tensor) -> torch.Tensor:
        """Return the weights (K, D + 1) of coarse ones (K, R + 1), whose last column is no weight."""
        basis = self._ready().basis
        assert basis is not None, "only called where there is a coarse problem"
        return product_nt(V[:, :-1].to(basis.dtype).contiguous(), basis.T).double()

    def _stride(self, Z: torch.Tensor, num_columns: int) -> int:
        """Return of how many sampled rows (M, R) one is used where a Hessian of each column would outweigh passes.

        A Hessian takes 2 M R^2 operations, a pass over X 4 N D, for each column; eight passes are what it may save.
        """
        num_rows, rank = Z.shape
        if num_columns < _MANY_COLUMNS:
            return 1
        wanted = num_rows * rank**2 // max(1, 8 * self.rows.total_rows * self.rows.num_features)
        return max(1, min(wanted, num_rows // (4 * rank)))

    def _sampled(self, S: Curvature) -> torch.Tensor:
        """Return the diagonal of the curvature for the sampled rows that are held here."""
        return S.at(self._ready().index)

    @property
    def _strongest(self) -> torch.Tensor | None:
        """The directions along which all rows are known, (Q, D + 1); None where there are none."""
        basis = self._ready().basis
        return None if basis is None or self.top_rank == 0 else basis[: self.top_rank]

    def _ready(self) -> _Coarse:
        """Return the coarse directions, finding them the first time."""
        if self._coarse is None:
            dim = self.rows.num_features + 1
            small = dim <= COARSE_DIM
            runs = self.rows.spread(max(self.sample_rows, 8 * dim) if small else self.sample_rows)
            none = torch.empty(0, dtype=torch.int64, device=self.rows.device)
            index = torch.cat([none, *(torch.arange(run.start, run.stop, device=none.device) for run in runs)])
            self._coarse = self._identity(runs, index) if small else self._principal(runs, index)
        return self._coarse

    def _identity(self, runs: list[slice], index: torch.Tensor) -> _Coarse:
        """Take every direction as coarse."""
        X_sample = self.rows.take(runs)
        constant = X_sample.new_full((len(X_sample), 1), self.rows.scale)
        return _Coarse(None, torch.cat([X_sample, constant], dim=1), index, 0.0, runs)

    def _principal(self, runs: list[slice], index: torch.Tensor) -> _Coarse:
        """Find the principal directions (uncentred) of the sample, strongest first, and see all rows along them."""
        rows = self.rows
        basis, exact = self._first_guess()
        if not exact:  # one step of subspace iteration over the whole sample
            pulled, parts = rows.no_sum(len(basis)), rows.split(basis)
            for part, block in rows.blocks(within=runs):
                rows.backward(part, block, rows.forward(block, parts), pulled)
            basis = _orthonormal(self.settled(rows.whole(pulled))).to(rows.dtype)
        parts, inside = rows.split(basis), [basis.new_empty(0, len(basis))]
        squares = [torch.zeros(0, 1, dtype=torch.float64, device=rows.device)]  # a process may hold none of the sample
        for _, block in rows.blocks(within=runs):
            inside.append(rows.forward(block, parts).to(rows.dtype))
            squares.append(torch.linalg.vector_norm(block, dim=1, keepdim=True, dtype=torch.float64) ** 2)
        sample = rows.gather(torch.cat(inside))
        gram = product_nt(sample.T.contiguous(), sample.T).double()
        with serial():  # decompositions on more threads end in other bits
            values, vectors = torch.linalg.eigh(gram)
        # Rayleigh-Ritz: turn the basis into the eigenvectors of the sample seen through it, largest first.
        turn = vectors.flip(1).T.to(rows.dtype).contiguous()
        basis, sample = product_nt(turn, basis.T), product_nt(sample, turn)
        energy, kept = decide.numbers(rows.in_order(torch.cat(squares))[0], values.sum())
        # energy of a row outside the basis, by Pythagoras
        left = max(energy + len(sample) * rows.scale**2 - kept, 0.0) / len(sample)
        tail = left / max(1, min(len(sample), basis.shape[1]) - len(basis))
        top = rows.scores(basis[: self.top_rank]).to(rows.dtype) if self.top_rank else None
        return _Coarse(basis.contiguous(), sample.contiguous(), index, tail, runs, top)

    def _first_guess(self) -> tuple[torch.Tensor, bool]:
        """Return orthonormal directions (R, D + 1) that span the principal ones of some rows, and if these were all."""
        rows = self.rows
        first = rows.take(rows.spread(min(_START_ROWS, self.sample_rows)))
        size = len(first)
        rank = min(self.max_rank, size if size == rows.total_rows else max(1, size // 4))
        combination = _principal_combinations(product_nt(first, first) + rows.scale**2, rank)
        last = rows.scale * combination.sum(1, keepdim=True)
        combination = combination.to(rows.dtype)
        spanned = torch.cat([product_nt(combination, first.T).double(), last], dim=1)
        return _orthonormal(spanned).to(rows.dtype), size == rows.total_rows


def has_many_scores(rows: Rows, num_columns: int) -> bool:
    """Return whether the scores of all rows in so many columns are too many to look at as often as a few."""
    return rows.total_rows * num_columns > _FEW_SCORES


def solve_primal(
    space: PrimalSpace,
    problem: Problem,
    start: torch.Tensor | None,
    *,
    tol: float,
    max_iter: int,
    accept: float | None = None,
    certify_start: bool = False,
) -> NewtonResult:
    """Run the Newton loop on the weights, or return what the space's journal has of it.

    Parameters and result as for :func:`~dcgan_eval.svm.newton.minimise`.
    """
    how = {"tol": tol, "max_iter": max_iter, "accept": accept, "certify_start": certify_start}
    rows, journal = space.rows, space.journal
    if journal is None or rows.group or rows.num_rows * rows.num_features * problem.num_columns < LONG:
        return _solve(space, problem, start, how)
    space._digest = space._digest or digest_of_rows(rows)
    digest = digest_of_fit(space._digest, problem, start, how | {"space": repr(type(space))})
    if (kept := journal.find(digest)) is not None:
        return _unpacked(*kept, rows)
    read = rows.rows_read
    found = _solve(space, problem, start, how)
    if found.status is Status.CONVERGED:
        journal.keep(digest, *_packed(found, rows.rows_read - read))
    return found


def _solve(space: PrimalSpace, problem: Problem, start: torch.Tensor | None, how: dict[str, Any]) -> NewtonResult:
    """Run the Newton loop, in float64 from where the rounding of float32 products has stopped it."""
    found = minimise(space, problem, start, **how, steps=ConjugateSteps())
    if found.status is not Status.STALLED or space.resolves:
        return found
    rows = space.rows.in_double()
    again = minimise(
        replace(space, rows=rows, _coarse=None),
        problem,
        found.U,
        **how | {"certify_start": False},
        steps=ConjugateSteps(),
    )
    space.rows.rows_read = rows.rows_read  # it went on counting
    history, iterations = found.history + again.history, found.iterations + again.iterations
    return replace(again, history=history, iterations=iterations)


_BOUNDS = ("primal", "dual", "gap", "relative_gap")


def _packed(found: NewtonResult, rows_read: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return a converged result, whose evaluation is exact, as arrays and plain values."""
    assert found.exact is not None, "nothing converges without"
    arrays = {name: getattr(found.exact, name).cpu().numpy() for name in _BOUNDS}
    values = {"iterations": found.iterations, "history": found.history, "rows_read": rows_read}
    return arrays | {"U": found.U.cpu().numpy()}, values


def _unpacked(arrays: dict[str, np.ndarray], values: dict[str, Any], rows: Rows) -> NewtonResult:
    """Return a result as it was packed; its evaluation has no scores and no gradient."""
    made = {name: torch.from_numpy(array).to(rows.device) for name, array in arrays.items()}
    rows.rows_read += values["rows_read"]
    U, none = made.pop("U"), torch.zeros(0, device=rows.device)
    exact = Evaluation(**made, scores=none, gradient=none)
    history = tuple(values["history"])
    return NewtonResult(U, Status.CONVERGED, values["iterations"], exact.primal, exact.gap, exact, history)


def _principal_combinations(gram: torch.Tensor, rank: int) -> torch.Tensor:
    """Return combinations of rows (rank, M), float64, that span their principal directions.

    Subspace iteration from fixed random directions: an eigendecomposition of 2,048 rows took 11 s where this takes 1.
    """
    # Halko, Martinsson & Tropp 2011, algorithm 4.4: a random range, then power iterations with QR in between.
    start = np.random.default_rng(0).standard_normal((len(gram), rank))
    with serial():
        Q = torch.from_numpy(np.linalg.qr(start)[0]).to(gram)
        for _ in range(3):
            Q = torch.linalg.qr(gram @ Q)[0]
        inside = (Q.T @ (gram @ Q)).double()
        values, vectors = torch.linalg.eigh(0.5 * (inside + inside.T))
    kept = decide.where(values > 1e-6 * values[-1])  # float32 products leave nothing to trust below
    return (Q.double() @ (vectors[:, kept] / values[kept].clamp_min(1e-300).sqrt())).T.contiguous()


def _orthonormal(spanned: torch.Tensor) -> torch.Tensor:
    """Orthonormalise rows, float64, none of them negligible."""
    norms = torch.linalg.vector_norm(spanned, dim=1, keepdim=True).clamp_min(1e-300)
    with serial():
        return torch.linalg.qr((spanned / norms).T)[0].T.contiguous()


def _weighted_grams(Z: torch.Tensor, S: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield ``Z^T diag(s) Z``, (R, R), for each column s >= 0 of S, as products of Z are.

    Rows beyond the hinge, where s = 0, are left out; a GPU multiplies them sooner than it tells which they are. Their
    number is rounded, as oneDNN compiles a product for every shape anew, in 5 ms, and keeps those of some.
    """
    step = max(_LEAST_STEP, len(Z) // _SHAPES)
    for s in S.T:
        if s.device.type == "cpu":
            active = decide.where(s > 0)
            weighted = Z.new_zeros(Z.shape[1], -(-len(active) // step) * step)
            weighted[:, : len(active)] = (Z[active] * s[active].sqrt()[:, None].to(Z.dtype)).T
        else:
            weighted = (Z * s.sqrt()[:, None].to(Z.dtype)).T.contiguous()
        yield product_nt(weighted, weighted)


def _inverses(grams: torch.Tensor) -> torch.Tensor:
    """Return ``(I + A)^-1`` of each matrix (K, R, R), with jitter where rounding has made A indefinite."""
    largest = grams.diagonal(dim1=1, dim2=2).amax(1)
    for jitter in (0.0, 1e-12, 1e-6):
        shifted = grams.clone()
        shifted.diagonal(dim1=1, dim2=2).add_(1 + jitter * largest[:, None])
        with serial():
            factors, info = torch.linalg.cholesky_ex(shifted)
            if decide.holds(info == 0):
                return torch.cholesky_inverse(factors)
    return torch.diag_embed(1 / (1 + grams.diagonal(dim1=1, dim2=2).clamp_min(0)))

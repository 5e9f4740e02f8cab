"""Fitting: one value of C, or a path of them, through whichever solver suits the shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from ..devices import memory_share
from ..errors import ArgumentError
from . import decide
from .gram import GramSpace, gram_matrix, solve_gram
from .journal import Journal
from .newton import NewtonResult, minimise
from .objective import Solution, Status, evaluate_weights
from .primal import COARSE_DIM, PrimalSpace, has_many_scores, solve_primal
from .problems import KEPT_BYTES, HingeProblem, Problem
from .products import serial
from .rows import Rows
from .targets import encode, hinge_problem

Solver = Literal["auto", "primal", "gram"]

POLISH_ENTRIES = 1 << 20
"""Entries of float64 X up to which a fit goes on to rounding level, because that costs nothing."""

SERIAL_ENTRIES = 1 << 22
"""Entries of X up to which a fit runs on one thread."""

GRAM_MAX_ROWS = 8_000
"""Rows up to which ``auto`` prefers the Gram matrix (256 MB in float32, and as much for its factor)."""

LEAST_COLUMNS = 16
"""Classes solved at once however little memory there is: X is read anew for every block of them."""

_MANY_COLUMNS = 100  # solved at once; more of them multiply no faster, for each

_SAMPLE_TOL = 1e-2  # a start need not be better: the sample differs from the whole by far more


@dataclass(frozen=True)
class Choice:
    """Which solver, and why."""

    solver: Literal["primal", "gram"]
    reason: str


def choose_solver(num_rows: int, num_features: int, *, memory_bytes: float = float("inf"), itemsize: int = 4) -> Choice:
    """Choose between the Gram matrix (fewer rows than features, matrix small) and the primal.

    Parameters
    ----------
    num_rows, num_features : int
        Shape of X.
    memory_bytes : float
        Memory that the matrix and its factor may take.
    itemsize : int
        Bytes of a number in the working precision.

    Returns
    -------
    Choice
    """
    needed = 3 * num_rows**2 * itemsize  # the matrix, a scaled copy, its factor
    if num_rows >= num_features:
        return Choice("primal", f"{num_rows:,} rows are no fewer than {num_features:,} features")
    if num_rows > GRAM_MAX_ROWS:
        return Choice("primal", f"{num_rows:,} rows are more than the {GRAM_MAX_ROWS:,} up to which a Gram matrix pays")
    if needed > memory_bytes:
        return Choice("primal", f"a Gram matrix of {num_rows:,} rows and its factor need {needed / 1e9:.1f} GB")
    return Choice("gram", f"{num_rows:,} rows are fewer than {num_features:,} features, {needed / 1e6:,.0f} MB will do")


@dataclass(frozen=True)
class FitOptions:
    """How to fit, validated.

    Parameters
    ----------
    tol : float
        Relative duality gap that counts as converged, > 0.
    max_iter : int
        Newton iterations allowed for each of the Gram and the primal stage, >= 1.
    solver : str
        ``"auto"``, ``"primal"`` or ``"gram"``.
    intercept_scaling : float
        Value of the constant feature; 0 means no intercept.
    """

    tol: float = 1e-4
    max_iter: int = 100
    solver: Solver = "auto"
    intercept_scaling: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        check_positive("tol", self.tol, "1e-4")
        if self.max_iter < 1:
            raise ArgumentError("max_iter must be at least 1", got=f"{self.max_iter}", remedy="leave it out for 100")
        if self.solver not in ("auto", "primal", "gram"):
            raise ArgumentError(
                'solver must be "auto", "primal" or "gram"', got=repr(self.solver), remedy='use "auto" if in doubt'
            )
        if not (np.isfinite(self.intercept_scaling) and self.intercept_scaling >= 0):
            raise ArgumentError(
                "intercept_scaling must be finite and not negative",
                got=f"{self.intercept_scaling}",
                remedy="leave it out for 1; 0 means no intercept",
            )


def check_positive(name: str, value: float, usual: str) -> None:
    """Refuse a parameter that is not a positive, finite number."""
    if not (np.isfinite(value) and value > 0):
        raise ArgumentError(f"{name} must be positive and finite", got=f"{value}", remedy=f"use a value like {usual}")


class Fitter:
    """The one-vs-rest problems of one data set; what does not depend on C is computed once and kept.

    Parameters
    ----------
    X : numpy.ndarray, torch.Tensor, or anything with ``shape``, ``dtype`` and slices of rows
        Shape (N, D); never copied whole, and read from where it lies when that is not in memory.
    y : array_like
        Labels, (N,).
    options : FitOptions
        How to fit.
    class_weight : dict, optional
        Factor of C per class.
    sample_weight : array_like, optional
        Factor of C per row, (N,).
    group : torch.distributed.ProcessGroup, optional
        Processes that hold the other rows, of the same features; every one gets the same solution.
    device, memory_bytes, journal
        See :func:`fit_ovr`.

    Raises
    ------
    ValueError
        When shapes do not fit, y holds one class, or weights are negative.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        options: FitOptions,
        class_weight: dict[Any, float] | None = None,
        sample_weight: Any | None = None,
        *,
        group: dist.ProcessGroup | None = None,
        device: torch.device | str | None = None,
        memory_bytes: int | None = None,
        journal: Journal | None = None,
    ):
        self.options = options
        given = None if memory_bytes is None else memory_bytes // 2  # for X; a quarter each for Gram and columns
        self.rows = Rows(X, options.intercept_scaling, group=group, device=device, memory_bytes=given)
        self.memory_bytes = memory_share(self.rows.device) if memory_bytes is None else memory_bytes
        is_here = isinstance(X, np.ndarray | torch.Tensor) and _device_of(X) == self.rows.device
        self._is_copied = not is_here and self.rows.fit_whole
        self.classes, index = encode(y, self.rows.num_rows, self.rows.device, group)
        self.problem = hinge_problem(index, self.classes, class_weight, sample_weight)
        self.choice = self._choose()
        is_wide = has_many_scores(self.rows, self.problem.num_columns)
        self._primal = PrimalSpace(self.rows, journal=journal, is_wide=is_wide)
        self._gram: GramSpace | None = None
        self._coefficients: dict[int, torch.Tensor] = {}

    def _choose(self) -> Choice:
        """Choose the solver, or take the one asked for."""
        rows, wanted = self.rows, self.options.solver
        if rows.group is not None:
            if wanted == "gram":
                raise ValueError("A Gram matrix needs all rows in one process; use solver='primal' with a group.")
            return Choice("primal", f"{rows.total_rows:,} rows are spread over {rows.group.size()} processes")
        if wanted != "auto":
            return Choice(wanted, "asked for")
        itemsize = 8 if rows.dtype == torch.float64 else 4
        return choose_solver(rows.num_rows, rows.num_features, memory_bytes=self.memory_bytes // 4, itemsize=itemsize)

    def _column_blocks(self, total: int) -> list[slice]:
        """Return the columns to solve together: all, or as many as the memory allows.

        For each column the solver keeps about eight float64 arrays of N scores and fourteen of D + 1 weights, and a
        Hessian along the coarse directions with its factor and inverse; all share the rows along the strongest
        directions, and what line searches keep. A hundred columns multiply as fast, for each, as all. What counts are
        the rows of all processes, so that any number of them solves the same columns together.
        """
        rows, space, num_rows = self.rows, self._primal, self.rows.total_rows
        is_small = rows.num_features < COARSE_DIM
        coarse = rows.num_features + 1 if is_small else space.max_rank
        shared = min(KEPT_BYTES, 32 * num_rows * total) + (0 if is_small else 4 * num_rows * space.top_rank)
        each = 8 * (8 * num_rows + 14 * rows.num_features + 3 * coarse**2)
        share = self.memory_bytes // 4 if self._is_copied else 3 * self.memory_bytes // 4
        count = max(rows.of_all(-(-total // max(LEAST_COLUMNS, (share - shared) // each))))
        bounds = [round(k * total / count) for k in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(bounds)]

    def fit(self, C: float, warm_start: Solution | None = None) -> Solution:
        """Fit at one C, from ``warm_start`` or, through the Gram matrix, from the previous fit.

        Parameters
        ----------
        C : float
            Cost, > 0.
        warm_start : Solution, optional
            Weights to start from (primal only; the Gram solver keeps its own).

        Returns
        -------
        Solution
            Certified on X in float64; look at its status.

        Raises
        ------
        ValueError
            When C is not positive, or the warm start has another shape.
        """
        return self.fit_together([C], warm_start)[0]

    def fit_together(self, costs: Sequence[float], warm_start: Solution | None = None) -> list[Solution]:
        """Fit at several C at once, reading X for all of them together, each from ``warm_start``; as :meth:`fit`."""
        for C in costs:
            check_positive("C", C, "1e-4")
        with serial(self.rows.num_rows * self.rows.num_features <= SERIAL_ENTRIES):
            return self._fit(costs, warm_start)

    def num_together(self, wanted: int) -> int:
        """Return how many values of C to solve at once: one through a Gram matrix, whose inverse is made for it."""
        if self.choice.solver == "gram":
            return 1
        return max(1, min(wanted, _MANY_COLUMNS // self.problem.num_columns))

    def _fit(self, costs: Sequence[float], warm_start: Solution | None) -> list[Solution]:
        """Fit at valid costs, one block of columns after the other."""
        began, read = time.perf_counter(), self.rows.rows_read
        given = None if warm_start is None else self._weights_of(warm_start).repeat(len(costs), 1)
        problem = self.problem.at_each(costs)
        blocks = self._column_blocks(problem.num_columns)
        parts = [self._fit_columns(problem.columns(part), part, given) for part in blocks]
        passes = -(-(self.rows.rows_read - read) // max(1, self.rows.num_rows * len(costs)))
        return self._solutions(costs, parts, passes, (time.perf_counter() - began) / len(costs))

    def _fit_columns(self, problem: HingeProblem, part: slice, given: torch.Tensor | None) -> _Part:
        """Fit some of the columns, from a start (K, D + 1) for all of them if there is one."""
        iterations, name = 0, str(self.choice.solver)
        start: torch.Tensor | None
        if self.choice.solver == "gram":
            start, iterations = self._through_gram(problem, part.start)
        elif given is not None:
            start = given[part]
        else:
            start = self._from_sample(problem)
        found = self._finish(problem, start)
        if self.choice.solver == "gram" and found.iterations > 0:
            name = "gram+primal"
        exact = found.exact or evaluate_weights(self.rows, problem, found.U)
        bounds = (exact.primal, exact.dual, exact.relative_gap)
        return _Part(found.U, bounds, found.status, iterations + found.iterations, name, found.history)

    def _through_gram(self, problem: HingeProblem, first: int) -> tuple[torch.Tensor, int]:
        """Solve on the Gram matrix and map back: w = X^T u; ``first`` is the first of the columns."""
        self._gram = self._gram or GramSpace(gram_matrix(self.rows))
        # Below tol, as the certificate on X in float64 adds the Gram matrix's rounding to the gap found here
        tol, start = 0.3 * self.options.tol, self._coefficients.get(first)
        found = solve_gram(self._gram, problem, start, tol, self.options.max_iter)
        if decide.holds(torch.isfinite(found.U)):
            self._coefficients[first] = found.U
        return self.rows.adjoint(found.U.T, torch.float64), found.iterations

    def _from_sample(self, problem: HingeProblem) -> torch.Tensor | None:
        """Solve a sample of the rows along its principal directions, at a cost scaled up to all of them, as a start."""
        try:
            sampled = self._primal.sampled_problem(problem)
        except torch.linalg.LinAlgError:
            return None  # NaN or infinity in the sample: the evaluation at zero will say so
        if sampled is None:
            return None
        found = minimise(*sampled, None, tol=_SAMPLE_TOL, max_iter=self.options.max_iter)
        return self._primal.lift(found.U)

    def _finish(self, problem: Problem, start: torch.Tensor | None) -> NewtonResult:
        """Run the primal Newton loop; from a Gram solution that holds, it certifies and returns at once."""
        rows, tol = self.rows, self.options.tol
        # Newton converges quadratically at the end: on small data two steps more reach rounding level
        small = rows.dtype == torch.float64 and rows.total_rows * rows.num_features <= POLISH_ENTRIES
        return solve_primal(
            self._primal,
            problem,
            start,
            tol=min(tol, 1e-20) if small else tol,
            max_iter=self.options.max_iter,
            accept=tol,
            certify_start=self.choice.solver == "gram",
        )

    def _weights_of(self, solution: Solution) -> torch.Tensor:
        """Turn a solution into a start (K, D + 1)."""
        start = self.rows.zeros(self.problem.num_columns)
        if solution.W.shape != (start.shape[0], start.shape[1] - 1):
            raise ValueError(f"The warm start has W of shape {solution.W.shape}; these problems do not fit it.")
        start[:, :-1] = torch.as_tensor(solution.W, device=start.device)
        if self.rows.scale > 0:
            start[:, -1] = torch.as_tensor(solution.intercepts, device=start.device) / self.rows.scale
        return start

    def _solutions(self, costs: Sequence[float], parts: list[_Part], passes: int, time_s: float) -> list[Solution]:
        """Pack the blocks of columns with their certificates, a solution for each cost."""
        U = torch.cat([part.U for part in parts]).cpu().numpy()
        primal, dual, gaps = (
            torch.cat(values).cpu().numpy() for values in zip(*(p.bounds for p in parts), strict=True)
        )
        num, fell_short = self.problem.num_columns, [p.status for p in parts if p.status is not Status.CONVERGED]
        history = tuple(max(values) for values in zip_longest(*(p.history for p in parts), fillvalue=0.0))
        solutions = []
        for k, C in enumerate(costs):
            own = slice(k * num, (k + 1) * num)
            is_converged = not fell_short or bool((gaps[own] <= self.options.tol).all())
            solution = Solution(
                W=np.ascontiguousarray(U[own, :-1]),
                intercepts=U[own, -1] * self.rows.scale,  # s b, with b the regularised weight
                classes=self.classes,
                C=float(C),
                status=Status.CONVERGED if is_converged else fell_short[0],
                primal=primal[own],
                dual=dual[own],
                gaps=gaps[own],
                newton_iterations=max(part.iterations for part in parts),
                passes=passes,
                time_s=time_s,
                solver=max((part.solver for part in parts), key=len),
                reason=self.choice.reason,
                device=str(self.rows.device),
                intercept_scaling=self.rows.scale,
                history=history,
            )
            solutions.append(solution)
        return solutions


def _device_of(X: Any) -> torch.device:
    """Return where a matrix in memory lies."""
    return X.device if isinstance(X, torch.Tensor) else torch.device("cpu")


@dataclass(frozen=True)
class _Part:
    """Some columns fitted: weights (K, D + 1), (primal, dual, relative gap), and how it went."""

    U: torch.Tensor
    bounds: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    status: Status
    iterations: int
    solver: str
    history: tuple[float, ...]


def fit_ovr(
    X: Any,
    y: Any,
    C: float,
    *,
    tol: float = 1e-4,
    max_iter: int = 100,
    solver: Solver = "auto",
    intercept_scaling: float = 1.0,
    class_weight: dict[Any, float] | None = None,
    sample_weight: Any | None = None,
    warm_start: Solution | None = None,
    group: dist.ProcessGroup | None = None,
    device: torch.device | str | None = None,
    memory_bytes: int | None = None,
    journal: Journal | None = None,
) -> Solution:
    """Fit one-vs-rest L2-SVMs: ``min_w 1/2 ||w||^2 + C sum_i max(0, 1 - y_i w.x_i)^2`` for each class.

    Parameters
    ----------
    X : numpy.ndarray, torch.Tensor, or anything with ``shape``, ``dtype`` and slices of rows (an HDF5 data set)
        Shape (N, D); never copied whole: other dtypes than float32 and float64 are converted block by block, and what
        is not in memory is read from where it lies.
    y : array_like
        Labels, (N,).
    C : float
        Cost, > 0.
    tol, max_iter, solver, intercept_scaling
        See :class:`FitOptions`.
    class_weight : dict, optional
        Factor of C per class, as in LIBLINEAR.
    sample_weight : array_like, optional
        Factor of C per row.
    warm_start : Solution, optional
        Weights to start from.
    group : torch.distributed.ProcessGroup, optional
        Processes that hold the other rows, on machines of the same kind; each gets the solution for all rows.
    device : torch.device or str, optional
        Where to multiply; None: where X is.
    memory_bytes : int, optional
        About the most that the fit may take beside an X in memory: half for a copy of X on the device (it is streamed
        if that is too little), a quarter each for a Gram matrix and for the classes solved at once, which take what the
        others do not need. None: half of the machine, or of a GPU's free memory.
    journal : Journal, optional
        Where long fits are looked for, block of classes by block of classes, and written down.

    Returns
    -------
    Solution
        Never raises for lack of convergence: the status says it, and scoring with it must be asked for.

    Raises
    ------
    ValueError
        When an argument is out of range or shapes do not fit.

    Notes
    -----
    Source: the L2-loss SVM of LIBLINEAR, Fan et al., JMLR 9 (2008), one-vs-rest. Deviations: none.
    """
    options = FitOptions(tol, max_iter, solver, intercept_scaling)
    where: dict[str, Any] = {"group": group, "device": device, "memory_bytes": memory_bytes, "journal": journal}
    fitter = Fitter(X, y, options, class_weight, sample_weight, **where)
    return fitter.fit(C, warm_start)


def fit_path(
    X: Any,
    y: Any,
    Cs: Iterable[float],
    *,
    tol: float = 1e-4,
    max_iter: int = 100,
    solver: Solver = "auto",
    intercept_scaling: float = 1.0,
    class_weight: dict[Any, float] | None = None,
    sample_weight: Any | None = None,
    group: dist.ProcessGroup | None = None,
    device: torch.device | str | None = None,
    memory_bytes: int | None = None,
    journal: Journal | None = None,
    together: int | Callable[[], int] = 1,
) -> Iterator[Solution]:
    """Fit a path over ascending C, each warm-started from the one before; stop early by leaving the loop.

    Parameters
    ----------
    X, y, tol, max_iter, solver, intercept_scaling, class_weight, sample_weight, group, device, memory_bytes, journal
        As for :func:`fit_ovr`.
    Cs : iterable of float
        Costs; fitted in ascending order.
    together : int or callable
        How many of them to solve at once, or what is asked for it before each time. Reading X for several takes less
        time than for one after the other, but all of them are fitted before the first can be looked at. Through a Gram
        matrix it is always one.

    Returns
    -------
    iterator of Solution
        In ascending order of C; times and passes are shared evenly by those that were solved at once. The Gram matrix,
        or the preconditioner's sample, is shared by all.

    Raises
    ------
    ValueError
        At once, before the first fit, when an argument is out of range or shapes do not fit.
    """
    costs = sorted(float(C) for C in Cs)
    for C in costs:
        check_positive("C", C, "1e-4")
    options = FitOptions(tol, max_iter, solver, intercept_scaling)
    where: dict[str, Any] = {"group": group, "device": device, "memory_bytes": memory_bytes, "journal": journal}
    fitter = Fitter(X, y, options, class_weight, sample_weight, **where)
    return _walk(fitter, costs, together if callable(together) else lambda: together)


def _walk(fitter: Fitter, costs: list[float], together: Callable[[], int]) -> Iterator[Solution]:
    """Yield the solutions of a path."""
    last: Solution | None = None
    while costs:
        count = fitter.num_together(together())
        solutions = fitter.fit_together(costs[:count], last)
        yield from solutions
        last, costs = solutions[-1], costs[count:]

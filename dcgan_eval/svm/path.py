"""Fitting: one value of C, or a path of them, through whichever solver suits the shape."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from dcgan_eval.svm.gram import Gram
from dcgan_eval.svm.labels import encode, weights
from dcgan_eval.svm.newton import NewtonResult, minimise
from dcgan_eval.svm.objective import Solution, evaluate
from dcgan_eval.svm.primal import PrimalSpace
from dcgan_eval.svm.rows import Rows, serial

Solver = Literal["auto", "primal", "gram"]

POLISH_ENTRIES = 1 << 20
"""Entries of float64 X up to which a fit goes on to rounding level, because that costs nothing."""

SERIAL_ENTRIES = 1 << 22
"""Entries of X up to which a fit runs on one thread."""

GRAM_MAX_ROWS = 8_000
"""Rows up to which ``auto`` prefers the Gram matrix (256 MB in float32, and as much for its factor)."""

_SAMPLE_TOL = 1e-2  # a start need not be better: the sample differs from the whole by far more


@dataclass(frozen=True)
class Choice:
    """Which solver, and why."""

    solver: Literal["primal", "gram"]
    reason: str


def choose_solver(num_rows: int, num_features: int, *, free_bytes: float = float("inf"), itemsize: int = 4) -> Choice:
    """Choose between the Gram matrix (fewer rows than features, matrix small) and the primal.

    Parameters
    ----------
    num_rows, num_features : int
        Shape of X.
    free_bytes : float
        Memory that is free where X lives.
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
    if needed > 0.5 * free_bytes:
        return Choice("primal", f"a Gram matrix of {num_rows:,} rows and its factor need {needed / 1e9:.1f} GB")
    return Choice("gram", f"{num_rows:,} rows are fewer than {num_features:,} features, {needed / 1e6:,.0f} MB will do")


def _free_bytes(device: torch.device) -> float:
    """Return the free memory of the device, infinity where it cannot be told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")


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
        if not (np.isfinite(self.tol) and self.tol > 0):
            raise ValueError(f"tol must be positive and finite; got {self.tol}.")
        if self.max_iter < 1:
            raise ValueError(f"max_iter must be at least 1; got {self.max_iter}.")
        if self.solver not in ("auto", "primal", "gram"):
            raise ValueError(f'solver must be "auto", "primal" or "gram"; got {self.solver!r}.')
        if not (np.isfinite(self.intercept_scaling) and self.intercept_scaling >= 0):
            raise ValueError(f"intercept_scaling must be finite and not negative; got {self.intercept_scaling}.")


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
        group: dist.ProcessGroup | None = None,
    ):
        self.options = options
        self.rows = Rows(X, options.intercept_scaling, group=group)
        self.classes, self.Y = encode(y, self.rows.num_rows, self.rows.device, group)
        self.weight = weights(self.Y, self.classes, class_weight, sample_weight)
        self.choice = self._choose()
        self._primal = PrimalSpace(self.rows)
        self._gram: Gram | None = None
        self._coefficients: torch.Tensor | None = None

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
        free = _free_bytes(rows.device)
        return choose_solver(rows.num_rows, rows.num_features, free_bytes=free, itemsize=itemsize)

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
        if not (np.isfinite(C) and C > 0):
            raise ValueError(f"C must be positive and finite; got {C}.")
        with serial(self.rows.num_rows * self.rows.num_features <= SERIAL_ENTRIES):
            return self._fit(C, warm_start)

    def _fit(self, C: float, warm_start: Solution | None) -> Solution:
        """Fit at a valid C."""
        began, read = time.perf_counter(), self.rows.rows_read
        cost, iterations, name = C * self.weight, 0, str(self.choice.solver)
        start: torch.Tensor | None
        if self.choice.solver == "gram":
            start, iterations = self._through_gram(cost)
        elif warm_start is not None:
            start = self._weights_of(warm_start)
        else:
            start = self._from_sample(cost)
        found = self._finish(cost, start)
        if self.choice.solver == "gram" and found.iterations > 0:
            name = "gram+primal"
        passes = -(-(self.rows.rows_read - read) // max(1, self.rows.num_rows))
        return self._solution(C, found, iterations, name, passes, time.perf_counter() - began)

    def _through_gram(self, cost: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Solve on the Gram matrix and map back: w = X^T u."""
        self._gram = self._gram or Gram.from_rows(self.rows)
        tol = 0.3 * self.options.tol
        found = self._gram.solve(self.Y, cost, self._coefficients, tol, self.options.max_iter)
        self._coefficients = found.U if bool(torch.isfinite(found.U).all()) else None
        return self.rows.adjoint(found.U.T, torch.float64), found.iterations

    def _from_sample(self, cost: torch.Tensor) -> torch.Tensor | None:
        """Solve a sample of the rows along its principal directions, at a cost scaled up to all of them, as a start."""
        try:
            problem = self._primal.sampled_problem(self.Y, cost)
        except torch.linalg.LinAlgError:
            return None  # NaN or infinity in the sample: the evaluation at zero will say so
        if problem is None:
            return None
        space, signs, costs = problem
        dim = space.rows.num_features + 1
        found = minimise(space, signs, costs, None, dim, tol=_SAMPLE_TOL, max_iter=self.options.max_iter)
        return self._primal.lift(found.U)

    def _finish(self, cost: torch.Tensor, start: torch.Tensor | None) -> NewtonResult:
        """Run the primal Newton loop; from a Gram solution that holds, it certifies and returns at once."""
        rows, tol = self.rows, self.options.tol
        small = rows.dtype == torch.float64 and rows.total_rows * rows.num_features <= POLISH_ENTRIES
        return minimise(
            self._primal,
            self.Y,
            cost,
            start,
            rows.num_features + 1,
            tol=min(tol, 1e-20) if small else tol,
            max_iter=self.options.max_iter,
            accept=tol,
            certify_start=self.choice.solver == "gram",
        )

    def _weights_of(self, solution: Solution) -> torch.Tensor:
        """Turn a solution into a start (K, D + 1)."""
        start = self.rows.zeros(self.Y.shape[1])
        if solution.W.shape != (start.shape[0], start.shape[1] - 1):
            raise ValueError(f"The warm start has W of shape {solution.W.shape}; these problems do not fit it.")
        start[:, :-1] = torch.as_tensor(solution.W, device=start.device)
        if self.rows.scale > 0:
            start[:, -1] = torch.as_tensor(solution.intercepts, device=start.device) / self.rows.scale
        return start

    def _solution(
        self, C: float, found: NewtonResult, iterations: int, name: str, passes: int, time_s: float
    ) -> Solution:
        """Pack a result with its certificate."""
        exact = found.exact or evaluate(self.rows, self.Y, C * self.weight, found.U)
        U = found.U.cpu().numpy()
        primal, dual, gaps = (v.cpu().numpy() for v in (exact.primal, exact.dual, exact.relative_gap))
        return Solution(
            W=np.ascontiguousarray(U[:, :-1]),
            intercepts=U[:, -1] * self.rows.scale,
            classes=self.classes,
            C=float(C),
            status=found.status,
            primal=primal,
            dual=dual,
            gaps=gaps,
            newton_iterations=iterations + found.iterations,
            passes=passes,
            time_s=time_s,
            solver=name,
            reason=self.choice.reason,
            intercept_scaling=self.rows.scale,
            history=found.history,
        )


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
    Source: PROTOCOLS section 4. Deviations: none.
    """
    options = FitOptions(tol, max_iter, solver, intercept_scaling)
    return Fitter(X, y, options, class_weight, sample_weight, group).fit(C, warm_start)


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
) -> Iterator[Solution]:
    """Fit a path over ascending C, each warm-started from the one before; stop early by leaving the loop.

    Parameters
    ----------
    X, y, tol, max_iter, solver, intercept_scaling, class_weight, sample_weight, group
        As for :func:`fit_ovr`.
    Cs : iterable of float
        Costs; fitted in ascending order.

    Returns
    -------
    iterator of Solution
        In ascending order of C. The Gram matrix, or the preconditioner's sample, is shared by all.

    Raises
    ------
    ValueError
        At once, before the first fit, when an argument is out of range or shapes do not fit.
    """
    costs = sorted(float(C) for C in Cs)
    if not all(np.isfinite(C) and C > 0 for C in costs):
        raise ValueError(f"Every C must be positive and finite; got {costs}.")
    fitter = Fitter(X, y, FitOptions(tol, max_iter, solver, intercept_scaling), class_weight, sample_weight, group)
    return _walk(fitter, costs)


def _walk(fitter: Fitter, costs: list[float]) -> Iterator[Solution]:
    """Yield the solutions of a path."""
    solution: Solution | None = None
    for C in costs:
        solution = fitter.fit(C, solution)
        yield solution

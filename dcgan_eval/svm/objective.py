"""The L2-SVM problem, its float64 certificate, and the solution that carries it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import torch

from ..errors import ArgumentError, ConvergenceError
from . import decide
from .problems import Problem, in_pieces
from .rows import Rows
from .sums import in_pairs, inner
from .targets import encode, hinge_problem

_SCORED_COLUMNS = 320  # scored at once: full speed, and 8 bytes a row and column of memory


class Status(StrEnum):
    """How a fit ended; only ``converged`` may be scored without being asked for."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "max_iterations"
    STALLED = "stalled"  # rounding of the working precision stopped progress short of the tolerance
    NON_FINITE = "non_finite"


@dataclass(frozen=True)
class Evaluation:
    """Objectives of K problems at one point, in float64.

    Attributes
    ----------
    primal, dual, gap, relative_gap : torch.Tensor
        Shape (K,).
    scores : torch.Tensor
        ``X w`` of every row and problem, (N, K).
    gradient : torch.Tensor
        Gradient of the primal, (K, D + 1); the last column belongs to the intercept.
    """

    primal: torch.Tensor
    dual: torch.Tensor
    gap: torch.Tensor
    relative_gap: torch.Tensor
    scores: torch.Tensor
    gradient: torch.Tensor


def relative(gap: torch.Tensor, primal: torch.Tensor) -> torch.Tensor:
    """Return ``gap / primal`` with 0 / 0 = 0 (a problem whose optimum is w = 0 at cost 0 is solved)."""
    return gap / primal.clamp_min(torch.finfo(torch.float64).tiny)


def evaluate_weights(rows: Rows, problem: Problem, W: torch.Tensor, *, keep: bool = True) -> Evaluation:
    """Evaluate primal and dual of K problems in float64, in one pass and bounded memory.

    Parameters
    ----------
    rows : Rows
        The data.
    problem : Problem
        The losses.
    W : torch.Tensor
        Float64 (K, D + 1), intercept weight last.
    keep : bool
        Whether the scores are wanted; else the evaluation has those of no rows, (0, K).

    Returns
    -------
    Evaluation
        With the dual taken at minus the derivative a of the losses by the scores. There each loss and its conjugate
        meet with equality (Fenchel and Young), so that ``P - D = 1/2 ||w - X^T a||^2`` exactly: for the squared hinge,
        where ``a = 2 C max(0, 1 - y x.w) y``, as for the softmax. The gap is computed by the right-hand side, which
        has no cancellation, so it is good far below 1e-6.

    Notes
    -----
    Source: the L2-loss SVM of LIBLINEAR, Fan et al., JMLR 9 (2008), one-vs-rest. Deviations: none.
    """
    V, pulled = rows.split(W, torch.float64), rows.no_sum(len(W))
    scores = rows.no_scores(len(W)) if keep else torch.zeros(0, len(W), dtype=torch.float64, device=rows.device)
    losses = list[torch.Tensor]()
    for part, block in in_pieces(rows.blocks(torch.float64), len(W)):
        F = rows.forward(block, V)  # (B, K)
        if keep:
            scores[part] = F
        here = problem.rows(part)
        losses.append(in_pairs(here.losses(F)))
        rows.backward(part, block, here.pull(F), pulled)  # adds X^T a, (K, D + 1)
    primal = 0.5 * problem.join(inner(W, W)) + rows.in_order(torch.stack(losses))
    gradient = W - rows.whole(pulled)  # w - X^T a
    gap = 0.5 * problem.join(inner(gradient, gradient))  # P - D without a difference of two large numbers
    return Evaluation(primal, primal - gap, gap, relative(gap, primal), scores, gradient)


def certificate(
    X: Any, y: Any, W: Any, C: float, *, intercepts: Any | None = None, intercept_scaling: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Certify one-vs-rest weights from anywhere: primal, dual and relative duality gap of each class, in float64.

    Parameters
    ----------
    X, y, W : array_like
        Rows (N, D), labels (N,), weights (K, D); K is 1 for two classes.
    C : float
        Cost.
    intercepts : array_like, optional
        Shape (K,), the value added to the scores; None means no intercept.
    intercept_scaling : float
        Value of the constant feature; ``intercepts / intercept_scaling`` is what is regularised.

    Returns
    -------
    tuple of numpy.ndarray
        ``(primal, dual, (primal - dual) / primal)``, each (K,).

    Raises
    ------
    ValueError
        When the shapes do not fit.

    Notes
    -----
    Source: the L2-loss SVM of LIBLINEAR, Fan et al., JMLR 9 (2008), one-vs-rest. Deviations: none.
    """
    rows = Rows(X, 0.0 if intercepts is None else intercept_scaling)
    classes, index = encode(y, rows.num_rows, rows.device)
    problem, weights = hinge_problem(index, classes).at(C), np.asarray(W, dtype=np.float64)
    if weights.shape != (problem.num_columns, rows.num_features):
        raise ValueError(f"X {tuple(rows.shape)}, {len(classes)} classes and W {weights.shape} do not fit.")
    # LIBLINEAR regularises the weight b of a constant feature s; what is added to the scores is s b
    last = np.zeros(len(weights)) if intercepts is None else np.asarray(intercepts, np.float64) / intercept_scaling
    found = evaluate_weights(rows, problem, torch.as_tensor(np.column_stack([weights, last]), device=rows.device))
    return found.primal.cpu().numpy(), found.dual.cpu().numpy(), found.relative_gap.cpu().numpy()


@dataclass(frozen=True)
class Solution:
    """Weights of K one-vs-rest problems with the certificate that says how good they are.

    Attributes
    ----------
    W : numpy.ndarray
        Float64 (K, D); K is 1 when there are two classes.
    intercepts : numpy.ndarray
        Float64 (K,), added to the scores.
    classes : numpy.ndarray
        Class labels; with two, positive scores mean the second.
    C : float
        Cost.
    status : Status
        ``converged`` only if ``relative_gap <= tol``, measured in float64 on the original X.
    primal, dual, gaps : numpy.ndarray
        Primal and dual objective and relative gap ``(P - D) / P`` of each problem, (K,).
    relative_gap : float
        The largest of ``gaps``.
    newton_iterations, passes : int
        Outer iterations, and how often X was read from end to end.
    time_s : float
        Wall time.
    solver, reason : str
        ``"primal"``, ``"gram"`` or ``"gram+primal"``, and why it was chosen.
    device : str
        Where it was fitted.
    history : tuple of float
        Largest relative gap (estimated) before each primal Newton iteration.
    """

    W: np.ndarray
    intercepts: np.ndarray
    classes: np.ndarray
    C: float
    status: Status
    primal: np.ndarray
    dual: np.ndarray
    gaps: np.ndarray
    newton_iterations: int
    passes: int
    time_s: float
    solver: str
    reason: str = ""
    device: str = "cpu"
    intercept_scaling: float = 1.0
    history: tuple[float, ...] = field(default=(), repr=False)

    @property
    def relative_gap(self) -> float:
        """Largest relative duality gap over the problems."""
        return float(np.max(self.gaps))

    def decision_function(
        self, X: Any, *, allow_unconverged: bool = False, device: torch.device | str | None = None
    ) -> np.ndarray:
        """Score rows, block by block.

        Parameters
        ----------
        X : numpy.ndarray or torch.Tensor
            Shape (N, D).
        allow_unconverged : bool
            Score with weights whose certificate was not reached.
        device : torch.device or str, optional
            Where to multiply; None: where X is.

        Returns
        -------
        numpy.ndarray
            Float64 (N, K).

        Raises
        ------
        ConvergenceError
            When the fit did not converge and ``allow_unconverged`` is false.
        """
        if self.status is not Status.CONVERGED and not allow_unconverged:
            raise unconverged(self)
        return linear_scores(X, self.W, self.intercepts, device)

    def predict(
        self, X: Any, *, allow_unconverged: bool = False, device: torch.device | str | None = None
    ) -> np.ndarray:
        """Return the label of the largest score of each row (see :meth:`decision_function`)."""
        return predict_all([self], X, allow_unconverged=allow_unconverged, device=device)[0]


def linear_scores(
    X: Any, W: np.ndarray, intercepts: np.ndarray, device: torch.device | str | None = None
) -> np.ndarray:
    """Return ``X W^T + intercepts``, float64 (N, K), block by block, multiplied on a device (None: where X is).

    Raises
    ------
    ArgumentError
        X holds NaN or infinity: no weights, even 0, make a finite score of it.
    """
    rows = Rows(X, 1.0, device=device, memory_bytes=0)
    scores = np.empty((rows.num_rows, len(W)))
    for part, block in _scores_by_blocks(rows, W, intercepts):
        scores[part] = block
    return scores


def best_columns(
    X: Any, W: np.ndarray, intercepts: np.ndarray, counts: Sequence[int], device: torch.device | str | None = None
) -> np.ndarray:
    """Return the place of the largest score of each row in each group of columns, the first of equals, int64 (G, N).

    Scores are made for a few rows at a time: those of all rows and columns need not fit in memory.

    Parameters
    ----------
    X : numpy.ndarray, torch.Tensor, or what else :class:`~dcgan_eval.svm.rows.Rows` reads
        Shape (N, D).
    W, intercepts : numpy.ndarray
        Shapes (K, D) and (K,).
    counts : sequence of int
        Columns of each group; a single one means two classes, the second of which has a score above 0.
    device
        As for :func:`linear_scores`.

    Raises
    ------
    ArgumentError
        As :func:`linear_scores`.
    """
    rows = Rows(X, 1.0, device=device, memory_bytes=0)
    best, ends = np.empty((len(counts), rows.num_rows), np.int64), np.cumsum(counts)[:-1]
    for part, block in _scores_by_blocks(rows, W, intercepts):
        for group, scores in enumerate(np.split(block, ends, axis=1)):
            # a score of exactly 0 is the first class, as in scikit-learn
            best[group, part] = scores[:, 0] > 0 if scores.shape[1] == 1 else scores.argmax(axis=1)
    return best


def _scores_by_blocks(rows: Rows, W: np.ndarray, intercepts: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield places of rows with their scores, float64 (B, K)."""
    V = rows.split(torch.as_tensor(np.column_stack([W, intercepts]), device=rows.device))
    is_finite = np.isfinite(W).all()
    for part, block in in_pieces(rows.blocks(), len(W)):
        scores = decide.values(rows.forward(block, V))
        if is_finite and not np.isfinite(scores).all():
            raise _not_finite()
        yield part, scores


def check_finite(rows: Rows) -> None:
    """Raise unless all features are finite (one pass).

    Raises
    ------
    ArgumentError
        They hold NaN or infinity.
    """
    if not rows.all_finite():
        raise _not_finite()


def _not_finite() -> ArgumentError:
    """Build the error for features that are not finite (not raised here)."""
    return ArgumentError("X holds NaN or infinity", expected="finite numbers", remedy="look at what made the features")


def predict_all(
    solutions: Sequence[Solution],
    X: Any,
    *,
    allow_unconverged: bool = False,
    device: torch.device | str | None = None,
) -> list[np.ndarray]:
    """Predict the rows of X with many solutions, reading X once for every few hundred of their columns.

    Parameters
    ----------
    solutions : sequence of Solution
        Fits to the same features.
    X : numpy.ndarray or torch.Tensor
        Shape (N, D).
    allow_unconverged, device
        As for :meth:`Solution.decision_function`.

    Returns
    -------
    list of numpy.ndarray
        Labels (N,), one array per solution.

    Raises
    ------
    ConvergenceError
        When one of them did not converge and ``allow_unconverged`` is false.
    """
    for solution in solutions:
        if solution.status is not Status.CONVERGED and not allow_unconverged:
            raise unconverged(solution)
    found = list[np.ndarray]()
    for part, W, intercepts in _together(solutions):
        best = best_columns(X, W, intercepts, [len(s.W) for s in part], device)
        found += [s.classes[index] for s, index in zip(part, best, strict=True)]
    return found


def score_all(solutions: Sequence[Solution], X: Any, device: torch.device | str | None = None) -> Iterator[np.ndarray]:
    """Yield the scores of X, float64 (N, K), by each solution, whatever its status; X is read as by predict_all."""
    for part, W, intercepts in _together(solutions):
        scores = linear_scores(X, W, intercepts, device)
        yield from np.split(scores, np.cumsum([len(s.W) for s in part])[:-1], axis=1)


def _together(solutions: Sequence[Solution]) -> Iterator[tuple[Sequence[Solution], np.ndarray, np.ndarray]]:
    """Yield solutions with their weights and intercepts joined, as many as are scored at once."""
    step = max(1, _SCORED_COLUMNS // max((len(s.W) for s in solutions), default=1))
    for start in range(0, len(solutions), step):
        part = solutions[start : start + step]
        yield part, np.concatenate([s.W for s in part]), np.concatenate([s.intercepts for s in part])


def unconverged(solution: Solution) -> ConvergenceError:
    """Build the error for a solution without its certificate (not raised here)."""
    return ConvergenceError(
        "The L2-SVM did not reach its certificate",
        got=f"status {solution.status}, relative duality gap {solution.relative_gap:.2e} "
        f"after {solution.newton_iterations} Newton iterations at C = {solution.C:g}",
        expected="a relative duality gap of at most tol",
        remedy="raise max_iter or tol, scale the features, or ask for the unconverged result explicitly",
    )

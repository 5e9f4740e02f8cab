"""What is minimised: ``1/2 ||W||^2 + sum_i c_i loss(W x_i)``, with a squared hinge per class or a softmax over all.

Targets are integer labels throughout; the signs of the one-vs-rest problems exist for the block in hand only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from . import decide, sums
from .sums import add_up

Along = Callable[[torch.Tensor], torch.Tensor]
Of = Callable[[slice], torch.Tensor]  # what each of a run of rows gives, (..., n, M)
Total = Callable[[Of], torch.Tensor]

_SHORTEST = 256  # rows
_KEPT_PIECES = 8
KEPT_BYTES = 4 * 8 * _KEPT_PIECES * sums.PIECE
"""The most that a line search keeps of what it is asked again and again: four float64 arrays of some pieces."""

_MANY_COLUMNS = 32


class Curvature(Protocol):
    """Second derivative of the losses with respect to the scores: a K x K matrix for each row.

    Attributes
    ----------
    diagonal : torch.Tensor
        Its diagonal, (N, K), >= 0.
    """

    @property
    def diagonal(self) -> torch.Tensor:
        """The diagonal, (N, K)."""

    def at(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the diagonal of some rows, (n, K)."""

    def apply(self, part: slice, scores: torch.Tensor) -> torch.Tensor:
        """Multiply the scores (n, K) of some rows."""

    def columns(self, kept: torch.Tensor) -> Curvature:
        """Return that of some of the problems."""

    def project(self, U: torch.Tensor) -> torch.Tensor:
        """Remove from vectors (K, dim) what has no curvature for any row."""


class Problem(Protocol):
    """Losses of rows held here, for K columns of weights.

    Columns may be problems of their own or together make one; then every column carries that one's values, so that
    whoever solves need not ask.
    """

    @property
    def num_columns(self) -> int:
        """K."""

    def join(self, values: torch.Tensor) -> torch.Tensor:
        """Turn values per column (K,) into values of the problem that each column belongs to, (K,)."""

    def losses(self, F: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss of each row in the problem of each column, from scores F: (N, K)."""

    def pull(self, F: torch.Tensor) -> torch.Tensor:
        """Return minus the derivative of the losses by the scores, (N, K): the dual variables times the signs."""

    def curvature(self, F: torch.Tensor) -> Curvature:
        """Return the (generalised) second derivative at F."""

    def along(self, F: torch.Tensor, step: torch.Tensor) -> Along:
        """Return a function of t (K,): both derivatives by t of each row's loss at F + t step, (2, N, K).

        Where columns are solved together (2, N, 1).
        """

    def columns(self, kept: torch.Tensor | slice) -> Problem:
        """Return the problem of some columns."""

    def rows(self, part: Any, factor: float = 1.0) -> Problem:
        """Return the problem of some rows, their losses times a factor."""

    def gathered(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> Problem:
        """Return the problem of the rows of all processes."""


@dataclass(frozen=True)
class HingeCurvature:
    """Curvature of one-vs-rest hinges, ``2 c`` within the hinge and 0 beyond, for each column alone.

    Attributes
    ----------
    active : torch.Tensor
        Whether ``y f < 1``, bool (N, K): an eighth of the numbers themselves.
    cost : torch.Tensor
        ``2 c``, broadcastable to (N, K).
    """

    active: torch.Tensor
    cost: torch.Tensor

    @property
    def diagonal(self) -> torch.Tensor:
        """The curvature of each row and column."""
        return self.cost * self.active

    def at(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the diagonal of some rows."""
        return (self.cost if len(self.cost) == 1 else self.cost[rows]) * self.active[rows]

    def apply(self, part: slice, scores: torch.Tensor) -> torch.Tensor:
        """Multiply the scores of some rows."""
        cost = self.cost if len(self.cost) == 1 else self.cost[part]
        return cost * self.active[part] * scores

    def columns(self, kept: torch.Tensor) -> HingeCurvature:
        """Return that of some of the problems."""
        cost = self.cost if self.cost.shape[1] == 1 else self.cost[:, kept]
        return HingeCurvature(self.active[:, kept], cost)

    def project(self, U: torch.Tensor) -> torch.Tensor:
        """Return the vectors as they are: 1/2 ||w||^2 alone sees to directions without curvature."""
        return U


@dataclass(frozen=True)
class HingeProblem:
    """One-vs-rest squared hinges, ``c max(0, 1 - y f)^2``: a problem of its own for each column.

    Attributes
    ----------
    index : torch.Tensor
        Class of each row, int64 (N,).
    targets : torch.Tensor
        The class whose sign is +1 in each column, int64 (K,); one class in several columns, where their costs differ.
    positive, negative : torch.Tensor
        Costs of the rows with sign +1 and of the others, float64 (K,).
    weight : torch.Tensor or None
        Factor of each row, float64 (N, 1); None means 1.
    even : bool
        Whether ``positive`` and ``negative`` are the same.
    """

    index: torch.Tensor
    targets: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor
    weight: torch.Tensor | None = None
    even: bool = True

    @property
    def num_columns(self) -> int:
        """K."""
        return len(self.targets)

    def at(self, C: float) -> HingeProblem:
        """Return the problem at another cost, all weights times C."""
        return replace(self, positive=C * self.positive, negative=C * self.negative)

    def at_each(self, costs: Sequence[float]) -> HingeProblem:
        """Return the problems at several costs side by side, all K columns of the first before those of the next."""
        at = [self.at(C) for C in costs]
        positive, negative = (torch.cat([getattr(p, name) for p in at]) for name in ("positive", "negative"))
        return replace(self, targets=self.targets.repeat(len(at)), positive=positive, negative=negative)

    def join(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values as they are."""
        return values

    def losses(self, F: torch.Tensor) -> torch.Tensor:
        """Return ``c max(0, 1 - y f)^2``, (N, K)."""
        return self._cost() * (1 - self._signed(F)).clamp_min(0).square_()

    def pull(self, F: torch.Tensor) -> torch.Tensor:
        """Return ``2 c max(0, 1 - y f) y``, (N, K)."""
        return self._signed(2 * self._cost() * (1 - self._signed(F)).clamp_min(0))

    def curvature(self, F: torch.Tensor) -> HingeCurvature:
        """Return ``2 c [y f < 1]``."""
        return HingeCurvature(self._signed(F) < 1, 2 * self._cost())

    def along(self, F: torch.Tensor, step: torch.Tensor) -> Along:
        """Return ``t -> (-2 c r h, 2 c r^2 [h > 0])`` with ``h = max(0, 1 - y f - t r)`` and ``r = y step``."""
        slack, rate = 1 - self._signed(F), self._signed(step)
        pulled = -2 * self._cost() * rate
        bent = -pulled * rate

        def at(t: torch.Tensor) -> torch.Tensor:
            hinge = torch.addcmul(slack, t, rate, value=-1).clamp_min_(0)  # 1 - y (f + t step), (N, K)
            both = hinge.new_empty(2, *hinge.shape)
            both[1] = torch.where(hinge > 0, bent, 0.0)
            torch.mul(hinge, pulled, out=both[0])
            return both

        return at

    def columns(self, kept: torch.Tensor | slice) -> HingeProblem:
        """Return the problem of some columns."""
        chosen = {name: getattr(self, name)[kept] for name in ("targets", "positive", "negative")}
        return replace(self, **chosen)

    def rows(self, part: Any, factor: float = 1.0) -> HingeProblem:
        """Return the problem of some rows, their losses times a factor."""
        weight = None if self.weight is None else self.weight[part]
        some = replace(self, index=self.index[part], weight=weight)
        return some if factor == 1.0 else some.at(factor)

    def gathered(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> HingeProblem:
        """Return the problem of the rows of all processes."""
        weight = None if self.weight is None else gather(self.weight)
        return replace(self, index=gather(self.index), weight=weight)

    def _signed(self, F: torch.Tensor) -> torch.Tensor:
        """Return ``y F``."""
        return torch.where(self.index[:, None] == self.targets, F, -F)

    def _cost(self) -> torch.Tensor:
        """Return the cost of each row and column, broadcastable to (N, K)."""
        cost = self.positive[None]
        if not self.even:
            cost = torch.where(self.index[:, None] == self.targets, self.positive, self.negative)
        return cost if self.weight is None else cost * self.weight


@dataclass(frozen=True)
class SoftmaxProblem:
    """Multinomial logistic regression, ``C (logsumexp(f) - f_y)``: all K columns make one problem.

    Attributes
    ----------
    index : torch.Tensor
        Class of each row, int64 (N,).
    num_columns : int
        K.
    C : float
        Factor of every loss.
    """

    index: torch.Tensor
    num_columns: int
    C: float

    def join(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all columns, for each of them."""
        return values.sum().expand(self.num_columns)

    def losses(self, F: torch.Tensor) -> torch.Tensor:
        """Return ``C (logsumexp(f) - f_y)``, the same in every column."""
        loss = self.C * (F.logsumexp(1, keepdim=True) - F.gather(1, self.index[:, None]))
        return loss.expand_as(F)

    def pull(self, F: torch.Tensor) -> torch.Tensor:
        """Return ``C (onehot(y) - softmax(f))``, (N, K)."""
        pulled = F.softmax(1).mul_(-self.C)
        # onehot(y) is never formed: its only entry of each row is added in place
        return pulled.scatter_add_(1, self.index[:, None], torch.full_like(F[:, :1], self.C))

    def curvature(self, F: torch.Tensor) -> SoftmaxCurvature:
        """Return ``C (diag(p) - p p^T)`` of each row."""
        return SoftmaxCurvature(F.softmax(1), self.C)

    def along(self, F: torch.Tensor, step: torch.Tensor) -> Along:
        """Return ``t -> C ((p - onehot(y)).s, p.s^2 - (p.s)^2)`` with ``p = softmax(f + t s)`` and s the step."""
        own = step.gather(1, self.index[:, None])

        def at(t: torch.Tensor) -> torch.Tensor:
            p = (F + t * step).softmax(1)
            mean = (p * step).sum(1, keepdim=True)  # of the step under the softmax
            spread = (p * (step - mean).square_()).sum(1, keepdim=True)  # p.s^2 - (p.s)^2 without cancellation
            return self.C * torch.stack([mean - own, spread])

        return at

    def columns(self, kept: torch.Tensor | slice) -> SoftmaxProblem:
        """Return the problem itself: its columns are solved together."""
        return self

    def rows(self, part: Any, factor: float = 1.0) -> SoftmaxProblem:
        """Return the problem of some rows, their losses times a factor."""
        return replace(self, index=self.index[part], C=self.C * factor)

    def gathered(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> SoftmaxProblem:
        """Return the problem of the rows of all processes."""
        return replace(self, index=gather(self.index))


@dataclass(frozen=True)
class SoftmaxCurvature:
    """Curvature of the softmax losses: ``C (diag(p) - p p^T)`` for a row with probabilities p."""

    P: torch.Tensor
    C: float

    @property
    def diagonal(self) -> torch.Tensor:
        """``C p (1 - p)``, (N, K)."""
        return self.at(slice(None))

    def at(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """Return the diagonal of some rows."""
        return self.C * self.P[rows] * (1 - self.P[rows])

    def apply(self, part: slice, scores: torch.Tensor) -> torch.Tensor:
        """Multiply the scores of some rows."""
        weighted = self.P[part] * scores  # diag(p) s; its sum over the row is p.s
        return self.C * (weighted - self.P[part] * weighted.sum(1, keepdim=True))

    def columns(self, kept: torch.Tensor) -> SoftmaxCurvature:
        """Return the curvature itself: its columns are solved together."""
        return self

    def project(self, U: torch.Tensor) -> torch.Tensor:
        """Remove what all classes share: softmax does not see it, and the optimum has none of it."""
        return U - U.mean(0, keepdim=True)


def in_pieces(blocks: Iterable[tuple[slice, torch.Tensor]], num_columns: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Cut blocks of rows, each given with its place, into pieces whose scores are few enough, but not too short."""
    # Products are added up in (K, D + 1): with few rows that takes longer than the products themselves.
    step = max(_SHORTEST, 4 * sums.PIECE // max(1, num_columns))
    for rows, block in blocks:
        for start in range(0, len(block), step):
            piece = block[start : start + step]
            yield slice(rows.start + start, rows.start + start + len(piece)), piece


def slopes(problem: Problem, F: torch.Tensor, step: torch.Tensor, total: Total | None = None) -> Along:
    """Return a function of t (K,): both derivatives of the losses by t at F + t step, summed over the rows, (2, K).

    ``total`` adds them up (None: over the rows given).
    """
    total = total or functools.partial(add_up, num_rows=len(F), num_columns=F.shape[1])
    kept = dict[int, Along]()

    def along(part: slice) -> Along:
        if part.start in kept:
            return kept[part.start]
        made = problem.rows(part).along(F[part], step[part])
        # what could be kept of more is as large as all scores, several times
        if F.numel() <= _KEPT_PIECES * sums.PIECE:
            kept[part.start] = made
        return made

    return lambda t: total(lambda part: along(part)(t))


def loss_of(problem: Problem, F: torch.Tensor) -> Of:
    """Return a function of a run of rows: the losses of each, (n, K), at scores F."""
    return lambda part: problem.rows(part).losses(F[part])


def line_minimum(
    slopes_of: Callable[[torch.Tensor | None], Along], pu: torch.Tensor, pp: torch.Tensor, tol: float = 1e-10
) -> torch.Tensor:
    """Minimise the objective along a step exactly: Newton on its increasing slope, with bisection.

    Parameters
    ----------
    slopes_of : callable
        Returns both derivatives of all losses at t, (2, K), as a function; of some of the columns, or of all for None.
        Those of a problem that all columns make together may be (2, 1).
    pu, pp : torch.Tensor
        Inner products of the step with the weights and with itself, (K,).
    tol : float
        Relative error of the length that will do.

    Returns
    -------
    torch.Tensor
        Length of the step, (K,).
    """
    found, live, slopes = torch.ones_like(pu), torch.arange(len(pu), device=pu.device), slopes_of(None)
    low, high, t = torch.zeros_like(pu), torch.full_like(pu, torch.inf), torch.ones_like(pu)
    for _ in range(60):
        first, second = slopes(t)
        slope, curvature = pu + t * pp + first, pp + second
        low, high = torch.where(slope < 0, t, low), torch.where(slope >= 0, t, high)
        # The slope ascends in t, as the objective is convex: Newton, kept between the last point below and above zero.
        new = t - slope / curvature.clamp_min(1e-300)
        middle = torch.where(torch.isinf(high), 2 * low, 0.5 * (low + high))  # no point above yet: double
        # A step too short to move t leaves it there, whichever sign rounding has given to the slope.
        new = torch.where(((new > low) & (new < high)) | (new == t), new, middle)
        left = decide.where((new - t).abs() > tol * t.abs())
        t = new
        if len(left) == 0:
            break
        if len(live) >= _MANY_COLUMNS and 2 * len(left) <= len(live):  # the others do not wait for the last ones
            found[live] = t
            live, low, high, t, pu, pp = (each[left] for each in (live, low, high, t, pu, pp))
            del slopes  # what it keeps may be as large as all scores, several times
            slopes = slopes_of(live)
    found[live] = t
    return found

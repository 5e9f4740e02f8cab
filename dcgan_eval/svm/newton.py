"""Batched minimisation of linear models with an L2 penalty, in the primal or through a Gram matrix; truncated Newton.

The same loop serves all: a *problem* says what the losses are (``problems``), a *space* how weights are stored and
multiplied, *steps* how to get on: Newton's here, after those of ``nonlinear_cg`` or alone. In ``primal.PrimalSpace``
a vector is ``w`` itself, (K, D + 1); in ``gram.GramSpace`` it is ``u`` with ``w = X^T u``, (K, N).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch

from . import decide
from .objective import Evaluation, Status, relative
from .problems import Curvature, Problem

Precondition = Callable[[torch.Tensor], torch.Tensor]

_MAX_CG = 250
_LOOSEST = 0.25
_PATIENCE = 8  # exact iterations that may pass without halving the gap before rounding is held to blame
_FINER = 4  # powers of ten by which steps that get nowhere aim below the tolerance, one after the other
_SHARE = 0.3  # inner solves and estimates aim at this share of the tolerated gap, so that rounding cannot spoil it


class Space(Protocol):
    """What the Newton loop needs of the space in which it works; K problems at once, float64 throughout.

    ``norm_every`` says how often CG looks at the residual's norm, which costs a product in some spaces.
    """

    norm_every: int

    @property
    def resolves(self) -> bool:
        """Whether products are made in float64."""

    @property
    def is_deflated(self) -> bool:
        """Whether :meth:`correct` sees to the strongest directions: then steps of conjugate gradients go far."""

    def scores(self, U: torch.Tensor) -> torch.Tensor:
        """Return X w, (N, K)."""

    def look(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all losses, (K,), and the vector that stands for X^T a; a is minus their derivative by the scores."""

    def change(self, problem: Problem, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all losses at new scores, (K,), and what stands for the change of X^T a since others."""

    def at_rest(self, problem: Problem) -> torch.Tensor:
        """Return all losses at zero, (K,)."""

    def curvature(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> Curvature:
        """Return the curvature of the losses."""

    def line(
        self, problem: Problem, start: tuple[torch.Tensor, torch.Tensor], step: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return how far to go along a step, (K,), for the objective to be least; both are vectors and scores."""

    def zeros(self, num_columns: int) -> torch.Tensor:
        """Return zero vectors, (num_columns, dim)."""

    def no_scores(self, num_columns: int) -> torch.Tensor:
        """Return the scores of zero vectors, (N, num_columns)."""

    def image(self, U: torch.Tensor) -> torch.Tensor | None:
        """Return X u (N, K) where that is cheaper to carry through CG than to recompute; else None."""

    def settled(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return what steps are made of without the digits that depend on how rows are held, where these add up."""

    def hessian(
        self, U: torch.Tensor, S: Curvature, image: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``u + X^T S X u`` and ``X u`` (N, K) together, for one reading of X at most."""

    def inner(self, U: torch.Tensor, V: torch.Tensor, scores_v: torch.Tensor | None = None) -> torch.Tensor:
        """Return the inner products of the weights that U and V stand for, (K,)."""

    def energy(
        self, S: Curvature, U: tuple[torch.Tensor, torch.Tensor], V: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return the inner products by the Hessian of vectors given with their scores, (K,)."""

    def remainder(self, R: torch.Tensor) -> torch.Tensor:
        """Return the squared norm of the part of a residual that :meth:`correct` will not see to, (K,)."""

    def correct(
        self, problem: Problem, U: torch.Tensor, F: torch.Tensor, *, often: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower the objective where that is cheap, more than once if asked for; return vectors and scores."""

    def preconditioner(self, S: Curvature) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return ``(R, problems) -> P^-1 R`` for the Hessians given by the diagonal of the curvature."""

    def exact(self, problem: Problem, U: torch.Tensor) -> Evaluation:
        """Evaluate in float64."""


@dataclass
class NewtonResult:
    """Where the loop ended: vectors (K, dim), status, iterations, evaluation (exact if the space can)."""

    U: torch.Tensor
    status: Status
    iterations: int
    primal: torch.Tensor
    gap: torch.Tensor
    exact: Evaluation | None
    history: tuple[float, ...]


@dataclass
class State:
    """The iterate: vectors U, scores F, gradient G, objective and gap; ``exact`` when from float64 products."""

    U: torch.Tensor
    F: torch.Tensor
    G: torch.Tensor
    primal: torch.Tensor
    gap: torch.Tensor
    exact: Evaluation | None = None


def minimise(
    space: Space,
    problem: Problem,
    start: torch.Tensor | None,
    *,
    tol: float,
    max_iter: int,
    accept: float | None = None,
    certify_start: bool = False,
    steps: NewtonSteps | None = None,
) -> NewtonResult:
    """Minimise ``1/2 ||w||^2 + sum_i loss_i(w.x_i)`` for K problems at once; problems that are solved are frozen.

    Parameters
    ----------
    space : Space
        How weights are stored and multiplied.
    problem : Problem
        The losses.
    start : torch.Tensor or None
        Warm start, vectors (K, dim), float64; None means zero.
    tol, accept : float
        Relative duality gap to aim at, and the larger one that will do once progress stops (None: the same).
    max_iter : int
        Outer iterations allowed.
    certify_start : bool
        Evaluate the start exactly at once, because it is thought to be the solution.
    steps : NewtonSteps or None
        How to get on; None: truncated Newton.

    Returns
    -------
    NewtonResult
        Its status is ``converged`` only when every relative gap is within the tolerance, in float64.

    Notes
    -----
    Source: Keerthi and DeCoste 2005 (finite Newton for the squared hinge). Deviations: truncated and batched.
    """
    state = _begin(space, problem, start, certify_start)
    limits = (tol, tol if accept is None else accept)
    return _iterate(space, problem, state, limits, max_iter, steps or NewtonSteps(), _Progress(certify_start))


def _iterate(
    space: Space,
    problem: Problem,
    state: State,
    limits: tuple[float, float],
    max_iter: int,
    steps: NewtonSteps,
    progress: _Progress,
) -> NewtonResult:
    """Step until the aim is reached, or progress stops, or iterations run out."""
    tol, accept = limits
    for iteration in range(max_iter + 1):
        last = iteration == max_iter
        idle = progress.idle >= _PATIENCE
        if state.exact is None and (last or idle or _within(state, tol)):
            state, progress.precise, progress.idle = _look(space, problem, state.U, state.F, True), True, 0
        progress.note(state)
        settled = progress.precise and (progress.idle > 0 or last)
        stalled = progress.precise and progress.idle >= _PATIENCE
        status = _verdict(progress.history[-1], accept if settled else tol, stalled, last)
        if status is not None:
            history = tuple(progress.history)
            return NewtonResult(state.U, status, iteration, state.primal, state.gap, state.exact, history)
        # near the tolerance a step need not go far; where it then gets nowhere, it must
        finer = 0.1 ** min(max(progress.idle - 1, 0), _FINER)
        U, F = steps(space, problem, state, tol, finer * tol)
        state = _look(space, problem, U, F, progress.precise)
    raise AssertionError("the loop above always returns")


@dataclass
class _Progress:
    """How the loop gets on: gaps so far, and iterations since the gap halved or the objective fell."""

    precise: bool
    idle: int = 0
    lowest: float = float("inf")
    history: list[float] = field(default_factory=list)

    def note(self, state: State) -> None:
        """Record an iterate."""
        gap, primal = decide.numbers(relative(state.gap, state.primal).max(), state.primal.sum())
        # an objective below zero is rounding: on it, too, only a fall counts
        fell = primal - self.lowest < -1e-5 * abs(primal)
        moved = gap < 0.5 * min(self.history, default=float("inf")) or fell
        self.idle, self.lowest = 0 if moved else self.idle + 1, primal
        self.history.append(gap)


def _begin(space: Space, problem: Problem, start: torch.Tensor | None, exact: bool) -> State:
    """Evaluate the start, replacing by zero what is worse than zero or not finite."""
    U = space.zeros(problem.num_columns) if start is None else start
    F = space.no_scores(problem.num_columns) if start is None or exact else space.scores(U)
    if start is not None and not exact:
        U, F = space.correct(problem, U, F)
    state = _look(space, problem, U, F, exact)
    if start is None:
        return state
    worse = ~(state.primal <= space.at_rest(problem))  # NaN is worse too
    if decide.holds(~worse):
        return state
    return _look(space, problem, U.masked_fill(worse[:, None], 0), F.masked_fill(worse, 0), exact)


def _within(state: State, tol: float) -> bool:
    """Whether every problem has reached the tolerance."""
    return decide.holds(relative(state.gap, state.primal) <= tol)


def _verdict(gap: float, limit: float, stalled: bool, last: bool) -> Status | None:
    """Say how the loop ends at a gap, or None when it goes on."""
    if not np.isfinite(gap):
        return Status.NON_FINITE
    if gap <= limit:
        return Status.CONVERGED
    return Status.MAX_ITERATIONS if last else Status.STALLED if stalled else None


def _look(space: Space, problem: Problem, U: torch.Tensor, F: torch.Tensor, exact: bool) -> State:
    """Evaluate an iterate; exactly when asked, else from the scores carried along."""
    if exact:
        found = space.exact(problem, U)
        return State(U, found.scores, found.gradient, found.primal, found.gap, found)
    losses, pulled = space.look(problem, U, F)
    G, primal = U - pulled, 0.5 * inner(space, problem, U, U, F) + losses
    # the gap is half the squared norm of the gradient: see objective.evaluate_weights
    return State(U, F, G, primal, 0.5 * inner(space, problem, G, G).clamp_min(0))


@dataclass
class NewtonSteps:
    """Generalised Newton with inexact CG steps and exact minimisation along the step.

    Forcing terms after Eisenstat and Walker 1996, choice 2.
    """

    _eta: torch.Tensor | None = field(default=None, repr=False)
    _before: torch.Tensor | None = field(default=None, repr=False)  # the gap at the last iterate

    def __call__(
        self, space: Space, problem: Problem, state: State, tol: float, aim: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one Newton step on the problems that are not solved yet, for a relative gap of ``aim`` (None: tol)."""
        eta = self._forcing(state.gap)
        # A problem a good deal inside the tolerance rests, so that the last ones do not move it.
        todo = decide.where(relative(state.gap, state.primal) > _SHARE * tol)
        some, F, U = problem.columns(todo), columns_of(state.F, todo), state.U[todo]
        gap = _SHARE * (tol if aim is None else aim) * state.primal[todo]
        S = space.curvature(some, U, F)
        stop = _Stop(eta[todo] ** 2, 2 * state.gap[todo], 2 * gap)  # ||g||^2 = 2 gap: objective.evaluate_weights
        step, step_scores = _conjugate_gradients(space, some, state.G[todo], S, stop)
        del S
        # The quadratic is wrong where the step crosses a hinge: the length is found on the objective itself.
        t = space.line(some, (U, F), (step, step_scores))
        t = torch.where(torch.isfinite(t), t, 0.0)
        new_U, new_F = space.correct(some, U + t[:, None] * step, step_scores.mul_(t).add_(F), often=True)
        if len(todo) < len(state.U):
            new_U, new_F = state.U.index_copy(0, todo, new_U), state.F.index_copy(1, todo, new_F)
        return new_U, new_F

    def _forcing(self, gap: torch.Tensor) -> torch.Tensor:
        """Return the share of the gradient's norm that a solution of the quadratic may leave."""
        if self._eta is None or self._before is None:
            self._eta = torch.full_like(gap, _LOOSEST)
        else:  # what is left of the gap (a squared norm), not above its safeguard
            ratio = gap / self._before.clamp_min(1e-300)
            self._eta = torch.where(ratio > 0.1, 0.3 * self._eta, 0.9 * ratio).clamp(1e-4, _LOOSEST)
        self._before = gap
        return self._eta


def columns_of(F: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return some columns of scores; all of them are not copied."""
    return F if len(kept) == F.shape[1] else F[:, kept]


def inner(
    space: Space, problem: Problem, U: torch.Tensor, V: torch.Tensor, scores_v: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the inner products of the weights that U and V stand for, joined as the problems are, (K,)."""
    return problem.join(space.inner(U, V, scores_v))


class _Stop(NamedTuple):
    """Where conjugate gradients stop: for each problem, (K,), a share of ``norm`` = ||g||^2, or ||r||^2 itself."""

    share: torch.Tensor
    norm: torch.Tensor
    square: torch.Tensor


def _conjugate_gradients(
    space: Space, problem: Problem, G: torch.Tensor, S: Curvature, stop: _Stop
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve ``H p = -g`` by preconditioned conjugate gradients and return p and X p.

    Each problem stops when ||r||^2 has fallen to its share of ||g||^2, and likewise in the preconditioner's norm (the
    plain one alone hardly sees flat directions), or to ``stop.square``, where the gap is small.
    """
    precondition = space.preconditioner(S)
    live = torch.arange(len(G), device=G.device)
    # Preconditioned CG (Hestenes & Stiefel 1952) on all problems at once; X p is carried along as Fp, so that the line
    # search needs no further pass over X.
    p, Fp, r = torch.zeros_like(G), space.no_scores(len(G)), -G
    z = S.project(precondition(r, live))
    d, image = z.clone(), space.image(z)
    rho = inner(space, problem, r, z, image)
    energy = stop.share * rho
    floor = rho * (1e-24 if space.resolves else 1e-12)  # below it, rho is rounding
    for count in range(1, _MAX_CG + 1):
        Hd, Fd = space.hessian(d, S, image)
        curvature = inner(space, problem, Hd, d, Fd)
        alpha = torch.where(curvature > 0, rho / curvature.clamp_min(1e-300), 0.0)  # the quadratic's minimum along d
        p.index_add_(0, live, alpha[:, None] * d)
        Fp.index_add_(1, live, alpha * Fd)
        r = r - alpha[:, None] * Hd
        z = S.project(precondition(r, live))
        image = space.image(z)
        new_rho = inner(space, problem, r, z, image)
        keep = (alpha > 0) & (new_rho > floor[live])
        if count % space.norm_every == 0:
            square = problem.join(space.remainder(r))
            large = (square > (stop.share * stop.norm)[live]) | (new_rho > energy[live])
            keep &= (square > stop.square[live]) & large
        left = decide.where(keep)
        if len(left) == 0:
            break
        beta = new_rho / rho.clamp_min(1e-300)  # makes the next direction conjugate to all before it
        d, rho = z + beta[:, None] * d, new_rho
        image = None if image is None else image + beta * Fd
        # Problems that are done leave the batch, so that the others do not pay for them.
        if len(left) < len(keep):
            live, r, d, rho, S = live[left], r[left], d[left], rho[left], S.columns(left)
            image = None if image is None else image[:, left]
    return p, Fp

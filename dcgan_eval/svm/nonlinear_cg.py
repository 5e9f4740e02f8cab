"""Preconditioned nonlinear conjugate gradients: which rows are within the hinge is seen anew in every step.

A Newton step solves a quadratic model, for many products with X, and then finds its solution beyond the hinges of many
rows. Here each direction is conjugate to the one before in the Hessian of the moment, and is followed to the minimum
of the objective itself: one product with X, and one with its transpose for the new gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from . import decide
from .newton import NewtonSteps, Space, State, columns_of, inner
from .problems import Problem

_STEPS = 100  # of one round
_SHARE = 0.7  # rounds aim at this share of the tolerated gap, so that rounding cannot spoil it
_FINEST = 1e-6  # relative gap below which Newton's steps are better: few rows are still to cross their hinges
_FALL = 1 - 1e-13  # of the objective in a step, at least: less is rounding, on which conjugate directions grow
_GAIN = 0.01  # of the gap may be left after a round, for another one to be worth it


@dataclass
class ConjugateSteps(NewtonSteps):
    """Rounds of conjugate gradients while each makes the gap a hundred times smaller; then, or elsewhere, Newton's."""

    _last: torch.Tensor | None = field(default=None, repr=False)  # the gap before the last round

    def __call__(
        self, space: Space, problem: Problem, state: State, tol: float, aim: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors and scores after a round, or after a Newton step."""
        share = max(_SHARE * tol, _FINEST)
        pays = self._last is None or decide.holds(state.gap.max() < _GAIN * self._last)
        live = decide.where(state.gap > share * state.primal)
        if state.exact is not None or not (pays and space.is_deflated) or len(live) == 0:
            return super().__call__(space, problem, state, tol, aim)
        self._last = state.gap.max()
        return _round(space, problem, state, live, share)


def _round(
    space: Space, problem: Problem, state: State, live: torch.Tensor, aim: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step with one preconditioner until the relative gaps of the live problems seem to be at the aim.

    Scores take most of the memory there is for a fit: those of the state are written over.
    """
    U, F, some = state.U.clone(), state.F, problem.columns(live)
    now = _Point(U[live], columns_of(F, live), state.G[live], state.primal[live])
    precondition = space.preconditioner(space.curvature(some, now.U, now.F))
    place = torch.arange(len(live), device=U.device)  # in the preconditioner
    for count in range(1, _STEPS + 1):
        new = _step(space, some, now, precondition, place)
        fell = new.primal < _FALL * now.primal  # always, but for rounding: then a problem stays where it was
        new.return_to(now, decide.where(~fell))
        now = new
        far = fell
        if count % space.norm_every == 0:
            far = fell & (0.5 * inner(space, some, now.G, now.G) > aim * now.primal)
        left = decide.where(far)
        if len(left) == len(far) and count < _STEPS:
            continue
        U[live], F[:, live] = now.U, now.F
        if len(left) == 0:
            break
        # Problems that are done leave the batch, so that the others do not pay for them.
        live, place, some = live[left], place[left], some.columns(left)
        now.keep(left)
    return U, F


@dataclass
class _Point:
    """Vectors U, scores F, gradient G, objective, and the last step with its scores; K problems, float64."""

    U: torch.Tensor
    F: torch.Tensor
    G: torch.Tensor
    primal: torch.Tensor
    step: tuple[torch.Tensor, torch.Tensor] | None = None

    def keep(self, kept: torch.Tensor) -> None:
        """Let the other problems go, one array after the other."""
        self.U, self.G, self.primal, self.F = self.U[kept], self.G[kept], self.primal[kept], self.F[:, kept]
        if self.step is not None:
            self.step = (self.step[0][kept], self.step[1][:, kept])

    def return_to(self, other: _Point, problems: torch.Tensor) -> None:
        """Take vectors and scores of some problems from another point."""
        if len(problems):
            self.U[problems], self.F[:, problems] = other.U[problems], other.F[:, problems]
            self.primal[problems] = other.primal[problems]


def _step(
    space: Space,
    problem: Problem,
    now: _Point,
    precondition: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    place: torch.Tensor,
) -> _Point:
    """Take one step; ``place`` is where the preconditioner has the problems."""
    S = space.curvature(problem, now.U, now.F)
    P = space.settled(S.project(precondition(-now.G, place)))
    FP = space.scores(P)
    if now.step is not None:
        # Daniel 1967: conjugate to the last step in the present Hessian, of which their scores tell all that is needed.
        last, F_last = now.step
        bent, across = (problem.join(space.energy(S, V, now.step)) for V in (now.step, (P, FP)))
        beta = torch.where(bent > 0, -across / bent.clamp_min(1e-300), 0.0)
        slope, slope_of_last = (inner(space, problem, now.G, *V) for V in ((P, FP), now.step))
        beta = space.settled(torch.where(slope + beta * slope_of_last < 0, beta, 0.0))  # never uphill
        P, FP, now.step = P + beta[:, None] * last, F_last.mul_(beta).add_(FP), None
        del F_last
    t = space.line(problem, (now.U, now.F), (P, FP))
    t = torch.where(torch.isfinite(t), t, 0.0)
    U, F = space.correct(problem, now.U + t[:, None] * P, FP.mul_(t).add_(now.F))
    losses, pulled = space.change(problem, now.F, F)
    step = (U - now.U, torch.sub(F, now.F, out=FP))  # the correction's scores are not those it was given
    primal = 0.5 * inner(space, problem, U, U, F) + losses
    return _Point(U, F, now.G + step[0] - pulled, primal, step)

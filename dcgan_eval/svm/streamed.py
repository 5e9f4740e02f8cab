"""The space of the weights where even the scores, a number for each row and column, do not fit in memory.

A softmax over a thousand classes cannot be cut into blocks of columns. Scores are made from X and the weights wherever
they are needed, a few thousand rows at a time: three products with a block of X for a Hessian product instead of two,
and as much memory for a million rows as for a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .journal import Journal
from .objective import Evaluation, evaluate_weights
from .primal import PrimalSpace, has_many_scores
from .problems import Problem, in_pieces, line_minimum
from .rows import Rows
from .sums import in_pairs

_KEPT_ARRAYS = 8  # as large as all scores, that the Newton loop holds at once where they are kept
_SMALL_BYTES = 16 << 20  # kept however little memory there is
_LENGTH = 0.1  # relative error of a step's length that will do, as every look at it is a pass over X


@dataclass(frozen=True)
class _At:
    """The curvature of a problem at weights, from which it is made when it is needed."""

    problem: Problem
    U: torch.Tensor

    def columns(self, kept: torch.Tensor) -> _At:
        """Return that of some columns, which must be problems of their own, or all."""
        return self if len(kept) == len(self.U) else _At(self.problem.columns(kept), self.U[kept])

    def project(self, U: torch.Tensor) -> torch.Tensor:
        """Remove from vectors what has no curvature for any row."""
        none = self.U.new_zeros(1, len(self.U))
        return self.problem.rows(slice(0, 1)).curvature(none).project(U)


@dataclass
class StreamedSpace(PrimalSpace):
    """The space of w itself, with scores of no rows, (0, K), in place of those that the Newton loop carries along."""

    def scores(self, U: torch.Tensor) -> torch.Tensor:
        """Return the scores of no rows."""
        return self.no_scores(len(U))

    def no_scores(self, num_columns: int) -> torch.Tensor:
        """Return the scores of no rows."""
        return torch.zeros(0, num_columns, dtype=torch.float64, device=self.rows.device)

    def look(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all losses, (K,), and X^T a, (K, D + 1), reading X once."""
        losses, pulled, V = list[torch.Tensor](), self.rows.no_sum(len(U)), self.rows.split(U)
        for part, block in in_pieces(self.rows.blocks(), len(U)):
            here, scores = problem.rows(part), self.rows.forward(block, V)  # (B, K)
            losses.append(in_pairs(here.losses(scores)))
            self.rows.backward(part, block, here.pull(scores), pulled)
        return self.rows.in_order(torch.stack(losses)), self.rows.whole(pulled)

    def curvature(self, problem: Problem, U: torch.Tensor, F: torch.Tensor) -> Any:
        """Return the curvature at weights."""
        return _At(problem, U)

    def hessian(self, U: torch.Tensor, S: Any, image: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``u + X^T S X u`` and the scores of no rows, reading X once."""
        out, V = self.rows.no_sum(len(U)), self.rows.split(torch.cat([S.U, U]))
        for part, block in in_pieces(self.rows.blocks(), 2 * len(U)):
            at, along = torch.split(self.rows.forward(block, V), len(U), dim=1)  # (B, K) each
            self.rows.backward(part, block, S.problem.rows(part).curvature(at).apply(slice(None), along), out)
        return self.rows.whole(out).add_(U), self.no_scores(len(U))

    def line(
        self, problem: Problem, start: tuple[torch.Tensor, torch.Tensor], step: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return about the length of a step for which the objective is least, (K,)."""
        (U, _), (P, _) = start, step
        pu, pp = (problem.join(self.inner(P, vector)) for vector in (U, P))
        V = self.rows.split(torch.cat([U, P]))

        def slopes(t: torch.Tensor) -> torch.Tensor:
            both = list[torch.Tensor]()
            for part, block in in_pieces(self.rows.blocks(), 2 * len(U)):
                at, along = torch.split(self.rows.forward(block, V), len(U), dim=1)
                both.append(in_pairs(problem.rows(part).along(at, along)(t)))
            return self.rows.in_order(torch.stack(both))

        return self.settled(
            line_minimum(lambda kept: slopes, pu, pp, _LENGTH)
        )  # all columns make one problem: none is left behind

    def exact(self, problem: Problem, U: torch.Tensor) -> Evaluation:
        """Evaluate in float64 on X."""
        return evaluate_weights(self.rows, problem, U, keep=False)

    def _sampled(self, S: Any) -> torch.Tensor:
        """Return the diagonal of the curvature for the sampled rows that are held here."""
        V = self.rows.split(S.U)
        blocks = in_pieces(self.rows.blocks(within=self._ready().runs), len(S.U))
        found = [S.problem.rows(part).curvature(self.rows.forward(block, V)).diagonal for part, block in blocks]
        return torch.cat(found)


def joint_space(rows: Rows, num_columns: int, memory_bytes: float, journal: Journal | None = None) -> PrimalSpace:
    """Return the space for a problem whose columns cannot be solved apart: scores are kept where memory holds them.

    Softmax has no kinks to correct along the strongest directions: only the preconditioner needs directions.
    """
    needed = 8 * _KEPT_ARRAYS * rows.num_rows * num_columns
    kind = StreamedSpace if needed > max(memory_bytes, _SMALL_BYTES) else PrimalSpace
    return kind(rows, top_rank=0, journal=journal, is_wide=has_many_scores(rows, num_columns))

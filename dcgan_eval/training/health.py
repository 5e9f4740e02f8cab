"""Signs that training has failed: numbers that are not finite, and a discriminator that has won for good."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import TrainingError
from .log import Row

COLLAPSED_LOSS = 1e-3
"""D's loss below which G gets no gradient worth the name."""

COLLAPSED_ROWS = 50
"""Rows of the log in succession that make a collapse."""


@dataclass
class Health:
    """Tells from the log whether training still goes on.

    Attributes
    ----------
    bad_rows : int
        Rows in succession in which D told everything apart without effort. While there are any, no checkpoint is
        written, so that the last good one stays.
    """

    bad_rows: int = field(default=0)

    def check(self, row: Row, last_good: Path | None) -> None:
        """Look at a row of the log.

        Raises
        ------
        TrainingError
            A number is not finite, or D has won for good.
        """
        remedy = f"continue from {last_good or 'the start'} with --resume --allow-changes and a lower --learning-rate"
        if not all(map(math.isfinite, row.values())):
            raise TrainingError(
                f"Training diverged: a loss is not finite after {int(row['seen_images']):,} images",
                got=", ".join(f"{key} {value:g}" for key, value in row.items()),
                remedy=remedy,
            )
        self.bad_rows = self.bad_rows + 1 if row.get("d_loss", math.inf) < COLLAPSED_LOSS else 0
        if self.bad_rows >= COLLAPSED_ROWS:
            raise TrainingError(
                f"Training collapsed: D tells real from generated images without effort, so G learns nothing, since "
                f"{COLLAPSED_ROWS} rows of the log, up to {int(row['seen_images']):,} images",
                got=f"D's loss {row['d_loss']:.2g}",
                expected=f"more than {COLLAPSED_LOSS:g}",
                remedy=remedy,
            )

"""What is watched during a run: tables that grow, measurements on a schedule, and signs that training has failed."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TrainingError

if TYPE_CHECKING:
    from .trainer import BaseTrainer

Row = dict[str, float]

COLLAPSED_LOSS = 1e-3
"""D's loss below which G gets no gradient worth the name."""

COLLAPSED_ROWS = 50
"""Rows of the log in succession that make a collapse."""


@dataclass(frozen=True)
class Measurement:
    """Something measured on a schedule.

    Attributes
    ----------
    name : str
        Names the table, ``<name>.csv``.
    every_images : int
        Images between two measurements.
    measure : callable
        Takes the trainer; returns numbers to tabulate. A ``score`` (higher is better) decides which networks are kept
        as the best.
    """

    name: str
    every_images: int
    measure: Callable[[BaseTrainer], Row]

    def is_due(self, seen_before: int, seen_now: int) -> bool:
        """Tell whether a round crossed a multiple of the interval."""
        return seen_before // self.every_images < seen_now // self.every_images


class Table:
    """A CSV file that grows row by row, so that it can be followed and survives a kill.

    Parameters
    ----------
    path : Path
        The file.
    rounds_done : int
        Where the run continues: rows from later rounds are dropped, for they will be made again.
    """

    def __init__(self, path: Path, rounds_done: int):
        self.path = path
        self.rows = [row for row in read_table(path) if row["round"] <= rounds_done]
        path.unlink(missing_ok=True)
        for row in self.rows:
            self._write(row)

    def append(self, row: Row) -> None:
        """Add a row."""
        self.rows.append(row)
        self._write(row)

    def _write(self, row: Row) -> None:
        """Write a row, after the header if the file is new."""
        is_new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def read_table(path: Path) -> list[Row]:
    """Read a table of a run; empty if there is none. A last row cut short by a kill is left out."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items()} for row in rows if None not in row.values()]


class Board:
    """TensorBoard, where it is installed; otherwise nothing.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    """

    def __init__(self, folder: Path):
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, name: str, row: Row) -> None:
        """Show the numbers of a row against the images seen."""
        if self._writer is not None:
            for key, value in row.items():
                self._writer.add_scalar(f"{name}/{key}", value, int(row["seen_images"]))


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

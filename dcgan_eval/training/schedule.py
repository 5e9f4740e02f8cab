"""What is measured during a run, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .log import Row

if TYPE_CHECKING:
    from .trainer import BaseTrainer


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

"""TensorBoard beside the tables of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .log import Row


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

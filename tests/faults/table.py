"""The campaign's table: which rows there are, and how much of each is tried in a test."""

from __future__ import annotations

from dataclasses import dataclass

FAULTS = ("lost", "falsely complete", "silent", "stuck", "traceback")
"""Verdicts that must not be."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    kind : str
        ``kills``, ``errors``, ``interrupts``, ``flips``, ``races`` or ``stale``.
    target : str
        What it is done to: a command, or a kind of file.
    tries : int
        How many belong to the test suite; 0 leaves a row to the long run.
    share : float
        Part of a long run's time, relative to the others.
    """

    kind: str
    target: str
    tries: int
    share: float = 1.0

    @property
    def name(self) -> str:
        """How the row is called."""
        return f"{self.kind}: {self.target}"


ROWS = (
    Row("kills", "features", 1, 6.0),
    Row("kills", "features of the discriminator", 1, 4.0),
    Row("kills", "pack", 1, 6.0),
    Row("kills", "train", 0, 2.0),
    Row("kills", "train, continued", 0, 2.0),
    Row("kills", "svm", 1, 4.0),
    Row("kills", "K-means", 1, 5.0),
    Row("kills", "regress", 1, 4.0),
    Row("kills", "report", 1, 0.6),
    Row("kills", "export", 1, 0.6),
    Row("kills", "weights import", 1, 1.0),
    Row("kills", "samples", 1, 1.0),
    Row("errors", "features", 1, 2.0),
    Row("errors", "features of the discriminator", 1, 2.0),
    Row("errors", "pack", 2, 2.0),
    Row("errors", "train", 0, 2.0),
    Row("errors", "svm", 1, 2.0),
    Row("errors", "K-means", 1, 2.0),
    Row("errors", "report", 1, 0.3),
    Row("errors", "export", 1, 0.3),
    Row("errors", "weights import", 1, 0.5),
    Row("errors", "samples", 1, 0.5),
    Row("interrupts", "features", 1),
    Row("interrupts", "pack", 1),
    Row("interrupts", "svm", 1),
    Row("interrupts", "K-means", 1),
    Row("interrupts", "report", 1, 0.3),
    Row("interrupts", "weights import", 1, 0.3),
    Row("flips", "batch-norm cache", 1),
    Row("flips", "K-means codebook", 1),
    Row("flips", "weights of one's own", 3, 0.5),
    Row("flips", "record, shown", 3, 0.5),
    Row("flips", "record, verified", 1),
    Row("flips", "feature store", 3),
    Row("flips", "feature store, unfinished", 2),
    Row("flips", "pack", 3, 0.5),
    Row("flips", "parts of a pack", 0),
    Row("flips", "regress baseline", 3, 0.5),
    Row("flips", "training log", 0, 1.5),
    Row("flips", "training configuration", 0, 1.0),
    Row("flips", "checkpoint manifest", 0, 1.5),
    Row("flips", "checkpoint", 0, 1.5),
    Row("flips", "manifest of the weights", 2, 0.5),
    Row("races", "features", 1, 2.0),
    Row("races", "pack", 1, 2.0),
    Row("races", "svm", 1, 2.0),
    Row("races", "K-means", 0, 1.0),
    Row("races", "train", 0, 1.5),
    Row("races", "report", 1, 0.5),
    Row("races", "record names", 1, 0.5),
    Row("stale", "an encoder changed", 3, 0.0),
)

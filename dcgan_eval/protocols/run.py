"""What a run knows while it is going on, and which of its fits may be used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..data.imageset import ImageSet
from ..data.splits import draw_per_class, rows_digest, stratified_split
from ..errors import ConvergenceError, ProtocolError
from ..features.store import FeatureStore
from ..progress import Progress
from ..ranks import ALONE, Team
from ..records import CERTIFIED, Record
from ..svm.journal import Journal
from ..svm.rows import shares
from .classifiers import Classifier, Fit, has_open_grid, keeping_fits, on_device
from .matrix import Matrix, part
from .settings import Settings
from .sources import Filler, constant_note
from .spec import Protocol, Ranked


@dataclass
class Run:
    """What a run knows while it is going on; nothing in it holds a test label."""

    protocol: Protocol
    settings: Settings
    classifier: Classifier
    train: ImageSet
    rows: (
        np.ndarray
    )  # of the training images, as the matrix has them: those for fitting first, then the validation rows
    num_kept: int  # rows for fitting while the hyperparameter is chosen, and the pool of draws
    progress: Progress
    journal: Journal | None  # of its long fits
    timings_s: dict[str, float] = field(default_factory=dict)
    rows_sha256: dict[str, list[str]] = field(default_factory=dict)  # what each split and draw held, by stream
    notes: list[str] = field(default_factory=list)
    ranked: list[Ranked] = field(default_factory=list)
    has_open_grid: bool = False  # whether values beyond the classifier's are tried where the best is at their end
    team: Team = ALONE  # processes that share the rows of one fit, each predicting for some
    load: Callable[[FeatureStore], Matrix] = lambda store: store

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the matrix's rows, (N,)."""
        assert self.train.labels is not None, "checked when the run starts"
        return self.train.labels[self.rows]

    def share(self, X: Matrix, rows: slice = slice(None)) -> Matrix:
        """Return what this process predicts for of some rows of a matrix, loaded."""
        return self._loaded(part(part(X, rows), self.team.part(len(range(len(X))[rows]))))

    def to_fit(self, X: Matrix, rows: slice = slice(None)) -> tuple[Matrix, np.ndarray]:
        """Return what this process fits of some rows of the matrix, loaded, with their labels."""
        y = self.labels[rows]
        if getattr(self.classifier, "group", None) is None:  # not spread: neighbours are looked for among all
            return self._loaded(part(X, rows)), y
        here = shares(X, len(y), getattr(self.classifier, "device", None), self.team.size)[self.team.rank]
        return self._loaded(part(part(X, rows), here)), y[here]

    def _loaded(self, X: Matrix) -> Matrix:
        """Return a matrix where its size allows it to be."""
        return self.load(X) if isinstance(X, FeatureStore) else X

    def draw(self, draw: int, stream: str) -> np.ndarray:
        """Draw from the kept rows, and note which; return their places in the matrix."""
        assert self.protocol.per_class is not None, "only called for protocols with draws"
        kept = self.rows[: self.num_kept]
        rows = draw_per_class(self.train, kept, self.protocol.per_class, self.settings.seed, draw, stream)
        self.note_rows(rows, stream)
        place = np.empty(self.train.num_images, np.int64)
        place[self.rows] = np.arange(len(self.rows))
        return place[rows]

    def look_at(self, source: Filler) -> None:
        """Learn from the features what they ask of the search, and note when they tell nothing."""
        self.has_open_grid = has_open_grid(self.classifier, self.protocol, source.describe())
        self.notes += constant_note(source.stores[0])

    def finished(self, record: Record) -> Record:
        """Delete what a killed run would have gone on from, as there is a record."""
        if self.journal is not None:
            self.journal.clear()
        return record

    def note_rows(self, rows: np.ndarray, stream: str) -> None:
        """Note the digest of the pixels of some rows."""
        self.rows_sha256.setdefault(stream, []).append(rows_digest(self.train, rows))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a stage."""
        started = time.perf_counter()
        yield
        self.timings_s[stage] = self.timings_s.get(stage, 0.0) + time.perf_counter() - started


def start(
    protocol: Protocol,
    train: ImageSet,
    settings: Settings,
    progress: Progress,
    device: torch.device | None,
    cache_dir: Path | None = None,
) -> Run:
    """Split off the validation rows."""
    if train.labels is None:
        raise ProtocolError("The training set has no labels", got=f"{train.name} {train.split}")
    protocol = settings.named(protocol)
    num_held_out = protocol.num_held_out(train.num_images)
    kept, validation = stratified_split(train, num_held_out, settings.seed, "validation")
    journal = None if cache_dir is None else Journal(cache_dir)
    classifier = keeping_fits(on_device(settings.classifier_for(protocol), device), journal)
    rows = np.concatenate([kept, validation])
    run = Run(protocol, settings, classifier, train, rows, len(kept), progress, journal)
    run.note_rows(validation, "validation")
    return run


def named(run: Run, value: float) -> str:
    """Return the hyperparameter with its name."""
    return f"{run.classifier.parameter} = {value:g}"


def is_accepted(run: Run, fit: Fit) -> bool:
    """Tell whether a fit has its certificate, or may lack it."""
    return fit.status in CERTIFIED or run.settings.allow_unconverged


def accepted(run: Run, fit: Fit) -> Fit:
    """Refuse a fit without its certificate, unless the user asked for it."""
    if not is_accepted(run, fit):
        has_tol = run.classifier.parameter == "C"
        gap = "" if fit.duality_gap is None else f", relative duality gap {fit.duality_gap:.1e}"
        raise ConvergenceError(
            f"The fit at {named(run, fit.value)} did not converge, so it has no score",
            got=f"status {fit.status}{gap}",
            expected="a gap within --tol" if has_tol else f"one of {', '.join(CERTIFIED)}",
            remedy="raise --tol, or use --allow-unconverged to report it marked as unconverged"
            if has_tol
            else "look at the features with `describe`, or use `svm`, which says how far a fit is from its optimum",
        )
    return fit

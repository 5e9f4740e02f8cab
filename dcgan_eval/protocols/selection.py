"""The choice of a hyperparameter on validation rows: values tried until the score has stopped rising."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..data.imageset import ImageSet
from ..progress import no_progress
from .classifiers import Classifier, has_open_grid, looking_ahead, with_values
from .matrix import Matrix
from .run import Run, accepted, is_accepted, named, start
from .settings import DEFAULTS, Settings
from .spec import Protocol
from .statistics import accuracy

_DECADES = 8
"""How far an open grid goes beyond its values, in powers of ten."""


def validation_curve(
    protocol: Protocol,
    train: ImageSet,
    X: np.ndarray,
    features: Mapping[str, Any],
    settings: Settings = DEFAULTS,
    device: torch.device | None = None,
) -> list[dict[str, Any]]:
    """Choose a hyperparameter as a run does, and stop there: no test set takes part.

    Parameters
    ----------
    protocol : Protocol
        One without draws.
    train : ImageSet
        Labelled training images.
    X : ndarray
        Their features, (N, D), float32.
    features : mapping
        What a source's ``describe`` says of them; it decides how far the search goes.
    settings : Settings
        As for a run.
    device : torch.device or None
        Where to fit, as for a :class:`~dcgan_eval.protocols.settings.Place`.

    Returns
    -------
    list of dict
        Value and validation ``score`` of each candidate tried, ascending by value.

    Raises
    ------
    ConvergenceError, ProtocolError, DataError
        As for :func:`run_protocol`.
    """
    run = start(protocol, train, settings, no_progress, device)
    run.has_open_grid = has_open_grid(run.classifier, run.protocol, features)
    kept, held_out = run.rows[: run.num_kept], run.rows[run.num_kept :]
    return curve_of(run, X[kept], run.labels[: run.num_kept], X[held_out], "")


def curve_of(run: Run, X: Matrix, y: np.ndarray, X_val: Matrix, label: str) -> list[dict[str, Any]]:
    """Fit ascending values until the validation score has stopped rising; return a row per value.

    An open grid goes on, by factors of ten, until the best value is not at its end: how large the features of one's own
    encoder are is not known.
    """
    search = Search(run, X, y, X_val, label)
    search.walk(looking_ahead(run.classifier, search.num_certain), search.is_over)
    if run.has_open_grid:
        search.widen()
    run.progress(f"{label}{run.classifier.parameter} chosen on {len(run.rows) - run.num_kept:,} validation rows", 1, 1)
    return search.curve


@dataclass
class Search:
    """The values of a hyperparameter tried so far, each fitted to X (N, D), y (N,) and scored on the held-out rows."""

    run: Run
    X: Matrix
    y: np.ndarray
    X_val: Matrix
    label: str
    curve: list[dict[str, Any]] = field(default_factory=list)

    def walk(self, classifier: Classifier, is_over: Callable[[], bool]) -> None:
        """Try the values of a classifier until it is over, or one of them does not converge."""
        run, y_val = self.run, self.run.labels[self.run.num_kept :]
        for i, (fit, predicted) in enumerate(classifier.path(self.X, self.y, self.X_val)):
            if self.curve and not is_accepted(run, fit):
                run.notes.append(f"the path ended before {named(run, fit.value)}, which did not converge")
                break
            accepted(run, fit)
            score = accuracy(y_val, run.team.whole(predicted), run.protocol.metric)
            row = {classifier.parameter: fit.value, "score": score, "gap": fit.duality_gap, "status": fit.status}
            self.curve = sorted([*self.curve, row], key=lambda row: row[classifier.parameter])
            what = f"{self.label}{named(run, fit.value)}: validation {score:.1%}"
            run.progress(what, i + 1, len(classifier.values))
            if is_over():
                break

    def num_certain(self) -> int:
        """Return how many of the next values will be tried however they turn out, at least one."""
        return max(1, self.run.classifier.patience - self._num_since_best())

    def is_over(self) -> bool:
        """Whether as many values as the classifier has patience for were no better than the best before them."""
        run, scores = self.run, [row["score"] for row in self.curve]
        if run.has_open_grid and (run.protocol.relative or min(scores) == max(scores) < 1):
            return False  # equal ones at the start are a plateau below the rise
        return self._num_since_best() >= run.classifier.patience

    def _num_since_best(self) -> int:
        """Return how many values were tried after the best; -1 before the first."""
        scores = [row["score"] for row in self.curve]
        return len(scores) - 1 - scores.index(max(scores)) if scores else -1

    def widen(self) -> None:
        """Try smaller values while the smallest is best or all are equal, then larger ones while the largest is."""
        classifier, name, before = self.run.classifier, self.run.classifier.parameter, self.curve
        is_whole = before[-1][name] == classifier.values[-1]  # every value converged
        for k in range(1, _DECADES + 1):
            scores = [row["score"] for row in self.curve]
            is_alone = scores[0] > max(scores[1:], default=-1.0)
            if max(scores) == 1 or not (is_alone or min(scores) == max(scores)):
                break
            self.walk(with_values(classifier, [classifier.values[0] / 10**k]), lambda: True)
        if is_whole and not self._is_below_the_top():
            larger = [classifier.values[-1] * 10**k for k in range(1, _DECADES + 1)]
            self.walk(with_values(classifier, larger), self._is_below_the_top)
        if len({row["score"] for row in self.curve}) == 1:
            self.curve = before  # it makes no difference: the smallest of the protocol's own

    def _is_below_the_top(self) -> bool:
        """Whether larger values have nothing to offer: a smaller one is as good as the largest, or none is wrong."""
        scores = [row["score"] for row in self.curve]
        return max(scores) == 1 or (min(scores) < max(scores) and scores.index(max(scores)) < len(scores) - 1)


def merge_curves(curves: list[list[dict[str, Any]]], parameter: str) -> list[dict[str, Any]]:
    """Average the validation curves of the draws over the values that all of them reached."""
    by_value = [{row[parameter]: row for row in curve} for curve in curves]
    common = sorted(set.intersection(*map(set, by_value)))
    rows_of = {value: [curve[value] for curve in by_value] for value in common}
    return [
        {
            parameter: value,
            "score": float(np.mean([row["score"] for row in rows])),
            "scores": [row["score"] for row in rows],
            "duality_gap": largest([row["gap"] for row in rows]),
        }
        for value, rows in rows_of.items()
    ]


def largest(gaps: list[float | None]) -> float | None:
    """Return the largest gap, None where nothing has one."""
    return max((gap for gap in gaps if gap is not None), default=None)


def best_value(selection: list[dict[str, Any]], parameter: str) -> float:
    """Return the value with the highest mean validation score, the smallest of equals."""
    return float(max(selection, key=lambda row: (row["score"], -row[parameter]))[parameter])

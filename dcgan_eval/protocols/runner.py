"""The protocol engine: features, choice of C on validation rows, fits, one look at the test labels, a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..data.imageset import ImageSet
from ..data.repeats import check_near_duplicates
from ..errors import ProtocolError
from ..features.store import FeatureStore
from ..progress import Progress, no_progress
from ..ranks import ALONE, Team
from ..records import Record
from .classifiers import Fit, can_share, rank, spread_over
from .matrix import Matrix, load, part, place_of
from .outcome import Measured, record_of
from .run import Run, accepted, named, start
from .saved_probe import check_probe_target, write_probe
from .selection import best_value, curve_of, merge_curves
from .settings import DEFAULTS, Place, Settings
from .sources import Filler
from .spec import Protocol, SealedTest


def run_protocol(
    protocol: Protocol,
    train: ImageSet,
    test: SealedTest,
    source: Filler,
    settings: Settings = DEFAULTS,
    place: Place | None = None,
    progress: Progress = no_progress,
) -> Record:
    """Run a protocol and return its record.

    Parameters
    ----------
    protocol : Protocol
        What to do.
    train : ImageSet
        Labelled training images.
    test : SealedTest
        Test images; their labels are used once, after everything has been chosen and predicted.
    source : Filler
        Where features come from.
    settings : Settings
        What else decides the numbers.
    place : Place or None
        Where features are kept, and how much memory they may take.
    progress : callable
        Shows long work.

    Returns
    -------
    Record

    Raises
    ------
    ConvergenceError
        A fit did not reach its tolerance.
    ProtocolError, DataError
        The data cannot carry the protocol.
    LeakError
        The test set was used before.
    WeightsError
        The classifier cannot be kept where ``place`` says.

    Source: arXiv:1511.06434, section 5, and the 2016 release. Deviations: for CIFAR-10, where the release has no
    script, C is chosen on 10,000 stratified training images; for SVHN the same 10 draws serve every C.
    """
    started, place = time.perf_counter(), place or Place()
    source.team = place.team
    _check_same_kind(train, test.images)
    run = start(protocol, train, settings, progress, place.device, place.cache_dir)
    if settings.near_duplicates:
        check_near_duplicates(train)
    if place.probe is not None:
        check_probe_target(place.probe, run.protocol, run.classifier)
    with run.timed("features"):
        source.prepare(train.without_labels(), test.images, progress, place.cache_dir, wait=place.wait)
    run.look_at(source)
    fits, selection, predictions = _fitted(run, source, place)
    place.team.alone()
    test.ranked = run.ranked
    cached = {"cached": [store.reused for store in source.stores], "num_features": source.stores[0].shape[1]}
    run.notes += source.notes
    measured = Measured(source.describe() | cached, fits, selection, test.score(predictions))
    record = record_of(run, test, measured, time.perf_counter() - started)
    if place.probe is not None:
        write_probe(place.probe, fits[0], record)
    return run.finished(record)


def _fitted(run: Run, source: Filler, place: Place) -> _Found:
    """Fit what the protocol asks for, and predict with it, together with the processes that can take part."""
    team = _sharing(run, source, place)

    def predict(fits: list[Fit]) -> list[np.ndarray]:
        with run.timed("test"):
            X_test, whole = run.share(source.stores[1]), run.team.whole
            run.ranked += [found.each(whole) for found in rank(run.classifier, fits, X_test, run.train.num_classes)]
            return [whole(predicted) for predicted in run.classifier.predict(fits, X_test)]

    X: Matrix = source.stores[0].take(run.rows)
    if run.protocol.per_class is None:
        run.team, run.classifier = team, spread_over(run.classifier, team)
        fits, selection, predictions = _fit_all(run, X)
    else:
        fits, selection, predictions = _fit_draws(run, X, predict, team)
        run.team = team
    del X
    return fits, selection, predictions or predict(fits)


def _sharing(run: Run, source: Filler, place: Place) -> Team:
    """Return the processes that go on together: all where draws or rows can be shared, else the one that leads."""
    team, device, width = place.team, place_of(run.classifier), source.stores[0].shape[1]
    run.load = lambda store: load(store, place.memory_bytes // team.beside, device)
    fewest = min(run.num_kept, len(run.rows) - run.num_kept, len(source.stores[1]))
    has_draws = run.protocol.per_class is not None
    if team.decided(
        lambda: fewest >= team.size and (has_draws or can_share(run.classifier, run.num_kept, width, device))
    ):
        return team
    return team.alone()


def _check_same_kind(train: ImageSet, test: ImageSet) -> None:
    """Refuse a training and a test set of different classes or sizes."""
    if (train.class_names, train.image_shape) != (test.class_names, test.image_shape):
        described = [
            f"{s.name} {s.split}: {s.num_classes} classes ({', '.join(s.class_names[:3])}, ...), {s.image_shape}"
            for s in (train, test)
        ]
        raise ProtocolError(
            "The training and the test images are not of one data set",
            got=" and ".join(described),
            expected="the same class names in the same order, and images of one size",
            remedy="take both splits from the same data set, with the same class folders in each",
        )


_Found = tuple[list[Fit], list[dict[str, Any]], list[np.ndarray]]  # fits, validation curve, predictions made already


def _fit_all(run: Run, X: Matrix) -> _Found:
    """Choose the hyperparameter with the validation rows held out, then fit on all rows."""
    kept, held_out = slice(run.num_kept), slice(run.num_kept, None)
    if run.team.size == 1:
        with run.timed("load"):
            X = run.load(X) if isinstance(X, FeatureStore) else X
    with run.timed("select"):
        curve = curve_of(run, *run.to_fit(X, kept), run.share(X, held_out), "")
        selection = merge_curves([curve], run.classifier.parameter)
        value = best_value(selection, run.classifier.parameter)
    with run.timed("fit"):
        what = f"fit on all {len(X):,} rows, {named(run, value)}"
        run.progress(what, 0, 1)
        fit = accepted(run, run.classifier.fit(*run.to_fit(X), value))
        run.progress(what, 1, 1)
    return [fit], selection, []


def _fit_draws(run: Run, X: Matrix, predict: Callable[[list[Fit]], list[np.ndarray]], team: Team = ALONE) -> _Found:
    """Choose the hyperparameter by the mean validation score of some draws, then fit fresh draws.

    Each process of a team fits some of the draws.
    """
    protocol = run.protocol
    with run.timed("load"):
        X = run.load(X) if isinstance(X, FeatureStore) else X
    X_val = part(X, slice(run.num_kept, None))
    drawn = [run.draw(draw, "selection") for draw in range(protocol.selection_draws)]

    def select(draw: int) -> tuple[list[dict[str, Any]], list[str]]:
        rows, label = drawn[draw], f"draw {draw + 1} of {protocol.selection_draws}, "
        return curve_of(run, part(X, rows), run.labels[rows], X_val, label), run.notes

    with run.timed("select"):
        curves, notes = zip(*team.each(range(protocol.selection_draws), select), strict=True)
        run.notes = [note for some in notes for note in some]
        selection = merge_curves(list(curves), run.classifier.parameter)
        value = best_value(selection, run.classifier.parameter)
    drawn = [run.draw(draw, "test") for draw in range(protocol.num_draws)]

    def fit(draw: int) -> tuple[Fit, list[np.ndarray]]:
        rows = drawn[draw]
        fit = accepted(run, run.classifier.fit(part(X, rows), run.labels[rows], value))
        if not run.classifier.keeps_rows:
            return fit, []
        return fit.without_rows(), predict([fit])  # a hundred draws of rows do not fit in memory together

    def on_done(count: int) -> None:
        run.progress(f"fits at {named(run, value)}", count, protocol.num_draws)

    with run.timed("fit"):
        fits, predictions = zip(*team.each(range(protocol.num_draws), fit, on_done), strict=True)
    return list(fits), selection, [predicted for some in predictions for predicted in some]

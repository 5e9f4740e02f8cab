"""The protocol engine: features, choice of C on validation rows, fits, one look at the test labels, a record."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import provenance
from ..data.feature_rows import FeatureRows
from ..data.imageset import ImageSet
from ..data.repeats import check_near_duplicates, count_near_duplicates
from ..data.splits import draw_per_class, rows_digest, stratified_split
from ..errors import ConvergenceError, ProtocolError
from ..features.store import FeatureStore
from ..progress import Progress, no_progress
from ..ranks import ALONE, Team
from ..records import CERTIFIED, Record, pack_counts
from ..svm.journal import Journal
from .classifiers import (
    Classifier,
    Fit,
    can_share,
    has_open_grid,
    keeping_fits,
    on_device,
    rank,
    spread_over,
    with_values,
)
from .matrix import Matrix, load, part, place_of
from .saved_probe import check_probe_target, write_probe
from .settings import DEFAULTS, Place, Settings
from .sources import Filler, constant_note
from .spec import Protocol, Ranked, SealedTest
from .statistics import accuracy, accuracy_in, interval_over_draws, interval_over_images, spread_of_draws

_DECADES = 8
"""How far an open grid goes beyond its values, in powers of ten."""


@dataclass
class _Run:
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
        return self.share(X, rows), y[self.team.part(len(y))]

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
    run = _start(protocol, train, settings, progress, place.device, place.cache_dir)
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
    measured = _Measured(source.describe() | cached, fits, selection, test.score(predictions))
    record = _record(run, test, measured, time.perf_counter() - started)
    if place.probe is not None:
        write_probe(place.probe, fits[0], record)
    return run.finished(record)


def _fitted(run: _Run, source: Filler, place: Place) -> _Found:
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


def _sharing(run: _Run, source: Filler, place: Place) -> Team:
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


def _start(
    protocol: Protocol,
    train: ImageSet,
    settings: Settings,
    progress: Progress,
    device: torch.device | None,
    cache_dir: Path | None = None,
) -> _Run:
    """Split off the validation rows."""
    if train.labels is None:
        raise ProtocolError("The training set has no labels", got=f"{train.name} {train.split}")
    protocol = settings.named(protocol)
    num_held_out = protocol.num_held_out(train.num_images)
    kept, validation = stratified_split(train, num_held_out, settings.seed, "validation")
    journal = None if cache_dir is None else Journal(cache_dir)
    classifier = keeping_fits(on_device(settings.classifier_for(protocol), device), journal)
    rows = np.concatenate([kept, validation])
    run = _Run(protocol, settings, classifier, train, rows, len(kept), progress, journal)
    run.note_rows(validation, "validation")
    return run


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
    run = _start(protocol, train, settings, no_progress, device)
    run.has_open_grid = has_open_grid(run.classifier, run.protocol, features)
    kept, held_out = run.rows[: run.num_kept], run.rows[run.num_kept :]
    return _validation_curve(run, X[kept], run.labels[: run.num_kept], X[held_out], "")


_Found = tuple[list[Fit], list[dict[str, Any]], list[np.ndarray]]  # fits, validation curve, predictions made already


def _fit_all(run: _Run, X: Matrix) -> _Found:
    """Choose the hyperparameter with the validation rows held out, then fit on all rows."""
    kept, held_out = slice(run.num_kept), slice(run.num_kept, None)
    if run.team.size == 1:
        with run.timed("load"):
            X = run.load(X) if isinstance(X, FeatureStore) else X
    with run.timed("select"):
        curve = _validation_curve(run, *run.to_fit(X, kept), run.share(X, held_out), "")
        selection = _merge_curves([curve], run.classifier.parameter)
        value = best_value(selection, run.classifier.parameter)
    with run.timed("fit"):
        what = f"fit on all {len(X):,} rows, {_named(run, value)}"
        run.progress(what, 0, 1)
        fit = _accepted(run, run.classifier.fit(*run.to_fit(X), value))
        run.progress(what, 1, 1)
    return [fit], selection, []


def _fit_draws(run: _Run, X: Matrix, predict: Callable[[list[Fit]], list[np.ndarray]], team: Team = ALONE) -> _Found:
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
        return _validation_curve(run, part(X, rows), run.labels[rows], X_val, label), run.notes

    with run.timed("select"):
        curves, notes = zip(*team.each(range(protocol.selection_draws), select), strict=True)
        run.notes = [note for some in notes for note in some]
        selection = _merge_curves(list(curves), run.classifier.parameter)
        value = best_value(selection, run.classifier.parameter)
    drawn = [run.draw(draw, "test") for draw in range(protocol.num_draws)]

    def fit(draw: int) -> tuple[Fit, list[np.ndarray]]:
        rows = drawn[draw]
        fit = _accepted(run, run.classifier.fit(part(X, rows), run.labels[rows], value))
        if not run.classifier.keeps_rows:
            return fit, []
        return fit.without_rows(), predict([fit])  # a hundred draws of rows do not fit in memory together

    def on_done(count: int) -> None:
        run.progress(f"fits at {_named(run, value)}", count, protocol.num_draws)

    with run.timed("fit"):
        fits, predictions = zip(*team.each(range(protocol.num_draws), fit, on_done), strict=True)
    return list(fits), selection, [predicted for some in predictions for predicted in some]


def _validation_curve(run: _Run, X: Matrix, y: np.ndarray, X_val: Matrix, label: str) -> list[dict[str, Any]]:
    """Fit ascending values until the validation score has stopped rising; return a row per value.

    An open grid goes on, by factors of ten, until the best value is not at its end: how large the features of one's own
    encoder are is not known.
    """
    search = _Search(run, X, y, X_val, label)
    search.walk(run.classifier, search.is_over)
    if run.has_open_grid:
        search.widen()
    run.progress(f"{label}{run.classifier.parameter} chosen on {len(run.rows) - run.num_kept:,} validation rows", 1, 1)
    return search.curve


@dataclass
class _Search:
    """The values of a hyperparameter tried so far, each fitted to X (N, D), y (N,) and scored on the held-out rows."""

    run: _Run
    X: Matrix
    y: np.ndarray
    X_val: Matrix
    label: str
    curve: list[dict[str, Any]] = field(default_factory=list)

    def walk(self, classifier: Classifier, is_over: Callable[[], bool]) -> None:
        """Try the values of a classifier until it is over, or one of them does not converge."""
        run, y_val = self.run, self.run.labels[self.run.num_kept :]
        for i, (fit, predicted) in enumerate(classifier.path(self.X, self.y, self.X_val)):
            if self.curve and not _is_accepted(run, fit):
                run.notes.append(f"the path ended before {_named(run, fit.value)}, which did not converge")
                break
            _accepted(run, fit)
            score = accuracy(y_val, run.team.whole(predicted), run.protocol.metric)
            row = {classifier.parameter: fit.value, "score": score, "gap": fit.duality_gap, "status": fit.status}
            self.curve = sorted([*self.curve, row], key=lambda row: row[classifier.parameter])
            what = f"{self.label}{_named(run, fit.value)}: validation {score:.1%}"
            run.progress(what, i + 1, len(classifier.values))
            if is_over():
                break

    def is_over(self) -> bool:
        """Whether as many values as the classifier has patience for were no better than the best before them."""
        run, scores = self.run, [row["score"] for row in self.curve]
        if run.has_open_grid and (run.protocol.relative or min(scores) == max(scores) < 1):
            return False  # equal ones at the start are a plateau below the rise
        return len(scores) - 1 - scores.index(max(scores)) >= run.classifier.patience

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


def _named(run: _Run, value: float) -> str:
    """Return the hyperparameter with its name."""
    return f"{run.classifier.parameter} = {value:g}"


def _merge_curves(curves: list[list[dict[str, Any]]], parameter: str) -> list[dict[str, Any]]:
    """Average the validation curves of the draws over the values that all of them reached."""
    by_value = [{row[parameter]: row for row in curve} for curve in curves]
    common = sorted(set.intersection(*map(set, by_value)))
    rows_of = {value: [curve[value] for curve in by_value] for value in common}
    return [
        {
            parameter: value,
            "score": float(np.mean([row["score"] for row in rows])),
            "scores": [row["score"] for row in rows],
            "duality_gap": _largest([row["gap"] for row in rows]),
        }
        for value, rows in rows_of.items()
    ]


def _largest(gaps: list[float | None]) -> float | None:
    """Return the largest gap, None where nothing has one."""
    return max((gap for gap in gaps if gap is not None), default=None)


def best_value(selection: list[dict[str, Any]], parameter: str) -> float:
    """Return the value with the highest mean validation score, the smallest of equals."""
    return float(max(selection, key=lambda row: (row["score"], -row[parameter]))[parameter])


def _is_accepted(run: _Run, fit: Fit) -> bool:
    """Tell whether a fit has its certificate, or may lack it."""
    return fit.status in CERTIFIED or run.settings.allow_unconverged


def _accepted(run: _Run, fit: Fit) -> Fit:
    """Refuse a fit without its certificate, unless the user asked for it."""
    if not _is_accepted(run, fit):
        has_tol = run.classifier.parameter == "C"
        gap = "" if fit.duality_gap is None else f", relative duality gap {fit.duality_gap:.1e}"
        raise ConvergenceError(
            f"The fit at {_named(run, fit.value)} did not converge, so it has no score",
            got=f"status {fit.status}{gap}",
            expected="a gap within --tol" if has_tol else f"one of {', '.join(CERTIFIED)}",
            remedy="raise --tol, or use --allow-unconverged to report it marked as unconverged"
            if has_tol
            else "look at the features with `describe`, or use `svm`, which says how far a fit is from its optimum",
        )
    return fit


@dataclass(frozen=True)
class _Measured:
    """What a run found."""

    features: dict[str, Any]
    fits: list[Fit]
    selection: list[dict[str, Any]]
    confusions: list[np.ndarray]


def _record(run: _Run, test: SealedTest, found: _Measured, time_s: float) -> Record:
    """Put everything that the run found and used into a record."""
    train, classifier, value, fits = run.train, run.classifier, found.fits[0].value, found.fits
    metric, confusion = run.protocol.metric, np.sum(found.confusions, axis=0)
    scores = [accuracy_in(of_draw, metric) for of_draw in found.confusions]
    worst = next((fit for fit in fits if fit.status not in CERTIFIED), fits[0])
    assert test.num_right is not None, "scored before"
    repeats = test.repeats(train)
    if run.settings.near_duplicates:
        repeats["near"] = count_near_duplicates(train, test.images)
    return Record(
        protocol=run.protocol.id,
        spec=asdict(run.protocol),
        settings=run.settings.as_dict(),
        features=found.features,
        classifier=_classifier_entry(run, value),
        data={
            "train": _data_entry(train, train.fingerprint),
            "test": _data_entry(test.images, test.fingerprint) | {"in_train": repeats},
        },
        metric=metric,
        score=float(np.mean(scores)),
        spread=spread_of_draws(scores),
        ci95=interval_over_draws(scores, confusion, metric),
        ci95_with_images=interval_over_images(scores, confusion, test.num_right, metric),
        num_draws=len(scores),
        status=worst.status,
        duality_gap=_largest([fit.duality_gap for fit in fits]),
        selection=found.selection,
        draws=[_draw_entry(score, fit, classifier.parameter) for score, fit in zip(scores, fits, strict=True)],
        confusion=confusion.tolist(),
        class_names=list(train.class_names),
        rows_sha256=run.rows_sha256,
        right=pack_counts(test.num_right),
        figures=test.figures,
        notes=_notes(run, value) + _encoder_note(run.protocol, found.features) + _repeat_note(test.images, repeats),
        made=made_now(time_s, run.timings_s),
    )


def made_now(time_s: float, timings_s: dict[str, float]) -> dict[str, Any]:
    """Return what a record keeps of how and where it was made."""
    return {
        "time_s": time_s,
        "timings_s": timings_s,
        "peak_memory_bytes": provenance.peak_memory_bytes(),
        "environment": provenance.environment(),
        "command": provenance.command_line(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        "git": provenance.git_state(),
    }


def _classifier_entry(run: _Run, value: float) -> dict[str, Any]:
    """Describe the classifier, with what was chosen."""
    classifier = run.classifier
    return {
        "name": classifier.name,
        "parameter": classifier.parameter,
        "value": value,
        "values": list(classifier.values),
        "patience": classifier.patience,
        "open_grid": run.has_open_grid,
        **classifier.describe(),
    }


def _data_entry(images: ImageSet, fingerprint: str) -> dict[str, Any]:
    """Describe one of the two sets."""
    return {
        "name": images.name,
        "split": images.split,
        "num_images": images.num_images,
        "fingerprint": fingerprint,
    }


def _draw_entry(score: float, fit: Fit, parameter: str) -> dict[str, Any]:
    """Describe one fit behind the score."""
    return {
        "score": score,
        parameter: fit.value,
        "status": fit.status,
        "duality_gap": fit.duality_gap,
        **fit.details(),
        "num_rows": fit.num_rows,
    }


def _notes(run: _Run, value: float) -> list[str]:
    """Say what a reader of the score should know."""
    notes, values = list(dict.fromkeys(run.notes)), run.classifier.values
    if not run.has_open_grid and len(values) > 1 and value in (values[0], values[-1]):
        notes.append(f"the chosen {_named(run, value)} is at the edge of the protocol's grid")
    if not values[0] <= value <= values[-1]:
        notes.append(f"the chosen {_named(run, value)} lies beyond the protocol's grid, which grew for these features")
    if run.settings.allow_unconverged:
        notes.append("unconverged fits were allowed")
    return notes


def _encoder_note(protocol: Protocol, features: dict[str, Any]) -> list[str]:
    """Say when the DCGAN that was measured is not the one that the paper uses for this protocol."""
    preset = features.get("preset")
    if preset in (None, protocol.preset):
        return []
    return [f"the paper's encoder for this protocol is {protocol.preset}; these features are from {preset}"]


def _repeat_note(test: ImageSet, repeats: dict[str, int]) -> list[str]:
    """Say how many test images the classifier was trained on."""
    notes, what, how = list[str](), "images", "pixel for pixel"
    if repeats.get("near"):
        notes.append(f"{repeats['near']:,} of {test.num_images:,} test images look like one of the training set")
    if isinstance(test.images, FeatureRows):
        what, how = "rows", "number for number"
    if repeats["num_images"]:
        notes.append(
            f"of {test.num_images:,} test {what} {repeats['num_images']:,} stand in the training set too, {how}; "
            f"{repeats['other_label']:,} of these under another label"
        )
    return notes

"""The protocol engine: features, choice of C on validation rows, fits, one look at the test labels, a record."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .. import provenance
from ..data.imageset import ImageSet
from ..data.splits import draw_per_class, rows_digest, stratified_split
from ..errors import ConvergenceError, ProtocolError
from ..features.extract import Progress
from ..records import CERTIFIED, Record, pack_counts
from ..svm.path import Solver
from .classifiers import Classifier, Fit, SvmClassifier
from .sources import FeatureSource
from .spec import Protocol, SealedTest
from .statistics import interval_of_mean, spread_of_draws


@dataclass
class _Run:
    """What a run knows while it is going on; nothing in it holds a test label."""

    protocol: Protocol
    labels: np.ndarray  # (N,) of the training images
    kept: np.ndarray  # rows for fitting while C is chosen, and the pool of draws
    validation: np.ndarray  # rows on which C is chosen
    classifier: Classifier
    seed: int
    allow_unconverged: bool
    progress: Progress
    timings_s: dict[str, float] = field(default_factory=dict)
    rows_sha256: dict[str, list[str]] = field(default_factory=dict)  # what each split and draw held, by stream

    def draw(self, images: ImageSet, draw: int, stream: str) -> np.ndarray:
        """Draw rows of ``images``, the kept ones of which come first, and note which."""
        assert self.protocol.per_class is not None, "only called for protocols with draws"
        rows = draw_per_class(images, np.arange(len(self.kept)), self.protocol.per_class, self.seed, draw, stream)
        self.note_rows(images, rows, stream)
        return rows

    def note_rows(self, images: ImageSet, rows: np.ndarray, stream: str) -> None:
        """Note the digest of the pixels of some rows."""
        self.rows_sha256.setdefault(stream, []).append(rows_digest(images, rows))

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
    source: FeatureSource,
    *,
    classifier: Classifier | None = None,
    seed: int = 0,
    tol: float = 1e-4,
    solver: Solver = "auto",
    allow_unconverged: bool = False,
    progress: Progress = lambda what, done, total: None,
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
    source : FeatureSource
        Where features come from.
    classifier : Classifier or None
        What is fitted; None is the protocol's L2-SVM. Another classifier has a protocol id of its own.
    seed : int
        Root seed of splits and draws.
    tol : float
        Relative duality gap that every fit of the protocol's L2-SVM must certify.
    solver : str
        Of the protocol's L2-SVM: ``"auto"``, ``"primal"`` or ``"gram"``.
    allow_unconverged : bool
        Report fits that did not converge, marked as such, instead of refusing.
    progress : callable
        Shows long work.

    Returns
    -------
    Record

    Raises
    ------
    ConvergenceError
        A fit did not reach ``tol``.
    ProtocolError, DataError
        The data cannot carry the protocol.
    LeakError
        The test set was used before.

    Source: arXiv:1511.06434, section 5, and the 2016 release. Deviations: for CIFAR-10, where the release has no
    script, C is chosen on 10,000 stratified training images; for SVHN the same 10 draws serve every C.
    """
    started = time.perf_counter()
    _check_same_kind(train, test.images)
    if classifier is not None:
        protocol = protocol.with_classifier(classifier.name)
    svm = SvmClassifier(protocol.Cs, protocol.patience, tol=tol, solver=solver)
    run = _start(protocol, train, classifier or svm, seed, allow_unconverged, progress)
    with run.timed("features"):
        source.prepare(train.without_labels(), test.images, progress)
    with run.timed("load"):
        # Rows for fitting come first, so that both fits of the full protocol see a contiguous part of one array.
        rows = np.concatenate([run.kept, run.validation])
        X = source.train(rows)
    run.labels = run.labels[rows]
    fits, selection = _fit_all(run, X) if protocol.per_class is None else _fit_draws(run, X, train.take(rows))
    with run.timed("load"):
        del X
        X_test = source.test()
    with run.timed("test"):
        confusions = test.score(run.classifier.predict(fits, X_test))
    return _record(run, train, test, source, fits, selection, confusions, time.perf_counter() - started)


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
    classifier: Classifier,
    seed: int,
    allow_unconverged: bool,
    progress: Progress,
) -> _Run:
    """Split off the validation rows."""
    if train.labels is None:
        raise ProtocolError("The training set has no labels", got=f"{train.name} {train.split}")
    kept, validation = stratified_split(train, protocol.num_held_out(train.num_images), seed, "validation")
    run = _Run(protocol, train.labels, kept, validation, classifier, seed, allow_unconverged, progress)
    run.note_rows(train, validation, "validation")
    return run


def _fit_all(run: _Run, X: np.ndarray) -> tuple[list[Fit], list[dict[str, Any]]]:
    """Choose the hyperparameter with the validation rows held out, then fit on all rows."""
    num_kept = len(run.kept)
    with run.timed("select"):
        curve = _validation_curve(run, X[:num_kept], run.labels[:num_kept], X[num_kept:], run.labels[num_kept:], "")
        selection = _merge_curves([curve], run.classifier.parameter)
        value = best_value(selection, run.classifier.parameter)
    with run.timed("fit"):
        what = f"fit on all {len(X):,} rows, {_named(run, value)}"
        run.progress(what, 0, 1)
        fit = _accepted(run, run.classifier.fit(X, run.labels, value))
        run.progress(what, 1, 1)
    return [fit], selection


def _fit_draws(run: _Run, X: np.ndarray, images: ImageSet) -> tuple[list[Fit], list[dict[str, Any]]]:
    """Choose the hyperparameter by the mean validation score of some draws, then fit fresh draws."""
    protocol, num_kept = run.protocol, len(run.kept)
    X_val, y_val = X[num_kept:], run.labels[num_kept:]
    curves = []
    with run.timed("select"):
        for draw in range(protocol.selection_draws):
            rows = run.draw(images, draw, "selection")
            label = f"draw {draw + 1} of {protocol.selection_draws}, "
            curves.append(_validation_curve(run, X[rows], run.labels[rows], X_val, y_val, label))
        selection = _merge_curves(curves, run.classifier.parameter)
        value = best_value(selection, run.classifier.parameter)
    fits = []
    with run.timed("fit"):
        for draw in range(protocol.num_draws):
            rows = run.draw(images, draw, "test")
            fits.append(_accepted(run, run.classifier.fit(X[rows], run.labels[rows], value)))
            run.progress(f"fits at {_named(run, value)}", draw + 1, protocol.num_draws)
    return fits, selection


def _validation_curve(
    run: _Run, X: np.ndarray, y: np.ndarray, X_val: np.ndarray, y_val: np.ndarray, label: str
) -> list[dict[str, Any]]:
    """Fit ascending values until the validation score has stopped rising; return a row per value."""
    classifier, curve = run.classifier, []
    best = since_best = 0.0
    num_values = len(classifier.values)
    for i, (fit, predicted) in enumerate(classifier.path(X, y, X_val)):
        _accepted(run, fit)
        score = float(np.mean(predicted == y_val))
        curve.append({classifier.parameter: fit.value, "score": score, "gap": fit.duality_gap, "status": fit.status})
        run.progress(f"{label}{_named(run, fit.value)}: validation {score:.1%}", i + 1, num_values)
        best, since_best = (score, 0) if score > best else (best, since_best + 1)
        if since_best >= classifier.patience:
            break
    run.progress(f"{label}{classifier.parameter} chosen on {len(y_val):,} validation rows", num_values, num_values)
    return curve


def _named(run: _Run, value: float) -> str:
    """Return the hyperparameter with its name."""
    return f"{run.classifier.parameter} = {value:g}"


def _merge_curves(curves: list[list[dict[str, Any]]], parameter: str) -> list[dict[str, Any]]:
    """Average the validation curves of the draws over the values that all of them reached."""
    length = min(map(len, curves))
    return [
        {
            parameter: rows[0][parameter],
            "score": float(np.mean([row["score"] for row in rows])),
            "scores": [row["score"] for row in rows],
            "duality_gap": _largest([row["gap"] for row in rows]),
        }
        for rows in list(zip(*[curve[:length] for curve in curves], strict=True))
    ]


def _largest(gaps: list[float | None]) -> float | None:
    """Return the largest gap, None where nothing has one."""
    return max((gap for gap in gaps if gap is not None), default=None)


def best_value(selection: list[dict[str, Any]], parameter: str) -> float:
    """Return the value with the highest mean validation score, the smallest of equals."""
    return float(max(selection, key=lambda row: (row["score"], -row[parameter]))[parameter])


def _accepted(run: _Run, fit: Fit) -> Fit:
    """Refuse a fit without its certificate, unless the user asked for it."""
    if fit.status not in CERTIFIED and not run.allow_unconverged:
        raise ConvergenceError(
            f"The fit at {_named(run, fit.value)} did not converge, so it has no score",
            got=f"status {fit.status}, relative duality gap {fit.duality_gap:.1e}",
            expected="a gap within --tol",
            remedy="raise --tol, or use --allow-unconverged to report it marked as unconverged",
        )
    return fit


def _record(
    run: _Run,
    train: ImageSet,
    test: SealedTest,
    source: FeatureSource,
    fits: list[Fit],
    selection: list[dict[str, Any]],
    confusions: list[np.ndarray],
    time_s: float,
) -> Record:
    """Put everything that the run found and used into a record."""
    num_test = test.images.num_images
    scores = [float(np.trace(confusion)) / num_test for confusion in confusions]
    worst = next((fit for fit in fits if fit.status not in CERTIFIED), fits[0])
    features, classifier, value = source.describe(), run.classifier, fits[0].value
    return Record(
        protocol=run.protocol.id,
        protocol_version=run.protocol.version,
        metric="accuracy",
        score=float(np.mean(scores)),
        spread=spread_of_draws(scores),
        ci95=interval_of_mean(scores, num_test),
        num_draws=len(scores),
        C=value if classifier.parameter == "C" else None,
        status=worst.status,
        duality_gap=_largest([fit.duality_gap for fit in fits]),
        num_features=source.num_features,
        seed=run.seed,
        features=features,
        weights_sha256=features["weights_sha256"],
        dataset_fingerprint=provenance.digest(train.fingerprint, test.fingerprint),
        data={
            "train": _data_entry(train.name, train.split, train.num_images, train.fingerprint),
            "test": _data_entry(test.images.name, test.images.split, num_test, test.fingerprint),
        },
        selection=selection,
        draws=[_draw_entry(score, fit, classifier.parameter) for score, fit in zip(scores, fits, strict=True)],
        confusion=np.sum(confusions, axis=0).tolist(),
        class_names=list(train.class_names),
        paper=asdict(run.protocol.paper) if run.protocol.paper else None,
        time_s=time_s,
        timings_s=run.timings_s,
        peak_memory_bytes=provenance.peak_memory_bytes(),
        environment=provenance.environment(),
        command=provenance.command_line(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        git=provenance.git_state(),
        notes=_notes(run, value) + _encoder_note(run.protocol, features),
        classifier={
            "name": classifier.name,
            "parameter": classifier.parameter,
            "value": value,
            **classifier.describe(),
        },
        shown_as=run.protocol.shown_as,
        rows_sha256=run.rows_sha256,
        right=pack_counts(test.num_right),
    )


def _data_entry(name: str, split: str, count: int, fingerprint: str) -> dict[str, Any]:
    """Describe one of the two sets."""
    return {"name": name, "split": split, "num_images": count, "fingerprint": fingerprint}


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
    notes, values = [], run.classifier.values
    if len(values) > 1 and value in (values[0], values[-1]):
        notes.append(f"the chosen {_named(run, value)} is at the edge of the protocol's grid")
    if run.allow_unconverged:
        notes.append("unconverged fits were allowed")
    return notes


def _encoder_note(protocol: Protocol, features: dict[str, Any]) -> list[str]:
    """Say when the DCGAN that was measured is not the one that the paper uses for this protocol."""
    preset = features.get("preset")
    if preset in (None, protocol.preset):
        return []
    return [f"the paper's encoder for this protocol is {protocol.preset}; these features are from {preset}"]

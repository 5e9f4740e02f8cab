"""What a run found, as its record."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import provenance
from ..data.feature_rows import FeatureRows
from ..data.imageset import ImageSet
from ..data.repeats import count_near_duplicates
from ..records import CERTIFIED, Record, pack_counts
from .classifiers import Fit
from .run import Run, named
from .selection import largest
from .spec import Protocol, SealedTest
from .statistics import accuracy_in, interval_over_draws, interval_over_images, spread_of_draws


@dataclass(frozen=True)
class Measured:
    """What a run found."""

    features: dict[str, Any]
    fits: list[Fit]
    selection: list[dict[str, Any]]
    confusions: list[np.ndarray]


def record_of(run: Run, test: SealedTest, found: Measured, time_s: float) -> Record:
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
        duality_gap=largest([fit.duality_gap for fit in fits]),
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


def _classifier_entry(run: Run, value: float) -> dict[str, Any]:
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


def _notes(run: Run, value: float) -> list[str]:
    """Say what a reader of the score should know."""
    notes, values = list(dict.fromkeys(run.notes)), run.classifier.values
    if not run.has_open_grid and len(values) > 1 and value in (values[0], values[-1]):
        notes.append(f"the chosen {named(run, value)} is at the edge of the protocol's grid")
    if not values[0] <= value <= values[-1]:
        notes.append(f"the chosen {named(run, value)} lies beyond the protocol's grid, which grew for these features")
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

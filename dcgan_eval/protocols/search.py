"""Supervised training on a protocol's labels, reported by its validation rows: the test set is never opened."""

from __future__ import annotations

import time
import typing
from dataclasses import asdict
from typing import Any

import numpy as np

from ..data.imageset import ImageSet
from ..data.splits import draw_per_class, stratified_split
from ..progress import Progress, no_progress
from ..records import Record
from .outcome import made_now
from .spec import Protocol
from .statistics import interval_of_mean


class Search(typing.Protocol):
    """A search over hyperparameters that trains on some images and chooses on others."""

    name: str
    num_features: int

    def run(self, train: ImageSet, validation: ImageSet, progress: Progress) -> list[dict[str, Any]]:
        """Return a row per finished trial with ``trial``, ``score`` and ``confusion`` on the validation images."""

    def describe(self) -> dict[str, Any]:
        """Return ``name``, ``weights_sha256`` (None), ``trials`` and what else decided the numbers."""


def run_search(
    protocol: Protocol,
    train: ImageSet,
    search: Search,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Record:
    """Search on a protocol's training images and return the record of the best trial's validation accuracy.

    Parameters
    ----------
    protocol : Protocol
        Whose validation rows and, where it draws few labels, whose first draw are used.
    train : ImageSet
        Labelled training images; there is no parameter for the test set.
    search : Search
        What trains.
    seed : int
        Root seed of the split and the draw.
    progress : callable
        Shows long work.

    Returns
    -------
    Record
        Metric ``"validation accuracy"``: the best of several trials on the rows that chose it, so an optimistic figure.

    Raises
    ------
    DcganEvalError
        The data cannot carry the protocol or the search.

    Source: arXiv:1511.06434, table 2 (supervised CNN, validation error).
    """
    started = time.perf_counter()
    sets = _sets(protocol, train, seed)
    trials = search.run(sets["train"], sets["validation"], progress)
    best, features = max(trials, key=lambda row: (row["score"], -row["trial"])), search.describe()
    return Record(
        protocol=protocol.with_classifier("supervised").id,
        spec=asdict(protocol.with_classifier("supervised")),
        settings={"seed": seed},
        features={"kind": "supervised", "num_features": search.num_features, **features},
        classifier={"name": "supervised", "parameter": "trial", "value": best["trial"]},
        data={name: _entry(images) for name, images in sets.items()},
        metric="validation accuracy",
        score=best["score"],
        spread=None,
        ci95=interval_of_mean([best["score"]], sets["validation"].num_images),
        num_draws=1,
        status="finished" if len(trials) == features["trials"] else "time limit",
        duality_gap=None,
        selection=[{key: value for key, value in row.items() if key != "confusion"} for row in trials],
        draws=[],
        confusion=np.asarray(best["confusion"]).tolist(),
        class_names=list(train.class_names),
        made=made_now(time.perf_counter() - started, {"trials": float(sum(row["time_s"] for row in trials))}),
        notes=[
            f"validation accuracy on the rows that chose the best of {len(trials)} trials (the paper had 64)",
            "the test set was not opened",
        ],
    )


def _sets(protocol: Protocol, train: ImageSet, seed: int) -> dict[str, ImageSet]:
    """Return the images that trials are trained on and those that choose between them."""
    kept, held_out = stratified_split(train, protocol.num_held_out(train.num_images), seed, "validation")
    if protocol.per_class is not None:
        kept = draw_per_class(train, kept, protocol.per_class, seed, 0, "selection")
    return {"train": train.take(kept), "validation": train.take(held_out, split=f"{train.split}-validation")}


def _entry(images: ImageSet) -> dict[str, Any]:
    """Describe a set."""
    return {
        "name": images.name,
        "split": images.split,
        "num_images": images.num_images,
        "fingerprint": images.fingerprint,
    }

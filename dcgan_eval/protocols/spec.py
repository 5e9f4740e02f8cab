"""Protocols as pinned data, and the seal on the test labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data.imageset import ImageSet
from ..errors import LeakError, ProtocolError


@dataclass(frozen=True)
class Published:
    """A published value.

    Attributes
    ----------
    value : float
        As a fraction.
    spread : float or None
        As printed beside it, as a fraction.
    checked : bool
        Whether a readable copy of the paper confirmed it.
    source : str
        Where it stands.
    """

    value: float
    spread: float | None
    checked: bool
    source: str


@dataclass(frozen=True)
class Protocol:
    """One way to turn features into a score, pinned: a changed protocol is a new version.

    Attributes
    ----------
    id, version : str, int
        Identity.
    command : str
        Name on the command line.
    title : str
        One line for tables.
    dataset : str
        Name in the data catalogue.
    num_validation : int
        Training images held out, stratified, to choose C.
    Cs : tuple of float
        Candidates, ascending.
    patience : int
        The path over C ends after this many values without a better validation score.
    per_class : int or None
        Labels per class of a draw; None uses all training images, once.
    selection_draws, num_draws : int
        Draws per C on the validation set, and fresh draws on the test set.
    subset : tuple of int or None
        (train, test) images of each class taken in canonical order; None takes all.
    num_test : int or None
        Test images split off a data set that has no official test set.
    paper : Published or None
        What the score stands beside; None for protocols of our own.
    """

    id: str
    version: int
    command: str
    title: str
    dataset: str
    num_validation: int
    Cs: tuple[float, ...]
    patience: int = 2
    per_class: int | None = None
    selection_draws: int = 1
    num_draws: int = 1
    subset: tuple[int, int] | None = None
    num_test: int | None = None
    paper: Published | None = None

    def with_classifier(self, name: str) -> Protocol:
        """Return the protocol with another classifier: the same data, splits and draws under an id of its own."""
        id_ = self.id.replace("l2svm", name) if "l2svm" in self.id else f"{self.id}_{name}"
        return replace(self, id=id_, paper=None)


class SealedTest:
    """A test set whose labels can be used for one scoring only, at the end of a run.

    Parameters
    ----------
    images : ImageSet
        Labelled test images.

    Attributes
    ----------
    images : ImageSet
        The same images without labels: all that a run may look at.
    """

    def __init__(self, images: ImageSet):
        if images.labels is None:
            raise ProtocolError("The test set has no labels", got=f"{images.name} {images.split}")
        labels, num_classes, opened = images.labels.copy(), images.num_classes, False
        self.images = images.without_labels()
        self.fingerprint = images.fingerprint

        def open_once(predictions: Sequence[np.ndarray]) -> list[np.ndarray]:
            nonlocal opened
            if opened:
                raise LeakError(
                    "The test labels were already used once in this run", remedy="start a new run; choose nothing by it"
                )
            opened = True
            return [_confusion(labels, predicted, num_classes) for predicted in predictions]

        self._open_once = open_once

    def score(self, predictions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the confusion matrix (labels, predictions) of every prediction; works once.

        Parameters
        ----------
        predictions : sequence of ndarray
            Class indices (N,), one array per draw: all of the run, at once.

        Raises
        ------
        LeakError
            Called a second time.
        """
        return self._open_once(predictions)


def _confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count test images by (label, prediction)."""
    if predicted.shape != labels.shape:
        raise ProtocolError(
            "Predictions do not cover the test set", got=str(predicted.shape), expected=str(labels.shape)
        )
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)

"""Protocols as pinned data, and the seal on the test labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.imageset import ImageSet
from ..data.repeats import count_repeats
from ..errors import LeakError, ProtocolError, counted
from ..records import pack_counts

TOP = 5  # classes that a prediction may name to be right in the wider sense
LOW_SHOT_DRAWS, LOW_SHOT_SELECTION_DRAWS = 10, 3  # as cifar10-400


@dataclass(frozen=True)
class Published:
    """A published value.

    Attributes
    ----------
    value : float
        Accuracy, as a fraction, also where an error is printed.
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
    num_validation : int or None
        Training images held out, stratified, to choose C; None holds a fifth of them out.
    Cs : tuple of float
        Candidates, ascending.
    relative : bool
        The candidates are for features of mean squared norm one: each is divided by that of the rows fitted, and the
        constant feature is as long as they are, so that the scale of the features does not matter.
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
    test_rows : tuple of int or None
        (pool, all): take these many rows of the official test file, in its order; the first ``pool`` of them stand in
        for a training set that is not at hand.
    fingerprints : tuple of str or None
        Of the training and test set that ``test_rows`` must give.
    preset : str
        The encoder that the paper uses here; another one is noted in the record.
    splits : (str, str)
        Of the data set, to train and to test on; of data of one's own a missing test split is replaced by ``val``.
    label_column : str or None
        Column of the labels, where the user's data have several.
    metric : str
        ``"accuracy"``, or ``"mean per-class accuracy"`` where the paper of the data set measures that.
    shown_as : str
        ``"accuracy"`` or ``"error"``, as published. Scores in records are always accuracies.
    paper : Published or None
        What the score stands beside; None for protocols of our own.
    """

    id: str
    version: int
    command: str
    title: str
    dataset: str
    num_validation: int | None
    Cs: tuple[float, ...]
    patience: int = 2
    per_class: int | None = None
    selection_draws: int = 1
    num_draws: int = 1
    subset: tuple[int, int] | None = None
    num_test: int | None = None
    test_rows: tuple[int, int] | None = None
    fingerprints: tuple[str, str] | None = None
    preset: str = "imagenet32"
    metric: str = "accuracy"
    shown_as: str = "accuracy"
    paper: Published | None = None
    relative: bool = False
    splits: tuple[str, str] = ("train", "test")
    label_column: str | None = None

    def num_held_out(self, num_images: int) -> int:
        """Return how many of so many training images choose C."""
        return num_images // 5 if self.num_validation is None else self.num_validation

    def with_classifier(self, name: str) -> Protocol:
        """Return the protocol with another classifier: the same data, splits and draws under an id of its own."""
        if f"_{name}" in self.id and name != "l2svm":  # a record's protocol has its classifier's name already
            return self
        id_ = self.id.replace("l2svm", name) if "l2svm" in self.id else f"{self.id}_{name}"
        return replace(self, id=id_, paper=None)

    def with_columns(self, train: str | None, test: str | None, label_column: str | None) -> Protocol:
        """Return a protocol of the user's own data with other splits or another column of labels; None keeps one.

        Raises
        ------
        ProtocolError
            The protocol is a pinned one of the catalogue.
        """
        if train is None and test is None and label_column is None:
            return self
        if not self.relative:
            raise ProtocolError(
                f"Protocol {self.command} has pinned splits and labels",
                got="--train-split, --test-split or --label-column",
                remedy="leave them out, or give the path of the data instead of the protocol's name",
            )
        return replace(self, splits=(train or self.splits[0], test or self.splits[1]), label_column=label_column)

    def with_draws(self, per_class: int | None, num_draws: int | None) -> Protocol:
        """Return the protocol with other draws, under an id of its own and beside no published value.

        Parameters
        ----------
        per_class : int or None
            Labels per class of a draw; None keeps the protocol's.
        num_draws : int or None
            Fresh draws on the test set; None keeps the protocol's, 10 where it has none.

        Raises
        ------
        ProtocolError
            Fewer than one label or draw, or draws of a protocol that uses all labels.
        """
        if per_class is None and num_draws is None:
            return self
        labels = self.per_class if per_class is None else per_class
        draws = num_draws if num_draws is not None else self.num_draws if self.per_class else LOW_SHOT_DRAWS
        if labels is None or labels < 1 or draws < 1:
            raise ProtocolError(
                f"Protocol {self.command} cannot be run with these draws",
                got=f"--per-class {per_class}, --draws {num_draws}",
                expected="at least one label per class and at least one draw",
                remedy="give --per-class, the labels of each class in a draw, with --draws",
            )
        return replace(
            self,
            id=f"{self.id}_{labels}_per_class_{draws}_draws",
            title=f"{self.title}; {counted(labels, 'labels')} per class, {counted(draws, 'draws')}",
            per_class=labels,
            selection_draws=self.selection_draws if self.per_class else LOW_SHOT_SELECTION_DRAWS,
            num_draws=draws,
            paper=None,
        )


@dataclass(frozen=True)
class Ranked:
    """What the scores of a classifier say beside its predictions.

    Attributes
    ----------
    top : ndarray or None
        The labels of the five highest scores, (N, 5); None with five classes or fewer.
    confidence : ndarray or None
        Probability of the predicted label, (N,); None where scores are no probabilities.
    """

    top: np.ndarray | None
    confidence: np.ndarray | None

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> Ranked:
        """Return the same with a function applied to what is there."""
        return Ranked(*(None if array is None else function(array) for array in (self.top, self.confidence)))


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
    num_right : ndarray or None
        Once scored: in how many of the predictions each image was right, in canonical order.
    ranked : sequence of Ranked
        What else is known of each of the predictions, before they are scored; none for a classifier without scores.
    figures : dict
        Once scored, of what was ranked: ``top5`` and ``ece``, as records keep them.
    """

    num_right: np.ndarray | None = None
    ranked: Sequence[Ranked] = ()

    def __init__(self, images: ImageSet):
        if images.labels is None:
            raise ProtocolError("The test set has no labels", got=f"{images.name} {images.split}")
        labels, num_classes, opened = images.labels.copy(), images.num_classes, False
        order = images.canonical_order
        self.images = images.without_labels()
        self.figures: dict[str, dict[str, Any]] = {}
        self.fingerprint = images.fingerprint

        def open_once(predictions: Sequence[np.ndarray]) -> list[np.ndarray]:
            nonlocal opened
            if opened:
                raise LeakError(
                    "The test labels were already used once in this run", remedy="start a new run; choose nothing by it"
                )
            opened = True
            confusions = [_confusion(labels, predicted, num_classes) for predicted in predictions]
            right = [predicted == labels for predicted in predictions]
            self.num_right = np.sum(right, axis=0)[order]
            self.figures = _figures(self.ranked, labels, right, order)
            return confusions

        def repeats(train: ImageSet) -> dict[str, int]:
            if not opened:
                raise LeakError(
                    "Labels of the test set cannot be compared before it is scored", remedy="score it first"
                )
            return count_repeats(train, images)

        self._open_once, self._repeats = open_once, repeats

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

    def repeats(self, train: ImageSet) -> dict[str, int]:
        """Count the test images that are in the training set, see :func:`~dcgan_eval.data.repeats.count_repeats`.

        Parameters
        ----------
        train : ImageSet
            Labelled.

        Raises
        ------
        LeakError
            Called before :meth:`score`: how many have another label would tell of labels.
        """
        return self._repeats(train)


def _figures(
    ranked: Sequence[Ranked], labels: np.ndarray, right: Sequence[np.ndarray], order: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return the figures of ranked predictions, with what they can be computed from again."""
    from .statistics import calibration_bins, calibration_error, interval_with_images  # scipy takes long to import

    found, num_test = dict[str, dict[str, Any]](), len(labels)
    within = [(r.top == labels[:, None]).any(axis=1) for r in ranked if r.top is not None]
    if within:
        scores, counts = [float(np.mean(w)) for w in within], np.sum(within, axis=0)[order]
        found["top5"] = {
            "score": float(np.mean(scores)),
            "ci95": interval_with_images(scores, counts),
            "scores": scores,
            "right": pack_counts(counts),
        }
    sure = [(r.confidence, hit) for r, hit in zip(ranked, right, strict=False) if r.confidence is not None]
    if sure:
        bins = np.sum([calibration_bins(confidence, hit) for confidence, hit in sure], axis=0)
        value, low, high = calibration_error(bins, num_test)
        found["ece"] = {"score": value, "ci95": [low, high], "bins": bins.tolist()}
    return found


def _confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count test images by (label, prediction)."""
    if predicted.shape != labels.shape:
        raise ProtocolError(
            "Predictions do not cover the test set", got=str(predicted.shape), expected=str(labels.shape)
        )
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)

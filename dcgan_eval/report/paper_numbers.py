"""The published numbers of the paper's tables 1 and 2, as data: what our records stand beside."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..records import Record

PAPER = "arXiv:1511.06434"
_COATES = "Coates, Ng & Lee 2011"


# Weights whose cards say that they were trained by the paper's objective, by their hash: for records from before the
# features said so themselves.
_ADVERSARIAL = frozenset(
    (
        "fd21864f2038e93d38f818b8d3e558d55a225109b5656934d3fd88be792dc072",  # imagenet32-paper
        "32d8ae19a913736f91312d528214bddb8fab563d8ec5ec137f0a409aede34f46",  # dcgan2015-svhn, the authors' own
    )
)


@dataclass(frozen=True)
class PublishedRow:
    """One published number.

    Attributes
    ----------
    method : str
        As the table names it.
    percent : float
        As printed: accuracy or error, as the table says.
    spread : float or None
        What is printed beside it with +-.
    units : int or None
        Features, or K.
    kind : str
        Which records of ours stand beside it: ``"dcgan"``, ``"kmeans"`` (with K = ``units``), ``"knn"``; empty: none.
    checked : bool
        Whether a readable copy of the source confirmed it.
    source : str
        Where it is printed.
    """

    method: str
    percent: float
    spread: float | None = None
    units: int | None = None
    kind: str = ""
    checked: bool = True
    source: str = PAPER


@dataclass(frozen=True)
class Section:
    """One column of a published table with the protocol that reproduces it.

    Attributes
    ----------
    title : str
        Heading.
    protocols : re.Pattern
        Matches the ids of the protocols whose records may stand here: the paper's data, whatever the classifier. The
        small suites never do.
    rows : tuple of PublishedRow
        In the order of publication.
    """

    title: str
    protocols: re.Pattern[str]
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper: its data set and numbers of training and test images, what it prints, its columns."""

    title: str
    dataset: str
    num_images: tuple[int, int]
    shown_as: str
    sections: tuple[Section, ...]


def _unchecked(*rows: tuple[str, float, float, int, str]) -> tuple[PublishedRow, ...]:
    """Build rows that no readable copy of the paper confirmed."""
    return tuple(PublishedRow(*row, checked=False) for row in rows)


# fmt: off
_FULL = (
    PublishedRow("1-layer K-means, K = 1600",      77.9, None, 1600, "kmeans", source=_COATES),
    PublishedRow("1-layer K-means, K = 4000",      79.6, None, 4000, "kmeans", source=_COATES),
    PublishedRow("1-layer K-means",                80.6, None, 4800, "kmeans"),
    PublishedRow("3-layer K-means, learned RF",    82.0, None, 3200),
    PublishedRow("view-invariant K-means",         81.9, None, 6400),
    PublishedRow("Exemplar CNN",                   84.3, None, 1024),
    PublishedRow("DCGAN + L2-SVM",                 82.8, None, 512, "dcgan"),
)
_400 = _unchecked(
    ("1-layer K-means",             63.7, 0.7, 4800, "kmeans"),
    ("3-layer K-means, learned RF", 70.7, 0.7, 3200, ""),
    ("view-invariant K-means",      72.6, 0.7, 6400, ""),
    ("Exemplar CNN",                77.4, 0.2, 1024, ""),
    ("DCGAN + L2-SVM",              73.8, 0.4, 512,  "dcgan"),
)
_1000 = (
    PublishedRow("KNN",                      77.93, kind="knn"),
    PublishedRow("TSVM",                     66.55),
    PublishedRow("M1 + KNN",                 65.63),
    PublishedRow("M1 + TSVM",                54.33),
    PublishedRow("M1 + M2",                  36.02),
    PublishedRow("SWWAE without dropout",    27.83),
    PublishedRow("SWWAE with dropout",       23.56),
    PublishedRow("supervised CNN, same architecture (validation error, best of 64 trials)", 28.87),
    PublishedRow("DCGAN + L2-SVM",           22.48, kind="dcgan"),
    PublishedRow("DCGAN + L2-SVM, as cited", 22.18, 1.13, source="later papers"),
)
# fmt: on

TABLES = {
    "cifar10": PublishedTable(
        "CIFAR-10",
        "cifar10",
        (50_000, 10_000),
        "accuracy",
        (
            Section("table 1, all 50,000 labels", re.compile(r"cifar10_(?!small)\w+_full"), _FULL),
            Section("table 1, 400 labels per class", re.compile(r"cifar10_(?!small)\w+_400"), _400),
        ),
    ),
    "svhn": PublishedTable(
        "SVHN",
        "svhn",
        (73_257, 26_032),
        "error",
        (Section("table 2, 1,000 labels", re.compile(r"svhn_(?!small)\w+_1000"), _1000),),
    ),
}


def trained_as_published(record: Record) -> bool:
    """Tell whether a record is of what the paper measured: an L2-SVM on all layers of a D trained against a G."""
    features = record.features
    if "l2svm" not in record.protocol or not features.get("all_layers", True):
        return False
    objective = features.get("objective")
    return objective == "adversarial" or (objective is None and record.weights_sha256 in _ADVERSARIAL)

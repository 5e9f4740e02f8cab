"""What a record's features look like from close by: neighbours of test images, and the most confident mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.imageset import ImageSet
from ..errors import RecordError, StoreError
from ..features.fill import Filler, find_filled
from ..features.store import FeatureStore
from ..features.taps import Encoder
from ..progress import no_progress
from ..records import Record, unpack_counts
from ..svm.path import fit_ovr
from .catalog import PROTOCOLS, load_protocol_images
from .rebuild import packing_order, record_source
from .sources import GivenFeatures, PixelFeatures

_MOST_ROWS = 10_000  # a fit on more would take longer than a page should


@dataclass(frozen=True)
class NearImages:
    """Test images and the training images nearest to them.

    Attributes
    ----------
    queries : ndarray
        uint8 (Q, H, W, C), test images without labels.
    neighbours : ndarray
        uint8 (Q, K, H, W, C), nearest first.
    labels : ndarray
        (Q, K), of the neighbours.
    """

    queries: np.ndarray
    neighbours: np.ndarray
    labels: np.ndarray


class RecordExamples:
    """The images and cached features behind a record; test labels at most say which count is whose.

    Parameters
    ----------
    record : Record
        What to look at.
    data_dir, cache_dir : Path or None, Path
        Where the images and features lie; nothing is computed that is not there.
    encoder : Encoder or None
        Behind the record; None looks it up by its name.

    Raises
    ------
    DcganEvalError
        The data, the encoder or the features are not there.
    """

    def __init__(self, record: Record, data_dir: Path | None, cache_dir: Path, encoder: Encoder | None = None):
        protocol = next((p for p in PROTOCOLS.values() if p.id == record.protocol), None)
        if protocol is None:
            raise RecordError(
                "Examples can be shown of the catalogue's protocols only",
                got=record.protocol,
                expected=", ".join(PROTOCOLS),
            )
        self.record, source = record, record_source(record, encoder)
        self.train, test = load_protocol_images(protocol, data_dir)
        if record.data["test"]["fingerprint"] != test.fingerprint:
            raise RecordError(
                "The record was measured on other test images than those at hand",
                got=f"fingerprint {test.fingerprint[:12]}",
                expected=record.data["test"]["fingerprint"][:12],
                remedy="give the data behind the record with --data-dir",
            )
        self._order, self.test = packing_order(record, test), test.without_labels()
        self.X, self.X_test = cached_stores(source, self.train.without_labels(), self.test, cache_dir, record.command)

    def neighbours(self, num_queries: int = 5, num_neighbours: int = 6) -> NearImages:
        """Find the training images whose features have the largest cosine with those of some test images."""
        queries = np.linspace(0, self.test.num_images - 1, num_queries).astype(int)
        F_QD = _unit(self.X_test[queries])
        cosines = np.concatenate([F_QD @ _unit(F_ND).T for _, F_ND in self.X.blocks()], axis=1)
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :num_neighbours]
        assert self.train.labels is not None, "protocols train on labelled images"
        return NearImages(self.test.images[queries], self.train.images[nearest], self.train.labels[nearest])

    def mistakes(self, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
        """Return test images that the record has as wrong, by falling margin, and the classes they were taken for.

        Which ones were wrong stands in the record; the classes come from the same fit made again.

        Raises
        ------
        StoreError
            The record does not say which images were right, has several draws, or its fit is too large.
        """
        record = self.record
        one_fit = record.classifier["name"] == "l2svm" and record.num_draws == 1
        if record.right is None or record.C is None or not one_fit or self.train.num_images > _MOST_ROWS:
            raise StoreError(
                "Mistakes cannot be shown",
                expected=f"a record of schema 2 or later, of a single L2-SVM of at most {_MOST_ROWS:,} images",
                remedy="run the protocol again",
            )
        right_N = np.empty(self.test.num_images, np.int64)
        right_N[self._order] = unpack_counts(record.right)
        solution = fit_ovr(self.X.read(), self.train.labels, record.C)
        decisions_NK = solution.decision_function(self.X_test.read())
        margins_N = np.where(right_N == 0, np.ptp(np.sort(decisions_NK, axis=1)[:, -2:], axis=1), -1)
        worst = np.argsort(-margins_N, kind="stable")[: min(count, int((right_N == 0).sum()))]
        return self.test.images[worst], decisions_NK[worst].argmax(axis=1)


def _unit(F_ND: np.ndarray) -> np.ndarray:
    """Scale rows to length one."""
    return F_ND / np.maximum(np.linalg.norm(F_ND, axis=1, keepdims=True), 1e-12)


def cached_stores(
    source: Filler, train: ImageSet, test: ImageSet, cache_dir: Path, command: str
) -> tuple[FeatureStore, FeatureStore]:
    """Return the features of both sets out of the cache, or raise; pixels and given features are at hand."""
    if isinstance(source, PixelFeatures | GivenFeatures):
        source.prepare(train, test, cache_dir=cache_dir)
        return source.stores
    source.learn(train, cache_dir, no_progress)
    stores = [find_filled(source, images, cache_dir) for images in (train, test)]
    if stores[0] is None or stores[1] is None:
        raise StoreError(
            f"The features of {source.name} are not in the cache",
            got=str(cache_dir),
            remedy=f"run `{command}` with the same --cache-dir first",
        )
    return stores[0], stores[1]

"""Features made elsewhere as a source like any other: each row found by the hash of its image, then kept in a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.feature_rows import FeatureRows
from ..data.imageset import ImageSet
from ..errors import DataError
from ..progress import Progress
from .fill import Filler
from .given_files import GivenFile, read_given
from .store_file import StoreIdentity


class GivenFeatures(Filler):
    """Features of a training and of a test set that something else made.

    Parameters
    ----------
    train, test : Path or str
        As :func:`~dcgan_eval.features.given_files.read_given` takes them.
    label_column : str, optional
        Array or column of the labels, where several could be meant.

    Attributes
    ----------
    files : tuple of GivenFile
        Of the training and of the test set.
    row_hashes : tuple of ndarray, or None
        What each row of the files is known by, once that is settled: (N,), dtype ``S64``.
    matched_by : str
        What settled it: ``"sha256"``, ``"order"`` or ``"rows"`` (there are no images).

    Raises
    ------
    DataError
        A file cannot be read, or the two do not belong together.
    """

    def __init__(self, train: Path | str, test: Path | str, label_column: str | None = None):
        self.files = tuple(
            read_given(Path(path), split, label_column) for path, split in ((train, "train"), (test, "test"))
        )
        self.label_column = label_column
        self.row_hashes: tuple[np.ndarray, np.ndarray] | None = None
        self.matched_by = ""
        first, second = self.files
        _check_alike(first, second)
        self.notes: list[str] = list(dict.fromkeys([*first.notes, *second.notes]))
        self.name = f"{first.path.name}:{first.digest[:8]}"

    def matched(self, train: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Return both sets with the rows of the files in the place of their images."""
        return self._rows_of(train, 0), self._rows_of(test, 1)

    def _rows_of(self, images: ImageSet, which: int) -> ImageSet:
        """Return a set with the rows of a file in the place of its images."""
        if isinstance(images.images, FeatureRows):
            return images
        assert self.row_hashes is not None, "settled before the run"
        file = self.files[which]
        rows = find_rows(self.row_hashes[which], images, file.path.name)
        return dataclasses.replace(images, images=FeatureRows(file.matrix, rows, images.pixel_hashes, file.digest))

    def identity(self, images: ImageSet) -> StoreIdentity:
        """Return what decides the features: the file."""
        return StoreIdentity(
            encoder=self.name,
            weights_sha256=images.images.source,
            layers=(("features", images.image_shape[2]),),
            preprocessing="given",
            batch_norm="none",
            compute="none",
            store_dtype="float32",
            calibration_fingerprint="",
            data=f"{images.name}-{images.split}",
            data_fingerprint=images.without_labels().fingerprint,
            num_rows=images.num_images,
            pooling="none",
        )

    def ready(self, progress: Progress) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Return the function that takes the rows as they are."""
        return lambda rows_ND: {"features": rows_ND}

    def describe(self) -> dict[str, Any]:
        """Return what decided the numbers: the files, and how their rows were matched."""
        files = {
            split: {"name": file.path.name, "sha256": file.digest, "num_rows": len(file)}
            for split, file in zip(("train", "test"), self.files, strict=True)
        }
        return {
            "kind": "given",
            "name": self.name,
            "weights_sha256": None,
            "matched_by": self.matched_by,
            "label_column": self.label_column,
            "files": files,
        }


def _check_alike(train: GivenFile, test: GivenFile) -> None:
    """Refuse files whose rows are not features of one kind."""
    widths = [file.matrix.shape[1] for file in (train, test)]
    if widths[0] != widths[1] or train.columns != test.columns:
        pairs = zip(train.columns, test.columns, strict=False)
        odd = next((f"{a!r} and {b!r}" for a, b in pairs if a != b), "other columns")
        raise DataError(
            "The training and the test features are not of one encoder",
            got=f"{widths[0]:,} and {widths[1]:,} features" if widths[0] != widths[1] else f"columns {odd}",
            expected="the same features in the same order",
            remedy="make both files in the same way, and give them to --features as TRAIN TEST",
        )
    labelled = [file.path.name for file in (train, test) if file.labels is not None]
    if len(labelled) == 1:
        raise DataError(
            "Only one of the two files of features has labels",
            got=f"labels in {labelled[0]} alone",
            expected="labels in both, or in none and sha256 in both",
            remedy="save the labels beside the features: numpy.savez(path, features=..., labels=...)",
        )


def find_rows(hashes: np.ndarray, images: ImageSet, title: str) -> np.ndarray:
    """Return the row of a file for each image, (N,): of identical images the first has the first row, and so on.

    Raises
    ------
    DataError
        Images without a row.
    """
    wanted = images.pixel_hashes
    order, asked = np.argsort(hashes, kind="stable"), np.argsort(wanted, kind="stable")
    known, sought = hashes[order], wanted[asked]
    first = np.searchsorted(known, sought)
    repeat = np.arange(len(sought)) - np.searchsorted(sought, sought)
    last = len(known) - 1
    missing = known[np.minimum(first, last)] != sought
    if missing.any():
        raise DataError(
            f"{title} has no features of some images of {images.name} ({images.split})",
            got=f"none for {int(missing.sum()):,} of {len(sought):,}",
            expected="a row for every image, known by sha256",
            remedy="make the features of all images, or check the data set and the order of the two files",
        )
    place = np.minimum(first + repeat, last)
    place = np.where(known[place] == sought, place, first)  # fewer rows than copies of the image: they share one
    rows = np.empty(len(wanted), np.int64)
    rows[asked] = order[place]
    return rows

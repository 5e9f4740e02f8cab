"""Protocols on features made elsewhere: which row is which image, by hash or by order, and sets without images."""

from __future__ import annotations

import numpy as np

from ..data.feature_rows import FeatureRows, as_float32, hash_rows
from ..data.imageset import ImageSet
from ..data.labels import number_classes
from ..errors import DataError, ProtocolError, counted
from ..features.fill import Filler
from ..features.given import GivenFeatures, find_rows
from ..features.given_files import GivenFile
from .catalog import get_protocol, load_protocol_images, load_whole_splits, own_protocol, take_protocol_images
from .settings import Place
from .spec import Protocol

OWN = "own"
_NO_IMAGES = "given features"  # in the place of a data set's name
_READ_ROWS = 4096


def given_protocol(name: str) -> Protocol:
    """Return the protocol of a name for given features: ``"own"`` has labels from their files, and no images.

    Raises
    ------
    ProtocolError
        No such protocol.
    """
    return own_protocol(OWN, "own features", _NO_IMAGES) if name == OWN else get_protocol(name)


def has_images(protocol: Protocol) -> bool:
    """Tell whether a protocol of given features is one of images too."""
    return protocol.dataset != _NO_IMAGES


def load_given_images(protocol: Protocol, source: GivenFeatures, place: Place) -> tuple[ImageSet, ImageSet]:
    """Load a protocol's labelled sets, and settle which of the given rows belongs to which image.

    Where the files carry ``sha256`` a row belongs to the images of that hash. Else the rows are taken in the order of
    the whole splits as they are read here (the official files' order, where those are at hand), for which the
    count and the label of every row must agree.

    Parameters
    ----------
    protocol : Protocol
        From :func:`given_protocol`.
    source : GivenFeatures
        The files; ``row_hashes``, ``matched_by`` and ``notes`` are set.
    place : Place
        Where data sets lie.

    Returns
    -------
    tuple of ImageSet
        Training and test set, labelled, in canonical order.

    Raises
    ------
    DataError
        Rows that do not fit the images, in number or by their labels, or cannot be matched at all.
    """
    if not has_images(protocol):
        return _sets_of_rows(protocol, source)
    whole = load_whole_splits(protocol, place.data_dir, download=place.download)
    by_hash = all(file.sha256 is not None for file in source.files)
    source.matched_by = "sha256" if by_hash else "order"
    hashes = [
        file.sha256 if by_hash and file.sha256 is not None else _hashes_by_order(file, images)
        for file, images in zip(source.files, whole, strict=True)
    ]
    source.row_hashes = (hashes[0], hashes[1])
    sets = take_protocol_images(protocol, whole)
    for file, known, images in zip(source.files, hashes, sets, strict=True):
        if by_hash and file.labels is not None:
            _check_labels(file, images, find_rows(known, images, file.path.name))
    source.notes.append(
        "the rows of the features were matched to the images by the pixel hashes that their files carry"
        if by_hash
        else f"the rows of the features were taken in the order of {whole[0].name} as it was read here; "
        "the labels agree in every row"
    )
    return sets


def load_sets(protocol: Protocol, source: Filler, place: Place) -> tuple[ImageSet, ImageSet]:
    """Load a protocol's labelled sets for any source: those of given features settle which row is which image."""
    if isinstance(source, GivenFeatures):
        return load_given_images(protocol, source, place)
    return load_protocol_images(protocol, place.data_dir, download=place.download)


def _hashes_by_order(file: GivenFile, images: ImageSet) -> np.ndarray:
    """Return the hashes of the images as those of the rows, after counts and labels were compared."""
    title = f"{images.name} ({images.split})"
    if len(file) != images.num_images:
        raise DataError(
            f"{file.path.name} has another number of rows than {title} has images",
            got=f"{counted(len(file), 'rows')} for {counted(images.num_images, 'images')}",
            expected="a row for every image of the whole official split, in its order",
            remedy="make the features of the whole split, or keep the SHA-256 of each image's pixels beside them as "
            "an array sha256",
        )
    if file.labels is None:
        raise DataError(
            f"Nothing shows which row of {file.path.name} is which image of {title}",
            got="no sha256 and no labels",
            expected="sha256 for each row, or rows in the official order with their labels",
            remedy="save the labels beside the features: numpy.savez(path, features=..., labels=...)",
        )
    _check_labels(file, images, np.arange(len(file)))
    return images.pixel_hashes


def _check_labels(file: GivenFile, images: ImageSet, rows: np.ndarray) -> None:
    """Refuse rows whose labels are not those of their images; ``rows`` has the row of each image."""
    assert file.labels is not None, "only called for files with labels"
    assert images.labels is not None, "protocols are of labelled images"
    values = file.labels
    if file.class_names and values.dtype.kind in "iu" and values.min() >= 0 and values.max() < len(file.class_names):
        values = np.array(file.class_names)[values]
    numbers, _ = number_classes(values, [values], str(file.path), images.class_names)
    stated = np.full(len(rows), -1) if numbers is None else numbers[rows]
    different = np.flatnonzero(stated != images.labels)
    if len(different):
        row = int(rows[different[0]])
        wanted = images.class_names[images.labels[different[0]]]
        raise DataError(
            f"The labels in {file.path.name} are not those of {images.name} ({images.split})",
            got=f"{len(different):,} of {len(rows):,} differ, the first in row {row}: {file.labels[row]!s}, where the "
            f"image is of class {images.labels[different[0]]}, {wanted!r}",
            expected="the same images in the same order, classes numbered from 0 or by name",
            remedy="save the features in the order of the official files, or keep the SHA-256 of each image's "
            "pixels beside them as an array sha256",
        )


def _sets_of_rows(protocol: Protocol, source: GivenFeatures) -> tuple[ImageSet, ImageSet]:
    """Return sets of which nothing is known but features and labels; a row is known by the hash of its numbers."""
    if protocol.splits != ("train", "test"):
        raise ProtocolError(
            "Given features have no splits to choose from",
            got=f"splits {' and '.join(protocol.splits)}",
            remedy="leave out --train-split and --test-split: --features TRAIN TEST names both",
        )
    values = [file.labels for file in source.files if file.labels is not None]
    if not values:
        raise DataError(
            "The given features have no labels",
            got=", ".join(file.path.name for file in source.files),
            expected="labels beside the features, or the name of a protocol whose images they belong to",
            remedy="save them with numpy.savez(path, features=..., labels=...), or name the array with --label-column",
        )
    names = source.files[0].class_names or source.files[1].class_names or None
    sets = []
    for file, own, split in zip(source.files, values, ("train", "test"), strict=True):
        labels, classes = number_classes(own, values, str(file.path), names)
        blocks = (file.matrix[at : at + _READ_ROWS] for at in range(0, len(file), _READ_ROWS))
        hashes = np.array([digest for block in blocks for digest in hash_rows(as_float32(block))], "S64")
        rows = FeatureRows(file.matrix, np.arange(len(file)), hashes, file.digest)
        images = ImageSet(rows, labels, classes if labels is not None else (), file.path.name, split)
        sets.append(images.take(images.canonical_order))
    train, test = sets
    _check_sets(train, test)
    source.row_hashes, source.matched_by = (train.pixel_hashes, test.pixel_hashes), "rows"
    source.notes.append("there are no images: rows are known by the hash of their features, labels are the files' own")
    return train, test


def _check_sets(train: ImageSet, test: ImageSet) -> None:
    """Refuse labels that say nothing, and a test set that is the training set."""
    if train.labels is None or test.labels is None or len(np.unique(train.labels)) < 2:
        raise DataError(
            f"The labels in {train.name} and {test.name} are not of two classes or more",
            got="-1 everywhere" if train.labels is None or test.labels is None else f"class {train.class_names[0]!r}",
            expected="at least two classes in the training set, and a label for every row",
            remedy="check which array holds the labels, and name it with --label-column",
        )
    if train.fingerprint == test.fingerprint:
        raise DataError(
            "The training and the test features are the same rows",
            got=f"{train.name} and {test.name}",
            remedy="give the features of a training and of a test set to --features, in this order",
        )

"""The protocols that the toolkit knows, and the images each of them uses."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.catalog import DATASETS, DatasetInfo, is_offered, load_data
from ..data.imageset import ImageSet
from ..data.splits import first_per_class, stratified_split
from ..errors import DataError, ProtocolError, looks_like_path, missing_path, unknown_name
from ..records import PER_CLASS
from .spec import Protocol, Published, SealedTest

_PAPER = "arXiv:1511.06434, table 1"
_GRID = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_RELATIVE_GRID = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4)
_FEW = (
    1e-2,
    0.1,
    1.0,
    10.0,
    100.0,
)  # of a thousand classes each takes hours; it is widened where the best is at its end
_PAPER_2 = "arXiv:1511.06434, table 2"
_SVHN: dict[str, Any] = {
    "Cs": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
    "patience": 7,  # every value is tried
    "per_class": 100,
    "selection_draws": 10,
    "num_draws": 100,
    "preset": "svhn32",
    "shown_as": "error",
}
_SVHN_SMALL = (
    "a9fc6cc8aa96bb954563576499e3bd2a97396f1ef32d7b051dca0a3c9dc79b9c",
    "318392ab19bef6dea3a9a508b4a288e670d71ec68ecba0b366edcc4c35b1a00c",
)
_SPLIT_SEED = 0  # what belongs to a protocol, not to a run: small-suite and digits test sets

# fmt: off
_TABLE = (
    Protocol("cifar10_l2svm_full", 1, "cifar10", "CIFAR-10, all 50,000 labels", "cifar10",
             num_validation=10_000, Cs=_GRID, paper=Published(0.828, None, True, _PAPER)),
    Protocol("cifar10_l2svm_400", 1, "cifar10-400", "CIFAR-10, 400 labels per class", "cifar10",
             num_validation=10_000, Cs=_GRID, per_class=400, selection_draws=3, num_draws=10,
             paper=Published(0.738, 0.004, False, _PAPER)),
    Protocol("cifar10_small_l2svm", 1, "cifar10-small", "CIFAR-10 small suite, 4,000 / 2,000 images", "cifar10",
             num_validation=1_000, Cs=_GRID, subset=(400, 200)),
    Protocol("digits_l2svm", 1, "digits", "scikit-learn digits, 1,297 / 500 images", "digits",
             num_validation=300, Cs=_GRID, num_test=500),
    Protocol("svhn_l2svm_1000", 1, "svhn", "SVHN, 1,000 labels", "svhn",
             num_validation=10_000, **_SVHN, paper=Published(0.7752, None, True, _PAPER_2)),
    Protocol("svhn_small_l2svm_1000", 1, "svhn-small", "SVHN small suite, 1,000 of 4,000 / 6,000 images", "svhn",
             num_validation=1_000, **_SVHN, test_rows=(4_000, 10_000), fingerprints=_SVHN_SMALL),
)
# fmt: on

PROTOCOLS = {protocol.command: protocol for protocol in _TABLE}


_OF_CLASSES = ("caltech101", "flowers102", "pets")
"""Sets whose papers give the mean of the classes' accuracies: Fei-Fei et al. 2004, Nilsback & Zisserman 2008, Parkhi et
al. 2012."""


def _of_data_set(info: DatasetInfo) -> Protocol:
    """Return the protocol of a labelled set of the data catalogue: official splits, else a fifth to test."""
    test = next((split for split in ("test", "val") if split in info.splits), None)
    whole = None if test else sum(info.counts.values()) // 5
    of_classes = info.name in _OF_CLASSES
    return Protocol(
        f"{info.name.replace('-', '_')}_l2svm",
        3 if of_classes else 2,
        info.name,
        f"{info.title}, " + ("official splits" if test else f"{whole:,} images to test"),
        info.name,
        num_validation=None,
        Cs=_RELATIVE_GRID,
        relative=True,
        num_test=whole,
        splits=("train", test or "test"),
        metric=PER_CLASS if of_classes else "accuracy",
    )


MORE_PROTOCOLS = {
    name: _of_data_set(info) for name, info in DATASETS.items() if name not in (*PROTOCOLS, "tiny-imagenet")
}
"""Of every other labelled set that the data catalogue knows; Tiny ImageNet's training images come without labels."""
MORE_PROTOCOLS["imagenet-1k"] = replace(MORE_PROTOCOLS["imagenet-1k"], version=1, num_validation=50_000, Cs=_FEW)


def get_protocol(name: str) -> Protocol:
    """Return the protocol called ``name`` on the command line, or one of our own for data at a path or of a package.

    Data at a path need a training and a test split; a fifth of the training images choose C.

    Raises
    ------
    ProtocolError
        No such protocol, nor a path; the closest names are given.
    """
    known = PROTOCOLS | MORE_PROTOCOLS
    if name not in known and (Path(name).exists() or is_offered(name)):
        return own_protocol(name, f"own data, {Path(name).name}", name)
    if name not in known and looks_like_path(name):
        raise missing_path(Path(name), ProtocolError)
    if name not in known:
        raise unknown_name("protocol", name, known, ProtocolError)
    return known[name]


def own_protocol(command: str, title: str, dataset: str) -> Protocol:
    """Return the protocol of the user's own data."""
    return Protocol("own_l2svm", 3, command, title, dataset, num_validation=None, Cs=_RELATIVE_GRID, relative=True)


def load_protocol_data(
    protocol: Protocol, data_dir: Path | None = None, *, download: bool = False
) -> tuple[ImageSet, SealedTest]:
    """Load a protocol's training images and its sealed test set (see :func:`load_protocol_images`)."""
    train, test = load_protocol_images(protocol, data_dir, download=download)
    return train, SealedTest(test)


def load_protocol_images(
    protocol: Protocol, data_dir: Path | None = None, *, download: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Load a protocol's training and test images with their labels, both in canonical order.

    Parameters
    ----------
    protocol : Protocol
        What to run.
    data_dir : Path or None
        Where data sets lie; None uses ``DCGAN_EVAL_DATA``.
    download : bool
        Let torchvision fetch what is missing.

    Raises
    ------
    DataError
        The data cannot be found or read.
    """
    return take_protocol_images(protocol, load_whole_splits(protocol, data_dir, download=download))


def load_whole_splits(
    protocol: Protocol, data_dir: Path | None = None, *, download: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Load the splits that a protocol's training and test images are taken from, in the order of their files.

    Parameters
    ----------
    protocol, data_dir, download
        As for :func:`load_protocol_images`.

    Returns
    -------
    tuple of ImageSet
        The same one twice where the protocol cuts both out of one.
    """
    if protocol.test_rows is not None:
        images = load_data(protocol.dataset, "test", data_dir, download=download)
    elif protocol.num_test is not None:
        images = load_data(protocol.dataset, "all", data_dir, download=download, mixed=True)
    else:
        first, second = protocol.splits
        return (
            _load_split(protocol, first, data_dir, download),
            _load_split(protocol, second, data_dir, download),
        )
    return images, images


def take_protocol_images(protocol: Protocol, whole: tuple[ImageSet, ImageSet]) -> tuple[ImageSet, ImageSet]:
    """Take a protocol's training and test images out of what :func:`load_whole_splits` gave, in canonical order."""
    train, test = whole
    if protocol.test_rows is not None:
        train, test = _cut(test, protocol)
    elif protocol.num_test is not None:
        train, test = _split_off_test(test, protocol.num_test)
    if protocol.subset is not None:
        train = train.take(first_per_class(train, protocol.subset[0]), split="train-small")
        test = test.take(first_per_class(test, protocol.subset[1]), split="test-small")
    return train.take(train.canonical_order), test.take(test.canonical_order)


def _load_split(protocol: Protocol, split: str, data_dir: Path | None, download: bool) -> ImageSet:
    """Load a split; where data of one's own have no ``test``, ``val`` stands for it."""
    options: dict[str, Any] = {"download": download, "label_column": protocol.label_column, "mixed": True}
    try:
        return load_data(protocol.dataset, split, data_dir, **options)
    except DataError as missing:
        if not protocol.relative or split != "test":
            raise
        with suppress(DataError):
            return load_data(protocol.dataset, "val", data_dir, **options)
        raise missing


def _split_off_test(images: ImageSet, num_test: int) -> tuple[ImageSet, ImageSet]:
    """Split a stratified test set off a data set without an official one."""
    kept, held_out = stratified_split(images, num_test, _SPLIT_SEED, "test")
    return images.take(kept, split="train"), images.take(held_out, split="test")


def _cut(images: ImageSet, protocol: Protocol) -> tuple[ImageSet, ImageSet]:
    """Cut a training and a test set out of the official test file, refusing another order of its rows."""
    assert protocol.test_rows is not None, "only called for protocols that do this"
    pool, end = protocol.test_rows
    if images.num_images < end:
        raise DataError(
            f"{images.name} (test) has too few images for protocol {protocol.command}",
            got=f"{images.num_images}",
            expected=f"at least the first {end:,} of the official test file",
            remedy="get the whole test file",
        )
    train, test = images.take(np.arange(pool), split="train-small"), images.take(np.arange(pool, end), "test-small")
    if protocol.fingerprints not in (None, (train.fingerprint, test.fingerprint)):
        raise DataError(
            f"The first {end:,} images of {images.name} (test) are not those of the official file in its order",
            got=f"fingerprints {train.fingerprint[:12]}, {test.fingerprint[:12]}",
            expected=", ".join(fingerprint[:12] for fingerprint in protocol.fingerprints or ()),
            remedy="use the official .mat file or its Parquet copy, not class folders or shuffled rows",
        )
    return train, test

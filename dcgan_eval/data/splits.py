"""Splits and draws that depend on the images and a named seed, never on files or their order.

Every function works on each class's rows sorted by the SHA-256 of the pixels, so the same images give the same split
whether they came from torchvision, Parquet or a folder. Grouping by label stays in here: what is returned is in the
set's canonical order, which knows no labels. Each class draws from its own stream: changing one class leaves the draws
of the others alone.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from ..errors import DataError, counted
from ..provenance import digest
from ..seeding import rng
from .imageset import ImageSet

Rows = npt.NDArray[np.int64]


def stratified_split(images: ImageSet, num_held_out: int, seed: int, stream: str) -> tuple[Rows, Rows]:
    """Hold out the same share of every class.

    Parameters
    ----------
    images : ImageSet
        With labels of at least two classes.
    num_held_out : int
        Exact number of images to hold out, 1 to N - 1. Fractions are settled by largest remainder, ties by the lower
        label.
    seed : int
        Root seed.
    stream : str
        Name of the random stream, e.g. ``"validation"``.

    Returns
    -------
    kept_rows, held_out_rows : ndarray of int64
        Rows of ``images``, each sorted canonically; together every row once.

    Raises
    ------
    DataError
        If there are no labels, one class only, too few images, or a class would lose its last image.

    Source
    ------
    The 2016 release splits SVHN's validation images off the train set; which ones is not recorded.
    """
    groups = _members(images, images.canonical_order)
    _check_split_size(images, num_held_out)
    counts = np.array([len(group) for group in groups])
    quotas = _largest_remainder(counts, num_held_out)
    _check_no_class_lost(images, counts, quotas)
    drawn = [
        _draw(group, quota, seed, stream, label)
        for label, (group, quota) in enumerate(zip(groups, quotas, strict=True))
    ]
    held_out = _sorted(images, np.concatenate(drawn))
    kept = _sorted(images, np.setdiff1d(images.canonical_order, held_out, assume_unique=True))
    return kept, held_out


def draw_per_class(images: ImageSet, rows: npt.ArrayLike, per_class: int, seed: int, draw: int, stream: str) -> Rows:
    """Draw the same number of images of every class from some rows.

    The order of ``rows`` does not matter. A smaller ``per_class`` with the same seed, stream and draw is a subset.

    Parameters
    ----------
    images : ImageSet
        With labels of at least two classes.
    rows : array of int, (M,)
        Distinct rows of ``images`` to draw from.
    per_class : int
        Images of each class, at least 1.
    seed : int
        Root seed.
    draw : int
        Which repeat.
    stream : str
        Name of the random stream, e.g. ``"test draws"``.

    Returns
    -------
    ndarray of int64, (num_classes * per_class,)
        Rows of ``images``, sorted canonically.

    Raises
    ------
    DataError
        If there are no labels, one class only, or a class has fewer images among ``rows``.
    """
    groups = _members(images, _checked_pool(images, rows))
    _check_enough(images, groups, per_class)
    drawn = [_draw(group, per_class, seed, stream, label, draw=draw) for label, group in enumerate(groups)]
    return _sorted(images, np.concatenate(drawn))


def first_per_class(images: ImageSet, count: int) -> Rows:
    """Take the images of every class whose pixel hashes are the smallest.

    Parameters
    ----------
    images : ImageSet
        With labels of at least two classes.
    count : int
        Images of each class, at least 1.

    Returns
    -------
    ndarray of int64, (num_classes * count,)
        Rows of ``images``, sorted canonically.

    Raises
    ------
    DataError
        If there are no labels, one class only, or a class has fewer images.
    """
    groups = _members(images, images.canonical_order)
    _check_enough(images, groups, count)
    return _sorted(images, np.concatenate([group[:count] for group in groups]))


def _members(images: ImageSet, rows: Rows) -> list[Rows]:
    """Return the given rows of each class, in canonical order."""
    if images.labels is None:
        raise DataError(
            f"{images.name} ({images.split}) has no labels, so it cannot be split by class",
            expected="an image set with labels",
            remedy="load a labelled data set, e.g. --data cifar10",
        )
    if images.num_classes < 2 or len(np.unique(images.labels)) < 2:
        raise DataError(
            f"{images.name} ({images.split}) has a single class",
            expected="at least two classes with images",
            remedy="put the images of each class into a folder of its own, or give their labels",
        )
    grouped = by_label(images, rows)
    bounds = np.searchsorted(images.labels[grouped], np.arange(images.num_classes + 1))
    return [grouped[start:stop] for start, stop in itertools.pairwise(bounds)]


def by_label(images: ImageSet, rows: Rows) -> Rows:
    """Return some rows of a labelled set sorted by (label, pixel hash)."""
    assert images.labels is not None, "only called for labelled images"
    ordered = _sorted(images, rows)
    grouped: Rows = ordered[np.argsort(images.labels[ordered], kind="stable")]
    return grouped


def rows_digest(images: ImageSet, rows: Rows) -> str:
    """Return the SHA-256 of the pixel hashes of some rows of a labelled set, sorted by (label, pixel hash).

    It says which images a split or a draw held, wherever they came from; records keep it.
    """
    return digest(*images.pixel_hashes[by_label(images, rows)].astype(str))


def _sorted(images: ImageSet, rows: Rows) -> Rows:
    """Sort rows canonically."""
    ordered: Rows = rows[np.argsort(images.canonical_rank[rows], kind="stable")]
    return ordered


def _draw(group: Rows, count: int, seed: int, stream: str, label: int, **indices: int) -> Rows:
    """Draw ``count`` rows of one class without replacement from the stream of that class."""
    drawn: Rows = rng(seed, stream, label=label, **indices).permutation(group)[:count]
    return drawn


def _largest_remainder(counts: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Share ``total`` out in proportion to ``counts``, exactly; integers throughout, so no rounding can differ."""
    scaled = counts * total
    quotas: npt.NDArray[np.int64] = scaled // counts.sum()
    by_remainder = np.argsort(-(scaled % counts.sum()), kind="stable")
    quotas[by_remainder[: total - quotas.sum()]] += 1
    return quotas


def _check_split_size(images: ImageSet, num_held_out: int) -> None:
    if not 1 <= num_held_out < images.num_images:
        raise DataError(
            f"Cannot hold {counted(num_held_out, 'images')} out of {images.name} ({images.split})",
            got=counted(images.num_images, "images"),
            expected=f"1 to {images.num_images - 1} held out",
            remedy="hold out fewer images, or load more",
        )


def _check_no_class_lost(images: ImageSet, counts: npt.NDArray[np.int64], quotas: npt.NDArray[np.int64]) -> None:
    lost = np.flatnonzero((counts > 0) & (counts == quotas))
    if len(lost):
        raise DataError(
            f"Holding out {counted(int(quotas.sum()), 'images')} leaves none of class "
            f"{images.class_names[lost[0]]!r} to train on",
            got=f"{counted(int(counts[lost[0]]), 'images')} of that class in {images.name} ({images.split})",
            remedy="hold out fewer images, or load more of that class",
        )


def _check_enough(images: ImageSet, groups: list[Rows], per_class: int) -> None:
    if per_class < 1:
        raise DataError(
            f"Cannot take {counted(per_class, 'images')} of each class",
            expected="at least 1",
            remedy="ask for at least one",
        )
    for class_name, group in zip(images.class_names, groups, strict=True):
        if len(group) < per_class:
            raise DataError(
                f"Class {class_name!r} of {images.name} ({images.split}) has too few images",
                got=f"{len(group)} to choose from",
                expected=f"{per_class} of each class",
                remedy="ask for fewer labels per class, hold out fewer images, or load more of that class",
            )


def _checked_pool(images: ImageSet, rows: npt.ArrayLike) -> Rows:
    """Return the rows to draw from as distinct int64 row numbers."""
    pool = np.asarray(rows)
    valid = pool.ndim == 1 and (pool.dtype.kind in "iu" or not len(pool))
    if not valid or (len(pool) and (pool.min() < 0 or pool.max() >= images.num_images)):
        raise DataError(
            f"The rows to draw from are not rows of {images.name} ({images.split})",
            expected=f"integers from 0 to {images.num_images - 1}",
            remedy="pass row numbers of this image set, such as stratified_split returns",
        )
    return np.unique(pool.astype(np.int64))

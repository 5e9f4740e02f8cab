"""Images with labels, and the identity of their content: hashes, canonical order, fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, counted
from .feature_rows import FeatureRows
from .mixed import MixedImages

UNLABELLED = -1  # stands for the label in the order and the fingerprint of images that have none


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """A checked set of images, with or without labels.

    The arrays are treated as read-only: hashes and fingerprint are computed once and kept.

    Parameters
    ----------
    images : ndarray of uint8, (N, H, W, C), MixedImages or FeatureRows
        Pixels, 0 to 255; C is 1 (grey) or 3 (RGB); N at least 1. Images that differ in size, or are too many for memory
        at once, are decoded when they are asked for. Features made elsewhere stand for images that are not here.
    labels : ndarray of int64, (N,), or None
        Class of each image, 0 to ``len(class_names) - 1``; other integer types and sequences are converted. None
        means that the images have no labels.
    class_names : tuple of str
        Name of each class; empty with labels means ``"0"`` to the largest label.
    name, split : str
        What the set is called in messages and records.
    names : ndarray of str, (N,), or None
        What each image is called where it came from: a path, a key, a row; None where nothing is known.

    Raises
    ------
    DataError
        If the arrays do not have these types, shapes and ranges.

    Examples
    --------
    >>> ImageSet(np.zeros((2, 32, 32, 3), np.uint8), [0, 1]).class_names
    ('0', '1')
    """

    images: Any  # ndarray, MixedImages or FeatureRows
    labels: npt.NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    name: str = "images"
    split: str = "all"
    names: npt.NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        _check_images(self.images, self._title)
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, len(self.images), self._title))
        if self.names is not None:
            object.__setattr__(self, "names", _checked_names(self.names, len(self.images), self._title))
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names) or self._default_names())
        self._check_classes()

    def __len__(self) -> int:
        return self.num_images

    def __repr__(self) -> str:
        kind = "unlabelled" if self.labels is None else counted(self.num_classes, "classes")
        return f"ImageSet({self._title}: {self.num_images} x {self.image_shape}, {kind})"

    @property
    def num_images(self) -> int:
        """Number of images N."""
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of class names, whether or not each class has images."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image; height and width are 0 for images of different sizes."""
        height, width, channels = _shape_of(self.images)
        return height, width, channels

    @cached_property
    def pixel_hashes(self) -> npt.NDArray[np.bytes_]:
        """SHA-256 of each image's pixel bytes in (H, W, C) order, as 64 hexadecimal digits: (N,), dtype ``S64``."""
        return hash_pixels(self.images) if isinstance(self.images, np.ndarray) else self.images.pixel_hashes

    @cached_property
    def canonical_order(self) -> npt.NDArray[np.int64]:
        """Rows sorted by pixel hash: (N,) int64.

        Labels settle the order of identical images only, so that it follows from the set and not from its files;
        whoever sees the images in this order sees the same bytes whatever their labels are.
        """
        return np.lexsort((self._sort_labels, self.pixel_hashes)).astype(np.int64)

    @cached_property
    def canonical_rank(self) -> npt.NDArray[np.int64]:
        """Position of each row in :attr:`canonical_order`: (N,) int64."""
        rank = np.empty(self.num_images, np.int64)
        rank[self.canonical_order] = np.arange(self.num_images)
        return rank

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the image shape and the sorted (label, pixel hash) pairs.

        The order of the images, their file format, the class names and the name of the set do not enter.
        """
        return fingerprint_of(self.image_shape, self._sort_labels, self.pixel_hashes)

    def take(self, rows: npt.ArrayLike, split: str | None = None) -> ImageSet:
        """Return the images at ``rows``, in that order.

        Parameters
        ----------
        rows : array of int, (M,)
            Row numbers, 0 to N - 1; M at least 1.
        split : str, optional
            Split of the result; None keeps this one's.

        Returns
        -------
        ImageSet
            With the same classes; hashes already known are carried over.

        Raises
        ------
        DataError
            If there are no rows, or one of them does not exist.
        """
        index = _checked_rows(rows, self.num_images, self._title)
        labels = None if self.labels is None else self.labels[index]
        names = None if self.names is None else self.names[index]
        images = self.images[index] if isinstance(self.images, np.ndarray) else self.images.take(index)
        taken = dataclasses.replace(self, images=images, labels=labels, names=names, split=split or self.split)
        return self._with_known_hashes(taken, index)

    def without_labels(self) -> ImageSet:
        """Return the same images without labels and names (paths tell classes), for code that must not see them."""
        return self._with_known_hashes(dataclasses.replace(self, labels=None, names=None), slice(None))

    @property
    def _title(self) -> str:
        return f"{self.name} ({self.split})"

    @property
    def _sort_labels(self) -> npt.NDArray[np.int64]:
        return np.full(self.num_images, UNLABELLED, np.int64) if self.labels is None else self.labels

    def _with_known_hashes(self, other: ImageSet, index: Any) -> ImageSet:
        """Carry hashes that were computed already over to ``other``, which holds the rows ``index``."""
        if "pixel_hashes" in self.__dict__:
            other.__dict__["pixel_hashes"] = self.pixel_hashes[index]
        return other

    def _default_names(self) -> tuple[str, ...]:
        """Name the classes by their numbers."""
        if self.labels is None:
            return ()
        # an absurd label must become the error below, not a tuple of a billion names
        highest = min(max(int(self.labels.max()), 0), len(self.labels) + 10_000)
        return tuple(str(label) for label in range(highest + 1))

    def _check_classes(self) -> None:
        """Refuse repeated names and labels outside the names."""
        if len(set(self.class_names)) != self.num_classes:
            repeated = sorted({name for name in self.class_names if self.class_names.count(name) > 1})
            raise DataError(
                f"Two classes of {self._title} have the same name",
                got=", ".join(repeated),
                expected="distinct class names",
                remedy="rename one of them",
            )
        if self.labels is None:
            return
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"Labels of {self._title} lie outside its classes",
                got=f"labels from {low} to {high}",
                expected=f"0 to {self.num_classes - 1}, one number for each of {self.num_classes} class names",
                remedy="number the classes from 0 (SVHN's own files write the digit 0 as label 10: map 10 to 0)",
            )


def hash_pixels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bytes_]:
    """Return the SHA-256 of each image's pixel bytes as 64 hexadecimal digits: (N, H, W, C) to (N,), dtype ``S64``."""
    # hexadecimal because NumPy's byte strings drop trailing zero bytes, which raw digests can have
    rows = (hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in images)
    return np.fromiter(rows, dtype="S64", count=len(images))


def fingerprint_of(
    image_shape: tuple[int, int, int], labels: npt.NDArray[np.int64], hashes: npt.NDArray[np.bytes_]
) -> str:
    """Return what :attr:`ImageSet.fingerprint` is, from labels (-1 for none) and pixel hashes, in any order."""
    order = np.lexsort((hashes, labels))
    pairs = np.empty(len(labels), dtype=[("label", "<i8"), ("hash", "S64")])
    pairs["label"], pairs["hash"] = labels[order], hashes[order]
    header = "x".join(str(size) for size in image_shape)
    return hashlib.sha256(header.encode() + b"\n" + pairs.tobytes()).hexdigest()


def _shape_of(images: Any) -> tuple[int, ...]:
    """Return the shape of every image."""
    return tuple(images.shape[1:]) if isinstance(images, np.ndarray) else images.image_shape


def _check_images(images: Any, title: str) -> None:
    """Refuse anything that is not a uint8 array (N, H, W, C) with pixels in it, or a sequence of such images."""
    if isinstance(images, MixedImages | FeatureRows) and len(images):
        return
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise DataError(
            f"The images of {title} are not 8-bit integers",
            got=str(images.dtype) if isinstance(images, np.ndarray) else type(images).__name__,
            expected="a NumPy array of uint8, 0 to 255",
            remedy=_type_remedy(images),
        )
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"The images of {title} have the wrong shape",
            got=str(images.shape),
            expected="(N, H, W, C) with N, H, W at least 1 and C 1 (grey) or 3 (RGB)",
            remedy=_shape_remedy(images),
        )


def _type_remedy(images: Any) -> str:
    """Say how to convert images of another type, from what they look like; (255 * x) would wrap around in integers."""
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "iu":
        return "convert with (255 * x).round().astype(numpy.uint8) for floats from 0 to 1"
    if images.size and images.min() < 0:
        return "shift and scale the values to 0 to 255 first, then convert with x.astype(numpy.uint8)"
    largest = int(images.max()) if images.size else 0
    if largest <= 255:
        return "convert with x.astype(numpy.uint8), since no value is larger than 255"
    if images.dtype == np.uint16 or largest < 1 << 16:
        return "convert with (x // 257).astype(numpy.uint8) for the full 16-bit range"
    return "scale the values to 0 to 255 first, then convert with x.astype(numpy.uint8)"


def _shape_remedy(images: np.ndarray) -> str:
    """Say what to do about a wrong shape, from what it looks like."""
    if len(images) == 0:
        return "give at least one image"
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return "put the channels last with images.transpose(0, 2, 3, 1)"
    if images.ndim == 3:
        return "add the channel axis of grey images with images[..., None]"
    return "reshape the array to (N, H, W, C)"


def _checked_labels(labels: Any, num_images: int, title: str) -> npt.NDArray[np.int64]:
    """Return the labels as int64, or say why they cannot be."""
    try:
        array = np.asarray(labels)
    except ValueError as error:  # a ragged sequence
        raise DataError(f"The labels of {title} do not form an array", got=str(error)) from error
    if array.dtype.kind not in "iu":
        raise DataError(
            f"The labels of {title} are not integers",
            got=str(array.dtype),
            expected="one integer for each image",
            remedy="map class names to numbers from 0, or pass labels=None for images without labels",
        )
    if array.shape != (num_images,):
        raise DataError(
            f"The labels of {title} do not match its images",
            got=f"labels of shape {array.shape} for {counted(num_images, 'images')}",
            expected=f"shape ({num_images},)",
            remedy="give one label for each image, in the same order",
        )
    return array.astype(np.int64)


def _checked_names(names: Any, num_images: int, title: str) -> npt.NDArray[np.str_]:
    """Return the names as strings, or say why they cannot be."""
    array = np.asarray(names)
    if array.shape != (num_images,) or array.dtype.kind not in "UO":
        raise DataError(
            f"The names of the images of {title} do not match its images",
            got=f"shape {array.shape}, {array.dtype}",
            expected=f"one string for each of {counted(num_images, 'images')}",
        )
    return array.astype(np.str_)


def _checked_rows(rows: npt.ArrayLike, num_images: int, title: str) -> npt.NDArray[np.int64]:
    """Return the rows as int64, or say which of them do not exist."""
    index = np.asarray(rows)
    if index.ndim != 1 or index.dtype.kind not in "iu" or not len(index):
        raise DataError(
            f"Rows of {title} must be a non-empty list of integers",
            got=f"shape {index.shape}, {index.dtype}",
            remedy="use numpy.flatnonzero for a mask, and select at least one image",
        )
    if index.min() < 0 or index.max() >= num_images:
        raise DataError(
            f"Rows of {title} do not exist",
            got=f"rows from {index.min()} to {index.max()}",
            expected=f"0 to {num_images - 1}",
            remedy="ask for fewer rows, or for a larger split",
        )
    return index.astype(np.int64)

"""Labels of any kind to class numbers and names: one rule for every form of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .imageset import UNLABELLED

Labels = npt.NDArray[np.int64]


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Put distinct class names in the order of their numbers: numbers by size, names by alphabet."""
    distinct = set(names)
    numeric = all(name.isdecimal() for name in distinct)
    return tuple(sorted(distinct, key=lambda name: (int(name) if numeric else 0, name)))


def number_classes(
    values: np.ndarray,
    every: Sequence[np.ndarray],
    title: str,
    names: tuple[str, ...] | None = None,
    where: Callable[[int], str] = "row {}".format,
) -> tuple[Labels | None, tuple[str, ...]]:
    """Number the classes of a split.

    Parameters
    ----------
    values : ndarray, (N,) or (N, 1)
        Label of each image: integers, whole floats, booleans, strings or bytes.
    every : sequence of ndarray
        Labels of all splits, so that a class absent from one of them does not shift the others.
    title : str
        What to call the data in an error.
    names : tuple of str, optional
        Names of the classes, if the data state them: integers then are positions in it.
    where : callable
        Maps a row to what its image is called in an error.

    Returns
    -------
    labels : ndarray of int64, (N,), or None
        None if every label of the split is -1, which is how unlabelled test sets are published.
    class_names : tuple of str
        Names in the order of the numbers: where the data state none, the values found, numbers by size. Values 0 to
        K - 1 keep their numbers; 1 to K become 0 to K - 1 under the names 1 to K.

    Raises
    ------
    DataError
        If the labels are of another kind, lack some images, or lie outside the names.
    """
    column = _plain(values, title)
    if column.dtype.kind == "i" and len(column) and (column == UNLABELLED).all():
        return None, ()
    _refuse_missing(column, title, where)
    if names is not None and column.dtype.kind == "i":
        return column, names
    alike = [other for other in (_plain(each, title) for each in every) if other.dtype.kind == column.dtype.kind]
    found = np.unique(np.concatenate([*alike, column]))
    found_names = [str(value) for value in (found[found >= 0] if found.dtype.kind == "i" else found)]
    ordered = names if names is not None and set(found_names) <= set(names) else sort_names(found_names)
    number_of = {name: number for number, name in enumerate(ordered)}
    distinct, positions = np.unique(column, return_inverse=True)
    numbers = np.array([number_of[str(value)] for value in distinct], np.int64)
    return numbers[positions.reshape(-1)], ordered


def _plain(values: np.ndarray, title: str) -> np.ndarray:
    """Return labels as int64 or strings, (N,)."""
    column = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if column.ndim != 1:
        raise DataError(
            f"The labels of {title} are not one value for each image",
            got=f"shape {values.shape}",
            remedy="turn one-hot rows into numbers with labels.argmax(1)",
        )
    if column.dtype.kind == "S":
        return np.char.decode(column, "utf-8", "backslashreplace")
    if column.dtype.kind == "U":
        return column
    odd = _no_class(column)
    if odd is not None:
        raise DataError(
            f"The labels of {title} are not classes",
            got=odd,
            expected="integers or names",
            remedy="give each image the number or the name of its class",
        )
    return column.astype(np.int64)


def _no_class(column: np.ndarray) -> str | None:
    """Return what cannot be the number of a class, if anything."""
    if column.dtype.kind not in "iufb":
        return str(column.dtype)
    numbers = column.astype(np.float64)
    bad = ~np.isfinite(numbers) | (numbers != np.round(numbers)) | (abs(numbers) >= 2.0**53)
    return f"{column[bad][0]} in row {np.flatnonzero(bad)[0]}" if bad.any() else None


def _refuse_missing(column: np.ndarray, title: str, where: Callable[[int], str]) -> None:
    """Refuse labels that say "none" for some images only."""
    missing = np.flatnonzero(column < 0 if column.dtype.kind == "i" else column == "")
    if len(missing):
        said = f" (label {column[missing[0]]})" if column.dtype.kind == "i" else ""
        raise DataError(
            f"Some images of {title} have no label",
            got=f"{len(missing)} of {len(column)}, the first {where(int(missing[0]))}{said}",
            expected="a class for every image, or for none",
            remedy="remove these images, or all labels",
        )

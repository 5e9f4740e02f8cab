"""Arrays of images and labels in ``.npz`` files, under any of the names in use; nothing is unpickled."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.labels import number_classes
from dcgan_eval.data.lists import choose_label_column
from dcgan_eval.data.tree import SPELLINGS, WHOLE, by_split, rank, split_named
from dcgan_eval.errors import DataError

_IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "arr0")
LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "cls", "finelabels", "finelabel")
OTHER_LABELS = ("coarselabels", "coarselabel", "arr1")
CLASS_NAMES = ("classnames", "labelnames")
NAMES = ("names", "filenames", "paths", "keys")
_ROLES = {
    role: kind for kind, roles in enumerate((_IMAGES, LABELS + OTHER_LABELS, CLASS_NAMES, NAMES)) for role in roles
}
# what NumPy and zipfile raise on damaged archives, besides ValueError: an encrypted member is a RuntimeError, a header
# that claims a huge array a MemoryError
_ERRORS = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

Roles = tuple[list[str], ...]  # of images, labels, class names, names
Keys = dict[str, Roles]


def splits_in(path: Path) -> tuple[str, ...]:
    """Return the splits of a file, or of the files named after splits in a folder.

    Parameters
    ----------
    path : Path
        An ``.npz`` file; or a folder with ``train.npz``, ``test.npz``, ..., or with one file of any name.

    Raises
    ------
    DataError
        If a file is damaged, or holds no array of images.
    """
    return tuple(sorted(_files(path), key=rank))


def read_npz(
    path: Path,
    split: str,
    *,
    name: str = "images",
    class_names: tuple[str, ...] | None = None,
    label_column: str | None = None,
) -> ImageSet:
    """Read arrays of images and labels, without ever unpickling.

    Parameters
    ----------
    path : Path
        As for :func:`splits_in`. Arrays are called ``images`` and ``labels`` (split ``all``), or for each split
        ``x_train`` and ``y_train``, ``train_images`` and ``train_labels``, in any other spelling of these; also
        ``class_names`` and ``names``. Images are uint8 (N, H, W, C) or, grey, (N, H, W); labels are integers
        or strings, (N,) or (N, 1), and may be absent.
    split : str
        Which split.
    name : str
        What to call the result.
    class_names : tuple of str, optional
        Classes in the order of their numbers; None takes those in the file, or names them after the labels found.
    label_column : str, optional
        Name of the array of labels, where several could be meant.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        If a file is damaged, holds Python objects, lacks the split, or several arrays could be meant.
    """
    found = _files(path)
    if split not in found:
        raise DataError(f"{path} has no {split} split", got=f"splits {', '.join(found)}")
    file, keys = found[split]
    images, stated, names = _arrays(file, *(_only(keys[role], file) for role in (0, 2, 3)))
    images = images[..., None] if images.ndim == 3 else images
    labels, classes = _labels(found, split, class_names or _texts(stated), label_column)
    return ImageSet(images, labels, classes, name, split, names if names.dtype.kind == "U" else None)


def unused_arrays(path: Path) -> list[str]:
    """Return the names of the arrays that nothing is read from."""
    unused = []
    for file in {file for file, _ in _files(path).values()}:
        with open_npz(file) as archive:
            known = {key for keys in sort_by_role(archive.files).values() for kind in keys for key in kind}
            unused += [key for key in archive.files if key not in known]
    return sorted(unused)


def _files(path: Path) -> dict[str, tuple[Path, Roles]]:
    """Return the file of each split, and its keys by role."""
    if path.is_file():
        return {split: (path, keys) for split, keys in _splits_of(path).items()}
    archives = sorted(file for file in path.glob("*.npz") if file.is_file())
    named = by_split(file.stem for file in archives if split_named(file.stem))
    if not named:
        return _files(archives[0]) if len(archives) == 1 else {}
    found = {}
    for split, stem in named.items():
        file = path / f"{stem}.npz"
        splits = _splits_of(file)
        found[split] = (file, splits.get(split) or next(iter(splits.values())))
    return found


def _splits_of(path: Path) -> Keys:
    """Return the keys of each split of a file, by role."""
    with open_npz(path) as file:
        keys = sort_by_role(file.files)
    found = {split: roles for split, roles in keys.items() if roles[0]}
    shared = keys.get(WHOLE, ([], [], [], []))[2]
    if not found:
        raise DataError(
            f"{path} has no array of images",
            got=f"keys {', '.join(sorted(key for key in file.files)) or '(none)'}",
            expected="images and labels, or x_train, y_train, x_test, y_test, or train_images, train_labels, ...",
            remedy="save it with numpy.savez(path, images=..., labels=...)",
        )
    return {split: (roles[0], roles[1], roles[2] or shared, roles[3]) for split, roles in found.items()}


def sort_by_role(names: Iterable[str], kinds: Mapping[str, int] = _ROLES) -> Keys:
    """Sort the names of arrays by split and role; case, underscores and dots do not matter.

    Parameters
    ----------
    names : iterable of str
        As they stand in a file: ``X_train``, ``test.labels``.
    kinds : mapping
        Plain name without its split -> place of its role in the result.

    Returns
    -------
    dict of str to tuple of list of str
        Split (``"all"`` where the name states none) -> names of each role.
    """
    found: Keys = {}
    for name in names:
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        for spelling in ("", *sorted(SPELLINGS, key=len, reverse=True)):
            role = plain.removeprefix(spelling)
            role = role.removesuffix(spelling) if role == plain else role
            if role in kinds and (spelling == "" or role != plain):
                roles = found.setdefault(
                    SPELLINGS.get(spelling, WHOLE), tuple([] for _ in range(1 + max(kinds.values())))
                )
                roles[kinds[role]].append(name)
                break
    return found


def _labels(
    found: dict[str, tuple[Path, Roles]],
    split: str,
    class_names: tuple[str, ...] | None,
    wanted: str | None,
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Number the classes of a split, with those of the others in view."""
    values = {}
    for other, (file, keys) in found.items():
        key = _label_key(keys[1], file, wanted)
        if key is not None:
            values[other] = _arrays(file, key)[0]
    if split not in values:
        return None, ()
    return number_classes(values[split], list(values.values()), f"{found[split][0]} ({split})", class_names)


def _label_key(keys: list[str], path: Path, wanted: str | None) -> str | None:
    """Choose the array of labels."""
    if len(keys) > 1 and wanted is None:
        raise DataError(
            f"{path} has several arrays of labels",
            got=", ".join(keys),
            remedy=f"choose one, as with --label-column {keys[0]}",
        )
    return choose_label_column(keys, str(path), wanted) if keys and wanted is not None else next(iter(keys), None)


def _only(keys: list[str], path: Path) -> str | None:
    """Return the one key of a role, None if there is none."""
    if len(keys) > 1:
        raise DataError(
            f"{path} has several arrays that could be meant", got=", ".join(keys), remedy="save it with one of them"
        )
    return keys[0] if keys else None


def _arrays(path: Path, *keys: str | None) -> list[np.ndarray]:
    """Read arrays; an empty one for None."""
    with open_npz(path) as file:
        return [file[key] if key is not None else np.empty(0) for key in keys]


def _texts(array: np.ndarray) -> tuple[str, ...] | None:
    """Return class names, if the array holds any."""
    return tuple(str(text) for text in array) if array.dtype.kind == "U" and array.ndim == 1 and len(array) else None


@contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an archive of arrays, turning whatever a damaged one raises into a DataError."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an archive of named arrays")
        with file:
            yield file
    except ValueError as error:
        holds_objects = "allow_pickle" in str(error) and zipfile.is_zipfile(path)
        raise _error(path, error, holds_objects) from error
    except _ERRORS as error:
        raise _error(path, error, False) from error


def _error(path: Path, error: Exception, holds_objects: bool) -> DataError:
    """Build the error for an unreadable archive."""
    if holds_objects:
        return DataError(
            f"{path} holds an array of Python objects, which only unpickling could read",
            expected="numeric arrays: images uint8 (N, H, W, C) or features (N, D), labels int64 (N,)",
            remedy="save it again with numpy.savez from numeric arrays; images, or rows, must all have one size",
        )
    return DataError(
        f"{path} cannot be read as an .npz file",
        got=str(error) or type(error).__name__,
        remedy="the file is probably truncated or of another kind: fetch it again, or save it with numpy.savez",
    )

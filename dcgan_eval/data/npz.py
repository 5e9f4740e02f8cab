"""Arrays of images and labels in ``.npz`` files, under any of the names in use; nothing is unpickled."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import DataError
from .imageset import ImageSet
from .labels import number_classes
from .lists import LABEL_COLUMNS, OTHER_LABEL_COLUMNS, choose_label_column, plain, unused_columns
from .tree import SPELLINGS, WHOLE, by_split, rank, split_named

_IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "arr0")
LABELS = (*LABEL_COLUMNS, "y", "arr1")
OTHER_LABELS = tuple(name for name in OTHER_LABEL_COLUMNS if name != "y")  # where there are none of the first
CLASS_NAMES = ("classnames", "labelnames")
NAMES = ("names", "filenames", "paths", "keys")
_ROLES = {
    role: kind for kind, roles in enumerate((_IMAGES, LABELS, CLASS_NAMES, NAMES, OTHER_LABELS)) for role in roles
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


def unread_arrays(path: Path, label_column: str | None = None) -> dict[str, list[str]]:
    """Return the note on arrays that nothing is read from; parameters as for :func:`read_npz`."""
    found = _files(path)
    labels = _label_keys(found, label_column)
    used = {(found[split][0], key) for split, key in labels.items()}
    used |= {(file, key) for file, keys in found.values() for role in (0, 2, 3) for key in keys[role]}
    unused: dict[str, None] = {}
    for file in dict.fromkeys(file for file, _ in found.values()):
        with open_npz(file) as archive:
            unused |= dict.fromkeys(key for key in archive.files if (file, key) not in used)
    return unused_columns(path.name, list(unused), bool(labels), "array")


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
    shared = keys[WHOLE][2] if WHOLE in keys else []
    if not found:
        raise DataError(
            f"{path} has no array of images",
            got=f"keys {', '.join(sorted(key for key in file.files)) or '(none)'}",
            expected="images and labels, or x_train, y_train, x_test, y_test, or train_images, train_labels, ...",
            remedy="save it with numpy.savez(path, images=..., labels=...)",
        )
    return {split: (r[0], r[1] or r[4], r[2] or shared, r[3]) for split, r in found.items()}


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
        written = plain(name)
        for spelling in ("", *sorted(SPELLINGS, key=len, reverse=True)):
            role = written.removeprefix(spelling)
            role = role.removesuffix(spelling) if role == written else role
            if role in kinds and (spelling == "" or role != written):
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
    values = {other: _arrays(found[other][0], key)[0] for other, key in _label_keys(found, wanted).items()}
    if split not in values:
        return None, ()
    return number_classes(values[split], list(values.values()), f"{found[split][0]} ({split})", class_names)


def _label_keys(found: dict[str, tuple[Path, Roles]], wanted: str | None) -> dict[str, str]:
    """Choose the array of labels of each split that has one."""
    if wanted is None:
        chosen = {split: _label_key(keys[1], file) for split, (file, keys) in found.items()}
    else:
        chosen = {split: _key_wanted(file, split, wanted) for split, (file, _) in found.items()}
    if wanted is not None and not any(chosen.values()):
        file, _ = next(iter(found.values()))
        with open_npz(file) as archive:
            choose_label_column(archive.files, str(file), wanted)  # says what there is
    return {split: key for split, key in chosen.items() if key is not None}


def _key_wanted(path: Path, split: str, wanted: str) -> str | None:
    """Return the array of a split that ``wanted`` names, with or without the split's name in it."""
    with open_npz(path) as file:
        names = file.files
    written = plain(wanted)
    bare = {written.removeprefix(each).removesuffix(each) for each in SPELLINGS} - {written}
    for kinds in ({written: 0}, dict.fromkeys(bare, 0)):
        meant = sort_by_role(names, kinds).get(split, ([],))[0]
        if meant:
            return wanted if wanted in meant else _label_key(meant, path)
    return None


def _label_key(keys: list[str], path: Path) -> str | None:
    """Return the one array of labels, None if there is none."""
    if len(keys) > 1:
        raise DataError(
            f"{path} has several arrays of labels",
            got=", ".join(keys),
            remedy=f"choose one, as with --label-column {keys[0]}",
        )
    return keys[0] if keys else None


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

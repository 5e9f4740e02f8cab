"""Features made elsewhere, from ``.npz``, Parquet and HDF5 files and from our own stores; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.feature_rows import as_float32
from ..data.lists import choose_label_column
from ..data.npz import CLASS_NAMES, LABELS, NAMES, OTHER_LABELS, open_npz, sort_by_role
from ..data.tree import WHOLE
from ..errors import DataError
from ..files import sha256_of
from .store import FeatureStore

_FEATURES = ("features", "feature", "feats", "embeddings", "embedding", "representations", "x", "z", "data", "arr0")
_KINDS = (_FEATURES, LABELS, CLASS_NAMES, ("sha256",), NAMES, OTHER_LABELS)
_ROLES = {role: kind for kind, roles in enumerate(_KINDS) for role in roles}
_COLUMNS = {role: kind for role, kind in _ROLES.items() if kind}  # any other column of a table may be a feature
_STAND_FOR = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
_READ_ROWS = 4096
SUFFIXES = (".npz", ".parquet", ".h5", ".hdf5")


@dataclass(frozen=True)
class GivenFile:
    """The features of one split, as a file has them.

    Attributes
    ----------
    path : Path
        Where they were read.
    digest : str
        SHA-256 of the file.
    matrix : ndarray or FeatureStore
        Features (N, D), of any numeric type; all finite in float32.
    labels : ndarray or None
        Integers or strings, (N,).
    class_names : tuple of str
        Names for integer labels; empty where the file has none.
    sha256 : ndarray or None
        Pixel hash of each row's image, (N,), dtype ``S64``.
    columns : tuple of str
        Names of the features, where they are columns of a table.
    notes : tuple of str
        What was found and not used.
    """

    path: Path
    digest: str
    matrix: Any
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    sha256: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.matrix)


def read_given(path: Path, split: str, label_column: str | None = None) -> GivenFile:
    """Read features made elsewhere.

    Parameters
    ----------
    path : Path
        ``.npz`` or plain HDF5 with an array of features (N, D) and, if you like, labels (N,), class names and pixel
        hashes ``sha256``, in any usual spelling, also ``X_train``; Parquet with a column for each feature or one list
        column, and a column of labels; or one of our own feature stores.
    split : str
        ``"train"`` or ``"test"``: which part of a file that holds several.
    label_column : str, optional
        Array or column of the labels, where several could be meant.

    Returns
    -------
    GivenFile

    Raises
    ------
    DataError
        Missing, damaged or of another kind; no features, or several; not finite, not numbers, not a matrix.
    """
    readers: dict[str, Callable[[Path, str, str | None], dict[str, Any]]] = {
        ".npz": _from_npz,
        ".parquet": _from_parquet,
        ".h5": _from_hdf5,
        ".hdf5": _from_hdf5,
    }
    if path.suffix.lower() not in readers or not path.is_file():
        raise DataError(
            f"No features can be read from {path}",
            got=f"a file of type {path.suffix!r}" if path.is_file() else "no such file",
            expected=f"a file {', '.join(SUFFIXES)}",
            remedy="save the features and labels with numpy.savez(path, X=..., y=...), and give that to --features",
        )
    found = readers[path.suffix.lower()](path, split, label_column)
    file = GivenFile(path, sha256_of(path), **found)
    _check_matrix(file)
    return file


def _check_matrix(file: GivenFile) -> None:
    """Refuse what is no matrix of finite numbers with a label and a hash for each row."""
    shape, kind = file.matrix.shape, file.matrix.dtype.kind
    if len(shape) != 2 or 0 in shape or kind not in "biuf":
        raise DataError(
            f"The features in {file.path} are no matrix of numbers",
            got=f"shape {shape}, {file.matrix.dtype}",
            expected="(N, D): a row of D numbers for each image, N and D at least 1",
            remedy="reshape them with X.reshape(len(X), -1), and save them as float32",
        )
    for what, column in (("labels", file.labels), ("sha256", file.sha256)):
        if column is not None and len(column) != shape[0]:
            raise DataError(
                f"{file.path} has another number of {what} than of rows of features",
                got=f"{len(column):,} and {shape[0]:,}",
                remedy="save one for each row, in the same order",
            )
    for start in range(0, shape[0], _READ_ROWS):
        bad = ~np.isfinite(as_float32(file.matrix[start : start + _READ_ROWS])).all(axis=1)
        if bad.any():
            raise DataError(
                f"The features in {file.path} are not all finite",
                got=f"NaN, infinity or a value beyond float32 in row {start + int(np.flatnonzero(bad)[0])}",
                remedy="find out why the encoder gave it; a row without features has no place in the file",
            )


def _from_npz(path: Path, split: str, wanted: str | None) -> dict[str, Any]:
    """Read an archive of arrays."""
    with open_npz(path) as archive:
        return _named(path, split, wanted, archive.files, lambda key: archive[key])


def _from_hdf5(path: Path, split: str, wanted: str | None) -> dict[str, Any]:
    """Read one of our stores, or any HDF5 file of arrays."""
    names: list[str] = []
    try:
        with h5py.File(path, "r") as file:
            if "identity" not in file.attrs:
                file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
                return _named(path, split, wanted, names, lambda key: _dataset(file[key]))
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as HDF5", got=str(error), remedy="write it again") from error
    store = FeatureStore(path)
    keys = store.keys
    return {"matrix": store, "labels": keys.labels, "class_names": keys.class_names, "sha256": keys.sha256}


def _dataset(dataset: Any) -> np.ndarray:
    """Read a data set; variable-length strings become text, other objects nothing that could be features."""
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.array(dataset.asstr()[()], dtype=np.str_)
    values: np.ndarray = dataset[()]
    return values


def _named(
    path: Path, split: str, wanted: str | None, names: Sequence[str], read: Callable[[str], np.ndarray]
) -> dict[str, Any]:
    """Read the arrays of a file that names them."""
    splits = sort_by_role(names, _ROLES)
    part = next((key for key in (*_STAND_FOR[split], WHOLE) if key in splits and splits[key][0]), None)
    if part is None:
        raise DataError(
            f"{path} has no array of {split} features",
            got=f"arrays {', '.join(sorted(names)) or '(none)'}",
            expected=f"features and labels, or X_{split} and y_{split}",
            remedy="save it with numpy.savez(path, features=..., labels=...)",
        )
    roles, whole = splits[part], splits.get(WHOLE, tuple([] for _ in _KINDS))
    features = _only(path, "features", roles[0])
    labels = wanted if wanted in names else _only_label(path, roles[1] or roles[5], wanted)
    named, hashes = roles[2] or whole[2], _only(path, "sha256", roles[3])
    matrix = read(features) if features else np.empty(0)
    stated = read(named[0]) if named else np.empty(0)
    known = {name for kinds in splits.values() for kind in kinds for name in kind} - {*roles[1], *roles[5]}
    unused = [name for name in names if name not in known and name != labels]
    return {
        "matrix": matrix,
        "labels": _column(read(labels)) if labels else None,
        "class_names": tuple(map(str, _column(stated))) if stated.dtype.kind in "SU" and stated.ndim == 1 else (),
        "sha256": _hashes(path, read(hashes)) if hashes else None,
        "notes": (f"arrays of {path.name} that are not used: {', '.join(unused)}",) if unused else (),
    }


def _only(path: Path, what: str, names: Sequence[str]) -> str | None:
    """Return the one name of a role, None if there is none."""
    if len(names) > 1:
        raise DataError(
            f"{path} has several arrays that could be the {what}",
            got=", ".join(names),
            remedy="save it with one of them",
        )
    return names[0] if names else None


def _only_label(path: Path, names: Sequence[str], wanted: str | None) -> str | None:
    """Return the name of the labels, None if there are none."""
    if wanted is not None or len(names) <= 1:
        return choose_label_column(names, str(path), wanted) if wanted is not None else next(iter(names), None)
    raise DataError(
        f"{path} has several columns of labels",
        got=", ".join(names),
        remedy=f"choose one, as with --label-column {names[0]}",
    )


def _column(values: np.ndarray) -> np.ndarray:
    """Return labels or names with bytes as text."""
    return np.char.decode(values, "utf-8", "backslashreplace") if values.dtype.kind == "S" else values


def _hashes(path: Path, values: np.ndarray) -> np.ndarray:
    """Return pixel hashes as ``S64``, or say that they are none."""
    texts = np.char.lower(_column(values)) if values.dtype.kind in "SU" and values.ndim == 1 else np.array([""])
    if not all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in texts.tolist()):
        raise DataError(
            f"The column sha256 of {path} holds no pixel hashes",
            got=f"{values.dtype}, shape {values.shape}",
            expected="64 hexadecimal digits for each row",
            remedy="leave it out, or write the SHA-256 of each image's pixels",
        )
    return texts.astype("S64")


def _from_parquet(path: Path, split: str, wanted: str | None) -> dict[str, Any]:
    """Read a table: a column of lists, or a column for each feature."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet", got=str(error), remedy="write it again") from error
    columns = [name for name in table.column_names if not name.startswith("__index_level_")]
    roles = sort_by_role([name for name in columns if not _is_list(table.schema.field(name).type)], _COLUMNS)
    found = roles.get(WHOLE, tuple([] for _ in _KINDS))
    labels = wanted if wanted in columns else _only_label(path, found[1] or found[5], wanted)
    hashes = _only(path, "sha256", found[3])
    left = [name for name in columns if name not in (labels, *found[1], *found[3], *found[4], *found[5])]
    matrix, features = _table_matrix(path, table, left)
    unused = [name for name in columns if name not in (labels, hashes, *features, *found[4])]
    return {
        "matrix": matrix,
        "labels": _cells(path, table, labels) if labels else None,
        "sha256": _hashes(path, _cells(path, table, hashes)) if hashes else None,
        "class_names": _stated_classes(table),
        "columns": tuple(features) if len(features) > 1 else (),
        "notes": (f"columns of {path.name} that are not used: {', '.join(unused)}",) if unused else (),
    }


def _stated_classes(table: pa.Table) -> tuple[str, ...]:
    """Return the class names that our own export writes into a file's metadata; none where they are not there."""
    try:
        names = json.loads((table.schema.metadata or {}).get(b"class_names", b"[]"))
    except (ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _table_matrix(path: Path, table: pa.Table, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the features of a table and the columns that they are in."""
    types: Mapping[str, Any] = {name: table.schema.field(name).type for name in names}
    lists = [name for name in names if _is_list(types[name])]
    numbers = [name for name in names if pa.types.is_integer(types[name]) or pa.types.is_floating(types[name])]
    counters = [name for name in numbers if name.lower() in ("id", "idx", "index", "row", "unnamed: 0")]
    if len(lists) == 1:
        return _list_matrix(path, table.column(lists[0])), lists
    if lists or counters or not numbers:
        what = ", ".join(lists or counters or table.column_names)
        raise DataError(
            f"It is not clear which columns of {path} are features",
            got=f"columns {what}" + (", which look like row numbers" if counters and not lists else ""),
            expected="one column of lists of numbers, or a column of numbers for each feature",
            remedy="write the file again with the features and the labels alone",
        )
    values = [table.column(name).to_numpy().astype(np.float32) for name in numbers]
    return np.column_stack(values), numbers


def _list_matrix(path: Path, column: Any) -> np.ndarray:
    """Return a column of lists as a matrix."""
    lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
    if len(lengths) != 1 or None in lengths or not _is_number(column.type.value_type):
        shown = ", ".join(sorted(map(str, lengths))[:4])
        raise DataError(
            f"The lists in {path} are no rows of one matrix",
            got=f"{column.type}, of lengths {shown or 'none'}",
            expected="the same number of numbers in every row",
            remedy="write one list of D numbers for each image",
        )
    parts = [
        chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks
    ]  # together beyond 32-bit offsets
    return np.concatenate(parts).reshape(len(column), -1)


def _is_list(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    """Tell whether a type is numeric."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _cells(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """Return a column of labels or hashes as integers, floats or text."""
    column = table.column(name)
    if column.null_count:
        raise DataError(
            f"Column {name!r} of {path} has empty cells",
            got=f"{column.null_count:,} of {len(column):,}",
            remedy="fill them, or remove these rows",
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_number = _is_number(column.type) or pa.types.is_boolean(column.type)
    values: np.ndarray = column.to_numpy() if is_number else np.array(column.to_pylist(), np.str_)
    return values

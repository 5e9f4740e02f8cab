"""Parquet files in the layout of Hugging Face image data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dcgan_eval.data.decoding import Pixels, decode_many, stack
from dcgan_eval.data.imageset import UNLABELLED, ImageSet
from dcgan_eval.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_SHARD = re.compile(r"(?P<split>[A-Za-z_]\w*)-(?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")
_WHOLE = re.compile(r"(?P<split>train|test|val|valid|validation|extra|all)\.parquet")
_BATCH_ROWS = 1024  # bounds the memory that encoded images take


def split_files(folder: Path) -> dict[str, list[Path]]:
    """List the Parquet files directly in a folder by split.

    Parameters
    ----------
    folder : Path
        Existing folder.

    Returns
    -------
    dict of str to list of Path
        Files named ``train-00000-of-00002.parquet`` or ``train.parquet``, sorted by name; others are left out.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        match = _SHARD.fullmatch(path.name) or _WHOLE.fullmatch(path.name)
        if match:
            found.setdefault(match["split"], []).append(path)
    return found


def split_of(path: Path) -> str | None:
    """Return the split that a Parquet file's name states, or None.

    Raises
    ------
    DataError
        If the file is one shard of several, which alone would pass for the whole split.
    """
    shard, whole = _SHARD.fullmatch(path.name), _WHOLE.fullmatch(path.name)
    if shard and int(shard["count"]) > 1:
        raise DataError(
            f"{path} is one shard of {int(shard['count'])}",
            expected="all shards of a split together",
            remedy=f"give the folder instead: {path.parent}",
        )
    match = shard or whole
    return match["split"] if match else None


def read_parquet(
    files: Sequence[Path], *, name: str, split: str, class_names: tuple[str, ...] | None = None
) -> ImageSet:
    """Read the shards of one split.

    Parameters
    ----------
    files : sequence of Path
        All shards, in order. One column holds the encoded images (``image`` or ``img``: a struct with ``bytes``, or
        binary), another int64 labels (``label``, ``labels`` or ``fine_label``), which may be absent.
    name, split : str
        What to call the result.
    class_names : tuple of str, optional
        Used if the files' own metadata name no classes.

    Returns
    -------
    ImageSet
        Without labels if there is no label column, or if every label is -1 (how unlabelled test sets are published).

    Raises
    ------
    DataError
        If a shard is missing, truncated or lacks the columns, an image is damaged, or sizes or class names differ.
    """
    check_shards(files)
    images: list[Pixels] = []
    labels: list[npt.NDArray[np.int64] | None] = []
    names: set[tuple[str, ...] | None] = set()
    places: list[tuple[int, Path]] = []  # first position of each file, for error messages
    for path in files:
        places.append((len(images), path))
        shard_images, shard_labels, shard_names = _read_shard(path)
        images += shard_images
        labels.append(shard_labels)
        names.add(shard_names)
    _check_agreement(files, labels, names)

    def where(position: int) -> str:
        first, path = next(place for place in reversed(places) if place[0] <= position)
        return f"row {position - first} of {path}"

    stacked = stack(images, f"{name} ({split})", where)
    return ImageSet(stacked, _join_labels(labels), names.pop() or class_names or (), name, split)


def check_shards(files: Sequence[Path]) -> None:
    """Refuse an incomplete or mixed set of shards; files without shard numbers are taken as they are.

    Raises
    ------
    DataError
        Naming the shards that are missing.
    """
    shards = [match for match in (_SHARD.fullmatch(path.name) for path in files) if match]
    if not shards:
        return
    count = max(int(match["count"]) for match in shards)
    present = sorted(f"{match['split']}-{match['index']}-of-{match['count']}" for match in shards)
    wanted = [f"{shards[0]['split']}-{index:05d}-of-{count:05d}" for index in range(count)]
    if present != wanted or len(shards) != len(files):
        missing = [shard for shard in wanted if shard not in present]
        raise DataError(
            f"The Parquet shards in {files[0].parent} are not one complete set",
            got=", ".join(path.name for path in files),
            expected=f"{count} shards" + (f"; missing: {', '.join(missing)}" if missing else ""),
            remedy="fetch the missing shards, or move files of another version away",
        )


def layout_of(path: Path) -> tuple[list[int], tuple[str, ...] | None]:
    """Return the number of rows in each row group of a file, and its class names, if it states them.

    Raises
    ------
    DataError
        If the file cannot be read, or has no column of images.
    """
    with _reading(path), pq.ParquetFile(path) as file:
        _, label_column = _columns(file.schema_arrow, path)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        return sizes, _class_names(file.schema_arrow, label_column)


def read_encoded(path: Path, group: int) -> tuple[list[bytes | None], npt.NDArray[np.int64] | None]:
    """Read one row group without decoding its images.

    Returns
    -------
    tuple
        The encoded images, None where a row holds none, and the labels, None if the file has no such column.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    with _reading(path), pq.ParquetFile(path) as file:
        image_column, label_column = _columns(file.schema_arrow, path)
        table = file.read_row_group(group, [column for column in (image_column, label_column) if column])
        images = table.column(image_column).combine_chunks()
        labels = _label_values(table.column(label_column), label_column, path) if label_column else None
        return _encoded(images), labels


def _read_shard(path: Path) -> tuple[list[Pixels], npt.NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Read the images, labels and class names of one file."""
    images: list[Pixels] = []
    labels = [np.empty(0, np.int64)]  # so that an empty shard has labels as well
    with _reading(path), pq.ParquetFile(path) as file:
        image_column, label_column = _columns(file.schema_arrow, path)
        columns = [column for column in (image_column, label_column) if column]
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            images += _decode_batch(_encoded(batch.column(image_column)), len(images), path)
            if label_column:
                labels.append(_label_values(batch.column(label_column), label_column, path))
        names = _class_names(file.schema_arrow, label_column)
    return images, np.concatenate(labels) if label_column else None, names


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged file into a DataError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as Parquet",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="the file is probably truncated: fetch it again",
        ) from error


def _columns(schema: pa.Schema, path: Path) -> tuple[str, str | None]:
    """Choose the image column and the label column, if any."""
    images = [column for column in IMAGE_COLUMNS if column in schema.names and _holds_images(schema.field(column).type)]
    images = images or [field.name for field in schema if pa.types.is_struct(field.type) and _holds_images(field.type)]
    if len(images) != 1:
        raise DataError(
            f"{path} has {'several' if images else 'no'} columns of images",
            got=f"columns {', '.join(schema.names)}",
            expected="one column named image or img, a struct with the field bytes",
            remedy="write the file in the layout of Hugging Face image data sets",
        )
    labels = [column for column in LABEL_COLUMNS if column in schema.names]
    if labels and not pa.types.is_integer(schema.field(labels[0]).type):
        raise DataError(
            f"Column {labels[0]!r} of {path} does not hold class numbers",
            got=str(schema.field(labels[0]).type),
            expected="int64, from 0",
            remedy="number the classes from 0",
        )
    return images[0], labels[0] if labels else None


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded(column: Any) -> list[bytes | None]:
    """Return the encoded images of a batch."""
    encoded: list[bytes | None] = (column.field("bytes") if pa.types.is_struct(column.type) else column).to_pylist()
    return encoded


def _decode_batch(encoded: list[bytes | None], first_row: int, path: Path) -> list[Pixels]:
    """Decode one batch, naming file and row in errors."""
    if None in encoded:
        raise DataError(
            f"Row {first_row + encoded.index(None)} of {path} holds no image",
            expected="the encoded image in the field bytes",
            remedy="embed the images in the file instead of giving their paths",
        )
    present = [item for item in encoded if item is not None]
    return decode_many(present, lambda position: f"row {first_row + position} of {path}")


def _label_values(column: Any, label_column: str, path: Path) -> npt.NDArray[np.int64]:
    """Return the labels of a batch."""
    if column.null_count:
        raise DataError(
            f"Column {label_column!r} of {path} has empty cells",
            expected="a label in every row, or none at all",
            remedy="remove the rows without label, or the column",
        )
    values: npt.NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def _class_names(schema: pa.Schema, label_column: str | None) -> tuple[str, ...] | None:
    """Read the class names from the schema metadata, if they are there and well formed."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in metadata["info"]["features"][label_column]["names"]) or None
    except (KeyError, TypeError, ValueError):  # no metadata, or of another kind: names are a courtesy
        return None


def _join_labels(labels: Sequence[npt.NDArray[np.int64] | None]) -> npt.NDArray[np.int64] | None:
    """Join the labels of all shards; None if they have none."""
    present = [values for values in labels if values is not None]
    joined = np.concatenate(present) if present else None
    return None if joined is None or (joined == UNLABELLED).all() else joined


def _check_agreement(files: Sequence[Path], labels: Sequence[object], names: set[tuple[str, ...] | None]) -> None:
    """Refuse shards that do not belong together."""
    if len(names) > 1 or len({values is None for values in labels}) > 1:
        raise DataError(
            f"The Parquet shards in {files[0].parent} differ in their labels or class names",
            got=", ".join(path.name for path in files),
            expected="shards of one data set",
            remedy="fetch all shards from the same source",
        )

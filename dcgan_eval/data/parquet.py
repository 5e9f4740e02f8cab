"""Tables of encoded images in the layout of Hugging Face: Parquet shards, and Arrow files of ``save_to_disk``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .lists import choose_label_column, unused_columns
from .tree import SPELLINGS, WHOLE, by_split, split_named

IMAGE_COLUMNS = ("image", "img")
_SHARD = re.compile(r"(?P<split>[A-Za-z_]\w*)-(?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")
_WHOLE = re.compile(rf"(?P<split>{'|'.join((*SPELLINGS, WHOLE))})\.parquet", re.IGNORECASE)


@dataclass(frozen=True)
class RowGroup:
    """A group of rows of a Parquet file, or a batch of an Arrow file."""

    path: Path
    group: int
    num_rows: int
    column: str

    def __len__(self) -> int:
        return self.num_rows

    def paths(self) -> list[Path]:
        """Return the file."""
        return [self.path]

    def items(self) -> list[bytes]:
        """Read the encoded images; empty where a row holds none.

        Raises
        ------
        DataError
            If the file cannot be read.
        """
        with _reading(self.path):
            if self.path.suffix == ".arrow":
                cells = _batches(self.path)[self.group].column(self.column)
            else:
                with pq.ParquetFile(self.path) as file:
                    cells = file.read_row_group(self.group, [self.column]).column(self.column).combine_chunks()
            contents = cells.field("bytes") if pa.types.is_struct(cells.type) else cells
            return [content or b"" for content in contents.to_pylist()]


class Table(NamedTuple):
    """The shards of one split, without their images.

    Attributes
    ----------
    units : tuple of RowGroup
        In order.
    labels : ndarray, (N,), or None
        As they stand in the files.
    class_names : tuple of str, or None
        If the files state them.
    names : tuple of str
        Each image's path, if the files state it and no two are the same, else file and row.
    """

    units: tuple[RowGroup, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    names: tuple[str, ...]


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
    for path in sorted(path for path in folder.glob("*.parquet") if path.is_file()):
        match = _SHARD.fullmatch(path.name) or _WHOLE.fullmatch(path.name)
        if match:
            found.setdefault(_split_in(match), []).append(path)
    return found


def saved_splits(folder: Path) -> dict[str, list[Path]]:
    """List the Arrow files that ``datasets.save_to_disk`` left in a folder by split; ``"all"`` for a single data set.

    Raises
    ------
    DataError
        If a file that the folder's own list names is missing.
    """
    kinds = {"": folder, **{sub.name: sub for sub in sorted(folder.iterdir()) if (sub / "state.json").is_file()}}
    listed = {name or WHOLE: files for name, place in kinds.items() if (files := _state_files(place))}
    found = {split: listed[name] for split, name in by_split(listed).items()}
    missing = [str(path) for files in found.values() for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{folder} lacks files of the data set saved there", got=f"no {missing[0]}")
    return found


def _state_files(folder: Path) -> list[Path]:
    """Return the files that a saved data set consists of, by its own list."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return [folder / Path(entry["filename"]).name for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


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
    return _split_in(match) if match else None


def _split_in(match: re.Match[str]) -> str:
    """Return the split of a file's name."""
    return split_named(match["split"]) or match["split"]


def read_table(files: Sequence[Path], label_column: str | None = None) -> Table:
    """Read everything but the images of the shards of one split.

    Parameters
    ----------
    files : sequence of Path
        All shards, in order. One column holds the encoded images (``image`` or ``img``: a struct with ``bytes``, or
        binary), another the labels, which may be absent.
    label_column : str, optional
        As for :func:`~dcgan_eval.data.lists.choose_label_column`.

    Returns
    -------
    Table

    Raises
    ------
    DataError
        If a shard is missing, truncated or lacks the columns, or shards differ in their columns or class names.
    """
    check_shards(files)
    shards = [_read_shard(path, label_column) for path in files]
    if len({shard.class_names for shard in shards}) > 1 or len({shard.labels is None for shard in shards}) > 1:
        raise DataError(
            f"The files in {files[0].parent} differ in their labels or class names",
            got=", ".join(path.name for path in files),
            expected="shards of one data set",
            remedy="fetch all shards from the same source",
        )
    labels = [shard.labels for shard in shards if shard.labels is not None]
    names = tuple(name for shard in shards for name in shard.names)
    if len(set(names)) < len(names):
        names = tuple(
            f"{path.name}:{row}" for path, s in zip(files, shards, strict=True) for row in range(len(s.names))
        )
    units = tuple(unit for shard in shards for unit in shard.units)
    return Table(units, np.concatenate(labels) if labels else None, shards[0].class_names, names)


def unread_columns(files: Sequence[Path], label_column: str | None = None) -> dict[str, list[str]]:
    """Return the note on columns of a split's files that nothing is read from; parameters as for :func:`read_table`."""
    with _reading(files[0]):
        schema = _stream(files[0]).schema if files[0].suffix == ".arrow" else pq.read_schema(files[0])
    image, label, _ = _chosen(schema, files[0], label_column)
    others = [name for name in schema.names if name not in (image, label) and not name.startswith("__index_level_")]
    return unused_columns("the tables", others, label is not None)


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


def _read_shard(path: Path, wanted: str | None) -> Table:
    """Read everything but the images of one file."""
    with _reading(path):
        if path.suffix == ".arrow":
            batches = _batches(path)
            table = pa.Table.from_batches(batches, _stream(path).schema)
            sizes = [batch.num_rows for batch in batches]
            image, label, names = _chosen(table.schema, path, wanted)
            paths = table.column(image).combine_chunks() if "path" in names else None
        else:
            with pq.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                image, label, names = _chosen(file.schema_arrow, path, wanted)
                table = file.read(
                    [column for column in (label, f"{image}.path" if "path" in names else None) if column]
                )
            table = table.replace_schema_metadata(file.schema_arrow.metadata)
            paths = table.column(image).combine_chunks() if "path" in names else None
        labels = _label_values(table.column(label), label, path) if label else None
    units = tuple(RowGroup(path, group, size, image) for group, size in enumerate(sizes) if size)
    rows = _names(paths, path, sum(sizes))
    return Table(units, labels, _class_names(table.schema, label), rows)


def _chosen(schema: pa.Schema, path: Path, wanted: str | None) -> tuple[str, str | None, tuple[str, ...]]:
    """Choose the image column and the label column, if any; and name the fields of an image."""
    images = [column for column in IMAGE_COLUMNS if column in schema.names and _holds_images(schema.field(column).type)]
    images = images or [field.name for field in schema if pa.types.is_struct(field.type) and _holds_images(field.type)]
    if len(images) != 1:
        raise DataError(
            f"{path} has {'several' if images else 'no'} columns of images",
            got=f"columns {', '.join(schema.names)}",
            expected="one column named image or img, a struct with the field bytes",
            remedy="write the file in the layout of Hugging Face image data sets",
        )
    others = [column for column in schema.names if column != images[0]]
    kind = schema.field(images[0]).type
    fields = tuple(field.name for field in kind) if pa.types.is_struct(kind) else ()
    return images[0], choose_label_column(others, str(path), wanted), fields


def _names(paths: Any, path: Path, num_rows: int) -> tuple[str, ...]:
    """Name the rows of a file, by the paths it states or by number."""
    stated = paths.field("path").to_pylist() if paths is not None else [None]
    if all(isinstance(name, str) and name for name in stated) and len(set(stated)) == num_rows:
        return tuple(stated)
    return tuple(f"{path.name}:{row}" for row in range(num_rows))


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_values(column: Any, label_column: str, path: Path) -> np.ndarray:
    """Return the labels of a file, as integers, floats, booleans or strings."""
    if column.null_count:
        raise DataError(
            f"Column {label_column!r} of {path} has empty cells",
            expected="a label in every row, or none at all",
            remedy="remove the rows without label, or the column",
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not any(check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, _is_text)):
        raise DataError(
            f"Column {label_column!r} of {path} does not hold class numbers or names",
            got=str(kind),
            expected="integers or strings",
            remedy="choose another column with --label-column",
        )
    if _is_text(kind):
        return np.array(column.to_pylist(), np.str_)
    values: np.ndarray = column.to_numpy()
    return values


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _class_names(schema: pa.Schema, label_column: str | None) -> tuple[str, ...] | None:
    """Read the class names from the schema metadata, if they are there and well formed."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in metadata["info"]["features"][label_column]["names"]) or None
    except (KeyError, TypeError, ValueError, RecursionError):  # no metadata, or of another kind: names are a courtesy
        return None


def _stream(path: Path) -> Any:
    """Open an Arrow file, in the stream format of ``datasets`` or the file format."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source)


def _batches(path: Path) -> list[Any]:
    """Map the record batches of an Arrow file."""
    batches: list[Any] = _stream(path).read_all().to_batches()
    return batches


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged file into a DataError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as {'Arrow' if path.suffix == '.arrow' else 'Parquet'}",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="the file is probably truncated: fetch it again",
        ) from error

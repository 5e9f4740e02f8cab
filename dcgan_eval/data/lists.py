"""Files that say which image is of which class: metadata.csv, metadata.jsonl, and lists of paths and labels."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dcgan_eval.errors import DataError

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
METADATA = ("metadata.csv", "metadata.jsonl", "val_annotations.txt")
NAME_COLUMNS = ("file_name", "filename", "path", "image", "file")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "class", "class_name", "cls", "target", "category")

Row = tuple[str, str | None]


def choose_label_column(columns: Sequence[str], where: str, wanted: str | None = None) -> str | None:
    """Choose the column of the labels.

    Parameters
    ----------
    columns : sequence of str
        Columns that there are.
    where : str
        What to call the data in an error.
    wanted : str, optional
        The column to take; None takes the only one with a usual name.

    Returns
    -------
    str or None
        None if there is none.

    Raises
    ------
    DataError
        If the column that is wanted is not there, or several could be meant.
    """
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise DataError(
            f"{where} has no column {wanted!r}",
            got=f"columns {', '.join(columns)}",
            remedy="name one of them with --label-column",
        )
    found = [column for column in LABEL_COLUMNS if column in columns]
    if len(found) > 1:
        raise DataError(
            f"{where} has several columns of labels",
            got=", ".join(found),
            remedy=f"choose one, as with --label-column {found[0]}",
        )
    return found[0] if found else None


def read_list(path: Path, label_column: str | None = None) -> list[Row]:
    """Read the names and labels that a list states.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.tsv`` with a header or ``.jsonl``: a column ``file_name``, ``filename``, ``path``, ``image`` or
        ``file``, and one of labels. ``.txt``: in each line a path and, behind white space, a label; lines without one
        are images without labels; in Tiny ImageNet's ``val_annotations.txt`` the second column is the label.
    label_column : str, optional
        As for :func:`choose_label_column`.

    Returns
    -------
    list of (str, str or None)
        Path as it stands there, and label.

    Raises
    ------
    DataError
        If it cannot be read, is of another layout, or names a file twice with different labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        rows = list(_plain_rows(path, text) if path.suffix == ".txt" else _table_rows(path, text, label_column))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a list of images", got=str(error) or type(error).__name__) from error
    labels = dict(rows)
    odd = next((name for name, label in rows if labels[name] != label), None)
    if odd is not None:
        raise DataError(f"{path} gives {odd} two labels", remedy="remove one of the lines")
    return list(labels.items())


def _plain_rows(path: Path, text: str) -> Iterable[Row]:
    """Read a line each."""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if path.name in METADATA:
            name, label = line.split("\t")[:2]
        else:
            name, _, label = line.strip().rpartition("\t" if "\t" in line else " ")
        yield (name.strip(), label.strip()) if name else (label, None)


def _table_rows(path: Path, text: str, label_column: str | None) -> Iterable[Row]:
    """Read a table with a header."""
    records = _records(path, text)
    columns = list(dict.fromkeys(column for record in records for column in record if column))
    name_column = next((column for column in NAME_COLUMNS if column in columns), None)
    if name_column is None:
        raise DataError(
            f"{path} has no column of file names",
            got=f"columns {', '.join(columns)}",
            expected=", ".join(NAME_COLUMNS),
            remedy="name the column file_name",
        )
    label = choose_label_column(columns, str(path), label_column)
    for record in records:
        value = record.get(label) if label else None
        yield str(record.get(name_column) or ""), None if value is None or value == "" else str(value)


def _records(path: Path, text: str) -> list[dict[str, Any]]:
    """Split a table into its rows."""
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line is no JSON object")
        return records
    return list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ","))


def beside(name: str, row: str) -> str:
    """Return where a list called ``name`` says that an image lies: its row, from the folder of the list."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), row))

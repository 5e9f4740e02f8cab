"""Files that say which image is of which class: metadata.csv, metadata.jsonl, and lists of paths and labels."""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, counted

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
_SHOWN = 4  # names in a note
METADATA = ("metadata.csv", "metadata.jsonl", "val_annotations.txt")
NAME_COLUMNS = ("filename", "path", "image", "file", "imagepath", "filepath", "imagefile", "imagename", "imagefilename")
_LABEL = ("label", "labels", "class", "classes", "cls", "target", "targets", "category", "categories")
LABEL_COLUMNS = (*_LABEL, *(f"{kind}label{s}" for kind in ("fine", "coarse") for s in ("", "s")))
OTHER_LABEL_COLUMNS = (
    "y",
    *(word + end for word in ("class", "label", "category", "target") for end in ("name", "id", "idx", "index")),
    *("classlabel", "targetlabel", "groundtruth"),
)
"""Names of labels, as :func:`plain` writes them; the others count where none of the first is there, since they often
stand beside one of the first and say the same."""

Row = tuple[str, str | None]


class ImageList(NamedTuple):
    """What a list states.

    Attributes
    ----------
    rows : list of (str, str or None)
        Path of each image as it stands there, and label.
    unused : list of str
        Columns that nothing is read from.
    has_labels : bool
        Whether there is a column of labels.
    """

    rows: list[Row]
    unused: list[str]
    has_labels: bool


@lru_cache(maxsize=1 << 12)
def plain(name: str) -> str:
    """Return the name of a column without what spellings differ in: case, underscores, dots, blanks."""
    return re.sub(r"[\W_]+", "", name).lower()


def choose_label_column(columns: Sequence[str], where: str, wanted: str | None = None) -> str | None:
    """Choose the column of the labels.

    Parameters
    ----------
    columns : sequence of str
        Columns that there are.
    where : str
        What to call the data in an error.
    wanted : str, optional
        The column to take; None takes the only one with a usual name, in any spelling.

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
        alike = [wanted] if wanted in columns else [name for name in columns if plain(name) == plain(wanted)]
        if len(alike) == 1:
            return alike[0]
        raise DataError(
            f"{where} has no column {wanted!r}",
            got=f"columns {', '.join(columns)}",
            remedy="name one of them with --label-column",
        )
    first, second = ([name for name in columns if plain(name) in kind] for kind in (LABEL_COLUMNS, OTHER_LABEL_COLUMNS))
    found = first or second
    if len(found) > 1:
        raise DataError(
            f"{where} has several columns of labels",
            got=", ".join(found),
            remedy=f"choose one, as with --label-column {found[0]}",
        )
    return found[0] if found else None


def unused_columns(where: str, columns: Sequence[str], has_labels: bool, what: str = "column") -> dict[str, list[str]]:
    """Return the note on columns that nothing is read from; without labels it says how to choose them."""
    if not columns or has_labels:
        return {f"{what}s of {where}": list(columns)} if columns else {}
    name = columns[0] if len(columns) == 1 else "NAME"
    shown = ", ".join(columns[:_SHOWN]) + (", ..." if len(columns) > _SHOWN else "")
    return {f"{counted(len(columns), what + 's')} of {where} ({shown}); choose labels with --label-column {name}": []}


def read_list(path: Path, label_column: str | None = None, content: bytes | None = None) -> ImageList:
    """Read the names and labels that a list states.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.tsv`` with a header or ``.jsonl``: a column of paths (:data:`NAME_COLUMNS`) and one of labels, in
        any spelling of their names. ``.txt``: in each line a path and, behind white space, a label; lines without one
        are images without labels; in Tiny ImageNet's ``val_annotations.txt`` the second column is the label.
    label_column : str, optional
        As for :func:`choose_label_column`.
    content : bytes, optional
        What the list holds, where it is no file but a member of an archive, which ``path`` then names.

    Returns
    -------
    ImageList

    Raises
    ------
    DataError
        If it cannot be read, is of another layout, or names a file twice with different labels.
    """
    try:
        raw = path.read_bytes() if content is None else content
        text = raw.decode("utf-8-sig", errors="surrogateescape")
        if path.suffix.lower() == ".txt":
            found = ImageList(list(_plain_rows(path, text)), [], True)
        else:
            found = _table(path, text, label_column)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a list of images", got=str(error) or type(error).__name__) from error
    labels = dict(found.rows)
    odd = next((name for name, label in found.rows if labels[name] != label), None)
    if odd is not None:
        raise DataError(f"{path} gives {odd} two labels", remedy="remove one of the lines")
    return found._replace(rows=list(labels.items()))


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


def _table(path: Path, text: str, label_column: str | None) -> ImageList:
    """Read a table with a header."""
    records = _records(path, text)
    columns = list(dict.fromkeys(column for record in records for column in record if column))
    name_column = next((column for name in NAME_COLUMNS for column in columns if plain(column) == name), None)
    if name_column is None:
        raise DataError(
            f"{path} has no column of file names",
            got=f"columns {', '.join(columns)}",
            expected="file_name, path or image",
            remedy="name the column file_name",
        )
    others = [column for column in columns if column != name_column]
    label = choose_label_column(others, str(path), label_column)
    rows = []
    for record in records:
        value = record.get(label) if label else None
        rows.append((str(record.get(name_column) or ""), None if value is None or value == "" else str(value)))
    return ImageList(rows, [column for column in others if column != label], label is not None)


def _records(path: Path, text: str) -> list[dict[str, Any]]:
    """Split a table into its rows."""
    if path.suffix.lower() == ".jsonl":
        records = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line is no JSON object")
        return records
    return list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))


def beside(name: str, row: str) -> str:
    """Return where a list called ``name`` says that an image lies: its row, from the folder of the list."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), row))

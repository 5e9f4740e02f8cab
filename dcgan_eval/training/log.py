"""Tables of a run: CSV files that grow row by row, each row with a checksum of its own."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import TrainingError
from ..files import write_file

Row = dict[str, float]
CHECKSUM = "crc32"
"""Last column of every table: of the row's names and values."""


class Table:
    """A CSV file that grows row by row, so that it can be followed and survives a kill.

    Parameters
    ----------
    path : Path
        The file.
    rounds_done : int
        Where the run continues: rows from later rounds are dropped, for they will be made again.

    Raises
    ------
    TrainingError
        The table is damaged, or cannot be written.
    """

    def __init__(self, path: Path, rounds_done: int):
        self.path = path
        self.rows = [row for row in read_table(path) if row["round"] <= rounds_done]
        if path.exists():
            with _writing(path):
                write_file(path, _text(self.rows, header=True))

    def append(self, row: Row) -> None:
        """Add a row."""
        is_first = not self.rows
        assert is_first or row.keys() == self.rows[0].keys(), "all rows of a table have the same columns"
        self.rows.append(row)
        with _writing(self.path), open(self.path, "a", newline="") as file:
            file.write(_text([row], header=is_first))


def read_table(path: Path) -> list[Row]:
    """Read a table of a run; empty if there is none. A last row cut short by a kill is left out.

    Raises
    ------
    TrainingError
        A row does not match its checksum, or is none: the file was changed since it was written.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    try:
        text = path.read_text(errors="replace")
        complete = text[: text.rfind("\n") + 1]
        for line in csv.DictReader(io.StringIO(complete)):
            rows.append(_row(line))
    except (OSError, ValueError, csv.Error) as error:
        raise TrainingError(
            f"A table of the run is damaged: row {len(rows) + 1} was changed since it was written",
            got=f"{path}: {error}",
            remedy="restore the file, or delete that row; it is no part of what is trained",
        ) from error
    return rows


def _row(line: Mapping[str | None, str | None]) -> Row:
    """Return the numbers of a row whose checksum fits; tables made before there was one have none."""
    named = {key: value for key, value in line.items() if key is not None and value is not None}
    if len(named) < len(line) or not {"round", "seen_images"} <= named.keys():
        raise ValueError("columns are missing, or too many")
    said = named.pop(CHECKSUM, None)
    if said is not None and said != _checksum(named):
        raise ValueError("it does not match its checksum")
    return {key: float(value) for key, value in named.items()}


def _text(rows: Sequence[Row], *, header: bool) -> str:
    """Return rows as CSV."""
    if not rows:
        return ""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow([*rows[0], CHECKSUM])
    for row in rows:
        values = {key: str(int(value) if float(value).is_integer() else value) for key, value in row.items()}
        writer.writerow([*values.values(), _checksum(values)])
    return file.getvalue()


def _checksum(values: Mapping[str, str]) -> str:
    """Return eight hexadecimal digits that follow from a row's names and values as they stand in the file."""
    return f"{zlib.crc32(repr(sorted(values.items())).encode()):08x}"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say so when a table cannot be written."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            "A table of the run cannot be written",
            got=f"{path}: {error}",
            remedy="free some space, then continue with --resume from the last checkpoint",
        ) from error

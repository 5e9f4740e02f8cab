"""The paper's tables with our records beside them, in the formats that people paste."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..records import Record
from .escaping import csv_cell, latex_cell, markdown_cell
from .paper_numbers import PAPER, PublishedRow, PublishedTable, Section, trained_as_published
from .sheet import Sheet
from .tables import features_label, images_interval, percent, run_name, shown

NamedRecord = tuple[Path, Record]
OTHER = "other protocols or parts of the data, beside no published number"


@dataclass(frozen=True)
class Row:
    """One line: a published number, or one of ours with what it stands beside; numbers in percent, as published.

    Attributes
    ----------
    section, method : str
        Column of the paper's table, and whose features.
    units : int or None
        As published, or the length of our feature vector.
    published, published_spread : float or None
        None where nothing published stands beside the row.
    checked : bool or None
        Whether the published number was confirmed.
    source : str
        Where the published number is printed.
    ours, difference, spread : float or None
        Mean over the draws, ours - published, 1.96 standard deviations of the draws.
    draws_low, draws_high, images_low, images_high : float or None
        95 % intervals: of the mean over several draws, and one that covers other test images too.
    num_draws, num_test : int or None
        Test scores behind ``ours``, and the test images of each.
    protocol, status, record : str
        Id and version with the name of one's own data, worst status of the fits, file.
    duality_gap : float or None
        Largest relative gap of the fits.
    """

    section: str
    method: str
    units: int | None = None
    published: float | None = None
    published_spread: float | None = None
    checked: bool | None = None
    source: str = ""
    ours: float | None = None
    difference: float | None = None
    spread: float | None = None
    draws_low: float | None = None
    draws_high: float | None = None
    images_low: float | None = None
    images_high: float | None = None
    num_draws: int | None = None
    num_test: int | None = None
    protocol: str = ""
    status: str = ""
    duality_gap: float | None = None
    record: str = ""


def table_rows(table: PublishedTable, records: Sequence[NamedRecord]) -> list[Row]:
    """Set the published rows beside ours.

    Parameters
    ----------
    table : PublishedTable
        One of the paper's.
    records : sequence of (Path, Record)
        Any records; those of other data sets are left out, and those of other protocols on this one, or of fewer
        images than the official set has, come last, beside nothing.

    Returns
    -------
    list of Row
        By section: the published rows in their order, then ours from best to worst.
    """
    ours = [item for item in records if item[1].data["train"]["name"] == table.dataset]
    ours.sort(key=lambda item: (run_name(item[1]), -item[1].score))
    rows: list[Row] = []
    for section in table.sections:
        rows += [_published(section.title, row) for row in section.rows]
        rows += [_ours(section.title, p, r, section.rows) for p, r in ours if _belongs(table, section, r)]
    placed = {row.record for row in rows}
    return rows + [_ours(OTHER, p, r, ()) for p, r in ours if p.as_posix() not in placed]


def _belongs(table: PublishedTable, section: Section, record: Record) -> bool:
    """Tell whether a record may stand in a published column: its protocol, on the whole data set."""
    counts = tuple(part["num_images"] for part in record.data.values())
    return counts == table.num_images and section.protocols.fullmatch(record.protocol) is not None


def _published(section: str, row: PublishedRow) -> Row:
    """Return a published number's row."""
    return Row(section, row.method, row.units, row.percent, row.spread, row.checked, row.source)


def _ours(section: str, path: Path, record: Record, rows: Iterable[PublishedRow]) -> Row:
    """Return a record's row, beside the published one of the same method if there is one."""
    beside = next((row for row in rows if _same_method(row, record)), None)
    score = 100 * shown(record, record.score)
    draws = _ends(record, record.ci95 if record.num_draws > 1 else None)
    images = _ends(record, images_interval(record))
    row = Row(
        section,
        f"ours: {features_label(record)}",
        record.num_features,
        ours=score,
        spread=None if record.spread is None else 100 * record.spread,
        draws_low=draws[0],
        draws_high=draws[1],
        images_low=images[0],
        images_high=images[1],
        num_draws=record.num_draws,
        num_test=[part["num_images"] for part in record.data.values()][-1],
        protocol=run_name(record),
        status=record.status,
        duality_gap=record.duality_gap,
        record=path.as_posix(),
    )
    if beside is None:
        return row
    return dataclasses.replace(
        row,
        published=beside.percent,
        checked=beside.checked,
        source=beside.source,
        difference=score - beside.percent,
    )


def _ends(record: Record, interval: Sequence[float] | None) -> tuple[float | None, float | None]:
    """Return the ends of an interval in percent, as published."""
    if interval is None:
        return None, None
    low, high = sorted(100 * shown(record, value) for value in interval)
    return low, high


def _same_method(row: PublishedRow, record: Record) -> bool:
    """Tell whether a record measures what a published row does: a DCGAN trained as published, or K-means of its K."""
    name, is_svm = record.features["name"], "l2svm" in record.protocol
    if row.kind == "dcgan":
        return trained_as_published(record)
    if row.kind == "kmeans":
        return is_svm and name.startswith("kmeans") and row.units in record.features.values()
    return row.kind == "knn" and "_knn_" in record.protocol and name == "pixels"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "method": lambda row: row.method + (f" ({row.source})" if row.ours is None and row.source != PAPER else ""),
    "published %": lambda row: _published_cell(row),
    "ours %": lambda row: _number(row.ours),
    "difference": lambda row: "" if row.difference is None else f"{row.difference:+.2f}",
    "spread (1.96 s)": lambda row: _number(row.spread),
    "draws": lambda row: _interval_cell(row.draws_low, row.draws_high),
    "test images": lambda row: _interval_cell(row.images_low, row.images_high),
    "n": lambda row: _count_cell(row),
    "protocol": lambda row: row.protocol,
    "certificate": lambda row: row.status if row.duality_gap is None else f"gap {row.duality_gap:.0e}",
    "record": lambda row: row.record,
}


def _number(value: float | None) -> str:
    """Return a number in percent, nothing for None."""
    return "" if value is None else percent(value / 100)


def _interval_cell(low: float | None, high: float | None) -> str:
    """Return an interval in percent, nothing for None."""
    return "" if low is None else f"{low:.2f}–{high:.2f}"


def _published_cell(row: Row) -> str:
    """Return the published number, its spread, and whether nobody could check it."""
    if row.published is None:
        return ""
    spread = "" if row.published_spread is None else f" ±{row.published_spread:g}"
    return f"{row.published:.2f}".removesuffix("0") + spread + ("" if row.checked else " (unchecked)")


def _count_cell(row: Row) -> str:
    """Return the number of test images, and of draws where there are several."""
    if row.num_test is None:
        return ""
    return f"{row.num_test:,}" if row.num_draws == 1 else f"{row.num_draws} × {row.num_test:,}"


def _sections(table: PublishedTable, rows: Sequence[Row]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the heading, the columns that hold anything, and the cells of each section."""
    for section in dict.fromkeys(row.section for row in rows):
        cells = [[cell(row) for cell in _COLUMNS.values()] for row in rows if row.section == section]
        used = [i for i, column in enumerate(zip(*cells, strict=True)) if any(column)]
        heading = f"{table.title}, {section}: {table.shown_as} %"
        yield heading, [list(_COLUMNS)[i] for i in used], [[line[i] for i in used] for line in cells]


def rich_tables(table: PublishedTable, rows: Sequence[Row]) -> list[Sheet]:
    """Return a terminal table for each section."""
    texts = ("method", "protocol", "record")
    return [
        Sheet(heading, columns, cells, [column for column in columns if column not in texts])
        for heading, columns, cells in _sections(table, rows)
    ]


def to_markdown(table: PublishedTable, rows: Sequence[Row], prefix: str = "") -> str:
    """Return a Markdown table for each section, records as links that begin with ``prefix``."""
    parts = []
    for heading, columns, cells in _sections(table, rows):
        lines = [f"**{heading}**", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for line in cells:
            links = [
                f"[{markdown_cell(Path(cell).stem)}]({prefix}{cell})"
                if name == "record" and cell
                else markdown_cell(cell)
                for name, cell in zip(columns, line, strict=True)
            ]
            lines.append("| " + " | ".join(links) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def to_csv(table: PublishedTable, rows: Sequence[Row]) -> str:
    """Return every field of every row as CSV."""
    import pandas as pd  # here, because it takes longer to import than most commands take

    fields = [{name: csv_cell(value) for name, value in dataclasses.asdict(row).items()} for row in rows]
    return pd.DataFrame(fields).convert_dtypes().to_csv(index=False)


def to_latex(table: PublishedTable, rows: Sequence[Row]) -> str:
    """Return a LaTeX table for each section (package booktabs)."""
    import pandas as pd

    parts = []
    for heading, columns, cells in _sections(table, rows):
        escaped = [[latex_cell(cell) for cell in line] for line in cells]
        frame = pd.DataFrame(escaped, columns=[latex_cell(column) for column in columns])
        parts.append(frame.to_latex(index=False, escape=False, caption=latex_cell(heading)))
    return "\n".join(parts)


def to_json(table: PublishedTable, rows: Sequence[Row]) -> str:
    """Return every field of every row as JSON."""
    return json.dumps({"title": table.title, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1)

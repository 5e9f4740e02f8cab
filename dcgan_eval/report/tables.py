"""Tables made from records, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..records import Record


def percent(value: float | None, digits: int = 2) -> str:
    """Return a fraction as percent, an en dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def result_panel(record: Record, title: str) -> Group:
    """Show one record: paper, ours, difference, certificate and the validation curve.

    Parameters
    ----------
    record : Record
        What to show.
    title : str
        Heading of the table.
    """
    return Group(_result_table(record, title), _curve_table(record), *[Text(f"Note: {note}") for note in record.notes])


def _result_table(record: Record, title: str) -> Table:
    """Build the table of names and values."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in _result_rows(record):
        table.add_row(name, value)
    return table


def _result_rows(record: Record) -> Iterable[tuple[str, str]]:
    """Yield the rows of the result table."""
    yield "protocol", f"{record.protocol} v{record.protocol_version}"
    yield "features", f"{record.features['name']}, {record.num_features:,} per image"
    if record.paper is not None:
        checked = "" if record.paper["checked"] else " (unchecked)"
        yield "the paper's DCGAN, accuracy %", percent(record.paper["value"]) + checked
    yield "ours, accuracy %", percent(record.score)
    if record.paper is not None:
        yield "difference", f"{100 * (record.score - record.paper['value']):+.2f}"
    yield "95 % interval", " to ".join(percent(v) for v in record.ci95)
    if record.spread is not None:
        yield f"spread of {record.num_draws} draws (1.96 s)", percent(record.spread)
    yield "chosen C", f"{record.C:g}"
    yield "status", record.status
    yield "relative duality gap", f"{record.duality_gap:.1e}"
    yield "train / test images", " / ".join(f"{record.data[part]['num_images']:,}" for part in ("train", "test"))
    yield "time", f"{record.time_s:.1f} s"


def _curve_table(record: Record) -> Table:
    """Build the validation curve: one row per C with a bar."""
    table = Table(title="Choice of C on validation rows", title_justify="left")
    for heading in ("C", "validation accuracy %", "", "gap"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    low = min(row["score"] for row in record.selection)
    high = max(row["score"] for row in record.selection)
    for row in record.selection:
        bar = "█" * round(1 + 19 * (row["score"] - low) / max(high - low, 1e-9))
        chosen = " ◀ chosen" if row["C"] == record.C else ""
        table.add_row(f"{row['C']:g}", percent(row["score"]), bar + chosen, f"{row['duality_gap']:.0e}")
    return table


def comparison_table(records: Sequence[Record], title: str) -> Table:
    """Show several records of one protocol beside each other."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("features", "width", "accuracy %", "interval", "C", "gap"):
        table.add_column(heading, justify="left" if heading == "features" else "right", no_wrap=True)
    for r in records:
        interval = "–".join(percent(v, 1) for v in r.ci95)
        row = (percent(r.score), interval, f"{r.C:g}", f"{r.duality_gap:.0e}")
        table.add_row(r.features["name"], f"{r.num_features:,}", *row)
    return table


def markdown_results(records: Sequence[tuple[Path, Record]]) -> str:
    """Return the README's table of results, one row per record.

    Parameters
    ----------
    records : sequence of (Path, Record)
        Records with the files they come from.

    Returns
    -------
    str
        Markdown, sorted by protocol and then by falling score.
    """
    lines = [
        "| protocol | features | accuracy % | 95 % interval | draws | paper % | C | gap | record |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for path, r in sorted(records, key=lambda item: (item[1].protocol, -item[1].score)):
        interval = "–".join(percent(v, 1) for v in r.ci95)
        lines.append(
            f"| `{r.protocol}` | {r.features['name']} | {percent(r.score)} | {interval} | {_draws_cell(r)} "
            f"| {paper_cell(r)} | {r.C:g} | {r.duality_gap:.0e} | [{path.stem}]({path.as_posix()}) |"
        )
    return "\n".join(lines) + "\n"


def _draws_cell(record: Record) -> str:
    """Return the number of draws and their spread."""
    return "1" if record.spread is None else f"{record.num_draws}, spread {percent(record.spread)}"


def paper_cell(record: Record) -> str:
    """Return the published value that a trained DCGAN stands beside."""
    if record.paper is None or record.features["name"] == "pixels" or record.features["name"].startswith("untrained"):
        return "–"
    return percent(record.paper["value"], 1) + ("" if record.paper["checked"] else " (unchecked)")

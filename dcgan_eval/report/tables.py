"""Tables made from records, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..records import Record


def percent(value: float | None, digits: int = 2) -> str:
    """Return a fraction as percent, an en dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def features_label(record: Record) -> str:
    """Return the features' name, with the layers where they are not all."""
    layers = "" if record.features.get("all_layers", True) else f" ({'+'.join(record.features['layers'])})"
    return record.features["name"] + layers


def shown(record: Record, accuracy: float) -> float:
    """Return an accuracy the way the record's protocol publishes it: itself, or the error."""
    return 1 - accuracy if record.shown_as == "error" else accuracy


def interval(record: Record, between: str = "–", digits: int = 1) -> str:
    """Return the 95 % interval as the record's protocol publishes it, in percent."""
    return between.join(percent(value, digits) for value in sorted(shown(record, v) for v in record.ci95))


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
    yield "features", f"{features_label(record)}, {record.num_features:,} per image"
    if record.paper is not None:
        checked = "" if record.paper["checked"] else " (unchecked)"
        yield f"the paper's DCGAN, {record.shown_as} %", percent(shown(record, record.paper["value"])) + checked
    yield f"ours, {record.metric.replace('accuracy', record.shown_as)} %", percent(shown(record, record.score))
    if record.paper is not None:
        yield "difference", f"{100 * (shown(record, record.score) - shown(record, record.paper['value'])):+.2f}"
    yield "95 % interval", interval(record, " to ", 2)
    if record.spread is not None:
        yield f"spread of {record.num_draws} draws (1.96 s)", percent(record.spread)
    parameter, value = record.chosen
    yield f"chosen {parameter}", f"{value:g}"
    yield "status", record.status
    if record.duality_gap is not None:
        yield "relative duality gap", f"{record.duality_gap:.1e}"
    yield " / ".join(record.data) + " images", " / ".join(f"{part['num_images']:,}" for part in record.data.values())
    yield "time", f"{record.time_s:.1f} s"


def _curve_table(record: Record) -> Table:
    """Build the validation curve: one row per C with a bar."""
    parameter, value = record.chosen
    table = Table(title=f"Choice of {parameter} on validation rows", title_justify="left")
    for heading in (parameter, f"validation {record.shown_as} %", "", "gap"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    low = min(row["score"] for row in record.selection)
    high = max(row["score"] for row in record.selection)
    for row in record.selection:
        bar = "█" * round(1 + 19 * (row["score"] - low) / max(high - low, 1e-9))
        chosen = " ◀ chosen" if row[parameter] == value else ""
        cells = (percent(shown(record, row["score"])), bar + chosen, _gap_cell(row.get("duality_gap")))
        table.add_row(f"{row[parameter]:g}", *cells)
    return table


def comparison_table(records: Sequence[Record], title: str) -> Table:
    """Show several records of one protocol beside each other."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("features", overflow="fold")
    scores = " or ".join(sorted({r.shown_as for r in records}))
    for heading in ("width", f"{scores} %", "interval", "chosen", "gap"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in records:
        row = (percent(shown(r, r.score)), interval(r), _chosen_cell(r), _gap_cell(r.duality_gap))
        table.add_row(features_label(r), f"{r.num_features:,}", *row)
    return table


def class_table(records: Sequence[Record]) -> Table:
    """Show the accuracies per class of records with the same classes."""
    table = Table(title="Accuracy % per class", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("class")
    for record in records:
        table.add_column(features_label(record), justify="right")
    for name in records[0].class_names:
        table.add_row(name, *[percent(record.class_accuracies[name], 1) for record in records])
    return table


def paired_table(records: Sequence[Record], comparison: Mapping[str, Any]) -> Table:
    """Show two records and what :func:`dcgan_eval.report.paired.paired_comparison` found between them.

    Parameters
    ----------
    records : sequence of Record
        A and B.
    comparison : mapping
        The fields of a ``Comparison``.
    """
    table = Table(title="A - B on the same test images", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for letter, r in zip("AB", records, strict=True):
        table.add_row(f"{letter}, accuracy %", f"{r.protocol}, {features_label(r)}: {percent(r.score)}")
    low, high = comparison["ci95"]
    table.add_row("difference, points", f"{100 * comparison['difference']:+.2f}")
    table.add_row("95 % interval (paired bootstrap)", f"{100 * low:+.2f} to {100 * high:+.2f}")
    table.add_row("test images", f"{comparison['num_images']:,}")
    if comparison["mcnemar_p"] is None:
        table.add_row("McNemar", "not defined for several draws")
    else:
        table.add_row("right in A alone / B alone", f"{comparison['only_a']:,} / {comparison['only_b']:,}")
        table.add_row("p (exact McNemar)", f"{comparison['mcnemar_p']:.2g}")
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
        "| protocol | features | accuracy % | 95 % interval | draws | paper % | chosen | gap | record |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for path, r in sorted(records, key=lambda item: (item[1].protocol, -item[1].score)):
        accuracies = "–".join(percent(v, 1) for v in r.ci95)
        lines.append(
            f"| `{r.protocol}` | {features_label(r)} | {_score_cell(r)} | {accuracies} | {_draws_cell(r)} "
            f"| {paper_cell(r)} | {_chosen_cell(r)} | {_gap_cell(r.duality_gap)} | [{path.stem}]({path.as_posix()}) |"
        )
    return "\n".join(lines) + "\n"


def _score_cell(record: Record) -> str:
    """Return the score, and what it is when it is no test accuracy."""
    return percent(record.score) + ("" if record.metric == "accuracy" else f" ({record.metric.split()[0]})")


def _chosen_cell(record: Record) -> str:
    """Return what was chosen on validation rows."""
    parameter, value = record.chosen
    return f"{parameter} = {value:g}"


def _gap_cell(gap: float | None) -> str:
    """Return a duality gap, an en dash where nothing is minimised."""
    return "–" if gap is None else f"{gap:.0e}"


def _draws_cell(record: Record) -> str:
    """Return the number of draws and their spread."""
    return "1" if record.spread is None else f"{record.num_draws}, spread {percent(record.spread)}"


def paper_cell(record: Record) -> str:
    """Return the published value that a trained DCGAN stands beside."""
    if record.paper is None or record.features["name"].startswith(("pixels", "untrained", "kmeans")):
        return "–"
    return percent(shown(record, record.paper["value"]), 1) + ("" if record.paper["checked"] else " (unchecked)")

"""What matters most at a glance: one row for each encoder, one column for each protocol."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import counted
from ..protocols.catalog import PROTOCOLS
from ..records import Record
from .escaping import markdown_cell
from .tables import features_label, percent, run_name, shown

_DRAWS = re.compile(r"(.+?)_(\d+)_per_class_(\d+)_draws")


@dataclass(frozen=True)
class Summary:
    """Scores by encoder and protocol.

    Attributes
    ----------
    protocols : list of str
        Names of the columns, see :func:`~dcgan_eval.report.tables.run_name`.
    titles : list of str
        What they are, in words, with what is shown: accuracy or error.
    paper : list of str
        The published value of the paper's DCGAN for each; empty where there is none.
    rows : list of (str, list of (Path, Record) or None)
        Encoders with their latest record for each protocol, by falling accuracy in the first column, then the next.
    """

    protocols: list[str]
    titles: list[str]
    paper: list[str]
    rows: list[tuple[str, list[tuple[Path, Record] | None]]]


def protocol_titles(records: Sequence[Record]) -> dict[str, str]:
    """Return the name of each run (:func:`~dcgan_eval.report.tables.run_name`) with a title that no other has."""
    titles = {run_name(record): protocol_title(record) for record in records}
    counts = Counter(titles.values())
    return {name: title if counts[title] == 1 else f"{title} ({name})" for name, title in titles.items()}


def protocol_title(record: Record) -> str:
    """Return a record's protocol in words; its id where neither record nor catalogue knows better."""
    draws = _DRAWS.fullmatch(record.protocol)
    classifier, base = record.classifier["name"], draws[1] if draws else record.protocol
    by = "" if classifier == "l2svm" else f", by {classifier}"
    low_shot = f"; {counted(int(draws[2]), 'labels')} per class, {counted(int(draws[3]), 'draws')}" if draws else ""
    for protocol in PROTOCOLS.values():
        if base in (protocol.id, protocol.with_classifier(classifier).id):
            return protocol.title + by + low_shot
    if base.startswith("own_"):
        return f"own data, {record.data['train']['name']}{by}{low_shot}"
    spec = record.spec
    is_titled = spec.get("id") == record.protocol and "title" in spec
    return f"{spec['title']}{by}" if is_titled else record.protocol


def summarise(records: Sequence[tuple[Path, Record]]) -> Summary:
    """Set records out by encoder and protocol.

    Parameters
    ----------
    records : sequence of (Path, Record)
        Of any kind. Of several for one place the one made last is shown.
    """
    last: dict[tuple[str, str], tuple[Path, Record]] = {}
    for path, record in sorted(records, key=lambda item: item[1].created):
        last[features_label(record), run_name(record)] = (path, record)
    order = {protocol.id: i for i, protocol in enumerate(PROTOCOLS.values())}
    latest = {name: record for (_, name), (_, record) in last.items()}
    protocols = sorted(latest, key=lambda name: (order.get(latest[name].protocol, len(order)), name))
    examples, titles = [latest[name] for name in protocols], protocol_titles(list(latest.values()))
    by_encoder: dict[str, list[tuple[Path, Record] | None]] = {}
    for encoder, _ in last:
        by_encoder[encoder] = [last.get((encoder, protocol)) for protocol in protocols]
    rows = sorted(by_encoder.items(), key=lambda row: [-cell[1].score if cell else 0.0 for cell in row[1]])
    return Summary(
        protocols,
        [f"{titles[run_name(r)]}: {r.metric.replace('accuracy', r.shown_as)} %" for r in examples],
        ["" if r.paper is None else _published(r) for r in examples],
        rows,
    )


def mean_ranks(summary: Summary) -> dict[str, float]:
    """Return each encoder's rank by accuracy, 1 for the best, averaged over the columns that all encoders have.

    Equal scores share the mean of their ranks; without a column that is complete there are no ranks.
    """
    from scipy.stats import rankdata  # here, because scipy takes long to import

    columns = [cells for cells in zip(*(cells for _, cells in summary.rows), strict=True) if all(cells)]
    if not columns:
        return {}
    ranks = [rankdata([-cell[1].score for cell in cells if cell]) for cells in columns]
    return dict(zip((encoder for encoder, _ in summary.rows), np.mean(ranks, axis=0).tolist(), strict=True))


def _published(record: Record) -> str:
    """Return the published value beside a protocol."""
    assert record.paper is not None, "only called where there is one"
    return percent(shown(record, record.paper["value"]), 1) + ("" if record.paper["checked"] else " (unchecked)")


def markdown_summary(summary: Summary, prefix: str = "") -> str:
    """Return the summary as Markdown, every score a link to its record that begins with ``prefix``."""
    lines = ["| | " + " | ".join(map(markdown_cell, summary.titles)) + " |", "|---|" + "---:|" * len(summary.titles)]
    if any(summary.paper):
        lines.append("| the paper's DCGAN | " + " | ".join(summary.paper) + " |")
    for encoder, cells in summary.rows:
        texts = [
            f"[{percent(shown(cell[1], cell[1].score))}]({prefix}{cell[0].as_posix()})" if cell else ""
            for cell in cells
        ]
        lines.append(f"| {markdown_cell(encoder)} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"

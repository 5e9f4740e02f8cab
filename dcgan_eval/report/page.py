"""The page: one HTML file that needs nothing else, made from records. No torch here."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import RecordError, counted
from ..records import Record
from .charts import Chart, Series, line_chart
from .escaping import html_templates
from .summary import protocol_titles, summarise
from .tables import (
    INTERVALS,
    features_label,
    figure_rows,
    interval,
    interval_over_images,
    paper_cell,
    percent,
    run_name,
    shown,
)

if TYPE_CHECKING:
    from .findings import ShownFinding


@dataclass(frozen=True)
class Picture:
    """An image in the page.

    Attributes
    ----------
    data : str
        Data URI.
    alt, caption : str
        Text instead of it, and below it.
    """

    data: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Examples:
    """Test images beside their neighbours, and what was most surely wrong.

    Attributes
    ----------
    neighbours : list of list of Picture
        Rows: a test image, then the training images nearest to it.
    mistakes : list of Picture
        With the wrong class in the caption.
    missing : str
        Why one of them that was asked for is empty, and how to get it.
    """

    neighbours: list[list[Picture]] = field(default_factory=list)
    mistakes: list[Picture] = field(default_factory=list)
    missing: str = ""


@dataclass(frozen=True)
class Group:
    """The records that may be compared: the name of their run, its title in words, and what is charted of them."""

    name: str
    title: str
    records: list[tuple[Path, Record]]
    curves: list[Chart]
    draws: Chart | None
    layers: list[tuple[str, float]]

    @property
    def anchor(self) -> str:
        """What links to the section."""
        return re.sub(r"[^\w.-]+", "-", self.name)

    @property
    def scores(self) -> list[tuple[str, float]]:
        """Names and scores of the records."""
        return [(features_label(r), r.score) for _, r in self.records]


def build_page(
    records: Sequence[tuple[Path, Record]],
    findings: Sequence[ShownFinding] = (),
    *,
    run_dir: Path | None = None,
    samples: Sequence[Picture] = (),
    examples: Examples | None = None,
    title: str = "dcgan-eval report",
) -> str:
    """Return the page.

    Parameters
    ----------
    records : sequence of (Path, Record)
        What it is about.
    findings : sequence of ShownFinding
        Experiments beside them, or alone.
    run_dir : Path or None
        A training folder, whose ``log.csv`` and ``probe.csv`` become curves.
    samples : sequence of Picture
        Grids of generated images.
    examples : Examples or None
        Neighbours and mistakes.
    title : str
        Heading.

    Returns
    -------
    str
        HTML with everything inline: no script, no network.

    Raises
    ------
    RecordError
        Neither records nor findings, or a training folder without a readable log.
    """
    if not records and not findings:
        raise RecordError("A report needs records", remedy="name some, or make one with `dcgan-eval svm digits`")
    from ..protocols.statistics import class_metrics  # here, because scipy takes long to import

    templates = html_templates()
    templates.filters |= {
        "percent": percent,
        "counted": counted,
        "share": _share,
        "paper": paper_cell,
        "label": features_label,
        "interval": interval,
        "images": interval_over_images,
        "figures": partial(figure_rows, metrics=class_metrics()),
    }
    templates.filters["score"] = lambda r: percent(shown(r, r.score))
    templates.filters["metric"] = lambda r: r.metric.replace("accuracy", r.shown_as)
    templates.globals["provenance"] = provenance_rows
    anchors = {id(record): f"record-{i}" for i, (_, record) in enumerate(records)}  # files may share a name
    templates.filters["anchor"] = lambda r: anchors[id(r)]
    return templates.get_template("page.html.j2").render(
        title=title,
        version=__version__,
        groups=_groups(records),
        summary=summarise(records),
        intervals=INTERVALS,
        training=[] if run_dir is None else training_charts(run_dir),
        samples=samples,
        examples=examples or Examples(),
        findings=findings,
    )


def _groups(records: Sequence[tuple[Path, Record]]) -> list[Group]:
    """Group records that may be compared, by falling score in each group."""
    titles = protocol_titles([r for _, r in records])
    ordered = sorted(records, key=lambda item: (run_name(item[1]), -item[1].score))
    runs = itertools.groupby(ordered, key=lambda item: run_name(item[1]))
    return [_group(name, titles[name], list(rows)) for name, rows in runs]


def _group(name: str, title: str, rows: list[tuple[Path, Record]]) -> Group:
    """Collect what the page shows of a run by several encoders."""
    records = [r for _, r in rows]
    return Group(name, title, rows, _curves(records), _draws(records), _layers(rows))


def _curves(records: list[Record]) -> list[Chart]:
    """Chart validation accuracy against what was chosen; a chart for each such parameter.

    Left out, and said, are single points, which are no curve, and parts of an encoder that is there as a whole.
    """
    whole = {r.features["name"] for r in records if r.features.get("all_layers", True)}
    drawn = [
        len(r.selection) > 1 and (r.features.get("all_layers", True) or r.features["name"] not in whole)
        for r in records
    ]
    charts = []
    for name in sorted({r.chosen[0] for r, is_drawn in zip(records, drawn, strict=True) if is_drawn}):
        split: dict[bool, list[Record]] = {True: [], False: []}
        for record, is_drawn in zip(records, drawn, strict=True):
            if record.chosen[0] == name:
                split[is_drawn].append(record)
        charts.append(_curve(name, split[True], split[False]))
    return charts


def _curve(name: str, records: list[Record], left_out: list[Record]) -> Chart:
    """Chart validation accuracy against one parameter, with the chosen values marked."""
    tried = [[float(row[name]) for row in r.selection] for r in records]
    series = [
        Series(features_label(r), values, [100 * row["score"] for row in r.selection], values.index(float(r.chosen[1])))
        for r, values in zip(records, tried, strict=True)
    ]
    marked = "; ".join(f"{features_label(r)}: {name} = {r.chosen[1]:g} chosen" for r in records)
    return line_chart(
        f"Accuracy against {name}",
        series,
        x_label=name,
        y_label="validation accuracy %",
        log_x=min(map(min, tried)) > 0,
        alt=f"Curves. {marked}.",
        note=f"Left out: {', '.join(map(_why_left_out, left_out))}." if left_out else "",
    )


def _why_left_out(record: Record) -> str:
    """Name a record without a curve, and say why it has none."""
    why = "part of an encoder" if len(record.selection) > 1 else "one value tried"
    return f"{features_label(record)} ({why})"


def _draws(records: list[Record]) -> Chart | None:
    """Chart how far each draw's score is from the mean, sorted; None where no record has several."""
    series = [
        Series(
            features_label(r), list(range(1, r.num_draws + 1)), sorted(100 * (d["score"] - r.score) for d in r.draws)
        )
        for r in records
        if r.num_draws > 1
    ]
    if not series:
        return None
    spreads = "; ".join(f"{s.name}: {min(s.ys):+.2f} to {max(s.ys):+.2f} points" for s in series)
    return line_chart(
        "Draws around their mean", series, x_label="draw, sorted", y_label="points", alt=f"Scores of draws. {spreads}."
    )


def _layers(records: list[tuple[Path, Record]]) -> list[tuple[str, float]]:
    """Return (layers, score) where an encoder was measured layer by layer; empty otherwise."""
    rows = [(r.features["name"], tuple(r.features.get("layers", ())), r.score) for _, r in records]
    counts = Counter(name for name, _, _ in rows)
    whole: dict[str, tuple[str, ...]] = {}
    for name, layers, _ in rows:
        whole[name] = max(whole.get(name, ()), layers, key=len)
    parts = {(f"{n}: {_part(layers, whole[n])}", score) for n, layers, score in rows if layers and counts[n] > 1}
    return sorted(parts)


def _part(layers: tuple[str, ...], whole: tuple[str, ...]) -> str:
    """Name some of an encoder's layers."""
    if len(layers) == 1 or layers == whole:
        return "all" if layers == whole else layers[0]
    if layers == whole[: len(layers)]:
        return f"up to {layers[-1]}"
    left_out = [layer for layer in whole if layer not in layers]
    return f"all but {left_out[0]}" if len(left_out) == 1 else " + ".join(layers)


def training_charts(run_dir: Path) -> list[Chart]:
    """Return curves of a training folder: losses of ``log.csv``, and what ``probe.csv`` holds.

    Raises
    ------
    RecordError
        Neither file, or one that is no table of numbers.
    """
    found = [(path, _read_log(path)) for path in (run_dir / "log.csv", run_dir / "probe.csv") if path.is_file()]
    if not found:
        raise RecordError("The training folder has no log", got=str(run_dir), expected="log.csv or probe.csv in it")
    return [_log_chart(path.stem, columns) for path, columns in found]


def _read_log(path: Path) -> dict[str, list[float]]:
    """Read a CSV of numbers by column."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        return {name: [float(row[name]) for row in rows] for name in rows[0]}
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise RecordError("The log cannot be read", got=f"{path}: {error}", expected="a CSV of numbers") from error


def _log_chart(name: str, columns: dict[str, list[float]]) -> Chart:
    """Chart every column of a log against the images seen."""
    axis = "seen_images" if "seen_images" in columns else next(iter(columns))
    others = [key for key in columns if key not in (axis, "round", "unix_time_s")]
    title = {"log": "Training", "probe": "Probe during training"}[name]
    series = [Series(key, columns[axis], columns[key]) for key in others]
    return line_chart(
        title, series, x_label=axis.replace("_", " "), y_label="value", alt=f"{title}: {len(others)} curves"
    )


def _share(confusion: list[list[int]]) -> list[list[float]]:
    """Return the confusion matrix as fractions of each row."""
    counts = np.array(confusion, float)
    shares: list[list[float]] = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist()
    return shares


def encoded_picture(data: bytes, alt: str, caption: str = "", form: str = "png") -> Picture:
    """Return the bytes of a PNG or GIF file as a picture."""
    return Picture(f"data:image/{form};base64," + base64.b64encode(data).decode(), alt, caption)


def array_picture(image_HWC: np.ndarray, alt: str, caption: str = "") -> Picture:
    """Return a uint8 image (H, W, C) as a picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image_HWC.squeeze()).save(buffer, "PNG")
    return encoded_picture(buffer.getvalue(), alt, caption)


def _made(record: Record) -> list[tuple[str, str]]:
    """Return how the features were made."""
    shown = ("name", "layers", "preprocessing", "pooling", "batch_norm", "compute", "store_dtype")
    values = [(key, record.features[key]) for key in shown if key in record.features]
    return [(key, ", ".join(value) if isinstance(value, list) else value) for key, value in values]


def provenance_rows(record: Record) -> list[tuple[str, Any]]:
    """Return what produced a record, as names and values."""
    git = record.git or {}
    environment = {"cpu": "unknown", "num_threads": "unknown", "python": "unknown"} | record.environment
    versions = "".join(f", {name} {version}" for name, version in environment.get("packages", {}).items() if version)
    return [
        ("made", record.created),
        ("processor", f"{environment['cpu']}, {environment['num_threads']} threads"),
        ("accelerator", environment.get("accelerator") or "none"),
        ("versions", f"Python {environment['python']}{versions}"),
        ("weights SHA-256", record.weights_sha256 or "none"),
        ("data digest", record.dataset_fingerprint),
        ("commit", f"{git.get('commit', 'unknown')}{', changed' if git.get('changed') else ''}"),
        ("seed", record.seed),
        ("peak memory", f"{record.peak_memory_bytes / 1e9:.2f} GB"),
        *((key.replace("_", " "), value) for key, value in _made(record)),
    ]

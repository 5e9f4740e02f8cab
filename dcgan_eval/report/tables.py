"""Tables made from records, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group

from ..records import PER_CLASS, Record, unpack_counts
from .escaping import markdown_cell
from .paper_numbers import trained_as_published
from .sheet import Sheet

if TYPE_CHECKING:
    from ..protocols.statistics import Metrics

INTERVALS = (
    "Intervals are of 95 %: draws is that of the mean over draws of training images on the same test images, "
    "test images one that covers other test images too; neither covers another pool of images to draw from."
)


def percent(value: float | None, digits: int = 2) -> str:
    """Return a fraction as percent, an en dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def features_label(record: Record) -> str:
    """Return the features' name, with the layers where they are not all and the rules that are no defaults."""
    made = record.features
    rules = made["rules"] if isinstance(made.get("rules"), dict) else {}
    words = [] if made.get("all_layers", True) else ["+".join(made.get("layers", []))]
    words += [f"{rules['image_size']} px"] if rules.get("image_size") else []
    words += [str(rules[key]) for key in ("pooling", "layout") if rules.get(key)]
    words += [str(rules["normalise"])] if rules.get("normalise", "paper") != "paper" else []
    return made["name"] + (f" ({', '.join(words)})" if words else "")


def run_name(record: Record) -> str:
    """Return the id and version of a record's protocol, and whose data where that is one's own.

    Records of one name may be compared: protocols of one's own data share an id, and folders may share a name.
    """
    return f"{record.protocol} v{record.protocol_version}{own_data(record)}"


def own_data(record: Record) -> str:
    """Return a comma, the name of one's own data and the start of their digest; nothing for a known data set."""
    if not record.protocol.startswith("own_"):
        return ""
    return f", {record.data['train']['name']} {record.dataset_fingerprint[:8]}"


def shown(record: Record, accuracy: float) -> float:
    """Return an accuracy the way the record's protocol publishes it: itself, or the error."""
    return 1 - accuracy if record.shown_as == "error" else accuracy


def interval(record: Record, between: str = "–", digits: int = 2) -> str:
    """Return the interval of the mean over draws as the protocol publishes it, in percent; an en dash for one draw."""
    return "–" if record.num_draws == 1 else _range(record, record.ci95, between, digits)


def images_interval(record: Record) -> list[float] | None:
    """Return the 95 % interval that covers test images too, of the accuracy.

    None for records of several draws from before schema 2, which do not say which images were right, and for altered
    ones, in which these do not add up to the scores.
    """
    if record.num_draws == 1 or record.metric == PER_CLASS:
        return record.ci95_with_images or record.ci95
    if record.right is None:
        return None
    from ..protocols.statistics import fits_scores, interval_with_images  # here, because scipy takes long to import

    scores, right_N = [draw["score"] for draw in record.draws], unpack_counts(record.right)
    return interval_with_images(scores, right_N) if fits_scores(scores, right_N) else None


def interval_over_images(record: Record, between: str = "–", digits: int = 2) -> str:
    """Return the interval that covers test images too, in percent, an en dash where the record cannot tell."""
    found = images_interval(record)
    return "–" if found is None else _range(record, found, between, digits)


def _range(record: Record, ends: Sequence[float], between: str, digits: int) -> str:
    """Return an interval of accuracies as the record's protocol publishes it."""
    return between.join(percent(value, digits) for value in sorted(shown(record, v) for v in ends))


def result_panel(record: Record, title: str) -> Group:
    """Show one record: paper, ours, difference, certificate and the validation curve.

    Parameters
    ----------
    record : Record
        What to show.
    title : str
        Heading of the table.
    """
    result = Sheet(title, ("", ""), list(_result_rows(record)))
    return Group(result, "", _curve_table(record), *[f"Note: {note}" for note in record.notes])


def _result_rows(record: Record) -> Iterable[tuple[str, str]]:
    """Yield the rows of the result table."""
    yield "protocol", run_name(record)
    yield "features", f"{features_label(record)}, {record.num_features:,} per image"
    if record.paper is not None:
        checked = "" if record.paper["checked"] else " (unchecked)"
        other = "" if trained_as_published(record) else ", trained in another way"
        published = percent(shown(record, record.paper["value"])) + checked + other
        yield f"the paper's DCGAN, {record.shown_as} %", published
    yield f"ours, {record.metric.replace('accuracy', record.shown_as)} %", percent(shown(record, record.score))
    if record.paper is not None and trained_as_published(record):
        yield "difference", f"{100 * (shown(record, record.score) - shown(record, record.paper['value'])):+.2f}"
    if record.num_draws > 1:
        yield "95 % interval, draws", interval(record, " to ")
    yield "95 % interval, test images", interval_over_images(record, " to ")
    if record.spread is not None:
        yield f"spread of {record.num_draws} draws (1.96 s)", percent(record.spread)
    parameter, value = record.chosen
    yield f"chosen {parameter}", f"{value:g}"
    yield "status", record.status
    if record.duality_gap is not None:
        yield "relative duality gap", f"{record.duality_gap:.1e}"
    yield " / ".join(record.data) + " images", " / ".join(f"{part['num_images']:,}" for part in record.data.values())
    yield "time", f"{record.time_s:.1f} s"


def _curve_table(record: Record) -> Sheet:
    """Build the validation curve: one row per C with a bar."""
    parameter, value = record.chosen
    low = min(row["score"] for row in record.selection)
    high = max(row["score"] for row in record.selection)
    rows = []
    for row in record.selection:
        bar = "█" * round(1 + 9 * (row["score"] - low) / max(high - low, 1e-9))
        chosen = " ◀ chosen" if row[parameter] == value else ""
        gap = _gap_cell(row.get("duality_gap"))
        rows.append((f"{row[parameter]:g}", percent(shown(record, row["score"])), gap, bar + chosen))
    headings = (parameter, f"validation {record.shown_as} %", "gap", "")
    return Sheet(f"Choice of {parameter} on validation rows", headings, rows, headings[:3])


def comparison_table(records: Sequence[Record], title: str) -> Group:
    """Show several records beside each other, each with its protocol."""
    rows = [
        (
            features_label(r),
            run_name(r),
            f"{r.num_features:,}",
            score_cell(r),
            interval(r),
            interval_over_images(r),
            _chosen_cell(r),
            _gap_cell(r.duality_gap),
        )
        for r in records
    ]
    headings = ("features", "protocol", "width", "score %", "draws", "test images", "chosen", "gap")
    return Group(Sheet(title, headings, rows, ("width", "score %", "draws", "test images", "gap")), "", INTERVALS)


def class_table(records: Sequence[Record]) -> Sheet:
    """Show the accuracies per class of records with the same classes."""
    names = [f"{chr(65 + i)}: {features_label(r)}" if len(records) > 1 else "accuracy %" for i, r in enumerate(records)]
    rows = [(name, *[percent(r.class_accuracies[name], 1) for r in records]) for name in records[0].class_names]
    return Sheet("Accuracy % per class", ("class", *names), rows, names)


_FIGURES = {"top5": "top-5 accuracy", "ece": "expected calibration error"}


def figure_rows(record: Record, metrics: Metrics | None = None) -> list[tuple[str, str, str]]:
    """Return the figures beside the score: those that weigh every class alike, and what the record has of its scores.

    Parameters
    ----------
    record : Record
        Of any schema; one of validation scores alone has none.
    metrics : mapping or None
        As for :func:`~dcgan_eval.protocols.statistics.class_figures`.

    Returns
    -------
    list of (str, str, str)
        Name, percent, 95 % interval over test images.
    """
    if not record.is_tested:
        return []
    from ..protocols.statistics import class_figures  # here, because scipy takes long to import

    figures = class_figures(record.confusion, record.num_draws, metrics=metrics)
    figures |= {name: (f["score"], *f["ci95"]) for key, name in _FIGURES.items() if (f := record.figures.get(key))}
    return [
        (name, percent(value), f"{percent(low)} to {percent(high)}") for name, (value, low, high) in figures.items()
    ]


def figures_table(record: Record) -> Sheet:
    """Show the figures beside the score."""
    return Sheet("Other figures", ("figure", "%", "95 % interval, test images"), figure_rows(record), ("%",))


def paired_table(records: Sequence[Record], comparison: Mapping[str, Any]) -> Sheet:
    """Show two records and what :func:`dcgan_eval.report.paired.paired_comparison` found between them.

    Parameters
    ----------
    records : sequence of Record
        A and B.
    comparison : mapping
        The fields of a ``Comparison``.
    """
    rows = [
        (f"{letter}, {r.metric} %", f"{run_name(r)}, {features_label(r)}: {percent(r.score)}")
        for letter, r in zip("AB", records, strict=True)
    ]
    low, high = comparison["ci95"]
    rows += [
        ("difference of accuracies, points", f"{100 * comparison['difference']:+.2f}"),
        ("95 % interval (paired bootstrap)", f"{100 * low:+.2f} to {100 * high:+.2f}"),
        ("test images", f"{comparison['num_images']:,}"),
    ]
    if comparison["mcnemar_p"] is None:
        rows.append(("McNemar", "not defined for several draws"))
    else:
        rows.append(("right in A alone / B alone", f"{comparison['only_a']:,} / {comparison['only_b']:,}"))
        rows.append(("p (exact McNemar)", f"{comparison['mcnemar_p']:.2g}"))
    return Sheet("A - B on the same test images", ("", ""), rows)


def markdown_results(records: Sequence[tuple[Path, Record]], prefix: str = "") -> str:
    """Return a Markdown table of results, one row per record.

    Parameters
    ----------
    records : sequence of (Path, Record)
        Records with the files they come from.
    prefix : str
        What links to records begin with.

    Returns
    -------
    str
        Markdown, sorted by protocol and then by falling score.
    """
    lines = [
        "| protocol | features | accuracy % | draws | test images | chosen | gap | record |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for path, r in sorted(records, key=lambda item: (run_name(item[1]), -item[1].score)):
        cells = (percent(r.score) + _metric_note(r), interval(r), interval_over_images(r), _chosen_cell(r))
        link = f"[{markdown_cell(path.stem)}]({prefix}{path.as_posix()})"
        run, name = f"`{r.protocol}`{markdown_cell(own_data(r))}", markdown_cell(features_label(r))
        lines.append(f"| {run} | {name} | {' | '.join(cells)} | {_gap_cell(r.duality_gap)} | {link} |")
    return "\n".join(lines) + "\n"


def score_cell(record: Record) -> str:
    """Return the score as it is published, with a word where it is no accuracy on test images."""
    error = " error" if record.shown_as == "error" else ""
    return percent(shown(record, record.score)) + error + _metric_note(record)


def _metric_note(record: Record) -> str:
    """Return what the score is when it is not the accuracy on test images."""
    return "" if record.metric == "accuracy" else f" ({record.metric.removesuffix(' accuracy')})"


def _chosen_cell(record: Record) -> str:
    """Return what was chosen on validation rows."""
    parameter, value = record.chosen
    return f"{parameter} = {value:g}"


def _gap_cell(gap: float | None) -> str:
    """Return a duality gap, an en dash where nothing is minimised."""
    return "–" if gap is None else f"{gap:.0e}"


def paper_cell(record: Record) -> str:
    """Return the published value where a record measures the same: a DCGAN trained as published, under an L2-SVM."""
    if record.paper is None or not trained_as_published(record):
        return "–"
    return percent(shown(record, record.paper["value"]), 1) + ("" if record.paper["checked"] else " (unchecked)")

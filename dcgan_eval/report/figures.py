"""Figures made from records and arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import RecordError
from ..files import replacing
from ..records import Record
from .tables import features_label, images_interval, shown


def comparison_figure(records: Sequence[Record], images_NHWC: np.ndarray, path: Path, title: str) -> Path:
    """Draw images, scores and validation curves of several records of one protocol side by side.

    Parameters
    ----------
    records : sequence of Record
        Of one protocol.
    images_NHWC : ndarray
        Some images of the data, uint8, shown as a grid.
    path : Path
        PNG to write.
    title : str
        Heading.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from matplotlib.figure import Figure  # here, because importing it takes longer than most commands

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, 3, width_ratios=(1.3, 1, 1.2))
    _draw_images(axes[0], images_NHWC)
    _draw_scores(axes[1], records)
    _draw_curves(axes[2], records)
    _save(lambda partial: figure.savefig(partial, dpi=120), path)
    return path


def ablation_figure(records: Mapping[str, Record], layers: Sequence[str], path: Path, title: str) -> Path:
    """Draw the score of each layer alone, of all up to each and of all but each, with 95 % intervals.

    Parameters
    ----------
    records : mapping of str to Record
        Of every subset of layers, in any order and under any name.
    layers : sequence of str
        The layers that were ablated, in the encoder's order.
    path : Path
        PNG to write.
    title : str
        Heading.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    by_layers = {tuple(record.features["layers"]): record for record in records.values()}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    whole = by_layers[tuple(layers)]
    axes.axhline(100 * shown(whole, whole.score), color="grey", linestyle=":", label="all layers")
    for shift, marker, label, subset in (
        (-0.12, "o", "alone", lambda i: (layers[i],)),
        (0.0, "^", "all up to it", lambda i: tuple(layers[: i + 1])),
        (0.12, "s", "all but it", lambda i: tuple(layers[:i]) + tuple(layers[i + 1 :])),
    ):
        _draw_series(axes, [by_layers.get(subset(i)) for i in range(len(layers))], label, shift, marker)
    axes.set(
        title=title, xticks=range(len(layers)), xticklabels=layers, ylabel=f"test {whole.shown_as} %, 95 % interval"
    )
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4)  # outside, so that it covers no point
    _save(lambda partial: figure.savefig(partial, dpi=120), path)
    return path


def learning_curve_figure(curves: Mapping[str, Mapping[int, Record]], path: Path, title: str) -> Path:
    """Draw scores over the labels of each class: every draw a point, the means joined, and a band around them.

    Parameters
    ----------
    curves : mapping of str to mapping of int to Record
        By name; labels of each class -> record of one protocol.
    path : Path
        PNG to write.
    title : str
        Heading.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, records in curves.items():
        scores = [100 * shown(r, r.score) for r in records.values()]
        ends = [sorted(100 * shown(r, v) for v in images_interval(r) or r.ci95) for r in records.values()]
        (line,) = axes.semilogx(records.keys(), scores, "o-", label=name)
        low, high = zip(*ends, strict=True)
        axes.fill_between(list(records), low, high, alpha=0.2, color=line.get_color(), linewidth=0)
        for labels, record in records.items():
            draws = [100 * shown(record, draw["score"]) for draw in record.draws]
            axes.plot([labels] * len(draws), draws, ".", color=line.get_color(), alpha=0.4, markersize=4)
        metric = next(iter(records.values())).shown_as
    counts = sorted({labels for records in curves.values() for labels in records})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set(title=title, xlabel="labels of each class", ylabel=f"test {metric} %; band: 95 %, draws and test images")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(lambda partial: figure.savefig(partial, dpi=120), path)
    return path


def _draw_series(axes, records: Sequence[Record | None], label: str, shift: float, marker: str) -> None:
    """Draw one score for each layer where there is one, a little to the side so that intervals stay apart.

    Nothing joins them: only "all up to it" has an order, and what lies between two layers is no network.
    """
    points = [(i, r) for i, r in enumerate(records) if r is not None]
    scores = np.array([100 * shown(r, r.score) for _, r in points])
    ends = [sorted(shown(r, v) for v in images_interval(r) or [r.score, r.score]) for _, r in points]
    errors = np.abs(100 * np.array(ends).T - scores)
    axes.errorbar([i + shift for i, _ in points], scores, yerr=errors, fmt=marker, capsize=3, label=label)


def image_grid(images_NHWC: np.ndarray, columns: int, gap: int = 0) -> np.ndarray:
    """Tile images (N, H, W, C) row by row, white pixels between them; what does not fill a row is left out."""
    num_rows = len(images_NHWC) // columns
    kept = images_NHWC[: num_rows * columns]
    apart = np.pad(kept, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    _, height, width, channels = apart.shape
    grid = apart.reshape(num_rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(num_rows * height, columns * width, channels)[
        : num_rows * height - gap, : columns * width - gap
    ]


def write_image_grid(images_NHWC: np.ndarray, columns: int, path: Path, enlarge: int = 2) -> Path:
    """Write images as one PNG, row by row, white between them.

    Parameters
    ----------
    images_NHWC : ndarray
        uint8, C is 1 or 3.
    columns : int
        Images in a row.
    path : Path
        PNG to write.
    enlarge : int
        Screen pixels along a side of each pixel.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from PIL import Image

    grid = image_grid(images_NHWC, columns, gap=1).repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    _save(lambda partial: Image.fromarray(grid.squeeze()).save(partial, "PNG"), path)
    return path


def _save(write: Callable[[Path], object], path: Path) -> None:
    """Write a picture whole, or say why not."""
    try:
        with replacing(path) as partial:
            write(partial)
    except OSError as error:
        raise RecordError(
            "The figure cannot be written", got=f"{path}: {error}", remedy="give another --out"
        ) from error


def training_figure(log: Sequence[dict[str, float]], probe: Sequence[dict[str, float]], path: Path) -> Path:
    """Draw the curves of a training run against the images seen: losses, outputs, gradient norms, probe.

    Parameters
    ----------
    log, probe : sequence of dict
        Rows of ``log.csv`` and ``probe.csv``; the second may be empty.
    path : Path
        PNG to write.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    panels = [
        ("loss", "log", ("d_loss", "g_loss", "rotation_loss", "contrastive_loss")),
        ("output", "linear", ("d_real", "d_fake")),
        ("partners found", "linear", ("partner_accuracy",)),
        ("gradient norm", "log", ("d_grad_norm", "g_grad_norm")),
    ]
    panels = [(label, scale, keys) for label, scale, keys in panels if log[0].keys() & set(keys)]
    figure = Figure(figsize=(5 * (len(panels) + bool(probe)), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels) + bool(probe))
    for axis, (label, scale, keys) in zip(axes, panels, strict=False):
        for key in keys:
            if key in log[0]:
                axis.plot([row["seen_images"] for row in log], [row[key] for row in log], linewidth=0.8, label=key)
        axis.set(xlabel="images seen", ylabel=label, yscale=scale)
        axis.legend()
    if probe:
        axes[-1].plot([row["seen_images"] for row in probe], [100 * row["score"] for row in probe], ".-")
        axes[-1].set(xlabel="images seen", ylabel="probe: validation accuracy %")
    for axis in axes:
        axis.locator_params(axis="x", nbins=4)
    _save(lambda partial: figure.savefig(partial, dpi=100), path)
    return path


def spectrum_figure(spectra: Mapping[str, np.ndarray], path: Path) -> Path:
    """Draw eigenvalues of covariances over their rank, each as a share of its largest.

    Parameters
    ----------
    spectra : mapping of str to ndarray
        Eigenvalues, largest first, by name.
    path : Path
        PNG to write.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, values in spectra.items():
        axes.loglog(np.arange(1, len(values) + 1), values / values[0], label=name)
    axes.set(xlabel="rank", ylabel="eigenvalue / largest", ylim=(1e-8, 2))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(lambda partial: figure.savefig(partial, dpi=120), path)
    return path


def map_figure(points_N2: np.ndarray, labels_N: np.ndarray | None, path: Path) -> Path:
    """Draw points of the plane, coloured by label.

    Parameters
    ----------
    points_N2 : ndarray
        (N, 2).
    labels_N : ndarray of int or None
        (N,).
    path : Path
        PNG to write.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points_N2[:, 0], points_N2[:, 1], s=6, c=labels_N, cmap="tab20" if labels_N is not None else None)
    axes.axis("off")
    _save(lambda partial: figure.savefig(partial, dpi=120), path)
    return path


def _draw_images(axes, images_NHWC: np.ndarray) -> None:
    """Show a grid of images."""
    axes.imshow(image_grid(images_NHWC, columns=8, gap=2))
    axes.set_title("test images", fontsize="medium")
    axes.axis("off")


def _draw_scores(axes, records: Sequence[Record]) -> None:
    """Show accuracies with the intervals that cover test images, each in the colour of its curve, where they differ."""
    for place, r in enumerate(records):
        score, ends = 100 * r.score, images_interval(r) or [r.score, r.score]
        errors = [[score - 100 * ends[0]], [100 * ends[1] - score]]
        axes.errorbar(score, place, xerr=errors, fmt="o", capsize=4, color=f"C{place}")
        axes.annotate(f"{score:.2f}", (score, place), (0, 8), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(records)), [features_label(r) for r in records])
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.margins(x=0.15)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("test accuracy %, 95 % interval")


def _draw_curves(axes, records: Sequence[Record]) -> None:
    """Show the validation curves, with the chosen C marked."""
    for r in records:
        parameter, chosen = r.chosen
        values, scores = [row[parameter] for row in r.selection], [100 * row["score"] for row in r.selection]
        (line,) = axes.semilogx(values, scores, ".-", label=features_label(r))
        axes.plot(chosen, scores[values.index(chosen)], "o", color=line.get_color(), markersize=9)
    axes.set_xlabel(f"{records[0].chosen[0]} (chosen value marked)")
    axes.set_ylabel("validation accuracy %")
    axes.legend()

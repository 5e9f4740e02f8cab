"""Figures made from records and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import RecordError
from ..records import Record


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
    axes = figure.subplots(1, 3)
    _draw_images(axes[0], images_NHWC)
    _draw_scores(axes[1], records)
    _draw_curves(axes[2], records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise RecordError(
            "The figure cannot be written", got=f"{path}: {error}", remedy="give another --out"
        ) from error
    return path


def image_grid(images_NHWC: np.ndarray, columns: int) -> np.ndarray:
    """Tile images (N, H, W, C) row by row into one (rows * H, columns * W, C); what does not fill a row is left out."""
    num_rows = len(images_NHWC) // columns
    _, height, width, channels = images_NHWC.shape
    grid = images_NHWC[: num_rows * columns].reshape(num_rows, columns, height, width, channels)
    return grid.swapaxes(1, 2).reshape(num_rows * height, columns * width, channels)


def _draw_images(axes, images_NHWC: np.ndarray) -> None:
    """Show a grid of images."""
    axes.imshow(image_grid(images_NHWC, columns=8))
    axes.set_title("test images")
    axes.axis("off")


def _draw_scores(axes, records: Sequence[Record]) -> None:
    """Show accuracies with their intervals."""
    scores = 100 * np.array([r.score for r in records])
    errors = np.abs(100 * np.array([r.ci95 for r in records]).T - scores)
    bars = axes.barh([r.features["name"] for r in records], scores, xerr=errors, color="tab:blue", alpha=0.8)
    axes.bar_label(bars, [f"{s:.1f}" for s in scores], label_type="center", color="white")
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy %, 95 % interval")


def _draw_curves(axes, records: Sequence[Record]) -> None:
    """Show the validation curves, with the chosen C marked."""
    for r in records:
        parameter, chosen = r.chosen
        values, scores = [row[parameter] for row in r.selection], [100 * row["score"] for row in r.selection]
        (line,) = axes.semilogx(values, scores, ".-", label=r.features["name"])
        axes.plot(chosen, scores[values.index(chosen)], "o", color=line.get_color(), markersize=9)
    axes.set_xlabel(f"{records[0].chosen[0]} (chosen value marked)")
    axes.set_ylabel("validation accuracy %")
    axes.legend()

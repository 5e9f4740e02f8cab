"""Geometry of the page's charts: numbers to coordinates; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400, 250  # as wide as a phone, so that text is not scaled down there
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 40
_FEW_DECADES = 2

Tick = tuple[float, str]  # coordinate and label


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes
    ----------
    name : str
        For the legend.
    xs, ys : sequence of float
        Values.
    chosen : int or None
        Index of the point to mark.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    chosen: int | None = None


@dataclass(frozen=True)
class Chart:
    """What the template draws.

    Attributes
    ----------
    title, alt, x_label, y_label : str
        Text.
    x_ticks, y_ticks : list of (coordinate, label)
        Axes.
    lines : list of (name, points, chosen point or None)
        Points as (x, y) in pixels.
    note : str
        What is not drawn, and why.
    """

    title: str
    alt: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[tuple[str, list[tuple[float, float]], tuple[float, float] | None]]
    note: str = ""
    width: int = WIDTH
    height: int = HEIGHT


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers that lie within a range."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    alt: str = "",
    note: str = "",
) -> Chart:
    """Lay curves out in one frame.

    Parameters
    ----------
    title : str
        Heading.
    series : sequence of Series
        At least one point in all; values that are not finite are left out.
    x_label, y_label : str
        Axes.
    log_x : bool
        Logarithmic x axis, with a tick for each power of ten, and for two and five times it in a short range.
    alt : str
        What the chart shows, for those who cannot see it.
    note : str
        What is not drawn, and why.
    """
    scale = math.log10 if log_x else float
    points = [
        (s, [(scale(x), y) for x, y in zip(s.xs, s.ys, strict=True) if math.isfinite(scale(x)) and math.isfinite(y)])
        for s in series
    ]
    xs, ys = zip(*[p for _, line in points for p in line], strict=True)
    x_range, y_range = _padded(min(xs), max(xs)), _padded(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _along(x, x_range, _LEFT, WIDTH - _RIGHT),
            _along(y, y_range, HEIGHT - _BOTTOM, _TOP),
        )

    x_values = _log_ticks(*x_range) if log_x else nice_ticks(*x_range, count=4)
    return Chart(
        title,
        alt or title,
        x_label,
        y_label,
        [(place(scale(x) if log_x else x, y_range[0])[0], _power(x) if log_x else _short(x)) for x in x_values],
        [(place(x_range[0], y)[1], _short(y)) for y in nice_ticks(*y_range)],
        [
            (s.name, [place(*p) for p in line], None if s.chosen is None else place(*line[s.chosen]))
            for s, line in points
        ],
        note,
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    """Widen a range a little, so that no point touches the frame."""
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _along(value: float, limits: tuple[float, float], start: float, stop: float) -> float:
    """Map a value from its range to pixels."""
    return round(start + (value - limits[0]) / (limits[1] - limits[0]) * (stop - start), 1)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two powers of ten, given as exponents."""
    steps = (1, 2, 5) if high - low < _FEW_DECADES else (1,)
    exponents = range(math.floor(low), math.floor(high) + 1)
    values = (float(f"{step}e{exponent}") for exponent in exponents for step in steps)
    inside = [value for value in values if low <= math.log10(value) <= high]
    return inside if len(inside) > 1 else nice_ticks(10**low, 10**high)


def _power(value: float) -> str:
    """Return a number on a logarithmic axis as text."""
    if 1 <= value <= 100:
        return f"{value:g}"
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:g}e{exponent}"


def _short(value: float) -> str:
    """Return a number in few characters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"

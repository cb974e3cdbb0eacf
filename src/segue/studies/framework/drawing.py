"""Draw the plots that several studies have in common.

matplotlib is imported only when a plot is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.reports.plots import COLORS, LIGHT, STYLES, new_figure, remove_clutter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_heat_map", "draw_intervals", "draw_lines", "draw_scatter", "style_of"]

MARKERS = ("o", "s", "^", "D", "v", "P")

Point = tuple[float, float]
Line = Sequence[Point | tuple[float, float, float, float]]
"""Points ``(x, y)``, or ``(x, y, low, high)`` with an interval."""


def style_of(index: int) -> dict[str, Any]:
    """Return color and line style of a line; lines differ without color, too."""
    return {"color": LIGHT[COLORS[index % len(COLORS)]], "linestyle": STYLES[index % len(STYLES)]}


def draw_lines(
    lines: Mapping[str, Line],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
) -> Figure:
    """Draw named lines, each labeled at its end; intervals are bands."""
    figure = new_figure(7.2, 3.8)
    axes = figure.subplots()
    for index, (name, points) in enumerate(lines.items()):
        style = style_of(index)
        x, y = [point[0] for point in points], [point[1] for point in points]
        axes.plot(x, y, marker="o" if markers else None, markersize=3.5, linewidth=1.6, label=name, **style)
        if points and len(points[0]) == 4:
            low, high = ([point[end] for point in points if len(point) == 4] for end in (2, 3))
            axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({point[0] for points in lines.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    if log_y:
        axes.set_yscale("log")
    _label(axes, x_label, y_label)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=LIGHT["ink"])
    return figure


def draw_intervals(rows: Mapping[str, tuple[float, float, float]], x_label: str) -> Figure:
    """Draw a mean and its interval ``(mean, low, high)`` per row, and a line at 0."""
    figure = new_figure(7.2, 0.9 + 0.3 * len(rows))
    axes = figure.subplots()
    for position, (mean, low, high) in enumerate(rows.values()):
        is_clear = low > 0 or high < 0
        color = LIGHT["c1"] if is_clear else LIGHT["faint"]
        axes.errorbar(
            mean, position, xerr=[[mean - low], [high - mean]], fmt="o", markersize=4, color=color, capsize=2.5
        )
    axes.axvline(0.0, color=LIGHT["ink"], linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    _label(axes, x_label, "")
    return figure


def draw_scatter(
    points: Mapping[str, Sequence[tuple[float, float, str]]], front: Sequence[Point], x_label: str, y_label: str
) -> Figure:
    """Draw named groups of labeled points, and a line through the Pareto front.

    The horizontal axis is logarithmic.
    """
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    if front:
        axes.plot(*zip(*front, strict=True), color=LIGHT["faint"], linewidth=1.0, zorder=0)
    for index, (name, group) in enumerate(points.items()):
        x, y, labels = zip(*group, strict=True)
        axes.scatter(x, y, s=26, color=style_of(index)["color"], marker=MARKERS[index % len(MARKERS)], label=name)
        for one_x, one_y, label in zip(x, y, labels, strict=True):
            axes.annotate(label, (one_x, one_y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    _label(axes, x_label, y_label)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=LIGHT["ink"])
    return figure


def draw_heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    title: str,
    *,
    by_column: bool = False,
) -> Figure:
    """Draw a heat map; ``None`` is an empty cell.

    Every row has its own scale, from 0 to its largest value.

    Args:
        columns: names; empty ones are not shown.
        by_column: every column has its own scale, and the cells show their values as percentages.
    """
    width = 3.6 + 0.72 * len(columns) if by_column else 8.4
    figure = new_figure(width, 1.1 + (0.27 if by_column else 0.34) * len(rows))
    axes = figure.subplots()
    shares_RC = np.array([[np.nan if value is None else value for value in row] for row in values])
    largest = np.nanmax(shares_RC, axis=0 if by_column else 1, keepdims=True)
    scaled_RC = np.ma.masked_invalid(shares_RC / np.where(largest > 0, largest, 1.0))
    gap = 0.5 if len(columns) <= 60 else 0.0  # gaps between narrow cells would cover them
    axes.pcolormesh(scaled_RC, cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=gap)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    labeled = [number for number, name in enumerate(columns) if name]
    axes.set_xticks(np.array(labeled) + 0.5, [columns[number] for number in labeled])
    if by_column:
        axes.xaxis.tick_top()
        for (row, column), share in np.ndenumerate(shares_RC):
            color = "white" if scaled_RC[row, column] > 0.6 else LIGHT["ink"]
            text = "" if np.isnan(share) else f"{share:.1%}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5, color=color)
    axes.set_title(title, fontsize=10, loc="left")
    _label(axes, x_label, "")
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    return figure


def _label(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.yaxis.label.set_color(LIGHT["ink"])
    remove_clutter(axes)

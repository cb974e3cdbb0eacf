"""Draw the charts that several studies have in common, as Vega-Lite.

Altair is imported only when a chart is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.html.charts import ROLES, chart_of, finish_chart, name_legend, series_styles
from segue.studies.framework.study import StudyChart

__all__ = ["draw_heat_map", "draw_intervals", "draw_lines", "draw_scatter"]

HEIGHT = 260
"""Height of a chart, in pixels."""
ROW = 22
"""Height of a row of a heat map or of intervals, in pixels."""
MAX_TICKS = 40
"""Columns of a heat map up to which each has a tick."""
MAX_MARKED = 60
"""Points of a chart up to which they are visible; the values of others are shown on hover."""

Point = tuple[float, float]
Line = Sequence[Point | tuple[float, float, float, float]]
"""Points ``(x, y)``, or ``(x, y, low, high)`` with an interval."""


def draw_lines(
    lines: Mapping[str, Line], x_label: str, y_label: str, *, log_x: bool = False, log_y: bool = False
) -> StudyChart:
    """Draw named lines; intervals are bands.

    Values that are not finite, or not positive on a logarithmic scale, are left out.
    """
    import altair as alt

    rows = [
        dict(zip(("name", "x", "y", "low", "high"), (name, *point), strict=False))
        for name, points in lines.items()
        for point in points
        if all(map(math.isfinite, point)) and not (log_x and point[0] <= 0) and not (log_y and point[1] <= 0)
    ]
    ticks: dict[str, Any] = {"values": sorted({row["x"] for row in rows})} if log_x else {"tickCount": 6}
    y_ticks: dict[str, Any] = {"values": _log_ticks([row["y"] for row in rows])} if log_y else {"tickCount": 5}
    x_scale = alt.Scale(type="log" if log_x else "linear", nice=False, zero=False)
    y_scale = alt.Scale(type="log", nice=False) if log_y else alt.Scale(zero=False)
    base = chart_of(rows).encode(
        x=alt.X("x:Q", title=x_label, scale=x_scale, axis=alt.Axis(grid=False, **ticks)),
        y=alt.Y("y:Q", title=y_label, scale=y_scale, axis=alt.Axis(**y_ticks)),
        color=_color(list(lines)),
    )
    tooltip = [
        alt.Tooltip("name:N", title="line"),
        alt.Tooltip("x:Q", title=x_label, format="~g"),
        alt.Tooltip("y:Q", title=y_label, format=".4~g"),
    ]
    layers = [
        base.mark_line(strokeWidth=2).encode(strokeDash=_by_name("StrokeDash", "dash", list(lines))),
        base.mark_point(size=45, filled=True, opacity=1 if len(rows) <= MAX_MARKED else 0).encode(
            shape=_by_name("Shape", "shape", list(lines)), tooltip=tooltip
        ),
    ]
    if any("low" in row for row in rows):
        band = chart_of([row for row in rows if "low" in row]).mark_area(opacity=0.14)
        color = _by_name("Color", "color", list(lines), legend=None)
        layers.insert(0, band.encode(x="x:Q", y=alt.Y("low:Q"), y2="high:Q", color=color))
    ends = "; ".join(
        f"{name} from {own[0]['y']:.4g} at {own[0]['x']:g} to {own[-1]['y']:.4g} at {own[-1]['x']:g}"
        for name in lines
        if (own := [row for row in rows if row["name"] == name])
    )
    return StudyChart(finish_chart(alt.layer(*layers), HEIGHT), f"{y_label} by {x_label}: {ends}")


def draw_intervals(rows: Mapping[str, tuple[float, float, float]], x_label: str) -> StudyChart:
    """Draw a mean and its interval ``(mean, low, high)`` per row, and a line at 0.

    The point is filled if the interval excludes 0.
    """
    import altair as alt

    values = [
        {
            **{"name": name, "mean": mean, "low": low, "high": high, "interval": f"{low:+.4f} to {high:+.4f}"},
            "result": "excludes 0" if low > 0 or high < 0 else "includes 0",
        }
        for name, (mean, low, high) in rows.items()
    ]
    is_clear = alt.datum.result == "excludes 0"
    base = chart_of(values).encode(
        y=alt.Y("name:N", sort=list(rows), title=None, axis=alt.Axis(labelLimit=200)),
        color=alt.when(is_clear).then(alt.value(ROLES["c1"])).otherwise(alt.value(ROLES["soft"])),
        tooltip=[
            alt.Tooltip("name:N", title="change"),
            alt.Tooltip("mean:Q", title=x_label, format="+.4f"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("result:N"),
        ],
    )
    x = alt.X("low:Q", title=x_label, axis=alt.Axis(tickCount=5))
    fill = alt.when(is_clear).then(alt.value(ROLES["c1"])).otherwise(alt.value("transparent"))
    layers = [
        chart_of([{"zero": 0}]).mark_rule(color=ROLES["ink"]).encode(x="zero:Q"),
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(size=70, strokeWidth=2, opacity=1).encode(x="mean:Q", fill=fill),
    ]
    text = "; ".join(f"{row['name']} {row['mean']:+.4f}, {row['interval']}" for row in values)
    return StudyChart(finish_chart(alt.layer(*layers), ROW * len(rows)), f"{x_label} with 95 % interval: {text}")


def draw_scatter(
    points: Mapping[str, Sequence[tuple[float, float, str]]], front: Sequence[Point], x_label: str, y_label: str
) -> StudyChart:
    """Draw named groups of labeled points, and a line through the Pareto front.

    The horizontal axis is logarithmic.
    """
    import altair as alt

    rows = [
        {"name": name, "x": x, "y": y, "label": label}
        for name, group in points.items()
        for x, y, label in group
        if x > 0
    ]
    x_scale = alt.Scale(type="log", nice=False, padding=24)
    base = chart_of(rows).encode(
        x=alt.X("x:Q", title=x_label, scale=x_scale, axis=alt.Axis(grid=False, tickCount=6)),
        y=alt.Y("y:Q", title=y_label, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        color=_color(list(points)),
        tooltip=[
            alt.Tooltip("name:N", title="model"),
            alt.Tooltip("label:N", title="length"),
            alt.Tooltip("x:Q", title=x_label, format=".3~g"),
            alt.Tooltip("y:Q", title=y_label, format=".4~g"),
        ],
    )
    line = chart_of([{"x": x, "y": y} for x, y in front]).mark_line(strokeWidth=1, color=ROLES["soft"])
    layers = [
        line.encode(x="x:Q", y="y:Q"),
        base.mark_point(size=60, filled=True, opacity=1).encode(shape=_by_name("Shape", "shape", list(points))),
        base.mark_text(align="left", dx=7, dy=-5, fontSize=11).encode(text="label:N"),
    ]
    text = "; ".join(f"{row['name']} {row['label']}: {row['x']:.3g}, {row['y']:.4g}" for row in rows)
    return StudyChart(finish_chart(alt.layer(*layers), HEIGHT + 60), f"{y_label} by {x_label}: {text}")


def draw_heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    note: str,
    *,
    by_column: bool = False,
) -> StudyChart:
    """Draw a heat map of shares; ``None`` is an empty cell.

    Each row has its own scale, from 0 to its largest value.

    Args:
        columns: names, each once; numbers are labeled where there is space.
        by_column: each column has its own scale.
    """
    import altair as alt

    groups = list(zip(*values, strict=True)) if by_column else values
    largest = [max([value for value in group if value is not None], default=0.0) or 1.0 for group in groups]
    cells: list[dict[str, Any]] = [
        {"row": row, "column": column, "share": share, "scaled": share / largest[number if by_column else line]}
        for line, row in enumerate(rows)
        for number, column in enumerate(columns)
        if (share := values[line][number]) is not None
    ]
    place: dict[str, Any] = {"orient": "top", "labelAngle": -90} if by_column else {"orient": "bottom", "labelAngle": 0}
    x_axis = alt.Axis(labelOverlap=True, labelSeparation=8, ticks=len(columns) <= MAX_TICKS, **place)
    opacity = alt.Opacity("scaled:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 1]), legend=None)
    base = chart_of(cells).encode(
        x=alt.X("column:O", sort=list(columns), title=x_label or None, axis=x_axis),
        y=alt.Y("row:N", sort=list(rows), title=None, axis=alt.Axis(labelLimit=210)),
        opacity=opacity,
        tooltip=[
            alt.Tooltip("row:N", title="row"),
            alt.Tooltip("column:N", title=x_label or "column"),
            alt.Tooltip("share:Q", format=".2%"),
        ],
    )
    chart = base.mark_rect(color=ROLES["c1"])
    most = "; ".join(
        f"{row}: most {max(own, key=lambda cell: cell['share'])['column']}"
        for row in rows
        if (own := [cell for cell in cells if cell["row"] == row])
    )
    text = f"Heat map of {len(rows)} rows and {len(columns)} columns. {note}." + ("" if by_column else f" {most}.")
    return StudyChart(finish_chart(chart, ROW * len(rows) + 10), text, note)


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Return the marks of a logarithmic axis.

    They are powers of 10, and twice and five times these where there are few.
    """
    if not values:
        return []
    first, last = (math.floor(math.log10(choose(values))) for choose in (min, max))
    steps = (1, 2, 5) if last - first < 2 else (1,)
    return [step * 10.0**power for power in range(first, last + 1) for step in steps]


def _by_name(channel: str, style: str, names: Sequence[str], **options: Any) -> Any:
    """Return an encoding that tells names apart by color, shape or dash."""
    import altair as alt

    styles = series_styles(names)
    scale = alt.Scale(domain=list(names), range=[styles[name][style] for name in names])
    return getattr(alt, channel)("name:N", scale=scale, **{"legend": name_legend(names), **options})


def _color(names: Sequence[str]) -> Any:
    return _by_name("Color", "color", names)

"""Charts that describe an interaction log: long tail, lengths, times and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.html.charts import ROLES, chart_of, finish_chart
from segue.reports.html.log_description import Bin, ValueCount
from segue.reports.quantities import format_count

__all__ = [
    "activity_chart",
    "count_chart",
    "duration_chart",
    "duration_text",
    "histogram_chart",
    "length_chart",
    "lorenz_chart",
    "rank_chart",
]

HEIGHT = 230
ROW = 24
"""Height of a bar with a label, in pixels."""

DURATIONS: Mapping[str, float] = {
    "1 s": 1.0,
    "1 min": 60.0,
    "1 h": 3600.0,
    "1 day": 86400.0,
    "1 month": 2629746.0,
    "1 year": 31556952.0,
}
"""Marks on an axis of durations, in seconds."""


def rank_chart(ranks: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Plot the events of each item by its rank, both on logarithmic scales."""
    import altair as alt

    values = [{"rank": rank, "events": count} for rank, count in ranks]
    last, most = ranks[-1][0], ranks[0][1]
    x_axis = alt.Axis(grid=False, values=_powers(last), format="~s")
    y_axis = alt.Axis(values=_powers(most), format="~s")
    scale = alt.Scale(type="log", nice=False)
    base = chart_of(values).encode(
        x=alt.X("rank:Q", title="rank of the item", scale=scale, axis=x_axis),
        y=alt.Y("events:Q", title=None, scale=alt.Scale(type="log", nice=False, domainMin=1), axis=y_axis),
    )
    tooltip = [alt.Tooltip("rank:Q", format=","), alt.Tooltip("events:Q", format=",")]
    layers = [
        base.mark_line(strokeWidth=2, color=ROLES["c1"]),
        base.mark_point(size=40, filled=True, opacity=0).encode(tooltip=tooltip),
    ]
    return finish_chart(alt.layer(*layers), HEIGHT)


def _powers(highest: int) -> list[int]:
    """Return the powers of 10 up to ``highest``."""
    return [10**power for power in range(len(str(highest)))]


def _count_axis() -> Any:
    import altair as alt

    return alt.Axis(format=",d", tickCount=4, tickMinStep=1)


def lorenz_chart(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Plot the share of the events by share of the items, least popular first."""
    import altair as alt

    values = [{"items": items, "events": events} for items, events in points]
    axis = alt.Axis(format="%", tickCount=4)
    scale = alt.Scale(domain=[0, 1], nice=False)
    base = chart_of(values).encode(
        x=alt.X("items:Q", title="share of the items, least popular first", axis=axis, scale=scale),
        y=alt.Y("events:Q", title=None, axis=axis, scale=scale),
    )
    equal = chart_of([{"items": 0, "events": 0}, {"items": 1, "events": 1}])
    label = chart_of([{"items": 0.46, "events": 0.5, "text": "equal popularity"}])
    tooltip = [alt.Tooltip("items:Q", format=".1%"), alt.Tooltip("events:Q", format=".1%")]
    layers = [
        equal.mark_line(strokeDash=[4, 3], strokeWidth=1, color=ROLES["soft"]).encode(x="items:Q", y="events:Q"),
        base.mark_area(color=ROLES["c1"], opacity=0.14),
        base.mark_line(strokeWidth=2, color=ROLES["c1"]),
        base.mark_point(size=40, filled=True, opacity=0).encode(tooltip=tooltip),
        label.mark_text(align="right", color=ROLES["soft"]).encode(x="items:Q", y="events:Q", text="text:N"),
    ]
    return finish_chart(alt.layer(*layers), HEIGHT)


def length_chart(bins: Sequence[Bin], what: str) -> dict[str, Any]:
    """Plot a histogram of whole numbers, such as events per user.

    Args:
        what: is counted, such as ``users``.
    """
    names = [f"{one.low:,.0f}" if one.low == one.high else f"{one.low:,.0f} to {one.high:,.0f}" for one in bins]
    return _histogram(bins, names, what, [one.low for one in bins])


def histogram_chart(bins: Sequence[Bin], what: str) -> dict[str, Any]:
    """Plot a histogram of numbers."""
    names = [f"{one.low:.3g} to {one.high:.3g}" for one in bins]
    return _histogram(bins, names, what, [one.low for one in bins])


def _histogram(bins: Sequence[Bin], names: Sequence[str], what: str, starts: Sequence[float]) -> dict[str, Any]:
    import altair as alt

    values = [
        {"at": number, "range": name, "count": one.count}
        for number, (one, name) in enumerate(zip(bins, names, strict=True))
    ]
    step = max(1, -(-len(bins) // 6))
    ticks = list(range(0, len(bins), step))
    texts = {str(tick): f"{starts[tick]:,.4g}" for tick in ticks}
    axis = alt.Axis(grid=False, values=ticks, labelExpr=_lookup(texts), ticks=False)
    scale = alt.Scale(domain=[-0.6, len(bins) - 0.4], nice=False)
    chart = chart_of(values).encode(
        x=alt.X("left:Q", title=None, axis=axis, scale=scale),
        x2="right:Q",
        y=alt.Y("count:Q", title=None, axis=_count_axis()),
        y2=alt.datum(0),
        tooltip=[alt.Tooltip("range:N"), alt.Tooltip("count:Q", title=what, format=",")],
    )
    bars = chart.transform_calculate(left="datum.at - 0.44", right="datum.at + 0.44").mark_bar(color=ROLES["c1"])
    return finish_chart(bars, HEIGHT)


def _lookup(texts: Mapping[str, str]) -> str:
    """Return an expression for the text of each tick."""
    pairs = ", ".join(f"'{key}': '{text}'" for key, text in texts.items())
    return f"({{{pairs}}})[format(datum.value, 'd')] || ''"


def duration_chart(bins: Sequence[Bin]) -> dict[str, Any]:
    """Plot a histogram of seconds on a logarithmic scale, with marks such as one day."""
    import altair as alt

    values = [
        {
            "low": one.low,
            "high": one.high,
            "count": one.count,
            "range": f"{duration_text(one.low)} to {duration_text(one.high)}",
        }
        for one in bins
    ]
    marks = {name: seconds for name, seconds in DURATIONS.items() if bins[0].low <= seconds <= bins[-1].high}
    expression = " : ".join(f"datum.value == {seconds:.0f} ? '{name}'" for name, seconds in marks.items())
    axis = alt.Axis(grid=False, values=list(marks.values()), labelExpr=f"{expression} : ''" if marks else "''")
    chart = chart_of(values).encode(
        x=alt.X("low:Q", title=None, scale=alt.Scale(type="log", nice=False), axis=axis),
        x2="high:Q",
        y=alt.Y("count:Q", title=None, axis=_count_axis()),
        y2=alt.datum(0),
        tooltip=[alt.Tooltip("range:N", title="gap"), alt.Tooltip("count:Q", title="gaps", format=",")],
    )
    return finish_chart(chart.mark_bar(color=ROLES["c1"], stroke=ROLES["line"], strokeWidth=0.5), HEIGHT)


def duration_text(seconds: float) -> str:
    """Format a duration with the largest unit that it has."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def activity_chart(activity: Sequence[tuple[str, int]], unit: str) -> dict[str, Any]:
    """Plot the events per unit of time."""
    import altair as alt

    values = [{"time": time, "events": count} for time, count in activity]
    formats = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
    chart = chart_of(values).encode(
        x=alt.X("time:T", title=None, axis=alt.Axis(grid=False, tickCount=6, labelOverlap=True)),
        y=alt.Y("events:Q", title=None, axis=_count_axis()),
        tooltip=[
            alt.Tooltip("time:T", title=f"{unit} of", format=formats[unit]),
            alt.Tooltip("events:Q", format=","),
        ],
    )
    layers = [
        chart.mark_area(color=ROLES["c1"], opacity=0.18, interpolate="step-after"),
        chart.mark_line(color=ROLES["c1"], strokeWidth=1.5, interpolate="step-after"),
        chart.mark_bar(opacity=0),
    ]
    return finish_chart(alt.layer(*layers), 200)


def count_chart(counts: Sequence[ValueCount], total: int) -> dict[str, Any]:
    """Plot a bar with its label per value.

    Args:
        total: what the shares refer to.
    """
    import altair as alt

    values = [
        {
            "value": one.value,
            "count": one.count,
            "shown": f"{100 * one.count / total:.1f} %",
            "exact": format_count(one.count),
        }
        for one in counts
    ]
    highest = max(one.count for one in counts)
    base = chart_of(values).encode(
        x=alt.X("count:Q", axis=None, scale=alt.Scale(domain=[0, 1.25 * highest], nice=False)),
        y=alt.Y("value:N", sort=[one.value for one in counts], title=None),
        tooltip=[
            alt.Tooltip("value:N"),
            alt.Tooltip("exact:N", title="count"),
            alt.Tooltip("shown:N", title="share"),
        ],
    )
    layers = [
        base.mark_bar(color=ROLES["c1"], height=13),
        base.mark_text(align="left", dx=5).encode(text="shown:N"),
    ]
    return finish_chart(alt.layer(*layers), ROW * len(counts))

"""Charts of the metrics, differences, groups, training and cost of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segue.reports.html.charts import ROLES, chart_of, finish_chart, name_legend, series_styles
from segue.reports.quantities import format_interval, format_mean, format_signed, metric_label

if TYPE_CHECKING:
    pass

__all__ = ["cost_chart", "difference_chart", "group_chart", "metric_chart", "training_chart"]

ROW = 27
"""Height of a row, in pixels."""

LABEL_SHARE = 0.3
"""Share of the width of a narrow chart that the numbers on the right need."""
DIFFERENCE_SHARE = 0.26
"""The same of a chart that is wide on a laptop."""

MAX_LABELED = 4
"""Lines of a chart that are labeled at their ends; more have a legend."""

Rows = Sequence[Mapping[str, Any]]


def metric_chart(metric: str, rows: Rows) -> dict[str, Any]:
    """Plot a point with its 95 % interval per model.

    Args:
        rows: ``name``, ``mean``, ``low``, ``high`` and ``is_simple``, whether it is a simple baseline, in the order of
            the chart; and ``is_strongest``, which draws a dashed line through the strongest of them.
    """
    import altair as alt

    label, names = metric_label(metric), [row["name"] for row in rows]
    values = [
        {
            "model": row["name"],
            "mean": row["mean"],
            "low": row["low"],
            "high": row["high"],
            "kind": "simple baseline" if row["is_simple"] else "model",
            "shown": format_mean(row["mean"]),
            "interval": format_interval((row["low"], row["high"])),
        }
        for row in rows
    ]
    color = alt.when(alt.datum.kind == "model").then(alt.value(ROLES["c1"])).otherwise(alt.value(ROLES["soft"]))
    base = chart_of(values).encode(
        y=alt.Y("model:N", sort=names, title=None),
        color=color,
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("shown:N", title=label),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("kind:N"),
        ],
    )
    scale = alt.Scale(domain=_domain(rows, LABEL_SHARE), nice=False)
    x = alt.X("low:Q", title=None, axis=alt.Axis(tickCount=4, format="~g"), scale=scale)
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(size=70, filled=True, opacity=1).encode(x="mean:Q"),
        base.mark_text(align="right").encode(x=alt.value("width"), text="shown:N", color=alt.value(ROLES["ink"])),
    ]
    if strongest := [row for row in rows if row.get("is_strongest")]:
        line = chart_of([{"mean": strongest[0]["mean"]}])
        layers.insert(0, line.mark_rule(strokeDash=[4, 3], color=ROLES["soft"]).encode(x="mean:Q"))
    return finish_chart(alt.layer(*layers), ROW * len(rows))


def difference_chart(metric: str, tests: Rows) -> dict[str, Any]:
    """Plot the difference of each pair of models with its 95 % interval.

    Args:
        tests: ``pair``, ``difference``, ``low``, ``high``, ``p`` and ``significant``, in the order of the chart.
    """
    import altair as alt

    names = [test["pair"] for test in tests]
    values = [
        {
            "pair": test["pair"],
            "difference": test["difference"],
            "low": test["low"],
            "high": test["high"],
            "shown": format_signed(test["difference"]),
            "interval": format_interval((test["low"], test["high"]), sign=True),
            "p": test["p"],
            "result": "significant" if test["significant"] else "not significant",
        }
        for test in tests
    ]
    color = alt.when(alt.datum.result == "significant").then(alt.value(ROLES["c1"])).otherwise(alt.value(ROLES["soft"]))
    base = chart_of(values).encode(
        y=alt.Y("pair:N", sort=names, title=None, axis=alt.Axis(labelLimit=200)),
        color=color,
        tooltip=[
            alt.Tooltip("pair:N"),
            alt.Tooltip("shown:N", title="difference"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("p:N", title="corrected p"),
            alt.Tooltip("result:N"),
        ],
    )
    title = f"difference of {metric_label(metric)}"
    scale = alt.Scale(domain=_domain(tests, DIFFERENCE_SHARE), nice=False)
    x = alt.X("low:Q", title=title, axis=alt.Axis(tickCount=5, format="~g"), scale=scale)
    is_clear = alt.datum.result == "significant"
    fill = alt.when(is_clear).then(alt.value(ROLES["c1"])).otherwise(alt.value("transparent"))
    zero = chart_of([{"zero": 0}]).mark_rule(color=ROLES["ink"]).encode(x="zero:Q")
    layers = [
        zero,
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(size=70, strokeWidth=2, opacity=1).encode(x="difference:Q", fill=fill),
        base.mark_text(align="right").encode(x=alt.value("width"), text="shown:N", color=alt.value(ROLES["ink"])),
    ]
    return finish_chart(alt.layer(*layers), ROW * len(tests))


def _domain(rows: Rows, share: float = 0.04) -> list[float]:
    """Return the range of an axis with 0 and all intervals.

    Args:
        share: of the axis that stays free on the right, such as for labels.
    """
    low = min(0.0, *(float(row["low"]) for row in rows))
    high = max(0.0, *(float(row["high"]) for row in rows))
    width = (high - low) or 1.0
    return [low - (0.04 * width if low < 0 else 0.0), high + share / (1.0 - share) * width]


def group_chart(metric: str, rows: Rows, groups: Sequence[str], models: Sequence[str]) -> dict[str, Any]:
    """Plot ``metric`` with its 95 % interval per group of queries and model.

    Args:
        rows: ``group``, ``model``, ``mean``, ``low``, ``high`` and ``queries``.
        groups: their order, from the top; likewise ``models``.
    """
    import altair as alt

    styles = series_styles(models)
    values = [
        {
            **{name: row[name] for name in ("group", "model", "mean", "low", "high", "queries")},
            "shown": format_mean(row["mean"]),
            "interval": format_interval((row["low"], row["high"])),
        }
        for row in rows
    ]
    domain = list(models)
    colors = alt.Scale(domain=domain, range=[styles[name]["color"] for name in domain])
    shapes = alt.Scale(domain=domain, range=[styles[name]["shape"] for name in domain])
    legend = name_legend(domain)
    base = chart_of(values).encode(
        y=alt.Y("group:N", sort=list(groups), title=None, axis=alt.Axis(grid=True, tickBand="extent")),
        yOffset=alt.YOffset("model:N", sort=domain),
        color=alt.Color("model:N", scale=colors, legend=legend),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("group:N"),
            alt.Tooltip("shown:N", title=metric_label(metric)),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("queries:Q", format=","),
        ],
    )
    scale = alt.Scale(domain=_domain(rows), nice=False)
    x = alt.X("low:Q", title=metric_label(metric), axis=alt.Axis(tickCount=5, format="~g"), scale=scale)
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(size=60, filled=True, opacity=1).encode(
            x="mean:Q", shape=alt.Shape("model:N", scale=shapes, legend=legend)
        ),
    ]
    return finish_chart(alt.layer(*layers), (16 * len(domain) + 14) * len(groups))


def training_chart(rows: Rows, title: str, models: Sequence[str]) -> dict[str, Any]:
    """Plot a quantity by epoch or iteration, one line per model.

    Args:
        rows: ``step``, ``value``, ``model`` and ``part``, ``training`` or ``validation``.
        models: every model of the page, so that each has the same color in all charts.
    """
    import altair as alt

    domain = [name for name in models if any(row["model"] == name for row in rows)]
    styles = series_styles(models)
    colors = alt.Scale(domain=domain, range=[styles[name]["color"] for name in domain])
    dashes = alt.Scale(domain=domain, range=[styles[name]["dash"] for name in domain])
    is_labeled = len(domain) <= MAX_LABELED
    legend = None if is_labeled else name_legend(domain)
    axis = alt.Axis(tickMinStep=1, grid=False, format="d", tickCount=6)
    encoded = chart_of(rows).encode(
        x=alt.X("step:Q", title="epoch or iteration", axis=axis, scale=alt.Scale(nice=False, zero=False)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, format="~g")),
        color=alt.Color("model:N", scale=colors, legend=legend),
        detail="part:N",
    )
    dash: Any = alt.StrokeDash("model:N", scale=dashes, legend=legend)
    if is_labeled:  # dashes are free to tell training from validation
        is_dashed = (alt.datum.part == "training") & (len({row["part"] for row in rows}) > 1)
        dash = alt.when(is_dashed).then(alt.value([2, 3])).otherwise(alt.value([1, 0]))
    layers = [
        encoded.mark_line(strokeWidth=2).encode(strokeDash=dash),
        encoded.mark_point(size=60, filled=True, opacity=0).encode(
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("step:Q", title="epoch or iteration"),
                alt.Tooltip("value:Q", title=title, format=".4f"),
                alt.Tooltip("part:N"),
            ]
        ),
    ]
    for is_rising in (True, False) if is_labeled else ():
        ends = [end for end in _line_ends(rows) if end["is_rising"] == is_rising]
        place: Any = {"baseline": "bottom", "dy": -7} if is_rising else {"baseline": "top", "dy": 7}
        labels = chart_of(ends).mark_text(align="right", **place)
        color = alt.Color("model:N", scale=colors, legend=None)
        layers += [labels.encode(x="step:Q", y="value:Q", color=color, text="model:N")] if ends else []
    return finish_chart(alt.layer(*layers), 230)


def _line_ends(rows: Rows) -> list[dict[str, Any]]:
    """Return the last point of each line, and whether the line rises there.

    A label is above a rising line and below a falling one, so that it is not on the line.
    """
    points: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        points.setdefault(row["model"], []).append(row)
    return [
        {**line[-1], "is_rising": line[-1]["value"] >= line[-min(len(line), 4)]["value"]} for line in points.values()
    ]


def cost_chart(metric: str, rows: Rows, models: Sequence[str]) -> dict[str, Any]:
    """Plot the metric with its interval by training time, one point per model.

    Args:
        rows: ``model``, ``mean``, ``low``, ``high``, ``seconds`` and ``shown``, the time in words.
    """
    import altair as alt

    styles, domain = series_styles(models), list(models)
    colors = alt.Scale(domain=domain, range=[styles[name]["color"] for name in domain])
    shapes = alt.Scale(domain=domain, range=[styles[name]["shape"] for name in domain])
    values = [{**row, "value": format_mean(row["mean"])} for row in rows]
    longest = 8 * max(map(len, domain))
    scale = alt.Scale(type="log", padding=min(110, 20 + longest), nice=False)
    base = chart_of(values).encode(
        x=alt.X("seconds:Q", title="training time, seconds", scale=scale, axis=alt.Axis(grid=False, tickCount=4)),
        color=alt.Color("model:N", scale=colors, legend=None),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("value:N", title=metric_label(metric)),
            alt.Tooltip("shown:N", title="training time"),
        ],
    )
    y = alt.Y("low:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5, format="~g"))
    layers = [
        base.mark_rule(strokeWidth=2).encode(y=y, y2="high:Q"),
        base.mark_point(size=70, filled=True, opacity=1).encode(
            y="mean:Q", shape=alt.Shape("model:N", scale=shapes, legend=None)
        ),
        base.mark_text(align="left", dx=8).encode(y="mean:Q", text="model:N"),
    ]
    return finish_chart(alt.layer(*layers), 260)

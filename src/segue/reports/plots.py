"""Plots of results. matplotlib is imported here, when something is drawn, and draws without a screen.

Drawn in roles, not colours: the page's style sheet gives ``--ink``, ``--faint`` and ``--c1``, ``--c2``, ... their
colours, for light and for dark; a file of its own gets the light ones.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segue.reports.quantities import called, mean
from segue.reports.tables import best_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LIGHT", "metric_bars", "svg", "training_curves"]

Record = Mapping[str, Any]
History = Sequence[Mapping[str, float]]

LIGHT = {
    "ink": "#22262b",
    "faint": "#9aa1a9",
    "c1": "#1f6f8b",
    "c2": "#c2571a",
    "c3": "#5b4a9c",
    "c4": "#3f7d3a",
    "c5": "#a83a6b",
    "c6": "#8a6d1d",
}
"""Colours by role; neighbours differ in lightness too, so that they are told apart without hue."""

STYLES = ("-", "--", ":", "-.")
COLOURS = [role for role in LIGHT if role.startswith("c")]


def metric_bars(result: Record, names: Sequence[str]) -> Figure:
    """For each metric a bar per model, from 0, with its 95 % interval; best model on top."""
    records = best_first(result)
    figure = _figure(10.0, 0.75 + 0.34 * len(records))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        values = [record[name] for record in records]
        ends = [record["intervals"][name] for record in records]
        whiskers = [
            [value - low for value, (low, _) in zip(values, ends, strict=True)],
            [high - value for value, (_, high) in zip(values, ends, strict=True)],
        ]
        places = range(len(records))
        axes.barh(places, values, height=0.56, color=LIGHT["c1"], alpha=0.85)
        axes.errorbar(values, places, xerr=whiskers, fmt="none", ecolor=LIGHT["ink"], elinewidth=1.2, capsize=2.5)
        widest = max([high for _, high in ends] + [1e-9])
        for place, value, (_, high) in zip(places, values, ends, strict=True):
            axes.text(high + 0.03 * widest, place, mean(value), va="center", fontsize=8.5, color=LIGHT["ink"])
        axes.set_xlim(0, widest * 1.32)
        axes.set_yticks(places, [record["model"] for record in records])
        axes.set_title(called(name), fontsize=10, loc="left")
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="y", length=0)
        _calm(axes)
    axes.invert_yaxis()
    return figure


def training_curves(histories: Mapping[str, History], metric: str) -> Figure:
    """Loss, and ``metric`` on validation, by epoch or sweep: one line per model that was trained so.

    Where the training's own ``metric`` is known it is a dotted line of the same colour.
    """
    figure = _figure(10.0, 3.0)
    for axes, key, title in zip(
        figure.subplots(1, 2),
        ("loss", f"valid/{metric}"),
        ("Training loss", f"Validation {called(metric)}"),
        strict=True,
    ):
        for number, (model, history) in enumerate(histories.items()):
            points = [(line["step"], line[key]) for line in history if key in line]
            colour = LIGHT[COLOURS[number % len(COLOURS)]]
            trained = [(line["step"], line[f"train/{metric}"]) for line in history if f"train/{metric}" in line]
            if trained and key != "loss":
                axes.plot(*zip(*trained, strict=True), ":", color=colour, label=f"{model}, training", linewidth=1.6)
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            axes.plot(
                *zip(*points, strict=True) if points else ([], []), style, color=colour, label=model, linewidth=1.6
            )
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch or sweep", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _calm(axes)
    figure.axes[-1].legend(frameon=False, fontsize=8.5, labelcolor=LIGHT["ink"])
    return figure


def svg(figure: Figure, themed: bool = False) -> str:
    """The figure as an SVG element with real text; the same figure gives the same text.

    Args:
        themed: colours are roles of the page's style sheet, the background is the page's.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "segue"}):
        figure.savefig(out, format="svg", transparent=themed, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    if themed:
        for role, colour in LIGHT.items():
            text = text.replace(colour, f"var(--{role})")
        text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return text


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _calm(axes: Axes) -> None:
    """As little ink as the numbers need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT["faint"])
    axes.tick_params(colors=LIGHT["faint"], labelcolor=LIGHT["ink"], labelsize=8.5)
    axes.title.set_color(LIGHT["ink"])
    axes.xaxis.label.set_color(LIGHT["ink"])

"""Plots of results.

matplotlib is imported only when a plot is drawn; it needs no display.

Colors are roles: the page's style sheet defines ``--ink``, ``--faint``, ``--c1``, ``--c2``, ... for light and dark
mode; a separate file uses the light colors.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.core.files import atomic_file, write_text
from segue.reports.quantities import format_mean, metric_label
from segue.reports.tables import best_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "LIGHT",
    "STYLES",
    "check_figure_path",
    "new_figure",
    "plot_metric_bars",
    "plot_reliability",
    "plot_training_curves",
    "remove_clutter",
    "save_figure",
    "to_svg",
]

FIGURE_SUFFIXES = (".svg", ".png", ".pdf")

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
"""Colors by role; adjacent ones differ in lightness too, so that they are distinguishable without hue."""

STYLES = ("-", "--", ":", "-.")
COLORS = [role for role in LIGHT if role.startswith("c")]


def plot_metric_bars(result: Record, names: Sequence[str]) -> Figure:
    """Plot for each metric a bar per model with its 95 % interval.

    Bars begin at 0; the best model is on top. A dashed line marks the strongest simple baseline, where known.
    """
    records, baseline = best_first(result), result.get("baseline") or {}
    figure = new_figure(10.0, 0.75 + 0.34 * len(records))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        values = [record[name] for record in records]
        ends = [record["intervals"][name] for record in records]
        whiskers = [
            [value - low for value, (low, _) in zip(values, ends, strict=True)],
            [high - value for value, (_, high) in zip(values, ends, strict=True)],
        ]
        positions = range(len(records))
        axes.barh(positions, values, height=0.56, color=LIGHT["c1"], alpha=0.85)
        axes.errorbar(values, positions, xerr=whiskers, fmt="none", ecolor=LIGHT["ink"], elinewidth=1.2, capsize=2.5)
        widest = max([high for _, high in ends] + [1e-9, baseline.get(name, 0.0)])
        lowest = min([low for low, _ in ends] + [0.0, baseline.get(name, 0.0)])
        if name in baseline:
            axes.axvline(baseline[name], color=LIGHT["ink"], linewidth=1.0, linestyle=(0, (4, 3)))
        for position, value, (_, high) in zip(positions, values, ends, strict=True):
            x = max(high, 0.0) + 0.03 * (widest - lowest)
            axes.text(x, position, format_mean(value), va="center", fontsize=8.5, color=LIGHT["ink"])
        axes.set_xlim(lowest * 1.05, widest + 0.32 * (widest - lowest))
        axes.set_yticks(positions, [record["model"] for record in records])
        axes.set_title(metric_label(name), fontsize=10, loc="left")
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="y", length=0)
        remove_clutter(axes)
    axes.invert_yaxis()
    return figure


def plot_training_curves(histories: Mapping[str, History], metric: str) -> Figure:
    """Plot loss and validation ``metric`` by epoch or iteration, per model.

    Where ``metric`` on the training data is known, it is a dotted line of the same color.
    """
    figure = new_figure(10.0, 3.0)
    for axes, key, title in zip(
        figure.subplots(1, 2),
        ("loss", f"valid/{metric}"),
        ("Training loss", f"Validation {metric_label(metric)}"),
        strict=True,
    ):
        for number, (model, history) in enumerate(histories.items()):
            points = [(line["step"], line[key]) for line in history if key in line]
            color = LIGHT[COLORS[number % len(COLORS)]]
            trained = [(line["step"], line[f"train/{metric}"]) for line in history if f"train/{metric}" in line]
            if trained and key != "loss":
                axes.plot(*zip(*trained, strict=True), ":", color=color, label=f"{model}, training", linewidth=1.6)
            style = STYLES[number // len(COLORS) % len(STYLES)]
            axes.plot(
                *zip(*points, strict=True) if points else ([], []), style, color=color, label=model, linewidth=1.6
            )
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch or iteration", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        remove_clutter(axes)
    figure.axes[-1].legend(frameon=False, fontsize=8.5, labelcolor=LIGHT["ink"])
    return figure


def plot_reliability(curves: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Plot observed shares of positive examples by predicted probability.

    Intervals are those of the observed shares; on the dashed line, probabilities are right.

    Args:
        curves: by name, such as ``calibrated``, the columns ``rows``, ``predicted``, ``observed``, ``low`` and ``high``
            of :func:`segue.evaluation.evaluate_examples.reliability_table`.
    """
    figure = new_figure(5.2, 5.4)
    axes = figure.subplots()
    top = min(1.0, 1.06 * max(max(*curve["predicted"], *curve["high"]) for curve in curves.values()))
    axes.plot([0, top], [0, top], color=LIGHT["faint"], linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    for number, (name, curve) in enumerate(curves.items()):
        # the last curve is in front, in the first color
        role = COLORS[(len(curves) - 1 - number) % len(COLORS)]
        error = sum(
            rows * abs(predicted - observed)
            for rows, predicted, observed in zip(curve["rows"], curve["predicted"], curve["observed"], strict=True)
        ) / sum(curve["rows"])
        whiskers = [
            [max(0.0, share - low) for share, low in zip(curve["observed"], curve["low"], strict=True)],
            [max(0.0, high - share) for share, high in zip(curve["observed"], curve["high"], strict=True)],
        ]
        is_last = number == len(curves) - 1
        axes.errorbar(
            curve["predicted"],
            curve["observed"],
            yerr=whiskers,
            fmt="o-" if is_last else "s--",
            color=LIGHT[role],
            markerfacecolor=LIGHT[role] if is_last else "white",
            markersize=4.5,
            linewidth=1.5,
            elinewidth=1.0,
            capsize=2.0,
            label=f"{name}, calibration error {format_mean(error)}",
            zorder=2 + number,
        )
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("predicted probability", fontsize=9)
    axes.set_ylabel("observed share of positive examples", fontsize=9)
    axes.yaxis.label.set_color(LIGHT["ink"])
    axes.legend(frameon=False, fontsize=8.5, labelcolor=LIGHT["ink"], loc="upper left")
    remove_clutter(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix, in one step.

    Raises:
        ValueError: see :func:`check_figure_path`.
    """
    check_figure_path(path)
    if path.suffix.lower() == ".svg":
        write_text(path, to_svg(figure) + "\n")
        return
    out = io.BytesIO()
    figure.savefig(out, format=path.suffix.lower().removeprefix("."), dpi=150)
    with atomic_file(path) as fresh:
        fresh.write_bytes(out.getvalue())


def check_figure_path(path: Path) -> None:
    """Check that figures can be written to ``path``.

    Raises:
        ValueError: the suffix is not that of a known format, or matplotlib is not installed.
    """
    if path.suffix.lower() not in FIGURE_SUFFIXES:
        raise ValueError(f"{path}: unknown format '{path.suffix}', expected {', '.join(FIGURE_SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise ValueError("matplotlib is not installed: pip install 'segue[plots]'")


def to_svg(figure: Figure, themed: bool = False) -> str:
    """Render a figure as an SVG element with real text.

    The same figure gives the same text.

    Args:
        themed: use the colors and the background of the page's style sheet.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "segue"}):
        figure.savefig(out, format="svg", transparent=themed, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    if themed:
        for role, color in LIGHT.items():
            text = text.replace(color, f"var(--{role})")
        text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return text


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; the sizes are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def remove_clutter(axes: Axes) -> None:
    """Remove frames and ticks that carry no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT["faint"])
    axes.tick_params(colors=LIGHT["faint"], labelcolor=LIGHT["ink"], labelsize=8.5)
    axes.title.set_color(LIGHT["ink"])
    axes.xaxis.label.set_color(LIGHT["ink"])

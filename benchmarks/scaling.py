"""What a model costs as sequences grow longer, vectors wider and the catalogue larger; and a step from a state.

A training step's forward and backward pass on random items, every point in a fresh process: milliseconds, positions per
second and the peak of memory. Batches hold the same number of positions at every length, so a cost that is linear in
length is a level line. Steps and answers are those of one history, after 10, 1,000 and 10,000 events.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import busy, told, undisturbed

__all__ = ["figure", "page", "run"]

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "xlstm, chunkwise": ("xlstm", {"slstm_at": [], "form": "chunkwise"}),
    "xlstm, parallel": ("xlstm", {"slstm_at": [], "form": "parallel"}),
    "sasrec": ("sasrec", {}),
    "lstm": ("lstm", {}),
}

STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {}),
    "gru4rec": ("gru4rec", {}),
    "xlstm, mLSTM": ("xlstm", {"slstm_at": []}),
    "xlstm, sLSTM": ("xlstm", {"slstm_at": [0, 1]}),
    "xlstm, both": ("xlstm", {}),
}

LENGTHS = (50, 100, 200, 500, 1000, 2000)
WIDTHS = (32, 64, 128, 256)
CATALOGUES = (1_000, 10_000, 100_000, 1_000_000)
EVENTS = (10, 1_000, 10_000)

POSITIONS = 8_000
"""In a batch of the first two axes."""

FEW = 800
"""In a batch of the catalogues' axis, as the largest has a million logits per position."""

LOSSES = ("cross_entropy", "sampled_softmax")


def run(ask: Any) -> dict[str, Any]:
    """Every point of the three axes, and the steps; a plot of the axes is left beside the report."""
    import numpy as np

    from benchmarks.compare_libraries import side

    nothing = np.zeros(1, np.int64), np.zeros(0, np.int32)
    base = {"threads": ask.threads, "seconds": 0.1 if ask.quick else 3.0, "loss": "cross_entropy", "items": 1_000}
    found: dict[str, Any] = {"busy_before_percent": busy(), "settings": base, "points": [], "steps": []}
    for axis, values, few in (("length", LENGTHS, 2), ("width", WIDTHS, 2), ("items", CATALOGUES, 2)):
        for value in values[:few] if ask.quick else values:
            for name, (key, settings) in MODELS.items():
                for loss in LOSSES if axis == "items" else LOSSES[:1]:
                    job = base | {"length": 50 if axis == "items" else 200, "width": 64, "loss": loss, axis: value}
                    batch = max(1, (FEW if axis == "items" else POSITIONS) // job["length"])
                    job |= {"model": key, "settings": settings, "batch": batch}
                    figures = side("growth", sys.executable, job, nothing)
                    point = {"axis": axis, "value": value, "model": name, "loss": loss}
                    found["points"].append(point | {"batch": batch, **figures})
                    print(axis, value, name, loss, f"{figures['milliseconds']:.0f} ms", file=sys.stderr)
    for name, (key, settings) in STREAMS.items():
        events = EVENTS[:2] if ask.quick else EVENTS
        job = base | {"model": key, "settings": settings, "width": 64, "events": events, "length": 200, "batch": 1}
        found["steps"].append({"model": name, **side("growth", sys.executable, job, nothing)})
    picture = Path(ask.out) / "growth.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(figure(found["points"]), encoding="utf-8")
    return found


def figure(points: list[dict[str, Any]]) -> str:
    """Positions per second and peaks of memory along the three axes, as SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from segue.reports.plots import LIGHT, svg

    drawn = Figure(figsize=(11.0, 6.2), layout="constrained")
    grid = drawn.subplots(2, 3)
    titles = {"length": "length", "width": "width", "items": "items (full; dotted: sampled)"}
    measures = {"positions_per_second": "positions per second", "own_mib": "memory above the imports, MiB"}
    for row, (measure, label) in enumerate(measures.items()):
        for axes, (axis, title) in zip(grid[row], titles.items(), strict=True):
            for number, model in enumerate(MODELS):
                for loss, style in zip(LOSSES, ("o-", "o:"), strict=True):
                    line = [p for p in points if (p["axis"], p["model"], p["loss"]) == (axis, model, loss)]
                    if line:
                        axes.plot(
                            [point["value"] for point in line],
                            [max(point[measure], 0.1) for point in line],
                            style,
                            color=LIGHT[f"c{number + 1}"],
                            label=model if loss == LOSSES[0] else None,
                            markersize=3,
                            linewidth=1.4,
                        )
            axes.set_xscale("log")
            axes.set_yscale("log")
            values = sorted({point["value"] for point in points if point["axis"] == axis})
            axes.set_xticks(values, [f"{value:,}" for value in values])
            axes.set_xticks([], minor=True)
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(label if axis == "length" else "", fontsize=10, loc="left")
            axes.set_xlabel(title, fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8.5)
    grid[0][0].legend(frameon=False, fontsize=8.5)
    return svg(drawn)


def page(found: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    settings = found["settings"]
    lines = [
        "# What models cost as things grow",
        "",
        f"{settings['threads']} threads; forward and backward pass of a training step, two blocks or one layer, width "
        f"64, length 200, {settings['items']:,} items, {POSITIONS:,} positions in a batch ({FEW} along the catalogues, "
        "at length 50), unless the axis says otherwise.",
        "",
        "![positions per second and memory](growth.svg)",
        "",
        "| axis | value | model | loss | batch | ms | ms of processor | positions/s | peak above imports, MiB |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {p['axis']} | {p['value']:,} | {p['model']} | {p['loss']} | {p['batch']} | {p['milliseconds']:,.1f} "
        f"| {p['processor_milliseconds']:,.1f} | {p['positions_per_second']:,.0f} | {p['own_mib']:,.0f} |"
        for p in found["points"]
    ]
    lines += [
        "",
        "| model | state, bytes | events | step, ms of processor | answer |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {steps['model']} | {step['bytes']:,} | {step['events']:,} | {step['step_ms']:.2f} "
        f"| {step['answer_ms']:.2f} |"
        for steps in found["steps"]
        for step in steps["steps"]
    ]
    lines += [
        "",
        undisturbed(found),
        *told(found["machine"]),
        "",
    ]
    return "\n".join(lines)

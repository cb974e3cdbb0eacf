"""Cost of models as sequences, vectors and the catalog grow, and cost of a recurrent step.

Each point is the forward and backward pass of a training step on random items in a fresh process: milliseconds,
positions per second and peak memory. Batches hold the same number of positions at every length, so a cost that is
linear in length is a level line. Recurrent steps and scores are those of one history, after 10, 1,000 and 10,000
events.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_load, describe_lines, load_line

__all__ = ["figure", "page", "run"]

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "xlstm, chunkwise": ("xlstm", {"slstm_at": [], "mlstm_form": "chunkwise"}),
    "xlstm, parallel": ("xlstm", {"slstm_at": [], "mlstm_form": "parallel"}),
    "sasrec": ("sasrec", {}),
    "lstm": ("lstm", {}),
}

RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {}),
    "gru4rec": ("gru4rec", {}),
    "xlstm, mLSTM": ("xlstm", {"slstm_at": []}),
    "xlstm, sLSTM": ("xlstm", {"slstm_at": [0, 1]}),
    "xlstm, both": ("xlstm", {}),
}

LENGTHS = (50, 100, 200, 500, 1000, 2000)
WIDTHS = (32, 64, 128, 256)
CATALOG_SIZES = (1_000, 10_000, 100_000, 1_000_000)
EVENTS = (10, 1_000, 10_000)

POSITIONS = 8_000
"""Positions of a batch along the first two axes."""

CATALOG_POSITIONS = 800
"""Positions of a batch along the axis of catalog sizes, whose largest has a million logits per position."""

LOSSES = ("cross_entropy", "sampled_softmax")


def run(options: Any) -> dict[str, Any]:
    """Measure every point of the three axes, and the recurrent steps; write a plot next to the page."""
    import numpy as np

    from benchmarks.compare_libraries import run_runner

    no_events = np.zeros(1, np.int64), np.zeros(0, np.int32)
    base = {
        "threads": options.threads,
        "seconds": 0.1 if options.quick else 3.0,
        "loss": "cross_entropy",
        "items": 1_000,
    }
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "settings": base, "points": [], "steps": []}
    for axis, values, n_quick in (("length", LENGTHS, 2), ("embedding_dim", WIDTHS, 2), ("items", CATALOG_SIZES, 2)):
        for value in values[:n_quick] if options.quick else values:
            for name, (key, settings) in MODELS.items():
                for loss in LOSSES if axis == "items" else LOSSES[:1]:
                    job = base | {
                        "length": 50 if axis == "items" else 200,
                        "embedding_dim": 64,
                        "loss": loss,
                        axis: value,
                    }
                    batch = max(1, (CATALOG_POSITIONS if axis == "items" else POSITIONS) // job["length"])
                    job |= {"model": key, "settings": settings, "batch": batch}
                    figures = run_runner("scaling", sys.executable, job, no_events)
                    point = {"axis": axis, "value": value, "model": name, "loss": loss}
                    found["points"].append(point | {"batch": batch, **figures})
                    print(axis, value, name, loss, f"{figures['milliseconds']:.0f} ms", file=sys.stderr)
    for name, (key, settings) in RECURRENT.items():
        events = EVENTS[:2] if options.quick else EVENTS
        job = base | {
            "model": key,
            "settings": settings,
            "embedding_dim": 64,
            "events": events,
            "length": 200,
            "batch": 1,
        }
        found["steps"].append({"model": name, **run_runner("scaling", sys.executable, job, no_events)})
    picture = Path(options.out) / "scaling.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(figure(found["points"]), encoding="utf-8")
    return found


def figure(points: list[dict[str, Any]]) -> str:
    """Plot positions per second and peak memory along the three axes, as SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from segue.reports.plots import LIGHT, to_svg

    plot = Figure(figsize=(11.0, 6.2), layout="constrained")
    grid = plot.subplots(2, 3)
    titles = {"length": "length", "embedding_dim": "width", "items": "items (full; dotted: sampled)"}
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
    return to_svg(plot)


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings = found["settings"]
    lines = [
        "# Cost of models against length, width and catalog size",
        "",
        f"{settings['threads']} threads; forward and backward pass of a training step, two blocks or one layer, width "
        f"64, length 200, {settings['items']:,} items, {POSITIONS:,} positions per batch ({CATALOG_POSITIONS} along "
        "the axis of catalog sizes, at length 50), unless the axis says otherwise.",
        "",
        "![positions per second and memory](scaling.svg)",
        "",
        "| axis | value | model | loss | batch | ms | CPU ms | positions/s | peak above imports, MiB |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(point) for point in found["points"]]
    lines += [
        "",
        "| model | state, bytes | events | step, CPU ms | scores, CPU ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {steps['model']} | {step['bytes']:,} | {step['events']:,} | {step['step_ms']:.2f} "
        f"| {step['encode_ms']:.2f} |"
        for steps in found["steps"]
        for step in steps["steps"]
    ]
    lines += [
        "",
        load_line(found),
        *describe_lines(found["machine"]),
        "",
    ]
    return "\n".join(lines)


def _row(point: dict[str, Any]) -> str:
    axis = "width" if point["axis"] == "embedding_dim" else point["axis"]
    figures = [f"{point[name]:,.1f}" for name in ("milliseconds", "cpu_milliseconds")]
    figures += [f"{point[name]:,.0f}" for name in ("positions_per_second", "own_mib")]
    cells = [axis, f"{point['value']:,}", point["model"], point["loss"], f"{point['batch']}", *figures]
    return "| " + " | ".join(cells) + " |"

"""Cost of an ALS iteration as ratings, users and width grow, compared with its arithmetic.

An iteration solves a ridge regression for every user and every item. With D the width plus the bias, each rating adds
an outer product to two of them, D² multiplications and additions each, and solving by Cholesky factorization takes D³ /
3. Ratings are simulated, every point is a fresh process, and the fastest of several iterations counts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.subprocess_runner import run_in_subprocess

__all__ = ["arithmetic", "figure", "page", "run"]

DEFAULTS = {"ratings": 2_000_000, "users": 20_000, "embedding_dim": 64}
"""Values of the axes that are not varied."""

AXES = {
    "ratings": (200_000, 2_000_000, 20_000_000),
    "users": (2_000, 20_000, 200_000),
    "embedding_dim": (16, 32, 64, 128, 256),
}

ITEMS = 10_000

LARGEST = {"ratings": 20_000_000, "users": 138_000, "items": 27_000, "embedding_dim": 64}
"""The size of MovieLens 20M."""

ITERATIONS = 3


def arithmetic(job: dict[str, Any]) -> float:
    """Count the multiplications and additions of an iteration."""
    size = job["embedding_dim"] + 1
    return 2.0 * job["ratings"] * 2 * size**2 + (job["users"] + job["items"]) * size**3 / 3


def run(options: Any) -> dict[str, Any]:
    """Measure every point; write a plot next to the page."""
    base = {
        "threads": options.threads,
        "seed": options.seed,
        "iterations": 1 if options.quick else ITERATIONS,
        "items": ITEMS,
    }
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "settings": base, "points": []}
    jobs = [(axis, DEFAULTS | {axis: value}) for axis, values in AXES.items() for value in values]
    jobs.append(("largest", LARGEST))
    for axis, own in jobs[:1] if options.quick else jobs:
        job = base | own
        figures, _ = run_in_subprocess("ratings_scaling", Path(sys.executable), job, {})
        found["points"].append({"axis": axis, **job, **figures, "operations": arithmetic(job)})
        print(axis, own, f"{figures['iteration_seconds']:.2f} s per iteration", file=sys.stderr)
    picture = Path(options.out) / "ratings_scaling.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(figure(found["points"]), encoding="utf-8")
    return found


def figure(points: list[dict[str, Any]]) -> str:
    """Plot the seconds of an iteration along each axis, and those expected at the rate of the middle point, as SVG."""
    from matplotlib.figure import Figure

    from segue.reports.plots import LIGHT, to_svg

    plot = Figure(figsize=(11.0, 3.4), layout="constrained")
    grid = plot.subplots(1, 3, sharey=True)
    for axes, axis in zip(grid, AXES, strict=True):
        line = [point for point in points if point["axis"] == axis]
        if not line:
            continue
        middle = line[len(line) // 2]
        rate = middle["operations"] / middle["iteration_seconds"]
        values = [point[axis] for point in line]
        axes.plot(
            values, [p["iteration_seconds"] for p in line], "o-", color=LIGHT["c1"], label="measured", markersize=4
        )
        axes.plot(
            values, [p["operations"] / rate for p in line], ":", color=LIGHT["c2"], label="expected from operations"
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("width" if axis == "embedding_dim" else axis, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
    grid[0].set_title("seconds per iteration", fontsize=10, loc="left")
    grid[0].legend(frameon=False, fontsize=8.5)
    return to_svg(plot)


def page(found: dict[str, Any]) -> str:
    """Format the table."""
    settings = found["settings"]
    lines = [
        "# Cost of an ALS iteration against ratings, users and width",
        "",
        f"{settings['threads']} threads, simulated ratings; unless varied along the axis, {DEFAULTS['ratings']:,} "
        f"ratings, {DEFAULTS['users']:,} users, {ITEMS:,} items and width {DEFAULTS['embedding_dim']}. The peak is "
        "that of the whole process, including the training ratings.",
        "",
        "![seconds per iteration](ratings_scaling.svg)",
        "",
        "| axis | ratings | users | items | width | s per iteration | Gflop | Gflop/s | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(point) for point in found["points"]]
    return "\n".join([*lines, "", load_line(found), *describe_lines(found["machine"]), ""])


def _row(point: dict[str, Any]) -> str:
    axis = "width" if point["axis"] == "embedding_dim" else point["axis"]
    sizes = [f"{point[name]:,}" for name in ("ratings", "users", "items", "embedding_dim")]
    seconds, gflop = point["iteration_seconds"], point["operations"] / 1e9
    figures = [f"{seconds:.2f}", f"{gflop:,.1f}", f"{gflop / seconds:.1f}", f"{point['peak_mib']:,.0f}"]
    return "| " + " | ".join([axis, *sizes, *figures]) + " |"

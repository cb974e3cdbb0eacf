"""What a sweep of ALS costs as ratings, users and width grow, against the arithmetic that it must do.

A sweep solves a ridge regression for every user and every item. With D the width and the bias, each rating adds an
outer product to two of them, which is D² multiplications and additions each, and a solution by Cholesky's factorisation
takes D³ / 3. Ratings are simulated, every point is a fresh process, and the fastest of some sweeps counts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import busy, told, undisturbed
from benchmarks.subprocess_runner import fresh

__all__ = ["arithmetic", "figure", "page", "run"]

MIDDLE = {"ratings": 2_000_000, "users": 20_000, "width": 64}
"""Of what is not varied."""

AXES = {
    "ratings": (200_000, 2_000_000, 20_000_000),
    "users": (2_000, 20_000, 200_000),
    "width": (16, 32, 64, 128, 256),
}

ITEMS = 10_000

LARGEST = {"ratings": 20_000_000, "users": 138_000, "items": 27_000, "width": 64}
"""As large as MovieLens 20M."""

SWEEPS = 3


def arithmetic(job: dict[str, Any]) -> float:
    """Multiplications and additions of a sweep."""
    side = job["width"] + 1
    return 2.0 * job["ratings"] * 2 * side**2 + (job["users"] + job["items"]) * side**3 / 3


def run(ask: Any) -> dict[str, Any]:
    """Every point; a plot is left beside the report."""
    base = {"threads": ask.threads, "seed": ask.seed, "sweeps": 1 if ask.quick else SWEEPS, "items": ITEMS}
    found: dict[str, Any] = {"busy_before_percent": busy(), "settings": base, "points": []}
    jobs = [(axis, MIDDLE | {axis: value}) for axis, values in AXES.items() for value in values]
    jobs.append(("largest", LARGEST))
    for axis, own in jobs[:1] if ask.quick else jobs:
        job = base | own
        figures, _ = fresh("ratings_growth", Path(sys.executable), job, {})
        found["points"].append({"axis": axis, **job, **figures, "operations": arithmetic(job)})
        print(axis, own, f"{figures['sweep_seconds']:.2f} s a sweep", file=sys.stderr)
    picture = Path(ask.out) / "ratings_growth.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(figure(found["points"]), encoding="utf-8")
    return found


def figure(points: list[dict[str, Any]]) -> str:
    """Seconds of a sweep along each axis, and what they would be at the rate of the middle, as SVG."""
    from matplotlib.figure import Figure

    from segue.reports.plots import LIGHT, svg

    drawn = Figure(figsize=(11.0, 3.4), layout="constrained")
    grid = drawn.subplots(1, 3, sharey=True)
    for axes, axis in zip(grid, AXES, strict=True):
        line = [point for point in points if point["axis"] == axis]
        if not line:
            continue
        middle = line[len(line) // 2]
        rate = middle["operations"] / middle["sweep_seconds"]
        values = [point[axis] for point in line]
        axes.plot(values, [p["sweep_seconds"] for p in line], "o-", color=LIGHT["c1"], label="measured", markersize=4)
        axes.plot(values, [p["operations"] / rate for p in line], ":", color=LIGHT["c2"], label="by its arithmetic")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(axis, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
    grid[0].set_title("seconds of a sweep", fontsize=10, loc="left")
    grid[0].legend(frameon=False, fontsize=8.5)
    return svg(drawn)


def page(found: dict[str, Any]) -> str:
    """The table, as Markdown."""
    settings = found["settings"]
    lines = [
        "# What a sweep of ALS costs as things grow",
        "",
        f"{settings['threads']} threads, simulated ratings; {MIDDLE['ratings']:,} of them by {MIDDLE['users']:,} users "
        f"of {ITEMS:,} items and width {MIDDLE['width']}, unless the axis says otherwise. The peak is that of the "
        "whole process, with the ratings it learns from.",
        "",
        "![seconds of a sweep](ratings_growth.svg)",
        "",
        "| axis | ratings | users | items | width | s a sweep | Gflop | Gflop/s | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {p['axis']} | {p['ratings']:,} | {p['users']:,} | {p['items']:,} | {p['width']} | {p['sweep_seconds']:.2f} "
        f"| {p['operations'] / 1e9:,.1f} | {p['operations'] / 1e9 / p['sweep_seconds']:.1f} | {p['peak_mib']:,.0f} |"
        for p in found["points"]
    ]
    return "\n".join([*lines, "", undisturbed(found), *told(found["machine"]), ""])

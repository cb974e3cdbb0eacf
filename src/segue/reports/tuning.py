"""Tables of tuning and of the automatic choice of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.reports.quantities import format_duration, metric_label
from segue.reports.tables import Table

__all__ = ["attempts_table", "importance_lines", "trials_table"]

Record = Mapping[str, Any]


def trials_table(name: str, model: Record, metric: str) -> Table:
    """Show the trials of one model; the best one is highlighted.

    The first one has the settings that tuning starts from.

    Args:
        name: name of the model.
        model: its record, with ``trials`` and ``best``.
    """
    keys = list(model["space"])
    rows = []
    for one in model["trials"]:
        values = model["start"] if one["values"] is None else one["values"]
        cells = [_text(values.get(key)) for key in keys]
        state = one["error"] or one["state"]
        rows.append((str(one["number"]), *_interval(one), format_duration(one["seconds"]), state, *cells))
    best = [number for number, one in enumerate(model["trials"]) if one["number"] == model["best"]["number"]]
    columns = ("trial", metric_label(metric), "95 %", "time", "state", *(key.partition(".")[2] for key in keys))
    title = f"{name}: validation {metric_label(metric)} of {len(rows)} trials in {format_duration(model['seconds'])}"
    return Table(title, columns, tuple(rows), 0, frozenset(best))


def importance_lines(name: str, model: Record) -> list[str]:
    """Say how much of the variation between trials each setting explains."""
    found = sorted(model["importances"].items(), key=lambda one: -one[1])
    if not found:
        return []
    listed = ", ".join(f"{key.partition('.')[2]} {share:.0%}" for key, share in found)
    return [f"{name}: share of the variation that each setting explains: {listed}"]


def attempts_table(record: Record) -> Table:
    """Show everything that ``segue auto`` tried, best first."""
    rows, chosen = [], record["best"]
    highlighted: list[int] = []
    for number, one in enumerate(record["attempts"]):
        interval = one["valid"] or (None, None, None)
        found = dict(zip(("mean", "low", "high"), interval, strict=True))
        settings = ", ".join(f"{key}={_text(value)}" for key, value in one["settings"].items())
        kind = "simple baseline" if one["kind"] == "baseline" else "model"
        state = one["note"] or one["state"]
        rows.append((one["model"], kind, *_interval(found), format_duration(one["seconds"]), state, settings))
        highlighted += [number] if one == chosen and not highlighted else []
    columns = ("model", "kind", f"validation {metric_label(record['metric'])}", "95 %", "time", "state", "settings")
    return Table(f"{record['data']}: what was tried", columns, tuple(rows), 2, frozenset(highlighted))


def _interval(one: Record) -> tuple[str, str]:
    if one["mean"] is None:
        return "", ""
    return f"{one['mean']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

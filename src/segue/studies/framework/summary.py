"""Summarize the cells of a study over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from segue.core.types import Codes, HeldOut, Recommendations
from segue.studies.framework.study import Cell

__all__ = [
    "by_model",
    "by_name",
    "describe_overlap",
    "events_for_share",
    "first_targets",
    "is_apart",
    "mean_of",
    "shared_share",
    "spread_of",
]


def by_model(cells: Sequence[Cell], value: str) -> dict[tuple[str, Any], list[Cell]]:
    """Group cells, one per seed, by their model and another key."""
    groups: dict[tuple[str, Any], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["model"], cell[value]), []).append(cell)
    return groups


def by_name(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Group cells, one per seed, by their model."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell["model"], []).append(cell)
    return groups


def events_for_share(weights_L: ArrayLike, share: float) -> int:
    """Return the smallest number of newest events that have a share of the weight.

    Args:
        weights_L: of each event, the newest first.
    """
    total_L = np.cumsum(weights_L)
    return int(np.searchsorted(total_L, share * total_L[-1] * (1 - 1e-9))) + 1


def first_targets(held_out: HeldOut) -> Codes:
    """Return the first true item of each query, ``(N,)``."""
    return held_out.targets.items[held_out.targets.offsets[:-1]]


def mean_of(cells: Sequence[Cell], *path: str) -> float:
    """Return the mean of a measurement over cells; NaN if none has it.

    Args:
        path: the key of the measurement, and those within it.
    """
    found = [value for value in (_read(cell, path) for cell in cells) if value is not None]
    return float(np.mean(found)) if found else float("nan")


def is_apart(one: Sequence[Cell], other: Sequence[Cell], metric: str, interval: str = "interval") -> bool:
    """Return whether two groups of cells clearly differ in a metric.

    They do if the intervals over users, averaged over the seeds, exclude each other, and every seed of one group is
    above every seed of the other.
    """
    (one_low, one_high), (other_low, other_high) = (np.mean([c[interval] for c in cells], 0) for cells in (one, other))
    values, others = ([cell[metric] for cell in cells] for cells in (one, other))
    is_below = one_high < other_low and max(values) < min(others)
    is_above = other_high < one_low and min(values) > max(others)
    return bool(is_below or is_above)


def describe_overlap(one: Sequence[Cell], other: Sequence[Cell], metric: str, interval: str = "interval") -> str:
    """Say, at the end of a sentence, that a difference may be chance.

    The text is empty if the difference is clear.
    """
    return "" if is_apart(one, other, metric, interval) else ", a difference within the intervals or the seeds"


def spread_of(cells: Sequence[Cell], *path: str) -> float | None:
    """Return the standard deviation over the seeds; ``None`` with one seed."""
    found = [value for value in (_read(cell, path) for cell in cells) if value is not None]
    return float(np.std(found, ddof=1)) if len(found) > 1 else None


def _read(cell: Cell, path: Sequence[str]) -> Any:
    value: Any = cell
    for key in path:
        value = value[key]
    return value


def shared_share(one: Recommendations, other: Recommendations) -> float:
    """Return the mean share of the items of a list that the other list has, too."""
    is_item, is_other = (np.arange(top.items.shape[1]) < top.lengths[:, None] for top in (one, other))
    is_equal = one.items[:, :, None] == other.items[:, None, :]
    is_shared_NK = (is_equal & is_item[:, :, None] & is_other[:, None, :]).any(-1)
    return float((is_shared_NK.sum(1) / np.maximum(1, one.lengths)).mean())

"""How far predicted values are from the true ones: ratings, amounts, in the scale of the data.

An error of a whole set, such as the root of the mean square, is no mean over queries: a query with many targets counts
more. Each metric here is still one value per query, whose mean over the queries *is* the metric: the metric itself, and
what the query adds to it or takes from it to first order (the delta method). So intervals and paired tests over queries
hold for errors as they do for ranks, and a user with many ratings is drawn as a whole.

Shapes: N queries, T targets with a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Predictor
from segue.core.recommend import score_blocks
from segue.core.types import Codes, HeldOut, Queries, Scores

__all__ = ["mae", "rmse"]

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Errors:
    """Predicted minus true values."""

    rows: NDArray[np.int64]
    """``(T,)`` the query of each."""
    errors: Values
    """``(T,)``"""
    queries: int

    def __len__(self) -> int:
        return self.queries


def errors(model: Predictor, held_out: HeldOut) -> Errors:
    """What ``model`` predicts for every target that has a value, minus the value.

    Of people who were not there in training it is what their history leads to.

    Raises:
        ValueError: no target has a value, or a prediction that is not finite.
    """
    targets, queries = held_out.targets, held_out.queries
    valued = np.zeros(targets.size, np.bool_) if targets.values is None else np.isfinite(targets.values)
    if targets.values is None or not valued.any():
        raise ValueError(f"ratings: none of {targets.size:,} targets has a value to be predicted")
    rows = targets.rows[valued]
    items, known = targets.items[valued], queries.known[rows]
    told = queries.times is not None and targets.times is not None
    times = targets.times[valued][known] if told and targets.times is not None else None
    found = np.empty(len(rows), np.float32)
    found[known] = model.predict(queries.users[rows[known]], items[known], times)
    if not known.all():
        found[~known] = _of_newcomers(model, queries, rows[~known], items[~known])
    if not np.isfinite(found).all():
        at = int(np.argmin(np.isfinite(found)))
        raise ValueError(
            f"{type(model).__name__}: predicts {found[at]} of item {items[at]} in answer to query {rows[at]}, expected "
            "a number"
        )
    return Errors(rows, found.astype(np.float64) - targets.values[valued], len(held_out))


def _of_newcomers(model: Predictor, queries: Queries, rows_T: NDArray[np.int64], items_T: Codes) -> Scores:
    """What people who were not there in training would give, by their histories; ``rows_T`` ascend."""
    found_T = np.empty(len(rows_T), np.float32)
    start = 0
    for block, scores_RI in score_blocks(model, queries):
        own = slice(*np.searchsorted(rows_T, (start, start + len(block))))
        found_T[own] = scores_RI[rows_T[own] - start, items_T[own]]
        start += len(block)
    return model.in_scale(found_T)


def rmse(found: Errors) -> Values:
    """The root of the mean squared error."""
    total, spread = _about_its_mean(found, np.square(found.errors))
    root = np.sqrt(total)
    values: Values = root + spread / (2.0 * root if root > 0 else 1.0)
    return values


def mae(found: Errors) -> Values:
    """The mean absolute error."""
    total, spread = _about_its_mean(found, np.abs(found.errors))
    return total + spread


def _about_its_mean(found: Errors, losses_T: Values) -> tuple[float, Values]:
    """The mean loss of all targets, and for each query what it moves that mean by, times the number of queries.

    NaN where a query has no target with a value.
    """
    counts = np.bincount(found.rows, minlength=found.queries)
    asked = counts > 0
    mean = float(losses_T.mean())
    moved = np.full(found.queries, np.nan)
    sums = np.bincount(found.rows, losses_T, minlength=found.queries)[asked]
    moved[asked] = (sums - mean * counts[asked]) / counts[asked].mean()
    return mean, moved

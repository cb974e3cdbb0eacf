"""Likeness of one row of the log to all others, by any measure over any of the tables that a log gives.

Shapes: U users, I items, R rows that are compared, C columns, T events.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from segue.core.config import suggest
from segue.core.ratings import valued
from segue.core.types import Dataset, Scores
from segue.similarity.nearest import likeness
from segue.similarity.rating_baseline import mean_values
from segue.similarity.similarity_registry import DISTRIBUTIONS, MEASURES, OF_VALUES, SEQUENCES
from segue.similarity.sparse_rows import Table
from segue.similarity.value_histograms import level_table, levels_of

__all__ = ["OVER", "measured"]

OVER = ("events", "values", "levels", "genres")
"""What a measure can be taken over."""

SHRINK = 10.0
"""As the models of neighbours have it."""


def measured(
    log: Dataset,
    of: Literal["items", "users"],
    code: int,
    measure: str,
    over: str | None = None,
    shrink: float | None = None,
) -> Scores:
    """``(R,)`` the likeness of every item or user to the one called ``code``; 0 where there is nothing in common.

    Args:
        over: ``events``: who had what; ``values``: ratings; ``levels``: how often each value was given; ``genres``: of
            the item, or of the user's history. None: what the measure is made for.
        shrink: draws likeness that rests on few events towards 0; 0: the bare measure. None: ``SHRINK``, and 0 over
            genres, which are no events.

    Raises:
        ValueError: the log has no such thing, or it tells the measure nothing.
    """
    over = _checked(log, of, measure, over)
    table = _table(log, of, measure, over)
    asked = table.take(np.array([code]))
    if shrink is None:
        shrink = 0.0 if over == "genres" else SHRINK
    like_R: Scores = likeness(asked, table, MEASURES[measure], shrink)[0]
    return like_R


def _checked(log: Dataset, of: str, measure: str, over: str | None) -> str:
    if over is not None and over not in OVER:
        raise ValueError(f"over: unknown '{over}'{suggest(over, OVER)}")
    if measure in SEQUENCES and (of == "items" or over not in (None, "events")):
        what = "items, which have no history" if of == "items" else f"{over}, which have no order"
        raise ValueError(f"measure: '{measure}' compares histories, not {what}; users can be compared by it")
    if measure in OF_VALUES and over == "events":
        raise ValueError(f"measure: '{measure}' compares values, and events are all alike; expected over='values'")
    if over is not None:
        return over
    if measure in OF_VALUES:
        return "values"
    return "levels" if measure in DISTRIBUTIONS and valued(log.histories).size else "events"


def _table(log: Dataset, of: str, measure: str, over: str) -> Table:
    events, n_items = log.histories, log.n_items
    if over == "genres":
        return Table.of(_genres(log, of))
    if over in ("values", "levels"):
        known = valued(events)
        if known.size == 0:
            raise ValueError(f"over: {log.name} has no values, such as ratings; expected over='events'")
        rows = mean_values(known, n_items)
        rows = rows if of == "users" else csr_array(rows.T)
        return Table.of(rows) if over == "values" else level_table(rows, levels_of(rows.data, measure))
    rows = events.csr(n_items)
    return Table.of(rows if of == "users" else csr_array(rows.T), histories=events if of == "users" else None)


def _genres(log: Dataset, of: str) -> csr_array[Any]:
    """``(R, C)`` the genres of items, or how many events of users have each."""
    features = log.item_features
    if features is None or "genres" not in features.collect_schema().names():
        raise ValueError(f"over: the items of {log.name} have no genres")
    genres = features.select(pl.col("genres").cast(pl.List(pl.String))).with_row_index("row").collect()
    pairs = genres.explode("genres").drop_nulls().with_columns(pl.col("genres").rank("dense").alias("code") - 1)
    if pairs.is_empty():
        raise ValueError(f"over: no item of {log.name} has a genre")
    items, codes = pairs["row"].to_numpy(), pairs["code"].to_numpy()
    shape = log.n_items, int(codes.max()) + 1
    items_IC = csr_array((np.ones(len(pairs), np.float32), (items, codes)), shape=shape)
    if of == "items":
        return items_IC
    events = log.histories.csr(log.n_items, np.ones(log.histories.size, np.float32))
    return csr_array(events @ items_IC)

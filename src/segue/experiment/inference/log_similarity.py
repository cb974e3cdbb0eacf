"""Compare one item or user of a log with all others by a similarity measure.

Shapes: U users, I items, R rows that are compared, C columns, T events.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from segue.core.config import suggest
from segue.core.messages import arg
from segue.core.ratings import rated_events
from segue.core.types import Dataset, Scores
from segue.similarity.nearest import similarity_matrix
from segue.similarity.rating_baseline import mean_values
from segue.similarity.similarity_registry import DISTRIBUTION_MEASURES, MEASURES, SEQUENCE_MEASURES, VALUE_MEASURES
from segue.similarity.sparse_rows import SparseRows
from segue.similarity.value_histograms import distinct_values, value_histograms

__all__ = ["OVER", "log_similarity"]

OVER = ("events", "values", "levels", "genres")
"""What a measure can compare."""

SHRINK = 10.0
"""Default of the neighbor models."""


def log_similarity(
    log: Dataset,
    of: Literal["items", "users"],
    code: int,
    measure: str,
    over: str | None = None,
    shrink: float | None = None,
) -> Scores:
    """Compute the similarity ``(R,)`` of every item or user to ``code``.

    The similarity is 0 if they have nothing in common.

    Args:
        over: ``events`` (which users and items interacted), ``values`` (ratings), ``levels`` (how often each value
            occurs) or ``genres`` (of the item, or of the user's history); ``None``: what the measure is defined for.
        shrink: shrinks similarity that is based on few events towards 0; 0: the plain measure; ``None``: ``SHRINK``,
            and 0 for genres.

    Raises:
        ValueError: the log lacks what is compared, or the measure does not apply to it.
    """
    over = _checked(log, of, measure, over)
    table = _table(log, of, measure, over)
    query = table.take(np.array([code]))
    if shrink is None:
        shrink = 0.0 if over == "genres" else SHRINK
    similarity_R: Scores = similarity_matrix(query, table, MEASURES[measure], shrink)[0]
    return similarity_R


def _checked(log: Dataset, of: str, measure: str, over: str | None) -> str:
    if over is not None and over not in OVER:
        raise ValueError(f"{arg('over')}: unknown '{over}'{suggest(over, OVER)}")
    if measure in SEQUENCE_MEASURES and (of == "items" or over not in (None, "events")):
        what = "items, which have no history" if of == "items" else f"{over}, which have no order"
        raise ValueError(f"{arg('measure')}: '{measure}' compares histories, not {what}; use it for users")
    if measure in VALUE_MEASURES and over == "events":
        raise ValueError(
            f"{arg('measure')}: '{measure}' compares values, which events do not have; use {arg('over', 'values')}"
        )
    if over is not None:
        return over
    if measure in VALUE_MEASURES:
        return "values"
    return "levels" if measure in DISTRIBUTION_MEASURES and rated_events(log.histories).size else "events"


def _table(log: Dataset, of: str, measure: str, over: str) -> SparseRows:
    events, n_items = log.histories, log.n_items
    if over == "genres":
        return SparseRows.from_csr(_genres(log, of))
    if over in ("values", "levels"):
        known = rated_events(events)
        if known.size == 0:
            raise ValueError(f"{arg('over')}: {log.name} has no values, such as ratings; use {arg('over', 'events')}")
        rows = mean_values(known, n_items)
        rows = rows if of == "users" else csr_array(rows.T)
        return (
            SparseRows.from_csr(rows)
            if over == "values"
            else value_histograms(rows, distinct_values(rows.data, measure))
        )
    rows = events.csr(n_items)
    return SparseRows.from_csr(
        rows if of == "users" else csr_array(rows.T), histories=events if of == "users" else None
    )


def _genres(log: Dataset, of: str) -> csr_array[Any]:
    """Return the genres of items ``(I, C)`` or users ``(U, C)``.

    For users, a cell counts the events of the user with the genre.
    """
    features = log.item_features
    if features is None or "genres" not in features.collect_schema().names():
        raise ValueError(f"{arg('over')}: the items of {log.name} have no genres")
    genres = features.select(pl.col("genres").cast(pl.List(pl.String))).with_row_index("row").collect()
    pairs = genres.explode("genres").drop_nulls().with_columns(pl.col("genres").rank("dense").alias("code") - 1)
    if pairs.is_empty():
        raise ValueError(f"{arg('over')}: no item of {log.name} has a genre")
    items, codes = pairs["row"].to_numpy(), pairs["code"].to_numpy()
    shape = log.n_items, int(codes.max()) + 1
    items_IC = csr_array((np.ones(len(pairs), np.float32), (items, codes)), shape=shape)
    if of == "items":
        return items_IC
    events = log.histories.csr(log.n_items, np.ones(log.histories.size, np.float32))
    return csr_array(events @ items_IC)

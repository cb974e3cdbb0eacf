"""Index events with values by user and by item, as training data of rating models.

Shapes: T valued events, U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.types import Codes, Dataset, Events, Scores

__all__ = ["Ratings", "collect_ratings", "group_by_code", "rated_events", "shrunken_means"]


@dataclass(frozen=True, eq=False)
class Ratings:
    """The events of a log that have a value."""

    users: Codes
    """``(T,)`` user codes, ascending."""
    items: Codes
    """``(T,)``"""
    values: Scores
    """``(T,)``"""
    offsets: NDArray[np.int64]
    """``(U + 1,)``; the events of user u are ``offsets[u]:offsets[u + 1]``."""
    order: NDArray[np.int64]
    """``(T,)`` indices of the events, sorted by item."""
    item_offsets: NDArray[np.int64]
    """``(I + 1,)``; the events of item i are ``order[item_offsets[i]:item_offsets[i + 1]]``."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """``(U,)`` number of events of each user."""
        return np.diff(self.offsets)

    @property
    def item_counts(self) -> NDArray[np.int64]:
        """``(I,)`` number of events of each item."""
        return np.diff(self.item_offsets)


def collect_ratings(train: Dataset, model: str) -> Ratings:
    """Collect the events of ``train`` that have a value.

    Raises:
        ValueError: no event has a value; the message names ``model``.
    """
    events = rated_events(train.histories)
    if events.size == 0:
        raise ValueError(
            f"{model} needs values, such as ratings, and {train.name} has none; use a model of implicit feedback, "
            "such as ials"
        )
    assert events.values is not None
    order, item_offsets = group_by_code(events.items, train.n_items)
    return Ratings(events.rows.astype(np.int32), events.items, events.values, events.offsets, order, item_offsets)


def rated_events(events: Events) -> Events:
    """Return the events whose value is known.

    The result always has a column of values.
    """
    if events.values is None:
        return replace(events.where(np.zeros(events.size, np.bool_)), values=np.zeros(0, np.float32))
    known = np.isfinite(events.values)
    return events if known.all() else events.where(known)


def group_by_code(codes: Codes, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group positions by code.

    Returns the positions sorted by code (stable), and the start of each of ``count`` codes.
    """
    # converting a sparse matrix is a counting sort, five times as fast as sorting
    positions = np.arange(len(codes) + 1)
    matrix = csr_array((positions[:-1], codes, positions), shape=(len(codes), count)).tocsc()
    return matrix.data.astype(np.int64), matrix.indptr.astype(np.int64)


def shrunken_means(
    codes: NDArray[np.integer[Any]], values: NDArray[np.float64], count: int, l2: float
) -> NDArray[np.float64]:
    """Compute the mean of the values of each code, shrunk towards 0, ``(count,)``.

    The shrinkage is equivalent to ``l2`` additional values of 0. A code without values has mean 0. Regularized biases
    are such means of residuals.
    """
    counts = np.bincount(codes, minlength=count) + l2
    sums = np.bincount(codes, values, minlength=count)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.zeros(count), where=counts > 0)
    return means

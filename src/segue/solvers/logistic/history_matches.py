"""Match the features of an item with those of the items in the user's history.

The profile of a history is the sum of its items' features, each times the weight of its event, divided by the number of
its events plus a constant; that shrinks the profiles of short histories. The match of an item in a column is the
product of the item's value and the profile's: such cross products of history and item are the wide part of Cheng et al.
2016, arXiv:1606.07792. The rate of a history is the sum of its weights, divided likewise.

Shapes: T events, U rows of events, I items, C feature columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from segue.core.types import Events

__all__ = ["count_before", "match_earlier_events", "profiles"]


def profiles(
    events: Events, weights_T: NDArray[np.float32], features_IC: csr_array[Any], shrinkage: float
) -> tuple[csr_array[Any], NDArray[np.float64]]:
    """Return the profiles ``(U, C)`` and the rates ``(U,)`` of whole histories.

    Events of weight 0 do not count.
    """
    counts_U = np.bincount(events.rows, weights_T != 0, minlength=len(events)) + shrinkage
    sums_UC = events.csr(features_IC.shape[0], weights_T).astype(np.float64) @ features_IC
    rates_U = np.bincount(events.rows, weights_T, minlength=len(events)) / counts_U
    return csr_array(sums_UC.multiply(1.0 / counts_U[:, None])), rates_U


def count_before(events: Events, weights_T: NDArray[Any]) -> NDArray[np.float64]:
    """Sum the weights of the earlier events of the same row, ``(T,)``."""
    before_T = np.cumsum(weights_T, dtype=np.float64) - weights_T
    starts = events.offsets[:-1][events.rows]
    sums: NDArray[np.float64] = before_T - before_T[starts]
    return sums


def match_earlier_events(
    events: Events, weights_T: NDArray[np.float32], features_IC: csr_array[Any], shrinkage: float
) -> tuple[csr_array[Any], NDArray[np.float64]]:
    """Match each event's item with the profile of the events before it in the row.

    Returns:
        matches ``(T, C)``, and the rates of these histories ``(T,)``.
    """
    counts_T = count_before(events, weights_T != 0) + shrinkage
    rates_T = count_before(events, weights_T) / counts_T
    own_TC = csc_array(features_IC[events.items].astype(np.float64))
    own_TC.sort_indices()
    rows = own_TC.indices  # ascending in each column, so that the entries of a user are adjacent and in order
    columns = np.repeat(np.arange(own_TC.shape[1]), np.diff(own_TC.indptr))
    terms = weights_T[rows] * own_TC.data
    before = np.cumsum(terms) - terms
    users = events.rows[rows]
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = (users[1:] != users[:-1]) | (columns[1:] != columns[:-1])
    starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    values = own_TC.data * (before - before[starts]) / counts_T[rows]
    matches_TC = csc_array((values, rows, own_TC.indptr), shape=own_TC.shape)
    return csr_array(matches_TC), rates_T

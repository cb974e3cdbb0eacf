"""Calibration of the categories in a list to those in the user's history.

Steck 2018, "Calibrated recommendations", doi:10.1145/3240323.3240372.

Shapes: N queries, I items, C categories, R queries of one block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Events, Mask
from segue.evaluation.beyond_accuracy.lists import Lists, Values

__all__ = ["miscalibration"]

ALPHA = 0.01
"""Weight of the history in the smoothed shares of the list."""

BLOCK_CELLS = 4_000_000
"""Numbers of shares computed at once."""


def miscalibration(lists: Lists, feature: str) -> Values:
    """Compute the miscalibration: the divergence of the list from the history.

    It is the Kullback-Leibler divergence of the shares of the categories: the sum over categories g of p(g) log(p(g) /
    q(g)), in nats: 0 where the shares of the categories agree. p are the shares in the history, and q 0.99 times those
    in the list plus 0.01 p, so that it stays finite. An item with several tags counts for each in equal parts; items
    without a known value are left out. NaN where the history or the list has no item with a known value. Lower values
    are better. Steck 2018, with equal weights of all events and positions.

    Args:
        feature: name of an item feature with categories or tags, such as ``genres``.

    Raises:
        ValueError: no such feature, or one of vectors.
    """
    shares_IC, known_I = lists.training.feature(feature).shares, lists.training.feature(feature).known
    offsets = np.concatenate([[0], np.cumsum(lists.lengths)])
    recommended = Events(offsets, lists.items[lists.is_used])
    history = lists.held_out.queries.history
    values = np.empty(len(lists))
    step = max(1, BLOCK_CELLS // max(1, shares_IC.shape[1]))
    for start in range(0, len(lists), step):
        stop = min(start + step, len(lists))
        p_RC = _category_shares(history.rows_between(start, stop), shares_IC, known_I)
        q_RC = _category_shares(recommended.rows_between(start, stop), shares_IC, known_I)
        q_RC = (1.0 - ALPHA) * q_RC + ALPHA * p_RC
        has_share = p_RC > 0
        ratio_RC = np.divide(p_RC, q_RC, out=np.ones_like(p_RC), where=has_share)
        divergence = (p_RC * np.log(ratio_RC)).sum(axis=1)
        values[start:stop] = np.where(np.isnan(divergence), np.nan, np.maximum(divergence, 0.0))
    return values


def _category_shares(events: Events, shares_IC: Any, known_I: Mask) -> NDArray[np.float64]:
    """Return the shares of the categories in each row of events, ``(R, C)``.

    NaN in a row without known items.
    """
    from scipy.sparse import csr_array

    known = events.where(known_I[events.items])
    cells = (np.ones(known.size), known.items, known.offsets)
    sums_RC = (csr_array(cells, shape=(len(known), len(known_I))) @ shares_IC).toarray()
    n_known = known.lengths[:, None]
    return np.asarray(np.where(n_known > 0, sums_RC / np.maximum(n_known, 1), np.nan), np.float64)

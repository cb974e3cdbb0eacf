"""Cosines of items as sets of training users, for the items of lists.

Time is that of the product of the table of users and items with itself; memory is that of one number per item.

Shapes: N queries, k positions, E recommended items of all lists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel, parallel_rows
from segue.core.types import Codes
from segue.evaluation.beyond_accuracy.lists import Lists, Values

__all__ = ["sum_cosines"]


def sum_cosines(lists: Lists, offsets: NDArray[np.int64], others: Codes) -> Values:
    """Sum the cosines of each recommended item and other items, ``(N, k)``.

    Recommended items are visited by code, so that the users of an item are read once.

    Args:
        offsets: ``(N + 1,)``; the other items of query n are ``others[offsets[n]:offsets[n + 1]]``.
    """
    training = lists.training
    rows, positions = np.nonzero(lists.is_used)
    items_E = lists.items[rows, positions]
    order = np.argsort(items_E, kind="stable")
    distinct, first = np.unique(items_E[order], return_index=True)
    entry_offsets = np.append(first, len(order)).astype(np.int64)
    seen_UI = training.seen
    seen_IU = seen_UI.T.tocsr()
    lengths = np.sqrt(training.item_users)
    inverse_lengths = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    sums_E = np.zeros(len(order))
    arguments = (
        distinct.astype(np.int64), entry_offsets, rows[order].astype(np.int64),
        np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(others),
        seen_IU.indptr.astype(np.int64), np.ascontiguousarray(seen_IU.indices),
        seen_UI.indptr.astype(np.int64), np.ascontiguousarray(seen_UI.indices), inverse_lengths, sums_E,
    )  # fmt: skip
    parallel_rows(lambda start, stop: _sum_cosines_kernel(start, stop, *arguments), entry_offsets)
    cosines_Nk = np.zeros(lists.items.shape)
    cosines_Nk[rows[order], positions[order]] = sums_E
    return cosines_Nk


@kernel
def _sum_cosines_kernel(
    start: int,
    stop: int,
    items: NDArray[np.int64],
    entry_offsets: NDArray[np.int64],
    entry_rows: NDArray[np.int64],
    other_offsets: NDArray[np.int64],
    others: NDArray[np.integer[Any]],
    user_offsets: NDArray[np.int64],
    users: NDArray[np.integer[Any]],
    item_offsets: NDArray[np.int64],
    user_items: NDArray[np.integer[Any]],
    inverse_lengths: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Process the distinct recommended items ``start:stop``; see :func:`sum_cosines`."""
    n_common = np.zeros(len(inverse_lengths))
    for at in range(start, stop):
        item, n_visited = items[at], 0
        for u in range(user_offsets[item], user_offsets[item + 1]):
            user = users[u]
            n_visited += item_offsets[user + 1] - item_offsets[user]
            for other in user_items[item_offsets[user] : item_offsets[user + 1]]:
                n_common[other] += 1.0
        for entry in range(entry_offsets[at], entry_offsets[at + 1]):
            row = entry_rows[entry]
            total = 0.0
            for other in others[other_offsets[row] : other_offsets[row + 1]]:
                total += n_common[other] * inverse_lengths[other]
            sums[entry] = total * inverse_lengths[item]
        if n_visited > len(n_common):
            n_common[:] = 0.0
        else:
            for u in range(user_offsets[item], user_offsets[item + 1]):
                for other in user_items[item_offsets[users[u]] : item_offsets[users[u] + 1]]:
                    n_common[other] = 0.0

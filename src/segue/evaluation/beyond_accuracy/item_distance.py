"""Distances between items, by a feature or by the training users they share.

Every distance is 1 minus a cosine. For categories and tags it is that of the sets (0 for the same tags, 1 for none in
common); for vectors, such as encoded texts, that of the vectors; for co-occurrence, that of the sets of training users.

Shapes: N queries, k positions, I items, C categories or components, E recommended items of all lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Codes
from segue.evaluation.beyond_accuracy.lists import Lists, Values
from segue.evaluation.beyond_accuracy.training_data import ItemFeature, TrainingData

__all__ = ["ItemDistance", "item_distance"]

BLOCK_CELLS = 4_000_000
"""Numbers of vectors gathered at once."""


class ItemDistance(Protocol):
    """Mean distances within lists, and between lists and histories."""

    def within(self, lists: Lists) -> Values:
        """Return the mean distance of two items of each list, ``(N,)``.

        NaN with fewer than two known items.
        """
        ...

    def to_history(self, lists: Lists) -> Values:
        """Return the mean distance of each item to those of the history, ``(N, k)``.

        NaN where it is not known.
        """
        ...


def item_distance(training: TrainingData, feature: str | None) -> ItemDistance:
    """Return the distance by an item feature; ``None``: by co-occurrence in training.

    Raises:
        ValueError: no such feature.
    """
    return _CoOccurrenceDistance() if feature is None else _FeatureDistance(training.feature(feature))


@dataclass(frozen=True, eq=False)
class _FeatureDistance:
    """Distance by categories, tags or vectors.

    Cosines are products of unit vectors, so that a mean over pairs is a product of sums.
    """

    feature: ItemFeature

    def within(self, lists: Lists) -> Values:
        known_Nk = lists.is_used & self.feature.known[lists.items]
        n_known = np.count_nonzero(known_Nk, axis=1)
        squared = np.zeros(len(lists))
        for rows in self._blocks(lists):
            sums = _incidence(lists.items[rows], known_Nk[rows], lists.training.n_items) @ self.feature.unit_rows
            squared[rows] = _row_products(sums, sums)
        pairs = n_known * (n_known - 1)
        mean_cosine = (squared - n_known) / np.maximum(pairs, 1)
        return np.where(pairs > 0, np.maximum(1.0 - mean_cosine, 0.0), np.nan)

    def to_history(self, lists: Lists) -> Values:
        known_I = self.feature.known
        unit_rows: Any = self.feature.unit_rows
        history = lists.held_out.queries.history
        distances = np.full(lists.items.shape, np.nan)
        for rows in self._blocks(lists):
            seen = history.rows_between(rows.start, rows.stop)
            seen = seen.where(known_I[seen.items])
            seen_NI = seen.csr(lists.training.n_items).astype(np.float64)
            n_seen = np.diff(seen_NI.indptr)
            sums = seen_NI @ unit_rows
            block, positions = np.nonzero(lists.is_used[rows] & known_I[lists.items[rows]] & (n_seen > 0)[:, None])
            cosines_E = _row_products(unit_rows[lists.items[rows][block, positions]], sums[block]) / n_seen[block]
            distances[rows][block, positions] = np.maximum(1.0 - cosines_E, 0.0)
        return distances

    def _blocks(self, lists: Lists) -> list[slice]:
        """Return ranges of queries whose vectors fit into a block."""
        width = self.feature.unit_rows.shape[1] if isinstance(self.feature.unit_rows, np.ndarray) else 32
        step = max(1, BLOCK_CELLS // (width * max(1, lists.items.shape[1])))
        return [slice(start, min(start + step, len(lists))) for start in range(0, len(lists), step)]


@dataclass(frozen=True)
class _CoOccurrenceDistance:
    """Distance by the training users that two items share.

    An item without training users has the distance 1 to all others.
    """

    def within(self, lists: Lists) -> Values:
        from segue.evaluation.beyond_accuracy.co_occurrence import sum_cosines  # compiles: only where it is used

        offsets = np.concatenate([[0], np.cumsum(lists.lengths)])
        cosines_Nk = sum_cosines(lists, offsets, lists.items[lists.is_used])
        pairs = lists.lengths * (lists.lengths - 1)
        has_users_Nk = lists.is_used & (lists.training.item_users[lists.items] > 0)
        total = cosines_Nk.sum(axis=1) - np.count_nonzero(has_users_Nk, axis=1)  # without each item and itself
        return np.where(pairs > 0, np.maximum(1.0 - total / np.maximum(pairs, 1), 0.0), np.nan)

    def to_history(self, lists: Lists) -> Values:
        from segue.evaluation.beyond_accuracy.co_occurrence import sum_cosines

        seen_NI = lists.held_out.queries.history.csr(lists.training.n_items)
        n_seen = np.diff(seen_NI.indptr)
        cosines_Nk = sum_cosines(lists, seen_NI.indptr.astype(np.int64), seen_NI.indices)
        mean_Nk = cosines_Nk / np.maximum(n_seen, 1)[:, None]
        return np.where(lists.is_used & (n_seen > 0)[:, None], np.maximum(1.0 - mean_Nk, 0.0), np.nan)


def _incidence(items: Codes, is_used: NDArray[np.bool_], n_items: int) -> Any:
    """Return a sparse matrix of queries and items, 1 where the list has the item."""
    from scipy.sparse import csr_array

    offsets = np.concatenate([[0], np.cumsum(np.count_nonzero(is_used, axis=1))])
    chosen = items[is_used]
    return csr_array((np.ones(len(chosen)), chosen, offsets), shape=(len(items), n_items))


def _row_products(first: Any, second: Any) -> Values:
    """Return the inner product of each row of two matrices, both dense or both sparse."""
    if isinstance(first, np.ndarray):
        return np.asarray(np.einsum("nd,nd->n", first, second), np.float64)
    return np.asarray(first.multiply(second).sum(axis=1), np.float64).ravel()

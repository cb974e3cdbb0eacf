"""Choose the candidates of queries, and describe each by numbers.

The numbers depend on both the query and the item.

``retrieval``: the score of the retriever, standardized over the candidates of the query; the logarithm of the rank; and
the logarithm of the number of training events of the item, standardized.

``repeats``, where items of the history are candidates: three sums over the events of the whole history with the
candidate, as a logarithm, and the logarithm of the rank of the candidate by each sum, where popularity decides between
equal ones. The sums are the number of events; their weights, the logarithm of one plus a positive value; and the shares
of the query's known context that they have. The latter two are 0 without values or context. The last number is the
share of the history that the events are.

Shapes: N queries, I items, C candidates of a query, T pairs of a query and a candidate, E events, K numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.recommend import exclude
from segue.core.types import Codes, Feature, Mask, Queries, Scores

__all__ = ["REPEATS", "RETRIEVAL", "CandidatePairs", "choose_candidates", "number_names"]

RETRIEVAL = ("retrieval.score", "retrieval.rank", "retrieval.popularity")
SUMS = ("count", "value", "context")
REPEATS = (*(f"repeats.{name}" for name in SUMS), *(f"repeats.{name}_rank" for name in SUMS), "repeats.share")


def number_names(inputs: Collection[str], retrieve_seen: bool) -> tuple[str, ...]:
    """Return the names of the numbers, those of the retrieval first."""
    return (RETRIEVAL if "retrieval" in inputs else ()) + (REPEATS if "repeats" in inputs and retrieve_seen else ())


def choose_candidates(scores_NI: Scores, queries: Queries, count: int, retrieve_seen: bool) -> tuple[Codes, Mask]:
    """Return candidates, ``(N, C)``, and which of them are valid.

    The best ones are first.

    Args:
        retrieve_seen: take the items of the history before others; if not, none of them.
    """
    count = min(count, scores_NI.shape[1])
    chosen_NI = scores_NI.copy()
    rows, items = queries.history.rows, queries.history.items
    if retrieve_seen:
        chosen_NI[rows, items] += np.ptp(scores_NI, axis=1)[rows] + 1
    else:
        exclude(chosen_NI, queries.history)
    top_NC = np.argpartition(-chosen_NI, count - 1, axis=1)[:, :count]
    found_NC = np.take_along_axis(scores_NI if retrieve_seen else chosen_NI, top_NC, axis=1)
    order_NC = np.lexsort((top_NC, -found_NC))
    candidates_NC = np.take_along_axis(top_NC, order_NC, axis=1).astype(np.int32)
    return candidates_NC, np.isfinite(np.take_along_axis(found_NC, order_NC, axis=1))


@dataclass(frozen=True, eq=False)
class CandidatePairs:
    """Pairs of a query and one of its candidates."""

    queries: Queries
    scores: Scores
    """``(N, I)`` of the retriever."""
    candidates: Codes
    """``(N, C)``, the best one first."""
    rows: NDArray[np.int64]
    """``(T,)`` query of each pair, in ascending order."""
    columns: NDArray[np.int64]
    """``(T,)`` index of each pair among the candidates of its query."""

    @cached_property
    def items(self) -> Codes:
        """``(T,)`` candidate of each pair."""
        items_T: Codes = self.candidates[self.rows, self.columns]
        return items_T

    def numbers(
        self, names: Collection[str], popularity_I: Scores, num_candidates: int, context: Sequence[Feature]
    ) -> Scores | None:
        """Return the numbers of the pairs, ``(T, K)``.

        Args:
            names: see :func:`number_names`; ``None`` is returned if there are none.
            popularity_I: the logarithm of the number of training events, standardized.
            num_candidates: maximum number of candidates of a query.
            context: columns of the context that the ranker reads; those of numbers do not count.
        """
        parts = []
        if RETRIEVAL[0] in names:
            parts.append(self._retrieval(popularity_I, num_candidates))
        if REPEATS[0] in names:
            parts.append(self._repeats(popularity_I, num_candidates, context))
        return np.concatenate(parts, axis=1) if parts else None

    def _retrieval(self, popularity_I: Scores, num_candidates: int) -> Scores:
        found_NC = np.take_along_axis(self.scores, self.candidates, axis=1)
        deviation_N1 = found_NC.std(1, keepdims=True)
        scaled_NC = (found_NC - found_NC.mean(1, keepdims=True)) / np.where(deviation_N1 > 0, deviation_N1, 1.0)
        numbers_TK = np.empty((len(self.rows), len(RETRIEVAL)), np.float32)
        numbers_TK[:, 0] = scaled_NC[self.rows, self.columns]
        numbers_TK[:, 1] = _scale_ranks(self.columns, num_candidates)
        numbers_TK[:, 2] = popularity_I[self.items]
        return numbers_TK

    def _repeats(self, popularity_I: Scores, num_candidates: int, context: Sequence[Feature]) -> Scores:
        history, n_items = self.queries.history, self.scores.shape[1]
        groups, group_E = np.unique(history.rows * n_items + history.items, return_inverse=True)
        keys_T = self.rows * n_items + self.items
        own = np.flatnonzero(np.isin(keys_T, groups))
        own_groups = np.searchsorted(groups, keys_T[own])

        def sum_events(weights_E: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
            """Return the sum over the events of the history with the candidate, ``(T,)``."""
            sums_T = np.zeros(len(keys_T))
            sums_T[own] = np.bincount(group_E, weights_E)[own_groups]
            return sums_T

        weights_E = np.zeros(history.size)
        if history.values is not None:
            weights_E = np.log1p(np.maximum(np.nan_to_num(history.values.astype(np.float64)), 0.0))
        sums = [sum_events(one) for one in (np.ones(history.size), weights_E, _shared_context(self.queries, context))]
        ranks = [self._ranks(sums_T, popularity_I[self.items]) for sums_T in sums]
        shares_T = sums[0] / np.maximum(history.lengths, 1)[self.rows]
        columns = [*map(np.log1p, sums), *(_scale_ranks(one, num_candidates) for one in ranks), shares_T]
        numbers_TK: Scores = np.stack(columns, axis=1).astype(np.float32)
        return numbers_TK

    def _ranks(self, sums_T: NDArray[np.float64], popularity_T: Scores) -> NDArray[np.int64]:
        """Return the rank of each pair among those of its query, from 0.

        By a sum, and then by popularity.
        """
        order = np.lexsort((-popularity_T, -sums_T, self.rows))
        ranks_T = np.empty(len(order), np.int64)
        ranks_T[order] = np.arange(len(order))
        return ranks_T - np.searchsorted(self.rows, self.rows)


def _scale_ranks(ranks_T: NDArray[np.int64], num_candidates: int) -> NDArray[np.float64]:
    """Return the logarithms of ranks from 0, scaled to -1 to 1."""
    scaled_T: NDArray[np.float64] = np.log1p(ranks_T) / np.log1p(num_candidates) * 2 - 1
    return scaled_T


def _shared_context(queries: Queries, context: Sequence[Feature]) -> NDArray[np.float64]:
    """Return the share of the query's known context that each event has, ``(E,)``.

    0 where none is known.
    """
    history = queries.history
    n_known_N, n_shared_E = np.zeros(len(queries)), np.zeros(history.size)
    for one in context:
        if one.kind == "category" and one.name in queries.context and one.name in history.context:
            codes_N = queries.context[one.name]
            codes_E = codes_N[history.rows]
            n_known_N += codes_N >= 0
            n_shared_E += (codes_E >= 0) & (history.context[one.name] == codes_E)
    shares_E: NDArray[np.float64] = n_shared_E / np.maximum(n_known_N, 1)[history.rows]
    return shares_E

"""Predict values from nearest neighbors.

A prediction is a baseline plus the weighted deviations of the neighbors.

Koren 2010, doi:10.1145/1644873.1644874, eq. 3; with means as the baseline: Herlocker et al. 1999,
doi:10.1145/312624.312682.

    r = baseline_ui + unit sum_v similarity(u, v) deviation_vi / sum_v similarity(u, v)

over the ``k`` users most similar to u among those who rated item i; or, with the roles exchanged, the items most
similar to i among those that user u rated. Only similarities above 0 are used. They are computed on demand; only the
ratings and the baseline are stored.

Shapes: U users, I items, N query users, R compared rows, T pairs, B rows of a block, D distinct items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array, load_csr
from segue.core.numba_kernels import parallel_rows
from segue.core.ratings import collect_ratings, rated_events
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.similarity import weighted_mean_kernels
from segue.similarity.nearest import csr_arrays, similarity_matrix
from segue.similarity.rating_baseline import RatingBaseline, mean_values
from segue.similarity.settings import NeighborSettings
from segue.similarity.similarity_registry import DISTRIBUTION_MEASURES, MEASURES
from segue.similarity.sparse_rows import SparseRows
from segue.similarity.value_histograms import distinct_values, transpose, value_histograms

__all__ = ["NeighborRatingPredictor"]

BLOCK_CELLS = 16_000_000
"""Cells of a dense block of user similarities: 64 MB as float32."""
ITEM_BLOCK_CELLS = 64_000_000
"""Cells of a dense block of similarities between all items and those of some histories."""
ROUNDING = 2.0**-22
"""Deviations up to this share of the parts of the baseline count as zero. Each part is stored as float32, with an error
of at most ``2**-24`` of its size, so that the deviations of a constant row would be noise of up to their sum.
"""


@dataclass(frozen=True, eq=False)
class _FoldedInUsers:
    """Query users with the biases and deviations that follow from their values."""

    values_NI: csr_array[Any]
    deviations_NI: csr_array[Any]
    """Deviations from the baseline, in units."""
    users_N: Scores
    units_N: Scores
    self_rows_N: Codes
    """Row of the user in training; -1: none."""

    def rows_between(self, start: int, stop: int) -> _FoldedInUsers:
        """Return users ``start:stop``."""
        return _FoldedInUsers(*(array[start:stop] for array in vars(self).values()))


class NeighborRatingPredictor:
    """Predictor of ratings from similar users or similar items."""

    def __init__(
        self, config: NeighborSettings, by_user: bool, values_UI: csr_array[Any], baseline: RatingBaseline
    ) -> None:
        """Build from a matrix of ratings.

        ``by_user``: compare users, else items.
        """
        self.config, self.by_user, self.baseline, self.values_UI = config, by_user, baseline, values_UI
        self._measure = MEASURES[config.similarity]
        self._distinct_values_L = (
            distinct_values(values_UI.data, config.similarity) if config.similarity in DISTRIBUTION_MEASURES else None
        )
        self._limits = values_UI.data.min(), values_UI.data.max()
        train_users = self._fold_in_values(values_UI, np.arange(values_UI.shape[0], dtype=np.int32))
        self._user_deviations = csr_arrays(train_users.deviations_NI)
        self._list_deviations = csr_arrays(transpose(train_users.deviations_NI)) if by_user else self._user_deviations
        """Deviations by item if users are compared, else by user."""
        self._reference_rows = self._comparison_rows(train_users, None)

    @classmethod
    def of(cls, train: Dataset, config: NeighborSettings, by_user: bool, model: str) -> Self:
        """Build from the ratings of ``train``; errors name ``model``."""
        collect_ratings(train, model)
        values_UI = mean_values(rated_events(train.histories), train.n_items)
        regularization = config.iterations, config.l2_user, config.l2_item
        return cls(
            config, by_user, values_UI, RatingBaseline.fit(values_UI, config.normalization, by_user, *regularization)
        )

    def predict(self, users: Codes, items: Codes) -> Scores:
        """Predict the ``(T,)`` values that users would give items."""
        rows, list_codes = (users, items) if self.by_user else (items, users)
        distinct, index_T = np.unique(rows, return_inverse=True)
        order = np.argsort(index_T, kind="stable")
        predictions_T = np.zeros(len(rows), np.float32)
        step = max(1, BLOCK_CELLS // len(self._reference_rows))
        for start in range(0, len(distinct), step):
            block = distinct[start : start + step].astype(np.int32)
            similarities_BR = self._similarity(self._reference_rows.take(block), block)
            begin, end = np.searchsorted(index_T[order], (start, start + step))
            block_T = order[begin:end]
            predictions_T[block_T] = self._predict_pairs(index_T[block_T] - start, list_codes[block_T], similarities_BR)
        predictions_T *= self.baseline.units[rows]
        predictions_T += self.baseline.mean + self.baseline.users_U[users] + self.baseline.items_I[items]
        return self.clip_predictions(predictions_T)

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`."""
        return np.clip(scores, *self._limits) if self.config.clip_predictions else scores

    def score(self, queries: Queries) -> Scores:
        """Predict the ``(N, I)`` values of all items.

        The values of each history are folded in. A known user whose history has no values is scored by their training
        ratings.
        """
        folded_in = self._fold_in(queries)
        scores_NI = self._from_users(folded_in) if self.by_user else self._from_items(folded_in.deviations_NI)
        scores_NI *= folded_in.units_N[:, None] if self.by_user else self.baseline.units
        scores_NI += self.baseline.items_I
        scores_NI += (self.baseline.mean + folded_in.users_N)[:, None]
        return scores_NI

    def similar_items(self, items: Codes) -> Scores:
        """Return the ``(len(items), I)`` similarities of items; 0 for the item itself.

        Only for a predictor that compares items.
        """
        return self._similarity(self._reference_rows.take(items), items)

    def similar_users(self, queries: Queries) -> Scores:
        """Return the ``(N, U)`` similarities of users; 0 for the same user.

        Only for a predictor that compares users.
        """
        folded_in = self._fold_in(queries)
        return self._similarity(self._comparison_rows(folded_in, self._reference_rows), folded_in.self_rows_N)

    def arrays(self) -> StateArrays:
        """Return all ratings and the baseline."""
        offsets, items, values = csr_arrays(self.values_UI)
        baseline = self.baseline
        return {
            "offsets": offsets,
            "items": items,
            "values": values,
            "baseline": np.array([baseline.mean, baseline.unit], np.float32),
            "baseline_users": baseline.users_U,
            "baseline_items": baseline.items_I,
            "units": baseline.units,
        }

    @classmethod
    def restore(cls, arrays: StateArrays, config: NeighborSettings, by_user: bool, schema: DataSchema) -> Self:
        """Build from the result of :meth:`arrays`."""
        n_users, n_items = schema.n_users, schema.n_items
        values_UI = load_csr(arrays, "values", "items", "offsets", (n_users, n_items))
        mean, unit = load_array(arrays, "baseline", (2,), np.float32)
        users_U = load_array(arrays, "baseline_users", (n_users,), np.float32)
        items_I = load_array(arrays, "baseline_items", (n_items,), np.float32)
        units = load_array(arrays, "units", (n_users if by_user else n_items,), np.float32)
        baseline = RatingBaseline(config.normalization, mean, users_U, items_I, units, unit, config.l2_user)
        return cls(config, by_user, values_UI, baseline)

    def _fold_in(self, queries: Queries) -> _FoldedInUsers:
        """Fold in the values of each history.

        Known users without values use their training ratings.
        """
        values_NI = mean_values(rated_events(queries.history), self.values_UI.shape[1])
        self_rows_N = np.where(queries.known, queries.users, -1).astype(np.int32)
        use_train_N = (np.diff(values_NI.indptr) == 0) & queries.known
        if use_train_N.any():
            rows = np.where(use_train_N, len(queries) + self_rows_N, np.arange(len(queries)))
            values_NI = csr_array(vstack([values_NI, self.values_UI], format="csr")[rows])
        return self._fold_in_values(values_NI, self_rows_N)

    def _fold_in_values(self, values_NI: csr_array[Any], self_rows_N: Codes) -> _FoldedInUsers:
        users_N, units_N = self.baseline.fold_in(values_NI, self.by_user)
        rows, items = np.repeat(np.arange(len(users_N)), np.diff(values_NI.indptr)), values_NI.indices
        parts = [part.astype(np.float64) for part in (users_N[rows], self.baseline.items_I[items])]
        deviations = values_NI.data - float(self.baseline.mean) - parts[0] - parts[1]
        sizes = abs(float(self.baseline.mean)) + np.abs(parts[0]) + np.abs(parts[1])
        deviations[np.abs(deviations) <= ROUNDING * sizes] = 0.0
        deviations /= units_N[rows] if self.by_user else self.baseline.units[items]
        deviations_NI = csr_array((deviations.astype(np.float32), items, values_NI.indptr), shape=values_NI.shape)
        return _FoldedInUsers(values_NI, deviations_NI, users_N, units_N, self_rows_N)

    def _comparison_rows(self, folded_in: _FoldedInUsers, reference: SparseRows | None) -> SparseRows:
        """Return the rows that the measure compares.

        They are deviations, values or histograms of values.
        """
        use_deviations = self._distinct_values_L is None and self.config.compare == "deviations"
        rows = folded_in.deviations_NI if use_deviations else folded_in.values_NI
        rows = rows if self.by_user else transpose(rows)
        return (
            SparseRows.from_csr(rows, reference)
            if self._distinct_values_L is None
            else value_histograms(rows, self._distinct_values_L, reference)
        )

    def _similarity(self, query_rows: SparseRows, self_rows: Codes) -> Scores:
        return similarity_matrix(query_rows, self._reference_rows, self._measure, self.config.shrink, self_rows)

    def _from_users(self, folded_in: _FoldedInUsers) -> Scores:
        out = np.empty(folded_in.values_NI.shape, np.float32)
        step = max(1, BLOCK_CELLS // len(self._reference_rows))
        for start in range(0, len(out), step):
            block = folded_in.rows_between(start, start + step)
            similarities_BR = self._similarity(self._comparison_rows(block, self._reference_rows), block.self_rows_N)
            self._average_rows(
                weighted_mean_kernels.user_based_means,
                self._user_deviations,
                similarities_BR,
                out[start : start + step],
            )
        return out

    def _from_items(self, deviations_NI: csr_array[Any]) -> Scores:
        n, n_items = deviations_NI.shape
        distinct_D, codes = np.unique(deviations_NI.indices, return_inverse=True)
        if len(distinct_D) * n_items > ITEM_BLOCK_CELLS and n > 1:
            return np.concatenate(
                [self._from_items(deviations_NI[: n // 2]), self._from_items(deviations_NI[n // 2 :])]
            )
        similarities_ID = np.ascontiguousarray(
            self._similarity(self._reference_rows.take(distinct_D), distinct_D.astype(np.int32)).T
        )
        offsets, _, ratings = csr_arrays(deviations_NI)
        out_NI = np.empty((n, n_items), np.float32)
        self._average_rows(
            weighted_mean_kernels.item_based_means, (offsets, codes.astype(np.int32), ratings), similarities_ID, out_NI
        )
        return out_NI

    def _average_rows(self, kernel: Any, ratings: tuple[Any, ...], similarities: Scores, out_NI: Scores) -> None:
        """Run a kernel over all rows of ``out_NI`` in parallel."""

        def process_rows(first: int, stop: int) -> None:
            kernel(first, stop, *ratings, similarities, self.config.k, self.config.min_k, out_NI)

        parallel_rows(process_rows, np.arange(len(out_NI) + 1))

    def _predict_pairs(self, rows: NDArray[np.int64], list_codes: Codes, similarities_BR: Scores) -> Scores:
        out = np.empty(len(rows), np.float32)
        rows, list_codes = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(list_codes, np.int32)

        def process_rows(first: int, stop: int) -> None:
            counts = self.config.k, self.config.min_k
            weighted_mean_kernels.pairwise_means(
                first, stop, rows, list_codes, *self._list_deviations, similarities_BR, *counts, out
            )

        parallel_rows(process_rows, np.concatenate([[0], np.cumsum(np.diff(self._list_deviations[0])[list_codes])]))
        return out

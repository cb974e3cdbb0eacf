"""User-based nearest neighbors (Resnick et al. 1994, doi:10.1145/192844.192905).

With implicit feedback, the neighbors of a history are found among the training users, so that any history can be
scored; the score of an item is the sum of the similarities of the neighbors who have it. With explicit feedback, a
value is predicted from the ratings that the most similar users gave the item; see
:mod:`segue.similarity.rating_predictor`.

Shapes: U users, I items, N queries.
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from annotated_types import Ge
from pydantic import model_validator

from segue.core.model import StateArrays
from segue.core.model_arrays import check_range, load_array
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Queries, Scores
from segue.similarity.interaction_matrix import interaction_counts, weighted_rows
from segue.similarity.nearest import csr_arrays, nearest_neighbors, similarity_matrix, sparse_product
from segue.similarity.neighbor_model import NeighborModel
from segue.similarity.settings import NeighborSettings
from segue.similarity.similarity_registry import MEASURES, SEQUENCE_MEASURES
from segue.similarity.sparse_rows import SparseRows
from segue.similarity.weighting import Corpus
from segue.solvers.popularity import fill_empty_rows_with_popularity, popularity_distribution

__all__ = ["UserKNN"]


class UserKNN(NeighborModel):
    """Compare each query with the stored histories of all training users.

    Items are scored by popularity where no neighbor is found.
    """

    key = "user_knn"
    by_user = True

    class Config(NeighborSettings):
        """Settings of ``user_knn``."""

        max_length: Annotated[int, Ge(1)] = 50
        """Number of newest events of a history that sequence measures compare."""

        @model_validator(mode="after")
        def _check_user_settings(self) -> Self:
            is_changed = self.max_length != type(self).model_fields["max_length"].default
            if is_changed and self.similarity not in SEQUENCE_MEASURES:
                names = ", ".join(sorted(SEQUENCE_MEASURES))
                raise ValueError(
                    f"max_length: only used by sequence measures ({names}), got similarity='{self.similarity}'"
                )
            return self

    histories: Events
    """Histories of all users; set by ``fit`` with implicit feedback only."""
    popularity_I: Scores

    def _fit_implicit(self, train: Dataset, run: Run) -> None:
        self._set_state(Events(train.histories.offsets, train.histories.items), popularity_distribution(train))

    def _set_state(self, histories: Events, popularity_I: Scores) -> None:
        self.histories, self.popularity_I = histories, popularity_I
        self._seen_UI = csr_arrays(histories.csr(self.schema.n_items))
        compared = self._compared_events(histories)
        self._corpus = Corpus.of(interaction_counts(compared, self.schema.n_items))
        self._reference_rows = self._rows(compared, None)

    def _compared_events(self, histories: Events) -> Events:
        """Return the events that the measure compares."""
        return histories.last(self.config.max_length) if self.config.similarity in SEQUENCE_MEASURES else histories

    def _rows(self, compared: Events, reference: SparseRows | None) -> SparseRows:
        counts_NI = interaction_counts(compared, self.schema.n_items)
        return weighted_rows(counts_NI, self.config, self._corpus, reference, compared)

    def _query_rows(self, queries: Queries) -> SparseRows:
        return self._rows(self._compared_events(queries.history), self._reference_rows)

    def _score_implicit(self, queries: Queries) -> Scores:
        neighbors_NU = nearest_neighbors(
            self._query_rows(queries),
            self._reference_rows,
            MEASURES[self.config.similarity],
            self.config.shrink,
            self.config.k,
            self_rows=_self_rows(queries),
        )
        scores_NI = sparse_product(neighbors_NU, self._seen_UI, self.schema.n_items)
        return fill_empty_rows_with_popularity(scores_NI, self.popularity_I)

    def similar_users(self, queries: Queries) -> Scores:
        """See :meth:`segue.core.model.SimilarUsers.similar_users`."""
        if self.predicts_ratings:
            return self.rating_predictor.similar_users(queries)
        return similarity_matrix(
            self._query_rows(queries),
            self._reference_rows,
            MEASURES[self.config.similarity],
            self.config.shrink,
            self_rows=_self_rows(queries),
        )

    def _implicit_arrays(self) -> StateArrays:
        return {"offsets": self.histories.offsets, "items": self.histories.items, "popularity": self.popularity_I}

    def _restore_implicit(self, arrays: StateArrays) -> None:
        offsets = load_array(arrays, "offsets", (self.schema.n_users + 1,), np.int64)
        items = load_array(arrays, "items", (None,), np.int32)
        check_range("items", items, self.schema.n_items)
        popularity_I = load_array(arrays, "popularity", (self.schema.n_items,), np.float32)
        self._set_state(Events(offsets, items), popularity_I)


def _self_rows(queries: Queries) -> Codes:
    """Return the ``(N,)`` training user of each query, or -1 for an unknown user."""
    return np.where(queries.known, queries.users, -1).astype(np.int32)

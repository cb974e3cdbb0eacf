"""Item-based nearest neighbors.

Deshpande and Karypis 2004, doi:10.1145/963770.963776.

With implicit feedback, the score of an item is the sum of its similarities to the items of the history, where only the
``k`` nearest neighbors of each item count. Similarities are computed in blocks and only neighbors are stored: memory
grows with items times neighbors, not with the square of the number of items. With explicit feedback, a value is
predicted from the user's ratings of the most similar items (Sarwar et al. 2001, doi:10.1145/371920.372071); see
:mod:`segue.similarity.rating_predictor`.

Shapes: I items, N queries.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Gt
from pydantic import model_validator
from scipy.sparse import csr_array

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array, load_csr
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.similarity.interaction_matrix import interaction_counts, weighted_rows
from segue.similarity.nearest import csr_arrays, nearest_neighbors, sparse_product
from segue.similarity.neighbor_model import NeighborModel
from segue.similarity.settings import NeighborSettings
from segue.similarity.similarity_registry import MEASURES, SEQUENCE_MEASURES
from segue.solvers.popularity import fill_empty_rows_with_popularity, popularity_distribution

__all__ = ["ItemKNN"]


class ItemKNN(NeighborModel):
    """Store the nearest neighbors of every item as a sparse matrix.

    Items are scored by popularity where the history has no neighbors.
    """

    key = "item_knn"
    by_user = False

    class Config(NeighborSettings):
        """Settings of ``item_knn``."""

        half_life: Annotated[float, Gt(0)] | None = None
        """Number of later events after which the weight of an event halves; none: all distinct items weigh 1."""

        @model_validator(mode="after")
        def _check_item_settings(self) -> Self:
            if self.similarity in SEQUENCE_MEASURES:
                raise ValueError(f"similarity: '{self.similarity}' compares histories; expected a measure of items")
            if self.half_life is not None and self.feedback == "explicit":
                raise ValueError(
                    f"half_life: only used with feedback='implicit', got {self.half_life:g} with feedback='explicit'"
                )
            return self

    neighbors_II: csr_array[Any]
    """Row i: similarities of i to its neighbors; set by ``fit`` with implicit feedback only."""
    popularity_I: Scores

    def _fit_implicit(self, train: Dataset, run: Run) -> None:
        rows = weighted_rows(csr_array(interaction_counts(train.histories, train.n_items).T), self.config)
        measure, items = MEASURES[self.config.similarity], np.arange(train.n_items, dtype=np.int32)
        with run.progress(train.n_items, "item_knn") as progress:
            neighbors_II = nearest_neighbors(
                rows, rows, measure, self.config.shrink, self.config.k, self_rows=items, progress=progress
            )
        self._set_state(neighbors_II, popularity_distribution(train))

    def _set_state(self, neighbors_II: csr_array[Any], popularity_I: Scores) -> None:
        self.neighbors_II, self.popularity_I = neighbors_II, popularity_I
        self._transposed_II = csr_arrays(csr_array(neighbors_II.T))

    def _score_implicit(self, queries: Queries) -> Scores:
        history, weights = queries.history, None
        if self.config.half_life is not None:
            steps_back = history.offsets[1:][history.rows] - 1 - np.arange(history.size)
            weights = np.exp2(-steps_back / self.config.half_life).astype(np.float32)
        scores_NI = sparse_product(history.csr(self.schema.n_items, weights), self._transposed_II, self.schema.n_items)
        return fill_empty_rows_with_popularity(scores_NI, self.popularity_I)

    def similar(self, items: Codes) -> Scores:
        """Return item similarities; 0 for the item itself.

        With implicit feedback, only stored neighbors have a nonzero similarity; with explicit feedback, all items may.
        """
        if self.predicts_ratings:
            return self.rating_predictor.similar_items(items)
        return self.neighbors_II[items].toarray()

    def _implicit_arrays(self) -> StateArrays:
        offsets, neighbors, similarities = csr_arrays(self.neighbors_II)
        return {
            "similarities": similarities,
            "neighbors": neighbors,
            "offsets": offsets,
            "popularity": self.popularity_I,
        }

    def _restore_implicit(self, arrays: StateArrays) -> None:
        n_items = self.schema.n_items
        self._set_state(
            load_csr(arrays, "similarities", "neighbors", "offsets", (n_items, n_items)),
            load_array(arrays, "popularity", (n_items,), np.float32),
        )

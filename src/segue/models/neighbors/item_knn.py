"""Items like those you had: item-based nearest neighbours (Deshpande and Karypis 2004, doi:10.1145/963770.963776).

From events, an item's score is the sum of its likeness to the items of the history, of which only its ``neighbours``
nearest count. Likeness is counted in blocks and only neighbours are kept: memory grows with items x neighbours, not
items². From values, such as ratings, a value is predicted from those that the person gave to the items most like the
one that is asked about (Sarwar et al. 2001, doi:10.1145/371920.372071): see :mod:`segue.similarity.rating_predictor`.

Shapes: U users, I items, N queries, C candidates, T pairs.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.sparse import csr_array

from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.similarity.interaction_matrix import event_counts, event_table
from segue.similarity.nearest import arrays_of, nearest, spread
from segue.similarity.rating_predictor import Opinions
from segue.similarity.settings import NeighbourSettings
from segue.similarity.similarity_registry import MEASURES, SEQUENCES
from segue.solvers.popularity import answer_ties, shares

__all__ = ["ItemKNN"]


class ItemKNN(Solver):
    """The nearest neighbours of every item, kept sparse; a history that leads nowhere is answered by popularity."""

    class Config(NeighbourSettings):
        """Settings of ``item_knn``."""

        half_life: Annotated[float, Gt(0)] | None = None
        """Steps back in the history after which an event counts half; none: all count the same, and once."""

        @model_validator(mode="after")
        def _of_items(self) -> Self:
            if self.similarity in SEQUENCES:
                raise ValueError(f"similarity: '{self.similarity}' compares histories, which items have none of")
            if self.half_life is not None and self.learns == "values":
                raise ValueError(f"half_life: of learns='events', got {self.half_life:g} with learns='values'")
            return self

    near_II: csr_array[Any]
    """Row i: the likeness of i to its neighbours; where it learns from events."""
    opinions: Opinions
    """Where it learns from values."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.shares_I = np.zeros(domain.n_items, np.float32)

    @property
    def predicts(self) -> bool:
        """Whether it learns from values."""
        return bool(self.config.learns == "values")

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Find the neighbours of every item among the people who have both; or keep the ratings.

        Raises:
            ValueError: it is to learn from values, and no event has one.
        """
        if self.predicts:
            self.opinions = Opinions.of(train, self.config, by_user=False, model="item_knn")
            return
        table = event_table(csr_array(event_counts(train.histories, train.n_items).T), self.config)
        like, everything = MEASURES[self.config.similarity], np.arange(train.n_items, dtype=np.int32)
        with run.progress(train.n_items, "item_knn") as progress:
            kept = self.config.shrink, self.config.neighbours
            near_II = nearest(table, table, like, *kept, itself=everything, progress=progress)
        self.shares_I = shares(train)
        self._keep(near_II)

    def _keep(self, near_II: csr_array[Any]) -> None:
        self.near_II, self._into_II = near_II, arrays_of(csr_array(near_II.T))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Likeness to the history, summed; the share of all events where no item has any. Or the predicted values."""
        if self.predicts:
            return pick_candidates(self.opinions.score(queries), candidates)
        history = queries.history
        weights = None
        if self.config.half_life is not None:
            back = history.offsets[1:][history.rows] - 1 - np.arange(history.size)
            weights = np.exp2(-back / self.config.half_life).astype(np.float32)
        scores_NI = spread(history.csr(self.domain.n_items, weights), self._into_II, self.domain.n_items)
        return pick_candidates(answer_ties(scores_NI, self.shares_I), candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`."""
        return self.opinions.predict(users, items)

    def in_scale(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.in_scale`."""
        return self.opinions.in_scale(scores)

    def similar(self, items: Codes) -> Scores:
        """Likeness of each item's neighbours, or of all items where it learns from values; 0 for the item itself."""
        return self.opinions.similar_items(items) if self.predicts else self.near_II[items].toarray()

    def arrays(self) -> Arrays:
        """The neighbours as a sparse matrix, and the shares of popularity; or the ratings and their centre."""
        if self.predicts:
            return self.opinions.arrays()
        offsets, neighbours, likeness = arrays_of(self.near_II)
        return {"likeness": likeness, "neighbours": neighbours, "offsets": offsets, "shares": self.shares_I}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        if self.predicts:
            self.opinions = Opinions.restored(arrays, self.config, by_user=False, domain=self.domain)
            return
        n_items = self.domain.n_items
        likeness = take_back(arrays, "likeness", (None,), np.float32)
        indices = take_back(arrays, "neighbours", (len(likeness),), np.int32)
        self.shares_I = take_back(arrays, "shares", (n_items,), np.float32)
        offsets = take_back(arrays, "offsets", (n_items + 1,), np.int64)
        self._keep(csr_array((likeness, indices, offsets), shape=(n_items, n_items)))

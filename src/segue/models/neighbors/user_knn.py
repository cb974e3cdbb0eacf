"""People like you: user-based nearest neighbours (Resnick et al. 1994, doi:10.1145/192844.192905).

From events, the neighbours of a history are found among the training users, so that anybody is answered; an item's
score is the sum of the likeness of the neighbours who had it. From values, such as ratings, a value is predicted from
those that the people most like the one who asks gave to the item: see :mod:`segue.similarity.rating_predictor`.

Shapes: U users, I items, N queries, C candidates, T pairs.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores
from segue.similarity.interaction_matrix import event_counts, event_table
from segue.similarity.nearest import arrays_of, likeness, nearest, spread
from segue.similarity.rating_predictor import Opinions
from segue.similarity.settings import NeighbourSettings
from segue.similarity.similarity_registry import MEASURES, SEQUENCES
from segue.similarity.sparse_rows import Table
from segue.similarity.weighting import Corpus
from segue.solvers.popularity import answer_ties, shares

__all__ = ["UserKNN"]


class UserKNN(Solver):
    """Everybody's history, and who is like whom when it is asked; an empty history is answered by popularity."""

    class Config(NeighbourSettings):
        """Settings of ``user_knn``."""

        max_length: Annotated[int, Ge(1)] = 50
        """Newest events of a history that measures of sequences compare."""

        @model_validator(mode="after")
        def _of_users(self) -> Self:
            unused = self.max_length != type(self).model_fields["max_length"].default
            if unused and self.similarity not in SEQUENCES:
                names = ", ".join(sorted(SEQUENCES))
                raise ValueError(f"max_length: of measures of sequences ({names}), got similarity='{self.similarity}'")
            return self

    histories: Events
    """Of all users; where it learns from events."""
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
        """Keep the histories, or the ratings: neighbours are found when they are asked for.

        Raises:
            ValueError: it is to learn from values, and no event has one.
        """
        if self.predicts:
            self.opinions = Opinions.of(train, self.config, by_user=True, model="user_knn")
            return
        self.shares_I = shares(train)
        self._keep(Events(train.histories.offsets, train.histories.items))

    def _keep(self, histories: Events) -> None:
        self.histories = histories
        self._seen_UI = arrays_of(histories.csr(self.domain.n_items))
        compared = self._compared(histories)
        self._corpus = Corpus.of(event_counts(compared, self.domain.n_items))
        self._table = self._table_of(compared, None)

    def _compared(self, histories: Events) -> Events:
        """What of the histories the measure looks at."""
        return histories.last(self.config.max_length) if self.config.similarity in SEQUENCES else histories

    def _table_of(self, compared: Events, beside: Table | None) -> Table:
        counts_NI = event_counts(compared, self.domain.n_items)
        return event_table(counts_NI, self.config, self._corpus, beside, compared)

    def _asked(self, queries: Queries) -> Table:
        return self._table_of(self._compared(queries.history), self._table)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Likeness of the neighbours who had an item, summed; the share of all events where there are none. Or the
        predicted values."""
        if self.predicts:
            return pick_candidates(self.opinions.score(queries), candidates)
        kept = self.config.shrink, self.config.neighbours
        near_NU = nearest(
            self._asked(queries), self._table, MEASURES[self.config.similarity], *kept, itself=_itself(queries)
        )
        scores_NI = spread(near_NU, self._seen_UI, self.domain.n_items)
        return pick_candidates(answer_ties(scores_NI, self.shares_I), candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`."""
        return self.opinions.predict(users, items)

    def in_scale(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.in_scale`."""
        return self.opinions.in_scale(scores)

    def similar_users(self, queries: Queries) -> Scores:
        """See :meth:`segue.core.model.SimilarUsers.similar_users`."""
        if self.predicts:
            return self.opinions.similar_users(queries)
        like = MEASURES[self.config.similarity]
        return likeness(self._asked(queries), self._table, like, self.config.shrink, itself=_itself(queries))

    def arrays(self) -> Arrays:
        """All histories and the shares of popularity; or the ratings and their centre."""
        if self.predicts:
            return self.opinions.arrays()
        return {"offsets": self.histories.offsets, "items": self.histories.items, "shares": self.shares_I}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        if self.predicts:
            self.opinions = Opinions.restored(arrays, self.config, by_user=True, domain=self.domain)
            return
        items = take_back(arrays, "items", (None,), np.int32)
        self.shares_I = take_back(arrays, "shares", (self.domain.n_items,), np.float32)
        self._keep(Events(take_back(arrays, "offsets", (self.domain.n_users + 1,), np.int64), items))


def _itself(queries: Queries) -> Codes:
    """The training user that everybody is; -1: none."""
    return np.where(queries.known, queries.users, -1).astype(np.int32)

"""Base class of the nearest-neighbor models.

It implements explicit feedback, and the choice between explicit and implicit feedback.

Shapes: N queries, I items, C candidates, T pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.similarity.rating_predictor import NeighborRatingPredictor

__all__ = ["NeighborModel"]


class NeighborModel(Solver):
    """Model whose config is a :class:`segue.similarity.settings.NeighborSettings`.

    With explicit feedback it predicts ratings through :class:`NeighborRatingPredictor`; subclasses implement implicit
    feedback.
    """

    key: ClassVar[str]
    """Name of the model in error messages."""
    by_user: ClassVar[bool]
    """Compare users, else items."""

    rating_predictor: NeighborRatingPredictor
    """Set by ``fit`` with explicit feedback only."""

    @property
    def predicts_ratings(self) -> bool:
        """Return whether feedback is explicit."""
        return bool(self.config.feedback == "explicit")

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Store the ratings, or learn from interactions.

        Raises:
            ValueError: feedback is explicit, and no event has a value.
        """
        if self.predicts_ratings:
            self.rating_predictor = NeighborRatingPredictor.of(train, self.config, self.by_user, self.key)
        else:
            self._fit_implicit(train, run)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute predicted values, or sums of similarities.

        Items are scored by popularity where no neighbor is found.
        """
        predicted = self.predicts_ratings
        scores_NI = self.rating_predictor.score(queries) if predicted else self._score_implicit(queries)
        return select_candidates(scores_NI, candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`."""
        return self.rating_predictor.predict(users, items)

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`."""
        return self.rating_predictor.clip_predictions(scores)

    def arrays(self) -> StateArrays:
        """Return the ratings and their baseline, or the state learned from interactions."""
        return self.rating_predictor.arrays() if self.predicts_ratings else self._implicit_arrays()

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        if self.predicts_ratings:
            self.rating_predictor = NeighborRatingPredictor.restore(arrays, self.config, self.by_user, self.schema)
        else:
            self._restore_implicit(arrays)

    @abstractmethod
    def _fit_implicit(self, train: Dataset, run: Run) -> None:
        """Learn from interactions."""

    @abstractmethod
    def _score_implicit(self, queries: Queries) -> Scores:
        """Score all items by interactions, ``(N, I)``."""

    @abstractmethod
    def _implicit_arrays(self) -> StateArrays:
        """Return the state learned from interactions."""

    @abstractmethod
    def _restore_implicit(self, arrays: StateArrays) -> None:
        """Restore what :meth:`_implicit_arrays` returned."""

"""Base class of rating models that predict ``mean + b_u + b_i + p_u . q_i``.

Rows of users and items hold the bias first, then the factors. Histories are folded in; a known user whose history has
no values keeps the factors from training.

Shapes: U users, I items, N queries, C candidates, T pairs, D dimensions including the bias.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Solver, StateArrays, select_candidates
from segue.core.model_arrays import load_array
from segue.core.ratings import rated_events
from segue.core.types import Codes, DataSchema, Events, Queries, Scores

__all__ = ["BiasedFactorModel", "cosine_similarity", "pair_products"]

BLOCK_PAIRS = 262_144


class BiasedFactorModel(Solver):
    """Predict ratings from a mean, biases and factors.

    Subclasses learn these and fold in histories.
    """

    requires_ratings = True
    predicts_ratings = True
    validation_metric = "rmse"

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.extra_arrays: dict[str, NDArray[Any]] = {}
        """Further arrays of a subclass by name; their shapes, set in ``__init__``, are fixed."""
        self._set_factors(
            0.0, np.zeros((schema.n_users, 1), np.float32), np.zeros((schema.n_items, 1), np.float32), (0.0, 0.0)
        )

    def _set_factors(self, mean: float, users_UD: Scores, items_ID: Scores, value_range: tuple[float, float]) -> None:
        """Set the learned state; ``value_range`` is the lowest and highest training value."""
        self.mean, self.value_range = np.float32(mean), np.asarray(value_range, np.float32)
        self.users_UD, self.items_ID = users_UD, items_ID
        self._vectors_ID = np.concatenate([np.ones((len(items_ID), 1), np.float32), items_ID[:, 1:]], axis=1)

    @abstractmethod
    def fold_in(self, history: Events) -> Scores:
        """Compute ``(N, D)`` biases and factors of users with these histories.

        Values may be missing. An uninformative history gets the row of an unknown user, such as zeros.
        """

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Fold in each history; the mean is added to the bias.

        A known user whose history has no values keeps the factors from training.
        """
        rows_ND = self.fold_in(queries.history)
        use_trained = queries.known & (rated_events(queries.history).lengths == 0)
        rows_ND[use_trained] = self.users_UD[queries.users[use_trained]]
        rows_ND[:, 0] += self.mean
        return rows_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return ``(n_items, D)``: a column of ones, then factors."""
        return self._vectors_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the item biases, ``(n_items,)``."""
        return self.items_ID[:, 0]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute predicted values, not clipped, so that the best remain distinct."""
        scores_NI: Scores = self.encode(queries) @ self._vectors_ID.T + self.bias
        return select_candidates(scores_NI, candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`."""
        predictions = self.mean + self.users_UD[users, 0] + self.items_ID[items, 0]
        predictions += pair_products(self.users_UD[:, 1:], self.items_ID[:, 1:], users, items)
        return self.clip_predictions(predictions)

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`."""
        return np.clip(scores, *self.value_range) if self.config.clip_predictions else scores

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of item factors."""
        return cosine_similarity(self.items_ID[:, 1:], items)

    def arrays(self) -> StateArrays:
        """Return the mean, value range, rows of users and items, and the extra arrays."""
        return {
            "mean": np.array([self.mean], np.float32),
            "value_range": self.value_range,
            "users": self.users_UD,
            "items": self.items_ID,
            **self.extra_arrays,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        users_UD = load_array(arrays, "users", (self.schema.n_users, None), np.float32)
        items_ID = load_array(arrays, "items", (self.schema.n_items, users_UD.shape[1]), np.float32)
        low, high = load_array(arrays, "value_range", (2,), np.float32)
        self.extra_arrays = {
            name: load_array(arrays, name, array.shape, np.float32) for name, array in self.extra_arrays.items()
        }
        self._set_factors(load_array(arrays, "mean", (1,), np.float32)[0], users_UD, items_ID, (low, high))


def pair_products(first_UD: Scores, second_ID: Scores, users: Codes, items: Codes) -> Scores:
    """Compute ``(T,)`` inner products of pairs of rows.

    The rows are ``users[t]`` of one matrix and ``items[t]`` of the other.
    """
    products = np.empty(len(users), np.float32)
    for start in range(0, len(users), BLOCK_PAIRS):
        block = slice(start, start + BLOCK_PAIRS)
        np.einsum("td,td->t", first_UD[users[block]], second_ID[items[block]], out=products[block])
    return products


def cosine_similarity(vectors_ID: Scores, items: Codes) -> Scores:
    """Compute ``(len(items), I)`` cosine similarities; 0 where a vector is zero."""
    norms_I = np.linalg.norm(vectors_ID, axis=1)
    unit_ID = vectors_ID / np.maximum(norms_I, np.finfo(np.float32).tiny)[:, None]
    similarities_NI: Scores = unit_ID[items] @ unit_ID.T
    return similarities_NI

"""Models of ratings whose prediction is a sum: ``mean + b_u + b_i + p_u . q_i``.

A user's and an item's row hold the bias first, then the factors. A history is folded in by what the model says; where
it has no values, a known user is as he was in training.

Shapes: U users, I items, N queries, C candidates, T pairs, D width with the bias.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Arrays, Solver, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.ratings import valued
from segue.core.types import Codes, Domain, Events, Queries, Scores

__all__ = ["RatingFactors", "cosine_likeness", "pair_products"]

BLOCK_PAIRS = 262_144


class RatingFactors(Solver):
    """Predictions from a mean, biases and factors; a subclass learns them and folds in new histories."""

    needs_values = True
    predicts = True
    chooser = "rmse"

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.more: dict[str, NDArray[Any]] = {}
        """Further arrays of a subclass by name; their shapes, set in its ``__init__``, never change."""
        self._keep(
            0.0, np.zeros((domain.n_users, 1), np.float32), np.zeros((domain.n_items, 1), np.float32), (0.0, 0.0)
        )

    def _keep(self, mean: float, users_UD: Scores, items_ID: Scores, limits: tuple[float, float]) -> None:
        """Take what was learned: all that answers are made from. ``limits`` are the scale of the data."""
        self.mean, self.limits = np.float32(mean), np.asarray(limits, np.float32)
        self.users_UD, self.items_ID = users_UD, items_ID
        self._vectors_ID = np.concatenate([np.ones((len(items_ID), 1), np.float32), items_ID[:, 1:]], axis=1)

    @abstractmethod
    def fold_in(self, history: Events) -> Scores:
        """``(N, D)`` bias and factors of people with these histories, in which values may be missing.

        A history that tells nothing gives what is common to all, such as zeros.
        """

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Mean and bias of the person, and factors: folded in from the values of the history.

        A known user whose history has no values is as he was in training.
        """
        rows_ND = self.fold_in(queries.history)
        silent = queries.known & (valued(queries.history).lengths == 0)
        rows_ND[silent] = self.users_UD[queries.users[silent]]
        rows_ND[:, 0] += self.mean
        return rows_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)`` one, and factors."""
        return self._vectors_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)``"""
        return self.items_ID[:, 0]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The predicted values; never clipped, so that the best stay apart."""
        scores_NI: Scores = self.encode(queries) @ self._vectors_ID.T + self.bias
        return pick_candidates(scores_NI, candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`."""
        found = self.mean + self.users_UD[users, 0] + self.items_ID[items, 0]
        found += pair_products(self.users_UD[:, 1:], self.items_ID[:, 1:], users, items)
        return self.in_scale(found)

    def in_scale(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.in_scale`."""
        return np.clip(scores, *self.limits) if self.config.clip else scores

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' factors."""
        return cosine_likeness(self.items_ID[:, 1:], items)

    def arrays(self) -> Arrays:
        """Mean, limits of the scale, the rows of users and of items, the bias first; and what a subclass adds."""
        return {
            "mean": np.array([self.mean], np.float32),
            "limits": self.limits,
            "users": self.users_UD,
            "items": self.items_ID,
            **self.more,
        }

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        users_UD = take_back(arrays, "users", (self.domain.n_users, None), np.float32)
        items_ID = take_back(arrays, "items", (self.domain.n_items, users_UD.shape[1]), np.float32)
        low, high = take_back(arrays, "limits", (2,), np.float32)
        self.more = {name: take_back(arrays, name, now.shape, np.float32) for name, now in self.more.items()}
        self._keep(take_back(arrays, "mean", (1,), np.float32)[0], users_UD, items_ID, (low, high))


def pair_products(first_UD: Scores, second_ID: Scores, users: Codes, items: Codes) -> Scores:
    """``(T,)`` the inner product of row ``users[t]`` of the one and row ``items[t]`` of the other."""
    found = np.empty(len(users), np.float32)
    for start in range(0, len(users), BLOCK_PAIRS):
        part = slice(start, start + BLOCK_PAIRS)
        np.einsum("td,td->t", first_UD[users[part]], second_ID[items[part]], out=found[part])
    return found


def cosine_likeness(vectors_ID: Scores, items: Codes) -> Scores:
    """``(len(items), I)`` the cosine between vectors; 0 where one of them is zero."""
    norms_I = np.linalg.norm(vectors_ID, axis=1)
    unit_ID = vectors_ID / np.maximum(norms_I, np.finfo(np.float32).tiny)[:, None]
    likeness: Scores = unit_ID[items] @ unit_ID.T
    return likeness

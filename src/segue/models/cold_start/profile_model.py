"""Recommend by the features of users, such as age, gender, occupation, location.

A softmax regression of items on user features (McFadden 1974, "Conditional logit analysis of qualitative choice
behavior"):

    log p(i | u) = log p(i) + f_u . w_i - log sum_j p(j) exp(f_u . w_j)

where ``p(i)`` is the popularity of item i and ``f_u`` are the features of user u; see
:mod:`segue.solvers.profiles.user_profiles`. The history is not used. Users with equal features are one row of the
regression, so that the cost depends on the number of different profiles.

Shapes: N queries, I items, C candidates, F columns of features, G different profiles.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array

from segue.core.config import Settings
from segue.core.memory_check import check_memory
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.solvers.popularity import popularity_distribution
from segue.solvers.profiles.latent_classes import event_counts
from segue.solvers.profiles.user_profiles import UserProfiles

__all__ = ["ProfileModel"]

BLOCK_CELLS = 4_000_000
"""Probabilities held in memory at once."""


class ProfileModel(Solver):
    """Predict the items of users from their features alone."""

    scale = "logit"
    required_features = ("user_features",)

    class Config(Settings):
        """Settings of ``profile_model``."""

        l2: Annotated[float, Gt(0)] = 100.0
        """L2 regularization of the weights of a feature; more: closer to popularity."""
        iterations: Annotated[int, Ge(1)] = 50
        """Maximum number of steps of L-BFGS."""
        prefixes: dict[str, Annotated[int, Ge(1)]] = Field(default={})
        """Number of leading characters that are read of a text column, such as ``{"zip_code": 1}`` for the region."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Fit the weights; log the negative log-likelihood per event of each step.

        Raises:
            ValueError: the data has no usable user feature, or the weights do not fit in memory.
        """
        self.profiles = UserProfiles.fit(train, self.config.prefixes, "profile_model")
        self.schema = replace(train.schema, user_features=self.profiles.features)
        check_memory(
            f"weights of {self.profiles.width:,} feature columns and {train.n_items:,} items",
            20 * self.profiles.width * train.n_items,
            "use fewer items (min_item_events) or features",
        )
        self.log_popularity_I = np.log(popularity_distribution(train))
        rows_GF, counts_GI = _distinct_profiles(self.profiles.rows_UF, event_counts(train))
        self.weights_IF = self._regress(rows_GF, counts_GI, run)

    def _regress(self, rows_GF: csr_array[Any], counts_GI: csr_array[Any], run: Run) -> Scores:
        """Return the weights that maximize the penalized likelihood, ``(I, F)``."""
        from scipy.optimize import minimize

        shape = rows_GF.shape[1], counts_GI.shape[1]
        totals_G = np.asarray(counts_GI.sum(axis=1)).ravel()
        observed_FI = np.asarray((rows_GF.T @ counts_GI).toarray(), np.float64)
        base = float(counts_GI.sum(axis=0) @ self.log_popularity_I)
        n_events, step = max(float(totals_G.sum()), 1.0), max(1, BLOCK_CELLS // shape[1])

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights_FI = flat.reshape(shape)
            loss = 0.5 * self.config.l2 * float(np.square(weights_FI).sum())
            loss -= base + float((observed_FI * weights_FI).sum())
            gradient_FI = self.config.l2 * weights_FI - observed_FI
            weights_FI = weights_FI.astype(np.float32)
            for start in range(0, len(totals_G), step):
                rows_RF, totals_R = rows_GF[start : start + step], totals_G[start : start + step]
                logits_RI = np.asarray(rows_RF @ weights_FI) + self.log_popularity_I
                highest_R = logits_RI.max(axis=1)
                np.exp(logits_RI - highest_R[:, None], out=logits_RI)
                sums_R = logits_RI.sum(axis=1, dtype=np.float64)
                loss += float(totals_R @ (np.log(sums_R) + highest_R))
                logits_RI *= (totals_R / sums_R).astype(np.float32)[:, None]
                gradient_FI += rows_RF.T @ logits_RI
            losses.append(loss / n_events)
            return loss, gradient_FI.ravel()

        losses: list[float] = []
        steps = iter(range(1, self.config.iterations + 1))
        found = minimize(
            objective,
            np.zeros(shape).ravel(),
            jac=True,
            method="L-BFGS-B",
            callback=lambda _: run.log(next(steps), {"loss": losses[-1]}),
            options={"maxiter": self.config.iterations},
        )
        return np.ascontiguousarray(found.x.reshape(shape).T.astype(np.float32))

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the features of each query's user, ``(N, F)``."""
        features_NF: Scores = self.profiles.rows(queries).toarray()
        return features_NF

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the weights of each item, ``(n_items, F)``."""
        return self.weights_IF

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the logarithm of the popularity of each item, ``(n_items,)``."""
        return self.log_popularity_I

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return logits of the items."""
        return select_candidates(self.encode(queries) @ self.weights_IF.T + self.log_popularity_I, candidates)

    def arrays(self) -> StateArrays:
        """Return the weights, the popularity and the profiles of the training users."""
        return {"weights": self.weights_IF, "log_popularity": self.log_popularity_I, **self.profiles.arrays()}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        schema = self.schema
        self.profiles = UserProfiles.restore(schema.user_features, arrays, schema.n_users, self.config.prefixes)
        self.weights_IF = load_array(arrays, "weights", (schema.n_items, self.profiles.width), np.float32)
        self.log_popularity_I = load_array(arrays, "log_popularity", (schema.n_items,), np.float32)


def _distinct_profiles(rows_UF: csr_array[Any], counts_UI: csr_array[Any]) -> tuple[csr_array[Any], csr_array[Any]]:
    """Group the users by their features.

    Returns:
        the different rows of features ``(G, F)``, and the event counts of their users ``(G, I)``.
    """
    groups: dict[bytes, int] = {}
    bounds = zip(rows_UF.indptr[:-1].tolist(), rows_UF.indptr[1:].tolist(), strict=True)
    keys = [rows_UF.indices[start:stop].tobytes() + rows_UF.data[start:stop].tobytes() for start, stop in bounds]
    group_U = np.array([groups.setdefault(key, len(groups)) for key in keys])
    first_G = np.unique(group_U, return_index=True)[1]
    ones_U = np.ones(len(group_U), np.float32)
    members_GU = csr_array((ones_U, (group_U, np.arange(len(group_U)))), shape=(len(groups), len(group_U)))
    return csr_array(rows_UF[first_G]), csr_array(members_GU @ counts_UI)

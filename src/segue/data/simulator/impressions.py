"""Simulate impressions of a known policy, with known probabilities of clicks.

Each user of a simulated log gets one query after the last event. The logging policy draws a list from random candidates
by softmax of their popularity, without replacement. A user examines position k with a probability of
``k ** -examination`` and clicks an examined item with a probability that depends on the user and the item alone, so
that the value of every policy is known.

Shapes: Q queries, C candidates of a query, K positions, N sampled queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import polars as pl
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.examples.list_policies import plackett_luce
from segue.core.types import Dataset, Queries
from segue.data.simulator.optimal import BayesOptimalRecommender

__all__ = ["ImpressionSettings", "SimulatedImpressions"]

Values = NDArray[np.float64]
Codes = NDArray[np.int64]


class ImpressionSettings(Settings):
    """Lists, logging policy and clicks of simulated impressions."""

    candidates: Annotated[int, Ge(1)] = 20
    """Number of items from which a list is drawn. They are drawn evenly from the items that the user has not had, and
    from others if these do not suffice."""
    positions: Annotated[int, Ge(1)] = 3
    """Length of a list."""
    temperature: Annotated[float, Gt(0.0)] = 1.0
    """Temperature of the logging policy, a softmax over the logarithm of the number of events of each item."""
    attraction: Annotated[float, Gt(0.0), Le(1.0)] = 0.5
    """Probability of a click on the best candidate if it is examined. That of another one is the square root of their
    ratio of probabilities of being the next item, times this number."""
    examination: Annotated[float, Ge(0.0)] = 1.0
    """Exponent of the position; 0: all positions are examined."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of candidates, lists and clicks."""


@dataclass(frozen=True, eq=False)
class SimulatedImpressions:
    """Queries with candidates, a logging policy and probabilities of clicks."""

    dataset: Dataset
    settings: ImpressionSettings
    candidates_QC: Codes
    """Item codes."""
    scores_QC: Values
    """Scores of the logging policy, divided by its temperature."""
    attraction_QC: Values
    """Probability of a click on an examined item."""
    examination_K: Values
    """Probability that a position is examined."""
    propensity_QCK: Values
    """Probability that the logging policy shows a candidate at a position."""

    @classmethod
    def of(cls, dataset: Dataset, settings: ImpressionSettings) -> SimulatedImpressions:
        """Create the queries of all users of a simulated dataset.

        Raises:
            ValueError: the dataset is not simulated, or lists are longer than there are candidates.
        """
        if not settings.positions <= settings.candidates <= dataset.n_items:
            raise ValueError(
                f"candidates: got {settings.candidates}, expected {settings.positions} (positions) to "
                f"{dataset.n_items} (items)"
            )
        rng = np.random.default_rng([settings.seed, 0])
        n_queries, n_items = dataset.n_users, dataset.n_items
        order_QI = rng.random((n_queries, n_items))
        order_QI[dataset.histories.rows, dataset.histories.items] += 1.0
        candidates_QC = np.argsort(order_QI, axis=1)[:, : settings.candidates]
        queries = Queries.of_users(np.arange(n_queries, dtype=np.int32), dataset.histories)
        p_QC = np.take_along_axis(BayesOptimalRecommender(dataset).probabilities(queries), candidates_QC, axis=1)
        attraction_QC = settings.attraction * np.sqrt(p_QC / np.maximum(p_QC.max(1, keepdims=True), 1e-300))
        counts_I = np.bincount(dataset.histories.items, minlength=n_items)
        scores_QC = np.log1p(counts_I)[candidates_QC] / settings.temperature
        examination_K = np.arange(1.0, settings.positions + 1) ** -settings.examination
        propensity_QCK = plackett_luce(scores_QC, settings.positions)
        return cls(dataset, settings, candidates_QC, scores_QC, attraction_QC, examination_K, propensity_QCK)

    def value(self, probability_QCK: Values) -> float:
        """Return the value of a policy: the expected number of clicks on a list."""
        return float(self.values_by_query(probability_QCK).mean())

    def values_by_query(self, probability_QCK: Values) -> Values:
        """Return the expected number of clicks on the list of each query, ``(Q,)``."""
        values_Q: Values = ((probability_QCK @ self.examination_K) * self.attraction_QC).sum(1)
        return values_Q

    def sample(self, query_N: Codes, rng: np.random.Generator) -> tuple[Codes, NDArray[np.bool_]]:
        """Draw lists and clicks.

        Returns:
            The column of the candidate at each position, and whether it was clicked, both ``(N, K)``.
        """
        noisy_NC = self.scores_QC[query_N] + rng.gumbel(size=(len(query_N), self.scores_QC.shape[1]))
        shown_NK = np.argsort(-noisy_NC, axis=1)[:, : len(self.examination_K)]
        chances_NK = np.take_along_axis(self.attraction_QC[query_N], shown_NK, axis=1) * self.examination_K
        return shown_NK, rng.random(shown_NK.shape) < chances_NK

    def table(self) -> pl.DataFrame:
        """Return a log with one list for each user.

        The columns are ``query``, ``user``, ``time``, ``item``, ``position``, ``propensity`` (that of the item at its
        position), ``propensity_1``, ... (at each position) and ``reward`` (1 for a click).
        """
        n_queries, n_positions = len(self.scores_QC), len(self.examination_K)
        query_Q = np.arange(n_queries)
        shown_QK, clicks_QK = self.sample(query_Q, np.random.default_rng([self.settings.seed, 1]))
        users = np.repeat(query_Q, n_positions)
        position_T = np.tile(np.arange(n_positions), n_queries)
        by_position_TK = self.propensity_QCK[users, shown_QK.ravel()]
        histories = self.dataset.histories
        assert histories.times is not None
        last_Q = histories.times[histories.offsets[1:] - 1]
        return pl.DataFrame(
            {
                "query": users,
                "user": self.dataset.users.decode(users),
                "time": last_Q[users] + 3600,
                "item": self.dataset.items.decode(self.candidates_QC[users, shown_QK.ravel()]),
                "position": position_T + 1,
                "propensity": by_position_TK[np.arange(len(users)), position_T],
                **{f"propensity_{k + 1}": by_position_TK[:, k] for k in range(n_positions)},
                "reward": clicks_QK.ravel().astype(np.int64),
            }
        )

    def candidate_table(self) -> pl.DataFrame:
        """Return the candidates of each query: ``query`` and ``item``."""
        n_queries, n_candidates = self.candidates_QC.shape
        items = self.dataset.items.decode(self.candidates_QC.ravel())
        return pl.DataFrame({"query": np.repeat(np.arange(n_queries), n_candidates), "item": items})

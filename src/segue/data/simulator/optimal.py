"""Implement the Bayes-optimal recommender of a simulated world.

The module also contains the oracle and the expected NDCG.

Shapes: N queries, S states, I items, C candidates, k recommended items.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender, select_candidates
from segue.core.recommend import recommend
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.data.simulator.query_encoder import INPUTS, QueryEncoder

__all__ = ["BayesOptimalRecommender", "OracleRecommender", "expected_ndcg"]

IMPOSSIBLE = -1000.0
"""Logit of probability 0: finite, and below the logarithm of any positive number (-745)."""
BLOCK = 4_000_000
"""Probabilities held in memory at once: 32 MB."""


class BayesOptimalRecommender:
    """Exact predictive distribution of the next item given a query.

    Args:
        dataset: a simulated dataset.
        inputs: what is used besides the items of the history: ``times``, ``values``, ``profile``; ``()`` gives the
            optimum for models of item sequences.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"

    def __init__(self, dataset: Dataset, inputs: Collection[str] = INPUTS) -> None:
        self._encoder = QueryEncoder.of(dataset, inputs)
        self.schema = self._encoder.schema

    def states(self, queries: Queries) -> NDArray[np.float64]:
        """Return P(state of the next event | history), ``(N, S)``.

        The state is ``appetite * tastes + taste``.
        """
        return self._encoder.run_filter(queries)[1].belief

    def probabilities(self, queries: Queries) -> NDArray[np.float64]:
        """Return P(next item | query), ``(N, I)``, with all rows in memory at once."""
        history, after = self._encoder.run_filter(queries)
        return self._encoder.probabilities(history, after, after.belief)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return log P(next item), -1000 for impossible items.

        See :meth:`segue.core.model.Recommender.score`.
        """
        return select_candidates(_logits(self.probabilities, queries, self.schema.n_items), candidates)


class OracleRecommender:
    """Like :class:`BayesOptimalRecommender`, but with known hidden states.

    It knows the hidden state of the next event where the history is a prefix of the log of a known user; elsewhere it
    equals ``BayesOptimalRecommender``. It stores the hidden states of the whole log, two bytes per event.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"

    def __init__(self, dataset: Dataset) -> None:
        self._encoder = QueryEncoder.of(dataset, INPUTS)
        self.schema = self._encoder.schema
        chunks = list(self._encoder.world.chunks(states=True))
        self._states = np.concatenate([chunk.states for chunk in chunks])
        self._offsets = np.concatenate([[0], np.cumsum(np.concatenate([c.events.lengths for c in chunks]))])

    def states(self, queries: Queries) -> NDArray[np.float64]:
        """Return the state of the next event as an indicator, ``(N, S)``.

        If the state is not known, return its distribution.
        """
        return self._reveal_states(queries, self._encoder.run_filter(queries)[1].belief)

    def _reveal_states(self, queries: Queries, belief_NS: NDArray[np.float64]) -> NDArray[np.float64]:
        users = self._encoder.users[queries.users]
        position = self._offsets[users] + queries.history.lengths
        has_state = queries.known & (position < self._offsets[users + 1])
        state_NS = belief_NS.copy()
        state_NS[has_state] = np.eye(belief_NS.shape[1])[self._states[position[has_state]]]
        return state_NS

    def probabilities(self, queries: Queries) -> NDArray[np.float64]:
        """Return P(next item | history, state), ``(N, I)``, all rows in memory at once."""
        history, after = self._encoder.run_filter(queries)
        return self._encoder.probabilities(history, after, self._reveal_states(queries, after.belief))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return log P(next item | history, state), -1000 for impossible items."""
        return select_candidates(_logits(self.probabilities, queries, self.schema.n_items), candidates)


def _logits(probabilities: Callable[[Queries], NDArray[np.float64]], queries: Queries, n_items: int) -> Scores:
    scores_NI = np.empty((len(queries), n_items), np.float32)
    step = max(1, BLOCK // n_items)
    for start in range(0, len(queries), step):
        with np.errstate(divide="ignore"):
            log_NI = np.log(probabilities(queries.rows_between(start, start + step)))
        scores_NI[start : start + step] = np.maximum(log_NI, IMPOSSIBLE)
    return scores_NI


def expected_ndcg(
    truth: BayesOptimalRecommender | OracleRecommender,
    model: Recommender,
    queries: Queries,
    k: int = 10,
    *,
    exclude_seen: bool = True,
) -> NDArray[np.float64]:
    """Return the expected NDCG@k of ``model`` under ``truth``, ``(N,)``.

    ``truth`` is the distribution of the target. With ``model = truth`` the result is the best attainable value for
    models with the inputs of ``truth``, without the noise of sampled targets. With ``exclude_seen`` (see
    :func:`segue.core.recommend.recommend`) targets that are in the history count as missed.
    """
    parts = [np.zeros(0)]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    step = max(1, BLOCK // truth.schema.n_items)
    for start in range(0, len(queries), step):
        block = queries.rows_between(start, start + step)
        top = recommend(model, block, k, exclude_seen=exclude_seen)
        p_NK = np.take_along_axis(truth.probabilities(block), top.items, axis=1)
        p_NK[np.arange(k) >= top.lengths[:, None]] = 0.0
        parts.append(p_NK @ discounts)
    return np.concatenate(parts)

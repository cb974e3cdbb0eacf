"""The best recommender there can be in a simulated world, the oracle above it, and how near others come.

Shapes: N queries, S states, I items, C candidates, k places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender, pick_candidates
from segue.core.recommend import recommend
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.data.simulator.query_encoder import READS, Reader

__all__ = ["Optimal", "Oracle", "expected_ndcg"]

IMPOSSIBLE = -1000.0
"""The logarithm given to probability 0: finite, and below that of any positive number (-745)."""
BLOCK = 4_000_000
"""Probabilities held at once: 32 MB."""


class Optimal:
    """The exact predictive distribution of the next item given what a query shows.

    Args:
        dataset: a simulated one.
        reads: what is read beside the items of the history, out of ``times, values, profile``; ``()`` for the best
            that a model of item sequences can do.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"

    def __init__(self, dataset: Dataset, reads: Collection[str] = READS) -> None:
        self._reader = Reader.of(dataset, reads)
        self.domain = self._reader.domain

    def states(self, queries: Queries) -> NDArray[np.float64]:
        """``(N, S)`` P(state of the next event | history); state ``appetite * tastes + taste``."""
        return self._reader.follow(queries)[1].belief

    def probabilities(self, queries: Queries) -> NDArray[np.float64]:
        """``(N, I)`` P(next item | what the query shows), all rows in memory at once."""
        history, after = self._reader.follow(queries)
        return self._reader.probabilities(history, after, after.belief)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Logits: log P(next item), -1000 for what cannot come; see :meth:`segue.core.model.Recommender.score`."""
        return pick_candidates(_logits(self.probabilities, queries, self.domain.n_items), candidates)


class Oracle:
    """As :class:`Optimal`, but sees the hidden state of the next event, as no model can.

    For queries whose histories are the beginnings of the lives of known users; of others it knows as much as
    ``Optimal``. It holds the hidden states of the whole log, two bytes per event.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"

    def __init__(self, dataset: Dataset) -> None:
        self._reader = Reader.of(dataset, READS)
        self.domain = self._reader.domain
        chunks = list(self._reader.world.chunks(states=True))
        self._states = np.concatenate([chunk.states for chunk in chunks])
        self._offsets = np.concatenate([[0], np.cumsum(np.concatenate([c.events.lengths for c in chunks]))])

    def states(self, queries: Queries) -> NDArray[np.float64]:
        """``(N, S)`` 1 at the state of the next event where the world has one, else what ``Optimal`` believes."""
        return self._see(queries, self._reader.follow(queries)[1].belief)

    def _see(self, queries: Queries, belief_NS: NDArray[np.float64]) -> NDArray[np.float64]:
        users = self._reader.users[queries.users]
        place = self._offsets[users] + queries.history.lengths
        sees = queries.known & (place < self._offsets[users + 1])
        seen_NS = belief_NS.copy()
        seen_NS[sees] = np.eye(belief_NS.shape[1])[self._states[place[sees]]]
        return seen_NS

    def probabilities(self, queries: Queries) -> NDArray[np.float64]:
        """``(N, I)`` P(next item | history, state), all rows in memory at once."""
        history, after = self._reader.follow(queries)
        return self._reader.probabilities(history, after, self._see(queries, after.belief))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Logits: log P(next item | history, state), -1000 for what cannot come."""
        return pick_candidates(_logits(self.probabilities, queries, self.domain.n_items), candidates)


def _logits(probabilities: Callable[[Queries], NDArray[np.float64]], queries: Queries, n_items: int) -> Scores:
    scores_NI = np.empty((len(queries), n_items), np.float32)
    step = max(1, BLOCK // n_items)
    for start in range(0, len(queries), step):
        with np.errstate(divide="ignore"):
            log_NI = np.log(probabilities(queries.block(start, start + step)))
        scores_NI[start : start + step] = np.maximum(log_NI, IMPOSSIBLE)
    return scores_NI


def expected_ndcg(
    truth: Optimal | Oracle, model: Recommender, queries: Queries, k: int = 10, *, repeats: bool = False
) -> NDArray[np.float64]:
    """``(N,)`` NDCG@k that ``model`` is expected to reach when ``truth`` draws the one true item of each query.

    With ``truth`` for ``model`` it is the best that can be reached by anyone who reads what ``truth`` reads; without
    the noise of drawn targets. ``repeats`` as in :func:`segue.core.recommend.recommend`: without them a target from
    the history counts as missed.
    """
    parts = [np.zeros(0)]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    step = max(1, BLOCK // truth.domain.n_items)
    for start in range(0, len(queries), step):
        block = queries.block(start, start + step)
        top = recommend(model, block, k, repeats=repeats)
        p_NK = np.take_along_axis(truth.probabilities(block), top.items, axis=1)
        p_NK[np.arange(k) >= top.lengths[:, None]] = 0.0
        parts.append(p_NK @ discounts)
    return np.concatenate(parts)

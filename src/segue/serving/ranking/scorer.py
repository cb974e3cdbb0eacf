"""The sources of the fallback chain: the model, item neighbors, popularity.

Shapes: N requests, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from segue.core.model import FALLBACK_NOTES, Recommender, describe_fallbacks, is_deadline_aware, is_factored
from segue.core.recommend import PrecomputedQueries
from segue.core.state import State
from segue.core.types import Events, Mask, Queries, Recommendations
from segue.serving import schemas
from segue.serving.model_registry import LoadedModel
from segue.serving.monitoring.metrics import Metrics
from segue.serving.ranking import long_history
from segue.serving.ranking.rank_batch import SearchFn, rank_batch_in_steps
from segue.serving.rules.rerank import CompiledRules, RankedList
from segue.serving.scheduling.steps import Steps, StepTimer
from segue.serving.users.query_builder import PreparedQueries
from segue.serving.users.user_states import StateRequest, UserStates

__all__ = ["PendingRequest", "RenderedResponse", "RequestBatch", "Scorer"]


@dataclass(frozen=True)
class PendingRequest:
    """A request and its deadline."""

    request: schemas.RecommendRequest
    deadline: float
    """Time in the clock of :func:`time.monotonic` after which a response is useless."""
    is_shadow: bool = False
    """Whether it is shadow traffic, whose response is not sent and which metrics do not count."""
    is_rendered: bool = False
    """Whether the result is a :class:`RenderedResponse`; large responses as objects slow down garbage collection."""
    hides_history: bool = False
    """Whether the response leaves out what describes the user's history: the number of seen items, items outside the
    catalog, and notes."""
    model: LoadedModel | None = None
    """The model that answers, also if it is unloaded meanwhile; ``None``: the one that the request names."""


@dataclass(frozen=True)
class RenderedResponse:
    """A response as JSON."""

    text: str
    source: schemas.Source
    item_ids: list[str]
    """Recommended items, best first."""

    @classmethod
    def from_response(cls, response: schemas.RecommendResponse) -> RenderedResponse:
        """Render a response."""
        return cls(response.model_dump_json(), response.source, [item.id for item in response.items])


@dataclass(frozen=True, eq=False)
class RequestBatch:
    """Requests to one model, with the queries prepared for them."""

    model: LoadedModel
    pending: Sequence[PendingRequest]
    rules: Sequence[CompiledRules]
    prepared: PreparedQueries
    notes: tuple[str, ...] = ()
    """Notes for every response; not empty only if the event store is unavailable."""

    def select(self, rows: Sequence[int]) -> RequestBatch:
        """Return the requests with the given indices, in that order."""
        if len(rows) == len(self.pending):
            return self
        prepared = PreparedQueries(
            self.prepared.queries.take(np.array(rows, np.int64)),
            tuple(self.prepared.unknown[row] for row in rows),
            tuple(self.prepared.user_events[row] for row in rows),
            tuple(self.prepared.notes[row] for row in rows),
            tuple(self.prepared.profile_notes[row] for row in rows),
        )
        pending, rules = [self.pending[row] for row in rows], [self.rules[row] for row in rows]
        return RequestBatch(self.model, pending, rules, prepared, self.notes)

    def is_late(self, row: int) -> bool:
        """Return whether the deadline of a request has passed."""
        return time.monotonic() > self.pending[row].deadline

    @property
    def requests(self) -> list[schemas.RecommendRequest]:
        """The requests without their deadlines."""
        return [one.request for one in self.pending]


class Scorer:
    """Ranks batches of requests.

    Args:
        states: recurrent states of users, for streaming models.
    """

    def __init__(self, states: UserStates, metrics: Metrics) -> None:
        self._states, self._metrics = states, metrics

    def rank_by_model(self, batch: RequestBatch) -> Steps[list[RankedList]]:
        """Rank with the engine, from stored user states where possible."""
        timer = StepTimer()
        ranked = yield from timer.run(self._rank_by_model(batch))
        engine, model = batch.model.artifact.engine.name, batch.model.info.name
        self._metrics.record_engine_run(engine, model, timer.seconds, len(batch.pending))
        return ranked

    def _rank_by_model(self, batch: RequestBatch) -> Steps[list[RankedList]]:
        engine, queries = batch.model.artifact.engine, batch.prepared.queries
        model: Recommender = engine.model
        search: SearchFn | None = None
        if is_factored(model):
            with_state = self._rows_with_state(batch)
            vectors_ND = np.empty((len(queries), model.vectors.shape[1]), np.float32)
            if with_state:
                vectors_ND[with_state] = self.encode_from_states(
                    batch.model, batch.requests, batch.prepared, with_state
                )
            without_state = sorted({*range(len(queries))} - {*with_state})
            if batch.model.artifact.supports_streaming:  # one step for a very long history would delay other requests
                long_rows = [row for row in without_state if queries.history.lengths[row] > long_history.LONG_HISTORY]
                for row in long_rows:
                    query = queries.rows_between(row, row + 1)
                    vectors_ND[row] = yield from long_history.encode_long_history(
                        batch.model.artifact.streaming_model, query
                    )
                without_state = sorted({*without_state} - {*long_rows})
            if without_state:
                vectors_ND[without_state] = model.encode(
                    queries if len(without_state) == len(queries) else batch.select(without_state).prepared.queries
                )
            scale: Literal["logit", "score"] = getattr(model, "scale", "score")
            model = PrecomputedQueries(model.schema, scale, model.vectors, model.bias, vectors_ND)
            rows_N = np.arange(len(queries), dtype=np.int32)
            queries = Queries(queries.history, rows_N, np.ones(len(queries), np.bool_))
            if (index := batch.model.artifact.index) is not None:

                def search(
                    group_queries: Queries, k: int, seen: Events | None, allowed: Mask | None
                ) -> Recommendations:
                    return index.search(vectors_ND[group_queries.users], k, seen, allowed)

            yield
        limited = model if is_deadline_aware(model) else None
        if limited is not None:
            model = limited.until(min(one.deadline for one in batch.pending))
        ranked = yield from rank_batch_in_steps(
            model, queries, batch.requests, batch.rules, batch.model.catalog, search, batch.is_late
        )
        for row, text in describe_fallbacks(engine.model, batch.prepared.queries).items():
            if not batch.pending[row].hides_history:
                ranked[row] = replace(ranked[row], notes=(*ranked[row].notes, text))
        return ranked if limited is None else self._add_fallback_notes(batch, ranked, limited.fallbacks(queries))

    def _add_fallback_notes(
        self, batch: RequestBatch, ranked: list[RankedList], fallbacks: Mapping[int, str]
    ) -> list[RankedList]:
        """Count the requests that a simpler model answered, and note why."""
        for row, reason in fallbacks.items():
            ranked[row] = replace(ranked[row], notes=(*ranked[row].notes, f"not reranked: {FALLBACK_NOTES[reason]}"))
            if not batch.pending[row].is_shadow:
                self._metrics.record_rerank_fallback(batch.model.info.name, reason)
        return ranked

    def rank_by_neighbors(self, batch: RequestBatch) -> Steps[list[RankedList]]:
        """Rank by co-occurrence with the items of the history."""
        return self._rank_by_history(batch, batch.model.artifact.neighbors.score)

    def rank_by_popularity(self, batch: RequestBatch) -> Steps[list[RankedList]]:
        """Rank by the number of events of each item."""
        popularity_I = batch.model.artifact.popularity
        return self._rank_by_history(
            batch, lambda history: np.broadcast_to(popularity_I, (len(history), len(popularity_I)))
        )

    def encode_from_states(
        self,
        model: LoadedModel,
        requests: Sequence[schemas.RecommendRequest],
        prepared: PreparedQueries,
        rows: Sequence[int],
    ) -> Any:
        """Return the query vectors ``(len(rows), D)`` from the users' recurrent states."""
        times_N = prepared.queries.times
        times = None if times_N is None else times_N[np.array(rows, np.int64)]
        context = {name: column[np.array(rows, np.int64)] for name, column in prepared.queries.context.items()}
        state = self.update_states(model, requests, prepared, rows)
        return model.artifact.streaming_model.encode_state(state, times, context)

    def update_states(
        self,
        model: LoadedModel,
        requests: Sequence[schemas.RecommendRequest],
        prepared: PreparedQueries,
        rows: Sequence[int],
    ) -> State:
        """Return the users' recurrent states, after their newest events."""
        index = np.array(rows, np.int64)
        user_events = [one for row in rows if (one := prepared.user_events[row]) is not None]
        users = [str(requests[row].user) for row in rows]
        queries = prepared.queries
        state_request = StateRequest(users, queries.users[index], queries.known[index], user_events)
        return self._states.update(model.artifact, state_request)

    def _rows_with_state(self, batch: RequestBatch) -> list[int]:
        """Return the requests that can be answered from a stored state.

        A profile that the model reads requires encoding the whole history.
        """
        if not batch.model.artifact.supports_streaming or batch.notes:
            return []
        trained = batch.model.artifact.bundle
        profile_features = {feature.name for feature in trained.model.schema.user_features}
        profile_features |= {name for one in trained.user_text_encodings for name in one.settings["columns"]}
        answerable = [profile_features.isdisjoint(request.profile or ()) for request in batch.requests]
        return [row for row, one in enumerate(batch.prepared.user_events) if one is not None and answerable[row]]

    def _rank_by_history(self, batch: RequestBatch, scores: Callable[[Any], Any]) -> Steps[list[RankedList]]:
        schema = batch.model.artifact.bundle.model.schema
        model = _HistoryScorer(schema, scores)
        queries, requests, catalog = batch.prepared.queries, batch.requests, batch.model.catalog
        return rank_batch_in_steps(model, queries, requests, batch.rules, catalog, None, batch.is_late)


@dataclass(eq=False)
class _HistoryScorer:
    """A recommender whose scores are a function of the histories."""

    schema: Any
    scores: Callable[[Any], Any]

    def score(self, queries: Queries, candidates: Any = None) -> Any:
        """See :meth:`segue.core.model.Recommender.score`."""
        return self.scores(queries.history)

"""The steps of the ladder: lists by a model, by neighbours of a history's items, by what is popular.

Shapes: N questions, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from segue.core.model import Recommender, is_factored
from segue.core.state import Answered, State
from segue.core.types import Events, Mask, Queries, Recommendations
from segue.serving import schemas
from segue.serving.model_registry import Ready
from segue.serving.monitoring.metrics import Metrics
from segue.serving.ranking.rank_batch import Search, listed
from segue.serving.rules.rerank import Applied, Picked
from segue.serving.users.query_builder import Asked
from segue.serving.users.user_states import Followed, States

__all__ = ["Group", "Scoring", "Timed"]


@dataclass(frozen=True)
class Timed:
    """A question, and the moment of :func:`time.monotonic` after which its answer is of no use."""

    question: schemas.Question
    until: float
    unseen: bool = False
    """Whether nobody asked and nobody sees the answer, so that metrics do not count it: a shadow's."""


@dataclass(frozen=True, eq=False)
class Group:
    """Questions to one model, with what was found out about them."""

    ready: Ready
    timed: Sequence[Timed]
    rules: Sequence[Applied]
    asked: Asked
    notes: tuple[str, ...] = ()
    """What is to be told with every answer; any means that the store does not answer."""

    def take(self, rows: Sequence[int]) -> Group:
        """Some of the questions, by index, in their order."""
        if len(rows) == len(self.timed):
            return self
        asked = Asked(
            self.asked.queries.take(np.array(rows, np.int64)),
            tuple(self.asked.unknown[row] for row in rows),
            tuple(self.asked.kept[row] for row in rows),
        )
        timed, rules = [self.timed[row] for row in rows], [self.rules[row] for row in rows]
        return Group(self.ready, timed, rules, asked, self.notes)

    @property
    def questions(self) -> list[schemas.Question]:
        """The questions, without their deadlines."""
        return [timed.question for timed in self.timed]


class Scoring:
    """Lists for groups of questions.

    Args:
        states: what streaming models remember of people.
    """

    def __init__(self, states: States, metrics: Metrics) -> None:
        self._states, self._metrics = states, metrics

    def by_model(self, group: Group) -> list[Picked]:
        """By the engine; of who is known from what a streaming model remembers."""
        engine, queries = group.ready.publication.engine, group.asked.queries
        begun = time.monotonic()
        model: Recommender = engine.model
        search: Search | None = None
        if is_factored(model):
            own = self._remembered(group)
            vectors_ND = np.empty((len(queries), model.vectors.shape[1]), np.float32)
            if own:
                vectors_ND[own] = self.vectors_of_states(group.ready, group.questions, group.asked, own)
            if rest := sorted({*range(len(queries))} - {*own}):
                vectors_ND[rest] = model.encode(queries if not own else group.take(rest).asked.queries)
            scale: Literal["logit", "score"] = getattr(model, "scale", "score")
            model = Answered(model.domain, scale, model.vectors, model.bias, vectors_ND)
            rows_N = np.arange(len(queries), dtype=np.int32)
            queries = Queries(queries.history, rows_N, np.ones(len(queries), np.bool_))
            if (index := group.ready.publication.index) is not None:

                def search(asked: Queries, k: int, had: Events | None, allowed: Mask | None) -> Recommendations:
                    return index.search(vectors_ND[asked.users], k, had, allowed)

        found = listed(model, queries, group.questions, group.rules, group.ready.catalogue, search)
        self._metrics.engine(engine.name, group.ready.version.name, time.monotonic() - begun, len(queries))
        return found

    def by_neighbours(self, group: Group) -> list[Picked]:
        """By what people have together with the items of the history."""
        return self._by(group, group.ready.publication.neighbours.scores)

    def by_popularity(self, group: Group) -> list[Picked]:
        """By what most people have."""
        popularity_I = group.ready.publication.popularity
        return self._by(group, lambda history: np.broadcast_to(popularity_I, (len(history), len(popularity_I))))

    def vectors_of_states(
        self, ready: Ready, questions: Sequence[schemas.Question], asked: Asked, rows: Sequence[int]
    ) -> Any:
        """``(len(rows), D)`` the vectors of users from what the model remembers of them."""
        times_N = asked.queries.times
        times = None if times_N is None else times_N[np.array(rows, np.int64)]
        return ready.publication.streaming.answer(self.states(ready, questions, asked, rows), times)

    def states(self, ready: Ready, questions: Sequence[schemas.Question], asked: Asked, rows: Sequence[int]) -> State:
        """What the model remembers of users, brought up to date."""
        index = np.array(rows, np.int64)
        kept = [one for row in rows if (one := asked.kept[row]) is not None]
        users = [str(questions[row].user) for row in rows]
        queries = asked.queries
        wanted = Followed(users, queries.users[index], queries.known[index], kept)
        return self._states.of(ready.publication, wanted)

    def _remembered(self, group: Group) -> list[int]:
        """Questions that a memory answers; not those that tell of a person what it does not know."""
        if not group.ready.publication.streams or group.notes:
            return []
        read = {feature.name for feature in group.ready.publication.bundle.model.domain.user_features}
        known = [read.isdisjoint(question.profile or ()) for question in group.questions]
        return [row for row, one in enumerate(group.asked.kept) if one is not None and known[row]]

    def _by(self, group: Group, scores: Callable[[Any], Any]) -> list[Picked]:
        domain = group.ready.publication.bundle.model.domain
        model = _Scored(domain, scores)
        return listed(model, group.asked.queries, group.questions, group.rules, group.ready.catalogue)


@dataclass(eq=False)
class _Scored:
    """Scores of the whole catalogue by a function of the histories, as a recommender."""

    domain: Any
    scores: Callable[[Any], Any]

    def score(self, queries: Queries, candidates: Any = None) -> Any:
        """See :meth:`segue.core.model.Recommender.score`."""
        return self.scores(queries.history)

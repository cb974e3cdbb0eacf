"""The service itself, without HTTP: questions and events in, answers out, many at once.

Trouble leads down a ladder: the model that was asked, a cheaper one where the operator named one, neighbours of the
history's items, what is popular. The lower steps need no engine; an answer always comes, and says which step gave it.

Shapes: N questions, I items, D width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from segue.core.model import Factored, Recommender, Streaming
from segue.core.stream import Answered
from segue.core.types import Queries
from segue.serving import wire
from segue.serving.drift import Drift
from segue.serving.faults import track
from segue.serving.instruments import RULES
from segue.serving.ladder import Pace
from segue.serving.lists import listed
from segue.serving.metrics import Metrics
from segue.serving.people import Asked, People
from segue.serving.rules import Applied, Picked, applied
from segue.serving.settings import Serving
from segue.serving.shelf import Ready, Shelf
from segue.serving.states import Followed, States, streams
from segue.serving.stores.store import Event, Store, StoreError

__all__ = ["Job", "Refused", "Service", "Timed"]

logger = logging.getLogger("segue.serving")

UNREACHED = "the store does not answer: what came in since training is not known, nor what was there in training"


class Refused(ValueError):
    """A question that cannot be answered as it is: which ``field``, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field, self.why = field, why


@dataclass(frozen=True)
class Timed:
    """A question, and the moment of :func:`time.monotonic` after which its answer is of no use."""

    question: wire.Question
    until: float


Job: TypeAlias = Timed | Callable[[], Any]
"""What the one thread that may use the engines does: answers a question, or anything else that needs them."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Questions to one model, with what was found out about them."""

    ready: Ready
    timed: Sequence[Timed]
    rules: Sequence[Applied]
    asked: Asked
    notes: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> _Group:
        asked = Asked(
            self.asked.queries.take(np.array(rows, np.int64)),
            tuple(self.asked.unknown[row] for row in rows),
            tuple(self.asked.kept[row] for row in rows),
        )
        timed, rules = [self.timed[row] for row in rows], [self.rules[row] for row in rows]
        return _Group(self.ready, timed, rules, asked, self.notes)

    @property
    def questions(self) -> list[wire.Question]:
        return [timed.question for timed in self.timed]


class Service:
    """Answers, and takes events.

    Args:
        shelf: the models.
        kept: what is known of people.
        drifts: by model, what watches how far the questions are from training; new ones may come in.
    """

    def __init__(
        self, shelf: Shelf, kept: Store, settings: Serving, metrics: Metrics, drifts: Mapping[str, Drift] | None = None
    ) -> None:
        self.shelf, self.store, self.settings, self.metrics = shelf, kept, settings, metrics
        self.people = People(kept, settings.recent)
        self._states = States(kept)
        self._drifts = {} if drifts is None else drifts
        self._pace = Pace()

    def work(self, jobs: Sequence[Job]) -> list[Any]:
        """What each job comes to, or its exception; for one thread at a time."""
        done: list[Any] = [None] * len(jobs)
        timed = [(row, job) for row, job in enumerate(jobs) if isinstance(job, Timed)]
        for (row, _), answer in zip(timed, self.answer([job for _, job in timed]), strict=True):
            done[row] = answer
        for row, job in enumerate(jobs):
            if not isinstance(job, Timed):
                try:
                    done[row] = job()
                except Exception as error:
                    done[row] = error
        return done

    def answer(self, asked: Sequence[Timed]) -> list[wire.Answer | Refused]:
        """An answer to each question, or why there is none: a model or a feature that there is not, or rules that
        do not go together."""
        found: dict[int, wire.Answer | Refused] = {}
        groups: dict[str, tuple[Ready, list[int], list[Applied]]] = {}
        for row, timed in enumerate(asked):
            try:
                ready = self._model(timed.question)
                rules = self._rules(ready, timed.question)
            except Refused as refused:
                found[row] = refused
                continue
            _, rows, all_rules = groups.setdefault(ready.version.name, (ready, [], []))
            rows.append(row)
            all_rules.append(rules)
        for ready, rows, all_rules in groups.values():
            group = self._group(ready, [asked[row] for row in rows], all_rules)
            self._note(group)
            found.update(zip(rows, self._climb(group), strict=True))
        return [found[row] for row in range(len(asked))]

    def take(self, events: Sequence[Event]) -> list[bool]:
        """Keep events; whether each is new.

        Raises:
            StoreError: nothing was kept.
        """
        begun, failed = time.monotonic(), True
        try:
            new = self.store.append(events)
            failed = False
        finally:
            self.metrics.store(self.store.name, "append", time.monotonic() - begun, failed)
        return new

    def follow(self, users: Sequence[str]) -> None:
        """Bring what the active model remembers of users up to date; for the thread that may use the engines."""
        ready = self.shelf.active
        if streams(ready.publication):
            questions = [wire.Question(user=user) for user in dict.fromkeys(users)]
            asked = self.people.ask(ready.publication, questions)
            self._vectors_of_states(ready, questions, asked, list(range(len(questions))))

    def _model(self, question: wire.Question) -> Ready:
        try:
            return self.shelf.find(question.model)
        except ValueError as error:
            raise Refused("model", str(error).removeprefix("model: ")) from None

    def _rules(self, ready: Ready, question: wire.Question) -> Applied:
        try:
            return applied(question, self.settings.rules, ready.catalogue)
        except ValueError as error:
            field, _, why = str(error).partition(": ")
            raise Refused(field, why) from None

    def _group(self, ready: Ready, timed: Sequence[Timed], rules: Sequence[Applied]) -> _Group:
        questions = [one.question for one in timed]
        begun, failed = time.monotonic(), False
        notes: tuple[str, ...] = ()
        try:
            asked = self.people.ask(ready.publication, questions)
        except StoreError as error:
            failed, notes = True, (UNREACHED,)
            self.metrics.error("store")
            logger.error("the store cannot be read", extra={"traceback": track(error)})
            asked = self.people.ask(ready.publication, questions, alone=True)
        if any(one.user is not None and one.history is None for one in questions):
            self.metrics.store(self.store.name, "kept", time.monotonic() - begun, failed)
        return _Group(ready, timed, rules, asked, notes)

    def _note(self, group: _Group) -> None:
        """Tell metrics what was asked."""
        queries, questions = group.asked.queries, group.questions
        users = {"none": 0, "known": 0, "unknown": 0}
        for question, unknown in zip(questions, group.asked.unknown, strict=True):
            users["none" if question.user is None else "unknown" if unknown.user else "known"] += 1
        strange = sum(len(unknown.items) for unknown in group.asked.unknown)
        rules = [name for question in questions for name in RULES if getattr(question, name)]
        self.metrics.asked(queries.history.lengths, [question.k for question in questions], users, strange, rules)
        if (drift := self._drifts.get(group.ready.version.name)) is not None:
            drift.asked(queries.history)

    def _climb(self, group: _Group) -> list[wire.Answer]:
        """Down the ladder until every question has its answer."""
        answers: dict[int, wire.Answer] = {}
        causes = ["none"] * len(group.timed)
        steps: list[tuple[wire.Step, Callable[[_Group], list[Picked]]]] = [("model", self._by_model)]
        fallback = self._fallback(group.ready)
        if fallback is not None:
            steps.append(("fallback", self._by_model))
        steps += [("neighbours", self._by_neighbours), ("popular", self._by_popularity)]
        for step, compute in steps:
            left = [row for row in range(len(group.timed)) if row not in answers]
            if not left:
                break
            pace = f"{group.ready.version.name}/{step}"
            now = time.monotonic()
            rows = [row for row in left if step == "popular" or self._pace.fits(pace, group.timed[row].until - now)]
            for row in set(left) - set(rows):
                causes[row] = "deadline"
            if step == "neighbours":  # which know nothing of who has no history
                lengths_N = group.asked.queries.history.lengths
                rows = [row for row in rows if lengths_N[row]]
            if not rows:
                continue
            part = group.take(rows)
            if step == "fallback" and fallback is not None:
                part = self._group(fallback, part.timed, [self._rules(fallback, one) for one in part.questions])
            try:
                with self._pace.timed(pace):
                    picked = compute(part)
            except Exception as error:
                self.metrics.error("store" if isinstance(error, StoreError) else "engine")
                told = {"traceback": track(error)}
                logger.error("step %s of model %s failed", step, part.ready.version.name, extra=told)
                for row in rows:
                    causes[row] = "error"
                continue
            for index, (row, one) in enumerate(zip(rows, picked, strict=True)):
                answers[row] = self._told(part, index, one, step, causes[row])
                self.metrics.step(step, causes[row])
        return [answers[row] for row in range(len(group.timed))]

    def _fallback(self, ready: Ready) -> Ready | None:
        name = self.settings.fallback
        if name is None or name == ready.version.name:
            return None
        try:
            return self.shelf.find(name)
        except ValueError as error:
            logger.error("the fallback cannot be opened", extra={"traceback": track(error)})
            return None

    def _by_model(self, group: _Group) -> list[Picked]:
        engine, queries = group.ready.publication.engine, group.asked.queries
        begun = time.monotonic()
        model: Recommender = engine.model
        if isinstance(model, Factored):
            own = [row for row, one in enumerate(group.asked.kept) if one is not None] if self._streams(group) else []
            vectors_ND = np.empty((len(queries), model.vectors.shape[1]), np.float32)
            if own:
                vectors_ND[own] = self._vectors_of_states(group.ready, group.questions, group.asked, own)
            if rest := [row for row in range(len(queries)) if row not in set(own)]:
                vectors_ND[rest] = model.encode(queries if not own else group.take(rest).asked.queries)
            scale: Literal["logit", "score"] = getattr(model, "scale", "score")
            model = Answered(model.domain, scale, model.vectors, model.bias, vectors_ND)
            rows_N = np.arange(len(queries), dtype=np.int32)
            queries = Queries(queries.history, rows_N, np.ones(len(queries), np.bool_))
        found = listed(model, queries, group.questions, group.rules, group.ready.catalogue)
        self.metrics.engine(engine.name, group.ready.version.name, time.monotonic() - begun, len(queries))
        return found

    def _streams(self, group: _Group) -> bool:
        return streams(group.ready.publication) and not group.notes

    def _vectors_of_states(
        self, ready: Ready, questions: Sequence[wire.Question], asked: Asked, rows: Sequence[int]
    ) -> Any:
        """``(len(rows), D)`` the vectors of users from what the model remembers of them."""
        model = ready.publication.bundle.model
        assert isinstance(model, Streaming)
        index = np.array(rows, np.int64)
        kept = [one for row in rows if (one := asked.kept[row]) is not None]
        users = [str(questions[row].user) for row in rows]
        queries = asked.queries
        wanted = Followed(users, queries.users[index], queries.known[index], kept)
        times = None if queries.times is None else queries.times[index]
        return model.answer(self._states.of(ready.publication, wanted), times)

    def _by_neighbours(self, group: _Group) -> list[Picked]:
        return self._by(group, group.ready.publication.neighbours.scores)

    def _by_popularity(self, group: _Group) -> list[Picked]:
        popularity_I = group.ready.publication.popularity
        return self._by(group, lambda history: np.tile(popularity_I, (len(history), 1)))

    def _by(self, group: _Group, scores: Callable[[Any], Any]) -> list[Picked]:
        domain = group.ready.publication.bundle.model.domain
        model = _Scored(domain, scores)
        return listed(model, group.asked.queries, group.questions, group.rules, group.ready.catalogue)

    def _told(self, group: _Group, row: int, picked: Picked, step: wire.Step, cause: str) -> wire.Answer:
        """The answer as it goes over the wire; it is made of what is known to be right, and not checked again."""
        ready, rules = group.ready, group.rules[row]
        codes = picked.codes
        shares = [None] * len(codes) if picked.probabilities is None else picked.probabilities.tolist()
        columns = ready.catalogue.ids(codes), ready.catalogue.titles(codes), picked.scores.tolist(), shares
        items = [
            wire.Ranked.model_construct(id=item, title=title, score=score, probability=share, pinned=pinned)
            for item, title, score, share, pinned in zip(*columns, picked.pinned.tolist(), strict=True)
        ]
        unknown = group.asked.unknown[row]
        if rules.unknown_items or rules.unknown_features:
            unknown = wire.Unknown(
                user=unknown.user,
                items=[*unknown.items, *rules.unknown_items],
                features=[*unknown.features, *rules.unknown_features],
            )
        notes = [*group.notes, *picked.notes]
        if cause != "none":
            told = {"deadline": "would not have answered in time", "error": "failed"}[cause]
            notes.append(f"the model that was asked {told}; this is the answer of step '{step}'")
        self.metrics.served(codes, ready.publication.popularity, ready.catalogue.n_items, ready.version.name)
        removed = {**rules.removed, **picked.removed}
        return wire.Answer.model_construct(
            items=items, model=ready.version, step=step, removed=removed, unknown=unknown, notes=notes
        )


@dataclass(eq=False)
class _Scored:
    """Scores of the whole catalogue by a function of the histories, as a recommender."""

    domain: Any
    scores: Callable[[Any], Any]

    def score(self, queries: Queries, candidates: Any = None) -> Any:
        """See :meth:`segue.core.model.Recommender.score`."""
        return self.scores(queries.history)

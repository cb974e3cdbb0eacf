"""The service itself, without HTTP: questions and events in, answers out, many at once.

Trouble leads down a ladder: the model that was asked, a cheaper one where the operator named one, neighbours of the
history's items, what is popular. The lower steps need no engine; an answer always comes, and says which step gave it.

Shapes: N questions, I items, D width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from segue.serving import schemas
from segue.serving.errors import track
from segue.serving.model_registry import Ready, Shelf
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metrics import Metrics
from segue.serving.ranking.bisect_failures import apart, note
from segue.serving.ranking.latency_estimator import Pace
from segue.serving.ranking.response import told
from segue.serving.ranking.scorer import Group, Scoring, Timed
from segue.serving.rules.rerank import Applied, Picked, applied
from segue.serving.settings import Serving
from segue.serving.stores.store import Event, Exposure, Store, StoreError
from segue.serving.stores.timeout import Timely
from segue.serving.users.query_builder import People
from segue.serving.users.user_features import fitted
from segue.serving.users.user_states import States

__all__ = ["Job", "Refused", "Service", "Timed"]

logger = logging.getLogger("segue.serving")

UNREACHED = "the store does not answer: what came in since training is not known, nor what was there in training"


class Refused(ValueError):
    """A question that cannot be answered as it is: which ``field``, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field, self.why = field, why


Job: TypeAlias = Timed | Callable[[], Any]
"""What the one thread that may use the engines does: answers a question, or anything else that needs them."""


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
        self._reads = Timely(kept, settings.store_ms / 1000)
        self.people = People(self._reads, settings.recent)
        self._scoring = Scoring(States(self._reads), metrics)
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

    def answer(self, asked: Sequence[Timed]) -> list[schemas.Answer | Refused | Exception]:
        """An answer to each question, or why there is none: a model or a feature that there is not, a profile that
        does not fit, rules that do not go together; or what nothing foresaw."""
        found: dict[int, schemas.Answer | Refused | Exception] = {}
        groups: dict[str, tuple[Ready, list[int], list[Applied]]] = {}
        for row, timed in enumerate(asked):
            try:
                ready = self._model(timed.question)
                rules = self._rules(ready, timed.question)
                self._fit(ready, timed.question)
            except Refused as refused:
                found[row] = refused
                continue
            except Exception as error:  # such as a file of a model that cannot be read; no other question is to know
                found[row] = error
                continue
            _, rows, all_rules = groups.setdefault(ready.version.name, (ready, [], []))
            rows.append(row)
            all_rules.append(rules)
        for ready, rows, all_rules in groups.values():
            answers = self._together(ready, [asked[row] for row in rows], all_rules)
            found.update(zip(rows, answers, strict=True))
        return [found[row] for row in range(len(asked))]

    def close(self) -> None:
        """Leave the store; nothing is asked of it afterwards."""
        self._reads.close()
        self.store.close()

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

    def show(self, exposures: Sequence[Exposure]) -> list[None]:
        """Keep what was shown.

        Raises:
            StoreError: nothing was kept.
        """
        begun, failed = time.monotonic(), True
        try:
            self.store.expose(exposures)
            failed = False
        finally:
            self.metrics.store(self.store.name, "expose", time.monotonic() - begun, failed)
        return [None] * len(exposures)

    def follow(self, users: Sequence[str]) -> None:
        """Bring what the active model remembers of users up to date; for the thread that may use the engines."""
        ready = self.shelf.active
        if ready.publication.streams:
            questions = [schemas.Question(user=user) for user in dict.fromkeys(users)]
            asked = self.people.ask(ready.publication, questions)
            self._scoring.states(ready, questions, asked, list(range(len(questions))))

    def tidy(self) -> int:
        """Delete what models that are no longer at hand remember of people; of how many memories.

        Raises:
            StoreError: the store fails; some may be gone.
        """
        return self.store.prune(self.shelf.versions())

    def _together(
        self, ready: Ready, timed: Sequence[Timed], rules: Sequence[Applied]
    ) -> list[schemas.Answer | Refused | Exception]:
        """The answers to questions that one model is asked; where something fails that nothing foresaw, those of each
        half by itself, so that what is wrong with one question is not everybody's."""
        try:
            group = self._group(ready, timed, rules)
            self._note(group)
            return list(self._climb(group))
        except Exception as error:
            if len(timed) == 1:
                return [error]
        half = len(timed) // 2
        return self._together(ready, timed[:half], rules[:half]) + self._together(ready, timed[half:], rules[half:])

    def _fit(self, ready: Ready, question: schemas.Question) -> None:
        try:
            fitted(ready.publication.bundle.model.domain.user_features, question.profile)
        except ValueError as error:
            field, _, why = str(error).partition(": ")
            raise Refused(field, why) from None

    def _model(self, question: schemas.Question) -> Ready:
        try:
            return self.shelf.find(question.model)
        except ValueError as error:
            raise Refused("model", str(error).removeprefix("model: ")) from None

    def _rules(self, ready: Ready, question: schemas.Question) -> Applied:
        try:
            return applied(question, self.settings.rules, ready.catalogue)
        except ValueError as error:
            field, _, why = str(error).partition(": ")
            raise Refused(field, why) from None

    def _group(self, ready: Ready, timed: Sequence[Timed], rules: Sequence[Applied]) -> Group:
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
        return Group(ready, timed, rules, asked, notes)

    def _note(self, group: Group) -> None:
        """Tell metrics what was asked."""
        if seen := [row for row, timed in enumerate(group.timed) if not timed.unseen]:
            note(group.take(seen), self.metrics, self._drifts.get(group.ready.version.name))

    def _climb(self, group: Group) -> list[schemas.Answer]:
        """Down the ladder until every question has its answer."""
        answers: dict[int, schemas.Answer] = {}
        causes = ["none"] * len(group.timed)
        steps: list[tuple[schemas.Step, Callable[[Group], list[Picked]]]] = [("model", self._scoring.by_model)]
        fallback = self._fallback(group.ready)
        if fallback is not None:
            steps.append(("fallback", self._scoring.by_model))
        steps += [("neighbours", self._scoring.by_neighbours), ("popular", self._scoring.by_popularity)]
        for step, compute in steps:
            left = [row for row in range(len(group.timed)) if row not in answers]
            if not left:
                break
            pace = f"{group.ready.version.name}/{step}/{_size([group.rules[row] for row in left])}"
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
                try:
                    rows, part = self._instead(fallback, rows, part)
                except Exception as error:
                    self.metrics.error("engine")
                    extra = {"traceback": track(error)}
                    logger.error("model %s cannot be asked instead", fallback.version.name, extra=extra)
                    continue
            if not rows:
                continue
            picked: Sequence[Picked | Exception]
            try:
                with self._pace.timed(pace):
                    picked = compute(part)
            except Exception as error:
                picked = apart(compute, part, error)
            if failed := [one for one in picked if isinstance(one, Exception)]:
                self.metrics.error("store" if isinstance(failed[0], StoreError) else "engine")
                extra = {"traceback": track(failed[0])}
                logger.error("step %s of model %s failed", step, part.ready.version.name, extra=extra)
            for index, (row, one) in enumerate(zip(rows, picked, strict=True)):
                if isinstance(one, Exception):
                    causes[row] = "store" if isinstance(one, StoreError) else "error"
                    continue
                answers[row] = told(part, index, one, step, causes[row])
                if group.timed[row].unseen:
                    continue
                ready = part.ready
                popularity_I, n_items = ready.publication.popularity, ready.catalogue.n_items
                self.metrics.served(one.codes, popularity_I, n_items, ready.version.name)
                self.metrics.step(step, causes[row])
        return [answers[row] for row in range(len(group.timed))]

    def _instead(self, fallback: Ready, rows: list[int], group: Group) -> tuple[list[int], Group]:
        """The questions that another model can answer, by their rows, as it takes them: its features may be others."""
        found: list[tuple[int, Timed, Applied]] = []
        for row, timed in zip(rows, group.timed, strict=True):
            with suppress(Refused):
                self._fit(fallback, timed.question)
                found.append((row, timed, self._rules(fallback, timed.question)))
        taken = [timed for _, timed, _ in found], [rules for _, _, rules in found]
        return [row for row, _, _ in found], self._group(fallback, *taken) if found else group

    def _fallback(self, ready: Ready) -> Ready | None:
        name = self.settings.fallback
        if name is None or name == ready.version.name:
            return None
        try:
            return self.shelf.find(name)
        except ValueError as error:
            logger.error("the fallback cannot be opened", extra={"traceback": track(error)})
            return None


def _size(rules: Sequence[Applied]) -> str:
    """About how much is asked at once: what took long for many, or for rules, is no sign for a plain question."""
    return f"{len(rules).bit_length()}{'' if all(one.plain for one in rules) else ' with rules'}"

"""Questions: what next, and why?"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Response

from segue.serving import schemas
from segue.serving.api.dependencies import MISSING, Desk, good, invalid, reply
from segue.serving.errors import Problem, track
from segue.serving.experiments.assignment import Route
from segue.serving.experiments.rank_biased_overlap import overlap
from segue.serving.explain.explain import explain
from segue.serving.rules.rerank import applied
from segue.serving.service import Job, Refused, Timed
from segue.serving.stores.store import Exposure, StoreError
from segue.serving.users.user_features import fitted

__all__ = ["Answering"]

HEAVY = 8
"""Plain questions that a question whose list is made place by place counts as."""

MOST_EXPOSING, MOST_SHADOWED = 1_000, 64
"""Requests whose exposures may wait for the store, and those whose shadows may wait to be asked."""

logger = logging.getLogger("segue.serving")


class Answering:
    """The routes that ask models."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._exposing = self._shadowed = 0

    def add(self, router: APIRouter) -> None:
        """Declare the routes."""
        router.add_api_route("/recommend", self.recommend, methods=["POST"], response_model=schemas.Answer)
        router.add_api_route("/recommend/batch", self.recommend_batch, methods=["POST"], response_model=schemas.Answers)
        router.add_api_route(
            "/explain", self.explain, methods=["POST"], response_model=schemas.Explanation, responses=MISSING
        )

    async def recommend(self, question: schemas.Question) -> Response:
        """What next, for one?"""
        (answer,) = await self._answered([question], "")
        return reply(answer)

    async def recommend_batch(self, questions: schemas.Questions) -> Response:
        """What next, for several at once?"""
        most = self._desk.service.settings.most_questions
        if len(questions.questions) > most:
            raise invalid("questions", f"got {len(questions.questions)}, expected at most {most}")
        answers = await self._answered(questions.questions, "questions")
        return reply(schemas.Answers.model_construct(answers=answers))

    async def explain(self, question: schemas.WhyQuestion) -> Response:
        """Why is this item recommended, or why not?"""
        self._desk.check([question], "")
        route = None if question.model is not None else self._desk.experiments.route(question.user)
        ready = await self._desk.ready(question.model if route is None else route.model)
        codes, _ = ready.catalogue.encode([question.item])
        if not len(codes):
            raise Problem(404, message="item: not in the catalogue", fields={"item": "not in the catalogue"})

        def job() -> schemas.Explanation:
            try:
                fitted(ready.publication.bundle.model.domain.user_features, question.profile)
                rules = applied(question, self._desk.service.settings.rules, ready.catalogue)
            except ValueError as error:
                field, _, why = str(error).partition(": ")
                raise Refused(field, why) from None
            asked = self._desk.service.people.ask(ready.publication, [question])
            told: schemas.Explanation = explain(
                ready.publication.engine.model,
                asked.queries,
                int(codes[0]),
                rules,
                question.k,
                question.repeats,
                ready.catalogue,
                ready.publication.neighbours,
                ready.version,
            )
            return told

        (found,) = await self._desk.asked([job])
        if isinstance(found, StoreError):
            raise self._desk.broken("kept", found)
        if isinstance(found, Refused):
            raise invalid(found.field, found.why)
        return reply(good(found))

    async def _answered(self, questions: Sequence[schemas.Question], where: str) -> list[schemas.Answer]:
        """The answers to questions that stand in the field ``where`` of a request, if not alone."""
        arrived, settings = time.monotonic(), self._desk.service.settings
        self._desk.check(questions, where)
        routes = [
            None if question.model is not None else self._desk.experiments.route(question.user)
            for question in questions
        ]
        jobs: list[Timed] = []
        for question, route in zip(questions, routes, strict=True):
            sent = question if route is None else question.model_copy(update={"model": route.model})
            jobs.append(Timed(sent, arrived + (question.deadline_ms or settings.deadline_ms) / 1000))
        first: dict[str | None, int] = {}
        for place, job in enumerate(jobs):
            first.setdefault(job.question.model, place)
        for model, place in first.items():  # opened here, as the thread that answers has others to answer
            await self._desk.ready(model, f"{where}[{place}].model" if where else "model")
        found = [answer for some in _slices(jobs, settings.batch) for answer in await self._desk.asked(some)]
        answers: list[schemas.Answer] = []
        for place, answer in enumerate(found):
            if isinstance(answer, Refused):
                field = f"{where}[{place}].{answer.field}" if where else answer.field
                raise invalid(field, answer.why)
            answers.append(good(answer))
            self._desk.figures.step(answers[-1].step)
        if any(route is not None for route in routes):
            self._expose(questions, routes, answers)
        return answers

    def _expose(
        self, questions: Sequence[schemas.Question], routes: Sequence[Route | None], answers: Sequence[schemas.Answer]
    ) -> None:
        """Keep what was shown in experiments, and ask shadows, when the answers are on their way."""
        now = int(time.time())
        shown = [
            (question, route, [item.id for item in answer.items])
            for question, route, answer in zip(questions, routes, answers, strict=True)
            if route is not None
        ]

        exposures = [
            Exposure(route.experiment, route.variant, str(question.user), now, tuple(items))
            for question, route, items in shown
        ]

        async def expose() -> None:
            try:
                await self._desk.exposed.ask(exposures)
            except Exception as error:
                self._desk.service.metrics.error("exposure")
                logger.error("what was shown could not be kept", extra={"traceback": track(error)})
            finally:
                self._exposing -= 1

        async def shadow() -> None:
            try:
                for question, route, items in shown:
                    if route.shadow is not None and not self._desk.closing:
                        asked = question.model_copy(update={"model": route.shadow})
                        (other,) = await self._desk.answers.ask([Timed(asked, time.monotonic() + 60, unseen=True)])
                        alike = overlap(items, [item.id for item in good(other).items])
                        logger.info("shadow", extra={"experiment": route.experiment, "overlap": round(alike, 4)})
            except Exception as error:
                self._desk.service.metrics.error("shadow")
                logger.error("a shadow could not be asked", extra={"traceback": track(error)})
            finally:
                self._shadowed -= 1

        if self._exposing < MOST_EXPOSING:
            self._exposing += 1
            self._desk.later(expose())
        else:
            self._desk.service.metrics.error("exposure")
            logger.error("what was shown could not be kept: too much waits for the store")
        if self._shadowed < MOST_SHADOWED and any(route.shadow is not None for _, route, _ in shown):
            self._shadowed += 1
            self._desk.later(shadow())


def _slices(jobs: Sequence[Timed], most: int) -> Iterator[list[Job]]:
    """Jobs a few at a time, so that what others ask meanwhile is answered between them."""
    some: list[Job] = []
    taken = 0
    for job in jobs:
        asked = job.question
        weight = HEAVY if asked.diversify or asked.most or asked.boosts or asked.pins else 1
        if some and taken + weight > most:
            yield some
            some, taken = [], 0
        some.append(job)
        taken += weight
    if some:
        yield some

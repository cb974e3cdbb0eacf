"""The routes under ``/v1``: each turns a request into a question, an event or a look, and an answer into JSON."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from segue.serving import wire
from segue.serving.batcher import Batcher, Busy
from segue.serving.explain import explain
from segue.serving.faults import Problem, track
from segue.serving.limits import Slots
from segue.serving.live import Figures
from segue.serving.overlap import overlap
from segue.serving.routing import Experiments, Route
from segue.serving.rules import applied
from segue.serving.service import Job, Refused, Service, Timed
from segue.serving.shelf import Ready
from segue.serving.stores.store import Event, Exposure, StoreError

__all__ = ["Api"]

logger = logging.getLogger("segue.serving")

FAULTS: dict[int | str, dict[str, Any]] = {
    code: {"model": wire.Fault, "description": text}
    for code, text in {
        400: "The request cannot be read.",
        401: "A key is needed.",
        403: "The key may not do that.",
        408: "The request took too long to arrive.",
        413: "The request is too large.",
        415: "Not JSON.",
        422: "The request is not as expected.",
        429: "Too many requests with this key.",
        503: "Too much is going on, or the store does not answer.",
    }.items()
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": wire.Fault, "description": "There is no such thing."}}
CLASHING: dict[int | str, dict[str, Any]] = {409: {"model": wire.Fault, "description": "Not as things stand."}}
PAGE = 1_000
"""Items, users or events that one look shows at most."""

Limit = Annotated[int, Query(ge=1, le=PAGE, description="How many at most.")]
Name = Annotated[str, Path(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Query(max_length=256, description="Words of titles or ids; empty: the most popular.")]


class Api:
    """What the routes need.

    Args:
        answers: the queue in front of the thread that may use the engines.
        intake: the queue in front of the thread that writes events.
        slots: those of requests that are being answered.
    """

    def __init__(
        self,
        service: Service,
        experiments: Experiments,
        answers: Batcher[Job, Any],
        intake: Batcher[Event, bool],
        figures: Figures,
        slots: Slots,
    ) -> None:
        self.service, self.experiments, self.figures, self.slots = service, experiments, figures, slots
        self.answers, self.intake = answers, intake
        self._background: set[asyncio.Task[None]] = set()

    @property
    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/v1", responses=FAULTS)
        posts: list[tuple[str, Any, type[BaseModel], dict[int | str, dict[str, Any]]]] = [
            ("/recommend", self.recommend, wire.Answer, {}),
            ("/recommend/batch", self.recommend_batch, wire.Answers, {}),
            ("/explain", self.explain, wire.Explanation, MISSING),
            ("/events", self.event, wire.Taken, {}),
            ("/events/batch", self.events, wire.Taken, {}),
            ("/models/rollback", self.rollback, wire.Models, CLASHING),
            ("/models/{name}/activate", self.activate, wire.Models, MISSING | CLASHING),
        ]
        looks: list[tuple[str, Any, type[BaseModel], dict[int | str, dict[str, Any]]]] = [
            ("/items", self.items, wire.Items, {}),
            ("/items/{id}", self.item, wire.Item, MISSING),
            ("/items/{id}/similar", self.similar, wire.Items, MISSING),
            ("/users", self.users, wire.Persons, {}),
            ("/users/{id}", self.person, wire.Person, {}),
            ("/models", self.models, wire.Models, {}),
            ("/live", self.live, wire.Live, {}),
        ]
        for method, routes in (("POST", posts), ("GET", looks)):
            for path, function, answer, more in routes:
                router.add_api_route(path, function, methods=[method], response_model=answer, responses=more)
        router.add_api_route("/users/{id}", self.forget, methods=["DELETE"], response_model=wire.Forgotten)
        return router

    async def recommend(self, question: wire.Question, request: Request) -> Response:
        """What next, for one?"""
        (answer,) = await self._answered([question])
        return _json(answer)

    async def recommend_batch(self, questions: wire.Questions, request: Request) -> Response:
        """What next, for several at once?"""
        most = self.service.settings.most_questions
        if len(questions.questions) > most:
            raise _invalid("questions", f"got {len(questions.questions)}, expected at most {most}")
        answers = await self._answered(questions.questions)
        return _json(wire.Answers.model_construct(answers=answers))

    async def explain(self, question: wire.WhyQuestion) -> Response:
        """Why is this item recommended, or why not?"""
        self._check([question], "")
        ready = self._ready(question.model)
        codes, _ = ready.catalogue.encode([question.item])
        if not len(codes):
            raise Problem(404, message="item: not in the catalogue", fields={"item": "not in the catalogue"})

        def job() -> wire.Explanation:
            asked = self.service.people.ask(ready.publication, [question])
            told: wire.Explanation = explain(
                ready.publication.engine.model,
                asked.queries,
                int(codes[0]),
                applied(question, self.service.settings.rules, ready.catalogue),
                question.k,
                question.repeats,
                ready.catalogue,
                ready.publication.neighbours,
                ready.version,
            )
            return told

        (found,) = await self._asked([job])
        if isinstance(found, ValueError):
            field, _, why = str(found).partition(": ")
            raise _invalid(field, why or field)
        return _json(_good(found))

    async def event(self, event: wire.Event) -> Response:
        """Something happened. It is on disk when this is answered, and the next answer knows it."""
        return await self._taken([event])

    async def events(self, events: wire.Events) -> Response:
        """Several things happened: all are kept, or none."""
        most = self.service.settings.most_events
        if len(events.events) > most:
            raise _invalid("events", f"got {len(events.events)}, expected at most {most}")
        return await self._taken(events.events)

    async def items(self, query: Text = "", limit: Limit = 20) -> Response:
        """Items by words of their titles, or the most popular."""
        catalogue = self.service.shelf.active.catalogue
        found = await asyncio.to_thread(lambda: [catalogue.item(int(code)) for code in catalogue.search(query, limit)])
        return _json(wire.Items(items=found))

    async def item(self, id: Name) -> Response:  # noqa: A002
        """One item of the catalogue."""
        catalogue = self.service.shelf.active.catalogue
        return _json(catalogue.item(_code(self.service.shelf.active, id)))

    async def similar(
        self,
        id: Name,  # noqa: A002
        k: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> Response:
        """Items that people have together with this one."""
        ready = self.service.shelf.active
        codes, likeness = ready.publication.neighbours.of(_code(ready, id), k)
        found = [
            ready.catalogue.item(code, min(1.0, like))
            for code, like in zip(codes.tolist(), likeness.tolist(), strict=True)
        ]
        return _json(wire.Items(items=found))

    async def users(
        self, query: Annotated[str, Query(max_length=256, description="The beginning of ids.")] = "", limit: Limit = 20
    ) -> Response:
        """Users that were there in training, by the beginning of their ids."""
        ids = self.service.shelf.active.publication.bundle.users.ids

        def look() -> list[str]:
            found = ids if not query else ids.filter(ids.str.starts_with(query))
            return [str(one) for one in found.head(limit)]

        return _json(wire.Persons(users=await asyncio.to_thread(look)))

    async def person(self, id: Name, limit: Limit = 200) -> Response:  # noqa: A002
        """What is known of a user: the newest events, oldest first."""
        return _json(await self._stored("kept", lambda: self._person(id, limit)))

    async def forget(self, id: Name) -> Response:  # noqa: A002
        """Delete what came in of a user; what was there in training is not used for him any more."""
        count = await self._stored("forget", lambda: self.service.store.forget(id))
        return _json(wire.Forgotten(id=id, events=count))

    async def models(self) -> Response:
        """The models at hand."""
        return _json(await asyncio.to_thread(self._models))

    async def activate(self, name: Name) -> Response:
        """Let this model answer from now on; requests that run end with the one that they began with."""
        shelf = self.service.shelf
        if name not in shelf.names():
            raise Problem(404, message="there is no such model")
        before = shelf.active.version.name
        ready = await self._changed(lambda: shelf.activate(name))
        if before != name:
            self.service.metrics.activated()
        self._tell(ready)
        return _json(self._models())

    async def rollback(self) -> Response:
        """Go back to the model that was active before."""
        if self.service.shelf.previous is None:
            raise Problem(409, message="no model was active before this one")
        ready = await self._changed(self.service.shelf.rollback)
        self.service.metrics.activated(rollback=True)
        self._tell(ready)
        return _json(self._models())

    async def live(self) -> Response:
        """How the service fares, over the last minute."""
        return _json(self.figures.told(len(self.answers), self.slots.taken))

    def _tell(self, ready: Ready) -> None:
        version = ready.version
        self.service.metrics.model(version.name, version.key, version.version, True)

    async def _changed(self, change: Any) -> Ready:
        try:
            ready: Ready = await asyncio.to_thread(change)
        except ValueError as error:
            logger.error("a model could not be activated: %s", error)
            raise Problem(409, message="this model cannot be opened as it is; the active one stays") from None
        except StoreError as error:
            raise self._broken("put", error) from None
        return ready

    async def _answered(self, questions: Sequence[wire.Question]) -> list[wire.Answer]:
        arrived, settings = time.monotonic(), self.service.settings
        self._check(questions, "questions" if len(questions) > 1 else "")
        routes = [
            None if question.model is not None else self.experiments.route(question.user) for question in questions
        ]
        jobs = []
        for question, route in zip(questions, routes, strict=True):
            sent = question if route is None else question.model_copy(update={"model": route.model})
            jobs.append(Timed(sent, arrived + (question.deadline_ms or settings.deadline_ms) / 1000))
        found = await self._asked(jobs)
        answers: list[wire.Answer] = []
        for place, answer in enumerate(found):
            if isinstance(answer, Refused):
                field = f"questions[{place}].{answer.field}" if len(questions) > 1 else answer.field
                raise _invalid(field, answer.why)
            answers.append(_good(answer))
            self.figures.step(answers[-1].step)
        if any(route is not None for route in routes):
            self._expose(questions, routes, answers)
        return answers

    def _expose(
        self, questions: Sequence[wire.Question], routes: Sequence[Route | None], answers: Sequence[wire.Answer]
    ) -> None:
        """Keep what was shown in experiments, and ask shadows, when the answers are on their way."""
        now = int(time.time())
        shown = [
            (question, route, [item.id for item in answer.items])
            for question, route, answer in zip(questions, routes, answers, strict=True)
            if route is not None
        ]

        async def later() -> None:
            exposures = [
                Exposure(route.experiment, route.variant, str(question.user), now, tuple(items))
                for question, route, items in shown
            ]
            try:
                await asyncio.to_thread(self.service.store.expose, exposures)
                for question, route, items in shown:
                    if route.shadow is not None:
                        asked = question.model_copy(update={"model": route.shadow})
                        (other,) = await self.answers.ask([Timed(asked, time.monotonic() + 60)])
                        alike = overlap(items, [item.id for item in _good(other).items])
                        logger.info("shadow", extra={"experiment": route.experiment, "overlap": round(alike, 4)})
            except Exception as error:
                self.service.metrics.error("exposure")
                logger.error("what was shown could not be kept", extra={"traceback": track(error)})

        task = asyncio.get_running_loop().create_task(later())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def drained(self) -> None:
        """Wait for what goes on after answers."""
        if self._background:
            await asyncio.wait(self._background)

    async def _taken(self, events: Sequence[wire.Event]) -> Response:
        now = int(time.time())
        kept = [Event(e.user, e.item, now if e.time is None else e.time, e.action, e.value, e.key) for e in events]
        try:
            new = await self.intake.ask(kept)
        except Busy as busy:
            raise Problem(503, retry_after=busy.seconds) from None
        except StoreError as error:
            raise self._broken("append", error) from None
        _, unknown = self.service.shelf.active.catalogue.encode(list(dict.fromkeys(e.item for e in events)))
        self.service.metrics.events(sum(new), len(new) - sum(new), len(unknown))
        return _json(wire.Taken(accepted=sum(new), duplicates=len(new) - sum(new), unknown_items=unknown))

    async def _asked(self, jobs: Sequence[Job]) -> list[Any]:
        try:
            return await self.answers.ask(jobs)
        except Busy as busy:
            raise Problem(503, retry_after=busy.seconds) from None

    def _check(self, questions: Sequence[wire.Question], where: str) -> None:
        settings = self.service.settings
        fields = {}
        for place, question in enumerate(questions):
            at = f"{where}[{place}]." if where else ""
            if question.k > settings.most_k:
                fields[f"{at}k"] = f"got {question.k}, expected at most {settings.most_k}"
            if question.history is not None and len(question.history) > settings.most_history:
                fields[f"{at}history"] = f"got {len(question.history)} events, expected at most {settings.most_history}"
        if fields:
            raise Problem(422, message="; ".join(f"{name}: {why}" for name, why in fields.items()), fields=fields)

    def _ready(self, name: str | None) -> Ready:
        try:
            return self.service.shelf.find(name)
        except ValueError as error:
            raise _invalid("model", str(error).removeprefix("model: ")) from None

    async def _stored(self, operation: str, look: Any) -> Any:
        try:
            return await asyncio.to_thread(look)
        except StoreError as error:
            raise self._broken(operation, error) from None

    def _broken(self, operation: str, error: StoreError) -> Problem:
        self.service.metrics.error("store")
        logger.error("store: %s failed", operation, extra={"traceback": track(error)})
        return Problem(503, message="the store does not answer; nothing was done", retry_after=2.0)

    def _person(self, user: str, limit: int) -> wire.Person:
        ready = self.service.shelf.active
        publication = ready.publication
        (kept,) = self.service.store.kept([user], limit, publication.place)
        codes, known = publication.bundle.users.encode([user])
        before: list[wire.Past] = []
        total = kept.total
        if known[0] and not kept.forgotten and publication.histories is not None:
            history = publication.histories.block(int(codes[0]), int(codes[0]) + 1)
            total += history.size
            if (room := limit - len(kept.events)) > 0:
                before = self._training(ready, history.last(room))
        late = [event.item for event in kept.events]
        titles = dict(zip(late, self._titles(ready, late), strict=True))
        since = [
            wire.Past(item=e.item, title=titles[e.item], action=e.action, value=e.value, time=e.time)
            for e in kept.events
        ]
        there = bool(known[0]) and not kept.forgotten
        return wire.Person(id=user, known=there, events=[*before, *since], total=total, forgotten=kept.forgotten)

    def _titles(self, ready: Ready, items: Sequence[str]) -> list[str | None]:
        codes, known = ready.publication.bundle.items.encode(list(items))
        titles = iter(ready.catalogue.titles(codes[known]))
        return [next(titles) if there else None for there in known.tolist()]

    def _training(self, ready: Ready, history: Any) -> list[wire.Past]:
        codes = history.items
        actions = ready.publication.bundle.model.domain.actions
        values = [None] * len(codes) if history.values is None else [
            None if np.isnan(value) else value for value in history.values.tolist()
        ]  # fmt: skip
        kinds = [None] * len(codes) if history.actions is None else [actions[a] for a in history.actions.tolist()]
        times = [None] * len(codes) if history.times is None else history.times.tolist()
        columns = ready.catalogue.ids(codes), ready.catalogue.titles(codes), kinds, values, times
        return [
            wire.Past(item=item, title=title, action=action, value=value, time=moment, source="training")
            for item, title, action, value, moment in zip(*columns, strict=True)
        ]

    def _models(self) -> wire.Models:
        shelf = self.service.shelf
        found = []
        for ready in shelf.opened():
            facts, domain = ready.publication.facts, ready.publication.bundle.model.domain
            found.append(
                wire.Published(
                    **ready.version.model_dump(),
                    active=ready is shelf.active,
                    items=domain.n_items,
                    users=domain.n_users,
                    trained=facts.get("trained"),
                    data=facts.get("data"),
                    metrics={str(name): float(value) for name, value in (facts.get("metrics") or {}).items()},
                    golden=ready.publication.golden,
                )
            )
        return wire.Models(models=found, previous=shelf.previous)


def _code(ready: Ready, item: str) -> int:
    codes, _ = ready.catalogue.encode([item])
    if not len(codes):
        raise Problem(404, message="there is no such item")
    return int(codes[0])


def _good(answer: Any) -> Any:
    if isinstance(answer, StoreError):
        raise Problem(503, message="the store does not answer", retry_after=2.0)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _invalid(field: str, why: str) -> Problem:
    return Problem(422, message=f"{field}: {why}", fields={field: why})


def _json(told: BaseModel) -> Response:
    return Response(told.model_dump_json(), media_type="application/json")

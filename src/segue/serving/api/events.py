"""Events, and the people that they are of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Response

from segue.core.types import Events
from segue.serving import schemas
from segue.serving.api.dependencies import Desk, Limit, Name, invalid, reply
from segue.serving.batcher import Busy
from segue.serving.errors import Problem, track
from segue.serving.model_registry import Ready
from segue.serving.stores.store import Event, StoreError
from segue.serving.users.query_builder import later

__all__ = ["Attending"]

logger = logging.getLogger("segue.serving")

MOST_BEHIND, TOGETHER = 10_000, 8
"""Users whose states may wait to be brought up to date, and how many are at once: questions wait meanwhile."""


class Attending:
    """The routes that take events and show people."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._behind: dict[str, None] = {}  # users in the order of their events
        self._following = False

    def add(self, router: APIRouter) -> None:
        """Declare the routes."""
        router.add_api_route("/events", self.event, methods=["POST"], response_model=schemas.Taken)
        router.add_api_route("/events/batch", self.events, methods=["POST"], response_model=schemas.Taken)
        router.add_api_route("/users", self.users, methods=["GET"], response_model=schemas.Persons)
        router.add_api_route("/users/{id:path}", self.person, methods=["GET"], response_model=schemas.Person)
        router.add_api_route("/users/{id:path}", self.forget, methods=["DELETE"], response_model=schemas.Forgotten)

    async def event(self, event: schemas.Event) -> Response:
        """Something happened. It is on disk when this is answered, and the next answer knows it."""
        return await self._taken([event])

    async def events(self, events: schemas.Events) -> Response:
        """Several things happened: all are kept, or none."""
        most = self._desk.service.settings.most_events
        if len(events.events) > most:
            raise invalid("events", f"got {len(events.events)}, expected at most {most}")
        return await self._taken(events.events)

    async def users(
        self, query: Annotated[str, Query(max_length=256, description="The beginning of ids.")] = "", limit: Limit = 20
    ) -> Response:
        """Users that were there in training, by the beginning of their ids."""
        ids = self._desk.service.shelf.active.publication.bundle.users.ids

        def look() -> list[str]:
            found = ids if not query else ids.filter(ids.str.starts_with(query))
            return [str(one) for one in found.head(limit)]

        return reply(schemas.Persons(users=await asyncio.to_thread(look)))

    async def person(self, id: Name, limit: Limit = 200) -> Response:  # noqa: A002
        """What is known of a user: the newest events, oldest first."""
        return reply(await self._desk.stored("kept", lambda: self._person(id, limit)))

    async def forget(self, id: Name) -> Response:  # noqa: A002
        """Delete what came in of a user; what was there in training is not used for him any more."""
        count = await self._desk.stored("forget", lambda: self._desk.service.store.forget(id))
        return reply(schemas.Forgotten(id=id, events=count))

    async def _taken(self, events: Sequence[schemas.Event]) -> Response:
        now = int(time.time())
        kept = [Event(e.user, e.item, now if e.time is None else e.time, e.action, e.value, e.key) for e in events]
        try:
            new = await self._desk.intake.ask(kept)
        except Busy as busy:
            raise Problem(503, retry_after=busy.seconds) from None
        except StoreError as error:
            raise self._desk.broken("append", error) from None
        _, unknown = self._desk.service.shelf.active.catalogue.encode(list(dict.fromkeys(e.item for e in events)))
        self._desk.service.metrics.events(sum(new), len(new) - sum(new), len(unknown))
        if self._desk.service.shelf.active.publication.streams:
            self._behind.update(dict.fromkeys(event.user for event in kept[: MOST_BEHIND - len(self._behind)]))
            if not self._following:
                self._following = True
                self._desk.later(self._follow())
        return reply(schemas.Taken(accepted=sum(new), duplicates=len(new) - sum(new), unknown_items=unknown))

    async def _follow(self) -> None:
        """Bring states of users up to date, a few at a time between questions; the next answer would do it too."""
        try:
            while self._behind and not self._desk.closing:
                users = list(self._behind)[:TOGETHER]
                for user in users:
                    del self._behind[user]
                (failed,) = await self._desk.answers.ask([partial(self._desk.service.follow, users)])
                if failed is not None:
                    logger.error("states could not be brought up to date", extra={"traceback": track(failed)})
        except Busy:
            self._behind.clear()
        finally:
            self._following = False

    def _person(self, user: str, limit: int) -> schemas.Person:
        ready = self._desk.service.shelf.active
        publication = ready.publication
        (kept,) = later(self._desk.service.store, publication, [user], limit)
        codes, known = publication.bundle.users.encode([user])
        before: list[schemas.Past] = []
        total = kept.total
        if known[0] and not kept.forgotten and publication.histories is not None:
            history = publication.histories.block(int(codes[0]), int(codes[0]) + 1)
            total += history.size
            if (room := limit - len(kept.events)) > 0:
                before = self._training(ready, history.last(room))
        late = [event.item for event in kept.events]
        titles = dict(zip(late, self._titles(ready, late), strict=True))
        since = [
            schemas.Past(item=e.item, title=titles[e.item], action=e.action, value=e.value, time=e.time)
            for e in kept.events
        ]
        there = bool(known[0]) and not kept.forgotten
        return schemas.Person(id=user, known=there, events=[*before, *since], total=total, forgotten=kept.forgotten)

    def _titles(self, ready: Ready, items: Sequence[str]) -> list[str | None]:
        codes, known = ready.publication.bundle.items.encode(list(items))
        titles = iter(ready.catalogue.titles(codes[known]))
        return [next(titles) if there else None for there in known.tolist()]

    def _training(self, ready: Ready, history: Events) -> list[schemas.Past]:
        codes = history.items
        actions = ready.publication.bundle.model.domain.actions
        values = [None] * len(codes) if history.values is None else [
            None if np.isnan(value) else value for value in history.values.tolist()
        ]  # fmt: skip
        kinds = [None] * len(codes) if history.actions is None else [actions[a] for a in history.actions.tolist()]
        times = [None] * len(codes) if history.times is None else history.times.tolist()
        columns = ready.catalogue.ids(codes), ready.catalogue.titles(codes), kinds, values, times
        return [
            schemas.Past(item=item, title=title, action=action, value=value, time=moment, source="training")
            for item, title, action, value, moment in zip(*columns, strict=True)
        ]

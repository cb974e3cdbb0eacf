"""The catalogue, and the models: looked at by everybody, changed by operators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from segue.serving import schemas
from segue.serving.api.dependencies import CLASHING, MISSING, Desk, Limit, Name, reply
from segue.serving.errors import Problem
from segue.serving.model_registry import Ready

__all__ = ["Showing"]

logger = logging.getLogger("segue.serving")

FURTHEST = 1e300
"""Figures beyond are none: JSON has no infinity."""

Text = Annotated[str, Query(max_length=256, description="Words of titles or ids; empty: the most popular.")]


class Showing:
    """The routes that show items and models, and activate these."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def add(self, router: APIRouter) -> None:
        """Declare the routes."""
        router.add_api_route("/items", self.items, methods=["GET"], response_model=schemas.Items)
        router.add_api_route(
            "/items/{id:path}/similar", self.similar, methods=["GET"], response_model=schemas.Items, responses=MISSING
        )
        router.add_api_route(
            "/items/{id:path}", self.item, methods=["GET"], response_model=schemas.Item, responses=MISSING
        )
        router.add_api_route("/models", self.models, methods=["GET"], response_model=schemas.Models)
        router.add_api_route(
            "/models/rollback", self.rollback, methods=["POST"], response_model=schemas.Models, responses=CLASHING
        )
        router.add_api_route(
            "/models/{name:path}/activate",
            self.activate,
            methods=["POST"],
            response_model=schemas.Models,
            responses=MISSING | CLASHING,
        )
        router.add_api_route("/live", self.live, methods=["GET"], response_model=schemas.Live)

    async def items(self, query: Text = "", limit: Limit = 20) -> Response:
        """Items by words of their titles, or the most popular."""
        catalogue = self._desk.service.shelf.active.catalogue
        found = await asyncio.to_thread(lambda: [catalogue.item(int(code)) for code in catalogue.search(query, limit)])
        return reply(schemas.Items(items=found))

    async def item(self, id: Name) -> Response:  # noqa: A002
        """One item of the catalogue."""
        catalogue = self._desk.service.shelf.active.catalogue
        return reply(catalogue.item(_code(self._desk.service.shelf.active, id)))

    async def similar(
        self,
        id: Name,  # noqa: A002
        k: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> Response:
        """Items that people have together with this one."""
        ready = self._desk.service.shelf.active
        codes, likeness = ready.publication.neighbours.of(_code(ready, id), k)
        found = [
            ready.catalogue.item(code, min(1.0, like))
            for code, like in zip(codes.tolist(), likeness.tolist(), strict=True)
        ]
        return reply(schemas.Items(items=found))

    async def models(self) -> Response:
        """The models at hand."""
        return reply(await asyncio.to_thread(self._models))

    async def activate(self, name: Name) -> Response:
        """Let this model answer from now on; requests that run end with the one that they began with."""
        shelf = self._desk.service.shelf
        if name not in shelf.names():
            raise Problem(404, message="there is no such model")
        await self._caught_up()
        before = shelf.active.version.name
        ready = await self._changed(lambda: shelf.activate(name))
        if before != name:
            self._desk.service.metrics.activated()
        self._tell(ready)
        return reply(self._models())

    async def rollback(self) -> Response:
        """Go back to the model that was active before."""
        await self._caught_up()
        if self._desk.service.shelf.previous is None:
            raise Problem(409, message="no model was active before this one")
        ready = await self._changed(self._desk.service.shelf.rollback)
        self._desk.service.metrics.activated(rollback=True)
        self._tell(ready)
        return reply(self._models())

    async def live(self) -> Response:
        """How the service fares, over the last minute."""
        return reply(self._desk.figures.told(len(self._desk.answers), self._desk.slots.taken))

    def _tell(self, ready: Ready) -> None:
        version = ready.version
        self._desk.service.metrics.model(version.name, version.key, version.version, True)

    async def _caught_up(self) -> None:
        """Know what another process has activated since it was last looked up; a model that cannot be opened here is no
        reason not to activate another."""
        with suppress(ValueError):
            await self._desk.stored("get", self._desk.service.shelf.follow)

    async def _changed(self, change: Callable[[], Ready]) -> Ready:
        try:
            return await self._desk.stored("put", change)
        except ValueError as error:
            logger.error("a model could not be activated: %s", error)
            raise Problem(409, message="this model cannot be opened as it is; the active one stays") from None

    def _models(self) -> schemas.Models:
        shelf = self._desk.service.shelf
        found = []
        for ready in shelf.opened():
            publication, domain = ready.publication, ready.publication.bundle.model.domain
            own: dict[str, Any] = {"active": ready is shelf.active, "opened": True, "golden": publication.golden}
            own |= {"items": domain.n_items, "users": domain.n_users, **_facts(publication.facts)}
            found.append(schemas.Published(**ready.version.model_dump(), **own))
        for name, about in shelf.closed().items():
            told: dict[str, Any] = {key: str(about[key]) for key in ("key", "version", "engine")}
            found.append(schemas.Published(name=name, active=False, opened=False, **told, **_facts(about["facts"])))
        return schemas.Models(models=found, previous=shelf.previous)


def _facts(facts: Any) -> dict[str, Any]:
    """What is told of a model beside what it is: of whatever its makers wrote, what can be told."""
    facts = facts if isinstance(facts, Mapping) else {}
    texts = {name: told for name in ("trained", "data") if isinstance(told := facts.get(name), str)}
    measured = facts.get("metrics")
    numbers = measured.items() if isinstance(measured, Mapping) else ()
    metrics = {
        name: float(value) for name, value in numbers if isinstance(value, int | float) and abs(value) < FURTHEST
    }
    return {**texts, "metrics": metrics}


def _code(ready: Ready, item: str) -> int:
    codes, _ = ready.catalogue.encode([item])
    if not len(codes):
        raise Problem(404, message="there is no such item")
    return int(codes[0])

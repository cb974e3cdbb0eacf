"""Fake service with the API of the real one, for tests of the UI.

``python tests/browser/fake_service.py [PORT] [KEY]`` runs it for manual tests.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_world import FakeError, World
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

import segue.serving
from segue.core.types import DataSchema
from segue.serving import schemas
from segue.serving.middleware import security_headers
from segue.serving.users.event_actions import ANY_ACTION, resolve_action

PAGE = Path(segue.serving.__file__).parent / "page"
POLICY = f"{security_headers.UI_CSP}; require-trusted-types-for 'script'; trusted-types 'none'"
"""Policy of the service, and in addition trusted types, so that no text can become HTML or a script."""

ERROR_CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 422: "invalid"}


@dataclass(frozen=True)
class Service:
    """Address of the fake service, and its state."""

    address: str
    world: World


def create_app(world: World) -> FastAPI:
    """Create the application; it requires an API key if the ``world`` has one."""
    app = FastAPI(openapi_url=None)

    @app.exception_handler(FakeError)
    async def handle_error(request: Request, error: FakeError) -> JSONResponse:
        code = ERROR_CODES[error.status]
        body = schemas.ErrorResponse(error=code, message=error.message, fields=error.fields, request_id="r-17")
        return JSONResponse(body.model_dump(), error.status)

    @app.exception_handler(RequestValidationError)
    async def handle_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        fields = {".".join(map(str, one["loc"][1:])): str(one["msg"]) for one in error.errors()}
        return await handle_error(request, FakeError(422, "invalid request", fields))

    @app.middleware("http")
    async def check_key(request: Request, call: Any) -> Response:
        path = request.url.path
        if world.key and path.startswith("/v1/") and request.headers.get("authorization") != f"Bearer {world.key}":
            return await handle_error(request, FakeError(401, "an API key is required"))
        response: Response = await call(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.get("/")
    async def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.post("/v1/recommend")
    async def recommend(request: schemas.RecommendRequest) -> schemas.RecommendResponse:
        return world.recommend(request)

    @app.post("/v1/recommend/batch")
    async def batch(batch: schemas.BatchRequest) -> schemas.BatchResponse:
        return schemas.BatchResponse(responses=[world.recommend(request) for request in batch.requests])

    @app.post("/v1/explain")
    async def explain(request: schemas.ExplainRequest) -> schemas.Explanation:
        return world.explain(request)

    @app.post("/v1/events")
    async def events(event: schemas.EventRequest) -> schemas.EventsAccepted:
        if event.key in world.keys:
            return schemas.EventsAccepted(accepted=0, duplicates=1)
        world.keys.add(event.key or "")
        known = world.items.get(event.item)
        try:
            target = None if world.target is None else world.actions.index(world.target)
            action = resolve_action(DataSchema(1, 1, world.actions, target=target), event.action)
        except ValueError as error:
            raise FakeError(422, f"action: {error}", {"action": str(error)}) from None
        stored = schemas.UserEvent(
            item=event.item, title=known and known.title, action=action, time=event.time or 1_750_000_000
        )
        world.histories.setdefault(event.user, []).append(stored)
        return schemas.EventsAccepted(accepted=1, duplicates=0, unknown_items=[] if known else [event.item])

    @app.get("/v1/items")
    async def items(query: str = "", limit: int = 20) -> schemas.ItemList:
        matches = [item for item in world.items.values() if query.lower() in (item.title or item.id).lower()]
        return schemas.ItemList(items=matches[:limit])

    def find(item: str) -> schemas.Item:
        if item not in world.items:
            raise FakeError(404, f"item: '{item}' is not in the catalog")
        return world.items[item]

    @app.get("/v1/items/{item:path}/similar")
    async def similar(item: str, k: int = 10) -> schemas.ItemList:
        genres = set(world.genres(find(item).id))
        others = {other: set(world.genres(other)) for other in world.items}
        similarity = {other: len(genres & own) / len(genres | own) for other, own in others.items()}
        best = sorted((other for other in similarity if other != item), key=lambda other: (-similarity[other], other))[
            :k
        ]
        return schemas.ItemList(
            items=[world.items[other].model_copy(update={"similarity": similarity[other]}) for other in best]
        )

    @app.get("/v1/items/{item:path}")
    async def single(item: str) -> schemas.Item:
        return find(item)

    @app.get("/v1/users")
    async def users(query: str = "", limit: int = 20) -> schemas.UserList:
        return schemas.UserList(users=[user for user in world.histories if query in user][:limit])

    @app.get("/v1/users/{user:path}")
    async def user(user: str, limit: int = 20) -> schemas.User:
        events = world.histories.get(user, [])
        known = any(event.origin == "training" for event in events)
        deleted = user in world.deleted
        return schemas.User(id=user, known=known, events=events[-limit:], total=len(events), deleted=deleted)

    @app.delete("/v1/users/{user:path}")
    async def delete_user(user: str) -> schemas.UserDeleted:
        world.deleted.add(user)
        return schemas.UserDeleted(id=user, deleted_events=len(world.histories.pop(user, [])), erased=True)

    @app.get("/v1/models")
    async def models() -> schemas.ModelList:
        metrics = {"sasrec": (0.1712, 0.2994), "ease": (0.1533, 0.2741), "popular": (0.0417, 0.0803)}
        statuses = [
            schemas.ModelStatus(
                **world.model_info(name).model_dump(),
                active=name == world.active,
                loaded=True,
                items=len(world.items),
                users=240,
                trained_at="2026-03-14T09:00:00",
                data="fake",
                golden_queries=32,
                actions=[] if world.actions == ANY_ACTION else list(world.actions),
                target=world.target,
                metrics=dict(zip(("ndcg@10", "recall@10"), metrics[name], strict=True)),
            )
            for name in world.models
        ]
        return schemas.ModelList(models=statuses, previous=world.previous)

    @app.post("/v1/models/rollback")
    async def rollback() -> schemas.ModelList:
        if world.previous is None:
            raise FakeError(422, "rollback: there is no previously active model")
        world.active, world.previous = world.previous, world.active
        return await models()

    @app.post("/v1/models/{name}/activate")
    async def activate(name: str) -> schemas.ModelList:
        world.model_info(name)
        world.active, world.previous = name, world.active
        return await models()

    @app.get("/v1/stats")
    async def stats() -> schemas.LiveStats:
        world.n_requests += 1
        wave = math.sin(world.n_requests / 5)
        return schemas.LiveStats(
            requests_per_second=212.4 + 40 * wave,
            p50_ms=2.31 + 0.2 * wave,
            p95_ms=5.9 + wave,
            p99_ms=11.2 + 3 * math.sin(world.n_requests / 3),
            in_flight=3,
            queued=0,
            sources={"model": 1000 + world.n_requests, "fallback": 12, "popular": 3},
            errors=2,
            uptime_seconds=86_400.0 * 2 + 3_700,
        )

    return app


if __name__ == "__main__":
    import uvicorn

    arguments = dict(enumerate(sys.argv))
    uvicorn.run(
        create_app(World(key=arguments.get(2))),
        host="127.0.0.1",
        port=int(arguments.get(1, "8000")),
        log_level="warning",
    )

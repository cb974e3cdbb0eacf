"""A small service with a made-up catalogue that speaks as the real one does, for the page to be tried against.

``python tests/browser/fake_service.py [PORT] [KEY]`` serves it for people.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_world import Refusal, World
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

import segue.serving
from segue.serving import schemas
from segue.serving.middleware import security_headers

PAGE = Path(segue.serving.__file__).parent / "page"
POLICY = f"{security_headers.PAGE}; require-trusted-types-for 'script'; trusted-types 'none'"
"""What the service sends, and beside it that no text may ever become HTML or a script."""

REFUSALS = {401: "unauthorised", 403: "forbidden", 404: "missing", 422: "invalid"}


@dataclass(frozen=True)
class Service:
    """The stand-in where it runs, and what it knows."""

    address: str
    world: World


def make(world: World) -> FastAPI:
    """The stand-in as an application; a ``world`` with a key asks for it."""
    app = FastAPI(openapi_url=None)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        fault = schemas.Fault(
            error=REFUSALS[error.status], message=error.message, fields=error.fields, request_id="r-17"
        )
        return JSONResponse(fault.model_dump(), error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fields = {".".join(map(str, one["loc"][1:])): str(one["msg"]) for one in error.errors()}
        return await refused(request, Refusal(422, "The question is not understood.", fields))

    @app.middleware("http")
    async def guarded(request: Request, call: Any) -> Response:
        path = request.url.path
        if world.key and path.startswith("/v1/") and request.headers.get("authorization") != f"Bearer {world.key}":
            return await refused(request, Refusal(401, "A key is needed, as 'Authorization: Bearer KEY'."))
        response: Response = await call(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.get("/")
    async def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.post("/v1/recommend")
    async def recommend(question: schemas.Question) -> schemas.Answer:
        return world.answer(question)

    @app.post("/v1/recommend/batch")
    async def batch(asked: schemas.Questions) -> schemas.Answers:
        return schemas.Answers(answers=[world.answer(question) for question in asked.questions])

    @app.post("/v1/explain")
    async def explain(asked: schemas.WhyQuestion) -> schemas.Explanation:
        return world.explain(asked)

    @app.post("/v1/events")
    async def events(event: schemas.Event) -> schemas.Taken:
        if event.key in world.keys:
            return schemas.Taken(accepted=0, duplicates=1)
        world.keys.add(event.key or "")
        known = world.items.get(event.item)
        past = schemas.Past(
            item=event.item, title=known and known.title, action=event.action, time=event.time or 1_750_000_000
        )
        world.past.setdefault(event.user, []).append(past)
        return schemas.Taken(accepted=1, duplicates=0, unknown_items=[] if known else [event.item])

    @app.get("/v1/items")
    async def items(query: str = "", limit: int = 20) -> schemas.Items:
        found = [item for item in world.items.values() if query.lower() in (item.title or item.id).lower()]
        return schemas.Items(items=found[:limit])

    def found(item: str) -> schemas.Item:
        if item not in world.items:
            raise Refusal(404, f"item: '{item}' is not in the catalogue")
        return world.items[item]

    @app.get("/v1/items/{item:path}/similar")
    async def similar(item: str, k: int = 10) -> schemas.Items:
        mine = set(world.genres(found(item).id))
        like = {
            other: len(mine & set(world.genres(other))) / len(mine | set(world.genres(other))) for other in world.items
        }
        best = sorted((other for other in like if other != item), key=lambda other: (-like[other], other))[:k]
        return schemas.Items(items=[world.items[other].model_copy(update={"likeness": like[other]}) for other in best])

    @app.get("/v1/items/{item:path}")
    async def single(item: str) -> schemas.Item:
        return found(item)

    @app.get("/v1/users")
    async def users(query: str = "", limit: int = 20) -> schemas.Persons:
        return schemas.Persons(users=[user for user in world.past if query in user][:limit])

    @app.get("/v1/users/{user:path}")
    async def person(user: str, limit: int = 20) -> schemas.Person:
        past = world.past.get(user, [])
        known = any(event.source == "training" for event in past)
        gone = user in world.forgotten
        return schemas.Person(id=user, known=known, events=past[-limit:], total=len(past), forgotten=gone)

    @app.delete("/v1/users/{user:path}")
    async def forget(user: str) -> schemas.Forgotten:
        world.forgotten.add(user)
        return schemas.Forgotten(id=user, events=len(world.past.pop(user, [])))

    @app.get("/v1/models")
    async def models() -> schemas.Models:
        metrics = {"sasrec": (0.1712, 0.2994), "ease": (0.1533, 0.2741), "popular": (0.0417, 0.0803)}
        listed = [
            schemas.Published(**world.version(name).model_dump(), active=name == world.active, opened=True,
                           items=len(world.items), users=240, trained="2026-03-14T09:00:00", data="made-up", golden=32,
                           metrics=dict(zip(("ndcg@10", "recall@10"), metrics[name], strict=True)))
            for name in world.models
        ]  # fmt: skip
        return schemas.Models(models=listed, previous=world.previous)

    @app.post("/v1/models/rollback")
    async def rollback() -> schemas.Models:
        if world.previous is None:
            raise Refusal(422, "rollback: no model was active before this one")
        world.active, world.previous = world.previous, world.active
        return await models()

    @app.post("/v1/models/{name}/activate")
    async def activate(name: str) -> schemas.Models:
        world.version(name)
        world.active, world.previous = name, world.active
        return await models()

    @app.get("/v1/live")
    async def live() -> schemas.Live:
        world.asked += 1
        wave = math.sin(world.asked / 5)
        return schemas.Live(
            requests_per_second=212.4 + 40 * wave,
            p50_ms=2.31 + 0.2 * wave,
            p95_ms=5.9 + wave,
            p99_ms=11.2 + 3 * math.sin(world.asked / 3),
            in_flight=3,
            waiting=0,
            steps={"model": 1000 + world.asked, "fallback": 12, "popular": 3},
            errors=2,
            uptime_seconds=86_400.0 * 2 + 3_700,
        )

    return app


if __name__ == "__main__":
    import uvicorn

    told = dict(enumerate(sys.argv))
    uvicorn.run(make(World(key=told.get(2))), host="127.0.0.1", port=int(told.get(1, "8000")), log_level="warning")

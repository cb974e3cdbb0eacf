"""The application: routes, the page, health and metrics, behind a shield, with an orderly beginning and end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from segue import __version__
from segue.serving import schemas
from segue.serving.api.catalog_and_models import Showing
from segue.serving.api.dependencies import FAULTS, Desk
from segue.serving.api.events import Attending
from segue.serving.api.openapi import describe
from segue.serving.api.recommend import Answering
from segue.serving.auth.api_keys import Keys
from segue.serving.batcher import Batcher
from segue.serving.errors import track
from segue.serving.experiments.assignment import Experiments
from segue.serving.limits import Slots
from segue.serving.middleware.request_context import Exchange
from segue.serving.middleware.security import protect
from segue.serving.monitoring.live_stats import Arrivals, Figures
from segue.serving.service import Job, Service
from segue.serving.stores.store import Event, Exposure

__all__ = ["create"]

logger = logging.getLogger("segue.serving")

PAGE = Path(__file__).parent / "page"

REFUSED = {401: "auth", 403: "auth", 413: "too_large", 422: "invalid", 400: "invalid", 429: "rate", 503: "busy"}
"""By status, why a request was turned away, as metrics call it."""

LOOK_SECONDS, TIDY_SECONDS = 1.0, 3_600.0
"""How often it is looked whether another process activated a model, and whether the store holds what is of no use."""


def create(
    service: Service,
    *,
    keys: Keys | None = None,
    experiments: Experiments | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The application of a service; it is ready once it has begun.

    Args:
        keys: ``None``: everybody may do everything.
        hosts: names by which it may be asked; ``None``: any.
    """
    settings, metrics, figures = service.settings, service.metrics, Figures()
    answers: Batcher[Job, Any] = Batcher(
        service.work, settings.batch, settings.waiting, "segue-answers", lambda size: metrics.batch(size)
    )
    intake: Batcher[Event, bool] = Batcher(
        service.take, settings.most_events, settings.waiting, "segue-events", lambda size: metrics.batch(size, "events")
    )
    exposed: Batcher[Exposure, None] = Batcher(service.show, settings.most_events, settings.waiting, "segue-exposures")
    slots = Slots(settings.concurrent)
    desk = Desk(service, experiments or Experiments(None), answers, intake, exposed, figures, slots)
    state = {"ready": False}

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        beside = [asyncio.create_task(work) for work in (_watch(desk), _tidy(desk))]
        state["ready"] = True
        metrics.ready(True)
        try:
            yield
        finally:
            state["ready"] = False
            metrics.ready(False)
            for task in beside:
                task.cancel()
            await desk.drained()
            closing = (answers.close, intake.close, exposed.close)  # what a silent store holds ends with the process
            await asyncio.gather(*(asyncio.to_thread(close, max(1.0, settings.drain_seconds)) for close in closing))
            service.close()
            metrics.close()

    app = FastAPI(
        title="Segue",
        version=__version__,
        summary="What next? Recommendations from who did what and when.",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        generate_unique_id_function=lambda route: route.name,
    )
    app.include_router(_described(Answering(desk), "questions"))
    app.include_router(_described(Attending(desk), "people"))
    app.include_router(_described(Showing(desk), "operation"))

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response('{"alive": true}', media_type="application/json")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        told = '{"ready": true}' if state["ready"] else '{"ready": false}'
        return Response(told, 200 if state["ready"] else 503, media_type="application/json")

    @app.get("/metrics", include_in_schema=False)
    async def shown() -> Response:
        metrics.queue("questions", len(answers), settings.waiting)
        metrics.queue("events", len(intake), settings.waiting)
        body, kind = await asyncio.to_thread(metrics.text)
        return Response(body, media_type=kind)

    _pages(app)
    describe(app, settings, keys is not None and not keys.open)
    protect(app, settings=settings, keys=keys, hosts=hosts, slots=slots, seen=lambda exchange: _seen(desk, exchange))
    app.add_middleware(Arrivals, arrived=metrics.arrived)
    return app


def _described(routes: Answering | Attending | Showing, tag: str) -> APIRouter:
    """The routes of a group; each is told of by the first line of what it says of itself."""
    router = APIRouter(prefix="/v1", tags=[tag], responses=FAULTS)
    routes.add(router)
    for route in router.routes:
        if isinstance(route, APIRoute):
            route.summary, _, route.description = (route.endpoint.__doc__ or "").partition("\n")
    return router


def _pages(app: FastAPI) -> None:
    """The page, and the description of the interface, whose scripts and styles come with a package."""
    import fastapi_offline

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.mount("/static", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"), name="static")


def _seen(desk: Desk, exchange: Exchange) -> None:
    metrics = desk.service.metrics
    if (reason := REFUSED.get(exchange.status)) is not None:
        metrics.refused(reason)
    metrics.request(exchange.route, exchange.method, exchange.status, exchange.seconds)
    if exchange.route.startswith("/v1/") and exchange.route != "/v1/live":
        desk.figures.left(exchange.status, exchange.seconds)


async def _watch(desk: Desk) -> None:
    """Follow what other processes activate, and the file of experiments."""
    shelf, metrics = desk.service.shelf, desk.service.metrics
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await asyncio.to_thread(desk.experiments.follow)
        except Exception as error:  # or nobody would look any more
            metrics.error("experiments")
            logger.error("the file of experiments could not be followed", extra={"traceback": track(error)})
        before, begun = shelf.active.version, time.monotonic()
        try:
            await desk.away(shelf.follow)
        except Exception as error:
            metrics.store(desk.service.store.name, "get", time.monotonic() - begun, failed=True)
            logger.error("the active model could not be looked up", extra={"traceback": track(error)})
            continue
        now: schemas.Version = shelf.active.version
        if now is not before:
            metrics.model(now.name, now.key, now.version, True)


async def _tidy(desk: Desk) -> None:
    """Delete what models of before remember, so that the store does not grow with every model that is published; not
    at once, as those who are about to be replaced may still need it."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        try:
            if count := await desk.away(desk.service.tidy):
                logger.info("memories of models that are no longer at hand are deleted", extra={"count": count})
        except Exception as error:
            desk.service.metrics.error("store")
            logger.error("old memories could not be deleted", extra={"traceback": track(error)})

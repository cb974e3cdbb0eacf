"""ASGI application of the service.

It combines API routes, UI, health checks and metrics behind the security middleware.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from segue.serving.api.dependencies import ERROR_RESPONSES, ApiDependencies
from segue.serving.api.events import EventRoutes
from segue.serving.api.items import ItemRoutes
from segue.serving.api.models import ModelRoutes
from segue.serving.api.openapi import customize_openapi
from segue.serving.api.recommend import NoPredictions, RecommendRoutes
from segue.serving.api.strict_route import make_strict_route
from segue.serving.auth.api_keys import ApiKeys
from segue.serving.batcher import Batcher
from segue.serving.catalog.added_items import ItemBatch, ItemsResult
from segue.serving.connection_limits import ConnectionLimiter, connection_limit
from segue.serving.errors import format_traceback
from segue.serving.experiments.assignment import Experiments
from segue.serving.experiments.exposure_recorder import ExposureRecorder
from segue.serving.middleware.http_protocol import PROTOCOL_STATE, ProtocolContext
from segue.serving.middleware.request_context import AccessRecord
from segue.serving.middleware.security import create_request_limiter, install_security
from segue.serving.monitoring.live_stats import ArrivalCounter, RequestStats
from segue.serving.monitoring.metrics import Metrics
from segue.serving.scheduling.engine_scheduler import EngineScheduler
from segue.serving.service import Job, Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.store import Event
from segue.version import __version__

__all__ = ["RouteGroup", "add_pages", "create_app", "create_protocol_context", "create_router", "record_request"]

logger = logging.getLogger("segue.serving")

PAGE = Path(__file__).parent / "page"

REJECTION_REASONS = {
    400: "invalid",
    401: "unauthorized",
    403: "unauthorized",
    413: "too_large",
    422: "invalid",
    429: "rate_limited",
    503: "overloaded",
}
"""Reason for a rejection by HTTP status, for metrics."""

SYNC_SECONDS, PRUNE_SECONDS = 1.0, 3_600.0
"""Interval of adopting model activations and items of other processes, and of deleting outdated user states."""
MAX_ITEM_BATCHES = 16
"""Requests whose items are encoded and stored together."""


class RouteGroup(Protocol):
    """Routes of one kind."""

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""


def create_app(
    service: Service,
    *,
    keys: ApiKeys | None = None,
    experiments: Experiments | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Create the ASGI application of a service; it is ready after its startup.

    Args:
        keys: API keys; ``None``: no authentication.
        hosts: accepted host names; ``None``: any.
    """
    settings = service.settings
    dependencies = _create_dependencies(service, experiments or Experiments(None))
    app = FastAPI(
        title="Segue",
        version=__version__,
        summary="Recommendations from user-item interactions.",
        docs_url=None,
        redoc_url=None,
        lifespan=partial(_lifespan, dependencies),
        generate_unique_id_function=lambda route: route.name,
    )
    route_class = make_strict_route(settings, dependencies.submit)
    app.include_router(create_router(RecommendRoutes(dependencies), "recommendations", route_class))
    app.include_router(create_router(EventRoutes(dependencies), "events and users", route_class))
    app.include_router(create_router(ItemRoutes(dependencies), "items", route_class))
    app.include_router(create_router(NoPredictions(), "predictions", route_class))
    app.include_router(create_router(ModelRoutes(dependencies), "models", route_class))

    _add_probes(app, dependencies)
    add_pages(app)
    customize_openapi(app, settings, keys is not None and not keys.is_open)
    install_security(
        app,
        settings=settings,
        keys=keys,
        hosts=hosts,
        limiter=dependencies.limiter,
        on_request=lambda record: record_request(service.metrics, dependencies.stats, record),
    )
    app.add_middleware(ArrivalCounter, on_arrival=service.metrics.record_arrival)
    return app


def _create_dependencies(service: Service, experiments: Experiments) -> ApiDependencies:
    """Create the queues and counters that the routes share."""
    settings, metrics = service.settings, service.metrics
    request_queue: EngineScheduler[Job] = EngineScheduler(
        service.run_jobs, settings.max_batch_size, settings.queue_size, "segue-requests", metrics
    )
    request_queue.start()
    event_queue: Batcher[Event, bool] = Batcher(
        service.append_events,
        settings.max_batch_events,
        settings.queue_size,
        "segue-events",
        lambda size: metrics.record_batch(size, "events"),
    )
    item_queue: Batcher[ItemBatch, ItemsResult | Exception] = Batcher(
        service.added_items.put,
        MAX_ITEM_BATCHES,
        settings.queue_size,
        "segue-items",
        lambda size: metrics.record_batch(size, "items"),
    )
    exposures = ExposureRecorder(service.record_exposures, metrics)
    limiter, stats = create_request_limiter(settings), RequestStats()
    return ApiDependencies(service, experiments, request_queue, event_queue, item_queue, exposures, stats, limiter)


@asynccontextmanager
async def _lifespan(dependencies: ApiDependencies, app: FastAPI) -> AsyncIterator[dict[str, ProtocolContext]]:
    """Run the background loops during the lifetime of the application.

    At shutdown, finish the accepted requests and close everything. The lifespan state has the limits for the protocol.
    """
    service = dependencies.service
    tasks = [asyncio.create_task(work) for work in (_sync_loop(dependencies, app), _prune_loop(dependencies))]
    service.store_monitor.start()
    app.state.is_ready = True
    service.metrics.set_ready(True)
    try:
        yield {PROTOCOL_STATE: create_protocol_context(service.settings, service.metrics)}
    finally:
        app.state.is_ready = False
        service.metrics.set_ready(False)
        for task in tasks:
            task.cancel()
        await dependencies.drain()
        # calls to an unresponsive store end with the process
        queues = (
            dependencies.request_queue,
            dependencies.event_queue,
            dependencies.item_queue,
            dependencies.exposures,
        )
        timeout = max(1.0, service.settings.drain_seconds)
        await asyncio.gather(*(asyncio.to_thread(queue.close, timeout) for queue in queues))
        service.close()
        service.metrics.close()


def create_protocol_context(settings: ServingSettings, metrics: Metrics) -> ProtocolContext:
    """Create the limits and measurements of the HTTP protocol."""
    limit = connection_limit(settings.max_connections)
    connections = ConnectionLimiter(limit, settings.max_connections_per_address, metrics.record_excess_connection)

    def on_reject(status: int) -> None:
        if (reason := REJECTION_REASONS.get(status)) is not None:
            metrics.record_rejection(reason)

    return ProtocolContext(connections, on_reject=on_reject)


def _add_probes(app: FastAPI, dependencies: ApiDependencies) -> None:
    """Add the liveness and readiness probes and the Prometheus metrics."""
    app.state.is_ready = False
    settings, metrics = dependencies.service.settings, dependencies.service.metrics

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response('{"alive": true}', media_type="application/json")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        is_ready, reasons = _readiness(app, dependencies.service)
        body = {"ready": is_ready} | ({"reasons": reasons} if reasons else {})
        return JSONResponse(body, 200 if is_ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def render_metrics() -> Response:
        queue = dependencies.request_queue
        metrics.set_queue_length("recommend", queue.length("plain"), settings.queue_size)
        metrics.set_queue_length("expensive", queue.length("expensive"), settings.queue_size)
        metrics.set_queue_length("events", len(dependencies.event_queue), settings.queue_size)
        metrics.set_queue_length("items", len(dependencies.item_queue), settings.queue_size)
        body, content_type = await asyncio.to_thread(metrics.render)
        return Response(body, media_type=content_type)


def _readiness(app: FastAPI, service: Service) -> tuple[bool, list[str]]:
    """Return whether the process should receive requests, and its problems."""
    problems = service.store_monitor.problems()
    reasons = problems if app.state.is_ready else ["the service is starting or stopping", *problems]
    return app.state.is_ready and (not problems or service.settings.ready_without_store), reasons


def create_router(routes: RouteGroup, tag: str, route_class: type[APIRoute]) -> APIRouter:
    """Create the router of a group of routes.

    The first line of each route's docstring becomes its summary.
    """
    router = APIRouter(prefix="/v1", tags=[tag], responses=ERROR_RESPONSES, route_class=route_class)
    routes.add_to(router)
    for route in router.routes:
        if isinstance(route, APIRoute):
            route.summary, _, route.description = (route.endpoint.__doc__ or "").partition("\n")
    return router


def add_pages(app: FastAPI, start: str = "index.html") -> None:
    """Add the UI and the API documentation.

    Scripts and styles of the API documentation come from the package fastapi-offline.

    Args:
        start: page at ``/``.
    """
    import fastapi_offline

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(PAGE / start)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.mount("/static", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"), name="static")


def record_request(metrics: Metrics, stats: RequestStats, record: AccessRecord) -> None:
    """Record an HTTP request in metrics and live statistics."""
    if (reason := REJECTION_REASONS.get(record.status)) is not None:
        metrics.record_rejection(reason)
    metrics.record_request(record.route, record.method, record.status, record.seconds)
    if record.route.startswith("/v1/") and record.route != "/v1/stats":
        stats.record_response(record.status, record.seconds)


async def _sync_loop(dependencies: ApiDependencies, app: FastAPI) -> None:
    """Run the synchronization loop forever.

    It adopts model activations by other processes and changes of the experiments file, and updates the metric of
    readiness. An error that persists is logged once.
    """
    service = dependencies.service
    models, metrics = service.models, service.metrics
    last_error: str | None = None
    while True:
        await asyncio.sleep(SYNC_SECONDS)
        metrics.set_ready(_readiness(app, service)[0])
        try:
            await asyncio.to_thread(dependencies.experiments.reload_if_changed)
        except Exception as error:  # otherwise the loop would end
            metrics.record_error("experiments")
            logger.error("experiments could not be reloaded", extra={"traceback": format_traceback(error)})
        previous, start = models.active.info, time.monotonic()
        try:
            await dependencies.run_store_call(models.sync_active)
        except Exception as error:
            metrics.record_store_call(service.store.name, "get_setting", time.monotonic() - start, failed=True)
            if last_error != type(error).__name__:
                logger.error("the active model could not be read", extra={"traceback": format_traceback(error)})
            last_error = type(error).__name__
            continue
        last_error = None
        await dependencies.run_store_call(service.added_items.update)
        metrics.set_added_items(len(service.added_items))
        current = models.active.info
        if current is not previous:
            metrics.set_model(current.name, current.key, current.version, True)


async def _prune_loop(dependencies: ApiDependencies) -> None:
    """Delete user states that were not updated for a long time, forever.

    This keeps the store from growing, also by states of models that are no longer used.
    """
    service = dependencies.service
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        try:
            if count := await dependencies.run_store_call(service.prune_states, is_write=True):
                logger.info("outdated user states deleted", extra={"count": count})
        except Exception as error:
            service.metrics.record_error("store")
            logger.error("outdated user states could not be deleted", extra={"traceback": format_traceback(error)})

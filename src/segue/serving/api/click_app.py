"""ASGI application of a service of click-through models.

It has the security middleware, limits and engine thread of the service of recommenders, and neither catalog nor event
store. Routes of recommendations answer that there is no recommender.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from segue.serving import schemas
from segue.serving.api.dependencies import invalid_field, json_response
from segue.serving.api.openapi import customize_openapi
from segue.serving.api.strict_route import make_strict_route
from segue.serving.app import add_pages, create_protocol_context, create_router, record_request
from segue.serving.auth.api_keys import ApiKeys
from segue.serving.clicks.click_service import (
    STEP_ROWS,
    ClickService,
    DeadlineMissed,
    InvalidRows,
    Job,
    LoadedClickModel,
    PredictJob,
)
from segue.serving.errors import ApiError
from segue.serving.middleware.http_protocol import PROTOCOL_STATE, ProtocolContext
from segue.serving.middleware.security import create_request_limiter, install_security
from segue.serving.monitoring.live_stats import ArrivalCounter, RequestStats
from segue.serving.scheduling.engine_scheduler import EngineScheduler
from segue.serving.scheduling.fair_queue import Overloaded
from segue.version import __version__

__all__ = ["create_click_app"]

RECOMMENDER_ROUTES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("/recommend", ("POST",)),
    ("/recommend/batch", ("POST",)),
    ("/explain", ("POST",)),
    ("/events", ("POST",)),
    ("/events/batch", ("POST",)),
    ("/items", ("GET", "POST")),
    ("/items/{id:path}", ("GET", "DELETE")),
    ("/users", ("GET",)),
    ("/users/{id:path}", ("GET", "DELETE")),
    ("/models/rollback", ("POST",)),
    ("/models/{name:path}/activate", ("POST",)),
)
"""Routes of a service of recommenders, which this one refuses."""


class PredictRoutes:
    """Routes of predictions, models and live statistics."""

    def __init__(self, service: ClickService, queue: EngineScheduler[Job]) -> None:
        self._service, self._queue = service, queue
        self.stats, self.limiter = RequestStats(), create_request_limiter(service.settings)

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""
        router.add_api_route("/predict", self.predict, methods=["POST"], response_model=schemas.PredictResponse)
        router.add_api_route("/models", self.models, methods=["GET"], response_model=schemas.ModelList)
        router.add_api_route("/stats", self.live_stats, methods=["GET"], response_model=schemas.LiveStats)
        for path, methods in RECOMMENDER_ROUTES:
            router.add_api_route(path, self.refuse, methods=list(methods), include_in_schema=False)

    async def predict(self, request: schemas.PredictRequest, caller: Request) -> Response:
        """Predict the labels of the rows of a table."""
        settings, n_rows = self._service.settings, len(request.rows)
        if n_rows > settings.max_batch_rows:
            raise invalid_field("rows", f"got {n_rows}, expected at most {settings.max_batch_rows}")
        model = self._find_model(request.model)
        deadline = caller.state.arrival + (request.deadline_ms or settings.deadline_ms) / 1000
        job = PredictJob(model, request.rows, deadline)
        (result,) = await self.submit([job], caller, is_expensive=n_rows > STEP_ROWS)
        if isinstance(result, InvalidRows):
            raise invalid_field(result.field, result.reason)
        if isinstance(result, DeadlineMissed):
            raise ApiError(503, message="the deadline passed before all rows were predicted", retry_after=1.0)
        if isinstance(result, BaseException):
            raise result
        self._service.metrics.record_predictions(model.info.name, time.monotonic() - caller.state.arrival, n_rows)
        return json_response(result)

    async def models(self) -> Response:
        """List the models."""
        models = [
            schemas.ModelStatus(**one.info.model_dump(), active=one is self._service.default, loaded=True)
            for one in self._service.models.values()
        ]
        return json_response(schemas.ModelList(models=models))

    async def live_stats(self) -> Response:
        """Show statistics of the last minute."""
        return json_response(self.stats.snapshot(len(self._queue), self.limiter.in_use))

    async def refuse(self) -> Response:
        """Answer that there is no recommender."""
        raise ApiError(
            409,
            message="this service has click-through models of tables only, which have no catalog to recommend from; "
            "use POST /v1/predict, or serve a model that segue train wrote",
        )

    async def submit(self, jobs: Sequence[Job], caller: Request, *, is_expensive: bool) -> list[Any]:
        """Run jobs in the engine thread and return the result of each.

        Raises:
            ApiError: 503, the queue is full.
        """
        try:
            return await self._queue.submit(jobs, getattr(caller.state, "client", ""), is_expensive=is_expensive)
        except Overloaded as overloaded:
            raise ApiError(503, retry_after=overloaded.retry_after) from None

    def _find_model(self, name: str | None) -> LoadedClickModel:
        if name is None:
            return self._service.default
        if (model := self._service.models.get(name)) is None:
            raise invalid_field("model", f"unknown model, expected one of {', '.join(self._service.models)}")
        return model


def create_click_app(
    service: ClickService, *, keys: ApiKeys | None = None, hosts: Collection[str] | None = None
) -> FastAPI:
    """Create the ASGI application, which is ready after its startup.

    Args:
        keys: API keys; ``None``: no authentication.
        hosts: accepted host names; ``None``: any.
    """
    settings, metrics = service.settings, service.metrics
    queue: EngineScheduler[Job] = EngineScheduler(
        service.run_jobs, settings.max_batch_size, settings.queue_size, "segue-requests", metrics
    )
    queue.start()
    routes = PredictRoutes(service, queue)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, ProtocolContext]]:
        app.state.is_ready = True
        metrics.set_ready(True)
        try:
            yield {PROTOCOL_STATE: create_protocol_context(settings, metrics)}
        finally:
            app.state.is_ready = False
            metrics.set_ready(False)
            queue.close(max(1.0, settings.drain_seconds))
            metrics.close()

    app = FastAPI(
        title="Segue",
        version=__version__,
        summary="Probabilities of labels, such as clicks, for the rows of a table.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.include_router(create_router(routes, "predictions", make_strict_route(settings, routes.submit)))
    _add_probes(app, service, queue)
    add_pages(app, "docs.html")
    customize_openapi(app, settings, keys is not None and not keys.is_open)
    install_security(
        app,
        settings=settings,
        keys=keys,
        hosts=hosts,
        limiter=routes.limiter,
        on_request=lambda record: record_request(metrics, routes.stats, record),
    )
    app.add_middleware(ArrivalCounter, on_arrival=metrics.record_arrival)
    return app


def _add_probes(app: FastAPI, service: ClickService, queue: EngineScheduler[Job]) -> None:
    """Add the liveness and readiness probes and the Prometheus metrics."""
    app.state.is_ready = False
    metrics, capacity = service.metrics, service.settings.queue_size

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response('{"alive": true}', media_type="application/json")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        is_ready = bool(app.state.is_ready)
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics", include_in_schema=False)
    def render_metrics() -> Response:
        metrics.set_queue_length("predict", queue.length("plain"), capacity)
        metrics.set_queue_length("expensive", queue.length("expensive"), capacity)
        body, content_type = metrics.render()
        return Response(body, media_type=content_type)

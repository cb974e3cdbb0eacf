"""Shared dependencies of the routes.

They are the service, queues, limit checks and error responses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query, Response
from pydantic import BaseModel

from segue.core.vocab import ID_PATTERN, MAX_ID_LENGTH
from segue.serving import schemas
from segue.serving.batcher import Batcher, Overloaded
from segue.serving.errors import ApiError, format_traceback
from segue.serving.experiments.assignment import Experiments
from segue.serving.limits import ConcurrencyLimiter
from segue.serving.model_registry import LoadedModel
from segue.serving.monitoring.live_stats import RequestStats
from segue.serving.service import Job, Service
from segue.serving.stores.store import OUTCOME_UNKNOWN, Event, Exposure, StoreError

__all__ = [
    "CONFLICT",
    "ERROR_RESPONSES",
    "NOT_FOUND",
    "ApiDependencies",
    "Limit",
    "PathId",
    "Responses",
    "invalid_field",
    "json_response",
    "unwrap",
]

logger = logging.getLogger("segue.serving")

T = TypeVar("T")

Responses = dict[int | str, dict[str, Any]]
"""Responses by status, in the form FastAPI expects."""

ERROR_RESPONSES: Responses = {
    code: {"model": schemas.ErrorResponse, "description": text}
    for code, text in {
        400: "Bad request",
        401: "Unauthorized: API key required",
        403: "Forbidden: the API key lacks the scope",
        408: "Request timeout",
        413: "Request body too large",
        414: "URI too long",
        415: "Unsupported media type: expected JSON",
        421: "Misdirected request: unknown host name",
        422: "Validation error",
        429: "Too many requests for this API key",
        503: "Service overloaded, or event store unavailable",
    }.items()
}
NOT_FOUND: Responses = {404: {"model": schemas.ErrorResponse, "description": "Not found"}}
CONFLICT: Responses = {409: {"model": schemas.ErrorResponse, "description": "Conflict with the current state"}}
MAX_STORE_CALLS = 16
"""Maximum number of concurrent store calls, besides those of the engine thread and of the event writer."""
MAX_PAGE_SIZE = 1_000
"""Maximum number of items, users or events in one response."""

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Maximum number of results.")]
PathId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, pattern=ID_PATTERN)]


@dataclass(eq=False)
class ApiDependencies:
    """Dependencies of the routes."""

    service: Service
    experiments: Experiments
    request_queue: Batcher[Job, Any]
    """Queue of the engine thread."""
    event_queue: Batcher[Event, bool]
    """Queue of the thread that writes events."""
    exposure_queue: Batcher[Exposure, None]
    """Queue of the thread that writes exposures; no response waits for it."""
    stats: RequestStats
    limiter: ConcurrencyLimiter
    """Limit on concurrent HTTP requests."""
    background_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Work that continues after responses."""
    is_closing: bool = False
    """Whether the service is stopping: deferrable work is skipped."""

    _store_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_STORE_CALLS, "segue-store-calls"), init=False
    )
    _loader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "segue-model-loader"), init=False)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background, after the response."""
        task = asyncio.get_running_loop().create_task(work)
        self.background_tasks.add(task)
        task.add_done_callback(self.background_tasks.discard)

    async def drain(self) -> None:
        """Wait for background tasks and stop all threads."""
        self.is_closing = True
        if self.background_tasks:
            await asyncio.wait(self.background_tasks, timeout=max(1.0, self.service.settings.drain_seconds))
        self._store_threads.shutdown(wait=False, cancel_futures=True)
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """Run jobs in the engine thread and return the result or exception of each.

        Raises:
            ApiError: 503, the queue is full.
        """
        try:
            return await self.request_queue.submit(jobs)
        except Overloaded as overloaded:
            raise ApiError(503, retry_after=overloaded.retry_after) from None

    async def run_store_call(self, call: Callable[[], T]) -> T:
        """Run a store call in a separate thread pool.

        If the store does not respond, only these threads block. Requests that do not need the store, such as those for
        metrics, are still answered.
        """
        return await asyncio.get_running_loop().run_in_executor(self._store_threads, call)

    async def call_store(self, operation: str, call: Callable[[], T]) -> T:
        """Run a store call outside the event loop and record failures.

        Args:
            operation: name for metrics and logs.

        Raises:
            ApiError: 503, the store failed.
        """
        start = time.monotonic()
        try:
            return await self.run_store_call(call)
        except StoreError as error:
            self.service.metrics.record_store_call(
                self.service.store.name, operation, time.monotonic() - start, failed=True
            )
            raise self.store_unavailable(operation, error) from None

    def store_unavailable(self, operation: str, error: StoreError) -> ApiError:
        """Record a store failure and return the error for the client."""
        self.service.metrics.record_error("store")
        logger.error("store: %s failed", operation, extra={"traceback": format_traceback(error)})
        outcome = OUTCOME_UNKNOWN if OUTCOME_UNKNOWN in str(error) else "nothing was changed"
        return ApiError(503, message=f"event store unavailable; {outcome}", retry_after=2.0)

    async def load_model(self, name: str | None, field_name: str = "model") -> LoadedModel:
        """Return the model named ``name``, or the active model.

        Loading a model does not block other requests.

        Raises:
            ApiError: 422 for ``field_name``, no such model.
        """
        registry = self.service.models
        try:
            if name is None or any(model.info.name == name for model in registry.loaded()):
                return registry.find(name)
            return await asyncio.get_running_loop().run_in_executor(self._loader, registry.find, name)
        except ValueError as error:
            raise invalid_field(field_name, str(error).removeprefix("model: ")) from None

    def check_limits(self, requests: Sequence[schemas.RecommendRequest], field_name: str) -> None:
        """Check requests against the limits configured by the operator.

        Args:
            field_name: field that holds the requests; empty for a single request.

        Raises:
            ApiError: 422, a limit is exceeded.
        """
        settings = self.service.settings
        fields = {}
        for index, request in enumerate(requests):
            prefix = f"{field_name}[{index}]." if field_name else ""
            if request.k > settings.max_k:
                fields[f"{prefix}k"] = f"got {request.k}, expected at most {settings.max_k}"
            if request.history is not None and len(request.history) > settings.max_history:
                reason = f"got {len(request.history)} events, expected at most {settings.max_history}"
                fields[f"{prefix}history"] = reason
        if fields:
            message = "; ".join(f"{name}: {reason}" for name, reason in fields.items())
            raise ApiError(422, message=message, fields=fields)


def unwrap(result: Any) -> Any:
    """Return the result of a job, or raise its exception.

    Raises:
        ApiError: 503, the store failed.
    """
    if isinstance(result, StoreError):
        raise ApiError(503, message="event store unavailable", retry_after=2.0)
    if isinstance(result, BaseException):
        raise result
    return result


def invalid_field(name: str, reason: str) -> ApiError:
    """Return a validation error for one field."""
    return ApiError(422, message=f"{name}: {reason}", fields={name: reason})


def json_response(model: BaseModel) -> Response:
    """Serialize a model without validating it again."""
    return Response(model.model_dump_json(), media_type="application/json")

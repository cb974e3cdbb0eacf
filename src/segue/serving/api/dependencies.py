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

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel

from segue.core.vocab import ID_PATTERN, MAX_ID_LENGTH
from segue.serving import schemas
from segue.serving.batcher import Batcher
from segue.serving.catalog.added_items import ItemBatch, ItemsResult
from segue.serving.errors import ApiError
from segue.serving.experiments.assignment import Experiments
from segue.serving.experiments.exposure_recorder import ExposureRecorder
from segue.serving.limits import SharedLimiter
from segue.serving.model_registry import InsufficientMemory, LoadedModel, UnknownModel
from segue.serving.monitoring.live_stats import RequestStats
from segue.serving.scheduling.engine_scheduler import EngineScheduler
from segue.serving.scheduling.fair_queue import Overloaded
from segue.serving.service import Job, Service
from segue.serving.stores.store import OUTCOME_UNKNOWN, STORE_DAMAGED, STORE_FULL, Event, StoreError

__all__ = [
    "CANNOT_LOAD",
    "CONFLICT",
    "ERROR_RESPONSES",
    "NOT_FOUND",
    "ApiDependencies",
    "Limit",
    "PathId",
    "Responses",
    "invalid_field",
    "json_response",
    "log_model_error",
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
        429: "Too many requests of this client: its API key, or its address if no keys are required",
        503: "Service overloaded, or event store unavailable",
    }.items()
}
NOT_FOUND: Responses = {404: {"model": schemas.ErrorResponse, "description": "Not found"}}
CONFLICT: Responses = {409: {"model": schemas.ErrorResponse, "description": "Conflict with the current state"}}
MAX_STORE_CALLS = 16
"""Maximum number of concurrent reads of the store, and of concurrent writes, by routes that use no queue."""
MAX_MODEL_LOADS = 2
"""Maximum number of models that are loaded at once: one that loads slowly does not delay another."""
CANNOT_LOAD = "the model cannot be loaded; the log has details under the request_id"
"""Message for clients about a damaged artifact, which does not tell what is wrong with it."""
WRITE_OPERATIONS = ("delete_item", "delete_user", "put_setting")
"""Operations of routes that write, besides storing events."""
RETRY_SECONDS, FULL_RETRY_SECONDS = 2.0, 60.0
"""``Retry-After`` while the store is unavailable, and while it is full."""
MAX_PAGE_SIZE = 1_000
"""Maximum number of items, users or events in one response."""

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Maximum number of results.")]
PathId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, pattern=ID_PATTERN)]


@dataclass(eq=False)
class ApiDependencies:
    """Dependencies of the routes."""

    service: Service
    experiments: Experiments
    request_queue: EngineScheduler[Job]
    """Queue of the engine thread."""
    event_queue: Batcher[Event, bool]
    """Queue of the thread that writes events."""
    item_queue: Batcher[ItemBatch, ItemsResult | Exception]
    """Queue of the thread that encodes and stores items."""
    exposures: ExposureRecorder
    """Writes exposures in its own thread; no response waits for it."""
    stats: RequestStats
    limiter: SharedLimiter
    """Limit on concurrent HTTP requests."""
    background_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Work that continues after responses."""
    is_closing: bool = False
    """Whether the service is stopping: deferrable work is skipped."""

    _read_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_STORE_CALLS, "segue-store-reads"), init=False
    )
    _write_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_STORE_CALLS, "segue-store-writes"), init=False
    )
    _loader: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_MODEL_LOADS, "segue-model-loader"), init=False
    )

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
        self._read_threads.shutdown(wait=False, cancel_futures=True)
        self._write_threads.shutdown(wait=False, cancel_futures=True)
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def submit(self, jobs: Sequence[Job], caller: Request, *, is_expensive: bool) -> list[Any]:
        """Run jobs in the engine thread and return the result or exception of each.

        If this coroutine is cancelled, because the client disconnected, the jobs are dropped.

        Args:
            caller: the HTTP request.
            is_expensive: see :meth:`segue.serving.scheduling.engine_scheduler.EngineScheduler.submit`.

        Raises:
            ApiError: 503, the queue is full.
        """
        try:
            client = getattr(caller.state, "client", "")
            return await self.request_queue.submit(jobs, client, is_expensive=is_expensive)
        except Overloaded as overloaded:
            raise ApiError(503, retry_after=overloaded.retry_after) from None

    async def run_store_call(self, call: Callable[[], T], *, is_write: bool = False) -> T:
        """Run a store call in a separate thread pool.

        If the store does not respond, only these threads block, and only until the call times out; reads do not wait
        for writes. The call continues if the client disconnects, as it may write.
        """
        threads = self._write_threads if is_write else self._read_threads
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(threads, call))

    async def call_store(self, operation: str, call: Callable[[], T]) -> T:
        """Run a store call outside the event loop and record failures.

        Args:
            operation: name for metrics and logs.

        Raises:
            ApiError: 503, the store failed.
        """
        start = time.monotonic()
        try:
            return await self.run_store_call(call, is_write=operation in WRITE_OPERATIONS)
        except StoreError as error:
            self.service.metrics.record_store_call(
                self.service.store.name, operation, time.monotonic() - start, failed=True
            )
            raise self.store_unavailable(operation, error) from None

    def store_unavailable(self, operation: str, error: StoreError, advice: str = "") -> ApiError:
        """Record a store failure and return the error for the client.

        Args:
            operation: name for logs.
            advice: what to do if the outcome is unknown.
        """
        self.service.store_monitor.log_failure(operation, error)
        if STORE_FULL in str(error):
            problem = self.service.store_monitor.full_reason or STORE_FULL
            return ApiError(503, "store_full", f"{problem}; nothing was changed", retry_after=FULL_RETRY_SECONDS)
        if STORE_DAMAGED in str(error) and OUTCOME_UNKNOWN not in str(error):
            message = f"{STORE_DAMAGED}; nothing was changed, and nothing will be until an operator has restored it"
            return ApiError(503, "store_damaged", message, retry_after=FULL_RETRY_SECONDS)
        outcome = f"{OUTCOME_UNKNOWN}{advice}" if OUTCOME_UNKNOWN in str(error) else "nothing was changed"
        return ApiError(503, message=f"event store unavailable; {outcome}", retry_after=RETRY_SECONDS)

    async def find_model(
        self, name: str | None, caller: Request, field_name: str = "model", *, is_assigned: bool = False
    ) -> LoadedModel:
        """Return the model named ``name``, or the active model.

        A model that is not loaded is loaded only for a key with the scope ``admin``, for a service without keys, or if
        an experiment assigns it. Loading does not block other requests.

        Args:
            caller: the request; its key decides, and its id is in the log if the model cannot be loaded.
            field_name: field that names the model, for errors.
            is_assigned: whether an experiment chose the model.

        Raises:
            ApiError: 422 for ``field_name``: there is no such model, it is not loaded, or it cannot be loaded. Only the
                log has paths and hashes.
        """
        registry = self.service.models
        if (model := registry.get(name)) is not None:
            return model
        assert name is not None, "the active model is always loaded"
        key = caller.scope.get("state", {}).get("key")
        if not (is_assigned or key is None or "admin" in key.scopes):
            loaded = ", ".join(sorted(model.info.name for model in registry.loaded()))
            reason = f"'{name}' is not loaded; loaded: {loaded}; only a key with the scope admin can load others"
            raise invalid_field(field_name, reason)
        try:
            return await self.load_model(name)
        except (UnknownModel, InsufficientMemory) as error:
            raise invalid_field(field_name, str(error).removeprefix("model: ")) from None
        except ValueError as error:
            log_model_error(error, caller)
            raise invalid_field(field_name, CANNOT_LOAD) from None

    def may_read_histories(self, caller: Request) -> bool:
        """Return whether a response may show histories.

        It may with the scope ``read``, and if the service has no keys.
        """
        key = caller.scope.get("state", {}).get("key")
        return key is None or "read" in key.scopes

    async def load_model(self, name: str) -> LoadedModel:
        """Load a model in a separate thread.

        See :meth:`segue.serving.model_registry.ModelRegistry.find`. It is loaded completely even if the client
        disconnects meanwhile.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._loader, self._load_with_items, name))

    async def refresh_items(self) -> None:
        """Adopt items that other processes have added.

        With a store on a server, a loop of the application does so.
        """
        if self.service.store.is_in_process:
            await asyncio.to_thread(self.service.added_items.refresh)

    def _load_with_items(self, name: str) -> LoadedModel:
        """Load a model and add the items that were added to the catalog."""
        model = self.service.models.find(name)
        self.service.added_items.update()
        return self.service.models.get(name) or model

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


def log_model_error(error: ValueError, caller: Request) -> None:
    """Log why a model cannot be loaded, with the id of the request."""
    request_id = caller.scope.get("state", {}).get("request_id")
    logger.error("model cannot be loaded: %s", error, extra={"request_id": request_id})


def unwrap(result: Any) -> Any:
    """Return the result of a job, or raise its exception.

    Raises:
        ApiError: 503, the store failed.
    """
    if isinstance(result, StoreError):
        raise ApiError(503, message="event store unavailable", retry_after=RETRY_SECONDS)
    if isinstance(result, BaseException):
        raise result
    return result


def invalid_field(name: str, reason: str) -> ApiError:
    """Return a validation error for one field."""
    return ApiError(422, message=f"{name}: {reason}", fields={name: reason})


def json_response(model: BaseModel) -> Response:
    """Serialize a model without validating it again."""
    return Response(model.model_dump_json(), media_type="application/json")

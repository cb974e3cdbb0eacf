"""Settings of the service; the text under each setting is its documentation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

from segue.core.config import Settings
from segue.serving.schemas import MAX_BATCH, Rules

__all__ = ["ServingSettings"]


class ServingSettings(Settings):
    """Settings of ``segue serve``."""

    max_k: Annotated[int, Ge(10), Le(10_000)] = 200
    """Maximum ``k`` of a request; at least 10, the default of a request."""
    max_history: Annotated[int, Ge(1), Le(100_000)] = 2_000
    """Maximum number of history events in a request."""
    max_user_events: Annotated[int, Ge(1)] = 1_000
    """Number of most recent events of a user, including training events, used when a request has no history. Items of
    older events may be recommended again; ``notes`` say so."""
    max_batch_requests: Annotated[int, Ge(1), Le(MAX_BATCH)] = 256
    """Maximum number of requests in one call of ``/v1/recommend/batch``."""
    max_batch_events: Annotated[int, Ge(1), Le(MAX_BATCH)] = 1_000
    """Maximum number of events in one call of ``/v1/events/batch``."""
    max_body_bytes: Annotated[int, Ge(1_000)] = 2_000_000
    """Maximum size of a request body in bytes."""
    body_timeout_seconds: Annotated[float, Gt(0)] = 10.0
    """Timeout for receiving a request body, in seconds."""
    deadline_ms: Annotated[int, Ge(1)] = 1_000
    """Default response deadline in milliseconds; a faster fallback answers if the model cannot meet it."""
    store_timeout_ms: Annotated[int, Ge(1)] = 500
    """Timeout for reading the event store, in milliseconds; after it, the user is treated as unknown."""
    max_batch_size: Annotated[int, Ge(1), Le(1_024)] = 64
    """Maximum number of concurrent requests that the engine processes together."""
    queue_size: Annotated[int, Ge(1)] = 512
    """Capacity of the request queue and of the event queue; further requests receive 503."""
    max_concurrent: Annotated[int, Ge(1)] = 1_000
    """Maximum number of concurrent HTTP requests; further requests receive 503."""
    rate_limit: Annotated[float, Ge(0)] = 0.0
    """Requests per second per API key, with bursts of up to two seconds' worth; further requests receive 429. 0
    disables the limit."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API (CORS); none by default."""
    engine_threads: Annotated[int, Ge(0)] = 1
    """Threads per operation of engines with their own thread pool, such as ONNX Runtime. A single request gains little
    from more threads; use more workers for more cores. 0: as many as other computations use."""
    fallback: str | None = None
    """Name of the model that answers if the requested one cannot meet the deadline or fails."""
    drain_seconds: Annotated[float, Ge(0)] = 20.0
    """Time for running requests to finish after SIGTERM, in seconds."""
    default_rules: Rules = Rules()
    """Rules applied to every request in addition to its own."""

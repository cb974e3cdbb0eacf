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
    max_batch_items: Annotated[int, Ge(1), Le(MAX_BATCH)] = 100
    """Maximum number of items in one call of ``POST /v1/items``."""
    max_batch_rows: Annotated[int, Ge(1), Le(MAX_BATCH)] = 2_000
    """Maximum number of rows in one call of ``POST /v1/predict``."""
    max_added_items: Annotated[int, Ge(1), Le(10_000_000)] = 100_000
    """Maximum number of items that ``POST /v1/items`` adds to the catalog in all. They are kept in memory, and each
    change of items copies the item vectors of the models: for more, train a model with them."""
    items_timeout_ms: Annotated[int, Ge(1), Le(3_600_000)] = 30_000
    """Time after which items that still wait for others to be encoded are refused with 503, in milliseconds."""
    max_body_bytes: Annotated[int, Ge(1_000)] = 2_000_000
    """Maximum size of a request body in bytes."""
    max_body_values: Annotated[int, Ge(1_000)] = 100_000
    """Maximum number of JSON values in a request body of more than 32 kB, counted by its commas and opening brackets,
    those in texts included. The bodies in use may have four times as many values together, and those of one client
    twice as many."""
    max_buffered_bytes: Annotated[int, Ge(1_000)] = 64_000_000
    """Maximum size in bytes of all request bodies that the requests of a process hold; one client may use half of it.
    Further requests with a body receive 503. If it is less than twice ``max_body_bytes``, that is the limit. Up to
    64 MB more may have arrived that no request has read yet."""
    max_unread_response_bytes: Annotated[int, Ge(100_000)] = 128_000_000
    """Maximum size in bytes of all responses of a process that their clients have not read yet; one client may use half
    of it, and a larger response counts as half. Further responses of more than 16 kB become 503, or 429 for the client,
    unless the request has changed something."""
    body_timeout_seconds: Annotated[float, Gt(0), Le(86_400)] = 10.0
    """Timeout for receiving a request body, in seconds."""
    deadline_ms: Annotated[int, Ge(1), Le(3_600_000)] = 1_000
    """Default response deadline in milliseconds; a faster fallback answers if the model cannot meet it. Explanations
    have five times as long."""
    store_timeout_ms: Annotated[int, Ge(1), Le(600_000)] = 500
    """Timeout for reading the event store, in milliseconds; after it, the user is treated as unknown."""
    store_write_timeout_ms: Annotated[int, Ge(10), Le(600_000)] = 2_000
    """Timeout for writing to the event store, in milliseconds; after it, the request receives 503. A write may have to
    wait for the one before it, so a response can take twice as long; deletions have a second more, for erasing."""
    max_store_bytes: Annotated[int, Ge(0)] = 0
    """Maximum size of the event store in bytes, measured every few seconds. At the limit, events receive 503,
    user states are no longer stored, and exposures of experiments wait in memory; reading and deleting still work. 0:
    no limit."""
    ready_without_store: bool = False
    """Whether ``/readyz`` reports a service as ready although its event store is unavailable or full. Requests are then
    answered without stored events."""
    state_days: Annotated[int, Ge(1), Le(36_500)] = 30
    """Number of days after which a stored state of a streaming model is deleted if it was not updated. The next request
    of the user computes it from their events again."""
    max_batch_size: Annotated[int, Ge(1), Le(1_024)] = 64
    """Maximum number of concurrent requests that the engine processes together."""
    queue_size: Annotated[int, Ge(1)] = 512
    """Capacity of the event queue, and of each lane of the request queue: plain requests, and expensive requests or
    batches. When a queue is full, requests receive 503, those of the client with the most queued first."""
    max_concurrent: Annotated[int, Ge(1)] = 1_000
    """Maximum number of concurrent HTTP requests; further requests receive 503. A request counts from the moment its
    body has arrived. Health probes and ``/metrics`` do not count."""
    max_concurrent_per_key: Annotated[int, Ge(0)] = 0
    """Maximum number of concurrent HTTP requests of one API key, or of one client address if no keys are required;
    further requests receive 429. 0: half of ``max_concurrent``."""
    max_concurrent_open: Annotated[int, Ge(1)] = 100
    """Maximum number of concurrent requests for the UI, the API documentation and other routes without a key, which do
    not count for ``max_concurrent``; one client address may use half of it."""
    max_connections: Annotated[int, Ge(0)] = 0
    """Maximum number of connections per process; further connections receive 503, except for a few that are limited to
    health probes. 0: 10,000, or as many as the operating system's limit on open files permits."""
    max_connections_per_address: Annotated[int, Ge(0)] = 0
    """Maximum number of connections per client address, where a network of 64 bits counts as one address of IPv6.
    Behind a reverse proxy all clients have its address: set it to ``max_connections`` and limit clients in the proxy.
    0: half of ``max_connections``."""
    rate_limit: Annotated[float, Ge(0)] = 0.0
    """Requests per second per API key, or per client address if no keys are required, with bursts of up to two seconds'
    worth; further requests receive 429. It does not apply to the UI, the API documentation, health probes and
    ``/metrics``. 0 disables the limit."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API (CORS); none by default."""
    max_models_bytes: Annotated[int, Ge(0)] = 1_000_000_000
    """Maximum memory of the models that were loaded from the folder ``--models``, in bytes: the files of their
    artifacts, tables of ids and item vectors. When another model needs memory, those not used for longest are unloaded,
    except the active and the previous model, the fallback and the models of experiments. Models given on the command
    line do not count and stay loaded. 0: no limit."""
    engine_threads: Annotated[int, Ge(0)] = 1
    """Threads per operation of engines with their own thread pool, such as ONNX Runtime. A single request gains little
    from more threads; use more workers for more cores. 0: as many as other computations use."""
    fallback: str | None = None
    """Name of the model that answers if the requested one cannot meet the deadline or fails."""
    drain_seconds: Annotated[float, Ge(0), Le(86_400)] = 20.0
    """Time for running requests to finish after SIGTERM, in seconds."""
    default_rules: Rules = Rules()
    """Rules applied to every request in addition to its own."""

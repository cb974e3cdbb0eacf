"""Response schemas of the remaining endpoints.

They cover events, users, models, statistics and errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from segue.serving.schemas.base import ApiModel, Scalar
from segue.serving.schemas.responses import ModelInfo

__all__ = [
    "ErrorResponse",
    "EventsAccepted",
    "ItemDeleted",
    "ItemsStored",
    "LiveStats",
    "ModelList",
    "ModelStatus",
    "User",
    "UserDeleted",
    "UserEvent",
    "UserList",
]


class EventsAccepted(ApiModel):
    """Result of storing events.

    The events are durable, and the next response takes them into account.
    """

    accepted: int
    """Number of new events."""
    duplicates: int
    """Number of events whose idempotency key was already stored."""
    unknown_items: list[str] = []
    """Items outside the catalog of the active model. Their events are stored but no model uses them yet."""
    conflicts: list[str] = []
    """Keys of duplicates that differ from the stored event in item, action, value or given time. The stored event is
    unchanged. Duplicates are compared with the newest 100 events of the user."""
    notes: list[str] = []
    """Further remarks in plain text."""


class ItemsStored(ApiModel):
    """Result of adding items.

    They are durable, and the next response of the models listed may recommend them.
    """

    added: int
    """Number of items that the catalog did not have."""
    replaced: int
    """Number of items that it had, which are replaced."""
    models: list[str]
    """Loaded models that have the items."""
    other_models: list[str] = []
    """Loaded models that cannot have them, because they represent items by their events."""
    notes: list[str] = []
    """Numbers far outside of their range in training, which models score as the nearest in it."""


class ItemDeleted(ApiModel):
    """Result of removing an added item."""

    id: str


class UserEvent(ApiModel):
    """Stored event of a user."""

    item: str
    title: str | None = None
    action: str | None = None
    value: float | None = None
    time: int | None = None
    context: Mapping[str, Scalar | None] | None = None
    """Context of the event by column; for events of the training data only columns that the active model reads."""
    origin: Literal["training", "service"] = "service"
    """Whether the event is part of the training data or was received by the service."""


class User(ApiModel):
    """What the service knows about a user."""

    id: str
    known: bool
    """Whether the user is in the training data."""
    events: list[UserEvent]
    """Most recent events, oldest first."""
    total: int
    """Number of all events, including those not shown."""
    deleted: bool = False
    """Whether the user was deleted; their training data is then ignored."""


class UserList(ApiModel):
    """Ids of the users found."""

    users: list[str]


class UserDeleted(ApiModel):
    """Result of deleting a user."""

    id: str
    deleted_events: int
    """Number of deleted events. The user's training data is ignored from now on."""
    erased: bool
    """Whether no byte of the user is left in the storage of the event store, such as its files."""
    notes: list[str] = []
    """When the remaining bytes will be erased."""


class ModelStatus(ModelInfo):
    """Model that the service can use."""

    active: bool
    loaded: bool
    """Whether the model is in memory; other models are loaded on first use."""
    items: int | None = None
    """Size of the catalog, once loaded."""
    users: int | None = None
    """Number of training users, once loaded."""
    trained_at: str | None = None
    """Time of training in ISO 8601."""
    data: str | None = None
    """Name of the training data."""
    metrics: dict[str, float] = {}
    """Test metrics, if known."""
    actions: list[str] = []
    """Kinds of event in the training data, once loaded; empty if it has no kinds."""
    target: str | None = None
    """Kind of event that the model predicts, and that events without one count as; null: all kinds."""
    golden_queries: int = 0
    """Number of golden queries that the engine answers in the same order as the trained model."""


class ModelList(ApiModel):
    """Available models."""

    models: list[ModelStatus]
    previous: str | None = None
    """Model that a rollback would activate."""


class LiveStats(ApiModel):
    """Statistics of the last minute."""

    requests_per_second: float
    p50_ms: float | None
    """Median latency of requests under ``/v1``."""
    p95_ms: float | None
    p99_ms: float | None
    in_flight: int
    """Requests being processed."""
    queued: int
    """Requests waiting for the engine."""
    sources: dict[str, int]
    """Responses by source, since the start."""
    errors: int
    """Responses with status 5xx, since the start."""
    uptime_seconds: float


class ErrorResponse(ApiModel):
    """Error; all errors have this form."""

    error: str
    """Error code: ``invalid``, ``unauthorized``, ``forbidden``, ``not_found``, ``method_not_allowed``,
    ``request_timeout``, ``conflict``, ``too_large``, ``unsupported_media_type``, ``misdirected_request``,
    ``rate_limited``, ``overloaded``, ``store_full``, ``store_damaged``, ``internal_error``."""
    message: str
    """Plain text that names the field at fault."""
    fields: dict[str, str] = {}
    """Errors by field."""
    request_id: str = ""
    """Id to quote when reporting the error to the operator."""

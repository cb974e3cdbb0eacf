"""Request schemas: recommendations, explanations, events, items and predictions."""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeAlias

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from segue.features.new_items import MAX_TITLE_LENGTH
from segue.serving.schemas.base import WHOLE_NUMBER, ApiModel, Feature, FeatureValue, Id, Name, Scalar, Time, Value
from segue.serving.schemas.rules import Rules

__all__ = [
    "MAX_BATCH",
    "BatchRequest",
    "Cell",
    "EventBatch",
    "EventRequest",
    "ExplainRequest",
    "HistoryEvent",
    "ItemRequest",
    "ItemsRequest",
    "PredictRequest",
    "RecommendRequest",
]

MAX_BATCH = 10_000
"""Upper bound on requests or events per call that the schemas accept; operators configure lower limits."""


Scalars: TypeAlias = Annotated[list[Scalar], Field(fail_fast=True, max_length=1000)]
"""Several values of a feature."""

ContextValues: TypeAlias = Annotated[dict[Feature, Scalar | None], Field(max_length=100)]
"""Values of context columns by name; null is unknown."""


class HistoryEvent(ApiModel):
    """Event of a history that is part of the request."""

    item: Id
    """Item id."""
    action: Name | None = None
    """Kind of event, one of those in the training data, such as ``purchase``; default: unknown."""
    value: Value | None = None
    """Value, such as a rating."""
    time: Time | None = None
    """Unix time in seconds, not milliseconds."""
    context: ContextValues | None = None
    """Context of the event by column, for models that read it."""


class RecommendRequest(Rules):
    """Request for recommendations.

    It is for a known user, for a given history, or for a new user.
    """

    user: Id | None = None
    """User id. Without ``history``, the user's stored events are used."""
    history: Annotated[list[Id | HistoryEvent], Field(fail_fast=True, max_length=100_000)] | None = None
    """History to use instead of the stored one: item ids or events, oldest first; may be empty."""
    profile: Annotated[dict[Feature, Scalar | Scalars | None], Field(max_length=100)] | None = None
    """User features, named as in the training data; null is unknown."""
    k: Annotated[int, Field(ge=1), WHOLE_NUMBER] = 10
    """Number of items to return."""
    include_seen: bool = False
    """Whether items of the history may be recommended again. With ``user`` and without ``history`` it shows the user's
    history, so it requires a key with the scope ``read``."""
    exclude_seen: bool | None = None
    """The opposite of ``include_seen``, as in Python; give one of them."""
    time: Time | None = None
    """Time of the query, for models that use it; default: now."""
    context: ContextValues | None = None
    """Context of the query by column, such as the device, for models that read it. Columns that are not given are
    unknown, and so are categories that do not occur in training."""
    model: Name | None = None
    """Name of the model; default: the one that an experiment assigns, otherwise the active model."""
    deadline_ms: Annotated[int, Field(ge=1, le=600_000), WHOLE_NUMBER] | None = None
    """Response deadline in milliseconds. A faster fallback answers if the model cannot meet it."""

    @property
    def uses_stored_history(self) -> bool:
        """Whether the history is that of the training data and the store."""
        return self.user is not None and self.history is None

    @model_validator(mode="before")
    @classmethod
    def _set_include_seen(cls, data: Any) -> Any:
        """Translate ``exclude_seen``."""
        if not isinstance(data, dict) or not isinstance(data.get("exclude_seen"), bool):
            return data
        if "include_seen" not in data:
            return {**data, "include_seen": not data["exclude_seen"]}
        if data["include_seen"] is data["exclude_seen"]:
            raise PydanticCustomError("contradiction", "include_seen and exclude_seen contradict each other; give one")
        return data


class BatchRequest(ApiModel):
    """Several recommendation requests in one call; responses keep their order."""

    requests: Annotated[list[RecommendRequest], Field(fail_fast=True, min_length=1, max_length=MAX_BATCH)]
    """Requests."""


class ExplainRequest(RecommendRequest):
    """Request for an explanation of why an item is recommended, or why it is not."""

    item: Id
    """Item to explain."""


class EventRequest(ApiModel):
    """User-item interaction."""

    user: Id
    """User id."""
    item: Id
    """Item id. Events of items outside the catalog are stored too."""
    action: Name | None = None
    """Kind of event, one of those in the training data, such as ``purchase``. Required if there are several, unless the
    model has a target: then the default is the target."""
    value: Value | None = None
    """Value, such as a rating."""
    time: Time | None = None
    """Unix time in seconds, not milliseconds; default: time of arrival. Fractions of a second are dropped."""
    key: Name | None = None
    """Idempotency key chosen by the client: of a user's events with the same key only the first is stored."""
    context: ContextValues | None = None
    """Context of the event by column, such as the device; only columns that a loaded model reads are accepted."""


class EventBatch(ApiModel):
    """Several events in one call: either all are stored or none."""

    events: Annotated[list[EventRequest], Field(fail_fast=True, min_length=1, max_length=MAX_BATCH)]
    """Events in their order."""


class ItemRequest(ApiModel):
    """Item to add to the catalog, or to replace as a whole."""

    id: Id
    """Item id."""
    title: Annotated[str, StringConstraints(max_length=MAX_TITLE_LENGTH)] | None = None
    """Title."""
    features: dict[Feature, FeatureValue | None] = {}
    """Features of the catalog by name, text included. Those that are not given are unknown. Text is a string, tags are
    a list of strings, times are Unix seconds or ISO 8601. The vectors of text are computed by the service."""

    @model_validator(mode="after")
    def _check_title(self) -> Self:
        """Reject a title in two places."""
        if "title" in self.features or "id" in self.features:
            raise PydanticCustomError("contradiction", "id and title are fields of the item, not features")
        return self

    def values(self) -> dict[str, Any]:
        """Return id, title and features in one mapping."""
        return {"id": self.id, **({} if self.title is None else {"title": self.title}), **self.features}


class ItemsRequest(ApiModel):
    """Items to add to the catalog: either all are added or none."""

    items: Annotated[list[ItemRequest], Field(fail_fast=True, min_length=1, max_length=MAX_BATCH)]
    """Items."""


Cell: TypeAlias = FeatureValue | None
"""Cell of a table: text, a truth value, a number, a list of texts or numbers, or null where it is empty."""

MAX_COLUMNS = 10_000
"""Columns of a row at most."""


class PredictRequest(ApiModel):
    """Rows of a table, whose labels are predicted by a click-through model."""

    rows: Annotated[
        list[Annotated[dict[Feature, Cell], Field(max_length=MAX_COLUMNS)]],
        Field(fail_fast=True, min_length=1, max_length=MAX_BATCH),
    ]
    """Rows by column, as in the table of the training. A column that a row does not have is empty there. Times are Unix
    seconds or ISO 8601."""
    model: Name | None = None
    """Name of the model; default: the first one of the service."""
    deadline_ms: Annotated[int, Field(ge=1, le=600_000), WHOLE_NUMBER] | None = None
    """Response deadline in milliseconds. If the rows cannot be predicted before it, the status is 503."""

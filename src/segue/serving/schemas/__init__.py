"""JSON schemas of the HTTP API, validated strictly.

They cover requests, events and responses. Ids are strings of 1 to 256 characters without control characters, or
integers; responses contain them as strings. Unknown keys and non-finite numbers are rejected. Validation of a list
stops at its first error: reporting a hundred thousand errors would take longer than answering. Limits that an operator
configures (``k``, length of a history, ...) are checked in :mod:`segue.serving.api.dependencies`.
"""

from __future__ import annotations

from segue.serving.schemas.admin import (
    ErrorResponse,
    EventsAccepted,
    ItemDeleted,
    ItemsStored,
    LiveStats,
    ModelList,
    ModelStatus,
    User,
    UserDeleted,
    UserEvent,
    UserList,
)
from segue.serving.schemas.base import WHOLE_NUMBER, ApiModel, Feature, Id, Name, Scalar, Source, Time, Value
from segue.serving.schemas.requests import (
    MAX_BATCH,
    BatchRequest,
    Cell,
    EventBatch,
    EventRequest,
    ExplainRequest,
    HistoryEvent,
    ItemRequest,
    ItemsRequest,
    PredictRequest,
    RecommendRequest,
)
from segue.serving.schemas.responses import (
    Attribution,
    BatchResponse,
    Explanation,
    Item,
    ItemList,
    KnowledgePath,
    ModelInfo,
    PredictResponse,
    Reason,
    RecommendedItem,
    RecommendResponse,
    UnknownInputs,
)
from segue.serving.schemas.rules import Boost, Condition, Filter, Pin, Rules

__all__ = [
    "MAX_BATCH",
    "WHOLE_NUMBER",
    "ApiModel",
    "Attribution",
    "BatchRequest",
    "BatchResponse",
    "Boost",
    "Cell",
    "Condition",
    "ErrorResponse",
    "EventBatch",
    "EventRequest",
    "EventsAccepted",
    "ExplainRequest",
    "Explanation",
    "Feature",
    "Filter",
    "HistoryEvent",
    "Id",
    "Item",
    "ItemDeleted",
    "ItemList",
    "ItemRequest",
    "ItemsRequest",
    "ItemsStored",
    "KnowledgePath",
    "LiveStats",
    "ModelInfo",
    "ModelList",
    "ModelStatus",
    "Name",
    "Pin",
    "PredictRequest",
    "PredictResponse",
    "Reason",
    "RecommendRequest",
    "RecommendResponse",
    "RecommendedItem",
    "Rules",
    "Scalar",
    "Source",
    "Time",
    "UnknownInputs",
    "User",
    "UserDeleted",
    "UserEvent",
    "UserList",
    "Value",
]

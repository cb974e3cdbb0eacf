"""Response schemas: recommendations, explanations and items.

Ids are text in all responses, also if the request or the training data has integers.
"""

from __future__ import annotations

from typing import Literal

from segue.serving.schemas.base import ApiModel, Scalar, Source

__all__ = [
    "Attribution",
    "BatchResponse",
    "Explanation",
    "Item",
    "ItemList",
    "ModelInfo",
    "PredictResponse",
    "Reason",
    "RecommendResponse",
    "RecommendedItem",
    "UnknownInputs",
]


class RecommendedItem(ApiModel):
    """Recommended item."""

    id: str
    title: str | None = None
    score: float
    """Model score; comparable only within one response."""
    probability: float | None = None
    """Probability that this is the next item, among all items that ``include_seen`` permits; only for models with
    logits."""
    pinned: bool = False
    """Whether a rule pinned the item to its position."""


class ModelInfo(ApiModel):
    """Model that produced a response."""

    name: str
    """Name under which the model was exported."""
    key: str
    """Kind of model, such as ``sasrec``."""
    version: str
    """First 12 digits of the hash of the trained model."""
    engine: str
    """Engine that computed the scores, such as ``native`` or ``onnx``."""


class UnknownInputs(ApiModel):
    """Parts of the request that could not be used."""

    user: bool = False
    """Whether the user id is not in the training data."""
    items: list[str] = []
    """Items of the history and of the rules that are not in the catalog."""
    features: list[str] = []
    """Features that neither the model nor the catalog has."""


class RecommendResponse(ApiModel):
    """Recommendations."""

    items: list[RecommendedItem]
    """Best first; fewer than ``k`` if the rules leave fewer."""
    model: ModelInfo
    source: Source = "model"
    """What produced the list; any value but ``model`` indicates degraded service, explained in ``notes``."""
    filtered_counts: dict[str, int] = {}
    """Number of catalog items excluded by each rule (``seen``, ``allow``, ``deny``, ``filter``), and number of
    candidates skipped by quotas (``max_per_value``). A key without the scope ``read`` gets no ``seen`` for the stored
    history of a user."""
    unknown: UnknownInputs = UnknownInputs()
    notes: list[str] = []
    """Further remarks in plain text."""


class BatchResponse(ApiModel):
    """Responses in the order of the requests."""

    responses: list[RecommendResponse]


class Attribution(ApiModel):
    """Effect of one history event on the score of an item."""

    id: str
    title: str | None = None
    contribution: float
    """Score of the item minus its score without this event."""


class KnowledgePath(ApiModel):
    """Path in the knowledge graph from an item of the history to the item."""

    id: str
    """Item of the history."""
    title: str | None = None
    entity: str | None = None
    """Entity that both items are linked with; null if a triple links them directly."""
    relations: list[str]
    """Relations along the path, from the item of the history."""
    text: str
    """The path in words."""


class Reason(ApiModel):
    """Reason for or against an item."""

    kind: Literal["rank", "attribution", "features", "neighbors", "path", "rule", "unknown"]
    text: str
    """Plain text."""


class Item(ApiModel):
    """Item of the catalog."""

    id: str
    title: str | None = None
    features: dict[str, Scalar | list[Scalar] | None] = {}
    """Item features."""
    similarity: float | None = None
    """Shrunk cosine of co-occurrence with the item of the request, at most 1."""


class ItemList(ApiModel):
    """List of items."""

    items: list[Item]


class Explanation(ApiModel):
    """Explanation of why an item is recommended, or why it is not."""

    item: RecommendedItem
    recommended: bool
    """Whether the item is among the ``k`` recommended items."""
    position: int | None = None
    """Rank among all items that the rules permit, starting at 1; null if a rule excludes the item."""
    attributions: list[Attribution] = []
    """Leave-one-out attributions of history items, largest effect first."""
    shared_features: dict[str, list[str]] = {}
    """By feature, the values that the item shares with items of the history."""
    neighbors: list[Item] = []
    """Items of the history that often co-occur with the item, most similar first."""
    paths: list[KnowledgePath] = []
    """Paths in the knowledge graph from items of the history, most specific first; empty without triples."""
    rules: dict[str, str] = {}
    """By rule, its effect on the item."""
    reasons: list[Reason] = []
    """The same as plain text."""
    model: ModelInfo
    unknown: UnknownInputs = UnknownInputs()
    notes: list[str] = []
    """Further remarks in plain text."""


class PredictResponse(ApiModel):
    """Predictions in the order of the rows."""

    probabilities: list[float]
    """Probability that the label is 1, calibrated if the model is."""
    predictions: list[bool]
    """Whether the probability reaches the threshold of the model, which was chosen on validation."""
    model: ModelInfo
    notes: list[str] = []
    """Columns none of whose values is known from training, and columns that the model does not know."""

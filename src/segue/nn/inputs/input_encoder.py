"""Encode what a next-item model reads in addition to the items.

Inputs are selected by name.

Event inputs: ``value``, ``action``, ``gap`` (seconds since the previous event), ``query_time`` (seconds from the newest
event to the query), ``session_position`` (position within the session), and the calendar: ``hour``, ``weekday``,
``month`` and ``season`` of the event, and ``query_hour`` etc. of the query; the context columns of the event
(``context``) and of the query (``query_context``). Features: ``item_features`` and
``user_features``. Unknown inputs have learned vectors, not zeros.

Shapes: B sequences, L positions, D width, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import StringConstraints
from torch import Tensor, nn

from segue.core.batches import QUERY, Sequences
from segue.core.config import suggest
from segue.core.events import CONTEXT
from segue.core.features import infer_features
from segue.core.types import DataSchema, Dataset, Feature
from segue.nn.inputs.event_embeddings import INPUT_COLUMNS, EventEmbeddings
from segue.nn.inputs.feature_embeddings import ItemFeatureEmbeddings, UserFeatureEmbeddings
from segue.nn.inputs.item_fusion import ItemFusion

__all__ = ["InputEncoder", "InputName"]

InputName: TypeAlias = (
    Literal[
        "value", "action", "gap", "query_time", "session_position", "hour", "weekday", "month", "season", "query_hour",
        "query_weekday", "query_month", "query_season", "context", "query_context", "item_features", "user_features",
    ]
    | Annotated[str, StringConstraints(pattern="^(query_)?context:.+$")]
)  # fmt: skip
"""``context`` stands for all context columns, ``context:NAME`` for one of them."""

EXCLUDED = -1e3
"""Added in training to the score of items that do not occur in training: effectively minus infinity, but finite."""


class InputEncoder(nn.Module):
    """The inputs named in ``config.inputs``, of which there is at least one.

    Args:
        config: ``inputs``, ``embedding_dim``, ``session_gap``, ``feature_dropout``.
        std: standard deviation of the initial vectors, that of the item embeddings.

    Raises:
        ValueError: features are requested, and the schema has none.
    """

    def __init__(self, config: Any, schema: DataSchema, std: float) -> None:
        super().__init__()
        names = config.inputs
        self.feature_dropout, self.n_items = config.feature_dropout, schema.n_items
        for name in ("item_features", "user_features"):
            if name in names and not getattr(schema, name):
                raise ValueError(f"model.inputs: '{name}' is not available: the data has no usable {name}")
        context_inputs = _context_inputs(names, schema.event_context)
        event_inputs = [*(name for name in INPUT_COLUMNS if name in names), *context_inputs]
        width, n_actions = config.embedding_dim, len(schema.actions)
        columns = (column for name in event_inputs for column in INPUT_COLUMNS.get(name, (name,)))
        self.columns = tuple(dict.fromkeys(columns))
        self.events: EventEmbeddings | None = None
        if event_inputs:
            self.events = EventEmbeddings(event_inputs, width, n_actions, config.session_gap, std, schema.event_context)
        self.items: ItemFeatureEmbeddings | ItemFusion | None = None
        self.users: UserFeatureEmbeddings | None = None
        if "item_features" in names:
            self.items = ItemFeatureEmbeddings(schema.item_features, schema.n_items, width, std)
        if "user_features" in names:
            self.users = UserFeatureEmbeddings(schema.user_features, schema.n_users, width, std)

    @staticmethod
    def schema_for(config: Any, data: Dataset) -> DataSchema:
        """Return the schema of ``data`` with the features that ``config.inputs`` needs."""
        schema = data.schema
        if "item_features" in config.inputs:
            schema = replace(schema, item_features=infer_features(data.item_features)[0])
        if "user_features" in config.inputs:
            schema = replace(schema, user_features=infer_features(data.user_features)[0])
        read = {name.split(CONTEXT)[-1] for name in _context_inputs(config.inputs, data.event_context)}
        return replace(schema, event_context=tuple(one for one in data.event_context if one.name in read))

    def prepare(self, train: Dataset) -> None:
        """Compute what the inputs need from the data.

        Raises:
            ValueError: the data lacks what an input needs.
        """
        for part in (self.events, self.items, self.users):
            if part is not None:
                part.prepare(train)

    def embed(self, batch: Sequences, embedding: nn.Embedding) -> Tensor:
        """Return the sum of the item vectors and all inputs, ``(B, L, D)``.

        Args:
            embedding: embeddings of the items, followed by those of the start and mask tokens.
        """
        x_BLD: Tensor = (
            embedding(batch.items_BL)
            if self.items is None
            else self.items.embed(batch.items_BL, embedding.weight, self._drop_prob)
        )
        return self.add_event_and_user_inputs(x_BLD, batch)

    def add_event_and_user_inputs(self, x_BLD: Tensor, batch: Sequences) -> Tensor:
        """Return ``x_BLD``, the items at all positions, plus all other inputs."""
        if self.events is not None:
            x_BLD = x_BLD + self.events(batch, self.n_items, self._drop_prob)
        if self.users is not None:
            x_BLD = x_BLD + self.users(batch, self._drop_prob)
        return x_BLD

    def with_session_positions(self, batch: Sequences) -> Sequences:
        """Return ``batch`` with session positions computed.

        A stream can continue from the positions of its last events.
        """
        return batch if self.events is None else self.events.with_session_positions(batch, self.n_items)

    def item_vectors(self, embeddings_ID: Tensor) -> Tensor:
        """Return the vectors that score items, ``(I, D)``."""
        return embeddings_ID if self.items is None else self.items(embeddings_ID, self._drop_prob)

    def training_bias(self, bias_I: Tensor | None) -> Tensor | None:
        """Return the item bias for the loss.

        It excludes items that do not occur in training from the negatives. There is a bias only with item features,
        which represent such items.
        """
        if self.items is None or bool(self.items.in_training_I.all()):
            return bias_I
        excluded_I = torch.where(self.items.in_training_I, 0.0, EXCLUDED)
        return excluded_I if bias_I is None else bias_I + excluded_I

    def prediction_bias(self, bias_I: Tensor) -> Tensor:
        """Return the item bias for prediction, with the bonus of new items."""
        if not isinstance(self.items, ItemFusion):
            return bias_I
        return bias_I + self.items.new_item_bonus * ~self.items.in_training_I

    @property
    def _drop_prob(self) -> float:
        """Return the probability that a known input is replaced by unknown, in training.

        Replacement trains the vectors of unknown inputs.
        """
        return self.feature_dropout if self.training else 0.0


def _context_inputs(names: Sequence[str], available: Sequence[Feature]) -> list[str]:
    """Return the inputs of context columns that ``names`` stand for.

    Raises:
        ValueError: there is no such context column, or none at all.
    """
    columns = [one.name for one in available]
    inputs: list[str] = []
    for name in names:
        base = name.removeprefix(QUERY)
        if base == CONTEXT.rstrip(":"):
            if not columns:
                raise ValueError(f"model.inputs: '{name}' is not available: the data has no context columns")
            inputs += [f"{name}:{column}" for column in columns]
        elif base.startswith(CONTEXT):
            column = base.removeprefix(CONTEXT)
            if column not in columns:
                hint = suggest(column, columns) if columns else "; the data has no context columns"
                raise ValueError(f"model.inputs: '{name}' is not available: unknown context column '{column}'{hint}")
            inputs.append(name)
    return list(dict.fromkeys(inputs))

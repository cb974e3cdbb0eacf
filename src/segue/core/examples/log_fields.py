"""Make examples from an interaction log.

They are the inputs of a pair of user and item, as known before the event.

The fields are the user, the item, their features, the context and the items of the history before the event. Users and
items that do not occur in training are unknown and are represented by their features.

Shapes: T pairs or rows, N queries, U users, I items, J columns of encoded features, F fields of categories, K fields of
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Events, Scores
from segue.core.examples.fields import MISSING, N_RESERVED, UNKNOWN, Examples, Field, fields_of_kind
from segue.core.features import encode_features, infer_features, merge_features
from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.types import DataSchema, Dataset, Feature, Queries

if TYPE_CHECKING:
    from segue.core.examples.interaction_pairs import InteractionPairs

__all__ = [
    "HISTORY",
    "ITEM",
    "NO_CATALOG",
    "USER",
    "LogFields",
    "log_fields",
    "log_schema",
    "positive_events",
    "score_pairs",
]

USER, ITEM, HISTORY = "user", "item", "history"
"""Names of the fields of ids, and of the sequence of items before the event."""

Index = NDArray[np.int64]

NO_CATALOG = (
    "this model was trained on a table of examples and has no catalog to recommend from; expected a model that was "
    "trained on an interaction log"
)
"""Error of models of tables when they have to recommend."""


def log_fields(schema: DataSchema, has_history: bool) -> tuple[Field, ...]:
    """Return the fields of examples from a log.

    Fields of features and context have the prefixes ``user.``, ``item.`` and ``context.``.
    """
    ids = Field(USER, "category", schema.n_users + N_RESERVED), Field(ITEM, "category", schema.n_items + N_RESERVED)
    parts = {"user.": schema.user_features, "item.": schema.item_features, "context.": schema.event_context}
    features = [_field(prefix, feature) for prefix, group in parts.items() for feature in group]
    history = [Field(HISTORY, "sequence", ids[1].size, shares=ITEM)] if has_history else []
    return (*ids, *features, *history)


def positive_events(train: Dataset) -> Index:
    """Return the events that are positive examples: those with the target action.

    Without a target action these are all events.

    Raises:
        ValueError: no event has the target action.
    """
    events = train.target_events
    if not len(events) and train.target is not None:
        raise ValueError(
            f"target: no training event of '{train.name}' has the action '{train.actions[train.target]}', expected at "
            "least one, as the model learns from them; hold out fewer events, or choose another target"
        )
    return events


def log_schema(data: Dataset, inputs: Collection[str]) -> DataSchema:
    """Return the schema of a log with the features that ``inputs`` names."""
    return replace(
        data.schema,
        item_features=infer_features(data.item_features)[0] if "item_features" in inputs else (),
        user_features=infer_features(data.user_features)[0] if "user_features" in inputs else (),
        event_context=_context_features(data) if "context" in inputs else (),
    )


def _context_features(data: Dataset) -> tuple[Feature, ...]:
    """Return the context columns with the mean and deviation of their numbers."""
    features = []
    for feature in data.event_context:
        if feature.kind == "number":
            known = data.histories.context[feature.name]
            known = known[~np.isnan(known)]
            if len(known) and known.std():
                features.append(replace(feature, center=float(known.mean()), scale=float(known.std())))
        else:
            features.append(feature)
    return tuple(features)


def _field(prefix: str, feature: Feature) -> Field:
    size = len(feature.categories) + N_RESERVED if feature.kind in ("category", "tags") else feature.size
    return Field(prefix + feature.name, feature.kind, size)


@dataclass(frozen=True, eq=False)
class FeatureColumns:
    """Encoded features of some users, items or events.

    In the form of :class:`segue.core.examples.fields.Examples`.
    """

    codes: Codes
    """``(T, F)``"""
    numbers: Scores
    """``(T, K)``"""
    lists: Mapping[str, Events]
    vectors: Mapping[str, Scores]

    @classmethod
    def of(cls, prefix: str, features: Sequence[Feature], encoded_TJ: Scores) -> FeatureColumns:
        """Divide features, as encoded by :mod:`segue.core.features`, by kind.

        Args:
            prefix: that of the names of the fields.
        """
        ends = np.cumsum([feature.size for feature in features]).tolist()
        parts = [
            (feature.kind, prefix + feature.name, encoded_TJ[:, end - feature.size : end])
            for feature, end in zip(features, ends, strict=True)
        ]
        none_T0 = np.zeros((len(encoded_TJ), 0), np.float32)
        codes_TF = np.concatenate([none_T0, *(part + N_RESERVED for kind, _, part in parts if kind == "category")], 1)
        return cls(
            np.nan_to_num(codes_TF, nan=MISSING).astype(np.int32),
            np.concatenate([none_T0, *(part for kind, _, part in parts if kind == "number")], 1),
            {name: _tags(part) for kind, name, part in parts if kind == "tags"},
            {name: part for kind, name, part in parts if kind == "vector"},
        )

    def take(self, rows_T: NDArray[np.integer[Any]]) -> FeatureColumns:
        """Return rows by index."""
        return FeatureColumns(
            self.codes[rows_T],
            self.numbers[rows_T],
            {name: one.take(rows_T) for name, one in self.lists.items()},
            {name: one[rows_T] for name, one in self.vectors.items()},
        )

    def where(self, is_known_T: NDArray[np.bool_]) -> FeatureColumns:
        """Return the same rows; all features are missing where ``is_known_T`` is false."""
        if is_known_T.all():
            return self
        is_known_T1 = is_known_T[:, None]
        return FeatureColumns(
            np.where(is_known_T1, self.codes, np.int32(MISSING)),
            np.where(is_known_T1, self.numbers, np.float32(np.nan)),
            {name: one.where(is_known_T[one.rows]) for name, one in self.lists.items()},
            {name: np.where(is_known_T1, one, np.float32(np.nan)) for name, one in self.vectors.items()},
        )


@dataclass(frozen=True, eq=False)
class LogFields:
    """Tables from which the inputs of pairs of users and items are looked up.

    Fields of numbers that the log does not have, which come last, are missing in all examples.
    """

    schema: DataSchema
    fields: tuple[Field, ...]
    is_training_user: NDArray[np.bool_]
    """``(U,)`` whether the user has training events."""
    is_training_item: NDArray[np.bool_]
    """``(I,)``"""
    user_features: Scores
    """``(U, J)`` encoded by :mod:`segue.core.features`."""
    item_features: Scores
    """``(I, J)``"""
    max_history: int

    @classmethod
    def of(cls, train: Dataset, schema: DataSchema, fields: tuple[Field, ...], max_history: int) -> LogFields:
        """Encode the features of all users and items of the training data."""
        return cls(
            schema,
            fields,
            train.histories.lengths > 0,
            np.bincount(train.histories.items, minlength=train.n_items) > 0,
            _encode(schema.user_features, train.user_features, train.n_users),
            _encode(schema.item_features, train.item_features, train.n_items),
            max_history,
        )

    def arrays(self) -> StateArrays:
        """Return the tables as arrays of finite numbers."""
        found: dict[str, NDArray[Any]] = {
            "is_training_user": self.is_training_user,
            "is_training_item": self.is_training_item,
        }
        for name in ("user_features", "item_features"):
            table = getattr(self, name)
            found |= {name: np.nan_to_num(table), f"{name}_known": ~np.isnan(table)}
        return found

    @classmethod
    def restore(cls, arrays: StateArrays, schema: DataSchema, fields: tuple[Field, ...], max_history: int) -> LogFields:
        """Read what :meth:`arrays` returned.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        tables = []
        for name, count in (("user", schema.n_users), ("item", schema.n_items)):
            shape = count, sum(one.size for one in getattr(schema, f"{name}_features"))
            known = load_array(arrays, f"{name}_features_known", shape, np.bool_)
            tables.append(np.where(known, load_array(arrays, f"{name}_features", shape, np.float32), np.nan))
        is_user = load_array(arrays, "is_training_user", (schema.n_users,), np.bool_)
        is_item = load_array(arrays, "is_training_item", (schema.n_items,), np.bool_)
        user_table, item_table = (table.astype(np.float32) for table in tables)
        return cls(schema, fields, is_user, is_item, user_table, item_table, max_history)

    def of_events(self, train: Dataset, events_T: Index, items_T: Codes) -> Examples:
        """Return examples of training events, with their own item or another one.

        The history holds the events of the user before the event; everything else is that of the event.

        Args:
            events_T: index of each event in the log.
            items_T: item of each example.
        """
        histories = train.histories
        users_T = np.searchsorted(histories.offsets, events_T, side="right") - 1
        starts_T = np.maximum(histories.offsets[users_T], events_T - self.max_history)
        lengths_T = events_T - starts_T
        offsets = np.concatenate([[0], np.cumsum(lengths_T)])
        before = Events(
            offsets, histories.items[np.arange(offsets[-1]) + np.repeat(starts_T - offsets[:-1], lengths_T)]
        )
        context = {one.name: histories.context[one.name][events_T] for one in self.schema.event_context}
        known_T = np.ones(len(users_T), np.bool_)
        return self._examples(users_T, known_T, items_T, before, context, self._of_users.take(users_T))

    def with_negatives(
        self, train: Dataset, events_M: Index, pairs: InteractionPairs, count: int, rng: np.random.Generator
    ) -> Examples:
        """Return examples of training events, and of sampled items for each.

        The events are positive; ``count`` items are sampled for each.

        The first M examples are those of the events; the sampled items of an event follow at distances of M. The
        weight of sampled items that the user has interacted with is 0.
        """
        users_M = np.searchsorted(train.histories.offsets, events_M, side="right") - 1
        sampled_MK, is_seen_MK = pairs.sample_unseen(users_M, count, rng)
        items_T = np.concatenate([train.histories.items[events_M], sampled_MK.T.ravel()]).astype(np.int32)
        examples = self.of_events(train, np.tile(events_M, count + 1), items_T)
        is_positive_T = np.arange(len(items_T)) < len(events_M)
        weights_T = np.concatenate([np.ones(len(events_M)), ~is_seen_MK.T.ravel()]).astype(np.float32)
        return replace(examples, labels=is_positive_T.astype(np.float32), weights=weights_T)

    def of_pairs(self, queries: Queries, rows_T: Index, items_T: Codes) -> Examples:
        """Return examples of queries and candidate items.

        Args:
            rows_T: query of each example.
            items_T: item of each example.
        """
        recent = queries.history.last(self.max_history)
        before = Events(recent.offsets, recent.items)
        if len(rows_T) != len(queries) or (rows_T != np.arange(len(queries))).any():
            before = before.take(rows_T)
        known_T = queries.known[rows_T]
        users_T = np.where(known_T, queries.users[rows_T], 0)
        own = self.schema.user_features
        if own and queries.profile is not None:
            stored_NJ = self.user_features[np.where(queries.known, queries.users, 0)]
            stored_NJ = np.where(queries.known[:, None], stored_NJ, np.float32(np.nan))
            merged_NJ = merge_features(own, encode_features(own, queries.profile), stored_NJ)
            of_users = FeatureColumns.of("user.", own, merged_NJ).take(rows_T)
        else:
            of_users = self._of_users.take(users_T).where(known_T)
        context = {
            one.name: queries.context[one.name][rows_T] if one.name in queries.context else None
            for one in self.schema.event_context
        }
        return self._examples(users_T, known_T, items_T, before, context, of_users)

    def of_items(self) -> Examples:
        """Return an example of each item, ``I`` rows.

        The user is unknown, and so are history and context."""
        n_items = self.schema.n_items
        unknown = Queries.anonymous(Events(np.zeros(2, np.int64), np.zeros(0, np.int32)))
        return self.of_pairs(unknown, np.zeros(n_items, np.int64), np.arange(n_items, dtype=np.int32))

    @cached_property
    def _of_users(self) -> FeatureColumns:
        return FeatureColumns.of("user.", self.schema.user_features, self.user_features)

    @cached_property
    def _of_items(self) -> FeatureColumns:
        return FeatureColumns.of("item.", self.schema.item_features, self.item_features)

    def _examples(
        self,
        users_T: NDArray[Any],
        known_T: NDArray[np.bool_],
        items_T: Codes,
        before: Events,
        context: Mapping[str, NDArray[Any] | None],
        of_users: FeatureColumns,
    ) -> Examples:
        features = self.schema.event_context
        sides = [of_users, self._of_items.take(items_T)]
        if features:
            sides.append(FeatureColumns.of("context.", features, _context_matrix(features, context, len(items_T))))
        is_training_T = known_T & self.is_training_user[users_T]
        user_codes_T = np.where(is_training_T, users_T + N_RESERVED, UNKNOWN).astype(np.int32)
        ids_T2 = np.stack([user_codes_T, self._item_codes(items_T)], axis=1)
        numbers = [side.numbers for side in sides]
        n_missing = len(fields_of_kind(self.fields, "number")) - sum(one.shape[1] for one in numbers)
        if n_missing:
            numbers.append(np.full((len(items_T), n_missing), np.nan, np.float32))
        lists = {name: one for side in sides for name, one in side.lists.items()}
        if any(one.name == HISTORY for one in self.fields):
            lists[HISTORY] = Events(before.offsets, self._item_codes(before.items))
        return Examples(
            self.fields,
            np.concatenate([ids_T2, *(side.codes for side in sides)], axis=1),
            np.concatenate(numbers, axis=1),
            lists,
            {name: one for side in sides for name, one in side.vectors.items()},
        )

    def _item_codes(self, items: Codes) -> Codes:
        """Return codes of the field of items; those without training events are unknown."""
        codes: Codes = np.where(self.is_training_item[items], items + N_RESERVED, UNKNOWN).astype(np.int32)
        return codes


def score_pairs(
    tables: LogFields,
    queries: Queries,
    candidates: Codes | None,
    predict: Callable[[Examples], Scores],
    block: int,
) -> Scores:
    """Return the predictions of candidates, ``(N, C)``, or of all items.

    Args:
        predict: returns a number for each example.
        block: number of pairs that are encoded at a time.
    """
    n_items = tables.schema.n_items
    if candidates is None:
        candidates = np.broadcast_to(np.arange(n_items, dtype=np.int32), (len(queries), n_items))
    count = candidates.shape[1]
    scores_NC = np.empty(candidates.shape, np.float32)
    step = max(1, block // max(1, count))
    for start in range(0, len(queries), step):
        part = queries.rows_between(start, min(start + step, len(queries)))
        rows_T = np.arange(len(part)).repeat(count)
        examples = tables.of_pairs(part, rows_T, candidates[start : start + step].ravel())
        scores_NC[start : start + step] = predict(examples).reshape(len(part), count)
    return scores_NC


def _encode(features: Sequence[Feature], table: Any, count: int) -> Scores:
    if not features:
        return np.zeros((count, 0), np.float32)
    return encode_features(features, table.lazy().collect())


def _context_matrix(
    features: Sequence[Feature], context: Mapping[str, NDArray[Any] | None], count: int
) -> NDArray[np.float32]:
    """Return columns of the context as numbers, ``(T, J)``; NaN where missing."""
    found = np.full((count, len(features)), np.nan, np.float32)
    for index, feature in enumerate(features):
        if (column := context.get(feature.name)) is not None:
            values = column.astype(np.float32)
            if feature.kind == "category":
                found[:, index] = np.where(column < 0, np.nan, values)
            else:
                found[:, index] = (values - feature.center) / feature.scale
    return found


def _tags(codes_TS: Scores) -> Events:
    """Return the rows of codes without their empty columns."""
    is_known_TS = ~np.isnan(codes_TS)
    offsets = np.concatenate([[0], np.cumsum(is_known_TS.sum(1))])
    return Events(offsets, codes_TS[is_known_TS].astype(np.int32) + N_RESERVED)

"""Build model queries from requests: sent histories, training data, stored events.

Shapes: N requests, T events.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Events, Queries
from segue.features.text.user_texts import open_user_texts
from segue.serving import schemas
from segue.serving.artifacts.artifact import ModelArtifact
from segue.serving.stores import store
from segue.serving.stores.timeout import ReadStore
from segue.serving.users.event_context import context_of, encode_columns
from segue.serving.users.profile_notes import describe_profile
from segue.serving.users.user_features import coerce_user_features, user_features_frame

__all__ = [
    "PreparedQueries",
    "QueryBuilder",
    "concat_histories",
    "encode_history",
    "events_since_training",
    "stack_histories",
]


@dataclass(frozen=True, eq=False)
class PreparedQueries:
    """Requests as queries of one model, and what could not be used of them."""

    queries: Queries
    unknown: tuple[schemas.UnknownInputs, ...]
    """Unknown items of the history, users, and features of the profile; those of rules are added later."""
    user_events: tuple[store.UserEvents | None, ...]
    """Stored events of the user; ``None`` if the request has a history or no user."""
    notes: tuple[tuple[str, ...], ...]
    """Remarks on the history of each request."""
    profile_notes: tuple[tuple[str, ...], ...]
    """Remarks on the profile of each request."""


class QueryBuilder:
    """Looks up the histories of users.

    Args:
        store: where events are.
        max_events: newest events of a user that are used.
    """

    def __init__(self, store: ReadStore, max_events: int) -> None:
        self._store, self._max_events = store, max_events

    def build(
        self, artifact: ModelArtifact, requests: Sequence[schemas.RecommendRequest], *, without_store: bool = False
    ) -> PreparedQueries:
        """Build the queries of this artifact's model for ``requests``.

        Args:
            without_store: do not read the store. Events since training are then unknown, and so is which users were
                deleted: no training history is used.

        Raises:
            StoreError: the store cannot be read.
            ValueError: a profile value does not fit the type of its feature.
        """
        stored_rows = [row for row, request in enumerate(requests) if request.uses_stored_history]
        users = [str(requests[row].user) for row in stored_rows]
        stored = [store.UserEvents(deleted=True)] * len(stored_rows) if without_store else []
        if stored_rows and not without_store:
            stored = events_since_training(self._store, artifact, users, self._max_events)
        user_events = dict(zip(stored_rows, stored, strict=True))
        codes_N, known_N = artifact.bundle.users.encode([request.user or "" for request in requests])
        known_N = known_N & np.array([request.user is not None for request in requests], np.bool_)
        for row, events in user_events.items():
            known_N[row] &= not events.deleted
        # a history in the request replaces everything known about the user, who may have been deleted
        uses_known_user_N = np.array([request.history is None for request in requests], np.bool_)
        parts = [
            self._history(artifact, request, user_events.get(row), int(codes_N[row]) if known_N[row] else None)
            for row, request in enumerate(requests)
        ]
        query_times_N = self._query_times(artifact, requests)
        features = artifact.bundle.model.schema.user_features
        known_features = {*artifact.user_features, *(feature.name for feature in features)}
        texts = open_user_texts(artifact.bundle.user_text_encodings)
        profiles = texts.encode([request.profile for request in requests])
        values = [coerce_user_features(features, one.values) for one in profiles]
        profile = user_features_frame(features, values)
        profile_notes = tuple(
            tuple(describe_profile(artifact.bundle, texts, *given, known_features))
            for given in zip(profiles, values, strict=True)
        )
        history = stack_histories([events for events, _ in parts], artifact.input_columns)
        context = encode_columns(artifact.bundle.model.schema.event_context, [one.context for one in requests])
        known_users_N = known_N & uses_known_user_N
        queries = Queries(history, codes_N, known_users_N, query_times_N, profile, context=context)
        unknown = tuple(
            schemas.UnknownInputs(
                user=request.user is not None and not known,
                items=items,
                features=[name for name in request.profile or () if name not in known_features],
            )
            for request, (_, items), known in zip(requests, parts, known_N.tolist(), strict=True)
        )
        events_N = tuple(user_events.get(row) for row in range(len(requests)))
        notes = tuple(
            self._truncation_notes(artifact, events, int(codes_N[row]) if known_N[row] else None)
            for row, events in enumerate(events_N)
        )
        return PreparedQueries(queries, unknown, events_N, notes, profile_notes)

    def _history(
        self,
        artifact: ModelArtifact,
        request: schemas.RecommendRequest,
        user_events: store.UserEvents | None,
        code: int | None,
    ) -> tuple[Events, list[str]]:
        """Return one encoded history and the items that are not in the catalog."""
        if request.history is not None:
            return encode_history(artifact, request.history)
        events, unknown = encode_history(artifact, [] if user_events is None else user_events.events)
        if code is None or artifact.histories is None:
            return events, unknown
        training = artifact.histories.rows_between(code, code + 1).last(self._max_events)
        if not events.size:
            return training, unknown
        return concat_histories([training, events], artifact.input_columns).last(self._max_events), unknown

    def _truncation_notes(
        self, artifact: ModelArtifact, user_events: store.UserEvents | None, code: int | None
    ) -> tuple[str, ...]:
        """Return a note if the user has more events than are used."""
        total = 0 if user_events is None else user_events.total
        if user_events is not None and code is not None and artifact.histories is not None:
            total += int(artifact.histories.offsets[code + 1] - artifact.histories.offsets[code])
        if total <= self._max_events:
            return ()
        reads = "" if artifact.supports_streaming else "read and "
        return (f"the user has {total} events; only the newest {self._max_events} are {reads}excluded as seen",)

    def _query_times(
        self, artifact: ModelArtifact, requests: Sequence[schemas.RecommendRequest]
    ) -> NDArray[np.int64] | None:
        if not artifact.uses_query_time:
            return None
        now = int(time.time())
        return np.array([now if request.time is None else request.time for request in requests], np.int64)


def events_since_training(
    reader: ReadStore, artifact: ModelArtifact, users: Sequence[str], max_events: int
) -> list[store.UserEvents]:
    """Return the newest events of each user that are not in the artifact.

    Deleted users and users outside the training data have no history in the artifact, so all their stored events count.

    Raises:
        StoreError: the store cannot be read.
    """
    stored = reader.recent_events(users, max_events, artifact.last_sequence)
    if artifact.last_sequence:
        _, known = artifact.bundle.users.encode(list(users))
        rows = [row for row, one in enumerate(stored) if one.deleted or not known[row] or artifact.histories is None]
        for row, one in zip(
            rows, reader.recent_events([users[row] for row in rows], max_events) if rows else (), strict=True
        ):
            stored[row] = one
    return stored


def encode_history(
    artifact: ModelArtifact, history: Sequence[str | schemas.HistoryEvent | store.Event]
) -> tuple[Events, list[str]]:
    """Encode one history, oldest event first, and return the unknown items.

    Only columns that the model reads are filled. Missing and unknown actions are marked as unknown in the context
    column ``action_known``; a missing time takes the value of the previous event and is marked in ``time_known``.
    """
    ids = [one if isinstance(one, str) else one.item for one in history]
    codes, known = artifact.bundle.items.encode(ids)
    unknown = [item for item, is_known in zip(ids, known.tolist(), strict=True) if not is_known]
    columns: dict[str, Any] = {}
    context: dict[str, NDArray[Any]] = {}
    if features := artifact.bundle.model.schema.event_context:
        encoded = encode_columns(features, [context_of(one) for one in history])
        context |= {name: column[known] for name, column in encoded.items()}
    events = [None if isinstance(one, str) else one for one in history] if artifact.input_columns else []
    if "actions" in artifact.input_columns:
        action_codes = {action: code for code, action in enumerate(artifact.bundle.model.schema.actions)}
        actions = [-1 if e is None else action_codes.get(e.action or "", -1) for e in events]
        actions_T = np.array(actions, np.int64)[known]
        columns["actions"] = np.maximum(actions_T, 0).astype(np.uint8)
        context["action_known"] = actions_T >= 0
    if "values" in artifact.input_columns:
        values = [np.nan if e is None or e.value is None else e.value for e in events]
        columns["values"] = np.array(values, np.float32)[known]
    if "times" in artifact.input_columns:
        latest, times = 0, []
        for e in events:
            latest = latest if e is None or e.time is None else e.time
            times.append(latest)
        columns["times"] = np.array(times, np.int64)[known]
        time_known_N = np.array([e is not None and e.time is not None for e in events], np.bool_)
        context["time_known"] = time_known_N[known]
    return Events(np.array([0, int(known.sum())]), codes[known], **columns, context=context), unknown


def concat_histories(parts: Sequence[Events], columns: Sequence[str]) -> Events:
    """Concatenate single-row histories to one row."""
    return _combine(parts, columns, np.array([0, sum(part.size for part in parts)]))


def stack_histories(rows: Sequence[Events], columns: Sequence[str]) -> Events:
    """Stack single-row histories, one row each."""
    return _combine(rows, columns, np.concatenate([[0], np.cumsum([row.size for row in rows])]))


def _combine(parts: Sequence[Events], columns: Sequence[str], offsets: NDArray[np.int64]) -> Events:
    """Concatenate all events; mark known actions and times if the model reads them.

    Context columns that a part does not have are unknown there.
    """
    merged: dict[str, Any] = {
        name: np.concatenate([_column_or_default(part, name) for part in parts]) for name in columns
    }
    context: dict[str, NDArray[Any]] = {}
    marks_of_columns = ("action_known", "time_known")
    for name in {name: None for part in parts for name in part.context if name not in marks_of_columns}:
        found = [part.context.get(name) for part in parts]
        dtype = next(column.dtype for column in found if column is not None)
        unknown = -1 if dtype.kind == "i" else np.nan
        context[name] = np.concatenate(
            [np.full(part.size, unknown, dtype) if own is None else own for part, own in zip(parts, found, strict=True)]
        )
    for name, mark in (("actions", "action_known"), ("times", "time_known")):
        if name in columns:
            marks = [part.context.get(mark, np.full(part.size, getattr(part, name) is not None)) for part in parts]
            context[mark] = np.concatenate(marks)
    return Events(offsets, np.concatenate([part.items for part in parts]), **merged, context=context)


def _column_or_default(events: Events, name: str) -> NDArray[Any]:
    column: NDArray[Any] | None = getattr(events, name)
    if column is not None:
        return column
    defaults: dict[str, tuple[Any, Any]] = {
        "actions": (0, np.uint8),
        "values": (np.nan, np.float32),
        "times": (0, np.int64),
    }
    return np.full(events.size, *defaults[name])

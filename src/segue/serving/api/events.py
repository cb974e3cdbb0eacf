"""Routes of events and users."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from segue.core.types import Events
from segue.core.vocab import MAX_ID_LENGTH
from segue.serving import schemas
from segue.serving.api.dependencies import ApiDependencies, Limit, PathId, invalid_field, json_response
from segue.serving.errors import ApiError, format_traceback
from segue.serving.model_registry import LoadedModel
from segue.serving.scheduling.fair_queue import Overloaded
from segue.serving.stores.store import Event, StoreError
from segue.serving.users.event_actions import resolve_action
from segue.serving.users.event_context import (
    check_context,
    decode_columns,
    decode_context,
    describe_context,
    encode_context,
)
from segue.serving.users.input_notes import describe_late_times
from segue.serving.users.query_builder import events_since_training

__all__ = ["EventRoutes"]

logger = logging.getLogger("segue.serving")

MAX_COMPARED = 100
"""Number of newest events of a user with which an event is compared whose key was already stored."""

MIN_USERS_PER_PAGE, MAX_SEARCHED_USERS = 100, 10_000
"""Users looked up in the store at once, and in total, while searching for users who were not deleted."""

RESEND_ADVICE = "; send the events again with the same keys: those that were stored are reported as duplicates"
RESEND_WITHOUT_KEY_ADVICE = "; events without a key may be stored twice if they are sent again"
"""What to do if it is unknown whether events were stored."""

MAX_PENDING_USERS, USERS_PER_UPDATE = 10_000, 8
"""Maximum number of users waiting for a state update, and of users per update."""

STATES_CLIENT = "segue:states"
"""Client whose share of the engine state updates use; it is no key and no address."""


class EventRoutes:
    """Routes that store events, and show and delete users."""

    def __init__(self, dependencies: ApiDependencies) -> None:
        self._dependencies = dependencies
        self._service = dependencies.service
        self._pending_users: dict[str, None] = {}  # in the order of their events
        self._is_updating = False

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""
        router.add_api_route("/events", self.event, methods=["POST"], response_model=schemas.EventsAccepted)
        router.add_api_route("/events/batch", self.events, methods=["POST"], response_model=schemas.EventsAccepted)
        router.add_api_route("/users", self.users, methods=["GET"], response_model=schemas.UserList)
        router.add_api_route("/users/{id:path}", self.user, methods=["GET"], response_model=schemas.User)
        router.add_api_route(
            "/users/{id:path}", self.delete_user, methods=["DELETE"], response_model=schemas.UserDeleted
        )

    async def event(self, event: schemas.EventRequest, caller: Request) -> Response:
        """Store an event durably; the next request takes it into account."""
        return await self._append([event], "", caller)

    async def events(self, batch: schemas.EventBatch, caller: Request) -> Response:
        """Store several events: either all are stored or none."""
        limit = self._service.settings.max_batch_events
        if len(batch.events) > limit:
            raise invalid_field("events", f"got {len(batch.events)}, expected at most {limit}")
        return await self._append(batch.events, "events", caller)

    async def users(
        self,
        query: Annotated[str, Query(max_length=MAX_ID_LENGTH, description="Prefix of the id.")] = "",
        limit: Limit = 20,
    ) -> Response:
        """Search training users who were not deleted by a prefix of their ids."""
        users = await self._dependencies.call_store("recent_events", lambda: self._find_users(query, limit))
        return json_response(schemas.UserList(users=users))

    async def user(self, id: PathId, limit: Limit = 200) -> Response:  # noqa: A002
        """Show a user and their most recent events, oldest first."""
        await self._dependencies.refresh_items()
        return json_response(
            await self._dependencies.call_store("recent_events", lambda: self._describe_user(id, limit))
        )

    async def delete_user(self, id: PathId) -> Response:  # noqa: A002
        """Delete a user's events; their training data is ignored from now on."""
        deletion = await self._dependencies.call_store("delete_user", lambda: self._service.store.delete_user(id))
        notes = [deletion.note] if deletion.note else []
        return json_response(
            schemas.UserDeleted(id=id, deleted_events=deletion.events, erased=deletion.is_erased, notes=notes)
        )

    async def _append(self, events: Sequence[schemas.EventRequest], field_name: str, caller: Request) -> Response:
        """Store ``events``, all or none.

        Args:
            field_name: field that holds the events; empty for a single event.
            caller: the HTTP request.

        Raises:
            ApiError: 422, the kind of an event is unknown or missing; 503, the store failed.
        """
        prefixes = [f"{field_name}[{index}]." if field_name else "" for index in range(len(events))]
        rows = self._to_rows(events, prefixes)
        try:
            client = getattr(caller.state, "client", "")
            # events are stored even if the client disconnects
            is_new = await asyncio.shield(self._dependencies.event_queue.submit(rows, client))
        except Overloaded as overloaded:
            message = "service overloaded; nothing was stored; send the events again later"
            raise ApiError(503, message=message, retry_after=overloaded.retry_after) from None
        except StoreError as error:
            advice = RESEND_ADVICE if all(row.key is not None for row in rows) else RESEND_WITHOUT_KEY_ADVICE
            raise self._dependencies.store_unavailable("append", error, advice) from None
        accepted, duplicates = sum(is_new), len(is_new) - sum(is_new)
        items = list(dict.fromkeys(event.item for event in events))
        _, unknown_items = self._service.models.active.catalog.encode(items)
        if unknown_items:  # another process may have added them
            await self._dependencies.refresh_items()
            _, unknown_items = self._service.models.active.catalog.encode(items)
        self._service.metrics.record_events(accepted, duplicates, len(unknown_items))
        if self._service.models.active.artifact.supports_streaming:
            room = MAX_PENDING_USERS - len(self._pending_users)
            self._pending_users.update(dict.fromkeys(event.user for event in rows[:room]))
            if not self._is_updating:
                self._is_updating = True
                self._dependencies.spawn(self._update_states())
        return json_response(
            schemas.EventsAccepted(
                accepted=accepted,
                duplicates=duplicates,
                unknown_items=unknown_items,
                conflicts=await self._find_conflicts(events, rows, is_new),
                notes=self._describe_events(events, prefixes),
            )
        )

    def _to_rows(self, events: Sequence[schemas.EventRequest], prefixes: Sequence[str]) -> list[Event]:
        """Return the events to store.

        Args:
            prefixes: prefix of the names of each event's fields.

        Raises:
            ApiError: 422, the kind or the context of an event is unknown, or its kind is missing.
        """
        now, schema = int(time.time()), self._service.models.active.artifact.bundle.model.schema
        columns = self._service.models.context_columns() if any(event.context for event in events) else []
        rows = []
        for prefix, e in zip(prefixes, events, strict=True):
            try:
                action = resolve_action(schema, e.action)
            except ValueError as error:
                raise invalid_field(f"{prefix}action", str(error)) from None
            try:
                check_context(columns, e.context, f"{prefix}context")
            except ValueError as error:
                field, _, reason = str(error).partition(": ")
                raise invalid_field(field, reason) from None
            event_time = now if e.time is None else e.time
            rows.append(Event(e.user, e.item, event_time, action, e.value, e.key, encode_context(e.context)))
        return rows

    def _describe_events(self, events: Sequence[schemas.EventRequest], prefixes: Sequence[str]) -> list[str]:
        """Describe late times, and the first unknown category of each context column."""
        named = list(zip(prefixes, events, strict=True))
        notes = describe_late_times([(f"{prefix}time", event.time) for prefix, event in named])
        columns = list(self._service.models.active.artifact.bundle.model.schema.event_context)
        for prefix, event in named if columns else ():
            for feature in [one for one in columns if event.context and one.name in event.context]:
                if found := describe_context([feature], event.context, f"{prefix}context"):
                    notes += found
                    columns.remove(feature)
        return notes

    async def _find_conflicts(
        self, events: Sequence[schemas.EventRequest], rows: Sequence[Event], is_new: Sequence[bool]
    ) -> list[str]:
        """Return the keys of duplicates whose content differs from the stored event."""
        duplicates = [(event, row) for event, row, new in zip(events, rows, is_new, strict=True) if not new]
        if not duplicates:
            return []
        users = list(dict.fromkeys(row.user for _, row in duplicates))
        try:
            stored = await self._dependencies.run_store_call(
                lambda: self._service.store.recent_events(users, MAX_COMPARED)
            )
        except StoreError as error:  # the events are stored; only the comparison fails
            self._dependencies.store_unavailable("recent_events", error)
            return []
        by_key = {(event.user, event.key): event for one in stored for event in one.events}
        conflicts: dict[str, None] = {}
        for event, row in duplicates:
            found = by_key.get((row.user, row.key))
            if found is not None and row.key is not None:
                expected = replace(row, time=found.time) if event.time is None else row
                conflicts.update({row.key: None} if expected != found else {})
        return list(conflicts)

    async def _update_states(self) -> None:
        """Update user states a few at a time between requests.

        Otherwise the next request would have to update them.
        """
        dependencies = self._dependencies
        try:
            while self._pending_users and not dependencies.is_closing:
                users = list(self._pending_users)[:USERS_PER_UPDATE]
                for user in users:
                    del self._pending_users[user]
                job = partial(self._service.update_user_states, users)
                (error,) = await dependencies.request_queue.submit([job], STATES_CLIENT, is_expensive=True)
                if isinstance(error, StoreError):
                    self._service.store_monitor.log_failure("recent_events", error)
                elif error is not None:
                    extra = {"traceback": format_traceback(error)}
                    logger.error("user states could not be updated", extra=extra)
        except Overloaded:
            self._pending_users.clear()
        finally:
            self._is_updating = False

    def _find_users(self, prefix: str, limit: int) -> list[str]:
        """Return the first training users by a prefix of their ids, without deleted ones."""
        ids = self._service.models.active.artifact.bundle.users.ids
        matches = ids if not prefix else ids.filter(ids.str.starts_with(prefix))
        page_size, users = max(limit, MIN_USERS_PER_PAGE), list[str]()
        for start in range(0, min(len(matches), MAX_SEARCHED_USERS), page_size):
            page = [str(user) for user in matches[start : start + page_size]]
            stored = self._service.store.recent_events(page, 0)
            users += [user for user, events in zip(page, stored, strict=True) if not events.deleted]
            if len(users) >= limit:
                break
        return users[:limit]

    def _describe_user(self, user: str, limit: int) -> schemas.User:
        model = self._service.models.active
        artifact = model.artifact
        (stored,) = events_since_training(self._service.store, artifact, [user], limit)
        codes, known = artifact.bundle.users.encode([user])
        is_known = bool(known[0]) and not stored.deleted
        training_events: list[schemas.UserEvent] = []
        total = stored.total
        if is_known and artifact.histories is not None:
            history = artifact.histories.rows_between(int(codes[0]), int(codes[0]) + 1)
            total += history.size
            if (room := limit - len(stored.events)) > 0:
                training_events = _training_events(model, history.last(room))
        titles = _item_titles(model, [event.item for event in stored.events])
        stored_events = [
            schemas.UserEvent(
                item=e.item,
                title=title,
                action=e.action,
                value=e.value,
                time=e.time,
                context=decode_context(e.context),
            )
            for e, title in zip(stored.events, titles, strict=True)
        ]
        return schemas.User(
            id=user, known=is_known, events=[*training_events, *stored_events], total=total, deleted=stored.deleted
        )


def _item_titles(model: LoadedModel, items: Sequence[str]) -> list[str | None]:
    codes, known = model.artifact.bundle.items.encode(list(items))
    titles = iter(model.catalog.titles(codes[known]))
    return [next(titles) if is_known else None for is_known in known.tolist()]


def _training_events(model: LoadedModel, history: Events) -> list[schemas.UserEvent]:
    codes = history.items
    names = model.artifact.bundle.model.schema.actions
    values = [None] * len(codes) if history.values is None else [
        None if np.isnan(value) else value for value in history.values.tolist()
    ]  # fmt: skip
    actions = [None] * len(codes) if history.actions is None else [names[a] for a in history.actions.tolist()]
    times = [None] * len(codes) if history.times is None else history.times.tolist()
    contexts = decode_columns(model.artifact.bundle.model.schema.event_context, history)
    columns = model.catalog.ids(codes), model.catalog.titles(codes), actions, values, times, contexts
    return [
        schemas.UserEvent(
            item=item, title=title, action=action, value=value, time=time, context=context, origin="training"
        )
        for item, title, action, value, time, context in zip(*columns, strict=True)
    ]

"""Interface of event stores: durable events in order of arrival.

Every event has a sequence number, and all readers see events in that order. Several processes may share a store. See
:func:`segue.serving.stores.open.open_store` for opening one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "LOCK_TIMEOUT_SECONDS",
    "OUTCOME_UNKNOWN",
    "STORE_DAMAGED",
    "STORE_FULL",
    "STORE_LINKED",
    "Deletion",
    "Event",
    "Exposure",
    "ItemChange",
    "Store",
    "StoreError",
    "UserEvents",
    "UserState",
]

LOCK_TIMEOUT_SECONDS = 10.0
"""Default of the time for which a write waits for the locks of other writers."""
OUTCOME_UNKNOWN = "it is unknown whether the operation was executed"
"""Part of the message of a :class:`StoreError` if the connection was lost during an operation."""
STORE_FULL = "the store is full"
"""Part of the message of a :class:`StoreError` if there is no room on the store's disk or in its memory."""

STORE_DAMAGED = "the store is damaged"
"""Part of the message of a :class:`StoreError` if the content of the store is malformed."""
STORE_LINKED = "the file has more than one name (hard links)"
"""Part of the message of a :class:`StoreError` if another process could open the store's file by another name."""


class StoreError(Exception):
    """The store is unreachable or refused the operation.

    Nothing was changed, unless the message contains :data:`OUTCOME_UNKNOWN`. Messages contain no ids and no passwords.
    """


@dataclass(frozen=True)
class Event:
    """User-item interaction with external ids."""

    user: str
    item: str
    time: int
    """Unix time in seconds."""
    action: str | None = None
    value: float | None = None
    """Finite."""
    key: str | None = None
    """Idempotency key: of a user's events with the same key only the first is stored."""
    context: str | None = None
    """Context columns and their values as a JSON object; see :mod:`segue.serving.users.event_context`."""


@dataclass(frozen=True)
class UserEvents:
    """Most recent events of a user."""

    events: tuple[Event, ...] = ()
    """In order of arrival."""
    total: int = 0
    """Number of all events of the user, including older ones."""
    last_sequence: int = 0
    """Sequence number of the last event, or of the deletion if that came later; 0 if neither. Never decreases."""
    deleted: bool = False
    """Whether :meth:`Store.delete_user` was ever called for the user: their training data must not be used."""


@dataclass(frozen=True)
class UserState:
    """State of a streaming model for a user.

    It includes the user's events up to a sequence number.
    """

    model: str
    """Version of the model."""
    last_sequence: int
    """Sequence number of the last event included; see :attr:`UserEvents.last_sequence`."""
    data: bytes
    """See :meth:`segue.core.state.State.to_bytes`."""


@dataclass(frozen=True)
class Exposure:
    """List shown to a user in an experiment."""

    experiment: str
    variant: str
    user: str
    time: int
    items: tuple[str, ...]


@dataclass(frozen=True)
class ItemChange:
    """Newest change of an item that was added to the catalog, or removed again."""

    item: str
    content: str | None
    """What was stored for the item; ``None``: it was removed."""
    created: int
    """Sequence number of the change that added it; the order of the items does not change with later changes."""
    sequence: int
    """Sequence number of this change, greater than that of all earlier ones."""


@dataclass(frozen=True)
class Deletion:
    """Result of deleting a user."""

    events: int
    """Number of deleted events."""
    is_erased: bool
    """Whether no byte of the user is left in the storage, such as files; no reader sees the user in any case."""
    note: str = ""
    """When the remaining bytes will be erased; empty if :attr:`is_erased`."""


class Store(Protocol):
    """Event store.

    All methods are thread-safe and raise :class:`StoreError` if the store fails. That includes storage that is gone or
    was replaced while the store is open, such as a deleted file: no event may be acknowledged that a restart would not
    find.
    """

    name: str
    """Kind of store, such as ``sqlite``, for metrics."""
    is_in_process: bool
    """Whether calls are answered within this process and therefore need no timeout."""

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Store all events or none, and return for each whether it is new.

        On return the events survive a power failure, as far as the store is configured for it.
        """
        ...

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        """Return for each user their most recent events after a sequence number.

        :attr:`UserEvents.total` counts only events after ``after``, too.

        Args:
            after: sequence number.
            limit: maximum number of events per user.
        """
        ...

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        """Return the first events of a user after ``sequence``, oldest first.

        Also returns the sequence number of the last of them, or ``sequence`` if there are none.
        """
        ...

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """Return for each user the state of the model with this version."""
        ...

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """Store states by user.

        A state is ignored if the stored one is newer, or if the user was deleted and :attr:`UserState.last_sequence` is
        not after the deletion. States may be lost in a power failure, as they can be recomputed from the events.
        """
        ...

    def prune_states(self, before: int) -> int:
        """Delete the states that were last written before a Unix time.

        Returns how many were deleted. The time of writing is that of the store's clock, in seconds. States are deleted
        in small steps.
        """
        ...

    def delete_user(self, user: str) -> Deletion:
        """Delete all data of a user.

        The data are the id, events, keys, states and exposures. The deletion receives a sequence number. What remains
        is a marker that does not contain the id; see :mod:`segue.serving.stores.deletion_markers`. An event that is
        appended at the same time is either deleted or stored after the deletion, as the first event of a user who
        came back.
        """
        ...

    def put_items(self, items: Mapping[str, str | None]) -> None:
        """Store the content of items durably, or remove items, all or none.

        Args:
            items: content by id; ``None`` removes the item.
        """
        ...

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        """Return the first changes of items after a sequence number, in order.

        An item has one change, its newest.
        """
        ...

    def get_setting(self, name: str) -> str | None:
        """Return a setting shared by all processes, such as the active model."""
        ...

    def put_setting(self, name: str, value: str) -> None:
        """Store a setting durably."""
        ...

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        """Store exposures.

        An exposure is ignored if its user was deleted at its time or later; see
        :data:`segue.serving.stores.deletion_markers.CLOCK_SKEW_SECONDS`.
        """
        ...

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """Iterate over the exposures of an experiment, oldest first, in constant memory."""
        ...

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Iterate over all events after a sequence number.

        Events come in order and in constant memory.
        """
        ...

    def size_bytes(self) -> int:
        """Return the number of bytes that the data occupy.

        It serves to limit the size of the store. Free space that the store will reuse does not count, if the store can
        tell.
        """
        ...

    def ping(self) -> None:
        """Check that the store responds."""
        ...

    def close(self) -> None:
        """Close the store, which must not be used afterwards."""
        ...

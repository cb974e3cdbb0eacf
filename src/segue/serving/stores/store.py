"""Interface of event stores: durable events in order of arrival.

Every event has a sequence number, and all readers see events in that order. Several processes may share a store. See
:func:`segue.serving.stores.open.open_store` for opening one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["OUTCOME_UNKNOWN", "Event", "Exposure", "Store", "StoreError", "UserEvents", "UserState"]

OUTCOME_UNKNOWN = "it is unknown whether the operation was executed"
"""Part of the message of a :class:`StoreError` if the connection was lost during an operation."""


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


class Store(Protocol):
    """Event store.

    All methods are thread-safe and raise :class:`StoreError` if the store fails.
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

        A state is ignored if the stored one is newer or the user was deleted after :attr:`UserState.last_sequence`.
        States may be lost in a power failure, as they can be recomputed from the events.
        """
        ...

    def prune_states(self, models: Collection[str]) -> int:
        """Delete the states of all other models and return how many were deleted.

        States are deleted in small steps.
        """
        ...

    def delete_user(self, user: str) -> int:
        """Delete all data of a user and return the number of events.

        The data are events, keys, states and exposures. The deletion itself receives a sequence number.
        """
        ...

    def get_setting(self, name: str) -> str | None:
        """Return a setting shared by all processes, such as the active model."""
        ...

    def put_setting(self, name: str, value: str) -> None:
        """Store a setting durably."""
        ...

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        """Store exposures."""
        ...

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """Iterate over the exposures of an experiment, oldest first, in constant memory."""
        ...

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Iterate over all events after a sequence number.

        Events come in order and in constant memory.
        """
        ...

    def ping(self) -> None:
        """Check that the store responds."""
        ...

    def close(self) -> None:
        """Close the store, which must not be used afterwards."""
        ...

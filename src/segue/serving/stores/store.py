"""What a store is: events in the order of their arrival, kept for good before they are acknowledged.

Each user's events have an order, that of their arrival, and everybody who asks sees the same order. Several processes
may use one store. A store is opened by its address; see :func:`segue.serving.stores.open.open_store`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["UNSURE", "Event", "Exposure", "Kept", "Memory", "Store", "StoreError"]

UNSURE = "whether it was done is not known"
"""What a :class:`StoreError` says where the store was lost on the way."""


class StoreError(Exception):
    """The store cannot be reached or refuses; nothing of what was asked has been done, unless it says that this is not
    known. It tells no id and no password."""


@dataclass(frozen=True)
class Event:
    """Something that happened, with outside ids."""

    user: str
    item: str
    time: int
    """Seconds since 1970."""
    action: str | None = None
    value: float | None = None
    """Finite."""
    key: str | None = None
    """Of several events of a user with one key only the first is kept."""


@dataclass(frozen=True)
class Kept:
    """The newest events of a user, and what else is known of him."""

    events: tuple[Event, ...] = ()
    """In the order of their arrival."""
    total: int = 0
    """All that there are of him, also older ones."""
    last: int = 0
    """The place in the store's order of the newest of all his events, or of his being forgotten if that came later; 0:
    neither. It only grows."""
    forgotten: bool = False
    """Whether :meth:`Store.forget` was ever called for him: what was known of him elsewhere is not to be used."""


@dataclass(frozen=True)
class Memory:
    """What a model remembers of a user after his events up to a place."""

    model: str
    """The version of the model."""
    last: int
    """The place of the newest event that went in; see :attr:`Kept.last`."""
    data: bytes
    """See :meth:`segue.core.state.State.to_bytes`."""


@dataclass(frozen=True)
class Exposure:
    """That somebody was shown something in an experiment."""

    experiment: str
    variant: str
    user: str
    time: int
    items: tuple[str, ...]


class Store(Protocol):
    """All methods may be called from any thread, and raise :class:`StoreError` when the store fails."""

    name: str
    """Such as ``sqlite``, for metrics."""
    prompt: bool
    """Whether it answers out of this process, and nothing that others do keeps it from telling so in time."""

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Keep all events or none, in their order; whether each is new. When this returns they survive a power cut,
        as far as the store is set to."""
        ...

    def kept(self, users: Sequence[str], most: int, after: int = 0) -> list[Kept]:
        """For each of ``users``, in their order, the newest ``most`` of his events after the place ``after`` in the
        store's order (:attr:`Kept.total` counts those alone too), and what else is known."""
        ...

    def since(self, user: str, place: int, most: int) -> tuple[tuple[Event, ...], int]:
        """The first ``most`` events of a user after ``place``, oldest first, and the place of the last of them, or
        ``place`` if there are none."""
        ...

    def memories(self, users: Sequence[str], model: str) -> list[Memory | None]:
        """For each of ``users`` what the model with this version remembers."""
        ...

    def remember(self, memories: Mapping[str, Memory]) -> None:
        """Keep by user, unless what is there of the same model already went further, or the user was forgotten after
        :attr:`Memory.last`. A memory may be lost in a power cut: it can be had again from the events."""
        ...

    def prune(self, models: Collection[str]) -> int:
        """Delete the memories of all but these models, some at a time; how many there were."""
        ...

    def forget(self, user: str) -> int:
        """Delete all events, keys, memories and exposures of a user, and note that he was forgotten, which has a place
        in the store's order too; how many events there were."""
        ...

    def get(self, name: str) -> str | None:
        """A setting that all processes share, such as which model is active."""
        ...

    def put(self, name: str, value: str) -> None:
        """Keep a setting for good."""
        ...

    def expose(self, exposures: Sequence[Exposure]) -> None:
        """Keep what was shown."""
        ...

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """All that was shown in an experiment, oldest first, without holding it all in memory."""
        ...

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """All events after a place, in the store's order, without holding them all in memory."""
        ...

    def ping(self) -> None:
        """Nothing, if the store answers."""
        ...

    def close(self) -> None:
        """Leave the store; it is not to be used afterwards."""
        ...

"""Queue that shares a resource fairly among clients.

Source: start-time fair queueing, Goyal, Vin & Cheng 1996, doi:10.1145/248156.248171. Each client has a virtual time:
the amount of the resource it has used. The client with the least goes first. A client that was idle starts at the
virtual time of the client served last, so that it cannot save up unused shares.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["FairQueue", "Overloaded"]

T = TypeVar("T")

MAX_IDLE_CLIENTS = 1_000
"""Idle clients whose virtual time is remembered."""


class Overloaded(Exception):
    """Too many requests are queued; try again after ``retry_after`` seconds."""

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__(f"service overloaded; try again in {retry_after:.1f} s")
        self.retry_after = retry_after


class FairQueue(Generic[T]):
    """Entries of several clients, oldest first for each client; not thread-safe."""

    def __init__(self) -> None:
        self._entries: dict[str, deque[T]] = {}
        self._virtual_times: dict[str, float] = {}
        self._order: list[tuple[float, int, str]] = []  # a heap with the turn of each client, and outdated turns
        self._turns: dict[str, int] = {}  # the number of each client's turn: equal virtual times are served in turn
        self._n_turns = 0
        self._now = 0.0
        self._length = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._length

    def count(self, client: str) -> int:
        """Return the number of entries of a client."""
        return len(self._entries.get(client, ()))

    def push(self, client: str, entry: T) -> None:
        """Append an entry of a client."""
        if client not in self._entries:
            self._entries[client] = deque()
            self._virtual_times[client] = max(self._now, self._virtual_times.get(client, 0.0))
            self._add_turn(client)
        self._entries[client].append(entry)
        self._length += 1

    def pick(self) -> T:
        """Return the next entry, which stays queued until :meth:`remove`.

        Raises:
            IndexError: the queue is empty.
        """
        while True:
            virtual_time, turn, client = self._order[0]
            is_current = turn == self._turns.get(client)
            if is_current and virtual_time == self._virtual_times[client]:
                self._now = max(self._now, virtual_time)
                return self._entries[client][0]
            heapq.heappop(self._order)
            if is_current:
                self._add_turn(client)

    def charge(self, client: str, amount: float) -> None:
        """Record that a client has used ``amount`` of the resource.

        More than 0 ends its turn.
        """
        self._virtual_times[client] = max(self._now, self._virtual_times.get(client, 0.0)) + amount

    def remove(self, client: str, entry: T) -> bool:
        """Remove an entry; return whether it was queued."""
        entries = self._entries.get(client)
        if entries is None or entry not in entries:
            return False
        entries.remove(entry)
        self._length -= 1
        if not entries:
            self._remove_client(client)
        return True

    def newest_of_longest(self) -> tuple[str, T]:
        """Return the client with the most entries and its newest entry.

        Raises:
            ValueError: the queue is empty.
        """
        client = max(self._entries, key=lambda name: len(self._entries[name]))
        return client, self._entries[client][-1]

    def make_room(
        self, client: str, max_length: int, is_removable: Callable[[T], bool] = lambda entry: True
    ) -> list[T]:
        """Make room for an entry of ``client``.

        Returns the entries that were removed for it, at most one. A full queue loses the newest entry of the client
        with the most entries, if that client has more than ``client`` has with the new one.

        Raises:
            Overloaded: there is no room.
        """
        if self._length < max_length:
            return []
        longest, newest = self.newest_of_longest()
        if self.count(longest) <= self.count(client) + 1 or not is_removable(newest):
            raise Overloaded
        self.remove(longest, newest)
        return [newest]

    def _add_turn(self, client: str) -> None:
        self._n_turns += 1
        self._turns[client] = self._n_turns
        heapq.heappush(self._order, (self._virtual_times[client], self._n_turns, client))

    def _remove_client(self, client: str) -> None:
        del self._entries[client], self._turns[client]
        if not self._entries:
            self._virtual_times.clear()
            self._order.clear()
            self._now = 0.0
        elif len(self._virtual_times) > len(self._entries) + MAX_IDLE_CLIENTS:
            self._virtual_times = {name: self._virtual_times[name] for name in self._entries}

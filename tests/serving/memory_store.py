"""In-memory implementation of the store protocol, for tests of code that reads stores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from segue.serving.stores.deletion_markers import CLOCK_SKEW_SECONDS
from segue.serving.stores.store import Deletion, Event, Exposure, ItemChange, Store, StoreError, UserEvents, UserState


class MemoryStore:
    name, is_in_process = "memory", False

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.exposure_log: list[Exposure] = []
        self.settings: dict[str, str] = {}
        self.items: dict[str, ItemChange] = {}
        self.states: dict[str, UserState] = {}
        self.state_times: dict[str, int] = {}
        self.deleted_users: dict[str, int] = {}
        """Users and the times of their deletion."""
        self.is_broken = False
        self.is_closed = False

    def append(self, events: Sequence[Event]) -> list[bool]:
        is_new = []
        for event in events:
            is_duplicate = event.key is not None and any((e.user, e.key) == (event.user, event.key) for e in self.log)
            is_new.append(not is_duplicate)
            self.log += [] if is_duplicate else [event]
        return is_new

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        rows = [[(n, e) for n, e in self.events() if e.user == user] for user in users]
        newer = [[(n, e) for n, e in row if n > after] for row in rows]
        return [
            UserEvents(
                tuple(e for _, e in new[-limit:]), len(new), row[-1][0] if row else 0, user in self.deleted_users
            )
            for user, row, new in zip(users, rows, newer, strict=True)
        ]

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        rows = [(n, e) for n, e in self.events(sequence) if e.user == user][:limit]
        return tuple(e for _, e in rows), rows[-1][0] if rows else sequence

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        states = [self.states.get(user) for user in users]
        return [state if state is not None and state.model == model else None for state in states]

    def put_states(self, states: Mapping[str, UserState]) -> None:
        self.states |= states
        self.state_times |= dict.fromkeys(states, int(time.time()))

    def prune_states(self, before: int) -> int:
        n_states = len(self.states)
        self.states = {user: state for user, state in self.states.items() if self.state_times[user] >= before}
        return n_states - len(self.states)

    def delete_user(self, user: str) -> Deletion:
        before = len(self.log)
        self.log = [event for event in self.log if event.user != user]
        self.exposure_log = [exposure for exposure in self.exposure_log if exposure.user != user]
        self.states.pop(user, None)
        self.deleted_users[user] = int(time.time())
        return Deletion(before - len(self.log), True)

    def put_items(self, items: Mapping[str, str | None]) -> None:
        for item, content in items.items():
            sequence, stored = 1 + max((one.sequence for one in self.items.values()), default=0), self.items.get(item)
            created = sequence if stored is None or stored.content is None else stored.created
            self.items[item] = ItemChange(item, content, created, sequence)

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        changes = [change for change in self.items.values() if change.sequence > after]
        return sorted(changes, key=lambda change: change.sequence)[:limit]

    def get_setting(self, name: str) -> str | None:
        return self.settings.get(name)

    def put_setting(self, name: str, value: str) -> None:
        if self.is_broken:
            raise StoreError("unreachable")
        self.settings[name] = value

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        self.exposure_log += [
            exposure
            for exposure in exposures
            if exposure.user not in self.deleted_users
            or exposure.time > self.deleted_users[exposure.user] + CLOCK_SKEW_SECONDS
        ]

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        if self.is_broken:
            raise StoreError("unreachable")
        return (exposure for exposure in self.exposure_log if exposure.experiment == experiment)

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        return ((n, event) for n, event in enumerate(self.log, 1) if n > after)

    def size_bytes(self) -> int:
        return 100 * len(self.log) + sum(len(state.data) for state in self.states.values())

    def ping(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


STORE: type[Store] = MemoryStore

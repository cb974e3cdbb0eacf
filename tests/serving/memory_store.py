"""In-memory implementation of the store protocol, for tests of code that reads stores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from segue.serving.stores.store import Event, Exposure, Store, StoreError, UserEvents, UserState


class MemoryStore:
    name, is_in_process = "memory", False

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.exposure_log: list[Exposure] = []
        self.settings: dict[str, str] = {}
        self.states: dict[str, UserState] = {}
        self.deleted_users: set[str] = set()
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

    def prune_states(self, models: Collection[str]) -> int:
        before = len(self.states)
        self.states = {user: state for user, state in self.states.items() if state.model in models}
        return before - len(self.states)

    def delete_user(self, user: str) -> int:
        before = len(self.log)
        self.log = [event for event in self.log if event.user != user]
        self.deleted_users.add(user)
        return before - len(self.log)

    def get_setting(self, name: str) -> str | None:
        return self.settings.get(name)

    def put_setting(self, name: str, value: str) -> None:
        if self.is_broken:
            raise StoreError("unreachable")
        self.settings[name] = value

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        self.exposure_log += exposures

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        if self.is_broken:
            raise StoreError("unreachable")
        return (exposure for exposure in self.exposure_log if exposure.experiment == experiment)

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        return ((n, event) for n, event in enumerate(self.log, 1) if n > after)

    def ping(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


STORE: type[Store] = MemoryStore

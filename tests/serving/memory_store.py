"""A store in memory: the protocol and nothing else, for tests of what reads stores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from segue.serving.stores.store import Event, Exposure, Kept, Memory, Store, StoreError


class MemoryStore:
    name, prompt = "memory", False

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.shown: list[Exposure] = []
        self.settings: dict[str, str] = {}
        self.notes: dict[str, Memory] = {}
        self.gone: set[str] = set()
        self.broken = False
        self.closed = False

    def append(self, events: Sequence[Event]) -> list[bool]:
        new = []
        for event in events:
            there = event.key is not None and any((e.user, e.key) == (event.user, event.key) for e in self.log)
            new.append(not there)
            self.log += [] if there else [event]
        return new

    def kept(self, users: Sequence[str], most: int, after: int = 0) -> list[Kept]:
        rows = [[(n, e) for n, e in self.events() if e.user == user] for user in users]
        later = [[(n, e) for n, e in row if n > after] for row in rows]
        return [
            Kept(tuple(e for _, e in new[-most:]), len(new), row[-1][0] if row else 0, user in self.gone)
            for user, row, new in zip(users, rows, later, strict=True)
        ]

    def since(self, user: str, place: int, most: int) -> tuple[tuple[Event, ...], int]:
        found = [(n, e) for n, e in self.events(place) if e.user == user][:most]
        return tuple(e for _, e in found), found[-1][0] if found else place

    def memories(self, users: Sequence[str], model: str) -> list[Memory | None]:
        found = [self.notes.get(user) for user in users]
        return [one if one is not None and one.model == model else None for one in found]

    def remember(self, memories: Mapping[str, Memory]) -> None:
        self.notes |= memories

    def prune(self, models: Collection[str]) -> int:
        before = len(self.notes)
        self.notes = {user: one for user, one in self.notes.items() if one.model in models}
        return before - len(self.notes)

    def forget(self, user: str) -> int:
        before = len(self.log)
        self.log = [event for event in self.log if event.user != user]
        self.gone.add(user)
        return before - len(self.log)

    def get(self, name: str) -> str | None:
        return self.settings.get(name)

    def put(self, name: str, value: str) -> None:
        if self.broken:
            raise StoreError("out of reach")
        self.settings[name] = value

    def expose(self, exposures: Sequence[Exposure]) -> None:
        self.shown += exposures

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        if self.broken:
            raise StoreError("out of reach")
        return (one for one in self.shown if one.experiment == experiment)

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        return ((n, event) for n, event in enumerate(self.log, 1) if n > after)

    def ping(self) -> None: ...

    def close(self) -> None:
        self.closed = True


STORE: type[Store] = MemoryStore

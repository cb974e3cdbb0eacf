"""Every store does what a few lines of plain Python do, whatever is asked of it in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, Exposure, Kept, Memory

USERS = st.sampled_from(["u", "v", "ü '\"%s", "w" * 256])
EVENTS = st.builds(
    Event,
    user=USERS,
    item=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5),
    time=st.integers(-(2**53), 2**53),
    action=st.none() | st.sampled_from(["buy", "näch"]),
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: number != 0),
    key=st.none() | st.sampled_from(["a", "b", "A", "k\u2028"]),
)
MODELS = st.sampled_from(["m", "n"])
EXPERIMENTS = st.sampled_from(["e", "f"])


class Stores(RuleBasedStateMachine):
    """A store, and what ought to be in it. Places are learned from the store, and only ever grow."""

    address: Callable[[], str]

    @initialize()
    def begin(self) -> None:
        self.store = open_store(type(self).address())
        self.log: list[tuple[int, Event]] = []
        self.last: dict[str, int] = {}
        self.gone: dict[str, int] = {}
        self.notes: dict[tuple[str, str], Memory] = {}
        self.shown: list[Exposure] = []
        self.names: dict[str, str] = {}
        self.newest = 0

    def own(self, user: str, after: int = 0) -> list[tuple[int, Event]]:
        return [(place, event) for place, event in self.log if event.user == user and place > after]

    def places(self, place: float) -> int:
        """A place from the beginning (0) to beyond the end (1)."""
        return int(place * (self.newest + 2))

    @rule(events=st.lists(EVENTS, max_size=6))
    def append(self, events: list[Event]) -> None:
        there = {(event.user, event.key) for _, event in self.log if event.key is not None}
        new = []
        for event in events:
            new.append(event.key is None or (event.user, event.key) not in there)
            there.add((event.user, event.key or ""))
        assert self.store.append(events) == new
        found = list(self.store.events(self.newest))
        assert [event for _, event in found] == [event for event, one in zip(events, new, strict=True) if one]
        for place, event in found:
            assert place > self.newest
            self.newest = self.last[event.user] = place
        self.log += found

    @rule(users=st.lists(USERS | st.just("nobody"), max_size=4), most=st.integers(0, 4), place=st.floats(0, 1))
    def kept(self, users: list[str], most: int, place: float) -> None:
        after = self.places(place)
        expected = []
        for user in users:
            own = [event for _, event in self.own(user, after)]
            newest = tuple(own[max(len(own) - most, 0) :])
            expected.append(Kept(newest, len(own), self.last.get(user, 0), user in self.gone))
        assert self.store.kept(users, most, after) == expected

    @rule(user=USERS, most=st.integers(0, 4), place=st.floats(0, 1))
    def since(self, user: str, most: int, place: float) -> None:
        after = self.places(place)
        own = self.own(user, after)[:most]
        assert self.store.since(user, after, most) == (tuple(event for _, event in own), own[-1][0] if own else after)

    @rule(place=st.floats(0, 1))
    def events(self, place: float) -> None:
        after = self.places(place)
        assert list(self.store.events(after)) == [one for one in self.log if one[0] > after]

    @rule(memories=st.dictionaries(USERS, st.tuples(MODELS, st.floats(0, 1), st.binary(max_size=4)), max_size=3))
    def remember(self, memories: dict[str, tuple[str, float, bytes]]) -> None:
        given = {user: Memory(model, self.places(place), data) for user, (model, place, data) in memories.items()}
        self.store.remember(given)
        for user, memory in given.items():
            there = self.notes.get((user, memory.model))
            if memory.last >= max(there.last if there else 0, self.gone.get(user, 0)):
                self.notes[user, memory.model] = memory

    @rule(users=st.lists(USERS, max_size=4), model=MODELS)
    def memories(self, users: list[str], model: str) -> None:
        assert self.store.memories(users, model) == [self.notes.get((user, model)) for user in users]

    @rule(user=USERS)
    def forget(self, user: str) -> None:
        assert self.store.forget(user) == len(self.own(user))
        self.log = [one for one in self.log if one[1].user != user]
        self.notes = {key: memory for key, memory in self.notes.items() if key[0] != user}
        self.shown = [one for one in self.shown if one.user != user]
        (kept,) = self.store.kept([user], 1)
        assert kept.last > self.newest
        self.newest = self.last[user] = self.gone[user] = kept.last

    @rule(user=USERS, experiments=st.lists(EXPERIMENTS, max_size=3), items=st.lists(st.text("ab'é"), max_size=2))
    def expose(self, user: str, experiments: list[str], items: list[str]) -> None:
        given = [Exposure(experiment, "A", user, len(self.shown), tuple(items)) for experiment in experiments]
        self.store.expose(given)
        self.shown += [replace(one) for one in given]

    @rule(experiment=EXPERIMENTS)
    def exposures(self, experiment: str) -> None:
        assert list(self.store.exposures(experiment)) == [one for one in self.shown if one.experiment == experiment]

    @rule(name=st.sampled_from(["x", "y"]), value=st.text("aé\"'", max_size=3))
    def put(self, name: str, value: str) -> None:
        self.store.put(name, value)
        self.names[name] = value

    @rule(name=st.sampled_from(["x", "y", "z"]))
    def get(self, name: str) -> None:
        assert self.store.get(name) == self.names.get(name)

    def teardown(self) -> None:
        self.store.close()


@pytest.mark.parametrize(("kind", "examples"), [("memory", 40), ("sqlite", 8), ("postgresql", 20), ("redis", 20)])
def test_a_store_does_as_the_model(kind: str, examples: int, fresh: Callable[[str], str]) -> None:
    machine = type("Machine", (Stores,), {"address": staticmethod(lambda: fresh(kind))})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30))

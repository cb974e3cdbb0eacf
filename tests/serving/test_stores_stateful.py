"""Stateful tests: every store behaves like a reference in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, Exposure, UserEvents, UserState

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
    """Store and its expected content; sequence numbers are read from the store and must increase."""

    address: Callable[[], str]

    @initialize()
    def start(self) -> None:
        self.store = open_store(type(self).address())
        self.log: list[tuple[int, Event]] = []
        self.last: dict[str, int] = {}
        self.deleted: dict[str, int] = {}
        self.states: dict[tuple[str, str], UserState] = {}
        self.exposure_log: list[Exposure] = []
        self.settings: dict[str, str] = {}
        self.newest = 0

    def events_of(self, user: str, after: int = 0) -> list[tuple[int, Event]]:
        return [(sequence, event) for sequence, event in self.log if event.user == user and sequence > after]

    def sequence_at(self, fraction: float) -> int:
        """Return a sequence number between the start (0) and beyond the end (1)."""
        return int(fraction * (self.newest + 2))

    @rule(events=st.lists(EVENTS, max_size=6))
    def append(self, events: list[Event]) -> None:
        keys = {(event.user, event.key) for _, event in self.log if event.key is not None}
        is_new = []
        for event in events:
            is_new.append(event.key is None or (event.user, event.key) not in keys)
            keys.add((event.user, event.key or ""))
        assert self.store.append(events) == is_new
        stored = list(self.store.events(self.newest))
        assert [event for _, event in stored] == [event for event, one in zip(events, is_new, strict=True) if one]
        for sequence, event in stored:
            assert sequence > self.newest
            self.newest = self.last[event.user] = sequence
        self.log += stored

    @rule(users=st.lists(USERS | st.just("unknown"), max_size=4), limit=st.integers(0, 4), fraction=st.floats(0, 1))
    def recent_events(self, users: list[str], limit: int, fraction: float) -> None:
        after = self.sequence_at(fraction)
        expected = []
        for user in users:
            own = [event for _, event in self.events_of(user, after)]
            newest = tuple(own[max(len(own) - limit, 0) :])
            expected.append(UserEvents(newest, len(own), self.last.get(user, 0), user in self.deleted))
        assert self.store.recent_events(users, limit, after) == expected

    @rule(user=USERS, limit=st.integers(0, 4), fraction=st.floats(0, 1))
    def events_after(self, user: str, limit: int, fraction: float) -> None:
        after = self.sequence_at(fraction)
        own = self.events_of(user, after)[:limit]
        assert self.store.events_after(user, after, limit) == (
            tuple(event for _, event in own),
            own[-1][0] if own else after,
        )

    @rule(fraction=st.floats(0, 1))
    def events(self, fraction: float) -> None:
        after = self.sequence_at(fraction)
        assert list(self.store.events(after)) == [one for one in self.log if one[0] > after]

    @rule(states=st.dictionaries(USERS, st.tuples(MODELS, st.floats(0, 1), st.binary(max_size=4)), max_size=3))
    def put_states(self, states: dict[str, tuple[str, float, bytes]]) -> None:
        given = {
            user: UserState(model, self.sequence_at(fraction), data) for user, (model, fraction, data) in states.items()
        }
        self.store.put_states(given)
        for user, state in given.items():
            stored = self.states.get((user, state.model))
            is_after_deletion = state.last_sequence > self.deleted.get(user, -1)
            if is_after_deletion and state.last_sequence >= (stored.last_sequence if stored else 0):
                self.states[user, state.model] = state

    @rule(users=st.lists(USERS, max_size=4), model=MODELS)
    def get_states(self, users: list[str], model: str) -> None:
        assert self.store.get_states(users, model) == [self.states.get((user, model)) for user in users]

    @rule(user=USERS)
    def delete_user(self, user: str) -> None:
        assert self.store.delete_user(user).events == len(self.events_of(user))
        self.log = [one for one in self.log if one[1].user != user]
        self.states = {key: state for key, state in self.states.items() if key[0] != user}
        self.exposure_log = [one for one in self.exposure_log if one.user != user]
        (stored,) = self.store.recent_events([user], 1)
        assert stored.last_sequence > self.newest
        self.newest = self.last[user] = self.deleted[user] = stored.last_sequence

    @rule(user=USERS, experiments=st.lists(EXPERIMENTS, max_size=3), items=st.lists(st.text("ab'é"), max_size=2),
          is_new=st.booleans())  # fmt: skip
    def record_exposures(self, user: str, experiments: list[str], items: list[str], is_new: bool) -> None:
        shown_at = 2**40 if is_new else 1  # after or before any deletion
        given = [Exposure(experiment, "A", user, shown_at, tuple(items)) for experiment in experiments]
        self.store.record_exposures(given)
        if is_new or user not in self.deleted:
            self.exposure_log += [replace(one) for one in given]

    @rule(experiment=EXPERIMENTS)
    def exposures(self, experiment: str) -> None:
        assert list(self.store.exposures(experiment)) == [
            one for one in self.exposure_log if one.experiment == experiment
        ]

    @rule(name=st.sampled_from(["x", "y"]), value=st.text("aé\"'", max_size=3))
    def put_setting(self, name: str, value: str) -> None:
        self.store.put_setting(name, value)
        self.settings[name] = value

    @rule(name=st.sampled_from(["x", "y", "z"]))
    def get_setting(self, name: str) -> None:
        assert self.store.get_setting(name) == self.settings.get(name)

    def teardown(self) -> None:
        self.store.close()


@pytest.mark.parametrize(("kind", "examples"), [("memory", 40), ("sqlite", 8), ("postgresql", 20), ("redis", 20)])
def test_stores_behave_like_the_reference(kind: str, examples: int, new_address: Callable[[str], str]) -> None:
    machine = type("Machine", (Stores,), {"address": staticmethod(lambda: new_address(kind))})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30))

"""Behavior common to all stores."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from segue.serving.stores.store import Event, Exposure, Store, StoreError, UserEvents, UserState

UNUSUAL = [
    "a", "A", "a ", " ", "é", "e\u0301", "ö/%s?&#", "o'hara", 'say "x"', "back\\slash", "{curly}", "[1,2]", "null", "",
    "\u2028", "😀" * 10, "x" * 256, "汉" * 256, "k", ":", "$1", "--", "1", "1.0", "last:m", "\x85",
]  # fmt: skip


def all_events(store: Store, user: str) -> tuple[Event, ...]:
    return store.recent_events([user], 1_000_000)[0].events


def test_events_keep_their_order(store: Store) -> None:
    first = [Event("ann", "x", 5, "buy", 2.5, "k"), Event("bob", "y", 9), Event("ann", "z", 1, None, None, None)]
    assert store.append(first) == [True, True, True]
    assert store.append([Event("ann", "x", 5)]) == [True]
    ann, bob, unknown = store.recent_events(["ann", "bob", "carl"], 10)
    assert ann.events == (first[0], first[2], Event("ann", "x", 5))
    assert (ann.total, ann.deleted) == (3, False)
    assert bob.events == (first[1],)
    assert unknown == UserEvents()
    sequences = [sequence for sequence, _ in store.events()]
    assert [event for _, event in store.events()] == [*first, Event("ann", "x", 5)]
    assert sequences == sorted(set(sequences))
    assert sequences[0] > 0
    assert (ann.last_sequence, bob.last_sequence) == (sequences[3], sequences[1])


def test_recent_events_limits(store: Store) -> None:
    store.append([Event(f"u{n % 2}", f"i{n}", n) for n in range(10)])
    sequences = [sequence for sequence, _ in store.events()]
    (recent,) = store.recent_events(["u0"], 2)
    assert [event.item for event in recent.events] == ["i6", "i8"]
    assert (recent.total, recent.last_sequence) == (5, sequences[8])
    (later,) = store.recent_events(["u0"], 2, sequences[3])
    assert [event.item for event in later.events] == ["i6", "i8"]
    assert (later.total, later.last_sequence) == (3, sequences[8])
    assert store.recent_events(["u0"], 9, sequences[8]) == [UserEvents((), 0, sequences[8])]
    assert store.recent_events(["u1"], 9, sequences[9] + 100) == [UserEvents((), 0, sequences[9])]
    assert store.recent_events(["u0"], 0) == [UserEvents((), 5, sequences[8])]
    again = store.recent_events(["u1", "who", "u1"], 1)
    assert again[0] == again[2]
    assert again[0].events[0].item == "i9"


def test_events_after_paginates(store: Store) -> None:
    assert store.events_after("u", 0, 5) == ((), 0)
    assert store.events_after("u", 7, 5) == ((), 7)
    store.append([Event("u" if n % 3 else "other", f"i{n}", n) for n in range(20)])
    seen: list[Event] = []
    sequence = 0
    while (page := store.events_after("u", sequence, 4))[0]:
        seen += page[0]
        assert page[1] > sequence
        sequence = page[1]
    assert tuple(seen) == all_events(store, "u")
    assert sequence == store.recent_events(["u"], 0)[0].last_sequence
    assert store.events_after("u", sequence, 4) == ((), sequence)
    assert store.events_after("u", 0, 0) == ((), 0)


def test_idempotency_keys(store: Store) -> None:
    batch = [Event("u", "a", 1, key="k"), Event("u", "b", 2, key="k"), Event("v", "c", 3, key="k"), Event("u", "d", 4),
             Event("u", "e", 5, key="l"), Event("u", "a", 1, key="k")]  # fmt: skip
    assert store.append(batch) == [True, False, True, True, True, False]
    assert store.append(batch) == [False, False, False, True, False, False]
    assert [event.item for event in all_events(store, "u")] == ["a", "d", "e", "d"]
    assert [event.item for event in all_events(store, "v")] == ["c"]
    assert [store.recent_events([user], 9)[0].total for user in ("u", "v")] == [4, 1]
    before = store.recent_events(["u"], 9)
    assert store.append(batch[:3]) == [False, False, False]
    assert store.recent_events(["u"], 9) == before


def test_large_batches_and_histories(store: Store) -> None:
    for start in range(0, 10_000, 1_000):
        batch = [Event("heavy", f"i{n}", n, key=f"{n}") for n in range(start, start + 1_000)]
        assert store.append([*batch, Event("light", "x", start)]) == [True] * 1_001
    assert store.append([Event("heavy", "again", 0, key=f"{n}") for n in range(0, 10_000, 10)]) == [False] * 1_000
    (heavy,) = store.recent_events(["heavy"], 50)
    assert [event.time for event in heavy.events] == list(range(9_950, 10_000))
    assert heavy.total == 10_000
    events, sequence = store.events_after("heavy", 0, 7_000)
    assert [event.time for event in events] == list(range(7_000))
    assert store.recent_events(["heavy"], 1, sequence)[0].total == 3_000
    assert [event.time for event in store.events_after("heavy", sequence, 10_000)[0]] == list(range(7_000, 10_000))
    assert sum(1 for _ in store.events()) == 10_010
    assert store.delete_user("heavy").events == 10_000
    assert [event.user for _, event in store.events()] == ["light"] * 10


def test_unusual_ids(store: Store) -> None:
    users = [text for text in UNUSUAL if text]
    batch = [Event(user, text, 1, text, None, text) for user in users for text in UNUSUAL]
    assert store.append(batch) == [True] * len(batch)
    assert store.append(batch) == [False] * len(batch)
    for user, stored in zip(users, store.recent_events(users, 100), strict=True):
        assert stored.events == tuple(event for event in batch if event.user == user)
    assert [event for _, event in store.events()] == batch
    store.put_states({user: UserState("m", 10**6, user.encode()) for user in users})
    assert [state and state.data for state in store.get_states(users, "m")] == [user.encode() for user in users]
    for text in UNUSUAL:
        store.put_setting(text, text)
    assert [store.get_setting(text) for text in UNUSUAL] == UNUSUAL
    shown = [Exposure(text, text, user, 1, tuple(UNUSUAL)) for text in UNUSUAL for user in users[:3]]
    store.record_exposures(shown)
    assert [one for text in UNUSUAL for one in store.exposures(text)] == shown
    for user in users[::2]:
        assert store.delete_user(user).events == len(UNUSUAL)
    assert [bool(stored.events) for stored in store.recent_events(users, 1)] == [bool(n % 2) for n in range(len(users))]


def test_numbers_are_exact(store: Store) -> None:
    numbers = [0.1, -1.5, 1e308, 5e-324, 1 / 3, 2.0**53 + 2, None, 3.0]
    times = [0, -1, 2**53, -(2**53), 2**31, -(2**31) - 1, 7, 8]
    store.append([Event("u", "i", time, None, value) for time, value in zip(times, numbers, strict=True)])
    events = all_events(store, "u")
    assert [event.time for event in events] == times
    assert list(map(repr, (event.value for event in events))) == list(map(repr, numbers))


def test_delete_user(store: Store) -> None:
    store.append([Event("u", "a", 1, key="k"), Event("v", "b", 2), Event("u", "c", 3)])
    store.put_states({"u": UserState("m", 3, b"u"), "v": UserState("m", 2, b"v")})
    store.record_exposures([Exposure("e", "A", "u", 1, ("a",)), Exposure("e", "B", "v", 1, ("b",))])
    before = store.recent_events(["u"], 9)[0].last_sequence
    assert store.delete_user("u").events == 2
    deleted_user, other = store.recent_events(["u", "v"], 9)
    assert (deleted_user.events, deleted_user.total, deleted_user.deleted) == ((), 0, True)
    assert deleted_user.last_sequence > before
    assert (other.total, other.deleted) == (1, False)
    assert [state and state.data for state in store.get_states(["u", "v"], "m")] == [None, b"v"]
    assert [one.user for one in store.exposures("e")] == ["v"]
    assert [event.user for _, event in store.events()] == ["v"]
    assert store.events_after("u", 0, 9) == ((), 0)

    assert store.append([Event("u", "new", 4, key="k")]) == [True]
    back = store.recent_events(["u"], 9)[0]
    assert ([event.item for event in back.events], back.total, back.deleted) == (["new"], 1, True)
    assert back.last_sequence > deleted_user.last_sequence
    assert store.delete_user("u").events == 1
    assert store.recent_events(["u"], 9)[0].last_sequence > back.last_sequence


def test_delete_an_unknown_user(store: Store) -> None:
    assert store.delete_user("trained only").events == 0
    (deleted_user,) = store.recent_events(["trained only"], 9)
    assert deleted_user.deleted
    assert deleted_user.last_sequence > 0


def test_older_states_do_not_replace_newer_ones(store: Store) -> None:
    assert store.get_states(["u"], "m") == [None]
    store.put_states({"u": UserState("m", 5, b"five"), "v": UserState("m", 1, bytes(range(256)))})
    store.put_states({"u": UserState("m", 4, b"four")})
    assert store.get_states(["v", "u", "w"], "m") == [
        UserState("m", 1, bytes(range(256))),
        UserState("m", 5, b"five"),
        None,
    ]
    store.put_states({"u": UserState("m", 5, b"five again")})
    assert store.get_states(["u"], "m") == [UserState("m", 5, b"five again")]
    store.put_states({"v": UserState("n", 0, b"")})
    store.put_states({"u": UserState("m", 2**52, b"\0" * 1_000_000)})
    assert store.get_states(["u"], "m") == [UserState("m", 2**52, b"\0" * 1_000_000)]
    assert store.get_states(["u", "v"], "n") == [None, UserState("n", 0, b"")]


def test_states_from_before_a_deletion_are_ignored(store: Store) -> None:
    store.append([Event("u", "a", 1)])
    old = store.recent_events(["u"], 9)[0].last_sequence
    store.delete_user("u")
    store.put_states({"u": UserState("m", old, b"outdated")})
    assert store.get_states(["u"], "m") == [None]
    deletion = store.recent_events(["u"], 9)[0].last_sequence
    store.put_states({"u": UserState("m", deletion, b"nothing")})
    assert store.get_states(["u"], "m") == [None]
    store.append([Event("u", "b", 2)])
    back = store.recent_events(["u"], 9)[0].last_sequence
    store.put_states({"u": UserState("m", back, b"new")})
    assert store.get_states(["u"], "m") == [UserState("m", back, b"new")]


def test_settings(store: Store) -> None:
    assert store.get_setting("active") is None
    store.put_setting("active", "one")
    store.put_setting("active", json.dumps({"zwei": "ü"}))
    assert store.get_setting("active") == '{"zwei": "\\u00fc"}'


def test_exposures_are_paginated(store: Store) -> None:
    shown = [Exposure(f"e{n % 2}", "AB"[n % 3 == 0], f"u{n % 7}", n, (f"i{n}", "x")) for n in range(3_000)]
    store.record_exposures(shown[:1_500])
    store.record_exposures(shown[1_500:])
    assert list(store.exposures("e0")) == shown[::2]
    assert list(store.exposures("none")) == []
    reading = store.exposures("e1")
    assert next(reading) == shown[1]
    store.record_exposures([Exposure("e1", "A", "late", 0, ())])
    assert list(reading)[-1] == Exposure("e1", "A", "late", 0, ())  # pages are read lazily


def test_events_are_paginated(store: Store) -> None:
    store.append([Event("u", f"{n}", n) for n in range(1_500)])
    reading = store.events()
    assert next(reading)[1].item == "0"
    store.append([Event("u", "late", 0)])
    assert [event.item for _, event in reading][-2:] == ["1499", "late"]
    sequences = [sequence for sequence, _ in store.events()]
    assert [event.item for _, event in store.events(sequences[1_498])] == ["1499", "late"]


def test_empty_arguments(store: Store) -> None:
    store.ping()
    assert store.append([]) == []
    assert store.recent_events([], 5) == []
    assert store.get_states([], "m") == []
    store.put_states({})
    store.record_exposures([])
    assert list(store.events()) == []


def test_batches_are_atomic(store: Store) -> None:
    store.append([Event("u", "a", 1)])
    before = store.recent_events(["u", "secret"], 9)
    with pytest.raises((ValueError, StoreError)):
        store.append([Event("u", "b", 2, key="k"), Event("secret", "\ud800", 3)])
    assert store.recent_events(["u", "secret"], 9) == before
    assert store.append([Event("u", "c", 4, key="k")]) == [True]
    assert [event.item for event in all_events(store, "u")] == ["a", "c"]


def test_data_survives_reopening(address: str, open_stores: Callable[[str], Store]) -> None:
    store = open_stores(address)
    store.append([Event("u", "a", 1, key="k")])
    store.put_states({"u": UserState("m", 9, b"x")})
    store.put_setting("active", "one")
    store.delete_user("v")
    store.close()
    again = open_stores(address)
    assert all_events(again, "u") == (Event("u", "a", 1, key="k"),)
    assert again.append([Event("u", "a", 1, key="k"), Event("u", "b", 1)]) == [False, True]
    assert again.get_states(["u"], "m") == [UserState("m", 9, b"x")]
    assert again.get_setting("active") == "one"
    assert again.recent_events(["v"], 1)[0].deleted


def test_prune_states(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"u{number}" for number in range(250)] + UNUSUAL
    for model, some, written_at in (("old", users, 100), ("new", users[::2], 200), ("other", ["u0"], 300)):
        monkeypatch.setattr(time, "time", lambda now=written_at: now + 0.5)
        store.put_states({user: UserState(model, 1, model.encode()) for user in some})
    assert store.prune_states(100) == 0
    assert store.prune_states(200) == len(users)
    assert not any(store.get_states(users, "old"))
    assert [one and one.data for one in store.get_states(users[:4], "new")] == [b"new", None, b"new", None]
    assert store.get_states(["u0"], "other") == [UserState("other", 1, b"other")]
    monkeypatch.setattr(time, "time", lambda: 400.5)
    store.put_states({"u2": UserState("new", 1, b"again")})
    assert store.prune_states(400) == len(users[::2])  # all but the state that was written again
    assert store.get_states(["u2"], "new") == [UserState("new", 1, b"again")]
    assert store.prune_states(401) == 1
    assert store.prune_states(401) == 0


def test_exposures_before_a_deletion_are_ignored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000
    monkeypatch.setattr(time, "time", lambda: now + 0.5)
    store.append([Event("u", "a", 1)])
    store.delete_user("u")
    shown = [Exposure("e", "A", user, now + later, ("a",)) for user in ("u", "v") for later in (-100, 0, 60)]
    store.record_exposures(shown)
    assert list(store.exposures("e")) == shown[2:]
    assert store.delete_user("u").events == 0
    assert list(store.exposures("e")) == shown[3:]


def test_exposures_up_to_five_seconds_after_a_deletion_are_ignored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the service that showed the items may be ahead of the clock of the one that deleted the user."""
    now = 1_000_000
    monkeypatch.setattr(time, "time", lambda: now + 0.5)
    store.append([Event("u", "a", 1)])
    store.delete_user("u")
    shown = [Exposure("e", "A", "u", now + later, ("a",)) for later in range(9)]
    store.record_exposures(shown)
    assert list(store.exposures("e")) == shown[6:]


def test_size_grows_with_the_events(store: Store) -> None:
    store.append([Event("u", "a", 1)])
    before = store.size_bytes()
    assert before > 0
    store.append([Event(f"u{n}", f"item-{n}", n) for n in range(5_000)])
    assert store.size_bytes() > before + 100_000

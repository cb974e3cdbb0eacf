"""What every store does, whatever it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from segue.serving.stores.store import Event, Exposure, Kept, Memory, Store, StoreError

ODD = [
    "a", "A", "a ", " ", "é", "e\u0301", "ö/%s?&#", "o'hara", 'say "x"', "back\\slash", "{curly}", "[1,2]", "null", "",
    "\u2028", "😀" * 10, "x" * 256, "汉" * 256, "k", ":", "$1", "--", "1", "1.0", "last:m", "\x85",
]  # fmt: skip


def told(store: Store, user: str) -> tuple[Event, ...]:
    return store.kept([user], 1_000_000)[0].events


def test_events_come_back_in_the_order_of_arrival(store: Store) -> None:
    first = [Event("ann", "x", 5, "buy", 2.5, "k"), Event("bob", "y", 9), Event("ann", "z", 1, None, None, None)]
    assert store.append(first) == [True, True, True]
    assert store.append([Event("ann", "x", 5)]) == [True]
    ann, bob, nobody = store.kept(["ann", "bob", "carl"], 10)
    assert ann.events == (first[0], first[2], Event("ann", "x", 5))
    assert (ann.total, ann.forgotten) == (3, False)
    assert bob.events == (first[1],)
    assert nobody == Kept()
    places = [place for place, _ in store.events()]
    assert [event for _, event in store.events()] == [*first, Event("ann", "x", 5)]
    assert places == sorted(set(places))
    assert places[0] > 0
    assert (ann.last, bob.last) == (places[3], places[1])


def test_kept_is_cut_on_both_sides(store: Store) -> None:
    store.append([Event(f"u{n % 2}", f"i{n}", n) for n in range(10)])
    places = [place for place, _ in store.events()]
    (some,) = store.kept(["u0"], 2)
    assert [event.item for event in some.events] == ["i6", "i8"]
    assert (some.total, some.last) == (5, places[8])
    (later,) = store.kept(["u0"], 2, places[3])
    assert [event.item for event in later.events] == ["i6", "i8"]
    assert (later.total, later.last) == (3, places[8])
    assert store.kept(["u0"], 9, places[8]) == [Kept((), 0, places[8])]
    assert store.kept(["u1"], 9, places[9] + 100) == [Kept((), 0, places[9])]
    assert store.kept(["u0"], 0) == [Kept((), 5, places[8])]
    again = store.kept(["u1", "who", "u1"], 1)
    assert again[0] == again[2]
    assert again[0].events[0].item == "i9"


def test_since_goes_on(store: Store) -> None:
    assert store.since("u", 0, 5) == ((), 0)
    assert store.since("u", 7, 5) == ((), 7)
    store.append([Event("u" if n % 3 else "other", f"i{n}", n) for n in range(20)])
    seen: list[Event] = []
    place = 0
    while (found := store.since("u", place, 4))[0]:
        seen += found[0]
        assert found[1] > place
        place = found[1]
    assert tuple(seen) == told(store, "u")
    assert place == store.kept(["u"], 0)[0].last
    assert store.since("u", place, 4) == ((), place)
    assert store.since("u", 0, 0) == ((), 0)


def test_of_several_events_with_a_key_the_first_is_kept(store: Store) -> None:
    batch = [Event("u", "a", 1, key="k"), Event("u", "b", 2, key="k"), Event("v", "c", 3, key="k"), Event("u", "d", 4),
             Event("u", "e", 5, key="l"), Event("u", "a", 1, key="k")]  # fmt: skip
    assert store.append(batch) == [True, False, True, True, True, False]
    assert store.append(batch) == [False, False, False, True, False, False]
    assert [event.item for event in told(store, "u")] == ["a", "d", "e", "d"]
    assert [event.item for event in told(store, "v")] == ["c"]
    assert [store.kept([user], 9)[0].total for user in ("u", "v")] == [4, 1]
    before = store.kept(["u"], 9)
    assert store.append(batch[:3]) == [False, False, False]
    assert store.kept(["u"], 9) == before


def test_a_large_batch_and_a_user_with_ten_thousand_events(store: Store) -> None:
    for begin in range(0, 10_000, 1_000):
        batch = [Event("heavy", f"i{n}", n, key=f"{n}") for n in range(begin, begin + 1_000)]
        assert store.append([*batch, Event("light", "x", begin)]) == [True] * 1_001
    assert store.append([Event("heavy", "again", 0, key=f"{n}") for n in range(0, 10_000, 10)]) == [False] * 1_000
    (heavy,) = store.kept(["heavy"], 50)
    assert [event.time for event in heavy.events] == list(range(9_950, 10_000))
    assert heavy.total == 10_000
    events, place = store.since("heavy", 0, 7_000)
    assert [event.time for event in events] == list(range(7_000))
    assert store.kept(["heavy"], 1, place)[0].total == 3_000
    assert [event.time for event in store.since("heavy", place, 10_000)[0]] == list(range(7_000, 10_000))
    assert sum(1 for _ in store.events()) == 10_010
    assert store.forget("heavy") == 10_000
    assert [event.user for _, event in store.events()] == ["light"] * 10


def test_odd_ids_are_ids_like_others(store: Store) -> None:
    users = [odd for odd in ODD if odd]
    batch = [Event(user, odd, 1, odd, None, odd) for user in users for odd in ODD]
    assert store.append(batch) == [True] * len(batch)
    assert store.append(batch) == [False] * len(batch)
    for user, kept in zip(users, store.kept(users, 100), strict=True):
        assert kept.events == tuple(event for event in batch if event.user == user)
    assert [event for _, event in store.events()] == batch
    store.remember({user: Memory("m", 10**6, user.encode()) for user in users})
    assert [memory and memory.data for memory in store.memories(users, "m")] == [user.encode() for user in users]
    for odd in ODD:
        store.put(odd, odd)
    assert [store.get(odd) for odd in ODD] == ODD
    shown = [Exposure(odd, odd, user, 1, tuple(ODD)) for odd in ODD for user in users[:3]]
    store.expose(shown)
    assert [one for odd in ODD for one in store.exposures(odd)] == shown
    for user in users[::2]:
        assert store.forget(user) == len(ODD)
    assert [bool(kept.events) for kept in store.kept(users, 1)] == [bool(n % 2) for n in range(len(users))]


def test_numbers_come_back_as_they_were(store: Store) -> None:
    numbers = [0.1, -1.5, 1e308, 5e-324, 1 / 3, 2.0**53 + 2, None, 3.0]
    times = [0, -1, 2**53, -(2**53), 2**31, -(2**31) - 1, 7, 8]
    store.append([Event("u", "i", time, None, value) for time, value in zip(times, numbers, strict=True)])
    events = told(store, "u")
    assert [event.time for event in events] == times
    assert list(map(repr, (event.value for event in events))) == list(map(repr, numbers))


def test_who_is_forgotten_leaves_a_mark_alone(store: Store) -> None:
    store.append([Event("u", "a", 1, key="k"), Event("v", "b", 2), Event("u", "c", 3)])
    store.remember({"u": Memory("m", 3, b"u"), "v": Memory("m", 2, b"v")})
    store.expose([Exposure("e", "A", "u", 1, ("a",)), Exposure("e", "B", "v", 1, ("b",))])
    before = store.kept(["u"], 9)[0].last
    assert store.forget("u") == 2
    gone, other = store.kept(["u", "v"], 9)
    assert (gone.events, gone.total, gone.forgotten) == ((), 0, True)
    assert gone.last > before
    assert (other.total, other.forgotten) == (1, False)
    assert [memory and memory.data for memory in store.memories(["u", "v"], "m")] == [None, b"v"]
    assert [one.user for one in store.exposures("e")] == ["v"]
    assert [event.user for _, event in store.events()] == ["v"]
    assert store.since("u", 0, 9) == ((), 0)

    assert store.append([Event("u", "new", 4, key="k")]) == [True]
    back = store.kept(["u"], 9)[0]
    assert ([event.item for event in back.events], back.total, back.forgotten) == (["new"], 1, True)
    assert back.last > gone.last
    assert store.forget("u") == 1
    assert store.kept(["u"], 9)[0].last > back.last


def test_one_may_be_forgotten_who_was_never_there(store: Store) -> None:
    assert store.forget("trained only") == 0
    (gone,) = store.kept(["trained only"], 9)
    assert gone.forgotten
    assert gone.last > 0


def test_a_memory_never_goes_back(store: Store) -> None:
    assert store.memories(["u"], "m") == [None]
    store.remember({"u": Memory("m", 5, b"five"), "v": Memory("m", 1, bytes(range(256)))})
    store.remember({"u": Memory("m", 4, b"four")})
    assert store.memories(["v", "u", "w"], "m") == [Memory("m", 1, bytes(range(256))), Memory("m", 5, b"five"), None]
    store.remember({"u": Memory("m", 5, b"five again")})
    assert store.memories(["u"], "m") == [Memory("m", 5, b"five again")]
    store.remember({"v": Memory("n", 0, b"")})
    store.remember({"u": Memory("m", 2**52, b"\0" * 1_000_000)})
    assert store.memories(["u"], "m") == [Memory("m", 2**52, b"\0" * 1_000_000)]
    assert store.memories(["u", "v"], "n") == [None, Memory("n", 0, b"")]


def test_what_was_remembered_before_forgetting_is_not_kept_after(store: Store) -> None:
    store.append([Event("u", "a", 1)])
    old = store.kept(["u"], 9)[0].last
    store.forget("u")
    store.remember({"u": Memory("m", old, b"of events that are gone")})
    assert store.memories(["u"], "m") == [None]
    now = store.kept(["u"], 9)[0].last
    store.remember({"u": Memory("m", now, b"nothing")})
    assert store.memories(["u"], "m") == [Memory("m", now, b"nothing")]


def test_settings(store: Store) -> None:
    assert store.get("active") is None
    store.put("active", "one")
    store.put("active", json.dumps({"zwei": "ü"}))
    assert store.get("active") == '{"zwei": "\\u00fc"}'


def test_exposures_come_page_by_page(store: Store) -> None:
    shown = [Exposure(f"e{n % 2}", "AB"[n % 3 == 0], f"u{n % 7}", n, (f"i{n}", "x")) for n in range(3_000)]
    store.expose(shown[:1_500])
    store.expose(shown[1_500:])
    assert list(store.exposures("e0")) == shown[::2]
    assert list(store.exposures("none")) == []
    reading = store.exposures("e1")
    assert next(reading) == shown[1]
    store.expose([Exposure("e1", "A", "late", 0, ())])
    assert list(reading)[-1] == Exposure("e1", "A", "late", 0, ())  # a page that was read when it was asked for


def test_events_come_page_by_page(store: Store) -> None:
    store.append([Event("u", f"{n}", n) for n in range(1_500)])
    reading = store.events()
    assert next(reading)[1].item == "0"
    store.append([Event("u", "late", 0)])
    assert [event.item for _, event in reading][-2:] == ["1499", "late"]
    places = [place for place, _ in store.events()]
    assert [event.item for _, event in store.events(places[1_498])] == ["1499", "late"]


def test_nothing_is_nothing(store: Store) -> None:
    store.ping()
    assert store.append([]) == []
    assert store.kept([], 5) == []
    assert store.memories([], "m") == []
    store.remember({})
    store.expose([])
    assert list(store.events()) == []


def test_all_of_a_batch_is_kept_or_nothing(store: Store) -> None:
    store.append([Event("u", "a", 1)])
    before = store.kept(["u", "secret"], 9)
    with pytest.raises((ValueError, StoreError)):
        store.append([Event("u", "b", 2, key="k"), Event("secret", "\ud800", 3)])
    assert store.kept(["u", "secret"], 9) == before
    assert store.append([Event("u", "c", 4, key="k")]) == [True]
    assert [event.item for event in told(store, "u")] == ["a", "c"]


def test_what_is_kept_outlives_the_store_that_kept_it(address: str, opened: Callable[[str], Store]) -> None:
    store = opened(address)
    store.append([Event("u", "a", 1, key="k")])
    store.remember({"u": Memory("m", 9, b"x")})
    store.put("active", "one")
    store.forget("v")
    store.close()
    again = opened(address)
    assert told(again, "u") == (Event("u", "a", 1, key="k"),)
    assert again.append([Event("u", "a", 1, key="k"), Event("u", "b", 1)]) == [False, True]
    assert again.memories(["u"], "m") == [Memory("m", 9, b"x")]
    assert again.get("active") == "one"
    assert again.kept(["v"], 1)[0].forgotten


def test_memories_of_other_models_are_pruned(store: Store) -> None:
    users = [f"u{number}" for number in range(250)] + ODD
    for model, some in (("old", users), ("new", users[::2]), ("other", ["u0"])):
        store.remember({user: Memory(model, 1, model.encode()) for user in some})
    assert store.prune({"old", "new", "other", "nobody"}) == 0
    assert store.prune(["new", "other"]) == len(users)
    assert not any(store.memories(users, "old"))
    assert [one and one.data for one in store.memories(users[:4], "new")] == [b"new", None, b"new", None]
    assert store.memories(["u0"], "other") == [Memory("other", 1, b"other")]
    assert store.prune([]) == len(users[::2]) + 1
    assert store.prune([]) == 0

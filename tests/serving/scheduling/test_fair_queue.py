"""Clients share a resource fairly, however much each of them queues."""

from __future__ import annotations

from itertools import groupby

import pytest

from segue.serving.scheduling import fair_queue
from segue.serving.scheduling.fair_queue import FairQueue, Overloaded


def serve(queue: FairQueue[str], count: int, amount: float = 1.0) -> list[str]:
    """Serve entries, each of which uses the same amount."""
    served = []
    for _ in range(count):
        entry = queue.pick()
        queue.charge(entry[0], amount)
        assert queue.remove(entry[0], entry)
        served.append(entry)
    return served


def test_entries_of_one_client_keep_their_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(5):
        queue.push("a", f"a{number}")
    assert serve(queue, 5) == ["a0", "a1", "a2", "a3", "a4"]
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pick()


def test_a_long_queue_of_one_client_does_not_delay_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(256):
        queue.push("a", f"a{number}")
    served = serve(queue, 3)
    queue.push("b", "b0")
    served += serve(queue, 2)
    assert "b0" in served
    assert len(queue) == 252


def test_the_least_consumption_goes_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(6):
        queue.push("a", f"a{number}")
        queue.push("b", f"b{number}")
    served = []
    for _ in range(8):  # an entry of a costs three times as much
        entry = queue.pick()
        queue.charge(entry[0], 3.0 if entry[0] == "a" else 1.0)
        queue.remove(entry[0], entry)
        served.append(entry[0])
    assert served.count("a") == 2
    assert served.count("b") == 6


def test_equal_clients_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for client in "abc":
        for number in range(4):
            queue.push(client, f"{client}{number}")
    clients = [entry[0] for entry in serve(queue, 12)]
    assert clients == list("abc") * 4


def test_an_unfinished_entry_stays_first_of_its_client() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", "a0")
    queue.push("a", "a1")
    queue.push("b", "b0")
    picked = []
    for _ in range(4):
        entry = queue.pick()
        picked.append(entry)
        queue.charge(entry[0], 1.0)
    assert picked == ["a0", "b0", "a0", "b0"]


def test_idle_time_gives_no_claim() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(200):
        queue.push("a", f"a{number}")
    serve(queue, 100)
    for number in range(50):
        queue.push("b", f"b{number}")
    assert [len(list(turns)) for _, turns in groupby(entry[0] for entry in serve(queue, 40))] == [1] * 40


def test_leaving_and_returning_does_not_reset_consumption() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(20):
        queue.push("a", f"a{number}")
    queue.push("b", "b0")
    queue.charge("b", 5.0)
    queue.remove("b", "b0")
    queue.push("b", "b1")
    served = serve(queue, 7)
    assert served.index("b1") >= 5


def test_removed_entries_are_not_served() -> None:
    queue: FairQueue[str] = FairQueue()
    for entry in ("a0", "a1", "b0"):
        queue.push(entry[0], entry)
    assert queue.remove("a", "a0")
    assert queue.remove("b", "b0")
    assert not queue.remove("b", "b0")
    assert not queue.remove("c", "c0")
    queue.push("b", "b1")
    assert sorted(serve(queue, 2)) == ["a1", "b1"]


def test_the_longest_queue_is_found() -> None:
    queue: FairQueue[str] = FairQueue()
    for entry in ("a0", "b0", "b1", "b2", "c0"):
        queue.push(entry[0], entry)
    assert queue.newest_of_longest() == ("b", "b2")
    assert (queue.count("b"), queue.count("d")) == (3, 0)


def test_memory_does_not_grow_with_the_number_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "MAX_IDLE_CLIENTS", 10)
    queue: FairQueue[str] = FairQueue()
    for number in range(5_000):
        queue.push("a", f"a{number}")  # so that the queue is never empty
    for number in range(2_000):
        client = f"client {number}"
        queue.push(client, client)
        queue.charge(client, 1.0)
        queue.remove(client, client)
        queue.charge(queue.pick()[0], 0.5)
    assert len(queue._virtual_times) <= 12
    assert len(queue._order) <= 12


def test_a_full_queue_loses_the_newest_entry_of_the_client_with_the_most() -> None:
    queue: FairQueue[str] = FairQueue()
    for entry in ("a0", "a1", "a2", "b0"):
        queue.push(entry[0], entry)
    assert queue.make_room("c", 5) == []
    with pytest.raises(Overloaded, match=r"^service overloaded; try again in 1\.0 s$"):
        queue.make_room("a", 4)
    with pytest.raises(Overloaded):
        queue.make_room("c", 4, lambda entry: entry != "a2")
    assert queue.make_room("c", 4) == ["a2"]
    queue.push("c", "c0")
    with pytest.raises(Overloaded):  # afterwards it would have as many as the client that loses one
        queue.make_room("b", 4)
    assert queue.make_room("d", 4) == ["a1"]

"""Items in the event stores: the same behavior for all stores."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, ItemChange, Store
from segue.serving.stores.timeout import TimeoutStore
from tests.serving.test_stores import UNUSUAL


def test_changes_come_in_their_order_once_per_item(store: Store) -> None:
    assert store.item_changes(0, 10) == []
    store.put_items({"a": "1", "b": "2"})
    store.put_items({"a": "3"})
    store.put_items({"c": "4", "b": None})
    changes = store.item_changes(0, 10)
    assert [(one.item, one.content) for one in changes] == [("a", "3"), ("c", "4"), ("b", None)]
    assert [one.sequence for one in changes] == sorted({one.sequence for one in changes})
    assert store.item_changes(changes[1].sequence, 10) == changes[2:]
    assert store.item_changes(0, 2) == changes[:2]
    assert store.item_changes(changes[2].sequence, 10) == []


def test_an_item_keeps_its_place_until_it_is_removed(store: Store) -> None:
    store.put_items({"a": "1", "b": "2"})
    store.put_items({"a": "3"})
    created = {one.item: one.created for one in store.item_changes(0, 10)}
    assert created["a"] < created["b"]
    store.put_items({"a": None})
    store.put_items({"a": "4"})
    created = {one.item: one.created for one in store.item_changes(0, 10)}
    assert created["a"] > created["b"]


def test_unusual_ids_and_contents(store: Store) -> None:
    texts = {text: f'{{"x": "{text}"}}' for text in UNUSUAL}
    store.put_items(texts)
    assert {one.item: one.content for one in store.item_changes(0, 1_000)} == texts
    store.put_items({"empty": "", "long": "x" * 1_000_000})
    found = {one.item: one.content for one in store.item_changes(0, 1_000)}
    assert (found["empty"], len(found["long"] or "")) == ("", 1_000_000)


def test_items_survive_reopening(address: str, open_stores: Callable[[str], Store]) -> None:
    store = open_stores(address)
    store.put_items({"a": "1", "b": None})
    changes = store.item_changes(0, 10)
    assert changes[0] == ItemChange("a", "1", 1, 1)
    assert open_stores(address).item_changes(0, 10) == changes


def test_concurrent_writers_lose_no_change(address: str, open_stores: Callable[[str], Store]) -> None:
    stores = [open_stores(address) for _ in range(2)]
    stores[0].ping()
    threads = [
        threading.Thread(
            target=lambda n=n: [stores[n % 2].put_items({f"{n}-{m}": "x", "shared": str(n)}) for m in range(5)]
        )
        for n in range(4)
    ]
    seen: list[ItemChange] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen += stores[0].item_changes(seen[-1].sequence if seen else 0, 100)
    seen += stores[0].item_changes(seen[-1].sequence if seen else 0, 100)
    assert {one.item for one in seen} == {"shared", *(f"{n}-{m}" for n in range(4) for m in range(5))}
    newest = {one.item: one for one in seen}
    assert sorted(newest.values(), key=lambda one: one.sequence) == stores[1].item_changes(0, 100)


def test_a_full_store_takes_removals_only() -> None:
    from tests.serving.memory_store import MemoryStore

    store = TimeoutStore(MemoryStore(), 1.0)
    store.put_items({"a": "1"})
    store.size_problem = "the store is full"
    with pytest.raises(Exception, match="the store is full"):
        store.put_items({"b": "2"})
    store.put_items({"a": None})
    assert [one.content for one in store.item_changes(0, 10)] == [None]


def test_a_sqlite_file_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    first = open_store(f"sqlite:///{path}")
    first.append([Event("ann", "x", 1)])
    first.close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE items")
    connection.commit()
    connection.close()
    again = open_store(f"sqlite:///{path}")
    again.put_items({"a": "1"})
    assert [one.item for one in again.item_changes(0, 10)] == ["a"]
    assert again.recent_events(["ann"], 1)[0].total == 1
    again.close()

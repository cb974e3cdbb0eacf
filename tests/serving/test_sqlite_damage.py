"""SQLite files that another process could open by another name, damaged files, and paths that cannot be resolved."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from segue.serving.app import create_app
from segue.serving.stores.monitor import StoreMonitor
from segue.serving.stores.open import open_store
from segue.serving.stores.sqlite import SQLite
from segue.serving.stores.store import OUTCOME_UNKNOWN, STORE_DAMAGED, STORE_LINKED, Event, StoreError
from tests.serving.world import service

EVENT = {"user": "u", "item": "i1"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "segue.db"


@pytest.fixture
def slow_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all checks to the test."""
    monkeypatch.setattr(StoreMonitor, "start", lambda self: None)


@pytest.fixture
def damaged(path: Path) -> Path:
    """A store whose table of events is overwritten."""
    store = SQLite(path)
    store.append([Event("u", f"item-{number}", number) for number in range(1_000)])
    store.put_setting("name", "value")
    store.close()
    connection = sqlite3.connect(path)
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchall()
    ((size,),) = connection.execute("PRAGMA page_size").fetchall()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    return path


def test_a_file_with_two_names_is_refused(path: Path, tmp_path: Path) -> None:
    """Two services that open it by different names have different -wal files, and destroy each other's events."""
    store, other_name = SQLite(path), tmp_path / "other.db"
    store.append([Event("u", "first", 1)])
    os.link(path, other_name)
    for call in (store.ping, store.size_bytes, lambda: store.append([Event("u", "lost", 1)])):
        with pytest.raises(StoreError, match=re.escape(f"{path}: {STORE_LINKED}")) as raised:
            call()
        assert OUTCOME_UNKNOWN not in str(raised.value)
    for name in (other_name, path):
        with pytest.raises(StoreError, match=re.escape(f"{name}: {STORE_LINKED}") + ".*delete the other name"):
            open_store(f"sqlite:///{name}")
    other_name.unlink()
    assert store.append([Event("u", "second", 1)]) == [True]
    store.close()
    again = SQLite(path)
    assert [event.item for _, event in again.events()] == ["first", "second"]
    again.close()


def test_a_second_name_is_a_reason_not_to_be_ready(path: Path, tmp_path: Path, slow_checks: None) -> None:
    it = service("popular", store=f"sqlite:///{path}")
    with TestClient(create_app(it)) as client:
        assert client.post("/v1/events", json=EVENT).status_code == 200
        os.link(path, tmp_path / "copy.db")
        it.store_monitor.check()
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["reasons"] == [f"event store unavailable for 0 s: {STORE_LINKED}"]
        assert client.post("/v1/events", json=EVENT).status_code == 503
        (tmp_path / "copy.db").unlink()
        it.store_monitor.check()
        assert client.get("/readyz").json() == {"ready": True}


def test_nothing_is_stored_in_a_damaged_file(damaged: Path) -> None:
    store = SQLite(damaged)
    store.ping()
    with pytest.raises(StoreError, match=f"cannot store events: SQLITE_CORRUPT.*; {STORE_DAMAGED}"):
        store.append([Event("u", "lost", 1)])
    calls: list[Any] = [
        lambda: store.append([Event("v", "lost", 1)]), lambda: store.delete_user("v"),
        lambda: store.put_setting("name", "other"), store.ping,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreError, match=re.escape(f"{damaged}: {STORE_DAMAGED} (SQLITE_CORRUPT") + ".*backup"):
            call()
    assert store.get_setting("name") == "value"
    store.close()


def test_damage_is_reported_as_such(damaged: Path, slow_checks: None, caplog: pytest.LogCaptureFixture) -> None:
    it = service("popular", store=f"sqlite:///{damaged}")
    with TestClient(create_app(it)) as client:
        response = client.post("/v1/events", json=EVENT)
        assert (response.status_code, response.json()["error"]) == (503, "store_damaged")
        assert "the store is damaged; nothing was changed" in response.json()["message"]
        it.store_monitor.check()
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["reasons"] == ["event store unavailable for 0 s: the store is damaged"]
        assert client.post("/v1/recommend", json={"history": ["i1"], "k": 3}).status_code == 200
    messages = [record.getMessage() for record in caplog.records if record.name == "segue.serving"]
    assert any("append failed: sqlite: cannot store events: SQLITE_CORRUPT" in message for message in messages)
    assert any(f"event store unavailable: sqlite: {damaged}: the store is damaged" in message for message in messages)


def test_a_file_of_another_kind_is_not_called_damaged(path: Path) -> None:
    path.write_text("text" * 1_000)
    with pytest.raises(StoreError, match=r"SQLITE_NOTADB$"):
        SQLite(path)


def test_paths_that_cannot_be_resolved_are_named(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(ValueError, match=re.escape(f"store: {path}: symbolic links that lead to each other")):
        open_store(f"sqlite:///{path}")
    long_path = path.with_name("x" * 300) / "segue.db"
    with pytest.raises(ValueError, match=re.escape(f"store: {long_path}: File name too long")):
        open_store(f"sqlite:///{long_path}")

"""Timeouts of store calls, and recovery."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from segue.serving import schemas
from segue.serving.service import PendingRequest
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, StoreError, UserState
from segue.serving.stores.timeout import TimeoutStore
from tests.serving.world import service


@pytest.mark.parametrize("is_in_process", [True, False])
def test_calls_within_the_timeout(monkeypatch: pytest.MonkeyPatch, is_in_process: bool) -> None:
    store = open_store("memory:")
    monkeypatch.setattr(store, "is_in_process", is_in_process)
    timeout_store = TimeoutStore(store, 30)
    store.append([Event("zoe", "a", 1), Event("zoe", "b", 2)])
    timeout_store.put_states({"zoe": UserState("m", 1, b"x")})
    assert timeout_store.recent_events(["zoe", "bob"], 5) == store.recent_events(["zoe", "bob"], 5)
    assert timeout_store.events_after("zoe", 1, 5) == store.events_after("zoe", 1, 5)
    assert timeout_store.get_states(["zoe"], "m") == store.get_states(["zoe"], "m")
    timeout_store.close()


def test_requests_do_not_wait_for_a_silent_store(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("gru4rec", store_timeout_ms=50)
    calls, resume = [], threading.Event()
    recent_events = it.store.recent_events

    def silent(*arguments: Any) -> Any:
        calls.append(arguments)
        resume.wait(60)
        return recent_events(*arguments)

    monkeypatch.setattr(it.store, "recent_events", silent)
    monkeypatch.setattr(it.store, "is_in_process", False)

    def answer() -> schemas.RecommendResponse:
        (found,) = it.recommend([PendingRequest(schemas.RecommendRequest(user="u3", k=5), monotonic() + 60)])
        assert isinstance(found, schemas.RecommendResponse)
        return found

    assert all(answer().notes for _ in range(3))
    assert len(calls) == 1  # the others failed immediately
    with pytest.raises(StoreError, match="overdue"):
        it.update_user_states(["u3"])
    resume.set()
    for _ in range(600):
        if not answer().notes:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the store was not called again")


def test_results_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            if timeout is not None:
                self.set_result(["result"])
                raise FutureTimeoutError
            return super().result()

    store = open_store("memory:")
    monkeypatch.setattr(store, "is_in_process", False)
    timeout_store = TimeoutStore(store, 1)
    timeout_store._thread.submit = lambda call: Last()  # type: ignore[method-assign,assignment]
    assert timeout_store.recent_events(["zoe"], 5) == ["result"]


def test_sqlite_reads_do_not_wait_for_writers(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    timeout_store = TimeoutStore(open_store(f"sqlite:///{path}"), 30)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert timeout_store.recent_events(["zoe"], 5)[0].total == 0
    with pytest.raises(StoreError, match="BUSY"):
        timeout_store.put_states({"zoe": UserState("m", 1, b"x")})
    writer.close()
    timeout_store.put_states({"zoe": UserState("m", 1, b"x")})
    assert timeout_store.get_states(["zoe"], "m") == [UserState("m", 1, b"x")]

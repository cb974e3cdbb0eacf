"""Who answers does not wait for a store that is silent, and goes on when it speaks again."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from segue.serving import schemas
from segue.serving.service import Timed
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, Memory, StoreError
from segue.serving.stores.timeout import Timely
from tests.serving.world import service


@pytest.mark.parametrize("prompt", [True, False])
def test_what_is_in_time_is_as_the_store_has_it(monkeypatch: pytest.MonkeyPatch, prompt: bool) -> None:
    store = open_store("memory:")
    monkeypatch.setattr(store, "prompt", prompt)
    timely = Timely(store, 30)
    store.append([Event("zoe", "a", 1), Event("zoe", "b", 2)])
    timely.remember({"zoe": Memory("m", 1, b"x")})
    assert timely.kept(["zoe", "bob"], 5) == store.kept(["zoe", "bob"], 5)
    assert timely.since("zoe", 1, 5) == store.since("zoe", 1, 5)
    assert timely.memories(["zoe"], "m") == store.memories(["zoe"], "m")
    timely.close()


def test_an_answer_does_not_wait_for_a_store_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("gru4rec", store_ms=50)
    calls, speaks = [], threading.Event()
    kept = it.store.kept

    def silent(*given: Any) -> Any:
        calls.append(given)
        speaks.wait(60)
        return kept(*given)

    monkeypatch.setattr(it.store, "kept", silent)
    monkeypatch.setattr(it.store, "prompt", False)

    def answer() -> schemas.Answer:
        (found,) = it.answer([Timed(schemas.Question(user="u3", k=5), monotonic() + 60)])
        assert isinstance(found, schemas.Answer)
        return found

    assert all(answer().notes for _ in range(3))
    assert len(calls) == 1  # the others did not wait at all
    with pytest.raises(StoreError, match="overdue"):
        it.follow(["u3"])
    speaks.set()
    for _ in range(600):
        if not answer().notes:
            return
        threading.Event().wait(0.05)
    raise AssertionError("never asked again")


def test_what_comes_at_the_last_moment_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            if timeout is not None:
                self.set_result(["came"])
                raise Late
            return super().result()

    store = open_store("memory:")
    monkeypatch.setattr(store, "prompt", False)
    timely = Timely(store, 1)
    timely._thread.submit = lambda call: Last()  # type: ignore[method-assign,assignment]
    assert timely.kept(["zoe"], 5) == ["came"]


def test_who_reads_a_file_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite"
    timely = Timely(open_store(f"sqlite:///{path}"), 30)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert timely.kept(["zoe"], 5)[0].total == 0
    with pytest.raises(StoreError, match="BUSY"):
        timely.remember({"zoe": Memory("m", 1, b"x")})
    writer.close()
    timely.remember({"zoe": Memory("m", 1, b"x")})
    assert timely.memories(["zoe"], "m") == [Memory("m", 1, b"x")]

"""The routes pass the client to the queues: fair shares of API keys, over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
from starlette.testclient import TestClient

from segue.serving import app as app_module
from segue.serving.api.dependencies import ApiDependencies
from segue.serving.auth.api_keys import ApiKeys, create_key
from tests.serving.secured_app import bearer
from tests.serving.world import service

QUEUE_SIZE = 4


class BlockedService:
    """Service whose workers wait, and a client with two keys."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = tmp_path / "keys.json"
        self.headers = {name: bearer(create_key(keys, name, ["read", "write"])) for name in ("first", "second")}
        self.resume, self.n_started = threading.Event(), 0
        self.users: list[str] = []
        """Users in the order in which their requests are processed."""
        self.service = service("ease", queue_size=QUEUE_SIZE, max_batch_events=1, max_batch_size=1)
        append_events, run_jobs = self.service.append_events, self.service.run_jobs

        def blocked_append(events: Any) -> Any:
            self._wait(events[0].user)
            return append_events(events)

        def blocked_jobs(jobs: Any, max_rows: int) -> Any:
            self._wait(jobs[0].request.user)
            yield from run_jobs(jobs, max_rows)

        monkeypatch.setattr(self.service, "append_events", blocked_append)
        monkeypatch.setattr(self.service, "run_jobs", blocked_jobs)
        create_dependencies = app_module._create_dependencies

        def keep_dependencies(*arguments: Any) -> ApiDependencies:
            self.dependencies = create_dependencies(*arguments)
            return self.dependencies

        monkeypatch.setattr(app_module, "_create_dependencies", keep_dependencies)
        self.client = TestClient(app_module.create_app(self.service, keys=ApiKeys(keys)))
        self.threads = ThreadPoolExecutor(8)

    def _wait(self, user: str) -> None:
        self.users.append(user)
        assert self.resume.wait(60)

    def post(self, key: str, path: str, body: Any) -> Future[Any]:
        return self.threads.submit(self.client.post, path, json=body, headers=self.headers[key])


def wait_until(is_true: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if is_true():
            return
        time.sleep(0.01)
    raise AssertionError("timed out")


def wait_for_length(queue: Sized, length: int) -> None:
    wait_until(lambda: len(queue) == length)


@pytest.fixture
def blocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockedService]:
    one = BlockedService(tmp_path, monkeypatch)
    with one.threads, one.client:
        yield one
        one.resume.set()


BODIES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "event": ("/v1/events", lambda user: {"user": user, "item": "i1"}),
    "event batch": ("/v1/events/batch", lambda user: {"events": [{"user": user, "item": "i1"}]}),
    "plain": ("/v1/recommend", lambda user: {"user": user, "deadline_ms": 60_000}),
    "expensive": ("/v1/recommend", lambda user: {"user": user, "deadline_ms": 60_000, "diversify": 0.5}),
    "batch": ("/v1/recommend/batch", lambda user: {"requests": 2 * [{"user": user, "deadline_ms": 60_000}]}),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_client_that_sends_much_does_not_delay_another(blocked: BlockedService, kind: str) -> None:
    path, create_body = BODIES[kind]
    queue: Any = blocked.dependencies.event_queue if "event" in path else blocked.dependencies.request_queue
    n_running = 1 if kind in ("expensive", "batch") else 0  # an expensive call stays queued until it is finished
    sent = [blocked.post("first", path, create_body("first-0"))]
    wait_until(lambda: blocked.users == ["first-0"])
    for n in range(1, QUEUE_SIZE - n_running):
        sent.append(blocked.post("first", path, create_body(f"first-{n}")))
        wait_for_length(queue, n + n_running)
    sent.append(blocked.post("second", path, create_body("second")))
    wait_for_length(queue, QUEUE_SIZE)
    blocked.resume.set()
    assert [one.result(60).status_code for one in sent] == [200] * len(sent)
    assert blocked.users.index("second") <= 2
    assert sorted(blocked.users) == [*(f"first-{n}" for n in range(len(sent) - 1)), "second"]


def test_a_full_event_queue_says_that_nothing_was_stored(blocked: BlockedService) -> None:
    event = BODIES["event"][1]
    sent = [blocked.post("first", "/v1/events", event("first-0"))]
    wait_until(lambda: blocked.users == ["first-0"])
    for n in range(1, QUEUE_SIZE + 1):
        sent.append(blocked.post("first", "/v1/events", event(f"first-{n}")))
        wait_for_length(blocked.dependencies.event_queue, n)
    refused = blocked.post("first", "/v1/events", event("refused")).result(60)
    sent.append(blocked.post("second", "/v1/events", event("second")))  # in place of the newest of the other client
    dropped = sent.pop(-2).result(60)
    blocked.resume.set()
    assert [one.result(60).status_code for one in sent] == [200] * len(sent)
    for response in (refused, dropped):
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        message = "service overloaded; nothing was stored; send the events again later"
        assert response.json()["message"] == message
    assert sorted({event.user for _, event in blocked.service.store.events()}) == sorted(blocked.users)
    assert not {"refused", f"first-{QUEUE_SIZE}"} & {*blocked.users}

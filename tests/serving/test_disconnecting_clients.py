"""Requests whose clients disconnect stop, on a real server: the work ends, and the log and the metrics tell why."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'segue[dev]'")

from segue.serving.app import create_app  # noqa: E402
from segue.serving.middleware.http_protocol import HTTP_PROTOCOL  # noqa: E402
from segue.serving.scheduling.engine_scheduler import Outputs  # noqa: E402
from tests.serving.world import service  # noqa: E402


class Server:
    """Service whose requests run until they are canceled, or until ``go_on`` is set."""

    def __init__(self) -> None:
        self.n_started = self.n_abandoned = 0
        self.go_on = threading.Event()
        svc = service("popular")
        svc.run_jobs = self.run_jobs  # type: ignore[method-assign]
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        config = uvicorn.Config(
            create_app(svc), http=HTTP_PROTOCOL, ws="none", log_config=None, access_log=False,
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)

    def run_jobs(self, jobs: Any, max_rows: int) -> Outputs:
        self.n_started += 1
        try:
            while not self.go_on.wait(0.005):
                yield None
        except GeneratorExit:
            self.n_abandoned += 1
            raise

    def n_cancelled(self, lane: str) -> float:
        metrics = httpx.get(f"http://127.0.0.1:{self.address[1]}/metrics", timeout=30).text
        found = re.search(rf'^segue_cancelled_calls_total{{lane="{lane}"}} (\S+)', metrics, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def close(self) -> None:
        self.go_on.set()
        self.server.should_exit = True
        self.thread.join(30)
        self.socket.close()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("timed out")


@pytest.fixture
def server(logs: io.StringIO) -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def access_lines(logs: io.StringIO, route: str) -> list[int]:
    """Return the status of each request to a route."""
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    return [line["status"] for line in lines if line["logger"] == "segue.access" and line["route"] == route]


@pytest.mark.parametrize(
    ("route", "body", "lane"),
    [
        ("/v1/recommend/batch", {"requests": [{"history": ["i1"]}] * 50}, "expensive"),
        ("/v1/recommend", {"history": ["i1"], "k": 150}, "expensive"),
        ("/v1/recommend", {"history": ["i1"]}, "plain"),
    ],
)
def test_a_recommendation_is_canceled_when_its_client_disconnects(
    server: Server, logs: io.StringIO, route: str, body: Any, lane: str
) -> None:
    content = json.dumps(body).encode()
    lines = [f"POST {route} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    assert server.n_cancelled(lane) == 0
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall("\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content)
        wait_until(lambda: server.n_started == 1)
        assert access_lines(logs, route) == []
    wait_until(lambda: access_lines(logs, route) == [499])
    assert server.n_cancelled(lane) == 1
    if lane == "expensive":  # a plain call is part of a batch that others wait for
        wait_until(lambda: server.n_abandoned == 1)
    assert not server.go_on.is_set()

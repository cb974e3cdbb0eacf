"""Responses that clients do not read are limited by their bytes, in total and per client."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")

from segue.serving import schemas  # noqa: E402
from segue.serving.app import create_app  # noqa: E402
from segue.serving.middleware.http_protocol import make_protocol  # noqa: E402
from segue.serving.middleware.request_context import UNCOUNTED_BYTES  # noqa: E402
from segue.serving.middleware.security import SecurityMiddleware  # noqa: E402
from segue.serving.settings import ServingSettings  # noqa: E402
from tests.serving.world import service  # noqa: E402

LIMIT = 200_000


class Application:
    """Application with the security middleware whose responses have the size in the query, in one or several parts."""

    def __init__(self) -> None:
        settings = ServingSettings(max_unread_response_bytes=LIMIT)
        self.middleware = SecurityMiddleware(self.respond, settings=settings, keys=None)
        self.statuses: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    async def respond(self, scope: Any, receive: Any, send: Any) -> None:
        n_parts, size = (int(number) for number in scope["query_string"].split(b"x"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for index in range(n_parts):
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": index < n_parts - 1})

    async def request(
        self, name: str, size: int, client: str = "10.0.0.1", drain: Any = None, n_parts: int = 1, **options: Any
    ) -> None:
        """Send a request; the client reads the response until ``drain`` returns."""

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert name not in self.statuses
                self.statuses[name] = message["status"]
            else:
                self.sizes[name] = self.sizes.get(name, 0) + len(message["body"])

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http", "method": "GET", "path": "/v1/items", "raw_path": b"/v1/items", "headers": [],
            "query_string": b"%dx%d" % (n_parts, size), "client": (client, 1), "root_path": "",
            "state": {} if drain is None else {"drain": drain}, **options,
        }  # fmt: skip
        await self.middleware(scope, receive, send)

    @property
    def n_buffered(self) -> int:
        return self.middleware._unread_responses.in_use


def test_unread_responses_are_limited_per_client_and_in_total() -> None:
    async def scenario() -> None:
        app, is_read = Application(), asyncio.Event()
        waiting = []
        for name, client in (("a1", "10.0.0.1"), ("a2", "10.0.0.1"), ("b1", "10.0.0.2"), ("b2", "10.0.0.2")):
            waiting.append(asyncio.create_task(app.request(name, 40_000, client, is_read.wait)))
        await asyncio.sleep(0.01)
        assert app.n_buffered == 160_000
        await app.request("a3", 40_000, "10.0.0.1")
        await app.request("small", UNCOUNTED_BYTES, "10.0.0.1")
        await app.request("c1", 40_000, "10.0.0.3")
        await app.request("c2", 41_000, "10.0.0.3")
        expected = {"a1": 200, "a2": 200, "b1": 200, "b2": 200, "a3": 429, "small": 200, "c1": 200, "c2": 503}
        assert app.statuses == expected
        assert app.sizes["a3"] < 1_000
        is_read.set()
        await asyncio.gather(*waiting)
        assert app.n_buffered == 0
        await app.request("a4", 40_000, "10.0.0.1")
        assert app.statuses["a4"] == 200

    asyncio.run(scenario())


def test_a_response_larger_than_the_share_is_possible_alone() -> None:
    async def scenario() -> None:
        app, is_read = Application(), asyncio.Event()
        task = asyncio.create_task(app.request("huge", 5 * LIMIT, drain=is_read.wait))
        await asyncio.sleep(0.01)
        assert app.n_buffered == LIMIT // 2
        await app.request("next", 20_000)
        assert (app.statuses, app.sizes["huge"]) == ({"huge": 200, "next": 429}, 5 * LIMIT)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert app.n_buffered == 0

    asyncio.run(scenario())


def test_a_replaced_response_of_several_parts_ends_with_the_error() -> None:
    async def scenario() -> None:
        app, is_read = Application(), asyncio.Event()
        task = asyncio.create_task(app.request("first", LIMIT, drain=is_read.wait))
        await asyncio.sleep(0.01)
        await app.request("parts", 20_000, n_parts=3)
        assert (app.statuses["parts"], app.sizes["parts"] < 1_000) == (429, True)
        is_read.set()
        await task
        await app.request("parts again", 20_000, n_parts=3)
        assert (app.statuses["parts again"], app.sizes["parts again"]) == (200, 60_000)

    asyncio.run(scenario())


def test_the_response_of_a_request_that_changed_something_is_sent() -> None:
    async def scenario() -> None:
        app, is_read = Application(), asyncio.Event()
        task = asyncio.create_task(app.request("first", LIMIT, drain=is_read.wait))
        await asyncio.sleep(0.01)
        await app.request("deleted", 20_000, method="DELETE", path="/v1/users/u1")
        await app.request("read", 20_000, method="POST", path="/v1/recommend")
        assert app.statuses == {"first": 200, "deleted": 200, "read": 429}
        is_read.set()
        await task
        assert app.n_buffered == 0

    asyncio.run(scenario())


class Server:
    """Service with small system buffers, so that unread responses stay in the process."""

    def __init__(self, write_timeout: float) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        self.socket.bind(("127.0.0.1", 0))
        app = create_app(service("ease", max_unread_response_bytes=2_000_000))
        self.protocols: list[Any] = []
        protocols = self.protocols

        class Protocol(make_protocol(write_timeout=write_timeout)):  # type: ignore[misc]
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                protocols.append(self)

        config = uvicorn.Config(
            app, http=Protocol, ws="none", log_config=None, access_log=False, timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)

    def send(self, path: str, body: Any) -> socket.socket:
        """Send a request on a new connection with a small receive buffer."""
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.settimeout(20)
        one.connect(self.socket.getsockname())
        content = json.dumps(body).encode()
        one.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (path.encode(), len(content), content)
        )
        return one

    def n_unread(self) -> list[int]:
        """Return the bytes that wait in the process, by connection."""
        return [one.transport.get_write_buffer_size() for one in self.protocols]


def wait_until(condition: Any) -> None:
    for _ in range(1_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("timed out")


def read_all(one: socket.socket) -> bytes:
    got = bytearray()
    with one:
        try:
            while part := one.recv(1 << 16):
                got += part
        except ConnectionError:
            pass
    return bytes(got)


@contextmanager
def running(write_timeout: float) -> Iterator[Server]:
    one = Server(write_timeout)
    yield one
    one.server.should_exit = True
    one.thread.join(20)
    one.socket.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(write_timeout=1.0) as one:
        yield one


def test_clients_that_do_not_read_hold_a_limited_amount() -> None:
    with running(write_timeout=60.0) as server:  # a slow machine must not end the first responses
        check_unread_responses(server)


def check_unread_responses(server: Server) -> None:
    batch = {"requests": [{"history": ["i1"], "k": 30, "model": "ease"}] * 120}
    clients = []
    for index in range(6):
        clients.append(server.send("/v1/recommend/batch", batch))
        wait_until(lambda index=index: len(server.protocols) > index and server.protocols[index].cycle is not None)
        wait_until(lambda index=index: server.protocols[index].cycle.response_complete)
    unread = sum(server.n_unread())
    responses = [read_all(client) for client in clients]
    statuses = [int(response[9:12]) for response in responses]
    size = max(map(len, responses))
    assert statuses[0] == 200
    assert statuses[-1] == 429
    assert 200_000 < size < 500_000
    assert unread <= 1_000_000
    assert read_all(server.send("/v1/recommend", {"k": 3})).startswith(b"HTTP/1.1 200")


def test_the_end_of_a_response_has_a_timeout_too(server: Server) -> None:
    """It is smaller than what a connection may have before the response waits for the client."""
    first = len(server.protocols)
    batch = {"requests": [{"k": 30, "model": "ease"}] * 8}
    client = server.send("/v1/recommend/batch", batch)
    wait_until(lambda: len(server.protocols) > first)
    protocol = server.protocols[first]
    wait_until(lambda: protocol.cycle is not None and protocol.cycle.response_complete)
    assert 0 < protocol.transport.get_write_buffer_size() <= UNCOUNTED_BYTES
    wait_until(lambda: protocol.parser is None)  # the connection is lost
    assert len(read_all(client)) < 20_000


def test_large_responses_arrive_complete(server: Server) -> None:
    batch = {"requests": [{"history": ["i1"], "k": 30, "model": "ease"}] * 100}
    response = read_all(server.send("/v1/recommend/batch", batch))
    body = schemas.BatchResponse.model_validate_json(response.partition(b"\r\n\r\n")[2])
    assert len(body.responses) == 100

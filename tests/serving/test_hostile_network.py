"""The whole service behind a real server, with keys: strange addresses, halves of requests, wrong keys, and crowds.

Every answer has to come within seconds, by the clients' own timeouts; after each test a good question is answered.
"""

import io
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest

from segue.serving import schemas
from segue.serving.app import create
from segue.serving.auth.api_keys import Keys, make
from segue.serving.monitoring.logs import start_logs
from tests.serving.world import service

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")
pytest.importorskip("httptools", reason="httptools is not installed: pip install 'segue[serve]'")

SECONDS = 20
SECRET = "alice.example"
"""Who must be named in no log, and in no fault."""


class Server:
    """The service on a free port of this machine, with a store on disk and a key for everything."""

    def __init__(self, folder: Path) -> None:
        from segue.serving.middleware.http_timeouts import patient

        self.folder, self.logs = folder, io.StringIO()
        self.key = make(folder / "keys.json", "all", ["read", "write", "admin"])
        self.reader = make(folder / "keys.json", "reader", ["read"])
        store = f"sqlite:///{folder / 'kept-here.sqlite'}"
        self.service = service("sasrec", "ease", store=store, body_bytes=200_000, body_seconds=0.5)
        start_logs("json", "INFO", self.logs)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            create(self.service, keys=Keys(folder / "keys.json")), http=patient(0.5, reading=1.0), ws="none",
            log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(SECONDS)
        self.socket.close()
        assert not self.thread.is_alive()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def send(self, *parts: bytes) -> bytes:
        """All that comes back on a connection of its own, until it is closed."""
        with self.connect() as one:
            try:
                for part in parts:
                    one.sendall(part)
            except OSError:  # closed meanwhile; what it said before is read all the same
                pass
            return rest(one)

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=SECONDS)

    def request(self, target: bytes, method: bytes = b"GET", *headers: bytes, body: bytes = b"") -> bytes:
        """The bytes of a good request to whatever address."""
        given = [b"Host: localhost", b"Authorization: Bearer " + self.key.encode(), *headers]
        if body:
            given += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *given, b"", body])


def until(what: Any) -> None:
    for _ in range(1000):
        if what():
            return
        sleep(0.01)
    raise AssertionError("it never came")


def rest(one: socket.socket) -> bytes:
    got = bytearray()
    try:
        while part := one.recv(1 << 20):
            got += part
    except ConnectionError:
        pass
    return bytes(got)


def read(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first[9:12]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    names = ("", "segue", "uvicorn", "uvicorn.error", "uvicorn.access")
    before = [(name, list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names]
    one = Server(tmp_path_factory.mktemp("hidden-folder"))
    yield one
    one.close()
    for name, handlers, level in before:
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = True


@pytest.fixture(autouse=True)
def answers_afterwards(server: Server) -> Iterator[None]:
    yield
    with server.client() as client:
        answer = client.post("/v1/recommend", json={"user": "u1", "k": 3})
        assert (answer.status_code, len(schemas.Answer.model_validate_json(answer.text).items)) == (200, 3)


LEAKS = re.compile(
    rb"Traceback|File \"|site-packages|segue/serving|\.py\b|sqlite|kept-here|hidden-folder|uvicorn|starlette|pydantic"
    rb"|from __future__|segue_[0-9a-f]{8}"
)


def proper(server: Server, answer: bytes, *allowed: int) -> int:
    """The status of an answer that is well formed and tells nothing that it should not."""
    status, headers, body = read(answer)
    assert status in allowed if allowed else status < 500, answer[:500]
    assert not LEAKS.search(answer), answer[:2000]
    if status >= 400 and body != b"Invalid HTTP request received.":  # which uvicorn says of what is no HTTP
        fault = schemas.Fault.model_validate_json(body)
        assert fault.request_id == headers["x-request-id"]
        assert SECRET not in fault.model_dump_json()
    assert answer.count(b"\r\nHTTP/1.1 ") == 0
    return status


TARGETS = [
    b"/v1/items/%2e%2e%2f", b"/v1/items/..%2f..%2f..%2fetc%2fpasswd", b"/v1/items/../../../etc/passwd",
    b"/v1/items/%252e%252e%252f", b"/v1/items/%00", b"/v1/items/a%00b", b"/v1/items/%0d%0aSet-Cookie:%20a=b",
    b"/v1/items/%", b"/v1/items/%zz", b"/v1/items/%ff", b"/v1/items/%ed%a0%80", b"/v1/items/%c0%ae%c0%ae",
    b"/v1/items/" + b"a" * 257, b"/v1/items/" + b"%F0%9F%98%80" * 257, b"/v1/items/" + b"a" * 9_000,
    b"/v1/items/" + b"../" * 2_000, b"/v1/items//", b"/v1/items/ /similar", b"/v1/items//similar", b"/v1/items/%7f",
    b"/v1/items/i1/similar/similar", b"/v1/items/i1%2fsimilar", b"/v1/items/i1?query=%00", b"/v1/users/..",
    b"/v1/users/%2e", b"/v1/users/", b"/v1/users/%20", b"/v1/users/%C2%85", b"//v1/models", b"/v1//models",
    b"/V1/models", b"/v1/models/", b"/v1/models;a=b", b"/v1/models/..;/", b"/v1/models/%2e%2e/activate",
    b"/v1/models/..%2f..%2fhidden-folder/activate", b"/v1/models//activate", b"/page/../app.py",
    b"/page/%2e%2e/app.py", b"/page/..%2fapp.py", b"/page/....//app.py", b"/page//etc/passwd",
    b"/page/%2fetc%2fpasswd", b"/page/index.html%00.js", b"/page/__init__.py", b"/page/", b"/page",
    b"/page/" + b"a" * 5_000, b"/static/../../../app.py", b"/static/%2e%2e/%2e%2e/__init__.py", b"/static/con",
    b"/static/.", b"/static/%5c..%5capp.py", b"/openapi.json/..", b"/metrics/..", b"/docs/%2e%2e", b"/?", b"/#",
    b"*", b"http://evil.example/v1/models", b"http://evil.example:99999/v1/models", b"/v1/items?limit=1&limit=2",
    b"/v1/items?limit=", b"/v1/items?limit=1e3", b"/v1/items?limit=%2B5", b"/v1/items?limit=5%00",
    b"/v1/items?limit=0x10", b"/v1/items?limit=" + b"9" * 5_000, b"/v1/items?limit=%EF%BC%93",
    b"/v1/items?limit=1_0", b"/v1/items?limit=-0", b"/v1/items?limit=NaN", b"/v1/items?query=" + b"a" * 257,
    b"/v1/items?query=%ff%fe", b"/v1/items?query=%22%20OR%201=1--", b"/v1/items?query=*",
    b"/v1/items?query=NEAR(a%20b)", b"/v1/items?query=title:*", b"/v1/items?query=%5Ea%20AND%20NOT",
    b"/v1/items?" + b"&" * 8_000, b"/v1/items?" + b"a=b&" * 2_000, b"/v1/items?query[]=a",
    b"/v1/items?query=a;limit=3", b"/v1/items?=&==", b"/v1/items?%00=%00", b"/v1/users?query=%25",
    b"/v1/users?query=_", b"/v1/users?query=%F0%9F%98%80", b"/v1/users?limit=1001",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:40].decode())
def test_addresses_lead_nowhere_else(server: Server, target: bytes) -> None:
    for method in (b"GET", b"POST", b"DELETE", b"OPTIONS"):
        answer = server.send(server.request(target, method, b"Connection: close"))
        status = proper(server, answer)
        assert status in (200, 307, 400, 404, 405, 409, 414, 415, 422), answer[:300]
        assert b"set-cookie" not in answer.lower()
        assert b"root:" not in answer


def test_ids_are_what_they_are_in_every_form(server: Server) -> None:
    names = [
        "é", "e\u0301", "\u212b", "\u00c5", "ß", "SS", "a/b", "a%2Fb", "a%252Fb", "a+b", "a b", " ", ".", "..",
        "a?b", "a#b", "\u202e", "\ufeff", "\u0085", "\U0001f600" * 256, "null", "0", "'; drop table events; --",
    ]  # fmt: skip
    with server.client() as client:
        for place, name in enumerate(names):
            event = {"user": name, "item": name, "time": place}
            assert client.post("/v1/events", json=event).json()["accepted"] == 1
        for place, name in enumerate(names):
            told = "".join(f"%{byte:02X}" for byte in name.encode())
            answer = server.send(server.request(b"/v1/users/" + told.encode(), b"GET", b"Connection: close"))
            assert proper(server, answer, 200)
            person = schemas.Person.model_validate_json(read(answer)[2])
            assert (person.id, [(event.item, event.time) for event in person.events]) == (name, [(name, place)])
            answer = server.send(server.request(b"/v1/users/" + told.encode(), b"DELETE", b"Connection: close"))
            assert schemas.Forgotten.model_validate_json(read(answer)[2]).events == 1


WRONG: list[bytes] = [
    b"", b"Authorization: Bearer", b"Authorization: Bearer ", b"Authorization: Basic YWxpY2U6YWxpY2U=",
    b"Authorization: KEY", b"Authorization: Bearer KEY KEY", b"Authorization: Bearer KEYx",
    b"Authorization: Bearer x" + b"y" * 10_000, b"Authorization: Bearer \xff\xfe",
    b"Authorization: Bearer segue_00000000_" + b"A" * 43, b"X-API-Key:", b"Authorization: Bearer ${KEY}",
    b"Authorization: Bearer ../keys.json", b"Cookie: key=KEY", b"X-Forwarded-For: 127.0.0.1",
    b"Authorization: Bearer KEY\r\nAuthorization: Bearer KEY", b"X-API-Key: KEY\r\nX-API-Key: wrong",
]  # fmt: skip


@pytest.mark.parametrize("header", WRONG, ids=range(len(WRONG)))
def test_wrong_keys_open_nothing(server: Server, header: bytes) -> None:
    header = header.replace(b"KEY", server.key.encode())
    for line in (
        b"GET /v1/models",
        b"POST /v1/models/ease/activate",
        b"DELETE /v1/users/u1",
        b"GET /v1/users/u1?key=KEY",
    ):
        line = line.replace(b"KEY", server.key.encode())
        sent = b"\r\n".join(
            [line + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *([header] if header else [])]
        )
        answer = server.send(sent + b"\r\n\r\n")
        proper(server, answer, 400, 401)
        assert server.key.encode() not in answer
    assert server.service.shelf.active.version.name == "sasrec"


def test_a_key_that_may_read_does_no_more(server: Server) -> None:
    with server.client(server.reader) as reader:
        for asked in (
            "POST /v1/models/ease/activate", "POST /v1/models/rollback", "POST /v1/events",
            "DELETE /v1/users/u1", "PUT /v1/users/u1", "PATCH /v1/items/i1",
        ):  # fmt: skip
            method, path = asked.split()
            answer = reader.request(method, path, json={"user": SECRET, "item": "i1"} if method == "POST" else None)
            assert (answer.status_code, schemas.Fault.model_validate_json(answer.text).error) == (403, "forbidden"), (
                path
            )


def test_what_was_sent_puts_nothing_into_headers(server: Server) -> None:
    for value in (
        b"a\rSet-Cookie: b=c",
        b"a\x00b",
        b"a\x0bb",
        b"\xc4\xa4",
        b"a" * 65,
        b"<script>",
        b"${jndi:ldap://x}",
        b"",
    ):
        answer = server.send(server.request(b"/v1/live", b"GET", b"X-Request-ID: " + value, b"Connection: close"))
        proper(server, answer, 200, 400)
        assert b"set-cookie" not in answer.lower()
        assert not value or value not in answer
    answer = server.send(server.request(b"/v1/nowhere", b"GET", b"X-Request-ID: mine-1", b"Connection: close"))
    assert schemas.Fault.model_validate_json(read(answer)[2]).request_id == "mine-1"


QUESTION = json.dumps({"user": SECRET, "history": ["i1"], "k": 2}).encode()


def test_requests_behind_each_other_are_answered_in_their_order(server: Server) -> None:
    asked = [server.request(b"/v1/recommend", b"POST", body=json.dumps({"k": k}).encode()) for k in range(0, 4)]
    last = server.request(b"/v1/live", b"GET", b"Connection: close")
    parts = server.send(b"".join([*asked, last])).split(b"HTTP/1.1 ")[1:]
    assert [part[:3] for part in parts] == [b"422", b"200", b"200", b"200", b"200"]
    answers = [schemas.Answer.model_validate_json(part.partition(b"\r\n\r\n")[2]) for part in parts[1:4]]
    assert [len(answer.items) for answer in answers] == [1, 2, 3]
    schemas.Live.model_validate_json(parts[4].partition(b"\r\n\r\n")[2])


def test_pieces_make_a_whole_and_halves_do_not(server: Server) -> None:
    head = server.request(b"/v1/recommend", b"POST", b"Connection: close", b"Content-Type: application/json")
    chunked = head.replace(b"Connection: close", b"Connection: close\r\nTransfer-Encoding: chunked")
    pieces = [b"1\r\n" + QUESTION[place : place + 1] + b"\r\n" for place in range(len(QUESTION))]
    assert proper(server, server.send(chunked, *pieces, b"0\r\n\r\n"), 200) == 200
    assert proper(server, server.send(chunked, *pieces[:5]), 408) == 408
    half = head.replace(b"Connection: close", b"Connection: close\r\nContent-Length: %d" % len(QUESTION))
    assert proper(server, server.send(half, QUESTION[:10]), 408) == 408
    for count in (1, 10, len(half), len(half) + 5):  # and hang up
        with server.connect() as one:
            one.sendall((half + QUESTION)[:count])
    with server.connect() as one:
        one.sendall(half + QUESTION)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (b"text/plain", 415), (b"application/xml", 415), (b"multipart/form-data", 415),
        (b"application/json; charset=utf-16", 200), (b"application/json;;;", 200), (b"APPLICATION/JSON", 200),
        (b"application/x-www-form-urlencoded", 415), (b"", 415), (b"application/json, text/plain", 415),
        (b"application/problem+json", 415), (b"\xff", 415), (b"a" * 10_000, 415),
    ],
)  # fmt: skip
def test_bodies_of_other_kinds(server: Server, kind: bytes, status: int) -> None:
    sent = server.request(b"/v1/recommend", b"POST", b"Connection: close", body=QUESTION)
    assert proper(server, server.send(sent.replace(b"application/json", kind)), status) == status


def nonsense(server: Server, worker: int, count: int) -> set[int]:
    """Statuses of requests that each are wrong in another way, some of which hang up halfway."""
    found = set()
    deep = b"[" * 50_000
    for number in range(count):
        which = (number + worker) % 10
        path = (b"/v1/recommend", b"/v1/events/batch", b"/v1/explain")[number % 3]
        bodies = [
            deep,
            b"{" * 50_000,
            b'{"k":NaN}',
            b'{"user":' + b'"x' * 50_000,
            b"[1e999]",
            b"\xff" * 100_000,
            b"{}" * 50_000,
        ]
        if which < 7:
            found.add(
                proper(server, server.send(server.request(path, b"POST", b"Connection: close", body=bodies[which])))
            )
        elif which == 7:
            found.add(
                proper(
                    server, server.send(server.request(TARGETS[number % len(TARGETS)], b"GET", b"Connection: close"))
                )
            )
        elif which == 8:
            with server.connect() as one:
                one.sendall(server.request(path, b"POST", body=QUESTION)[: number * 7 % 200])
        else:
            found.add(
                proper(server, server.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), 401)
            )
    return found


def test_good_questions_are_answered_among_all_that(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool, server.client() as client:
        crowd = [pool.submit(nonsense, server, worker, 60) for worker in range(4)]
        asked = 0
        while asked < 30 or not all(one.done() for one in crowd):
            user = f"u{asked % 40}"
            answer = client.post("/v1/recommend", json={"user": user, "model": "ease", "k": 5, "deadline_ms": 60_000})
            assert answer.status_code == 200
            told = schemas.Answer.model_validate_json(answer.text)
            assert (len(told.items), told.step, told.unknown.user) == (5, "model", False)
            asked += 1
        statuses = set().union(*(one.result() for one in crowd))
    assert statuses <= {200, 400, 401, 404, 405, 413, 414, 422}
    assert server.server.server_state.connections is not None
    until(lambda: not server.server.server_state.connections)


def test_the_log_names_nobody_and_nothing_failed(server: Server) -> None:
    assert server.send(server.request(b"/v1/users/" + SECRET.encode(), b"GET", b"Connection: close"))
    assert server.send(server.request(b"/v1/items?query=" + SECRET.encode(), b"GET", b"Connection: close"))
    told = server.logs.getvalue()
    assert "/v1/users/{id}" in told
    assert SECRET not in told
    assert server.key not in told
    assert server.key.rpartition("_")[2] not in told
    lines = [json.loads(line) for line in told.splitlines()]
    assert not [line for line in lines if "traceback" in line or line.get("status", 0) >= 500]

"""A service with keys under attack by clients without one: memory, slots, connections and open files stay bounded.

Each attack runs against a process of its own kind on loopback, with few connections; another client is answered
meanwhile.
"""

import os
import re
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from segue.serving.auth.api_keys import create_key
from tests.serving.world import artifact_folder

MEGABYTE = 2**20
SETTINGS = {"max_concurrent": 40, "max_buffered_bytes": 8_000_000, "drain_seconds": 1, "body_timeout_seconds": 6}


class Target:
    """Process of the service, with two keys."""

    def __init__(self, folder: Path, settings: dict[str, Any], max_files: int = 0) -> None:
        self.tokens = [create_key(folder / "keys.json", name, ["read"]) for name in ("first", "second")]
        command = [sys.executable, "-m", "segue", "serve", "--port", "0", "--store", f"sqlite:///{folder}/store.sqlite",
                   "--keys", str(folder / "keys.json"), str(artifact_folder("ease"))]  # fmt: skip
        for name, value in settings.items():
            command += ["--set", f"serving.{name}={value}"]

        def limit_files() -> None:
            if max_files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))

        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=limit_files,
        )  # fmt: skip
        self.log: list[str] = []
        self.port = 0
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()), daemon=True)

    def wait_until_ready(self) -> None:
        for line in self.process.stderr or ():
            self.log.append(line)
            if found := re.match(r"http://[^:]+:(\d+)/ ", line):
                self.port = int(found[1])
                break
        assert self.port, "".join(self.log)
        self.reader.start()
        with self.client() as client:
            wait_until(lambda: client.get("/readyz").status_code == 200)

    def client(self, token: str | None = None, timeout: float = 20) -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=timeout)

    def connect(self, address: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(address, 0))

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> str:
        """Stop the process and return its log."""
        self.process.terminate()
        self.process.wait(30)
        if self.reader.is_alive():
            self.reader.join(10)
        return "".join(self.log)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        with suppress(httpx.HTTPError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("timed out")


@contextmanager
def start(folder: Path, max_files: int = 0, **settings: Any) -> Iterator[Target]:
    target = Target(folder, {**SETTINGS, **settings}, max_files)
    try:
        target.wait_until_ready()
        yield target
    finally:
        if target.process.poll() is None:
            target.stop()
        assert target.process.stderr is not None
        target.process.stderr.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with start(tmp_path_factory.mktemp("target")) as one:
        with one.client(one.tokens[0]) as client:
            for _ in range(20):  # memory of a service that has warmed up
                client.post("/v1/recommend", json={"history": ["i1"]})
        yield one


def head(method: str, path: str, *headers: str, token: str | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


def read_status(one: socket.socket) -> int:
    """Return the status of the response on a connection; 0 if it was closed without one."""
    with suppress(ConnectionError):
        return int((one.recv(65_536) or b"HTTP/1.1 000")[9:12])
    return 0


def read_refusals(attackers: list[socket.socket]) -> bytes:
    """Return what the service has sent on connections that only wait."""
    received = b""
    for one in readable(attackers, 0):
        with suppress(OSError):
            received += one.recv(65_536)
    return received


def readable(sockets: list[socket.socket], seconds: float) -> list[socket.socket]:
    """Return the sockets on which something has arrived, waiting for the first; descriptors may exceed 1,024."""
    by_descriptor = {one.fileno(): one for one in sockets}
    with selectors.DefaultSelector() as selector:
        for number in by_descriptor:
            selector.register(number, selectors.EVENT_READ)
        return [by_descriptor[key.fd] for key, _ in selector.select(seconds)]


def check_others_are_answered(target: Target, count: int = 5) -> None:
    with target.client(target.tokens[1]) as client:
        for _ in range(count):
            response = client.post("/v1/recommend", json={"history": ["i1"], "k": 3, "deadline_ms": 60_000})
            assert (response.status_code, len(response.json()["items"])) == (200, 3)
        assert client.get("/healthz").status_code == 200


def test_endless_trailers_use_no_memory(target: Target) -> None:
    before = target.memory()
    trailers = b"".join(b"a%d: b\r\n" % number for number in range(20_000))
    statuses = []
    for path in ("/healthz", "/docs", "/v1/recommend"):
        with target.connect() as one:
            with suppress(ConnectionError):
                one.sendall(head("POST" if "v1" in path else "GET", path, "Transfer-Encoding: chunked") + b"0\r\n")
                for _ in range(60):
                    one.sendall(trailers)
            statuses.append(read_status(one))
    assert set(statuses) <= {0, 400, 401}, statuses
    check_others_are_answered(target)
    assert target.memory() - before < 30 * MEGABYTE, "13 MB were sent on each connection"


def test_bodies_that_never_arrive_do_not_block_others(target: Target) -> None:
    with ExitStack() as stack:
        attackers = [stack.enter_context(target.connect()) for _ in range(200)]
        for number, one in enumerate(attackers):
            one.sendall(head("GET", ("/", "/healthz", "/docs")[number % 3], "Content-Length: 10"))
        check_others_are_answered(target)
        with target.client() as client:
            assert client.get("/").status_code == 200
        assert {read_status(one) for one in attackers} == {400}, "refused, not waited for"


@pytest.mark.parametrize(("method", "path"), [("GET", "/healthz"), ("POST", "/v1/recommend")])
def test_unfinished_bodies_without_a_key_are_refused_at_once(target: Target, method: str, path: str) -> None:
    before = target.memory()
    with ExitStack() as stack:
        attackers = [stack.enter_context(target.connect()) for _ in range(40)]
        for one in attackers:
            with suppress(ConnectionError):
                one.sendall(head(method, path, "Content-Length: 1900000") + b" " * 200_000)
        assert {read_status(one) for one in attackers} <= {0, 400, 401}, "not 408"
        for one in attackers:
            with suppress(ConnectionError):
                one.sendall(b" " * 1_000_000)
        check_others_are_answered(target)
        assert target.memory() - before < 40 * MEGABYTE


def test_unfinished_bodies_with_a_key_leave_room_for_others(target: Target) -> None:
    """A client that sends half of the buffer's size gets errors; others are answered."""
    before = target.memory()
    with ExitStack() as stack:
        attackers = [stack.enter_context(target.connect()) for _ in range(50)]
        for one in attackers:
            one.settimeout(1)
            with suppress(OSError):
                one.sendall(head("POST", "/v1/recommend", "Content-Length: 1900000", token=target.tokens[0]))
                one.sendall(b" " * 1_000_000)
        check_others_are_answered(target)
        assert target.memory() - before < 60 * MEGABYTE, "50 MB were sent, 4 MB may be kept"
        assert 503 in {read_status(one) for one in readable(attackers, 5)}


def test_more_connections_than_files_lock_out_no_client(tmp_path: Path) -> None:
    """256 open files, 400 idle connections: the established client and probes are answered, and the log says why."""
    with start(tmp_path, max_files=256) as target, ExitStack() as stack:
        client = stack.enter_context(target.client(target.tokens[1]))
        assert client.get("/v1/models").status_code == 200
        attackers = [stack.enter_context(socket.socket()) for _ in range(400)]
        for one in attackers:
            one.bind(("127.0.0.2", 0))
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", target.port))
        for _ in range(5):
            response = client.post("/v1/recommend", json={"history": ["i1"], "k": 3, "deadline_ms": 60_000})
            assert response.status_code == 200
        for _ in range(10):
            with target.client() as probe:
                assert probe.get("/healthz").status_code == 200
        wait_until(lambda: b"HTTP/1.1 503" in read_refusals(attackers))
        pattern = re.compile(r"^segue_excess_connections_total (\S+)", re.MULTILINE)
        wait_until(lambda: float(pattern.findall(client.get("/metrics").text)[0]) > 10)
        wait_until(lambda: any("above the limit" in line for line in target.log))
        log = target.stop()
    assert len(re.findall(r"connections are limited to \d+ instead of 10000.*256 files", log)) == 1
    assert log.count("above the limit") <= 2, "not one line per connection"
    assert "Traceback" not in log
    assert "OSError" not in log


def test_running_requests_at_the_drain_limit_are_answered_without_a_traceback(tmp_path: Path) -> None:
    with start(tmp_path) as target, target.connect() as one:
        one.sendall(head("POST", "/v1/recommend", "Content-Length: 100", token=target.tokens[0]) + b"{")
        time.sleep(0.3)
        log = target.stop()
        assert read_status(one) == 503
    assert target.process.returncode in (0, -15)
    assert "Traceback" not in log
    assert "CancelledError" not in log
    assert log.count("Cancel 1 running task(s)") == 1


@pytest.mark.parametrize("target_path", ["/healthz", "/v1/recommend", "/"])
def test_disconnecting_clients_leave_nothing_behind(target: Target, target_path: str) -> None:
    body = b'{"history": ["i1"]}'
    for number in range(60):
        with target.connect() as one:
            if target_path == "/v1/recommend":
                opening = head("POST", target_path, f"Content-Length: {len(body)}", token=target.tokens[0])
                one.sendall((opening + body)[: None if number % 2 else -5])
            else:
                one.sendall(head("GET", target_path))
    check_others_are_answered(target)
    with target.client(target.tokens[1]) as client:
        wait_until(lambda: client.get("/v1/stats").json()["in_flight"] <= 1)

"""The service as a process: begun by the command, drained by SIGTERM, killed without losing what it acknowledged."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from segue.serving import server
from segue.serving.monitoring import logs
from segue.serving.server import Start, run
from segue.serving.settings import Serving
from segue.serving.stores.open import open_store
from segue.serving.stores.store import StoreError
from tests.serving.world import published

SERVE = [sys.executable, "-m", "segue", "serve", "--port", "0"]


@contextmanager
def served(store: Path, *more: str, model: str = "ease") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and where it listens."""
    command = [*SERVE, "--store", f"sqlite:///{store}", *more, str(published(model))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    told: list[str] = []
    try:
        for line in process.stderr:
            told.append(line)
            if found := re.match(r"(http://\S+)/ ", line):
                break
        else:
            raise AssertionError("".join(told))
        reader = threading.Thread(target=lambda: told.extend(process.stderr or []), daemon=True)
        reader.start()
        with httpx.Client(base_url=found[1]) as client:
            _wait(client)
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.terminate()  # not killed: workers would be left behind
        process.wait(30)
        reader.join(30)
        process.stderr.close()


def _wait(client: httpx.Client) -> None:
    event = threading.Event()
    for _ in range(600):
        with suppress(httpx.HTTPError):
            if client.get("/readyz").status_code == 200:
                return
        event.wait(0.1)
    raise AssertionError("never ready")


def happened(address: str, worker: int, count: int) -> list[str]:
    """Events that were acknowledged, until the service is gone."""
    done = []
    with httpx.Client(base_url=address) as client, suppress(httpx.HTTPError):
        for number in range(count):
            item = f"i{number % 40}"
            event = {"user": f"user{worker}", "item": item, "time": number}
            if client.post("/v1/events", json=event).status_code == 200:
                done.append(f"{item}@{number}")
    return done


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with served(tmp_path / "store.sqlite") as (process, address), ThreadPoolExecutor(4) as pool:
        parts = [pool.submit(happened, address, worker, 100_000) for worker in range(4)]
        threading.Event().wait(0.7)
        process.kill()
        acknowledged = [part.result() for part in parts]
    assert sum(map(len, acknowledged)) > 20
    with closing(open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")) as kept:
        for worker, expected in enumerate(acknowledged):
            (found,) = kept.kept([f"user{worker}"], 100_000)
            events = [f"{event.item}@{event.time}" for event in found.events]
            assert events[: len(expected)] == expected
            assert len(events) <= len(expected) + 1  # one may have been kept and not yet acknowledged


def test_sigterm_lets_requests_end_and_refuses_new_ones(tmp_path: Path) -> None:
    with served(tmp_path / "store.sqlite") as (process, address), ThreadPoolExecutor(4) as pool:
        parts = [pool.submit(happened, address, worker, 100_000) for worker in range(4)]
        threading.Event().wait(0.5)
        process.send_signal(signal.SIGTERM)
        acknowledged = [part.result() for part in parts]
        assert process.wait(30) in (0, -signal.SIGTERM)
    with closing(open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")) as kept:
        for worker, expected in enumerate(acknowledged):
            (found,) = kept.kept([f"user{worker}"], 100_000)
            assert [f"{event.item}@{event.time}" for event in found.events] == expected


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with served(tmp_path / "store.sqlite", "--workers", "2") as (process, address), httpx.Client() as client:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("this system does not tell the children of a process")

        def workers() -> set[int]:
            found = [int(child) for child in children.read_text().split()]
            return {pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}

        before = workers()
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        for _ in range(300):
            with suppress(httpx.HTTPError):
                client.post(f"{address}/v1/recommend", json={"user": "u1"})
            with suppress(OSError):
                if len(now := workers()) == 2 and min(before) not in now:
                    break
            threading.Event().wait(0.1)
        else:
            raise AssertionError("the worker was not replaced")
        event = {"user": "u1", "item": "i3"}
        for _ in range(20):
            with suppress(httpx.HTTPError):
                assert client.post(f"{address}/v1/events", json=event, timeout=30).status_code == 200
        assert "segue_request_seconds" in client.get(f"{address}/metrics").text


def test_what_will_not_do_is_told_in_a_line(tmp_path: Path) -> None:
    def fails(*more: str) -> str:
        done = subprocess.run([*SERVE, *more], capture_output=True, text=True, timeout=60)
        assert done.returncode not in (0, 1)
        assert "Traceback" not in done.stderr
        return done.stderr

    model = str(published("ease"))
    assert "segue keys add" in fails(model, "--host", "0.0.0.0")
    assert "store" in fails(model, "--store", "mongodb://x")
    assert "did you mean 'most_k'" in fails(model, "--set", "serving.most_q=3")
    (tmp_path / "experiments.json").write_text("{")
    for workers in ("1", "2"):
        assert "experiments.json" in fails(
            model, "--experiments", str(tmp_path / "experiments.json"), "--workers", workers
        )
    pytest.importorskip("psycopg")
    for workers in ("1", "2"):
        assert "refused" in fails(model, "--store", "postgresql://u:p@127.0.0.1:1/x", "--workers", workers)


def test_a_worker_waits_for_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Start(folders=(published("ease"),), store="memory:")
    monkeypatch.setenv(server.START, start.model_dump_json())
    monkeypatch.setattr(server, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(server, "_settle", lambda: None)
    monkeypatch.setattr(logs, "start_logs", lambda form: None)
    tried = []

    def away(address: str) -> Any:
        tried.append(address)
        if len(tried) < 3:
            raise StoreError("refused")
        return open_store(address)

    monkeypatch.setattr(server, "open_store", away)
    before = signal.getsignal(signal.SIGTERM)
    with TestClient(server.worker(), base_url="http://localhost") as client:
        assert client.get("/readyz").status_code == 200
    assert len(tried) == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        start = Start(folders=(published("ease"),), store="memory:")
        with pytest.raises(ValueError, match=r"cannot listen at 127\.0\.0\.1"):
            run(start, port=taken.getsockname()[1], say=lambda text: None)


def test_seconds_to_end_in_are_as_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Server:
        def __init__(self, config: Any) -> None:
            told.append(config.timeout_graceful_shutdown)

        def run(self, sockets: Any) -> None:
            pass

    monkeypatch.setattr("uvicorn.Server", Server)
    monkeypatch.setattr("segue.serving.server.application", lambda start: None)
    monkeypatch.setattr("segue.serving.monitoring.logs.start_logs", lambda form: None)
    for seconds in (0.0, 0.5, 20.0):
        start = Start(folders=(published("ease"),), store="memory:", serving=Serving(drain_seconds=seconds))
        run(start, port=0, say=lambda text: None)
    assert told == [0, 1, 20]

"""Service process: startup, graceful shutdown, kills and worker replacement."""

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
from segue.serving.server import ServerConfig, run
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.serving.stores.store import StoreError
from tests.nightly import only_nightly
from tests.serving.world import artifact_folder
from tests.unit.command_line import call

SERVE = [sys.executable, "-m", "segue", "serve", "--port", "0"]


@contextmanager
def run_server(store: Path, *more: str, model: str = "ease") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server and yield its process and address."""
    command = [*SERVE, "--store", f"sqlite:///{store}", *more, str(artifact_folder(model))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    output: list[str] = []
    try:
        for line in process.stderr:
            output.append(line)
            if found := re.match(r"(http://\S+)/ ", line):
                break
        else:
            raise AssertionError("".join(output))
        reader = threading.Thread(target=lambda: output.extend(process.stderr or []), daemon=True)
        reader.start()
        with httpx.Client(base_url=found[1]) as client:
            _wait_until_ready(client)
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.terminate()  # not killed, as workers would survive
        process.wait(30)
        reader.join(30)
        process.stderr.close()


def _wait_until_ready(client: httpx.Client) -> None:
    event = threading.Event()
    for _ in range(600):
        with suppress(httpx.HTTPError):
            if client.get("/readyz").status_code == 200:
                return
        event.wait(0.1)
    raise AssertionError("never ready")


def send_events(address: str, worker: int, count: int) -> list[str]:
    """Send events until the service stops and return the acknowledged ones."""
    acknowledged = []
    with httpx.Client(base_url=address) as client, suppress(httpx.HTTPError):
        for number in range(count):
            item = f"i{number % 40}"
            event = {"user": f"user{worker}", "item": item, "time": number}
            if client.post("/v1/events", json=event).status_code == 200:
                acknowledged.append(f"{item}@{number}")
    return acknowledged


def test_acknowledged_events_survive_a_kill(tmp_path: Path) -> None:
    with run_server(tmp_path / "store.sqlite") as (process, address), ThreadPoolExecutor(4) as pool:
        parts = [pool.submit(send_events, address, worker, 100_000) for worker in range(4)]
        threading.Event().wait(0.7)
        process.kill()
        acknowledged = [part.result() for part in parts]
    assert sum(map(len, acknowledged)) > 20
    with closing(open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")) as store:
        for worker, expected in enumerate(acknowledged):
            (found,) = store.recent_events([f"user{worker}"], 100_000)
            events = [f"{event.item}@{event.time}" for event in found.events]
            assert events[: len(expected)] == expected
            assert len(events) <= len(expected) + 1  # one may be stored but not yet acknowledged


def test_sigterm_drains_requests(tmp_path: Path) -> None:
    with run_server(tmp_path / "store.sqlite") as (process, address), ThreadPoolExecutor(4) as pool:
        parts = [pool.submit(send_events, address, worker, 100_000) for worker in range(4)]
        threading.Event().wait(0.5)
        process.send_signal(signal.SIGTERM)
        acknowledged = [part.result() for part in parts]
        assert process.wait(30) in (0, -signal.SIGTERM)
    with closing(open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")) as store:
        for worker, expected in enumerate(acknowledged):
            (found,) = store.recent_events([f"user{worker}"], 100_000)
            assert [f"{event.item}@{event.time}" for event in found.events] == expected


def test_two_spawned_workers_answer_and_are_replaced(tmp_path: Path) -> None:
    with run_server(tmp_path / "store.sqlite", "--workers", "2") as (process, address), httpx.Client() as client:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("the children of a process cannot be listed on this system")

        def workers() -> set[int]:
            found = [int(child) for child in children.read_text().split()]
            return {pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}

        before = workers()
        assert len(before) == 2, "spawned, because Polars does not survive a fork"
        request = {"user": "u1", "deadline_ms": 60_000}
        expected = client.post(f"{address}/v1/recommend", json=request).json()
        for worker in before:  # the other one answers while this one is stopped
            os.kill(worker, signal.SIGSTOP)
            try:
                with httpx.Client() as other:
                    response = other.post(f"{address}/v1/recommend", json=request, timeout=4).json()
            finally:
                os.kill(worker, signal.SIGCONT)
            assert (response["items"], response["source"]) == (expected["items"], "model")
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
        assert "segue_request_duration_seconds" in client.get(f"{address}/metrics").text


def test_errors_in_options_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    model = artifact_folder("ease")
    for options, expected in (
        (["--host", "0.0.0.0"], "segue keys add"),
        (["--set", "serving.max_q=3"], "did you mean 'max_k'"),
    ):
        status, _, err = call(capsys, "serve", "--port", "0", model, *options)
        assert status == 2
        assert expected in err
        assert "Traceback" not in err


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=only_nightly)])
def test_startup_errors_are_one_line(workers: str, tmp_path: Path) -> None:
    def startup_error(*arguments: str) -> str:
        result = subprocess.run([*SERVE, *arguments], capture_output=True, text=True, timeout=60)
        assert result.returncode not in (0, 1)
        assert "Traceback" not in result.stderr
        return result.stderr

    model = str(artifact_folder("ease"))
    assert "store" in startup_error(model, "--store", "mongodb://x")
    (tmp_path / "experiments.json").write_text("{")
    experiments = str(tmp_path / "experiments.json")
    assert "experiments.json" in startup_error(model, "--experiments", experiments, "--workers", workers)
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    assert "refused" in startup_error(model, "--store", "postgresql://u:p@127.0.0.1:1/x", "--workers", workers)


def test_workers_wait_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig(folders=(artifact_folder("ease"),), store="memory:")
    monkeypatch.setenv(server.CONFIG_ENV, config.model_dump_json())
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(server, "_freeze_gc", lambda: None)
    monkeypatch.setattr(logs, "configure_logging", lambda log_format: None)
    attempts = []

    def unavailable_twice(address: str, lock_timeout: float) -> Any:
        attempts.append(address)
        if len(attempts) < 3:
            raise StoreError("refused")
        return open_store(address, lock_timeout)

    monkeypatch.setattr(server, "open_store", unavailable_twice)
    handler = signal.getsignal(signal.SIGTERM)
    with TestClient(server.create_worker(), base_url="http://localhost") as client:
        assert client.get("/readyz").status_code == 200
    assert len(attempts) == 3
    assert signal.getsignal(signal.SIGTERM) is handler


def test_port_in_use(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServerConfig(folders=(artifact_folder("ease"),), store="memory:")
        with pytest.raises(ValueError, match=r"cannot listen on 127\.0\.0\.1"):
            run(config, port=taken.getsockname()[1], log=lambda text: None)


def test_graceful_shutdown_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[Any] = []

    class Server:
        def __init__(self, config: Any) -> None:
            timeouts.append(config.timeout_graceful_shutdown)

        def run(self, sockets: Any) -> None:
            pass

    monkeypatch.setattr("uvicorn.Server", Server)
    monkeypatch.setattr("segue.serving.server.create_application", lambda config: None)
    monkeypatch.setattr("segue.serving.monitoring.logs.configure_logging", lambda log_format: None)
    for seconds in (0.0, 0.5, 20.0):
        config = ServerConfig(
            folders=(artifact_folder("ease"),), store="memory:", serving=ServingSettings(drain_seconds=seconds)
        )
        run(config, port=0, log=lambda text: None)
    assert timeouts == [0, 1, 20]

"""The attack scripts against a service process: other clients are answered, and nothing grows, leaks or fails."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from segue.serving.auth.api_keys import create_key
from tests.serving.servers import free_port
from tests.serving.world import artifact_folder

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")

SCRIPTS = Path(__file__).parent / "attacks"
SECONDS = "0.5"
MAX_MEMORY, MAX_STORE = 80_000_000, 1_000_000
"""Bytes by which the service and its store may grow during an attack."""
FILE_LIMIT = 400
"""Open files of the service, more than its share for one address."""
SETTINGS = {"max_concurrent": 60, "max_buffered_bytes": 20_000_000}

ATTACKS: dict[str, tuple[str | None, float]] = {
    "trailers": (None, 1.0),
    "missing_bodies": (None, 0.15),
    "unfinished_bodies": ("read", 0.1),
    "slow_headers": (None, 0.2),
    "idle_connections": (None, 0.4),
    "unknown_users": ("read", 0.5),
    "large_bodies": ("read", 0.5),
    "expensive_reranks": ("read", 0.5),
    "long_explanations": ("read", 0.5),
    "disconnecting_clients": ("read", 0.5),
    "model_names": ("read", 1.0),
    "malformed_bodies": ("read", 0.5),
    "deletions": ("write", 0.5),
    "replaced_store": ("write", 0.5),
}
"""By script: scope of the attacker's key, and strength."""


class AttackedService:
    """``segue serve`` with keys, SQLite, a streaming model, and a library with a damaged and an unloaded model."""

    def __init__(self, folder: Path) -> None:
        scopes = {"plain": ["read"], "read": ["read"], "write": ["read", "write"]}
        self.keys = {name: create_key(folder / "keys.json", name, scopes[name]) for name in scopes}
        for name in ("spare", "damaged"):
            shutil.copytree(artifact_folder("ease"), folder / "library" / name)
        arrays = folder / "library" / "damaged" / "bundle" / "arrays.safetensors"
        arrays.write_bytes(arrays.read_bytes()[:-1] + b"\xff")
        self.store, self.log, port = folder / "store.sqlite", folder / "log", free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "segue", "serve", *(str(artifact_folder(key)) for key in ("gru4rec", "ease"))]
        command += ["--port", str(port), "--store", f"sqlite:///{self.store}", "--keys", str(folder / "keys.json")]
        command += ["--models", str(folder / "library"), "--log-format", "json"]
        command += [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = psutil.Popen(command, stdout=log, stderr=log, env=env, preexec_fn=_limit_files)

    def wait_until_ready(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/readyz").status_code == 200:
                    return
            threading.Event().wait(0.1)
        raise AssertionError("never ready")

    def memory(self, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

    def reset_peak(self) -> None:
        """Make the peak of the memory start again at its present value."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def store_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.store.parent.glob("store.sqlite*"))

    def attack(self, name: str) -> dict[str, Any]:
        """Run a script and return its report."""
        scope, strength = ATTACKS[name]
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), self.address, "--strength", str(strength)]
        command += ["--seconds", "3" if name == "replaced_store" else SECONDS]
        command += [] if scope is None else ["--key", self.keys[scope]]
        command += ["--files", f"{self.store}*"] if name == "deletions" else []
        command += ["--store", str(self.store)] if name == "replaced_store" else []
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        report: dict[str, Any] = json.loads(result.stdout)
        return report


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILE_LIMIT // 2, FILE_LIMIT))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedService]:
    service = AttackedService(tmp_path_factory.mktemp("attacked"))
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.process.kill()
        service.process.wait(30)


class PlainClient(threading.Thread):
    """Requests recommendations and probes until stopped, each over a new connection."""

    def __init__(self, service: AttackedService) -> None:
        super().__init__()
        self._service, self.is_stopped = service, threading.Event()
        self.statuses: list[tuple[str, int | str]] = []

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._service.keys['plain']}"}
        while not self.is_stopped.is_set():
            for method, path, body in (("POST", "/v1/recommend", {"user": "u1", "k": 5}), ("GET", "/healthz", None)):
                status: int | str
                try:
                    url = f"{self._service.address}{path}"
                    status = httpx.request(method, url, json=body, headers=headers, timeout=10).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                self.statuses.append((path, status))
            self.is_stopped.wait(0.02)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(attacked: AttackedService, name: str) -> None:
    client = PlainClient(attacked)
    store_bytes, memory, logged = attacked.store_bytes(), attacked.memory("VmRSS"), attacked.log.stat().st_size
    attacked.reset_peak()
    client.start()
    try:
        report = attacked.attack(name)
    finally:
        client.is_stopped.set()
        client.join()
    assert report.get("connections", 0) + report.get("requests", 0) > 0, report
    assert not {status for status in report["statuses"] if status >= "500" and status != "503"}, report
    # recommendations for a user of the training data need no store
    assert {status for _, status in client.statuses} == {200}, (client.statuses, report)
    assert len(client.statuses) >= 4
    assert attacked.memory("VmHWM") - memory < MAX_MEMORY, report
    assert attacked.store_bytes() - store_bytes < MAX_STORE, report
    assert b"Traceback" not in attacked.log.read_bytes()[logged:]
    for found in ("leaks", "traces", "lost"):
        assert not report.get(found), report
    if name == "model_names":
        assert set(report["answered_by"]) <= {"gru4rec", "ease"}
    elif name == "deletions":
        assert report["deleted"] > 0
        assert report["files"] > 0
    elif name == "replaced_store":
        assert report["readyz"] == [503]
        assert report["statuses"].get("503", 0) > 0


def test_every_script_is_tested() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {*ATTACKS, "attacker"}


@pytest.mark.parametrize("address", ["http://10.0.0.1:8000", "http://127.0.0.1"])
def test_scripts_refuse_other_machines(address: str) -> None:
    command = [sys.executable, str(SCRIPTS / "slow_headers.py"), address]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert f"got '{address}', expected a" in result.stderr
    assert not result.stdout

"""Inject faults into a running service and its store, one after another, in an order drawn from a seed."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import psutil

from benchmarks.soaking.service import Service
from segue.serving import schemas

__all__ = ["FaultInjector"]

SYNC_SECONDS = 2.5
"""Time after an activation until all workers use the active model."""


class FaultInjector:
    """Injects faults and records them.

    Args:
        service: the service under test.
        store_server: its store: a server, or a file.
        seed: of the order of faults.
        pause: mean seconds between two faults.
    """

    def __init__(self, service: Service, store_server: Any, seed: int, pause: float) -> None:
        self._service, self._store_server, self._pause = service, store_server, pause
        self._random = random.Random(seed)
        self.faults: list[dict[str, Any]] = []
        """Injected faults: kind, begin, end, note."""
        self.attempts: list[dict[str, Any]] = []
        """Requests sent from here, in the format of the clients' attempts."""
        self.errors: list[str] = []
        """Wrong behavior of the service."""
        self._active, self._previous = "ease", ""

    def run(self, begin: float, until: float) -> None:
        """Inject faults until the given time.

        The service is restarted in the first quarter only, and always the youngest worker is killed: one worker lives
        through the rest, so that its memory can be monitored.
        """
        kinds = self._kinds(begin + (until - begin) / 4)
        time.sleep(self._pause)
        while time.time() < until:
            kind = next(kinds)
            print(f"{time.time() - begin:7.1f} s {kind}", file=sys.stderr)
            fault = {"kind": kind, "begin": time.time()}
            fault["note"] = getattr(self, f"_{kind}")() or ""
            self.faults.append(fault | {"end": time.time()})
            time.sleep(self._pause * self._random.uniform(0.7, 1.3))

    def request(self, op: str, method: str, path: str, body: Any = None) -> httpx.Response | None:
        """Send a request with the operator's key over a new connection; return ``None`` if it failed."""
        headers = {"Authorization": f"Bearer {self._service.admin_key}"}
        begin, status, error, note = time.time(), 0, "", {}
        response = None
        try:
            response = httpx.request(method, self._service.address + path, json=body, headers=headers, timeout=30)
            status = response.status_code
            if status >= 400:
                note["message"] = schemas.ErrorResponse.model_validate_json(response.content).message
            elif op == "verify":
                note["sources"] = {schemas.RecommendResponse.model_validate_json(response.content).source: 1}
        except httpx.HTTPError as failure:
            error = type(failure).__name__
        attempt = {"op": op, "begin": begin, "end": time.time(), "status": status, "expected": 200, "error": error}
        self.attempts.append(attempt | {"queries": int(op == "verify"), **note})
        return response

    def compare_states(self, users: Sequence[str], max_events: int = 150) -> int:
        """Compare recommendations from the stored state of a user with those from all of the user's events.

        Users with more than ``max_events`` events are skipped, as the model does not read more at once. Returns how
        many users were compared.
        """
        n_compared = 0
        for name in users:
            response = self.request("lookup", "GET", f"/v1/users/{name}?limit=1000")
            if response is None or response.status_code != 200:
                self.errors.append(f"{name}: {'no response' if response is None else response.text[:200]}")
                continue
            user = schemas.User.model_validate_json(response.content)
            if not 0 < user.total <= max_events:
                continue
            common = {"k": 10, "include_seen": True, "model": "gru4rec"}
            history = [event.item for event in user.events]
            lists = []
            for query in ({"user": name}, {"history": history}):
                response = self.request("verify", "POST", "/v1/recommend", common | query)
                items = response.json()["items"] if response is not None and response.status_code == 200 else []
                lists.append({item["id"]: item["score"] for item in items})
            shared = lists[0].keys() & lists[1].keys()
            n_compared += 1
            if len(shared) < 9 or max(abs(lists[0][item] - lists[1][item]) for item in shared) > 0.01:
                self.errors.append(f"{name}: the stored state differs from that of the user's {len(history)} events")
        return n_compared

    def _kinds(self, quarter: float) -> Iterator[str]:
        """Yield all kinds of faults in random order, repeatedly."""
        store_faults = (
            ["store_locked", "store_locked"]
            if hasattr(self._store_server, "lock")
            else ["store_restarted", "store_killed", "store_frozen"]
        )
        while True:
            kinds = ["activated", "rolled_back", "worker_killed", *store_faults]
            self._random.shuffle(kinds)
            yield from kinds
            if time.time() < quarter or len(self._service.lifetimes) < 2:
                yield "service_restarted"

    def _activated(self) -> None:
        other = "gru4rec" if self._active == "ease" else "ease"
        self._change_model(f"/v1/models/{other}/activate", other)

    def _rolled_back(self) -> None:
        if self._previous:
            self._change_model("/v1/models/rollback", self._previous)
        else:
            self._activated()

    def _change_model(self, path: str, expected: str) -> None:
        response = self.request("activate", "POST", path)
        if response is None or response.status_code != 200:
            self.errors.append(f"{path}: {'no response' if response is None else response.text[:200]}")
            return
        self._active, self._previous = expected, self._active
        self._verify_active()

    def _verify_active(self) -> None:
        """Check that all workers use the active model."""
        time.sleep(SYNC_SECONDS)
        for _ in range(8):
            response = self.request("verify", "POST", "/v1/recommend", {"history": []})
            if response is None or response.status_code != 200:
                self.errors.append("no response after an activation")
            elif (name := response.json()["model"]["name"]) != self._active:
                self.errors.append(f"response by {name}, but {self._active} is active")

    def _worker_killed(self) -> str:
        before, workers = self._service.n_started_workers(), self._service.workers()
        workers[-1].send_signal(signal.SIGKILL)
        self._wait(lambda: self._service.n_started_workers() > before, "a killed worker was not replaced")
        return str(workers[-1].pid)

    def _service_restarted(self) -> None:
        self._service.stop()
        time.sleep(self._random.uniform(0, 1))
        self._service.start()
        self._verify_active()

    def _store_restarted(self) -> None:
        # SIGINT: fast and clean shutdown of PostgreSQL; Redis treats it like SIGTERM
        self._store_server.kill(signal.SIGINT)
        self._keep_store_down()

    def _store_killed(self) -> None:
        self._store_server.kill()
        self._keep_store_down()

    def _keep_store_down(self) -> None:
        """Keep the store down for a while; an activation meanwhile must fail and change nothing."""
        time.sleep(self._random.uniform(0.5, 3))
        other = "gru4rec" if self._active == "ease" else "ease"
        response = self.request("activate", "POST", f"/v1/models/{other}/activate")
        if response is None or response.status_code != 503:
            status = "no response" if response is None else response.status_code
            self.errors.append(f"activation without a store: {status}, expected 503")
        self._store_server.start()
        self._verify_active()

    def _store_frozen(self) -> str:
        """Suspend the store's processes: it accepts connections and does not respond."""
        server = psutil.Process(self._store_server.process.pid)
        seconds, processes = self._random.uniform(2, 8), [server, *server.children(recursive=True)]
        for process in processes:
            process.suspend()
        time.sleep(seconds)
        for process in processes:
            process.resume()
        return f"{seconds:.1f} s"

    def _store_locked(self) -> str:
        seconds = self._random.uniform(2, 14)
        self._store_server.lock(seconds)
        return f"{seconds:.1f} s"

    def _wait(self, is_done: Callable[[], bool], error: str, seconds: float = 60) -> None:
        until = time.time() + seconds
        while not is_done():
            if time.time() > until:
                self.errors.append(error)
                return
            time.sleep(0.1)

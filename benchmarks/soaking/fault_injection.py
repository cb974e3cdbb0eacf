"""What is done to a service and its store while it is used, one thing after another, drawn from a seed."""

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

__all__ = ["Trouble"]

FOLLOWED = 2.5
"""Seconds after which all workers answer by the model that was activated."""


class Trouble:
    """Disturbances, and what was seen of them.

    Args:
        behind: the store: a server, or a file.
        quiet: seconds between one and the next.
    """

    def __init__(self, service: Service, behind: Any, seed: int, quiet: float) -> None:
        self._service, self._behind, self._quiet = service, behind, quiet
        self._draw = random.Random(seed)
        self.seen: list[dict[str, Any]] = []
        self.attempts: list[dict[str, Any]] = []
        """Requests that were made here, as traffic notes its own."""
        self.faults: list[str] = []
        self.changed: list[float] = []
        """When the active model was changed."""
        self._active, self._previous = "ease", ""

    def go_on(self, begin: float, until: float) -> None:
        """Disturb until the time has come. The service is stopped and begun again in the first quarter alone, and of
        the workers the youngest is killed: one lives through all the rest, so that its memory can be watched."""
        rounds = self._rounds(begin + (until - begin) / 4)
        time.sleep(self._quiet)
        while time.time() < until:
            kind = next(rounds)
            print(f"{time.time() - begin:7.1f} s {kind}", file=sys.stderr)
            told = {"kind": kind, "begin": time.time()}
            told["note"] = getattr(self, f"_{kind}")() or ""
            self.seen.append(told | {"end": time.time()})
            time.sleep(self._quiet * self._draw.uniform(0.7, 1.3))

    def ask(self, op: str, method: str, path: str, body: Any = None) -> httpx.Response | None:
        """A request of the operator's, over a connection of its own; none where it failed."""
        headers = {"Authorization": f"Bearer {self._service.admin}"}
        begin, status, error, note = time.time(), 0, "", {}
        reply = None
        try:
            reply = httpx.request(method, self._service.address + path, json=body, headers=headers, timeout=30)
            status = reply.status_code
            if status >= 400:
                note["message"] = schemas.Fault.model_validate_json(reply.content).message
            elif op == "settled":
                note["steps"] = {schemas.Answer.model_validate_json(reply.content).step: 1}
        except httpx.HTTPError as failure:
            error = type(failure).__name__
        told = {"op": op, "begin": begin, "end": time.time(), "status": status, "wanted": 200, "error": error}
        self.attempts.append(told | {"questions": int(op == "settled"), **note})
        return reply

    def compare(self, users: Sequence[str], most: int = 150) -> int:
        """Answer users by what the model remembers of them, event by event, and by all of their events at once; how
        many were compared. Longer histories than ``most`` are left out, as the model reads no more at once."""
        compared = 0
        for user in users:
            looked = self.ask("look", "GET", f"/v1/users/{user}?limit=1000")
            person = None if looked is None else schemas.Person.model_validate_json(looked.content)
            if person is None or not 0 < person.total <= most:
                continue
            question = {"k": 10, "repeats": True, "model": "gru4rec"}
            history = [past.item for past in person.events]
            lists = []
            for more in ({"user": user}, {"history": history}):
                reply = self.ask("settled", "POST", "/v1/recommend", question | more)
                lists.append({} if reply is None else {one["id"]: one["score"] for one in reply.json()["items"]})
            both = lists[0].keys() & lists[1].keys()
            compared += 1
            if len(both) < 9 or max(abs(lists[0][item] - lists[1][item]) for item in both) > 0.01:
                self.faults.append(f"{user}: remembered {len(history)} events other than they were")
        return compared

    def _rounds(self, quarter: float) -> Iterator[str]:
        """All kinds in an order of chance, again and again."""
        others = (
            ["hold", "hold"] if hasattr(self._behind, "hold") else ["store_restarted", "store_killed", "store_frozen"]
        )
        while True:
            kinds = ["activated", "rolled_back", "worker_killed", *others]
            self._draw.shuffle(kinds)
            yield from kinds
            if time.time() < quarter or len(self._service.lives) < 2:
                yield "service_restarted"

    def _activated(self) -> None:
        other = "gru4rec" if self._active == "ease" else "ease"
        self._change(f"/v1/models/{other}/activate", other)

    def _rolled_back(self) -> None:
        if self._previous:
            self._change("/v1/models/rollback", self._previous)
        else:
            self._activated()

    def _change(self, path: str, expected: str) -> None:
        reply = self.ask("activate", "POST", path)
        if reply is None or reply.status_code != 200:
            self.faults.append(f"{path}: {'no answer' if reply is None else reply.text[:200]}")
            return
        self._active, self._previous = expected, self._active
        self.changed.append(self.attempts[-1]["begin"])
        self._agree()

    def _agree(self) -> None:
        """Whether all workers answer by the model that is active."""
        time.sleep(FOLLOWED)
        for _ in range(8):
            reply = self.ask("settled", "POST", "/v1/recommend", {"history": []})
            if reply is None or reply.status_code != 200:
                self.faults.append("after an activation: no answer")
            elif (found := reply.json()["model"]["name"]) != self._active:
                self.faults.append(f"answered by {found}, but {self._active} is active")

    def _worker_killed(self) -> str:
        before, workers = self._service.told(), self._service.workers()
        workers[-1].send_signal(signal.SIGKILL)
        self._wait(lambda: self._service.told() > before, "a worker that was killed was not replaced")
        return str(workers[-1].pid)

    def _service_restarted(self) -> None:
        self._service.stop()
        time.sleep(self._draw.uniform(0, 1))
        self._service.start()
        self._agree()

    def _store_restarted(self) -> None:
        # SIGINT: PostgreSQL ends at once and in order; Redis takes it like SIGTERM
        self._behind.kill(signal.SIGINT)
        self._away()

    def _store_killed(self) -> None:
        self._behind.kill()
        self._away()

    def _away(self) -> None:
        """The store stays away for a while; what is activated meanwhile is refused, and changes nothing."""
        time.sleep(self._draw.uniform(0.5, 3))
        other = "gru4rec" if self._active == "ease" else "ease"
        reply = self.ask("activate", "POST", f"/v1/models/{other}/activate")
        if reply is None or reply.status_code != 503:
            self.faults.append(f"activated without a store: {'no answer' if reply is None else reply.status_code}")
        self._behind.start()
        self._agree()

    def _store_frozen(self) -> str:
        """It takes connections and says nothing."""
        server = psutil.Process(self._behind.process.pid)
        seconds, family = self._draw.uniform(2, 8), [server, *server.children(recursive=True)]
        for process in family:
            process.suspend()
        time.sleep(seconds)
        for process in family:
            process.resume()
        return f"{seconds:.1f} s"

    def _hold(self) -> str:
        seconds = self._draw.uniform(2, 14)
        self._behind.hold(seconds)
        return f"{seconds:.1f} s"

    def _wait(self, there: Callable[[], bool], fault: str, seconds: float = 60) -> None:
        until = time.time() + seconds
        while not there():
            if time.time() > until:
                self.faults.append(fault)
                return
            time.sleep(0.1)

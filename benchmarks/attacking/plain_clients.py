"""Clients that use the service as intended while it is attacked, and what they experience."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import httpx
import numpy as np

__all__ = ["PROBE", "PlainClients", "Sample", "summarize"]

N_CLIENTS, N_USERS = 4, 50
PROBE = -1
"""Number of the client that probes ``/healthz``."""

THINK_SECONDS, PROBE_SECONDS, TIMEOUT = 0.02, 0.1, 15.0


class Sample(NamedTuple):
    """One request of a plain client."""

    client: int
    begin: float
    end: float
    status: int
    """HTTP status; 0: no response."""


class PlainClients(threading.Thread):
    """Four clients that request recommendations, one at a time each, and a probe, until :meth:`stop`.

    Two clients keep their connection, the other two and the probe open a new one for each request.
    """

    def __init__(self, address: str, key: str) -> None:
        super().__init__(daemon=True)
        self._address, self._headers = address, {"Authorization": f"Bearer {key}"}
        self._stopped = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Send requests until stopped."""
        asyncio.run(self._run_clients())

    def stop(self) -> None:
        """Stop after the requests in progress."""
        self._stopped.set()
        self.join()

    def wait_for_answers(self, since: float, seconds: float) -> None:
        """Wait until every client has received an answer to a request sent after ``since``, at most ``seconds``."""
        until, wanted = time.time() + seconds, {*range(N_CLIENTS), PROBE}
        while time.time() < until:
            recent = {one.client for one in self.samples[-200:] if one.begin >= since and one.status == 200}
            if recent == wanted:
                return
            time.sleep(0.05)

    async def _run_clients(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._address, timeout=TIMEOUT, limits=limits) as http:
            await asyncio.gather(*(self._request_repeatedly(number, http) for number in (*range(N_CLIENTS), PROBE)))

    async def _request_repeatedly(self, number: int, http: httpx.AsyncClient) -> None:
        draw = random.Random(number)
        headers = {} if number == PROBE else dict(self._headers)
        if number % 2:
            headers["Connection"] = "close"
        while not self._stopped.is_set():
            begin, status = time.time(), 0
            with suppress(httpx.HTTPError):
                if number == PROBE:
                    response = await http.get("/healthz", headers=headers)
                else:
                    body = {"user": f"u{draw.randrange(N_USERS)}", "k": 10}
                    response = await http.post("/v1/recommend", json=body, headers=headers)
                status = response.status_code
            self.samples.append(Sample(number, begin, time.time(), status))
            await asyncio.sleep(PROBE_SECONDS if number == PROBE else THINK_SECONDS)


def summarize(samples: Sequence[Sample], begin: float, end: float) -> dict[str, Any]:
    """Summarize the requests sent between ``begin`` and ``end``.

    Returns:
        ``requests``; ``answered``; ``failed``: by status, 0 for no response; ``p50_ms`` and ``p99_ms`` of all
        requests, where a failed one takes forever: ``None`` if too many failed; ``blocked_seconds``: the longest time
        in which one client received no answer, until its first answer after ``end``.
    """
    own = [one for one in samples if begin <= one.begin < end]
    answered = [one for one in own if one.status == 200]
    failed: dict[str, int] = {}
    for one in own:
        if one.status != 200:
            failed[str(one.status)] = failed.get(str(one.status), 0) + 1
    milliseconds = [1000 * (one.end - one.begin) if one.status == 200 else np.inf for one in own] or [np.inf]
    quantiles = np.quantile(milliseconds, [0.5, 0.99], method="higher").tolist()
    p50, p99 = (value if np.isfinite(value) else None for value in quantiles)
    gaps = [0.0]
    for client in {one.client for one in samples}:
        mine = [one for one in samples if one.client == client]
        ends = sorted(one.end for one in mine if one.status == 200 and one.end >= begin)
        last = next((index for index, when in enumerate(ends) if when >= end), None)
        stops = ends[: last + 1] if last is not None else [*ends, max(end, *(one.end for one in mine))]
        gaps += np.diff([begin, *stops]).tolist()
    return {"requests": len(own), "answered": len(answered), "failed": failed, "p50_ms": p50, "p99_ms": p99,
            "blocked_seconds": max(gaps)}  # fmt: skip

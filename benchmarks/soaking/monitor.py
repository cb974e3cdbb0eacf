"""What is looked at while a service is under trial: its counters, the memory of its processes, who else is at work."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import httpx
import psutil

from benchmarks.soaking.service import Service

__all__ = ["COUNTERS", "Watch", "counted"]

COUNTERS = {
    "segue_request_seconds_count": "status",
    "segue_refused_total": "reason",
    "segue_errors_total": "kind",
    "segue_answers_total": "step",
    "segue_events_total": "result",
    "segue_store_failures_total": "operation",
    "segue_model_activations_total": "",
    "segue_model_rollbacks_total": "",
}
"""What is read of ``/metrics``, each by one label."""

SAMPLE, SCRAPE, OTHERS = 2.0, 5.0, 20.0
"""Seconds between looks at memory, at counters and at other processes."""


def counted(text: str) -> dict[str, float]:
    """Counters by name and label, such as ``segue_answers_total/model``; of requests those under ``/v1`` alone."""
    from prometheus_client.parser import text_string_to_metric_families

    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in COUNTERS and sample.labels.get("route", "/v1/").startswith(("/v1/", "unmatched")):
                found[f"{sample.name}/{sample.labels.get(COUNTERS[sample.name], '')}"] += sample.value
    return dict(found)


class Watch(threading.Thread):
    """Looks now and then, until :meth:`end`."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service, self._over = service, threading.Event()
        self.scrapes: list[dict[str, Any]] = []
        self.memory: list[tuple[float, int, int]] = []
        """When, which process, bytes in memory."""
        self.busy: list[tuple[float, float]] = []
        """Percent of all processors in use, and by what is not part of this."""
        self.others: set[str] = set()
        """Names of what else was busy."""

    def run(self) -> None:
        """See the class."""
        scraped = looked = 0.0
        spent: dict[int, float] = {}
        before = time.time()
        psutil.cpu_percent()
        while not self._over.wait(SAMPLE):
            now = time.time()
            self._weigh(now)
            family = _family()
            own = sum(max(0.0, seconds - spent.get(pid, seconds)) for pid, seconds in family.items())
            total = psutil.cpu_percent()
            share = 100 * own / (now - before) / (psutil.cpu_count() or 1)
            self.busy.append((total, max(0.0, total - share)))
            spent, before = family, now
            if now > scraped + SCRAPE:
                scraped = now
                self.scrape()
            if now > looked + OTHERS:
                self.others |= _others(set(family)) if looked else set()
                looked = now

    def scrape(self) -> None:
        """Read the counters; nothing where the service does not answer."""
        begin = time.time()
        try:
            headers = {"Authorization": f"Bearer {self._service.admin}"}
            reply = httpx.get(f"{self._service.address}/metrics", headers=headers, timeout=10)
        except httpx.HTTPError:
            return
        if reply.status_code == 200:
            self.scrapes.append({"begin": begin, "end": time.time(), "counts": counted(reply.text)})

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()

    def _weigh(self, now: float) -> None:
        for worker in self._service.workers():
            try:
                self.memory.append((now, worker.pid, worker.memory_info().rss))
            except psutil.NoSuchProcess:
                continue


def _family() -> dict[int, float]:
    """Seconds of processor that this process and all that it began have used."""
    found = {}
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return found


def _others(own: set[int]) -> set[str]:
    found = set()
    for process in psutil.process_iter(["name"]):
        try:
            if process.pid not in own and process.cpu_percent() > 5:
                found.add(str(process.info["name"]))
        except psutil.NoSuchProcess:
            continue
    return found

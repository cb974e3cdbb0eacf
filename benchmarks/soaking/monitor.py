"""Monitor a service under test: its counters, the memory of its processes, and the CPU load of other processes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import httpx
import psutil

from benchmarks.soaking.service import Service

__all__ = ["COUNTERS", "Monitor", "parse_counters"]

COUNTERS = {
    "segue_request_duration_seconds_count": "status",
    "segue_rejected_requests_total": "reason",
    "segue_errors_total": "kind",
    "segue_recommend_responses_total": "source",
    "segue_events_total": "result",
    "segue_store_failures_total": "operation",
    "segue_model_activations_total": "",
    "segue_model_rollbacks_total": "",
}
"""Counters read from ``/metrics``, each with the label that is kept."""

MEMORY_SECONDS, SCRAPE_SECONDS, OTHERS_SECONDS = 2.0, 5.0, 20.0
"""Intervals between samples of memory, of counters and of other processes."""


def parse_counters(text: str) -> dict[str, float]:
    """Parse counters by name and label, such as ``segue_errors_total/store``; requests only under ``/v1``."""
    from prometheus_client.parser import text_string_to_metric_families

    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in COUNTERS and sample.labels.get("route", "/v1/").startswith(("/v1/", "unmatched")):
                found[f"{sample.name}/{sample.labels.get(COUNTERS[sample.name], '')}"] += sample.value
    return dict(found)


class Monitor(threading.Thread):
    """Samples the service at intervals until :meth:`stop`."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service, self._stopped = service, threading.Event()
        self.scrapes: list[dict[str, Any]] = []
        self.memory: list[tuple[float, int, int]] = []
        """Time, process id, resident bytes."""
        self.load: list[tuple[float, float]] = []
        """CPU load in percent: of all processes, and of those that are not part of the test."""
        self.others: set[str] = set()
        """Names of other processes with a CPU load above 5 %."""

    def run(self) -> None:
        """Sample until stopped."""
        last_scrape = last_others = 0.0
        cpu_seconds: dict[int, float] = {}
        before = time.time()
        psutil.cpu_percent()
        while not self._stopped.wait(MEMORY_SECONDS):
            now = time.time()
            self._sample_memory(now)
            current = _own_cpu_seconds()
            own = sum(max(0.0, seconds - cpu_seconds.get(pid, seconds)) for pid, seconds in current.items())
            total = psutil.cpu_percent()
            share = 100 * own / (now - before) / (psutil.cpu_count() or 1)
            self.load.append((total, max(0.0, total - share)))
            cpu_seconds, before = current, now
            if now > last_scrape + SCRAPE_SECONDS:
                last_scrape = now
                self.scrape()
            if now > last_others + OTHERS_SECONDS:
                self.others |= _busy_processes(set(current)) if last_others else set()
                last_others = now

    def scrape(self) -> None:
        """Read the counters, if the service responds."""
        begin = time.time()
        try:
            headers = {"Authorization": f"Bearer {self._service.admin_key}"}
            response = httpx.get(f"{self._service.address}/metrics", headers=headers, timeout=10)
        except httpx.HTTPError:
            return
        if response.status_code == 200:
            self.scrapes.append({"begin": begin, "end": time.time(), "counts": parse_counters(response.text)})

    def stop(self) -> None:
        """Stop sampling and wait for the thread to end."""
        self._stopped.set()
        self.join()

    def _sample_memory(self, now: float) -> None:
        for worker in self._service.workers():
            try:
                self.memory.append((now, worker.pid, worker.memory_info().rss))
            except psutil.NoSuchProcess:
                continue


def _own_cpu_seconds() -> dict[int, float]:
    """Return CPU seconds by process id of this process and its descendants."""
    found = {}
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return found


def _busy_processes(own: set[int]) -> set[str]:
    """Return names of other processes with a CPU load above 5 %."""
    found = set()
    for process in psutil.process_iter(["name"]):
        try:
            if process.pid not in own and process.cpu_percent() > 5:
                found.add(str(process.info["name"]))
        except psutil.NoSuchProcess:
            continue
    return found

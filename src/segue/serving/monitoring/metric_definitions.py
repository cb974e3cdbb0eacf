"""All that the service measures, by name, and where it is counted: a registry of prometheus-client.

Names and units follow https://prometheus.io/docs/practices/naming. A label's values come from a closed set, or are the
first few that come: what comes later is counted as ``other``, so that no caller can make series without end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

__all__ = ["CAUSES", "INSTRUMENTS", "REASONS", "RULES", "STEPS", "Instrument", "Instruments"]

STEPS = ("model", "fallback", "neighbours", "popular")
"""Steps of the ladder."""
CAUSES = ("none", "deadline", "error", "store")
"""Why a step below the first one answered."""
REASONS = ("auth", "rate", "busy", "too_large", "invalid")
"""Why a request was refused."""
RULES = ("allow", "deny", "where", "boosts", "most", "diversify", "pins", "repeats")
"""Rules that a question may bring."""
USERS = ("known", "unknown", "none")
"""What is known of who asks."""
TAKEN = ("accepted", "duplicate")
"""What became of an event."""

OTHER = "other"
CLOSED: dict[str, tuple[str, ...]] = {
    "method": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
    "status": ("1xx", "2xx", "3xx", "4xx", "5xx"),
    "step": STEPS,
    "cause": CAUSES,
    "reason": REASONS,
    "rule": RULES,
    "user": USERS,
    "result": (*TAKEN, "hit", "miss", "agreed", "differed"),
}
"""Labels whose values are all known."""
OPEN = {
    "route": 64,
    "kind": 32,
    "cache": 16,
    "store": 8,
    "operation": 32,
    "engine": 16,
    "input": 16,
    "model": 32,
    "key": 64,
    "version": 128,
}
"""Labels that take so many values of any kind."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LENGTHS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
ASKED = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Instrument:
    """One thing that is measured."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    """What it is, in one sentence."""
    labels: tuple[str, ...] = ()
    buckets: Sequence[float] = ()
    """Upper bounds, of a histogram."""
    together: Literal["livesum", "livemin", "livemax"] = "livesum"
    """What becomes of a gauge's numbers where several processes have one each."""
    begin: tuple[tuple[str, ...], ...] = ()
    """Labels whose series are there from the start, so that a first count shows as a rise."""


def _counter(name: str, text: str, *labels: str, begin: tuple[tuple[str, ...], ...] = ()) -> Instrument:
    return Instrument("counter", name, text, labels, begin=begin)


def _gauge(name: str, text: str, together: Literal["livesum", "livemin", "livemax"], *labels: str) -> Instrument:
    return Instrument("gauge", name, text, labels, together=together)


def _histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Instrument:
    return Instrument("histogram", name, text, labels, buckets)


INSTRUMENTS: tuple[Instrument, ...] = (
    _gauge("segue_build_info", "Always 1; the label tells which Segue runs.", "livemax", "version"),
    _gauge("segue_ready", "1: takes requests; 0: is starting, ending or broken.", "livemin"),
    _histogram(
        "segue_request_seconds", "From a request's arrival to its answer.", SECONDS, "route", "method", "status"
    ),
    _gauge("segue_requests_in_flight", "Requests that are being answered.", "livesum"),
    _counter("segue_refused_total", "Requests refused, by reason.", "reason", begin=tuple((r,) for r in REASONS)),
    _counter("segue_errors_total", "Faults that nobody foresaw, by kind.", "kind"),
    _gauge("segue_queue_waiting", "Requests that wait to be worked on.", "livesum", "kind"),
    _gauge("segue_queue_limit", "Requests that may wait; more are refused.", "livesum", "kind"),
    _histogram("segue_batch_size", "Questions, or events, worked on together.", SIZES, "kind"),
    _counter("segue_cache_lookups_total", "What was looked for in a cache.", "cache", "result"),
    _histogram("segue_store_seconds", "Calls of the state store.", SECONDS, "store", "operation"),
    _counter("segue_store_failures_total", "Calls of the state store that failed.", "store", "operation"),
    _counter(
        "segue_answers_total",
        "Answers, by the step of the ladder that gave them and the reason for a lower step.",
        "step",
        "cause",
        begin=tuple((step, "none") for step in STEPS),
    ),
    _counter(
        "segue_questions_total", "Questions, by what is known of who asks.", "user", begin=tuple((u,) for u in USERS)
    ),
    _histogram("segue_history_events", "Events of known items in the history of a question.", LENGTHS),
    _counter(
        "segue_history_unknown_items_total", "Events of histories left out, as their item is not in the catalogue."
    ),
    _histogram("segue_asked_items", "Items that a question asks for.", ASKED),
    _counter("segue_rules_total", "Questions that bring a rule.", "rule"),
    _counter("segue_events_total", "Events taken in.", "result", begin=tuple((t,) for t in TAKEN)),
    _counter("segue_events_unknown_items_total", "Events taken in whose item is not in the catalogue."),
    _counter("segue_served_items_total", "Items in answers.", "model"),
    _counter(
        "segue_served_popularity_total",
        "Popularity percentiles of the items in answers, added up; each is from 0 to 1.",
        "model",
    ),
    _gauge(
        "segue_served_coverage_ratio", "Share of the catalogue served in the last one to two hours.", "livemax", "model"
    ),
    _gauge(
        "segue_drift_stability_index",
        "Population stability index of what is asked against training; from 0.1 on some drift, from 0.25 on much.",
        "livemax",
        "model",
        "input",
    ),
    _gauge(
        "segue_drift_divergence_ratio",
        "Jensen-Shannon divergence of what is asked against training, in bits, from 0 to 1.",
        "livemax",
        "model",
        "input",
    ),
    _gauge("segue_drift_sample", "Events, or questions, that drift is measured from.", "livesum", "model", "input"),
    _gauge(
        "segue_model_active",
        "1: the model that answers where a question names none; 0: it is at hand.",
        "livemax",
        "model",
        "key",
        "version",
    ),
    _counter("segue_model_activations_total", "Changes of the active model, rollbacks among them."),
    _counter("segue_model_rollbacks_total", "Returns to the model that was active before."),
    _gauge(
        "segue_model_golden_queries",
        "Golden queries, by whether the engine answers them as the trained model does.",
        "livemax",
        "model",
        "result",
    ),
    _histogram("segue_engine_seconds", "Runs of an engine over a batch.", SECONDS, "engine", "model"),
    _counter("segue_engine_rows_total", "Questions that an engine answered.", "engine", "model"),
)


class Instruments:
    """:data:`INSTRUMENTS`, each at zero, in a registry of their own.

    Several processes add up their numbers where the environment variable ``PROMETHEUS_MULTIPROC_DIR`` names an empty
    folder before the first of these is made.

    Raises:
        ValueError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise ValueError("prometheus-client is not installed: pip install 'segue[serve]'") from None
        # a second series for every counter, which nobody reads
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = prometheus.CollectorRegistry()
        self._several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if not self._several:  # of several processes it would be the one that happens to answer
            for collector in (prometheus.ProcessCollector, prometheus.PlatformCollector, prometheus.GCCollector):
                collector(registry=self._registry)
        self._kinds = {one.name: one for one in INSTRUMENTS}
        self._parents: dict[str, Any] = {one.name: self._make(one) for one in INSTRUMENTS}
        self._children: dict[tuple[str, ...], Any] = {}
        self._seen: dict[str, set[str]] = {name: set(known) for name, known in CLOSED.items()}
        self._seen |= {name: set() for name in OPEN}
        for one in INSTRUMENTS:
            for labels in one.begin:
                self._child(one.name, labels)

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add ``by``, at least 0, to a counter."""
        self._child(name, labels).inc(by)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Let a gauge stand at ``value``; NaN: there is none. Of several processes one without a value tells 0, as the
        greatest of what they tell would be NaN as well."""
        self._child(name, labels).set(0 if self._several and value != value else value)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Count ``value`` in a histogram."""
        self._child(name, labels).observe(value)

    def text(self) -> tuple[bytes, str]:
        """All as it stands, and the content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if self._several:
            self._bury()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def close(self) -> None:
        """Take this process's gauges out of the numbers of the others; what it counted stays."""
        from prometheus_client.multiprocess import mark_process_dead

        if self._several:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def _bury(self) -> None:
        """Take out the gauges of processes that ended without a word."""
        from prometheus_client.multiprocess import mark_process_dead

        files = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db")
        for pid in {int(path.stem.rpartition("_")[2]) for path in files}:
            if not psutil.pid_exists(pid):
                mark_process_dead(pid)  # type: ignore[no-untyped-call]

    def _make(self, one: Instrument) -> Any:
        from prometheus_client import Counter, Gauge, Histogram

        if one.kind == "counter":
            return Counter(one.name, one.text, one.labels, registry=self._registry)
        if one.kind == "gauge":
            return Gauge(one.name, one.text, one.labels, registry=self._registry, multiprocess_mode=one.together)
        return Histogram(one.name, one.text, one.labels, registry=self._registry, buckets=one.buckets)

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        child = self._children.get((name, *labels))
        if child is None:
            names = self._kinds[name].labels
            if len(names) != len(labels):
                raise ValueError(f"{name}: labels {labels}, expected {names}")
            bounded = [self._bounded(label, value) for label, value in zip(names, labels, strict=True)]
            child = self._parents[name].labels(*bounded) if names else self._parents[name]
            if OTHER not in bounded:  # what is not known is not remembered either
                self._children[(name, *labels)] = child
        return child

    def _bounded(self, label: str, value: str) -> str:
        seen = self._seen[label]
        if value not in seen:
            if len(seen) >= OPEN.get(label, 0):
                return OTHER
            seen.add(value)
        return value

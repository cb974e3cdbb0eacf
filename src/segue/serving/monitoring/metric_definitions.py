"""Definitions of all metrics, and the registry that counts them.

The registry uses prometheus-client. Names and units follow https://prometheus.io/docs/practices/naming. Label values
come from a closed set or are limited in number: further values are counted as ``other``, so that no client can create
an unbounded number of series.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from segue.core.model import FALLBACK_NOTES

__all__ = [
    "FALLBACK_CAUSES",
    "METRICS",
    "REJECTION_REASONS",
    "RULES",
    "SOURCES",
    "MetricDefinition",
    "MetricRegistry",
]

SOURCES = ("model", "fallback", "neighbors", "popular")
"""Sources of recommendations, in the order in which they are tried."""
FALLBACK_CAUSES = ("none", "deadline", "error", "store")
"""Causes of a fallback."""
REJECTION_REASONS = ("unauthorized", "rate_limited", "overloaded", "too_large", "invalid")
"""Reasons for rejecting a request."""
RULES = ("allow", "deny", "filter", "boosts", "max_per_value", "diversify", "pins", "include_seen")
"""Rules that a request may contain, by the name of its field."""
USER_KINDS = ("known", "unknown", "none")
"""Whether the user of a request is known, unknown, or not given."""
EVENT_RESULTS = ("accepted", "duplicate")
"""Results of storing an event."""
RERANK_LIMITS = tuple(FALLBACK_NOTES)
"""Reasons why a reranker left the order of its base model."""
LANES = ("plain", "expensive")
"""Lanes of the engine's queue."""
EXPOSURE_RESULTS = ("stored", "dropped")
"""Results of recording an exposure."""

OTHER = "other"
CLOSED_LABELS: dict[str, tuple[str, ...]] = {
    "method": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
    "status": ("1xx", "2xx", "3xx", "4xx", "5xx"),
    "source": SOURCES,
    "cause": FALLBACK_CAUSES,
    "reason": REJECTION_REASONS,
    "rule": RULES,
    "user": USER_KINDS,
    "lane": LANES,
    "limit": RERANK_LIMITS,
    "result": (*EVENT_RESULTS, *EXPOSURE_RESULTS, "hit", "miss", "match", "mismatch"),
}
"""Labels with a fixed set of values."""
OPEN_LABELS = {
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
"""Labels with arbitrary values, and the maximum number of values of each."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
HISTORY_LENGTHS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
REQUESTED_K = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class MetricDefinition:
    """Definition of one metric."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    """One sentence."""
    labels: tuple[str, ...] = ()
    buckets: Sequence[float] = ()
    """Upper bounds of a histogram."""
    multiprocess_mode: Literal["livesum", "livemin", "livemax"] = "livesum"
    """Aggregation of a gauge over worker processes."""
    initial_labels: tuple[tuple[str, ...], ...] = ()
    """Label values whose series exist from the start, so that a first count shows as an increase."""


def _counter(
    name: str, description: str, *labels: str, initial_labels: tuple[tuple[str, ...], ...] = ()
) -> MetricDefinition:
    return MetricDefinition("counter", name, description, labels, initial_labels=initial_labels)


def _gauge(
    name: str, description: str, multiprocess_mode: Literal["livesum", "livemin", "livemax"], *labels: str
) -> MetricDefinition:
    return MetricDefinition("gauge", name, description, labels, multiprocess_mode=multiprocess_mode)


def _histogram(name: str, description: str, buckets: Sequence[float], *labels: str) -> MetricDefinition:
    return MetricDefinition("histogram", name, description, labels, buckets)


METRICS: tuple[MetricDefinition, ...] = (
    _gauge("segue_build_info", "Always 1; the label holds the Segue version.", "livemax", "version"),
    _gauge("segue_ready", "1 if the service is ready, 0 while it starts or stops or its event store fails.", "livemin"),
    _histogram(
        "segue_request_duration_seconds", "Latency of HTTP requests in seconds.", SECONDS, "route", "method", "status"
    ),
    _gauge("segue_requests_in_flight", "HTTP requests being processed.", "livesum"),
    _counter(
        "segue_rejected_requests_total",
        "Rejected HTTP requests, by reason.",
        "reason",
        initial_labels=tuple((reason,) for reason in REJECTION_REASONS),
    ),
    _counter(
        "segue_excess_connections_total",
        "Connections above a limit on connections, which were refused or limited to health probes.",
    ),
    _counter("segue_errors_total", "Internal errors, by kind.", "kind"),
    _gauge("segue_queue_length", "Entries waiting in a queue.", "livesum", "kind"),
    _gauge("segue_queue_capacity", "Capacity of a queue; requests beyond it are rejected.", "livesum", "kind"),
    _histogram("segue_batch_size", "Requests or events processed in one batch.", BATCH_SIZES, "kind"),
    _histogram("segue_queue_duration_seconds", "Time that calls wait for the engine, by lane.", SECONDS, "lane"),
    _counter(
        "segue_cancelled_calls_total",
        "Calls of the engine that were dropped because the client disconnected, by lane.",
        "lane",
        initial_labels=tuple((lane,) for lane in LANES),
    ),
    _counter("segue_deadline_misses_total", "Responses that were ready only after their deadline."),
    _counter("segue_cache_lookups_total", "Cache lookups, by result.", "cache", "result"),
    _histogram(
        "segue_store_duration_seconds", "Duration of event store calls in seconds.", SECONDS, "store", "operation"
    ),
    _counter("segue_store_failures_total", "Failed event store calls.", "store", "operation"),
    _gauge("segue_store_up", "1 if the event store responded to the last health check, 0 if not.", "livemin"),
    _gauge("segue_store_bytes", "Size of the event store in bytes.", "livemax"),
    _gauge("segue_store_limit_bytes", "Maximum size of the event store in bytes; 0 if there is none.", "livemax"),
    _counter("segue_item_changes_total", "Items that were added, replaced or removed through the API.", "operation"),
    _gauge("segue_added_items", "Items of the catalog that were added through the API.", "livemax"),
    _counter(
        "segue_exposures_total",
        "Exposures in experiments, by whether they were stored.",
        "result",
        initial_labels=tuple((result,) for result in EXPOSURE_RESULTS),
    ),
    _counter(
        "segue_recommend_responses_total",
        "Recommendation responses, by source and cause of the fallback.",
        "source",
        "cause",
        initial_labels=tuple((source, "none") for source in SOURCES),
    ),
    _counter(
        "segue_recommend_requests_total",
        "Recommendation requests, by whether the user is known.",
        "user",
        initial_labels=tuple((kind,) for kind in USER_KINDS),
    ),
    _histogram("segue_history_length", "Known items in the history of a request.", HISTORY_LENGTHS),
    _counter("segue_history_unknown_items_total", "History events ignored because their item is not in the catalog."),
    _histogram("segue_requested_k", "Number of items requested.", REQUESTED_K),
    _counter("segue_rules_total", "Requests that contain a rule, by rule.", "rule"),
    _counter(
        "segue_events_total",
        "Events received, by result.",
        "result",
        initial_labels=tuple((result,) for result in EVENT_RESULTS),
    ),
    _counter("segue_events_unknown_items_total", "Events received whose item is not in the catalog."),
    _counter("segue_served_items_total", "Items in responses.", "model"),
    _counter(
        "segue_served_popularity_total",
        "Sum of the popularity percentiles of items in responses, each from 0 to 1.",
        "model",
    ),
    _gauge(
        "segue_served_coverage_ratio", "Share of the catalog served in the last one to two hours.", "livemax", "model"
    ),
    _gauge(
        "segue_drift_stability_index",
        "Population stability index of request inputs against training; 0.1 is moderate drift, 0.25 strong drift.",
        "livemax",
        "model",
        "input",
    ),
    _gauge(
        "segue_drift_divergence_ratio",
        "Jensen-Shannon divergence of request inputs against training in bits, from 0 to 1.",
        "livemax",
        "model",
        "input",
    ),
    _gauge("segue_drift_sample_size", "Events or requests used to measure drift.", "livesum", "model", "input"),
    _gauge(
        "segue_model_active",
        "1 for the active model, 0 for other loaded models.",
        "livemax",
        "model",
        "key",
        "version",
    ),
    _counter("segue_model_activations_total", "Changes of the active model, including rollbacks."),
    _counter("segue_model_rollbacks_total", "Rollbacks to the previously active model."),
    _gauge(
        "segue_model_golden_queries",
        "Golden queries, by whether the engine's results match those of the trained model.",
        "livemax",
        "model",
        "result",
    ),
    _histogram("segue_engine_duration_seconds", "Duration of one engine run in seconds.", SECONDS, "engine", "model"),
    _counter("segue_engine_rows_total", "Requests, or rows of a table, computed by an engine.", "engine", "model"),
    _counter("segue_predicted_rows_total", "Rows of tables whose labels were predicted.", "model"),
    _histogram(
        "segue_predict_duration_seconds",
        "Latency of predictions in seconds, from the arrival of a request with rows of a table.",
        SECONDS,
        "model",
    ),
    _counter(
        "segue_rerank_fallbacks_total",
        "Requests that a reranker left in the order of its base model, by reason.",
        "model",
        "limit",
    ),
)
"""All metrics."""


class MetricRegistry:
    """Registry of :data:`METRICS`, all starting at zero.

    Worker processes aggregate their metrics if the environment variable ``PROMETHEUS_MULTIPROC_DIR`` names an empty
    folder before the first registry is created.

    Raises:
        ValueError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise ValueError("prometheus-client is not installed: pip install 'segue[serve]'") from None
        # otherwise the library would add an unused second series to every counter
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = prometheus.CollectorRegistry()
        self._is_multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if not self._is_multiprocess:  # with several processes they would describe an arbitrary one
            for collector in (prometheus.ProcessCollector, prometheus.PlatformCollector, prometheus.GCCollector):
                collector(registry=self._registry)
        self._definitions = {metric.name: metric for metric in METRICS}
        self._parents: dict[str, Any] = {metric.name: self._create(metric) for metric in METRICS}
        self._children: dict[tuple[str, ...], Any] = {}
        self._label_values: dict[str, set[str]] = {name: set(values) for name, values in CLOSED_LABELS.items()}
        self._label_values |= {name: set() for name in OPEN_LABELS}
        for metric in METRICS:
            for labels in metric.initial_labels:
                self._child(metric.name, labels)

    def increment(self, name: str, *labels: str, by: float = 1) -> None:
        """Add ``by``, at least 0, to a counter."""
        self._child(name, labels).inc(by)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge; NaN means no value.

        With several processes NaN becomes 0, as their maximum would otherwise be NaN.
        """
        self._child(name, labels).set(0 if self._is_multiprocess and value != value else value)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add ``value`` to a histogram."""
        self._child(name, labels).observe(value)

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in the text format, and the content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if self._is_multiprocess:
            self._remove_dead_processes()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def close(self) -> None:
        """Remove this process's gauges from the aggregate; its counters remain."""
        from prometheus_client.multiprocess import mark_process_dead

        if self._is_multiprocess:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def _remove_dead_processes(self) -> None:
        """Remove the gauges of processes that were killed."""
        from prometheus_client.multiprocess import mark_process_dead

        files = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db")
        for pid in {int(path.stem.rpartition("_")[2]) for path in files}:
            if not psutil.pid_exists(pid):
                mark_process_dead(pid)  # type: ignore[no-untyped-call]

    def _create(self, metric: MetricDefinition) -> Any:
        from prometheus_client import Counter, Gauge, Histogram

        arguments = metric.name, metric.description, metric.labels
        if metric.kind == "counter":
            return Counter(*arguments, registry=self._registry)
        if metric.kind == "gauge":
            return Gauge(*arguments, registry=self._registry, multiprocess_mode=metric.multiprocess_mode)
        return Histogram(*arguments, registry=self._registry, buckets=metric.buckets)

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        child = self._children.get((name, *labels))
        if child is None:
            names = self._definitions[name].labels
            if len(names) != len(labels):
                raise ValueError(f"{name}: got labels {labels}, expected {names}")
            bounded = [self._bounded_value(label, value) for label, value in zip(names, labels, strict=True)]
            child = self._parents[name].labels(*bounded) if names else self._parents[name]
            if OTHER not in bounded:  # otherwise the cache would grow without bound
                self._children[(name, *labels)] = child
        return child

    def _bounded_value(self, label: str, value: str) -> str:
        values = self._label_values[label]
        if value not in values:
            if len(values) >= OPEN_LABELS.get(label, 0):
                return OTHER
            values.add(value)
        return value

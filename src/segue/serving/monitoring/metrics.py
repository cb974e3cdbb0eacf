"""Service metrics for Prometheus.

Names and descriptions are in :mod:`segue.serving.monitoring.metric_definitions`. No metric identifies a user, an item
or an API key.

Shapes: N requests, I items, S items served.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes
from segue.serving.monitoring.coverage import Coverage, popularity_percentiles
from segue.serving.monitoring.metric_definitions import EVENT_RESULTS, USER_KINDS, MetricRegistry
from segue.version import __version__

if TYPE_CHECKING:
    from segue.serving.monitoring.drift import Drift

__all__ = ["Metrics"]


class Metrics:
    """Metrics of a service; all methods are thread-safe and take microseconds.

    Raises:
        ValueError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        self._registry = MetricRegistry()
        self._lock = threading.Lock()
        self._in_flight = 0
        self._active: tuple[str, str, str] | None = None
        self._served: dict[str, _ServedItems] = {}
        self._drifts: dict[str, Drift] = {}
        self._registry.set("segue_build_info", 1, __version__)
        self._registry.set("segue_ready", 0)

    def set_ready(self, is_ready: bool) -> None:
        """Set whether the service accepts requests; initially it does not."""
        self._registry.set("segue_ready", is_ready)

    def record_arrival(self) -> None:
        """Record the start of an HTTP request; :meth:`record_request` records its end."""
        with self._lock:
            self._in_flight += 1
            self._registry.set("segue_requests_in_flight", self._in_flight)

    def record_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Record an HTTP request that was answered or rejected.

        Args:
            route: route template, such as ``/v1/users/{id}``, never the path.
            status: HTTP status; only its class is recorded (``2xx``).
        """
        self._registry.observe("segue_request_duration_seconds", seconds, route, method, f"{status // 100}xx")
        with self._lock:
            self._in_flight = max(self._in_flight - 1, 0)
            self._registry.set("segue_requests_in_flight", self._in_flight)

    def record_rejection(self, reason: str) -> None:
        """Record a rejected request.

        Args:
            reason: one of :data:`segue.serving.monitoring.metric_definitions.REJECTION_REASONS`.
        """
        self._registry.increment("segue_rejected_requests_total", reason)

    def record_excess_connection(self) -> None:
        """Record a connection above a limit on connections."""
        self._registry.increment("segue_excess_connections_total")

    def record_error(self, kind: str) -> None:
        """Record an internal error of a kind, such as ``store`` or ``engine``."""
        self._registry.increment("segue_errors_total", kind)

    def set_queue_length(self, kind: str, length: int, capacity: int | None = None) -> None:
        """Set the length of a queue, and its capacity."""
        self._registry.set("segue_queue_length", length, kind)
        if capacity is not None:
            self._registry.set("segue_queue_capacity", capacity, kind)

    def record_batch(self, size: int, kind: str = "recommend") -> None:
        """Record the size of a batch of requests or events."""
        self._registry.observe("segue_batch_size", size, kind)

    def record_queue_time(self, lane: str, seconds: float) -> None:
        """Record how long a call waited for the engine.

        Args:
            lane: ``plain`` or ``expensive``.
        """
        self._registry.observe("segue_queue_duration_seconds", seconds, lane)

    def record_cancellation(self, lane: str) -> None:
        """Record a call of the engine that was dropped because the client disconnected."""
        self._registry.increment("segue_cancelled_calls_total", lane)

    def record_deadline_miss(self) -> None:
        """Record a response that was ready only after its deadline."""
        self._registry.increment("segue_deadline_misses_total")

    def record_engine_run(self, engine: str, model: str, seconds: float, rows: int) -> None:
        """Record one engine run over ``rows`` requests, or rows of a table."""
        self._registry.observe("segue_engine_duration_seconds", seconds, engine, model)
        self._registry.increment("segue_engine_rows_total", engine, model, by=rows)

    def record_predictions(self, model: str, seconds: float, rows: int) -> None:
        """Record a request whose rows a click-through model has predicted.

        Args:
            seconds: since the arrival of the request.
        """
        self._registry.observe("segue_predict_duration_seconds", seconds, model)
        self._registry.increment("segue_predicted_rows_total", model, by=rows)

    def record_rerank_fallback(self, model: str, reason: str) -> None:
        """Record a request that a reranker left in the order of its base model.

        Args:
            reason: one of :data:`segue.core.model.FALLBACK_NOTES`.
        """
        self._registry.increment("segue_rerank_fallbacks_total", model, reason)

    def record_responses(self, source: str, cause: str = "none", count: int = 1) -> None:
        """Record recommendation responses.

        Args:
            source: one of ``SOURCES`` in :mod:`segue.serving.monitoring.metric_definitions`.
            cause: one of ``FALLBACK_CAUSES``.
        """
        self._registry.increment("segue_recommend_responses_total", source, cause, by=count)

    def record_cache_lookup(self, cache: str, hit: bool) -> None:
        """Record a cache lookup."""
        self._registry.increment("segue_cache_lookups_total", cache, "hit", by=hit)
        self._registry.increment("segue_cache_lookups_total", cache, "miss", by=not hit)

    def record_store_call(self, store: str, operation: str, seconds: float, failed: bool = False) -> None:
        """Record a call of the event store, with the names of the store and its method."""
        self._registry.observe("segue_store_duration_seconds", seconds, store, operation)
        self._registry.increment("segue_store_failures_total", store, operation, by=failed)

    def set_store_up(self, is_up: bool) -> None:
        """Set whether the event store responded to the last health check."""
        self._registry.set("segue_store_up", is_up)

    def set_store_size(self, size: int, limit: int) -> None:
        """Set the size of the event store and its limit in bytes; 0: no limit."""
        self._registry.set("segue_store_bytes", size)
        self._registry.set("segue_store_limit_bytes", limit)

    def record_exposures(self, result: str, count: int) -> None:
        """Record exposures that were ``stored`` or ``dropped``."""
        self._registry.increment("segue_exposures_total", result, by=count)

    def record_item_changes(self, operation: str, count: int, total: int) -> None:
        """Record changes of items, and how many there are now.

        Args:
            operation: ``put``: they were added or replaced; ``delete``: they were removed.
            total: number of added items.
        """
        self._registry.increment("segue_item_changes_total", operation, by=count)
        self.set_added_items(total)

    def set_added_items(self, count: int) -> None:
        """Set the number of items that were added to the catalog."""
        self._registry.set("segue_added_items", count)

    def set_model(self, name: str, key: str, version: str, active: bool) -> None:
        """Add a loaded model; an ``active`` one replaces the previously active model."""
        with self._lock:
            if active and self._active is not None:
                self._registry.set("segue_model_active", 0, *self._active)
            if active:
                self._active = name, key, version
            elif self._active == (name, key, version):
                self._active = None
            self._registry.set("segue_model_active", active, name, key, version)

    def record_activation(self, rollback: bool = False) -> None:
        """Record a change of the active model."""
        self._registry.increment("segue_model_activations_total")
        self._registry.increment("segue_model_rollbacks_total", by=rollback)

    def set_golden_queries(self, model: str, matches: int, mismatches: int) -> None:
        """Set the results of a model's golden queries."""
        self._registry.set("segue_model_golden_queries", matches, model, "match")
        self._registry.set("segue_model_golden_queries", mismatches, model, "mismatch")

    def record_requests(
        self,
        lengths_N: NDArray[np.integer[Any]],
        k_N: Iterable[int],
        users: Mapping[str, int],
        unknown_items: int = 0,
        rules: Iterable[str] = (),
    ) -> None:
        """Record recommendation requests.

        Args:
            lengths_N: ``(N,)`` number of known items in each history.
            k_N: number of items requested by each.
            users: number of requests with a ``known`` user, an ``unknown`` one, and ``none``.
            unknown_items: number of history events that were ignored.
            rules: names in :data:`segue.serving.monitoring.metric_definitions.RULES`, one per occurrence.
        """
        for length in lengths_N.tolist():
            self._registry.observe("segue_history_length", length)
        for k in k_N:
            self._registry.observe("segue_requested_k", k)
        for kind in USER_KINDS:
            self._registry.increment("segue_recommend_requests_total", kind, by=users.get(kind, 0))
        self._registry.increment("segue_history_unknown_items_total", by=unknown_items)
        for rule in rules:
            self._registry.increment("segue_rules_total", rule)

    def record_events(self, accepted: int, duplicates: int = 0, unknown_items: int = 0) -> None:
        """Record stored events."""
        for result, count in zip(EVENT_RESULTS, (accepted, duplicates), strict=True):
            self._registry.increment("segue_events_total", result, by=count)
        self._registry.increment("segue_events_unknown_items_total", by=unknown_items)

    def record_served_items(
        self, codes: Codes, popularity_I: NDArray[Any] | None, n_items: int, model: str = "active"
    ) -> None:
        """Record recommended items.

        Args:
            codes: item codes, in any shape.
            popularity_I: ``(I,)`` training events per item, or any increasing function of it; the same array in every
                call.
            model: name of the model, as each has its own catalog.
        """
        with self._lock:
            served = self._served.get(model)
            if served is None or served.popularity_I is not popularity_I or len(served.coverage) != n_items:
                served = self._served[model] = _ServedItems(popularity_I, n_items)
        served.coverage.add(codes.ravel())
        self._registry.increment("segue_served_items_total", model, by=codes.size)
        if served.percentile_I is not None:
            percentiles = served.percentile_I[codes]
            self._registry.increment("segue_served_popularity_total", model, by=float(percentiles.sum()))
        self._registry.set("segue_served_coverage_ratio", served.coverage.ratio, model)

    def add_drift(self, model: str, drift: Drift) -> None:
        """Report the input drift of a model from now on."""
        self._drifts[model] = drift

    def remove_model(self, model: str) -> None:
        """Drop the drift and coverage of an unloaded model; its counters remain."""
        self._drifts.pop(model, None)
        with self._lock:
            self._served.pop(model, None)

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in the text format, and the content type."""
        for model, drift in list(self._drifts.items()):
            for name, measure in drift.measure().items():
                self._registry.set("segue_drift_sample_size", measure.sample_size, model, name)
                self._registry.set("segue_drift_stability_index", measure.stability_index, model, name)
                self._registry.set("segue_drift_divergence_ratio", measure.divergence, model, name)
        return self._registry.render()

    def close(self) -> None:
        """Remove this process's gauges from the aggregate of all worker processes."""
        self._registry.close()


class _ServedItems:
    """Coverage and popularity percentiles of one model's catalog."""

    def __init__(self, popularity_I: NDArray[Any] | None, n_items: int) -> None:
        self.popularity_I = popularity_I
        self.percentile_I = None if popularity_I is None else popularity_percentiles(popularity_I)
        self.coverage = Coverage(n_items)

"""What the service tells its operators, in the text format of Prometheus (https://prometheus.io/docs/instrumenting).

What there is, and under which name, stands in :mod:`segue.serving.monitoring.metric_definitions`. No user, item or key is part of it.

Shapes: N questions, I items, S items served.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue import __version__
from segue.core.events import Codes
from segue.serving.monitoring.coverage import Coverage, percentiles
from segue.serving.monitoring.metric_definitions import TAKEN, USERS, Instruments

if TYPE_CHECKING:
    from segue.serving.monitoring.drift import Drift

__all__ = ["Metrics"]


class Metrics:
    """Counts and measures; every method may be called from any thread and takes some microseconds.

    Raises:
        ValueError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        self._told = Instruments()
        self._lock = threading.Lock()
        self._inside = 0
        self._active: tuple[str, str, str] | None = None
        self._covered: dict[str, _Served] = {}
        self._watched: dict[str, Drift] = {}
        self._told.set("segue_build_info", 1, __version__)
        self._told.set("segue_ready", 0)

    def ready(self, yes: bool) -> None:
        """Whether the service takes requests; before the first call it does not."""
        self._told.set("segue_ready", yes)

    def arrived(self) -> None:
        """A request came; :meth:`request` is its end."""
        with self._lock:
            self._inside += 1
            self._told.set("segue_requests_in_flight", self._inside)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered, or refused.

        Args:
            route: the template, such as ``/v1/users/{id}``; never the path itself.
            status: of HTTP; its class is told (``2xx``).
        """
        self._told.observe("segue_request_seconds", seconds, route, method, f"{status // 100}xx")
        with self._lock:
            self._inside = max(self._inside - 1, 0)
            self._told.set("segue_requests_in_flight", self._inside)

    def refused(self, reason: str) -> None:
        """A request was turned away: :data:`segue.serving.monitoring.metric_definitions.REASONS`."""
        self._told.count("segue_refused_total", reason)

    def error(self, kind: str) -> None:
        """Something went wrong that should not; ``kind`` is such as the name of an exception's class."""
        self._told.count("segue_errors_total", kind)

    def queue(self, kind: str, waiting: int, limit: int | None = None) -> None:
        """So many requests of a kind wait now, and may wait."""
        self._told.set("segue_queue_waiting", waiting, kind)
        if limit is not None:
            self._told.set("segue_queue_limit", limit, kind)

    def batch(self, size: int, kind: str = "questions") -> None:
        """So many questions, or events, are worked on together."""
        self._told.observe("segue_batch_size", size, kind)

    def engine(self, engine: str, model: str, seconds: float, rows: int) -> None:
        """An engine answered ``rows`` questions at once."""
        self._told.observe("segue_engine_seconds", seconds, engine, model)
        self._told.count("segue_engine_rows_total", engine, model, by=rows)

    def step(self, step: str, cause: str = "none", count: int = 1) -> None:
        """So many answers came from a step of the ladder: ``STEPS`` and ``CAUSES`` of
        :mod:`segue.serving.monitoring.metric_definitions`."""
        self._told.count("segue_answers_total", step, cause, by=count)

    def cache(self, name: str, hit: bool) -> None:
        """Something was looked for in a cache."""
        self._told.count("segue_cache_lookups_total", name, "hit", by=hit)
        self._told.count("segue_cache_lookups_total", name, "miss", by=not hit)

    def store(self, store: str, operation: str, seconds: float, failed: bool = False) -> None:
        """The state store was called: its name, and that of the method."""
        self._told.observe("segue_store_seconds", seconds, store, operation)
        self._told.count("segue_store_failures_total", store, operation, by=failed)

    def model(self, name: str, key: str, version: str, active: bool) -> None:
        """A model is at hand. Where it is ``active``, the one that was so before is no more."""
        with self._lock:
            if active and self._active is not None:
                self._told.set("segue_model_active", 0, *self._active)
            if active:
                self._active = name, key, version
            elif self._active == (name, key, version):
                self._active = None
            self._told.set("segue_model_active", active, name, key, version)

    def activated(self, rollback: bool = False) -> None:
        """Another model became the active one."""
        self._told.count("segue_model_activations_total")
        self._told.count("segue_model_rollbacks_total", by=rollback)

    def golden(self, model: str, agreed: int, differed: int) -> None:
        """How the golden queries of a model were answered."""
        self._told.set("segue_model_golden_queries", agreed, model, "agreed")
        self._told.set("segue_model_golden_queries", differed, model, "differed")

    def asked(
        self,
        lengths_N: NDArray[np.integer[Any]],
        k_N: Iterable[int],
        users: Mapping[str, int],
        unknown_items: int = 0,
        rules: Iterable[str] = (),
    ) -> None:
        """Questions came.

        Args:
            lengths_N: ``(N,)`` events of known items in each history.
            k_N: items that each asks for.
            users: how many of the N have a ``known`` user, an ``unknown`` one, and ``none``.
            unknown_items: events of all histories that are left out.
            rules: names of :data:`segue.serving.monitoring.metric_definitions.RULES`, each as often as it is brought.
        """
        for length in lengths_N.tolist():
            self._told.observe("segue_history_events", length)
        for k in k_N:
            self._told.observe("segue_asked_items", k)
        for user in USERS:
            self._told.count("segue_questions_total", user, by=users.get(user, 0))
        self._told.count("segue_history_unknown_items_total", by=unknown_items)
        for rule in rules:
            self._told.count("segue_rules_total", rule)

    def events(self, accepted: int, duplicates: int = 0, unknown_items: int = 0) -> None:
        """Events were taken in."""
        for result, count in zip(TAKEN, (accepted, duplicates), strict=True):
            self._told.count("segue_events_total", result, by=count)
        self._told.count("segue_events_unknown_items_total", by=unknown_items)

    def served(self, codes: Codes, popularity_I: NDArray[Any] | None, n_items: int, model: str = "active") -> None:
        """Items went out.

        Args:
            codes: of the items, in any shape.
            popularity_I: ``(I,)`` events per item in training, or what grows with them; the same array in every call.
            model: its name, as each has a catalogue of its own.
        """
        with self._lock:
            found = self._covered.get(model)
            if found is None or found.popularity_I is not popularity_I or len(found.coverage) != n_items:
                found = self._covered[model] = _Served(popularity_I, n_items)
        found.coverage.add(codes.ravel())
        self._told.count("segue_served_items_total", model, by=codes.size)
        if found.percentile_I is not None:
            self._told.count("segue_served_popularity_total", model, by=float(found.percentile_I[codes].sum()))
        self._told.set("segue_served_coverage_ratio", found.coverage.share, model)

    def watch(self, model: str, drift: Drift) -> None:
        """Tell, from now on, how far what this model is asked has drifted."""
        self._watched[model] = drift

    def unwatch(self, model: str) -> None:
        """A model is at hand no more: what was kept of it goes, its counters stay."""
        self._watched.pop(model, None)
        with self._lock:
            self._covered.pop(model, None)

    def text(self) -> tuple[bytes, str]:
        """All metrics as they stand, and their content type."""
        for model, drift in list(self._watched.items()):
            for name, measured in drift.measures().items():
                self._told.set("segue_drift_sample", measured.sample, model, name)
                self._told.set("segue_drift_stability_index", measured.stability, model, name)
                self._told.set("segue_drift_divergence_ratio", measured.divergence, model, name)
        return self._told.text()

    def close(self) -> None:
        """The process ends; in a service of several, its gauges count no more."""
        self._told.close()


class _Served:
    """What is kept of a model's answers."""

    def __init__(self, popularity_I: NDArray[Any] | None, n_items: int) -> None:
        self.popularity_I = popularity_I
        self.percentile_I = None if popularity_I is None else percentiles(popularity_I)
        self.coverage = Coverage(n_items)

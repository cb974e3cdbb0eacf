"""The recommendation service without HTTP.

It turns batches of requests and events into responses. When a model fails or would miss a deadline, a fallback chain
takes over: the configured fallback model, neighbors of the history's items, popular items. The last two need no
engine, so there is always a response; its ``source`` says what produced it.

Shapes: N requests, I items, D width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

from segue.serving import schemas
from segue.serving.catalog.added_items import AddedItems
from segue.serving.errors import format_traceback
from segue.serving.model_registry import InsufficientMemory, LoadedModel, ModelRegistry, UnknownModel
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metric_definitions import RULES
from segue.serving.monitoring.metrics import Metrics
from segue.serving.ranking.latency_estimator import LatencyEstimator
from segue.serving.ranking.scorer import PendingRequest, RenderedResponse, RequestBatch, Scorer
from segue.serving.rules.rerank import CompiledRules, RankedList, compile_rules
from segue.serving.scheduling.engine_scheduler import MAX_EXPENSIVE_ROWS, Outputs
from segue.serving.scheduling.steps import Steps, StepTimer
from segue.serving.settings import ServingSettings
from segue.serving.stores.monitor import StoreMonitor
from segue.serving.stores.store import Event, Exposure, Store, StoreError
from segue.serving.stores.timeout import TimeoutStore
from segue.serving.users.event_actions import check_history_actions
from segue.serving.users.event_context import check_request_context
from segue.serving.users.input_notes import describe_request
from segue.serving.users.query_builder import QueryBuilder
from segue.serving.users.user_features import check_profile
from segue.serving.users.user_states import UserStates

__all__ = ["InvalidRequest", "Job", "PendingRequest", "Service", "merge_unknown"]

logger = logging.getLogger("segue.serving")

STORE_UNAVAILABLE = (
    "event store unavailable: events since training are unknown, and the user's training data is not used"
)

FAILURES = {
    "deadline": "would have missed the deadline",
    "error": "failed",
    "store": "could not read the event store",
}
"""What happened to the requested model, by cause, for the notes of a response."""


class InvalidRequest(ValueError):
    """A request that cannot be processed: the invalid ``field`` and the ``reason``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


Job: TypeAlias = PendingRequest | Callable[[], Steps[Any]]
"""Work for the one thread that may use the engines: a request, or any other computation that needs them."""

RankFn: TypeAlias = Callable[[RequestBatch], Steps[list[RankedList]]]
"""Rank a batch by one source of the fallback chain."""


class Service:
    """Answers recommendation requests and records events.

    Args:
        models: the model registry.
        store: events and states of users; its calls get the timeouts of the settings, if it is not a
            :class:`~segue.serving.stores.timeout.TimeoutStore`.
        drifts: drift monitors by model; entries may be added later.
    """

    def __init__(
        self,
        models: ModelRegistry,
        store: Store,
        settings: ServingSettings,
        metrics: Metrics,
        drifts: Mapping[str, Drift] | None = None,
    ) -> None:
        self.models, self.settings, self.metrics = models, settings, metrics
        self.store = (
            store
            if isinstance(store, TimeoutStore)
            else TimeoutStore(store, settings.store_timeout_ms / 1000, settings.store_write_timeout_ms / 1000)
        )
        self.store_monitor = StoreMonitor(self.store, metrics, settings.max_store_bytes)
        self.query_builder = QueryBuilder(self.store, settings.max_user_events)
        self.added_items = AddedItems(self.store, models, metrics, settings.max_added_items)
        self._scorer = Scorer(UserStates(self.store, self.store_monitor.log_failure), metrics)
        self._drifts = {} if drifts is None else drifts
        self._latencies = LatencyEstimator()

    def run_jobs(self, jobs: Sequence[Job], max_rows: int) -> Outputs:
        """Yield the result of each job, or its exception, in steps; not thread-safe.

        Args:
            max_rows: number of requests that are computed together at most.
        """
        rows = [row for row, job in enumerate(jobs) if isinstance(job, PendingRequest)]
        for start in range(0, len(rows), max_rows):
            chunk = rows[start : start + max_rows]
            yield from _renumber(self.recommend_in_steps([cast("PendingRequest", jobs[row]) for row in chunk]), chunk)
        for row, job in enumerate(jobs):
            if not isinstance(job, PendingRequest):
                try:
                    result = yield from job()
                except Exception as error:
                    result = error
                yield [(row, result)]

    def recommend(
        self, pending: Sequence[PendingRequest]
    ) -> list[schemas.RecommendResponse | InvalidRequest | Exception]:
        """Return a response to each request, or the error that prevents one.

        See :meth:`recommend_in_steps`.
        """
        results = {row: result for output in self.recommend_in_steps(pending) for row, result in output or ()}
        return [results[row] for row in range(len(pending))]

    def recommend_in_steps(self, pending: Sequence[PendingRequest]) -> Outputs:
        """Yield a response to each request, or the error that prevents one.

        The error is an :class:`InvalidRequest` for an unknown model, a profile of the wrong type or invalid rules, and
        any other exception for an internal error. Responses are yielded as soon as all requests to the same model that
        are answered by the same source are ready.
        """
        if self.store.is_in_process:  # otherwise a loop of the application reads the changes of other processes
            self.added_items.refresh()
        groups: dict[int, tuple[LoadedModel, list[int], list[CompiledRules]]] = {}
        for row, one in enumerate(pending):
            try:
                model = self._find_model(one.request) if one.model is None else self.models.newest(one.model)
                rules = self._compile_rules(model, one.request)
                self._validate_inputs(model, one.request)
            except Exception as error:  # such as an unreadable model file; must not affect the other requests
                yield [(row, error)]
                continue
            _, rows, all_rules = groups.setdefault(id(model), (model, [], []))  # a name may have two versions
            rows.append(row)
            all_rules.append(rules)
            yield None
        for model, rows, all_rules in groups.values():
            yield from _renumber(self._recommend_isolated(model, [pending[row] for row in rows], all_rules), rows)

    def close(self) -> None:
        """Close the store; the service must not be used afterwards."""
        self.store_monitor.close()
        self.store.close()

    def append_events(self, events: Sequence[Event]) -> list[bool]:
        """Store events; return whether each is new.

        Raises:
            StoreError: none was stored.
        """
        start, failed = time.monotonic(), True
        try:
            is_new = self.store.append(events)
            failed = False
        finally:
            self.metrics.record_store_call(self.store.name, "append", time.monotonic() - start, failed)
        return is_new

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        """Store which items were shown in experiments.

        Raises:
            StoreError: none was stored.
        """
        start, failed = time.monotonic(), True
        try:
            self.store.record_exposures(exposures)
            failed = False
        finally:
            self.metrics.record_store_call(self.store.name, "record_exposures", time.monotonic() - start, failed)

    def update_user_states(self, users: Sequence[str]) -> Steps[None]:
        """Update the active model's states of users, a few at a time.

        Only the thread that may use the engines may call this.
        """
        model = self.models.active
        requests = [schemas.RecommendRequest(user=user) for user in dict.fromkeys(users)]
        for start in range(0, len(requests), MAX_EXPENSIVE_ROWS) if model.artifact.supports_streaming else ():
            part = requests[start : start + MAX_EXPENSIVE_ROWS]
            prepared = self.query_builder.build(model.artifact, part)
            yield
            self._scorer.update_states(model, part, prepared, list(range(len(part))))
            yield

    def prune_states(self) -> int:
        """Delete the user states that were not updated for a long time.

        Returns how many were deleted. See :attr:`ServingSettings.state_days`.

        Raises:
            StoreError: the store fails; some states may have been deleted.
        """
        return self.store.prune_states(int(time.time()) - 86_400 * self.settings.state_days)

    def _recommend_isolated(
        self, model: LoadedModel, pending: Sequence[PendingRequest], rules: Sequence[CompiledRules]
    ) -> Outputs:
        """Answer requests to one model, isolating unexpected errors.

        A batch that fails is split in halves, so that an error affects only the request that causes it.
        """
        remaining = dict.fromkeys(range(len(pending)))
        try:
            batch = self._build_batch(model, pending, rules)
            yield None
            self._record_requests(batch)
            for output in self._run_fallback_chain(batch):
                for row, _ in output or ():
                    del remaining[row]
                yield output
            return
        except Exception as error:
            if len(pending) == 1:
                yield [(0, error)]
                return
        rows, half = list(remaining), (len(remaining) + 1) // 2
        for part in (rows[:half], rows[half:]):
            if part:
                steps = self._recommend_isolated(model, [pending[row] for row in part], [rules[row] for row in part])
                yield from _renumber(steps, part)

    def _validate_inputs(self, model: LoadedModel, request: schemas.RecommendRequest) -> None:
        schema = model.artifact.bundle.model.schema
        try:
            check_profile(model.artifact.bundle, request.profile)
            check_history_actions(schema, request.history)
            check_request_context(self.models.context_columns(schema), request)
        except ValueError as error:
            field, _, reason = str(error).partition(": ")
            raise InvalidRequest(field, reason) from None

    def _find_model(self, request: schemas.RecommendRequest) -> LoadedModel:
        try:
            return self.models.find(request.model)
        except (UnknownModel, InsufficientMemory) as error:
            raise InvalidRequest("model", str(error).removeprefix("model: ")) from None
        except ValueError as error:
            logger.error("model cannot be loaded: %s", error)
            raise InvalidRequest("model", "the model cannot be loaded") from None

    def _compile_rules(self, model: LoadedModel, request: schemas.RecommendRequest) -> CompiledRules:
        try:
            return compile_rules(request, self.settings.default_rules, model.catalog)
        except ValueError as error:
            field, _, reason = str(error).partition(": ")
            raise InvalidRequest(field, reason) from None

    def _build_batch(
        self, model: LoadedModel, pending: Sequence[PendingRequest], rules: Sequence[CompiledRules]
    ) -> RequestBatch:
        requests = [one.request for one in pending]
        start, failed = time.monotonic(), False
        notes: tuple[str, ...] = ()
        try:
            prepared = self.query_builder.build(model.artifact, requests)
        except StoreError as error:
            failed, notes = True, (STORE_UNAVAILABLE,)
            self.store_monitor.log_failure("recent_events", error)
            prepared = self.query_builder.build(model.artifact, requests, without_store=True)
        if any(one.uses_stored_history for one in requests):
            self.metrics.record_store_call(self.store.name, "recent_events", time.monotonic() - start, failed)
        return RequestBatch(model, pending, rules, prepared, notes)

    def _record_requests(self, batch: RequestBatch) -> None:
        """Update metrics and drift monitors, except for shadow requests."""
        if not (rows := [row for row, one in enumerate(batch.pending) if not one.is_shadow]):
            return
        visible = batch.select(rows)
        queries, requests = visible.prepared.queries, visible.requests
        users = {"none": 0, "known": 0, "unknown": 0}
        for request, unknown in zip(requests, visible.prepared.unknown, strict=True):
            users["none" if request.user is None else "unknown" if unknown.user else "known"] += 1
        n_unknown_items = sum(len(unknown.items) for unknown in visible.prepared.unknown)
        rules = [name for request in requests for name in RULES if getattr(request, name)]
        ks = [request.k for request in requests]
        self.metrics.record_requests(queries.history.lengths, ks, users, n_unknown_items, rules)
        if (drift := self._drifts.get(batch.model.info.name)) is not None:
            drift.record(queries.history)

    def _run_fallback_chain(self, batch: RequestBatch) -> Outputs:
        """Try one source after another until every request has a response."""
        remaining = list(range(len(batch.pending)))
        causes = ["none"] * len(batch.pending)
        sources: list[tuple[schemas.Source, RankFn]] = [("model", self._scorer.rank_by_model)]
        fallback = self._fallback_model(batch.model)
        if fallback is not None:
            sources.append(("fallback", self._scorer.rank_by_model))
        sources += [("neighbors", self._scorer.rank_by_neighbors), ("popular", self._scorer.rank_by_popularity)]
        for source, compute in sources:
            if not remaining:
                break
            load = f"{batch.model.info.name}/{source}/{_load_class([batch.rules[row] for row in remaining])}"
            now = time.monotonic()
            rows = [
                row
                for row in remaining
                if source == "popular" or self._latencies.can_meet_deadline(load, batch.pending[row].deadline - now)
            ]
            for row in set(remaining) - set(rows):
                causes[row] = "deadline"
            if source == "neighbors":  # they need a history
                lengths_N = batch.prepared.queries.history.lengths
                rows = [row for row in rows if lengths_N[row]]
            if not rows:
                continue
            part = batch.select(rows)
            if source == "fallback" and fallback is not None:
                try:
                    rows, part = self._rebatch_for_fallback(fallback, rows, part)
                except Exception as error:
                    self.metrics.record_error("engine")
                    extra = {"traceback": format_traceback(error)}
                    logger.error("fallback model %s unavailable", fallback.info.name, extra=extra)
                    continue
            if not rows:
                continue
            results = yield from self._rank(part, compute, source, load)
            responses: list[tuple[int, schemas.RecommendResponse | RenderedResponse]] = []
            for index, (row, result) in enumerate(zip(rows, results, strict=True)):
                if isinstance(result, Exception):
                    causes[row] = "store" if isinstance(result, StoreError) else "error"
                    continue
                response = _build_response(part, index, result, source, causes[row])
                is_rendered = batch.pending[row].is_rendered
                responses.append((row, RenderedResponse.from_response(response) if is_rendered else response))
                remaining.remove(row)
                self._record_response(part, index, result, source, causes[row])
                yield None
            yield responses
        if remaining:
            raise RuntimeError(f"the last source of model {batch.model.info.name} failed; the log has its error")

    def _record_response(
        self, batch: RequestBatch, row: int, ranked: RankedList, source: schemas.Source, cause: str
    ) -> None:
        """Update metrics, except for shadow requests."""
        one, model = batch.pending[row], batch.model
        if not one.is_shadow:
            popularity, n_items = model.artifact.popularity, model.catalog.n_items
            self.metrics.record_served_items(ranked.codes, popularity, n_items, model.info.name)
            self.metrics.record_responses(source, cause)
            if time.monotonic() > one.deadline:
                self.metrics.record_deadline_miss()

    def _rank(
        self, batch: RequestBatch, compute: RankFn, source: schemas.Source, load: str
    ) -> Steps[Sequence[RankedList | Exception]]:
        """Rank a batch by one source; return a list or an exception for each request."""
        results: Sequence[RankedList | Exception]
        timer, is_failed = StepTimer(), True
        try:
            results = yield from timer.run(compute(batch))
            is_failed = False
        except Exception as error:
            results = yield from _rank_by_bisection(compute, batch, error)
        finally:
            self._latencies.record(load, timer.seconds, is_failed)
        if errors := [one for one in results if isinstance(one, Exception)]:
            if isinstance(errors[0], StoreError):
                self.store_monitor.log_failure("get_states", errors[0])
            else:
                self.metrics.record_error("engine")
                extra = {"traceback": format_traceback(errors[0])}
                logger.error("source %s of model %s failed", source, batch.model.info.name, extra=extra)
        return results

    def _rebatch_for_fallback(
        self, fallback: LoadedModel, rows: list[int], batch: RequestBatch
    ) -> tuple[list[int], RequestBatch]:
        """Return the rows and a batch of the requests that the fallback model can answer.

        A profile or rules may be invalid for the fallback model, whose features may differ.
        """
        valid: list[tuple[int, PendingRequest, CompiledRules]] = []
        for row, one in zip(rows, batch.pending, strict=True):
            with suppress(InvalidRequest):
                self._validate_inputs(fallback, one.request)
                valid.append((row, one, self._compile_rules(fallback, one.request)))
        pending, rules = [one for _, one, _ in valid], [rules for _, _, rules in valid]
        return [row for row, _, _ in valid], self._build_batch(fallback, pending, rules) if valid else batch

    def _fallback_model(self, model: LoadedModel) -> LoadedModel | None:
        name = self.settings.fallback
        if name is None or name == model.info.name:
            return None
        try:
            return self.models.find(name)
        except ValueError as error:
            logger.error("fallback model cannot be loaded", extra={"traceback": format_traceback(error)})
            return None


def _load_class(rules: Sequence[CompiledRules]) -> str:
    """Return a key for batches of similar cost.

    Latencies of large batches, or of batches with rules, do not apply to simple requests.
    """
    return f"{len(rules).bit_length()}{'' if all(one.is_trivial for one in rules) else ' with rules'}"


def _renumber(outputs: Outputs, rows: Sequence[int]) -> Outputs:
    """Yield the same outputs, with ``rows[index]`` for each index."""
    for output in outputs:
        yield None if output is None else [(rows[index], result) for index, result in output]


def _rank_by_bisection(compute: RankFn, batch: RequestBatch, error: Exception) -> Steps[list[RankedList | Exception]]:
    """Rank the halves of a failed batch separately, to isolate faulty requests.

    Stops at the deadline, and at errors of the store, which concern all requests.

    Args:
        error: raised by ``compute`` for the whole batch.
    """
    count = len(batch.pending)
    is_late = time.monotonic() > min(one.deadline for one in batch.pending)
    if count == 1 or is_late or isinstance(error, StoreError):
        return [error] * count
    results: list[RankedList | Exception] = []
    for rows in (range(count // 2), range(count // 2, count)):
        half = batch.select(rows)
        if time.monotonic() > min(one.deadline for one in batch.pending):
            results += [error] * len(rows)
            continue
        try:
            results += yield from compute(half)
        except Exception as half_error:
            results += yield from _rank_by_bisection(compute, half, half_error)
    return results


def merge_unknown(unknown: schemas.UnknownInputs, rules: CompiledRules) -> schemas.UnknownInputs:
    """Return the unknown inputs of a request and of its rules, each once."""
    if not (unknown.items or rules.unknown_items or rules.unknown_features):
        return unknown
    return schemas.UnknownInputs(
        user=unknown.user,
        items=list(dict.fromkeys([*unknown.items, *rules.unknown_items])),
        features=list(dict.fromkeys([*unknown.features, *rules.unknown_features])),
    )


def _build_response(
    batch: RequestBatch, row: int, ranked: RankedList, source: schemas.Source, cause: str
) -> schemas.RecommendResponse:
    """Build a response without validation: all parts are known to be valid."""
    model, rules = batch.model, batch.rules[row]
    codes = ranked.codes
    probabilities = [None] * len(codes) if ranked.probabilities is None else ranked.probabilities.tolist()
    columns = model.catalog.ids(codes), model.catalog.titles(codes), ranked.scores.tolist(), probabilities
    items = [
        schemas.RecommendedItem.model_construct(id=item, title=title, score=score, probability=share, pinned=pinned)
        for item, title, score, share, pinned in zip(*columns, ranked.pinned.tolist(), strict=True)
    ]
    unknown, history_notes = batch.prepared.unknown[row], batch.prepared.notes[row]
    filtered_counts = {**rules.filtered_counts, **ranked.filtered_counts}
    if batch.pending[row].hides_history:
        unknown, history_notes = schemas.UnknownInputs(user=unknown.user, features=unknown.features), ()
        filtered_counts.pop("seen", None)
    unknown = merge_unknown(unknown, rules)
    trained = model.artifact.bundle
    input_notes = describe_request(trained.model, trained.key, batch.pending[row].request)
    notes = [*batch.notes, *input_notes, *batch.prepared.profile_notes[row], *history_notes, *ranked.notes]
    if cause != "none":
        notes.append(f"the requested model {FAILURES[cause]}; recommendations come from source '{source}'")
    return schemas.RecommendResponse.model_construct(
        items=items, model=model.info, source=source, filtered_counts=filtered_counts, unknown=unknown, notes=notes
    )

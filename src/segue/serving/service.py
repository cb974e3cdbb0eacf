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
from typing import Any, TypeAlias

from segue.serving import schemas
from segue.serving.errors import format_traceback
from segue.serving.model_registry import LoadedModel, ModelRegistry
from segue.serving.monitoring.drift import Drift
from segue.serving.monitoring.metric_definitions import RULES
from segue.serving.monitoring.metrics import Metrics
from segue.serving.ranking.latency_estimator import LatencyEstimator
from segue.serving.ranking.scorer import PendingRequest, RequestBatch, Scorer
from segue.serving.rules.rerank import CompiledRules, RankedList, compile_rules
from segue.serving.settings import ServingSettings
from segue.serving.stores.store import Event, Exposure, Store, StoreError
from segue.serving.stores.timeout import TimeoutStore
from segue.serving.users.event_actions import check_history_actions
from segue.serving.users.input_notes import describe_request
from segue.serving.users.query_builder import QueryBuilder
from segue.serving.users.user_features import coerce_user_features
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


Job: TypeAlias = PendingRequest | Callable[[], Any]
"""Work for the one thread that may use the engines: a request, or any other call that needs them."""


class Service:
    """Answers recommendation requests and records events.

    Args:
        models: the model registry.
        store: events and states of users.
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
        self.models, self.store, self.settings, self.metrics = models, store, settings, metrics
        self._read_store = TimeoutStore(store, settings.store_timeout_ms / 1000)
        self.query_builder = QueryBuilder(self._read_store, settings.max_user_events)
        self._scorer = Scorer(UserStates(self._read_store), metrics)
        self._drifts = {} if drifts is None else drifts
        self._latencies = LatencyEstimator()

    def run_jobs(self, jobs: Sequence[Job]) -> list[Any]:
        """Return the result of each job, or its exception; not thread-safe."""
        results: list[Any] = [None] * len(jobs)
        pending = [(row, job) for row, job in enumerate(jobs) if isinstance(job, PendingRequest)]
        for (row, _), response in zip(pending, self.recommend([job for _, job in pending]), strict=True):
            results[row] = response
        for row, job in enumerate(jobs):
            if not isinstance(job, PendingRequest):
                try:
                    results[row] = job()
                except Exception as error:
                    results[row] = error
        return results

    def recommend(
        self, pending: Sequence[PendingRequest]
    ) -> list[schemas.RecommendResponse | InvalidRequest | Exception]:
        """Return a response to each request, or the error that prevents one.

        The error is an :class:`InvalidRequest` for an unknown model, a profile of the wrong type or invalid rules, and
        any other exception for an internal error.
        """
        results: dict[int, schemas.RecommendResponse | InvalidRequest | Exception] = {}
        groups: dict[str, tuple[LoadedModel, list[int], list[CompiledRules]]] = {}
        for row, one in enumerate(pending):
            try:
                model = self._find_model(one.request)
                rules = self._compile_rules(model, one.request)
                self._validate_inputs(model, one.request)
            except InvalidRequest as error:
                results[row] = error
                continue
            except Exception as error:  # such as an unreadable model file; must not affect the other requests
                results[row] = error
                continue
            _, rows, all_rules = groups.setdefault(model.info.name, (model, [], []))
            rows.append(row)
            all_rules.append(rules)
        for model, rows, all_rules in groups.values():
            responses = self._recommend_isolated(model, [pending[row] for row in rows], all_rules)
            results.update(zip(rows, responses, strict=True))
        return [results[row] for row in range(len(pending))]

    def close(self) -> None:
        """Close the store; the service must not be used afterwards."""
        self._read_store.close()
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

    def record_exposures(self, exposures: Sequence[Exposure]) -> list[None]:
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
        return [None] * len(exposures)

    def update_user_states(self, users: Sequence[str]) -> None:
        """Update the active model's states of users.

        Only the thread that may use the engines may call this.
        """
        model = self.models.active
        if model.artifact.supports_streaming:
            requests = [schemas.RecommendRequest(user=user) for user in dict.fromkeys(users)]
            prepared = self.query_builder.build(model.artifact, requests)
            self._scorer.update_states(model, requests, prepared, list(range(len(requests))))

    def prune_states(self) -> int:
        """Delete the user states of unavailable models and return their number.

        Raises:
            StoreError: the store fails; some states may have been deleted.
        """
        return self.store.prune_states(self.models.versions())

    def _recommend_isolated(
        self, model: LoadedModel, pending: Sequence[PendingRequest], rules: Sequence[CompiledRules]
    ) -> list[schemas.RecommendResponse | InvalidRequest | Exception]:
        """Answer requests to one model, isolating unexpected errors.

        A batch that fails is split in halves, so that an error affects only the request that causes it.
        """
        try:
            batch = self._build_batch(model, pending, rules)
            self._record_requests(batch)
            return list(self._run_fallback_chain(batch))
        except Exception as error:
            if len(pending) == 1:
                return [error]
        half = len(pending) // 2
        return [
            *self._recommend_isolated(model, pending[:half], rules[:half]),
            *self._recommend_isolated(model, pending[half:], rules[half:]),
        ]

    def _validate_inputs(self, model: LoadedModel, request: schemas.RecommendRequest) -> None:
        schema = model.artifact.bundle.model.schema
        try:
            coerce_user_features(schema.user_features, request.profile)
            check_history_actions(schema, request.history)
        except ValueError as error:
            field, _, reason = str(error).partition(": ")
            raise InvalidRequest(field, reason) from None

    def _find_model(self, request: schemas.RecommendRequest) -> LoadedModel:
        try:
            return self.models.find(request.model)
        except ValueError as error:
            raise InvalidRequest("model", str(error).removeprefix("model: ")) from None

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
            self.metrics.record_error("store")
            logger.error("event store unavailable", extra={"traceback": format_traceback(error)})
            prepared = self.query_builder.build(model.artifact, requests, without_store=True)
        if any(one.user is not None and one.history is None for one in requests):
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

    def _run_fallback_chain(self, batch: RequestBatch) -> list[schemas.RecommendResponse]:
        """Try one source after another until every request has a response."""
        responses: dict[int, schemas.RecommendResponse] = {}
        causes = ["none"] * len(batch.pending)
        sources: list[tuple[schemas.Source, Callable[[RequestBatch], list[RankedList]]]] = [
            ("model", self._scorer.rank_by_model)
        ]
        fallback = self._fallback_model(batch.model)
        if fallback is not None:
            sources.append(("fallback", self._scorer.rank_by_model))
        sources += [("neighbors", self._scorer.rank_by_neighbors), ("popular", self._scorer.rank_by_popularity)]
        for source, compute in sources:
            remaining = [row for row in range(len(batch.pending)) if row not in responses]
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
            for index, (row, result) in enumerate(zip(rows, self._rank(part, compute, source, load), strict=True)):
                if isinstance(result, Exception):
                    causes[row] = "store" if isinstance(result, StoreError) else "error"
                    continue
                responses[row] = _build_response(part, index, result, source, causes[row])
                if not batch.pending[row].is_shadow:
                    artifact, n_items = part.model.artifact, part.model.catalog.n_items
                    self.metrics.record_served_items(result.codes, artifact.popularity, n_items, part.model.info.name)
                    self.metrics.record_responses(source, causes[row])
        return [responses[row] for row in range(len(batch.pending))]

    def _rank(
        self,
        batch: RequestBatch,
        compute: Callable[[RequestBatch], list[RankedList]],
        source: schemas.Source,
        load: str,
    ) -> Sequence[RankedList | Exception]:
        """Rank a batch by one source; return a list or an exception for each request."""
        results: Sequence[RankedList | Exception]
        try:
            with self._latencies.measure(load):
                results = compute(batch)
        except Exception as error:
            results = _rank_by_bisection(compute, batch, error)
        if errors := [one for one in results if isinstance(one, Exception)]:
            self.metrics.record_error("store" if isinstance(errors[0], StoreError) else "engine")
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


def _rank_by_bisection(
    compute: Callable[[RequestBatch], list[RankedList]], batch: RequestBatch, error: Exception
) -> list[RankedList | Exception]:
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
            results += compute(half)
        except Exception as half_error:
            results += _rank_by_bisection(compute, half, half_error)
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
    unknown = merge_unknown(batch.prepared.unknown[row], rules)
    features = model.artifact.bundle.model.schema.user_features
    input_notes = describe_request(features, batch.pending[row].request)
    notes = [*batch.notes, *input_notes, *batch.prepared.notes[row], *ranked.notes]
    if cause != "none":
        notes.append(f"the requested model {FAILURES[cause]}; recommendations come from source '{source}'")
    filtered_counts = {**rules.filtered_counts, **ranked.filtered_counts}
    return schemas.RecommendResponse.model_construct(
        items=items, model=model.info, source=source, filtered_counts=filtered_counts, unknown=unknown, notes=notes
    )

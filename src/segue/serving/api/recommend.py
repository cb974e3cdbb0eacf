"""Routes of recommendations and explanations."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TypeAlias

from fastapi import APIRouter, Request, Response

from segue.serving import schemas
from segue.serving.api.dependencies import NOT_FOUND, ApiDependencies, invalid_field, json_response, unwrap
from segue.serving.errors import ApiError, format_traceback
from segue.serving.experiments.assignment import Assignment
from segue.serving.experiments.rank_biased_overlap import rank_biased_overlap
from segue.serving.explain.explain import explain_in_steps
from segue.serving.model_registry import LoadedModel
from segue.serving.ranking.scorer import RenderedResponse
from segue.serving.rules.rerank import compile_rules
from segue.serving.scheduling.steps import Steps
from segue.serving.service import InvalidRequest, PendingRequest, merge_unknown
from segue.serving.stores.store import Exposure, StoreError
from segue.serving.users.event_actions import check_history_actions
from segue.serving.users.event_context import check_request_context
from segue.serving.users.input_notes import describe_request
from segue.serving.users.user_features import check_profile

__all__ = ["NoPredictions", "RecommendRoutes", "is_expensive"]

MAX_PLAIN_K, MAX_PLAIN_HISTORY, MAX_PLAIN_CONDITIONS, MAX_PLAIN_IDS = 100, 256, 4, 1_000
"""Largest values of a plain request: items requested, events of the history, conditions on items, and ids in rules."""

EXPLAIN_DEADLINES = 5
"""Default deadline of an explanation, in default deadlines of a recommendation."""

SHADOW_CLIENT = "segue:shadow"
"""Client whose share of the engine shadow models use; it is no key and no address."""

MAX_SHADOW_TASKS = 64
"""Maximum number of background tasks that run shadow models."""

logger = logging.getLogger("segue.serving")

Shown: TypeAlias = tuple[schemas.RecommendRequest, Assignment, list[str]]
"""Request, its assignment, and the items shown."""


class RecommendRoutes:
    """Routes that use the models."""

    def __init__(self, dependencies: ApiDependencies) -> None:
        self._dependencies = dependencies
        self._service = dependencies.service
        self._n_shadow_tasks = 0

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""
        router.add_api_route("/recommend", self.recommend, methods=["POST"], response_model=schemas.RecommendResponse)
        router.add_api_route(
            "/recommend/batch", self.recommend_batch, methods=["POST"], response_model=schemas.BatchResponse
        )
        router.add_api_route(
            "/explain", self.explain, methods=["POST"], response_model=schemas.Explanation, responses=NOT_FOUND
        )

    async def recommend(self, request: schemas.RecommendRequest, caller: Request) -> Response:
        """Recommend items for one user or history."""
        (response,) = await self._recommend([request], "", caller)
        return Response(response.text, media_type="application/json")

    async def recommend_batch(self, batch: schemas.BatchRequest, caller: Request) -> Response:
        """Answer several recommendation requests at once."""
        limit = self._service.settings.max_batch_requests
        if len(batch.requests) > limit:
            raise invalid_field("requests", f"got {len(batch.requests)}, expected at most {limit}")
        responses = await self._recommend(batch.requests, "requests", caller)
        texts = ",".join(response.text for response in responses)
        return Response(f'{{"responses":[{texts}]}}', media_type="application/json")

    async def explain(self, request: schemas.ExplainRequest, caller: Request) -> Response:
        """Explain why an item is recommended, or why it is not."""
        default_ms = EXPLAIN_DEADLINES * self._service.settings.deadline_ms
        deadline = caller.state.arrival + (request.deadline_ms or default_ms) / 1000
        self._dependencies.check_limits([request], "")
        await self._dependencies.refresh_items()
        assignment = None if request.model is not None else self._dependencies.experiments.assign(request.user)
        name = request.model if assignment is None else assignment.model
        model = await self._dependencies.find_model(name, caller, is_assigned=assignment is not None)
        codes, _ = model.catalog.encode([request.item])
        if not len(codes):
            reason = "not in the catalog"
            raise ApiError(404, message=f"item: {reason}", fields={"item": reason})

        def job() -> Steps[schemas.Explanation]:
            try:
                schema = model.artifact.bundle.model.schema
                check_profile(model.artifact.bundle, request.profile)
                check_history_actions(schema, request.history)
                check_request_context(self._service.models.context_columns(schema), request)
                rules = compile_rules(request, self._service.settings.default_rules, model.catalog)
            except ValueError as error:
                field, _, reason = str(error).partition(": ")
                raise InvalidRequest(field, reason) from None
            prepared = self._service.query_builder.build(model.artifact, [request])
            yield
            explanation = yield from explain_in_steps(
                model.artifact.engine.model,
                prepared.queries,
                int(codes[0]),
                rules,
                request.k,
                request.include_seen,
                model.catalog,
                model.artifact.neighbors,
                model.info,
                model.artifact.streaming_model if model.artifact.supports_streaming else None,
                lambda: time.monotonic() > deadline,
            )
            unknown = merge_unknown(prepared.unknown[0], rules)
            trained = model.artifact.bundle
            notes = [*describe_request(trained.model, trained.key, request), *prepared.profile_notes[0]]
            notes += [*prepared.notes[0], *rules.notes, *explanation.notes]
            return explanation.model_copy(update={"unknown": unknown, "notes": notes})

        (result,) = await self._dependencies.submit([job], caller, is_expensive=True)
        if isinstance(result, StoreError):
            raise self._dependencies.store_unavailable("recent_events", result)
        if isinstance(result, InvalidRequest):
            raise invalid_field(result.field, result.reason)
        return json_response(unwrap(result))

    async def _recommend(
        self, requests: Sequence[schemas.RecommendRequest], field_name: str, caller: Request
    ) -> list[RenderedResponse]:
        """Answer requests.

        Args:
            field_name: field that holds the requests, for errors; empty for a single request.
            caller: the HTTP request.
        """
        settings = self._service.settings
        self._dependencies.check_limits(requests, field_name)
        may_read_histories = self._dependencies.may_read_histories(caller)
        if not may_read_histories:
            _check_include_seen(requests, field_name)
        assignments = [
            None if request.model is not None else self._dependencies.experiments.assign(request.user)
            for request in requests
        ]
        is_plain = len(requests) == 1 and not is_expensive(requests[0])
        jobs: list[PendingRequest] = []
        models: dict[tuple[str | None, bool], LoadedModel] = {}
        for row, (request, assignment) in enumerate(zip(requests, assignments, strict=True)):
            is_assigned = assignment is not None
            assigned = request if assignment is None else request.model_copy(update={"model": assignment.model})
            if (assigned.model, is_assigned) not in models:  # loaded here, so that the engine thread is not blocked
                where = f"{field_name}[{row}].model" if field_name else "model"
                found = await self._dependencies.find_model(assigned.model, caller, where, is_assigned=is_assigned)
                models[assigned.model, is_assigned] = found
            deadline = caller.state.arrival + (request.deadline_ms or settings.deadline_ms) / 1000
            model = models[assigned.model, is_assigned]
            hides_history = request.uses_stored_history and not may_read_histories
            jobs.append(
                PendingRequest(assigned, deadline, is_rendered=not is_plain, hides_history=hides_history, model=model)
            )
        results = await self._dependencies.submit(jobs, caller, is_expensive=not is_plain)
        responses: list[RenderedResponse] = []
        for row, result in enumerate(results):
            if isinstance(result, InvalidRequest):
                field = f"{field_name}[{row}].{result.field}" if field_name else result.field
                raise invalid_field(field, result.reason)
            response = unwrap(result)
            responses.append(response if jobs[row].is_rendered else RenderedResponse.from_response(response))
            self._dependencies.stats.record_source(responses[-1].source)
        shown = [
            (request, assignment, response.item_ids)
            for request, assignment, response in zip(requests, assignments, responses, strict=True)
            if assignment is not None
        ]
        if shown:
            self._start_experiment_tasks(shown)
        return responses

    def _start_experiment_tasks(self, shown: Sequence[Shown]) -> None:
        """Record exposures and run shadow models in the background, up to the limits."""
        now = int(time.time())
        self._dependencies.exposures.record(
            [
                Exposure(assignment.experiment, assignment.variant, str(request.user), now, tuple(items))
                for request, assignment, items in shown
            ]
        )
        has_shadow = any(assignment.shadow is not None for _, assignment, _ in shown)
        if self._n_shadow_tasks < MAX_SHADOW_TASKS and has_shadow:
            self._n_shadow_tasks += 1
            self._dependencies.spawn(self._run_shadows(shown))

    async def _run_shadows(self, shown: Sequence[Shown]) -> None:
        """Run shadow models and log how similar their lists are to those shown."""
        queue = self._dependencies.request_queue
        try:
            for request, assignment, items in shown:
                if assignment.shadow is not None and not self._dependencies.is_closing:
                    shadow_request = request.model_copy(update={"model": assignment.shadow})
                    pending = PendingRequest(shadow_request, time.monotonic() + 60, is_shadow=True)
                    (result,) = await queue.submit([pending], SHADOW_CLIENT, is_expensive=True)
                    overlap = rank_biased_overlap(items, [item.id for item in unwrap(result).items])
                    extra = {"experiment": assignment.experiment, "overlap": round(overlap, 4)}
                    logger.info("shadow", extra=extra)
        except Exception as error:
            self._service.metrics.record_error("shadow")
            logger.error("shadow model failed", extra={"traceback": format_traceback(error)})
        finally:
            self._n_shadow_tasks -= 1


class NoPredictions:
    """Route that refuses to predict the rows of a table."""

    def add_to(self, router: APIRouter) -> None:
        """Register the route."""
        router.add_api_route("/predict", self.predict, methods=["POST"], include_in_schema=False)

    async def predict(self) -> Response:
        """Answer that there is no click-through model."""
        raise ApiError(
            409,
            message="this service has recommenders only, which read no tables; use POST /v1/recommend, or serve a "
            "model that segue clicks train wrote",
        )


def _check_include_seen(requests: Sequence[schemas.RecommendRequest], field_name: str) -> None:
    """Check requests of a key without the scope ``read``: none may show a history.

    The difference between the lists with and without seen items is the user's history.

    Raises:
        ApiError: 403, a request does.
    """
    for row, request in enumerate(requests):
        if request.include_seen and request.uses_stored_history:
            name = f"{field_name}[{row}].include_seen" if field_name else "include_seen"
            reason = (
                "shows the history of the user, for which this API key lacks the scope read; leave it out, or send "
                "the history in the request"
            )
            raise ApiError(403, message=f"{name}: {reason}", fields={name: reason})


def is_expensive(request: schemas.RecommendRequest) -> bool:
    """Return whether a request may take much longer than one without rules.

    Rules that require reranking position by position are expensive, as is anything that exceeds the limits of a plain
    request.
    """
    if request.diversify or request.max_per_value or request.boosts or request.pins:
        return True
    return (
        request.k > MAX_PLAIN_K
        or len(request.history or ()) > MAX_PLAIN_HISTORY
        or len(request.filter) > MAX_PLAIN_CONDITIONS
        or len(request.allow or ()) + len(request.deny) > MAX_PLAIN_IDS
    )

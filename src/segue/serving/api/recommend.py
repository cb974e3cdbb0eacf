"""Routes of recommendations and explanations."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from fastapi import APIRouter, Response

from segue.serving import schemas
from segue.serving.api.dependencies import NOT_FOUND, ApiDependencies, invalid_field, json_response, unwrap
from segue.serving.errors import ApiError, format_traceback
from segue.serving.experiments.assignment import Assignment
from segue.serving.experiments.rank_biased_overlap import rank_biased_overlap
from segue.serving.explain.explain import explain
from segue.serving.rules.rerank import compile_rules
from segue.serving.service import InvalidRequest, Job, PendingRequest, merge_unknown
from segue.serving.stores.store import Exposure, StoreError
from segue.serving.users.event_actions import check_history_actions
from segue.serving.users.input_notes import describe_request
from segue.serving.users.user_features import coerce_user_features

__all__ = ["RecommendRoutes"]

RERANK_COST = 8
"""Cost of a request that needs reranking position by position, relative to a plain request."""

MAX_EXPOSURE_TASKS, MAX_SHADOW_TASKS = 1_000, 64
"""Maximum number of background tasks that record exposures, and that run shadow models."""

logger = logging.getLogger("segue.serving")

Shown: TypeAlias = tuple[schemas.RecommendRequest, Assignment, list[str]]
"""Request, its assignment, and the items shown."""


class RecommendRoutes:
    """Routes that use the models."""

    def __init__(self, dependencies: ApiDependencies) -> None:
        self._dependencies = dependencies
        self._service = dependencies.service
        self._n_exposure_tasks = self._n_shadow_tasks = 0

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""
        router.add_api_route("/recommend", self.recommend, methods=["POST"], response_model=schemas.RecommendResponse)
        router.add_api_route(
            "/recommend/batch", self.recommend_batch, methods=["POST"], response_model=schemas.BatchResponse
        )
        router.add_api_route(
            "/explain", self.explain, methods=["POST"], response_model=schemas.Explanation, responses=NOT_FOUND
        )

    async def recommend(self, request: schemas.RecommendRequest) -> Response:
        """Recommend items for one user or history."""
        (response,) = await self._recommend([request], "")
        return json_response(response)

    async def recommend_batch(self, batch: schemas.BatchRequest) -> Response:
        """Answer several recommendation requests at once."""
        limit = self._service.settings.max_batch_requests
        if len(batch.requests) > limit:
            raise invalid_field("requests", f"got {len(batch.requests)}, expected at most {limit}")
        responses = await self._recommend(batch.requests, "requests")
        return json_response(schemas.BatchResponse.model_construct(responses=responses))

    async def explain(self, request: schemas.ExplainRequest) -> Response:
        """Explain why an item is recommended, or why it is not."""
        self._dependencies.check_limits([request], "")
        assignment = None if request.model is not None else self._dependencies.experiments.assign(request.user)
        model = await self._dependencies.load_model(request.model if assignment is None else assignment.model)
        codes, _ = model.catalog.encode([request.item])
        if not len(codes):
            reason = "not in the catalog"
            raise ApiError(404, message=f"item: {reason}", fields={"item": reason})

        def job() -> schemas.Explanation:
            try:
                schema = model.artifact.bundle.model.schema
                coerce_user_features(schema.user_features, request.profile)
                check_history_actions(schema, request.history)
                rules = compile_rules(request, self._service.settings.default_rules, model.catalog)
            except ValueError as error:
                field, _, reason = str(error).partition(": ")
                raise InvalidRequest(field, reason) from None
            prepared = self._service.query_builder.build(model.artifact, [request])
            explanation: schemas.Explanation = explain(
                model.artifact.engine.model,
                prepared.queries,
                int(codes[0]),
                rules,
                request.k,
                request.include_seen,
                model.catalog,
                model.artifact.neighbors,
                model.info,
            )
            unknown = merge_unknown(prepared.unknown[0], rules)
            notes = [*describe_request(schema.user_features, request), *prepared.notes[0], *rules.notes]
            return explanation.model_copy(update={"unknown": unknown, "notes": notes})

        (result,) = await self._dependencies.submit([job])
        if isinstance(result, StoreError):
            raise self._dependencies.store_unavailable("recent_events", result)
        if isinstance(result, InvalidRequest):
            raise invalid_field(result.field, result.reason)
        return json_response(unwrap(result))

    async def _recommend(
        self, requests: Sequence[schemas.RecommendRequest], field_name: str
    ) -> list[schemas.RecommendResponse]:
        """Answer requests.

        Args:
            field_name: field that holds the requests, for errors; empty for a single request.
        """
        arrival, settings = time.monotonic(), self._service.settings
        self._dependencies.check_limits(requests, field_name)
        assignments = [
            None if request.model is not None else self._dependencies.experiments.assign(request.user)
            for request in requests
        ]
        jobs: list[PendingRequest] = []
        for request, assignment in zip(requests, assignments, strict=True):
            assigned = request if assignment is None else request.model_copy(update={"model": assignment.model})
            jobs.append(PendingRequest(assigned, arrival + (request.deadline_ms or settings.deadline_ms) / 1000))
        first_rows: dict[str | None, int] = {}
        for row, job in enumerate(jobs):
            first_rows.setdefault(job.request.model, row)
        for name, row in first_rows.items():  # loaded here, so that the engine thread is not blocked
            await self._dependencies.load_model(name, f"{field_name}[{row}].model" if field_name else "model")
        results = [
            result
            for chunk in _chunk_jobs(jobs, settings.max_batch_size)
            for result in await self._dependencies.submit(chunk)
        ]
        responses: list[schemas.RecommendResponse] = []
        for row, result in enumerate(results):
            if isinstance(result, InvalidRequest):
                field = f"{field_name}[{row}].{result.field}" if field_name else result.field
                raise invalid_field(field, result.reason)
            responses.append(unwrap(result))
            self._dependencies.stats.record_source(responses[-1].source)
        shown = [
            (request, assignment, [item.id for item in response.items])
            for request, assignment, response in zip(requests, assignments, responses, strict=True)
            if assignment is not None
        ]
        if shown:
            self._start_experiment_tasks(shown)
        return responses

    def _start_experiment_tasks(self, shown: Sequence[Shown]) -> None:
        """Record exposures and run shadow models in the background, up to the limits."""
        if self._n_exposure_tasks < MAX_EXPOSURE_TASKS:
            self._n_exposure_tasks += 1
            self._dependencies.spawn(self._record_exposures(shown))
        else:
            self._service.metrics.record_error("exposure")
            logger.error("exposures dropped: too many are waiting for the store")
        has_shadow = any(assignment.shadow is not None for _, assignment, _ in shown)
        if self._n_shadow_tasks < MAX_SHADOW_TASKS and has_shadow:
            self._n_shadow_tasks += 1
            self._dependencies.spawn(self._run_shadows(shown))

    async def _record_exposures(self, shown: Sequence[Shown]) -> None:
        now = int(time.time())
        exposures = [
            Exposure(assignment.experiment, assignment.variant, str(request.user), now, tuple(items))
            for request, assignment, items in shown
        ]
        try:
            await self._dependencies.exposure_queue.submit(exposures)
        except Exception as error:
            self._service.metrics.record_error("exposure")
            logger.error("exposures could not be recorded", extra={"traceback": format_traceback(error)})
        finally:
            self._n_exposure_tasks -= 1

    async def _run_shadows(self, shown: Sequence[Shown]) -> None:
        """Run shadow models and log how similar their lists are to those shown."""
        queue = self._dependencies.request_queue
        try:
            for request, assignment, items in shown:
                if assignment.shadow is not None and not self._dependencies.is_closing:
                    shadow_request = request.model_copy(update={"model": assignment.shadow})
                    pending = PendingRequest(shadow_request, time.monotonic() + 60, is_shadow=True)
                    (result,) = await queue.submit([pending])
                    overlap = rank_biased_overlap(items, [item.id for item in unwrap(result).items])
                    extra = {"experiment": assignment.experiment, "overlap": round(overlap, 4)}
                    logger.info("shadow", extra=extra)
        except Exception as error:
            self._service.metrics.record_error("shadow")
            logger.error("shadow model failed", extra={"traceback": format_traceback(error)})
        finally:
            self._n_shadow_tasks -= 1


def _chunk_jobs(jobs: Sequence[PendingRequest], max_cost: int) -> Iterator[list[Job]]:
    """Split jobs into chunks of limited cost.

    Other requests are answered between chunks.
    """
    chunk: list[Job] = []
    cost = 0
    for job in jobs:
        request = job.request
        needs_rerank = request.diversify or request.max_per_value or request.boosts or request.pins
        job_cost = RERANK_COST if needs_rerank else 1
        if chunk and cost + job_cost > max_cost:
            yield chunk
            chunk, cost = [], 0
        chunk.append(job)
        cost += job_cost
    if chunk:
        yield chunk

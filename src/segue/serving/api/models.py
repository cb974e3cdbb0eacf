"""Routes of the models, and live statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request, Response

from segue.serving import schemas
from segue.serving.api.dependencies import (
    CANNOT_LOAD,
    CONFLICT,
    NOT_FOUND,
    ApiDependencies,
    PathId,
    json_response,
    log_model_error,
)
from segue.serving.errors import ApiError
from segue.serving.model_registry import InsufficientMemory, LoadedModel
from segue.serving.users.event_actions import ANY_ACTION

__all__ = ["ModelRoutes"]

MAX_TEXT, MAX_METRICS = 300, 100
"""Maximum length of a text and number of metrics that are shown of a model; a manifest may contain any number."""

MAX_METRIC = 1e300
"""Metrics beyond this magnitude are omitted, because JSON cannot represent infinity."""


class ModelRoutes:
    """Routes that list, activate and roll back models, and show live statistics."""

    def __init__(self, dependencies: ApiDependencies) -> None:
        self._dependencies = dependencies
        self._service = dependencies.service

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""
        router.add_api_route("/models", self.models, methods=["GET"], response_model=schemas.ModelList)
        router.add_api_route(
            "/models/rollback", self.rollback, methods=["POST"], response_model=schemas.ModelList, responses=CONFLICT
        )
        router.add_api_route(
            "/models/{name:path}/activate",
            self.activate,
            methods=["POST"],
            response_model=schemas.ModelList,
            responses=NOT_FOUND | CONFLICT,
        )
        router.add_api_route("/stats", self.stats, methods=["GET"], response_model=schemas.LiveStats)

    async def models(self) -> Response:
        """List the available models."""
        return json_response(await asyncio.to_thread(self._list_models))

    async def activate(self, name: PathId, caller: Request) -> Response:
        """Activate a model; running requests finish with the model they started with."""
        registry = self._service.models
        if not await asyncio.to_thread(registry.has, name):
            raise ApiError(404, message="model not found")
        await self._sync_active()
        previous = registry.active.info.name
        model = await self._switch(name, lambda: registry.activate(name), caller)
        if previous != name:
            self._service.metrics.record_activation()
        self._record_active(model)
        return await self.models()

    async def rollback(self, caller: Request) -> Response:
        """Activate the previously active model."""
        await self._sync_active()
        previous = self._service.models.previous
        if previous is None:
            raise ApiError(409, message="there is no previously active model")
        model = await self._switch(previous, self._service.models.rollback, caller)
        self._service.metrics.record_activation(rollback=True)
        self._record_active(model)
        return await self.models()

    async def stats(self) -> Response:
        """Show statistics of the last minute."""
        dependencies = self._dependencies
        return json_response(dependencies.stats.snapshot(len(dependencies.request_queue), dependencies.limiter.in_use))

    def _record_active(self, model: LoadedModel) -> None:
        info = model.info
        self._service.metrics.set_model(info.name, info.key, info.version, True)

    async def _sync_active(self) -> None:
        """Adopt a model that another process has activated.

        If that model cannot be loaded here, another one may still be activated.
        """
        with suppress(ValueError):
            await self._dependencies.call_store("get_setting", self._service.models.sync_active)

    async def _switch(self, name: str, change: Callable[[], LoadedModel], caller: Request) -> LoadedModel:
        try:
            await self._dependencies.load_model(name)  # slow, and not a call of the store
            return await self._dependencies.call_store("put_setting", change)
        except InsufficientMemory as error:
            raise ApiError(409, message=f"{error}; the active model is unchanged") from None
        except ValueError as error:
            log_model_error(error, caller)
            raise ApiError(409, message=f"{CANNOT_LOAD}; the active model is unchanged") from None

    def _list_models(self) -> schemas.ModelList:
        registry = self._service.models
        models = []
        for model in registry.loaded():
            artifact, schema = model.artifact, model.artifact.bundle.model.schema
            fields: dict[str, Any] = {
                "active": model is registry.active,
                "loaded": True,
                "golden_queries": artifact.n_golden,
                "items": schema.n_items,
                "users": schema.n_users,
                "actions": [] if schema.actions == ANY_ACTION else list(schema.actions),
                "target": None if schema.target is None else schema.actions[schema.target],
                **_parse_metadata(artifact.metadata),
            }
            models.append(schemas.ModelStatus(**model.info.model_dump(), **fields))
        for name, manifest in registry.unloaded_manifests().items():
            info: dict[str, Any] = {"key": manifest.key, "version": manifest.version, "engine": manifest.engine}
            metadata = _parse_metadata(manifest.metadata)
            models.append(schemas.ModelStatus(name=name, active=False, loaded=False, **info, **metadata))
        return schemas.ModelList(models=models, previous=registry.previous)


def _parse_metadata(metadata: Any) -> dict[str, Any]:
    """Return the valid parts of an artifact's metadata, which may contain anything."""
    metadata = metadata if isinstance(metadata, Mapping) else {}
    names = {"trained": "trained_at", "data": "data"}
    texts = {field: value[:MAX_TEXT] for name, field in names.items() if isinstance(value := metadata.get(name), str)}
    metrics = metadata.get("metrics")
    pairs = metrics.items() if isinstance(metrics, Mapping) else ()
    numbers = {
        str(name)[:MAX_TEXT]: float(value)
        for name, value in islice(pairs, MAX_METRICS)
        if isinstance(value, int | float) and abs(value) < MAX_METRIC
    }
    return {**texts, "metrics": numbers}
